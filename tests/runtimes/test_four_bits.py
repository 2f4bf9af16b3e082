import numpy as np
import pytest
import torch
from torch import nn

from dlmo.runtimes.litert import flatbuffer
from dlmo.runtimes.litert.convert import convert
from dlmo.runtimes.litert.four_bits import takes_four_bits
from dlmo.runtimes.litert.interpreter import Runner, predict
from dlmo.runtimes.litert.quantize import static_int8

SHAPE = (16, 16, 1)


@pytest.fixture(scope="module")
def content():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 1),
        nn.ReLU6(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32),
        nn.ReLU(),
        nn.Conv2d(32, 24, 1, stride=2),
        nn.ReLU(),
        nn.Conv2d(24, 9, 1),
        nn.Conv2d(9, 24, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    ]
    return convert(nn.Sequential(*layers).eval(), SHAPE)


def layers_of(content):
    """Name of the output by operator name, of what takes 4 bits."""
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    taking = [operator for operator in graph.operators if takes_four_bits(model, operator)]
    return [graph.tensors[int(operator.outputs[0])].name.decode() for operator in taking]


def test_dense_layers_and_plain_pointwise_convolutions_take_them(content):
    # Not: 3x3, depthwise, with a stride, an odd number of inputs (two weights share a byte).
    assert len(layers_of(content)) == 3


def test_pointwise_convolutions_become_dense_layers_in_one_partition(content, random_images):
    images = random_images(64)
    plain = static_int8(content, images)
    mixed = static_int8(content, images, exceptions=dict.fromkeys(layers_of(content), "int4"))
    assert Runner(mixed).delegation() == (1, 1.0)
    before, after = flatbuffer.facts(plain), flatbuffer.facts(mixed)
    assert after.operators["CONV_2D"] == before.operators["CONV_2D"] - 2
    assert (before.operators["FULLY_CONNECTED"], after.operators["FULLY_CONNECTED"]) == (1, 3)
    assert (after.parameters, after.macs) == (before.parameters, before.macs)
    saved = (16 * 32 + 24 * 9 + 24 * 10) / 2
    assert len(flatbuffer.shorten_names(mixed)) < len(flatbuffer.shorten_names(plain)) - saved + 400


def test_their_scores_are_those_of_rounded_weights(content, random_images):
    """The activation of the convolution is kept, and each channel's step: what differs is the rounding alone."""
    images = random_images(64)
    wanted = predict(content, images)
    noise = {}
    for form in ("int4", "float16"):
        made = static_int8(content, images, exceptions=dict.fromkeys(layers_of(content), form))
        noise[form] = np.square(predict(made, images) - wanted).sum() / np.square(wanted).sum()
    assert noise["float16"] < noise["int4"] < 0.2


def test_layers_in_float_stay_in_the_one_partition(content, random_images):
    images = random_images(64)
    names = layers_of(content)[:1]
    made = static_int8(content, images, exceptions=dict.fromkeys(names, "float16"))
    assert Runner(made).delegation() == (1, 1.0)
    assert flatbuffer.facts(made).float_operators == ("CONV_2D 1x16x16x32",)
    assert np.dtype(Runner(made).input["dtype"]) == np.int8


def test_layers_that_share_their_weights_become_dense_together(random_images):
    torch.manual_seed(0)
    first, second = nn.Conv2d(16, 16, 1, bias=False), nn.Conv2d(16, 16, 1, bias=False)
    second.weight = first.weight
    stem, images = nn.Conv2d(1, 16, 3, padding=1), random_images(16)
    network = nn.Sequential(stem, nn.ReLU(), first, nn.ReLU(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    content = shared(convert(network.eval(), SHAPE))
    made = static_int8(content, images, exceptions=dict.fromkeys(layers_of(content), "int4"))
    assert flatbuffer.facts(made).operators["FULLY_CONNECTED"] == 2
    before = predict(content, images)
    assert np.abs(predict(made, images) - before).max() < 0.3 * np.abs(before).max()


def shared(content):
    """The same file, where two operators read one tensor of weights, as its authors may have tied them."""
    model = flatbuffer.read(content)
    pointwise = [operator for operator in model.subgraphs[0].operators if takes_four_bits(model, operator)]
    assert len(pointwise) == 2
    pointwise[1].inputs[1] = pointwise[0].inputs[1]
    return flatbuffer.write(model)
