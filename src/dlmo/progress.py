"""What long work reports to, whoever shows it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

Update = Callable[[float], None]


class Progress(Protocol):
    """What long work reports to."""

    def total(self, expected_seconds: float | None, to_the_end: bool = False) -> AbstractContextManager[None]:
        """Around the whole work. expected_seconds: None where nobody knows; to_the_end: it takes these seconds, however
        long its stages are."""

    def stage(self, name: str, expected_seconds: float | None = None) -> AbstractContextManager[Update]:
        """Around one stage; yields update(share done, 0 to 1). expected_seconds: its part of the total."""

    def note(self, text: str) -> None:
        """A line that stays."""


class SilentProgress:
    """Says nothing; for the Python API."""

    @contextmanager
    def total(self, expected_seconds: float | None, to_the_end: bool = False) -> Iterator[None]:
        yield

    @contextmanager
    def stage(self, name: str, expected_seconds: float | None = None) -> Iterator[Update]:
        yield lambda share: None

    def note(self, text: str) -> None:
        pass


class WithinTotal:
    """One of several works that share a total, which whoever runs them all has opened."""

    def __init__(self, whole: Progress) -> None:
        self.stage, self.note = whole.stage, whole.note

    def total(self, expected_seconds: float | None, to_the_end: bool = False) -> AbstractContextManager[None]:
        return nullcontext()
