"""A training step recorded once, as a CUDA graph, and replayed: a GPU then waits for no kernel of it to be started."""

import functools
import warnings
from collections.abc import Callable, Hashable

import torch

from dlmo.training.device import Device

# Steps before the recording: cuDNN tries its kernels, momenta and memory pools come into being.
STEPS_BEFORE = 3
# A recording that failed is kept: the memory pool it was to fill may still point to it.
_failed: list[torch.cuda.CUDAGraph] = []


class Replay:
    """Runs a step again and again; on a GPU a recording of it, if the step never waits for the GPU.

    A step must read and write tensors that stay where they are, and do nothing in Python that has to happen each time.
    """

    def __init__(self, device: Device) -> None:
        self._gpu = device.name == "cuda"
        self._kind: Hashable = None
        self._done = 0
        self._waits = False
        self._recorded: torch.cuda.CUDAGraph | None = None

    def run(self, step: Callable[[], None], kind: Hashable) -> None:
        """kind: steps of another one are recorded anew."""
        if not self._gpu:
            step()
            return
        if kind != self._kind:
            if self._recorded is not None:
                _finish()  # before it is thrown away
            self._kind, self._done, self._recorded = kind, 0, None
        if self._recorded is not None:
            self._recorded.replay()
        elif self._done < STEPS_BEFORE:
            self._done += 1
            # The last one tells: a step that waits (for a number to decide by, say) cannot be recorded.
            self._waits = _waits(step)
        else:
            self._recorded = None if self._waits or _failed else _record(step)
            if self._recorded is None:
                step()
            else:
                self._recorded.replay()


def _finish() -> None:
    """Wait for what was replayed."""
    torch.cuda.current_stream().synchronize()


@functools.cache
def _stream() -> torch.cuda.Stream:
    """Where steps run before they are recorded, and are recorded: one for all, as each keeps memory for cuBLAS."""
    return torch.cuda.Stream()


def _waits(step: Callable[[], None]) -> bool:
    """Run a step as a recording will, on another stream; whether it waited for the GPU on the way."""
    before, stream, mode = torch.cuda.current_stream(), _stream(), torch.cuda.get_sync_debug_mode()
    stream.wait_stream(before)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with torch.cuda.stream(stream):
                step()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
            before.wait_stream(stream)
    return any("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def _record(step: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
    """Nothing of the step is done yet; None where it cannot be recorded. Other threads may use the GPU meanwhile."""
    graph = torch.cuda.CUDAGraph()
    try:
        # A recording that fails leaves its own stream the current one.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(graph, stream=_stream(), capture_error_mode="thread_local"),
        ):
            step()
    except RuntimeError:
        _failed.append(graph)
        return None
    return graph
