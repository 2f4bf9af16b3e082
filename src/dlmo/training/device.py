"""Where and in which number format to train."""

import ctypes
import os
import sys
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Device:
    """name: torch device. autocast: number format of convolutions and matrix products, None for float32."""

    name: str
    autocast: torch.dtype | None

    def describe(self) -> str:
        precision = "bfloat16" if self.autocast else "float32"
        return (
            f"{self.name} ({os.cpu_count()} threads), {precision}"
            if self.name == "cpu"
            else f"{self.name}, {precision}"
        )


def best_device() -> Device:
    """CUDA when present; bfloat16 where the hardware multiplies it (elsewhere it is emulated and slower)."""
    if torch.cuda.is_available():
        return Device("cuda", torch.bfloat16 if torch.cuda.is_bf16_supported() else None)
    return Device("cpu", torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else None)


def keep_freed_memory() -> None:
    """Let glibc keep freed tensors' memory instead of returning it to the kernel after every operator.

    Depthwise networks spend more time in page faults than in arithmetic without this
    (`python benchmarks/training.py --allocator` shows the ratio). No effect elsewhere than on glibc.
    """
    if sys.platform != "linux":
        return
    trim_threshold, mmap_max = -1, -4  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
