"""A training step recorded once, as a CUDA graph, and replayed: a GPU then waits for no kernel of it to be started."""

import warnings
from collections.abc import Callable, Hashable

import torch

from dlmo.training.device import Device

# Steps before the recording: cuDNN tries its kernels, momenta and memory pools come into being.
_STEPS_BEFORE = 3


class Replay:
    """Runs a step again and again; on a GPU a recording of it, if the step never waits for the GPU.

    A step must read and write tensors that stay where they are, and do nothing in Python that has to happen each time.
    """

    def __init__(self, device: Device) -> None:
        self._possible = device.name == "cuda"
        self._kind: Hashable = None
        self._done = 0
        self._recorded: torch.cuda.CUDAGraph | None = None

    def run(self, step: Callable[[], None], kind: Hashable) -> None:
        """kind: steps of another one are recorded anew."""
        if kind != self._kind:
            self._kind, self._done, self._recorded = kind, 0, None
        if self._recorded is not None:
            self._recorded.replay()
        elif not self._possible:
            step()
        elif self._done < _STEPS_BEFORE:
            self._done += 1
            # A step that waits (for a number to decide by, say) cannot be recorded.
            self._possible = not _waits(step) or self._done < _STEPS_BEFORE
        else:
            self._recorded = _record(step)
            self._recorded.replay()


def _waits(step: Callable[[], None]) -> bool:
    """Run a step as a recording will, on a stream of its own; whether it waited for the GPU on the way."""
    before, stream = torch.cuda.current_stream(), torch.cuda.Stream()
    stream.wait_stream(before)
    with warnings.catch_warnings(record=True) as caught, torch.cuda.stream(stream):
        warnings.simplefilter("always")
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    before.wait_stream(stream)
    return any("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def _record(step: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """Nothing of the step is done yet; other threads may use the GPU meanwhile."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    return graph
