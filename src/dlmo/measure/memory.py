"""Memory that running a file takes, measured in a process of its own.

At the top it imports numpy only, so that devices get this very file (see targets/ssh.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dlmo.runtimes.litert.interpreter import Runner


def measure_memory(content: bytes) -> int | None:
    """Growth in bytes of a process's peak memory by loading the file and running it (one thread).

    Includes what the runtime makes of the weights, not the interpreter library. None where the system does not
    tell (no /proc), or the file does not run.
    """
    from dlmo.errors import UserError
    from dlmo.measure.isolated import Child

    try:
        with Child("the file") as child:
            return child.call(load_and_run, content)
    except UserError:
        return None


def load_and_run(content: bytes, report: Callable[[float], None]) -> int | None:
    """In a fresh child: load a file, run it three times; the growth of the peak memory in bytes."""
    from dlmo.runtimes.litert.interpreter import Runner

    return run_three_times(lambda: Runner(content), report)[1]


def run_three_times(opened: Callable[[], Runner], report: Callable[[float], None]) -> tuple[Runner, int | None]:
    """Open a file, run it on black images; the runner, and how many bytes the peak memory of this process grew."""
    before = _peak()
    runner = opened()
    black = np.zeros(runner.input["shape"], runner.input["dtype"])
    for run in range(3):
        report(run / 3)
        runner.interpreter.set_tensor(runner.input["index"], black)
        runner.interpreter.invoke()
    after = _peak()
    return runner, None if before is None or after is None else after - before


def is_told() -> bool:
    """Whether this system tells what memory a process took."""
    return _peak() is not None


def _peak() -> int | None:
    """The largest memory this process has held so far, in bytes; None where the system does not tell."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        return None
