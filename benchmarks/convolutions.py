"""Training convolutions that torch's kernels for a CPU are slow at: dlmo's way against torch's own.

    python benchmarks/convolutions.py [--batch 128] [--rounds 3]

Both compute the same layer forward and backward, in the number format dlmo trains in here, taking turns in one process;
ratios are of the best round of each.
"""

import argparse
import contextlib
import os
import time

import torch
from torch import nn

from dlmo.measure.machine import machine
from dlmo.training import device
from dlmo.training.convolutions import quick_convolutions

# Channels, side of the map, of the kernel, stride, depthwise: what MobileNets and ResNet-50 have in their last stages.
LAYERS = [
    (512, 2, 3, 1, True),
    (512, 2, 3, 2, True),
    (1024, 1, 3, 1, True),
    (240, 4, 5, 1, True),
    (672, 2, 5, 1, True),
    (960, 1, 5, 1, True),
    (512, 1, 3, 1, False),
    (512, 2, 3, 2, False),
    (2048, 1, 1, 1, False),
    # These differ in bfloat16 alone.
    (144, 16, 3, 2, True),
    (96, 16, 5, 1, True),
    (96, 16, 3, 1, True),
    (576, 4, 3, 2, True),
    (256, 2, 3, 1, False),
    (256, 4, 3, 2, False),
    (1024, 2, 1, 1, False),
]
SECONDS = 0.3  # of a round


def seconds_per_step(layer: nn.Conv2d, images: torch.Tensor, number_format: torch.dtype | None, quick: bool) -> float:
    """Forward and backward, weights' gradient and images' gradient."""
    steps, begun = 0, time.monotonic()
    while time.monotonic() - begun < SECONDS:
        autocast = torch.autocast("cpu", number_format, enabled=number_format is not None)
        with autocast, quick_convolutions(layer) if quick else contextlib.nullcontext():
            outputs = layer(images)
        torch.autograd.grad(outputs.sum(), [images, layer.weight])
        steps += 1
    return (time.monotonic() - begun) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    chosen = device.best_device()
    device.prepare(chosen)
    facts = machine()
    print(f"{facts['cpu']}, {os.cpu_count()} cores, {facts['instructions']}; batch {arguments.batch}, "
          f"{chosen.describe()}, best of {arguments.rounds} rounds")  # fmt: skip
    print("channels  map  kernel  stride  depthwise  torch ms  dlmo ms  ratio")
    for channels, side, kernel, stride, depthwise in LAYERS:
        groups = channels if depthwise else 1
        layer = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        images = torch.randn(arguments.batch, channels, side, side).to(memory_format=torch.channels_last)
        layer, images = layer.to(memory_format=torch.channels_last), images.requires_grad_()
        rounds = [
            [seconds_per_step(layer, images, chosen.autocast, quick) for quick in (False, True)]
            for _ in range(arguments.rounds)
        ]
        theirs, ours = (1000 * min(column) for column in zip(*rounds))
        print(f"{channels:8}  {side}x{side}  {kernel}x{kernel}     {stride:6}  {'yes' if depthwise else 'no':9}  "
              f"{theirs:8.2f}  {ours:7.2f}  {theirs / ours:4.1f}x")  # fmt: skip


if __name__ == "__main__":
    main()
