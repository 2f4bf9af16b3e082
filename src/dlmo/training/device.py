"""Where and in which number format to train."""

import ctypes
import platform
import sys
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Device:
    """name: torch device. autocast: number format of convolutions and matrix products, None for float32."""

    name: str
    autocast: torch.dtype | None

    def describe(self) -> str:
        precision = "bfloat16" if self.autocast else "float32"
        count = torch.get_num_threads()
        threads = "1 thread" if count == 1 else f"{count} threads"
        detail = threads if self.name == "cpu" else torch.cuda.get_device_name()
        return f"{self.name} ({detail}), {precision}"


def best_device() -> Device:
    """CUDA when present; bfloat16 where the hardware multiplies it (elsewhere it is emulated and slower)."""
    if torch.cuda.is_available():
        return Device("cuda", torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None)
    return Device("cpu", torch.bfloat16 if _multiplies_bfloat16() else None)


def _multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for it, and torch was built with the kernels that use them."""
    if not torch.backends.mkldnn.is_available():  # such as on macOS
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        # oneDNN itself says yes to any AVX-512, and then emulates it.
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def memory_format(network: nn.Module, device: Device) -> torch.memory_format:
    """channels_last, which is faster everywhere, unless it is unsafe.

    oneDNN's gradient of a strided 1x1 convolution over channels_last maps with fewer channels than a vector register
    holds floats writes past its buffer: crashes or wrong gradients (uxlfoundation/oneDNN issue 6035).
    """
    if device.name != "cpu":
        return torch.channels_last
    register = 16 if device.autocast is None and torch.backends.cpu.get_cpu_capability() == "AVX512" else 8
    unsafe = any(
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and max(layer.stride) > 1
        and layer.in_channels < register
        for layer in network.modules()
    )
    return torch.contiguous_format if unsafe else torch.channels_last


def prepare(device: Device) -> None:
    """What the whole process does once for faster training."""
    if device.name == "cpu":
        _keep_freed_memory()
    else:
        # All batches of a training have a few sizes, so trying cuDNN's kernels on each pays. Which one wins may
        # differ from run to run, and with it the last bits of the weights.
        torch.backends.cudnn.benchmark = True


def _keep_freed_memory() -> None:
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
