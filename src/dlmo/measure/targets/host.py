"""Target `cpu`: this machine, under LiteRT."""

import importlib.metadata
from collections.abc import Callable, Sequence

import numpy as np

from dlmo.errors import UserError
from dlmo.measure.targets import Measured
from dlmo.progress import Progress

# 8 s for 10,000 images: a small network on two cores, and what surrounds it.
_SECONDS_PER_IMAGE = 0.0008


class Host:
    name = "cpu"
    tells_latency = True
    tells_flash = False

    def __init__(self, rest: str = "") -> None:
        self._rest = rest

    def check(self) -> None:
        if self._rest:
            raise UserError(f'target "cpu:{self._rest}": "cpu" takes nothing more')

    def identity(self) -> dict:
        from dlmo.measure.machine import machine

        # Kernels differ between processors and versions by a rounding now and then, and in speed by more.
        return machine() | {"ai-edge-litert": importlib.metadata.version("ai-edge-litert")}

    def predict(self, content: bytes, images: np.ndarray, progress: Callable[[float], None]) -> np.ndarray:
        from dlmo.runtimes.litert.interpreter import predict

        return predict(content, images)

    def seconds_to_predict(self, images: int, macs: int) -> float:
        return images * _SECONDS_PER_IMAGE

    def measure(
        self, contents: Sequence[bytes], threads: int, progress: Progress, golden: np.ndarray
    ) -> list[Measured]:
        """Latency is measured last, all files in turns."""
        from dlmo.measure.latency import measure_latency
        from dlmo.measure.memory import measure_memory
        from dlmo.runtimes.litert.interpreter import Runner

        memory = []
        with progress.stage("measure memory") as update:
            for index, content in enumerate(contents):
                memory.append(measure_memory(content))
                update((index + 1) / len(contents))
        with progress.stage(f"measure latency, {threads} thread{'s' if threads > 1 else ''}") as update:
            latencies = measure_latency(contents, threads, update, open_file=Runner)
        found = []
        for content, ram, latency in zip(contents, memory, latencies):
            partitions, delegated = Runner(content).delegation()
            times = latency.p50_ms, latency.p90_ms, "measured"
            found.append(Measured(ram, "measured", *times, delegated, partitions))
        return found
