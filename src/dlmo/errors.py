"""The errors a user can cause. The command line prints them as one line, without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Wrong input: says what, where and what to do. Ends the command with exit code 2."""


class DeviceError(UserError):
    """A device that answers no more: what was to be measured there is not at fault, and may be tried again."""


class StoreError(UserError):
    """A store elsewhere that does not answer; what was to be read or written there may be tried again."""


# A full disk, a device or a store that is gone: whatever was tried at that moment is not at fault.
PASSING = (OSError, DeviceError, StoreError)


class BudgetError(Exception):
    """No result meets the budget. Ends the command with exit code 3, after the results were written.

    run: everything that was found, with the nearest candidates.
    """

    def __init__(self, run) -> None:
        super().__init__("no candidate meets the budget; nearest: " + (run.nearest[0] if run.nearest else "none"))
        self.run = run


def missing_extra(what: str, extra: str) -> UserError:
    """The error where an optional dependency is not installed, with the command that installs it."""
    return UserError(f"{what}: in dlmo's folder, pip install -c constraints.txt '.[{extra}]'")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The part of a message that names the known word nearest to a wrong one; empty where none is near."""
    original = {entry.lower(): entry for entry in known}
    close = difflib.get_close_matches(name.lower(), original, 1, 0.5)
    return f'; did you mean "{original[close[0]]}"?' if close else ""


def one_line(error: BaseException) -> str:
    """An error as one line: a user's error in full, of any other its kind and its first line."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
