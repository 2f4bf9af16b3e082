"""Convolutions that are trained another way compute what torch's do."""

import itertools

import pytest
import torch
from torch import nn

from dlmo.training import convolutions
from dlmo.training.convolutions import product_of_patches, quick_convolutions, taps_met


@pytest.mark.parametrize("groups, outputs", [(1, 6), (6, 6), (2, 4), (6, 12)])
def test_outputs_and_gradients_are_those_of_torch(groups, outputs):
    compared = 0
    for side, stride, height, width in itertools.product((1, 3, 5, 7), (1, 2, 3), (1, 2, 3, 4, 6), (1, 2, 5)):
        for padding in {0, side // 2}:
            if min(height, width) + 2 * padding < side:
                continue
            torch.manual_seed(0)
            layer = nn.Conv2d(6, outputs, side, stride, padding, groups=groups).double()
            images = torch.randn(3, 6, height, width, dtype=torch.double, requires_grad=True)
            expected = layer(images)
            with quick_convolutions(layer):
                found = layer(images)
            torch.testing.assert_close(found, expected)
            back = torch.randn_like(expected)
            wanted = images, layer.weight, layer.bias
            torch.testing.assert_close(
                torch.autograd.grad(found, wanted, back), torch.autograd.grad(expected, wanted, back)
            )
            compared += 1
    assert compared > 150


@pytest.mark.parametrize(
    "channels, outputs, side, stride, groups, pixels",
    [
        (128, 8, 3, 1, 1, 4),
        (128, 8, 3, 2, 1, 7),
        (8, 16, 1, 1, 1, 8),
        (8, 16, 1, 2, 1, 8),
        (130, 8, 2, 2, 1, 2),
        (16, 16, 3, 2, 16, 8),
        (16, 16, 5, 2, 16, 9),
        (16, 16, 3, 2, 16, 2),
        (16, 16, 3, 1, 16, 8),
        (16, 16, 5, 1, 16, 8),
        (16, 16, 5, 1, 16, 3),
        (16, 16, 4, 1, 16, 8),
        (16, 32, 3, 2, 4, 8),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_in_bfloat16_outputs_and_gradients_are_those_of_float32_but_for_rounding(
    channels, outputs, side, stride, groups, pixels, bias
):
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, outputs, side, stride, side // 2, groups=groups, bias=bias)
    images = torch.randn(4, channels, pixels, pixels).to(memory_format=torch.channels_last).requires_grad_()
    expected = layer(images)
    with torch.autocast("cpu", torch.bfloat16), quick_convolutions(layer):
        found = layer(images)
    assert found.dtype == torch.bfloat16
    back, wanted = torch.randn_like(expected), [images, *layer.parameters()]
    pairs = zip(
        (found.float(), *torch.autograd.grad(found, wanted, back.to(found.dtype))),
        (expected, *torch.autograd.grad(expected, wanted, back)),
    )
    for ours, theirs in pairs:
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


@pytest.mark.parametrize(
    "layer, pixels, taken",
    [
        (nn.Conv2d(128, 8, 3, padding=1), 4, "product_of_patches"),
        (nn.Conv2d(128, 8, 3, padding=1), 8, None),
        (nn.Conv2d(64, 8, 3, padding=1), 4, None),
        (nn.Conv2d(16, 8, 1), 8, "product_of_patches"),
        (nn.Conv2d(16, 8, 1), 16, None),
    ],
)
def test_few_pixels_are_a_product_of_matrices_in_bfloat16(layer, pixels, taken, monkeypatch):
    called = []
    monkeypatch.setattr(convolutions, "product_of_patches", lambda *parts: called.append("product_of_patches"))
    with quick_convolutions(layer):
        layer(torch.randn(1, layer.in_channels, pixels, pixels))
        assert not called, "in float32"
        with torch.autocast("cpu", torch.bfloat16):
            layer(torch.randn(1, layer.in_channels, pixels, pixels))
    assert called == ([taken] if taken else [])


def test_patches_times_filters_are_a_convolution():
    torch.manual_seed(0)
    images, weight = torch.randn(2, 3, 5, 4), torch.randn(6, 3, 3, 2)
    found = product_of_patches(images, weight, None, 2, (1, 0), [3, 2])
    torch.testing.assert_close(found, nn.functional.conv2d(images, weight, None, 2, (1, 0)))


@pytest.mark.parametrize(
    ("side", "stride", "number_format"), [(3, 1, "bfloat16"), (5, 1, "float32"), (3, 2, "float32")]
)
def test_gradients_of_depthwise_weights_in_bfloat16(side, stride, number_format, monkeypatch):
    layer = nn.Conv2d(8, 8, side, stride, side // 2, groups=8, bias=False)
    images, asked = torch.randn(2, 8, 8, 8, requires_grad=True), []
    backward = torch.ops.aten.convolution_backward

    def spy(gradient, *others):
        asked.append((str(gradient.dtype), others[-1]))
        return backward(gradient, *others)

    monkeypatch.setattr(torch.ops.aten, "convolution_backward", spy)
    with torch.autocast("cpu", torch.bfloat16), quick_convolutions(layer):
        torch.autograd.grad(layer(images).float().sum(), [images, layer.weight])
    turned_around = stride == 1
    assert asked == [(f"torch.{number_format}", [not turned_around, True, False])]


def test_in_float32_small_maps_take_the_quick_ways(monkeypatch):
    """Taps that only meet padding are left out, depthwise weights get their gradient tap by tap, and a 1x1 convolution
    of one pixel is a product."""
    convolved, patched, by_taps = [], [], []
    plain, product, gradient = torch.nn.functional.conv2d, product_of_patches, convolutions.gradient_of_weight

    def spy_on(seen, function, told):
        return lambda *parts: seen.append(told(parts)) or function(*parts)

    monkeypatch.setattr(convolutions.F, "conv2d", spy_on(convolved, plain, lambda parts: tuple(parts[1].shape[2:])))
    monkeypatch.setattr(convolutions, "product_of_patches", spy_on(patched, product, lambda parts: parts[1].shape[0]))
    monkeypatch.setattr(
        convolutions, "gradient_of_weight", spy_on(by_taps, gradient, lambda parts: tuple(parts[2]))
    )  # fmt: skip
    dense, depthwise, pointwise = (
        nn.Conv2d(4, 8, 5, padding=2),
        nn.Conv2d(4, 4, 5, padding=2, groups=4),
        nn.Conv2d(4, 9, 1),
    )
    with quick_convolutions(nn.ModuleList([dense, depthwise, pointwise])):
        dense(torch.randn(2, 4, 2, 2))
        assert convolved.pop() == (3, 3), "of 5 x 5 taps those that a 2 x 2 map meets from its every pixel"
        depthwise(torch.randn(2, 4, 2, 2)).sum().backward()
        assert by_taps == [(3, 3)] and depthwise.weight.grad.shape == (4, 1, 5, 5)
        depthwise(torch.randn(2, 4, 8, 8)).sum().backward()
        assert by_taps == [(3, 3)], "a map larger than the kernel goes torch's way"
        pointwise(torch.randn(2, 4, 1, 1))
        pointwise(torch.randn(2, 4, 2, 2))
    assert patched == [9], "of one pixel alone"


def test_more_padding_than_a_kernel_reaches_in_bfloat16():
    layer = nn.Conv2d(8, 8, 2, padding=2, groups=8, bias=False)
    images = torch.randn(2, 8, 4, 4, requires_grad=True)
    (expected,) = torch.autograd.grad(layer(images).sum(), [images])
    with torch.autocast("cpu", torch.bfloat16), quick_convolutions(layer):
        (found,) = torch.autograd.grad(layer(images).float().sum(), [images])
    assert (found - expected).norm() < 0.01 * expected.norm()


def test_a_map_that_padding_makes_larger():
    layer, image = nn.Conv2d(4, 5, 1, padding=1), torch.randn(2, 4, 1, 1)
    expected = layer(image)
    with quick_convolutions(layer):
        torch.testing.assert_close(layer(image), expected)


@pytest.mark.parametrize(
    "pixels, side, stride, padding, met",
    [
        (1, 3, 1, 1, (1, 2)),  # the middle one alone
        (2, 3, 2, 1, (1, 3)),
        (2, 5, 1, 2, (1, 4)),
        (2, 3, 1, 1, (0, 3)),
        (4, 3, 2, 1, (0, 3)),
        (3, 3, 1, 0, (0, 3)),
        (1, 1, 2, 1, (0, 1)),  # meets none
    ],
)
def test_taps_that_meet_only_padding_are_known(pixels, side, stride, padding, met):
    assert taps_met(pixels, side, stride, padding) == met


def test_layers_are_as_before_afterwards():
    layer = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    with quick_convolutions(layer):
        assert "_conv_forward" in vars(layer)
    assert "_conv_forward" not in vars(layer)
