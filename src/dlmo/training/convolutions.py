"""Convolutions that oneDNN's kernels are slow at, trained another way; on a CPU.

The last stages of networks made for large images are there as soon as images are small, and kernels are not made for
them (`python benchmarks/convolutions.py`): taps that only ever meet padding are multiplied all the same, the gradient
of a depthwise convolution's weights takes many times as long as its arithmetic needs, and in bfloat16 so do dense
convolutions of few pixels and the gradients of a depthwise convolution that is strided or has a large kernel.
Everything here computes the same but for rounding. Which way is the faster one was found with torch 2.13.0: run the
benchmark again with another.
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

# In bfloat16 a product of matrices is faster than a 1x1 convolution where its map has at most so many pixels, and than
# one of larger kernels where its map has at most so many and it reads so many channels or more (Xeon with AMX).
_POINTWISE_PIXELS, _PATCH_PIXELS, _PATCH_CHANNELS = 64, 16, 128
# In bfloat16 the gradient of a depthwise convolution's weights takes several times as long as in float32 where its
# kernel has sides of so many or more.
_SLOW_SIDE = 5


@contextlib.contextmanager
def quick_convolutions(network: nn.Module) -> Iterator[None]:
    """Within it, `network` computes its convolutions the faster way."""
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
        reduced = torch.is_autocast_enabled("cpu")
        small = min(height, width) < side or max(height, width) == 1
        if inputs.device.type != "cpu" or not (small or reduced):
            return F.conv2d(inputs, weight, bias, stride, padding, 1, groups)
        around = padding, padding
        if small:
            top, bottom = taps_met(height, side, stride, padding)
            left, right = taps_met(width, side, stride, padding)
            weight, around = weight[:, :, top:bottom, left:right], (padding - top, padding - left)
        if reduced:
            inputs, weight = (tensor.to(torch.get_autocast_dtype("cpu")) for tensor in (inputs, weight))
        if depthwise and torch.is_grad_enabled() and (small or reduced):
            outputs = _Depthwise.apply(inputs, weight, stride, around, small)
            return outputs if bias is None else outputs + bias.to(outputs.dtype)[:, None, None]
        if groups == 1:
            pixels = [
                (count + 2 * before - taps) // stride + 1
                for count, before, taps in zip((height, width), around, weight.shape[2:])
            ]
            if _as_product(weight, pixels, around, reduced):
                return product_of_patches(inputs, weight, bias, stride, around, pixels)
        return F.conv2d(inputs, weight, bias, stride, around, 1, groups)

    return forward


def _as_product(weight: torch.Tensor, pixels: list[int], around: tuple[int, int], reduced: bool) -> bool:
    """Whether a dense convolution with so many rows and columns of outputs is computed as a product of matrices."""
    count, pointwise = pixels[0] * pixels[1], weight.shape[2:] == (1, 1) and around == (0, 0)
    if not reduced:
        return pointwise and count == 1
    if pointwise:
        return count <= _POINTWISE_PIXELS
    return count <= _PATCH_PIXELS and weight.shape[1] >= _PATCH_CHANNELS


def product_of_patches(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int,
    around: tuple[int, int],
    pixels: list[int],
) -> torch.Tensor:
    """A dense convolution as one product: what each output reads, as a row, times the filters.

    inputs: N x C x H x W. weight: out x C x K x L. around: rows and columns of zeros on each side. pixels: rows and
    columns of the outputs, N x out x rows x columns.
    """
    maps = inputs.permute(0, 2, 3, 1)
    if any(around):
        maps = F.pad(maps, (0, 0, around[1], around[1], around[0], around[0]))
    rows, columns = (range(0, stride * (count - 1) + 1, stride) for count in pixels)
    patches = [
        maps[:, row : row + rows.stop : stride, column : column + columns.stop : stride]
        for row in range(weight.shape[2])
        for column in range(weight.shape[3])
    ]
    read = patches[0] if len(patches) == 1 else torch.cat(patches, 3)
    return F.linear(read, weight.permute(0, 2, 3, 1).flatten(1), bias).permute(0, 3, 1, 2)


def taps_met(pixels: int, side: int, stride: int, padding: int) -> tuple[int, int]:
    """The first tap along one axis of a kernel that ever meets one of so many pixels, and the one behind the last.

    All of them where leaving some out would ask for other padding before the map than behind it.
    """
    outputs = (pixels + 2 * padding - side) // stride + 1
    met = [tap for tap in range(side) if any(0 <= i * stride + tap - padding < pixels for i in range(outputs))]
    if not met:
        return 0, side
    first, last = met[0], met[-1] + 1
    around = padding - first
    same = around >= 0 and (pixels + 2 * around - (last - first)) // stride + 1 == outputs
    return (first, last) if same else (0, side)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution: inputs N x C x H x W, weight C x 1 x K x L.

    by_taps: sum the gradient of the weights tap by tap.
    """

    @staticmethod
    def forward(
        ctx, inputs: torch.Tensor, weight: torch.Tensor, stride: int, padding: tuple[int, int], by_taps: bool
    ) -> torch.Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.stride, ctx.padding, ctx.by_taps = stride, padding, by_taps
        return F.conv2d(inputs, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None, None]:
        inputs, weight = ctx.saved_tensors
        of_inputs = of_weight = None
        by_taps = ctx.by_taps and ctx.needs_input_grad[1]
        if by_taps:
            of_weight = gradient_of_weight(inputs, gradient, weight.shape[2:], ctx.stride, ctx.padding)
        reduced = inputs.dtype == torch.bfloat16
        around = [side - 1 - before for side, before in zip(weight.shape[2:], ctx.padding)]
        if reduced and ctx.stride == 1 and min(around) >= 0 and ctx.needs_input_grad[0]:
            # The same convolution with the kernel turned around: in bfloat16 twice as fast as the kernel made for it.
            of_inputs = F.conv2d(gradient, weight.flip(2, 3), None, 1, around, 1, len(weight))
        wanted = [ctx.needs_input_grad[0] and of_inputs is None, ctx.needs_input_grad[1] and not by_taps, False]
        if any(wanted):
            slow = ctx.stride > 1 or max(weight.shape[2:]) >= _SLOW_SIDE
            number_format = torch.float32 if reduced and slow else inputs.dtype
            found_of_inputs, found, _ = torch.ops.aten.convolution_backward(
                *(tensor.to(number_format) for tensor in (gradient, inputs, weight)), None, [ctx.stride] * 2,
                list(ctx.padding), [1, 1], False, [0, 0], len(weight), wanted,
            )  # fmt: skip
            of_inputs = of_inputs if found_of_inputs is None else found_of_inputs.to(inputs.dtype)
            of_weight = of_weight if found is None else found.to(weight.dtype)
        return of_inputs, of_weight, None, None, None


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
