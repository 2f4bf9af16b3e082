"""Parameters, layers and multiply-accumulates, counted on the module itself."""

import itertools
from dataclasses import dataclass

import torch
from torch import nn

from dlmo.networks.shapes import LayerShape


@dataclass(frozen=True)
class Counts:
    """parameters: trainable numbers; macs: multiply-accumulates of convolutions and linear layers, one image"""

    parameters: int
    macs: int


def count_module(module: nn.Module, input_shape: tuple[int, int, int]) -> Counts:
    """Counts any module that takes N x C x H x W, on whatever device it lies; its state is left as it was."""
    macs = sum(shape.macs for _, shape in layers_of(module, input_shape))
    return Counts(parameters_of(module), macs)


def parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def layers_of(module: nn.Module, input_shape: tuple[int, int, int]) -> list[tuple[str, LayerShape]]:
    """Convolutions and linear layers by name, in the order they run; the module's state is left as it was."""
    found: list[tuple[str, LayerShape]] = []

    def listen(name: str, layer: nn.Module):
        return layer.register_forward_hook(
            lambda layer, inputs, output: found.append((name, _shape(layer, inputs[0], output)))
        )

    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [listen(name, layer) for name, layer in layers]
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
    return found


def _shape(layer: nn.Module, read: torch.Tensor, written: torch.Tensor) -> LayerShape:
    if isinstance(layer, nn.Linear):
        return LayerShape("linear", (1, 1), (1, 1), (1, 1), (1, 1), layer.in_features, layer.out_features)
    outputs, per_filter, *kernel = layer.weight.shape
    depthwise = 1 < layer.groups == layer.in_channels == layer.out_channels
    return LayerShape(
        "depthwise" if depthwise else "conv",
        tuple(kernel),
        layer.stride,
        tuple(read.shape[2:]),
        tuple(written.shape[2:]),
        per_filter * layer.groups,
        outputs,
        1 if depthwise else layer.groups,
    )
