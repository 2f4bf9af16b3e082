"""Convolutions whose maps are smaller than their kernels, trained without the work that such maps do not need.

The last stages of networks made for large images are there as soon as images are small, and kernels are not made for
them (`python benchmarks/small_maps.py`): taps that only ever meet padding are multiplied all the same, and oneDNN takes
many times as long for the gradient of a depthwise convolution's weights as its arithmetic needs. Everything here
computes the same but for rounding.
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn


@contextlib.contextmanager
def quick_on_small_maps(network: nn.Module) -> Iterator[None]:
    """Within it, `network` computes its convolutions that way where their maps are that small; on a CPU."""
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d) and _plain(module)]
    for layer in layers:
        layer._conv_forward = _forward_of(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer._conv_forward


def _plain(layer: nn.Conv2d) -> bool:
    """Square in all it does, with zeros around."""
    return (
        not isinstance(layer.padding, str)
        and all(len(set(pair)) == 1 for pair in (layer.kernel_size, layer.stride, layer.padding))
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
    )


def _forward_of(layer: nn.Conv2d):
    """What replaces the layer's `_conv_forward`, which plain and fake-quantized convolutions both go through."""
    stride, padding, side, groups = layer.stride[0], layer.padding[0], layer.kernel_size[0], layer.groups
    depthwise = groups == layer.in_channels == layer.out_channels > 1

    def forward(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        height, width = inputs.shape[2:]
        if inputs.device.type != "cpu" or (min(height, width) >= side and max(height, width) > 1):
            return F.conv2d(inputs, weight, bias, stride, padding, 1, groups)
        top, bottom = taps_met(height, side, stride, padding)
        left, right = taps_met(width, side, stride, padding)
        weight, around = weight[:, :, top:bottom, left:right], (padding - top, padding - left)
        if inputs.shape[2:] == weight.shape[2:] == (1, 1) and around == (0, 0) and groups == 1:
            return F.linear(inputs.flatten(1), weight.flatten(1), bias)[:, :, None, None]
        if depthwise and torch.is_grad_enabled():
            if torch.is_autocast_enabled("cpu"):
                inputs, weight = (tensor.to(torch.get_autocast_dtype("cpu")) for tensor in (inputs, weight))
            outputs = _Depthwise.apply(inputs, weight, stride, around)
            return outputs if bias is None else outputs + bias[:, None, None]
        return F.conv2d(inputs, weight, bias, stride, around, 1, groups)

    return forward


def taps_met(pixels: int, side: int, stride: int, padding: int) -> tuple[int, int]:
    """The first tap along one axis of a kernel that ever meets one of so many pixels, and the one behind the last.

    All of them where leaving some out would ask for other padding before the map than behind it.
    """
    outputs = (pixels + 2 * padding - side) // stride + 1
    met = [tap for tap in range(side) if any(0 <= i * stride + tap - padding < pixels for i in range(outputs))]
    first, last = met[0], met[-1] + 1
    around = padding - first
    same = around >= 0 and (pixels + 2 * around - (last - first)) // stride + 1 == outputs
    return (first, last) if same else (0, side)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution: inputs N x C x H x W, weight C x 1 x K x K."""

    @staticmethod
    def forward(ctx, inputs: torch.Tensor, weight: torch.Tensor, stride: int, padding: tuple[int, int]) -> torch.Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(inputs, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        inputs, weight = ctx.saved_tensors
        of_inputs = of_weight = None
        if ctx.needs_input_grad[0]:
            of_inputs = torch.ops.aten.convolution_backward(
                gradient, inputs, weight, None, [ctx.stride] * 2, list(ctx.padding), [1, 1], False, [0, 0],
                len(weight), [True, False, False],
            )[0]  # fmt: skip
        if ctx.needs_input_grad[1]:
            of_weight = gradient_of_weight(inputs, gradient, weight.shape[2:], ctx.stride, ctx.padding)
        return of_inputs, of_weight, None, None


def gradient_of_weight(
    inputs: torch.Tensor, gradient: torch.Tensor, sides: tuple[int, int], stride: int, padding: tuple[int, int]
) -> torch.Tensor:
    """Of a depthwise convolution's inputs, N x C x H x W, and its outputs' gradient: C x 1 x `sides`, its kernel's."""
    pixels, back = inputs.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    found = inputs.new_zeros(inputs.shape[1], 1, *sides)
    for row in range(sides[0]):
        rows_in, rows_out = _meeting(row - padding[0], stride, pixels.shape[1], back.shape[1])
        for column in range(sides[1]):
            columns_in, columns_out = _meeting(column - padding[1], stride, pixels.shape[2], back.shape[2])
            met = pixels[:, rows_in, columns_in] * back[:, rows_out, columns_out]
            found[:, 0, row, column] = met.sum((0, 1, 2))
    return found


def _meeting(offset: int, stride: int, inputs: int, outputs: int) -> tuple[slice, slice]:
    """The input positions that a tap at `offset` of an output meets, and the outputs it meets them from."""
    first = max(0, -(offset // stride))
    last = min(outputs, (inputs - 1 - offset) // stride + 1)
    if last <= first:
        return slice(0, 0), slice(0, 0)
    return slice(first * stride + offset, (last - 1) * stride + offset + 1, stride), slice(first, last)
