"""Target `mcu`: TensorFlow Lite Micro, its real interpreter run on this machine."""

from collections.abc import Callable, Sequence

import numpy as np

from dlmo.errors import UserError
from dlmo.measure.targets import CannotRun, Measured
from dlmo.progress import Progress
from dlmo.runtimes.tflm import interpreter

# The reference kernels in one process per core, two cores; depthwise convolutions take more, others less.
_SECONDS_PER_MAC = 1e-9
_ARENA_SOURCE = "counted by TensorFlow Lite Micro on this 64-bit machine, with its reference kernels"


class Microcontroller:
    """Latency is not told: reference kernels on a desktop processor say nothing about a device's."""

    name = "mcu"
    tells_latency = False
    tells_flash = True

    def __init__(self, rest: str = "") -> None:
        self._rest = rest

    def check(self) -> None:
        if self._rest:
            raise UserError(f'target "mcu:{self._rest}": "mcu" takes nothing more')
        interpreter.version()

    def identity(self) -> dict:
        return {"tflite-micro": interpreter.version()}

    def predict(self, content: bytes, images: np.ndarray, progress: Callable[[float], None]) -> np.ndarray:
        return interpreter.predict(content, images, progress=progress)

    def seconds_to_predict(self, images: int, macs: int) -> float:
        return images * macs * _SECONDS_PER_MAC

    def measure(
        self, contents: Sequence[bytes], threads: int, progress: Progress, golden: np.ndarray
    ) -> list[Measured | CannotRun]:
        from dlmo.runtimes.tflm.flash import flash

        found = []
        with progress.stage("count arena bytes") as update:
            for index, content in enumerate(contents):
                try:
                    arena, stored = interpreter.arena(content), flash(content)
                except UserError as error:
                    found.append(CannotRun(str(error)))
                    continue
                found.append(
                    Measured(
                        ram_bytes=arena.total,
                        ram_source=_ARENA_SOURCE,
                        latency_ms=None,
                        latency_p90_ms=None,
                        latency_source="not measured: no device here",
                        delegated=0.0,
                        partitions=0,
                        arena_head=arena.head,
                        arena_persistent=arena.persistent,
                        flash_bytes=stored.total,
                        flash_source=stored.source,
                    )
                )
                update((index + 1) / len(contents))
        return found
