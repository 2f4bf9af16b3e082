import numpy as np
import pytest
import torch
from torch import nn

from dlmo.measure.sensitivity import rounded, sensitivities
from dlmo.runtimes.litert import flatbuffer
from dlmo.runtimes.litert.convert import convert


@pytest.fixture(scope="module")
def content():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 16, 1), nn.ReLU()]
    return convert(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)).eval(), (16, 16, 1))


def test_rounding_leaves_as_many_values_as_4_bits_tell():
    weights = np.random.default_rng(0).normal(size=(5, 3, 3, 4)).astype(np.float32)
    weights[2] = 0
    coarse = rounded(weights)
    assert all(len(np.unique(channel)) <= 15 for channel in coarse)
    step = np.abs(weights).reshape(5, -1).max(1) / 7
    assert (np.abs(coarse - weights).reshape(5, -1).max(1) <= step / 2 + 1e-6).all()


def test_layers_that_take_4_bits_are_told_in_order(content, random_images):
    found = sensitivities(content, random_images(16))
    assert [layer.weights for layer in found] == [16 * 8, 16 * 4]  # neither the 3x3 nor the depthwise convolution
    assert len({layer.layer for layer in found}) == 2
    assert all(0 < layer.noise < 1 for layer in found)


def test_weights_that_4_bits_tell_bring_no_noise(content, random_images):
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    dense = next(each for each in graph.operators if flatbuffer.operator_name(model, each) == "FULLY_CONNECTED")
    tensor = graph.tensors[int(dense.inputs[1])]
    exact = rounded(flatbuffer.constant(model, tensor))
    model.buffers[tensor.buffer].data = np.frombuffer(exact.tobytes(), np.uint8)
    pointwise, last = sensitivities(flatbuffer.write(model), random_images(16))
    assert last.noise < 1e-9 < pointwise.noise
