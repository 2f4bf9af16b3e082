"""Ending a process that has stopped doing what it is waited for."""

import contextlib
import subprocess
import threading
from collections.abc import Iterator


class Watchdog:
    """Kills a process when something it is waited for takes longer than the patience.

    patience: seconds. barked: whether it had to.
    """

    def __init__(self, process: subprocess.Popen, patience: float) -> None:
        self._process, self._patience = process, patience
        self.barked = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Around one wait."""
        timer = threading.Timer(self._patience, self._kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _kill(self) -> None:
        self.barked = True
        self._process.kill()
