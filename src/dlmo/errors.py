"""The errors a user can cause. The command line prints them as one line, without a traceback."""


class UserError(Exception):
    """Wrong input: says what, where and what to do. Ends the command with exit code 2."""


class BudgetError(Exception):
    """No result meets the budget. Ends the command with exit code 3, after the results were written.

    run: everything that was found, with the nearest candidates.
    """

    def __init__(self, run) -> None:
        super().__init__("no candidate meets the budget; nearest: " + (run.nearest[0] if run.nearest else "none"))
        self.run = run


def one_line(error: BaseException) -> str:
    """An error as one line: a user's error in full, of any other its kind and its first line."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
