"""A file's size follows from the channels of its layers."""

import numpy as np
import pytest
import torch

from dlmo.data.dataset import Split
from dlmo.measure.size import FileSize
from dlmo.networks import build
from dlmo.runtimes.litert import quantize
from dlmo.runtimes.litert.convert import convert
from dlmo.runtimes.litert.flatbuffer import shorten_names
from dlmo.techniques.channel_pruning import Target, cut, file_layers
from dlmo.techniques.fake_quantization import fold_batch_norm

SHAPE = (16, 16, 3)
# Pre-activation: its loose BatchNorms are layers of their own.
NETWORK = "wide_resnet_10_1"
MAKE = {
    "float32": lambda content, images: content,
    "float16": lambda content, images: quantize.float16(content),
    "dynamic_int8": lambda content, images: quantize.dynamic_int8(content),
    "int8": quantize.static_int8,
}


@pytest.fixture(scope="module")
def networks():
    """A network and the same with half its channels, and both as the converter writes them."""
    images = Split(np.random.default_rng(0).integers(0, 256, (4, *SHAPE), np.uint8), np.arange(4), ("",) * 4)
    torch.manual_seed(0)
    original = build(NETWORK, classes=4, input_shape=SHAPE).eval()
    for parameter in original.parameters():
        if parameter.ndim == 1:  # equal biases, as no trained network has them, would be stored once
            torch.nn.init.normal_(parameter)
    smaller = cut(original, original, Target(0.5, None, "magnitude", "global", 8), images)
    return images.images, [(module, convert(fold_batch_norm(module), SHAPE)) for module in (original, smaller)]


@pytest.mark.parametrize("precision", MAKE)
def test_the_size_of_a_cut_network_is_foretold(precision, networks):
    images, ((original, content), (smaller, smaller_content)) = networks
    before, after = (shorten_names(MAKE[precision](each, images)) for each in (content, smaller_content))
    size = FileSize.of(before)

    def foretold(module) -> float:
        return size.rest + sum(size(shape) for _, shape in file_layers(module, SHAPE))

    assert foretold(original) == pytest.approx(len(before), abs=1)
    assert len(after) < 0.6 * len(before)
    assert foretold(smaller) == pytest.approx(len(after), rel=0.01)
