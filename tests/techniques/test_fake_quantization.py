import pytest
import torch
from torch import nn

from dlmo import networks
from dlmo.techniques.fake_quantization import (
    ActivationQuantizer,
    QuantizedConv2d,
    QuantizedLinear,
    exportable,
    fold_batch_norm,
    insert_fake_quantization,
)


def warmed(name="resnet8"):
    torch.manual_seed(0)
    model = networks.build(name, classes=4, input_shape=(16, 16, 3))
    model.train()
    for _ in range(4):
        model(torch.randn(16, 3, 16, 16))
    return model.eval()


@pytest.mark.parametrize("name", ["resnet8", "wide_resnet_10_1", "mobilenet_v2@0.35", "mobilenet_v3_small"])
def test_folding_computes_the_same_without_batch_norm(name):
    model = warmed(name)
    folded = fold_batch_norm(model)
    x = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(model(x), folded(x), atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d | nn.Dropout) for module in folded.modules())


class Flattening(nn.Module):
    """Computes with the sides of its maps, as torch code often does."""

    def __init__(self):
        super().__init__()
        self.layer, self.linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(64, 2)

    def forward(self, x):
        x = self.layer(x)
        return self.linear(x.view(x.size(0), x.size(1) * x.shape[2] * x.shape[3] + 0))


def test_numbers_are_not_rounded():
    network = insert_fake_quantization(Flattening())
    assert network(torch.randn(2, 3, 4, 4)).shape == (2, 2)
    rounded = [name for name, module in network.named_modules() if isinstance(module, ActivationQuantizer)]
    assert len(rounded) == 3, "input, map and logits"


class Unusual(nn.Module):
    """A convolution called twice, one with other padding than zeros, and a BatchNorm that scales nothing."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])
        self.reflected = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
        self.loose = nn.BatchNorm2d(4, affine=False)

    def forward(self, x):
        x = self.norms[1](self.twice(torch.relu(self.norms[0](self.twice(x)))))
        return self.loose(torch.relu(self.reflected(x))).mean((2, 3))


def test_unusual_layers_fold_and_quantize_to_the_same():
    torch.manual_seed(0)
    network = Unusual().train()
    for _ in range(4):
        network(torch.randn(16, 3, 8, 8))
    x, network = torch.rand(4, 3, 8, 8) * 2 - 1, network.eval()
    quantized = insert_fake_quantization(network).train()
    with torch.no_grad():
        assert torch.allclose(fold_batch_norm(network)(x), network(x), atol=1e-5)
        for _ in range(100):
            quantized(x)
        assert (quantized.eval()(x) - network(x)).abs().max() < 0.05


def test_an_emptied_filter_keeps_a_scale_that_its_bias_fits():
    conv = QuantizedConv2d(3, 2, 1)
    with torch.no_grad():
        conv.weight[0], conv.bias[0] = 0, 1.5
    conv.prepare_export()
    input_scale = 6 / 255
    assert abs(1.5 / (input_scale * float(conv.export_scale[0]))) < 2**31
    assert conv.export_scale[1] == conv.weight[1].detach().abs().max() / 127, "others are as they were"
    assert (conv.quantized_weight()[0] == 0).all()


def test_weights_lie_on_a_symmetric_grid_per_output_channel():
    torch.manual_seed(0)
    conv = QuantizedConv2d(3, 5, 3)
    quantized = conv.quantized_weight()
    scale = conv.weight.abs().flatten(1).amax(1) / 127
    steps = quantized / scale[:, None, None, None]
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert steps.abs().max() <= 127.001
    assert (quantized - conv.weight).abs().max() <= scale.max() / 2 + 1e-7


def test_gradients_pass_straight_through():
    layer = QuantizedLinear(3, 2)
    layer(torch.ones(1, 3)).sum().backward()
    assert torch.equal(layer.weight.grad, torch.ones(2, 3))


def test_activation_range_follows_training_and_is_fixed_in_evaluation():
    quantizer = ActivationQuantizer()
    quantizer.train()
    quantizer(torch.tensor([-1.0, 3.0]))
    assert float(quantizer.scale) == pytest.approx(4 / 255, rel=1e-4)
    quantizer.eval()
    assert quantizer(torch.tensor([10.0])).item() == pytest.approx(3, abs=4 / 255)


def test_the_input_is_the_raw_pixel():
    quantizer = ActivationQuantizer((-1.0, 127 / 128))
    assert float(quantizer.scale) == 1 / 128
    assert int(quantizer.zero_point) == 0
    pixels = (torch.arange(256) - 128) / 128
    assert torch.equal(quantizer(pixels), pixels)


def test_a_quantizer_stands_where_the_file_has_an_int8_tensor():
    graph = insert_fake_quantization(warmed())
    convolutions = sum(isinstance(m, QuantizedConv2d) for m in graph.modules())
    quantizers = sum(isinstance(m, ActivationQuantizer) for m in graph.modules())
    # input, each convolution (its ReLU fused) and linear layer, 3 additions (their ReLU fused), the pooling
    assert quantizers == 1 + convolutions + 1 + 3 + 1


def test_export_computes_what_was_trained():
    graph = insert_fake_quantization(warmed())
    graph.train()
    for _ in range(3):
        graph(torch.randn(8, 3, 16, 16).clamp(-1, 1))
    graph.eval()
    x = torch.randn(8, 3, 16, 16).clamp(-1, 1)
    with torch.no_grad():
        assert torch.allclose(graph(x), exportable(graph)(x), atol=1e-5)
