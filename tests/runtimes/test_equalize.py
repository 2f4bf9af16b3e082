import numpy as np
import pytest
import torch
from torch import nn

from dlmo.runtimes.litert import flatbuffer
from dlmo.runtimes.litert.convert import convert
from dlmo.runtimes.litert.equalize import equalized
from dlmo.runtimes.litert.interpreter import predict

SHAPE = (16, 16, 1)


class Block(nn.Module):
    """A separable convolution, its last two layers beside a shortcut; channels differ by up to 10,000 times."""

    def __init__(self, activation: type[nn.Module], shortcut: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.activations = nn.ModuleList(activation() for _ in range(3))
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)
        self.shortcut = shortcut
        with torch.no_grad():
            scale = torch.logspace(-2, 2, 8)
            self.depthwise.weight.mul_(scale[:, None, None, None])
            self.pointwise.weight.div_(scale[None, :, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second, third = self.activations
        x = first(self.stem(x))
        y = third(self.pointwise(second(self.depthwise(x))))
        return self.head(torch.flatten(self.pool(x + y if self.shortcut else y), 1))


def file_of(activation: type[nn.Module], shortcut: bool = False) -> bytes:
    torch.manual_seed(0)
    return convert(Block(activation, shortcut).eval(), SHAPE)


def spans(content: bytes) -> dict[str, np.ndarray]:
    """The largest weight of each output channel of the convolutions, by operator."""
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    found = {}
    for operator in graph.operators:
        name = flatbuffer.operator_name(model, operator)
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            weights = np.abs(flatbuffer.constant(model, graph.tensors[operator.inputs[1]]))
            axes = (0, 1, 2) if name.startswith("DEPTH") else (1, 2, 3)
            found[graph.tensors[operator.outputs[0]].name.decode()] = weights.max(axes)
    return found


@pytest.mark.parametrize("shortcut", [False, True])
def test_channels_are_balanced_and_the_scores_stay(shortcut, random_images):
    content, images = file_of(nn.ReLU, shortcut), random_images(8)
    balanced = equalized(content)
    assert np.allclose(predict(balanced, images), predict(content, images), atol=1e-4)
    before, after = spans(content), spans(balanced)
    assert list(before) == list(after)  # the quantizer finds layers by these names
    depthwise = list(before)[1]
    assert before[depthwise].max() > 1000 * before[depthwise].min()
    assert after[depthwise].max() < 30 * after[depthwise].min()
    # What a shortcut reads has two readers, and cannot be scaled for one of them.
    assert np.array_equal(before[list(before)[0]], after[list(before)[0]]) == shortcut


def test_a_relu6_is_not_scaled():
    before = spans(content := file_of(nn.ReLU6))
    assert all(np.array_equal(span, after) for span, after in zip(before.values(), spans(equalized(content)).values()))


def test_a_file_without_pairs_is_left_as_it_is(random_images):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    content = convert(network.eval(), SHAPE)
    assert np.array_equal(predict(equalized(content), random_images(4)), predict(content, random_images(4)))
