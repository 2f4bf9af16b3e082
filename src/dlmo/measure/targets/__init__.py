"""Where a model shall run: what a target is asked, and the targets there are.

A target is named KIND or KIND:REST. A new one is one module with a class like those here and one line in TARGETS. Such
a module imports its runtime where it uses it: a machine that only trains has none, but plans for the target by name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from dlmo import kinds
from dlmo.progress import Progress


@dataclass(frozen=True)
class Measured:
    """What one file costs on a target; names and units as in study.results.Result, None for what nobody can tell."""

    ram_bytes: int | None
    ram_source: str
    latency_ms: float | None
    latency_p90_ms: float | None
    latency_source: str
    delegated: float
    partitions: int
    arena_head: int | None = None
    arena_persistent: int | None = None
    flash_bytes: int | None = None
    flash_source: str | None = None
    cycles: int | None = None
    latency_by_threads: dict[str, float] = field(default_factory=dict)
    accuracy_source: str = "measured"
    device: str = ""
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class CannotRun:
    """In place of what a file costs on a target: why that one refuses it."""

    reason: str


def shown(costs: Measured | CannotRun) -> Measured:
    """What a report of several targets tells of one that may refuse the file."""
    if isinstance(costs, Measured):
        return costs
    told = f"not measured: {costs.reason}"
    return Measured(None, told, None, None, told, 0.0, 0, accuracy_source=told, doubts=(costs.reason,))


class Target(Protocol):
    """What is asked of a target. Its class is made with the REST of its name, empty where there is none."""

    name: str
    tells_latency: bool
    tells_flash: bool

    def check(self) -> None:
        """Raise UserError where the target cannot be used: an unknown REST, a missing extra."""

    def identity(self) -> dict:
        """What scores depend on beside the file and the images (JSON), so that stored ones can be trusted."""

    def predict(self, content: bytes, images: np.ndarray, progress: Callable[[float], None]) -> np.ndarray:
        """Scores, float32 N x classes, of uint8 images N x H x W x C, as the target computes them."""

    def seconds_to_predict(self, images: int, macs: int) -> float:
        """What `predict` should take on this machine for a network of `macs` multiply-accumulates."""

    def measure(
        self, contents: Sequence[bytes], threads: int, progress: Progress, golden: np.ndarray
    ) -> list[Measured | CannotRun]:
        """Measure every file, with nothing else running. golden: a few images, uint8 N x H x W x C, for a target whose
        `predict` is not its own, to compare answers."""


# Kind: module and class, loaded when asked for.
TARGETS: dict[str, str] = {
    "cpu": "dlmo.measure.targets.host:Host",
    "mcu": "dlmo.measure.targets.microcontroller:Microcontroller",
    "npu": "dlmo.measure.targets.npu:Npu",
    "ssh": "dlmo.measure.targets.ssh:Ssh",
}


def find(name: str, *, ready: bool = True) -> Target:
    """The target of that name. Raises UserError if there is none or, if `ready` to use, something for it is missing."""
    target = kinds.make(name, TARGETS, f'target "{name}" is not available')
    if ready:
        target.check()
    return target
