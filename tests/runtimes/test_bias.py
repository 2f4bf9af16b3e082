import numpy as np
import pytest
import torch
from torch import nn

from dlmo.runtimes.litert import flatbuffer
from dlmo.runtimes.litert.bias import _shift, bias_corrected
from dlmo.runtimes.litert.convert import convert
from dlmo.runtimes.litert.interpreter import predict
from dlmo.runtimes.litert.quantize import weight_only_int8

SHAPE = (16, 16, 1)


class Rounded(nn.Module):
    """Two layers whose weights lie a little above steps of int8 and see inputs above zero: rounding shifts all."""

    def __init__(self, depthwise: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 1)
        self.layer = nn.Conv2d(8, 8, 3, groups=8 if depthwise else 1)
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            self.stem.weight.fill_(0.1)
            self.stem.bias.fill_(3.0)
            for weight in (self.layer.weight, self.head.weight):
                steps = torch.randint(-100, 100, weight.shape) + 0.4
                steps.flatten(1)[:, 0] = 127  # the largest fixes the step
                weight.copy_(steps / 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.layer(torch.relu(self.stem(x))))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("depthwise", [False, True])
def test_the_shift_that_rounding_brings_is_taken_off_the_biases(depthwise, random_images):
    torch.manual_seed(0)
    content, images = convert(Rounded(depthwise).eval(), SHAPE), random_images(16)
    exact = predict(content, images).mean(0)
    shifted = predict(weight_only_int8(content), images).mean(0) - exact
    corrected = predict(weight_only_int8(bias_corrected(content, images)), images).mean(0) - exact
    assert np.abs(shifted).max() > 0.002
    assert np.abs(corrected).max() < 0.1 * np.abs(shifted).max()


def test_layers_without_a_bias_of_their_own_are_corrected_each_for_itself(random_images):
    torch.manual_seed(0)
    network = Rounded(False)
    more = nn.Conv2d(8, 8, 3, bias=False)
    more.weight = nn.Parameter(network.layer.weight.detach().flip(0))
    network.layer.bias = None
    network.layer = nn.Sequential(network.layer, nn.ReLU(), more)
    content, images = convert(network.eval(), SHAPE), random_images(16)
    model = flatbuffer.read(content)
    biases = [int(o.inputs[2]) for o in model.subgraphs[0].operators if flatbuffer.operator_name(model, o) == "CONV_2D"]
    assert len(set(biases)) < len(biases), "the converter shares the tensor of zeros"
    exact = predict(content, images).mean(0)
    shifted = predict(weight_only_int8(content), images).mean(0) - exact
    corrected = predict(weight_only_int8(bias_corrected(content, images)), images).mean(0) - exact
    assert np.abs(corrected).max() < 0.1 * np.abs(shifted).max()


def test_only_biases_change(random_images):
    content = convert(Rounded(False).eval(), SHAPE)
    before, after = (flatbuffer.read(file) for file in (content, bias_corrected(content, random_images(4))))
    graphs = before.subgraphs[0], after.subgraphs[0]
    assert [tensor.name for tensor in graphs[0].tensors] == [tensor.name for tensor in graphs[1].tensors]
    biases = {
        int(o.inputs[2]) for o in graphs[0].operators if flatbuffer.operator_name(before, o) in flatbuffer.WEIGHTED
    }
    for index, (old, new) in enumerate(zip(*(graph.tensors for graph in graphs))):
        same = flatbuffer.buffer_bytes(before, old.buffer) == flatbuffer.buffer_bytes(after, new.buffer)
        assert same or index in biases


def test_a_grouped_layer_sees_the_means_of_its_own_inputs():
    generator = np.random.default_rng(0)
    weights, mean = generator.normal(size=(4, 3, 3, 2)).astype(np.float32), np.array([0.0, 0, 5, 7], np.float32)
    grouped = _shift(weights, mean, False)
    first, second = _shift(weights[:2], mean[:2], False), _shift(weights[2:], mean[2:], False)
    assert np.allclose(grouped, [*first, *second]) and np.allclose(first, 0) and np.abs(second).max() > 0.01
    dense = weights.reshape(4, 18)  # of a map of 9 places, 2 channels each
    assert np.allclose(_shift(dense, mean[2:], False), _shift(weights, mean[2:], False))
