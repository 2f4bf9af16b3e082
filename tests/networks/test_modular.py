"""A user's code as a graph of layers: whatever way it is written, techniques see every weight."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dlmo.networks.modular import modular
from dlmo.techniques.fake_quantization import QuantizedConv2d, QuantizedLinear, insert_fake_quantization
from dlmo.techniques.pruning import prunable_layers


class SamePadding(nn.Conv2d):
    def __init__(self, inputs, outputs, kernel, stride=1):
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class Standardized(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Written(nn.Module):
    """Layers of a derived class, of parameters and functions, and one under weight_norm; a blur; a second input."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = SamePadding(3, 16, 3), nn.BatchNorm2d(16)
        self.kernels = nn.Parameter(torch.randn(16, 8, 3, 3) / 8)
        self.shifts = nn.Parameter(torch.randn(16) / 8)
        self.register_buffer("blur", torch.full((16, 1, 2, 2), 0.25))
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 16, 3, padding=1))
        self.head = nn.Parameter(torch.randn(10, 16) / 4)

    def forward(self, x, mask=None, **options):
        x = F.silu(self.norm(self.stem(x)))
        x = F.conv2d(x, self.kernels, self.shifts, stride=2, padding=1, groups=2)
        x = F.conv2d(x, self.blur, groups=x.shape[1]).sigmoid()
        return F.linear(self.normed(x).mean((2, 3)), self.head)


@pytest.fixture
def written():
    torch.manual_seed(0)
    network = Written().train()
    for _ in range(4):
        network(torch.randn(8, 3, 16, 16))
    return network.eval()


def test_every_weight_is_in_a_layer(written):
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    graph = modular(written, x[:1])
    with torch.no_grad():
        assert torch.allclose(graph(x), written(x), atol=1e-5)
    assert [tuple(layer.weight.shape) for layer in prunable_layers(graph)] == [(16, 16, 3, 3)]
    dense = [layer for layer in graph.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert sorted(tuple(layer.weight.shape) for layer in dense) == sorted(
        [(16, 3, 3, 3), (16, 8, 3, 3), (16, 1, 2, 2), (16, 16, 3, 3), (10, 16)]
    )
    assert not next(layer for layer in dense if layer.weight.shape == (16, 1, 2, 2)).weight.requires_grad
    assert [node.name for node in graph.graph.nodes if node.op == "placeholder"] == ["x"]


def test_quantization_aware_training_reaches_all_of_them(written):
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    quantized = insert_fake_quantization(modular(written, x[:1]))
    layers = [type(module) for module in quantized.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert layers.count(QuantizedConv2d) == 4 and layers.count(QuantizedLinear) == 1 and len(layers) == 5
    assert not any(isinstance(module, nn.BatchNorm2d) for module in quantized.modules()), "it is folded"
    quantized.train()
    for _ in range(50):
        quantized(x)
    with torch.no_grad():
        assert torch.allclose(quantized.eval()(x), written(x), atol=0.1)


def test_weights_that_are_computed_are_named():
    network = nn.Sequential(Standardized(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with pytest.raises(ValueError, match="the weights of conv2d are computed"):
        modular(network, torch.zeros(1, 3, 8, 8))
