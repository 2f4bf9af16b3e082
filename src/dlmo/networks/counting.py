"""Parameters and multiply-accumulates, counted on the module itself."""

import itertools
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Counts:
    """parameters: trainable numbers; macs: multiply-accumulates of convolutions and linear layers, one image"""

    parameters: int
    macs: int


def count_module(module: nn.Module, input_shape: tuple[int, int, int]) -> Counts:
    """Counts any module that takes N x C x H x W, on whatever device it lies; its state is left as it was."""
    macs = 0

    def add(layer: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal macs
        positions = output.shape[2] * output.shape[3] if isinstance(layer, nn.Conv2d) else 1
        macs += layer.weight.numel() * positions

    hooks = [layer.register_forward_hook(add) for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    modes = [(layer, layer.training) for layer in module.modules()]
    height, width, channels = input_shape
    device = next(itertools.chain(module.parameters(), module.buffers())).device
    try:
        module.eval()
        with torch.no_grad():
            module(torch.zeros(1, channels, height, width, device=device))
    finally:
        for hook in hooks:
            hook.remove()
        for layer, mode in modes:
            layer.training = mode
    return Counts(sum(parameter.numel() for parameter in module.parameters()), macs)
