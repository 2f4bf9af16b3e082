"""Cutting channels: every family becomes a valid smaller network, and comes back from shapes and weights alone."""

import numpy as np
import pytest
import torch
from torch import nn

from dlmo.data.dataset import Split
from dlmo.errors import UserError
from dlmo.networks import build
from dlmo.networks.counting import count_module
from dlmo.networks.shapes import LayerShape
from dlmo.runtimes.litert.convert import convert
from dlmo.runtimes.litert.flatbuffer import facts
from dlmo.runtimes.litert.interpreter import Runner
from dlmo.techniques.channel_pruning import (
    CRITERIA,
    Limit,
    Target,
    cut,
    file_layers,
    shapes_of,
    total_cost,
    with_shapes,
)
from dlmo.techniques.fake_quantization import fold_batch_norm

SHAPE = (16, 16, 3)
HALF = Target(0.5, None, "magnitude", "global", 8)
FAMILIES = ("vgg", "resnet8", "resnet50@0.125", "wide_resnet_10_1", "mobilenet_v1@0.25", "mobilenet_v2@0.25",
            "mobilenet_v3_small@0.5")  # fmt: skip


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    return Split(random.integers(0, 256, (96, 16, 16, 3), np.uint8), np.arange(96) % 4, ("",) * 96)


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build(name, classes=4, input_shape=(16, 16, 3)).eval()


def weights(shape: LayerShape) -> float:
    return float(shape.weights)


def macs(module: nn.Module) -> int:
    return count_module(module, SHAPE).macs


def share_of_macs(original: nn.Module, share: float) -> Limit:
    whole = sum(shape.macs for _, shape in file_layers(original, SHAPE))
    return Limit("macs", share, "", lambda shape: shape.macs / whole)


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_becomes_a_smaller_network(name, images):
    original = network(name)
    smaller = cut(original, original, HALF, images)
    assert macs(smaller) < 0.5 * macs(original)
    assert smaller(torch.rand(2, 3, 16, 16)).shape == (2, 4)
    assert convolutions(smaller)[0].in_channels == 3
    assert shapes_of(original, network(name)) == {}, "the original is left as it was"


def test_half_the_channels_in_multiples_of_eight(images):
    original = network("resnet20")
    for scope in ("global", "layer"):
        smaller = cut(original, original, Target(0.5, None, "magnitude", scope, 8), images)
        widths = [layer.out_channels for layer in convolutions(smaller)]
        assert all(width % 8 == 0 for width in widths)
        assert sum(widths) == pytest.approx(0.5 * sum(c.out_channels for c in convolutions(original)), rel=0.1)


def test_narrow_layers_are_rounded_to_less(images):
    original = network("resnet8@0.25")  # 8, 8 and 16 channels
    smaller = cut(original, original, HALF, images)
    assert {layer.out_channels for layer in convolutions(smaller)} <= {4, 8}


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("share", [0.6, 0.25])
def test_a_share_of_the_macs(share, scope, images):
    original = network("mobilenet_v2@0.5")
    smaller = cut(original, original, Target(0.5, share_of_macs(original, share), "magnitude", scope, 8), images)
    # The same share of every layer, in multiples of 8: that comes in larger steps.
    closest = 0.85 if scope == "global" else 0.7
    assert closest * share < macs(smaller) / macs(original) <= share


@pytest.mark.parametrize("name", FAMILIES)
def test_the_cost_of_fewer_channels_is_known_before_the_cut(name, images):
    """`cut` stops where its own sum says that the limit is met; the network that was cut must cost just that."""
    original = network(name)
    limit = Limit("weights", 0.5 * total_cost(original, SHAPE, Limit("", 0, "", weights)), "", weights)
    smaller = cut(original, original, Target(0.5, limit, "magnitude", "global", 8), images)
    assert total_cost(smaller, SHAPE, limit) <= limit.most
    finer = cut(original, original, Target(0.5, limit, "magnitude", "global", 1), images)
    assert 0.97 * limit.most < total_cost(finer, SHAPE, limit) <= limit.most


def test_channels_go_where_they_cost_most(images):
    """Two limits of the same share: where one kind of layer is dear, more of its channels go."""
    original = network("resnet8")

    def kept(size: int) -> dict[tuple[int, int], int]:
        def cost(shape):
            return shape.macs * (20 if shape.size == (size, size) else 1)

        limit = Limit("", 0.5 * total_cost(original, SHAPE, Limit("", 0, "", cost)), "", cost)
        smaller = cut(original, original, Target(0.5, limit, "magnitude", "global", 1), images)
        return {shape.output: shape.outputs for _, shape in file_layers(smaller, SHAPE) if shape.kernel == (3, 3)}

    large_dear, small_dear = kept(16), kept(4)
    assert large_dear[16, 16] < small_dear[16, 16]
    assert large_dear[4, 4] > small_dear[4, 4]


def test_a_limit_that_is_met_already_cuts_nothing(images):
    original = network("resnet8")
    smaller = cut(original, original, Target(0.5, share_of_macs(original, 1.2), "magnitude", "global", 8), images)
    assert shapes_of(smaller, original) == {}


def test_a_limit_out_of_reach_is_named(images):
    original = network("resnet8")
    with pytest.raises(UserError, match="macs=0.001 is out of reach: with the fewest channels this network has 0."):
        cut(original, original, Target(0.5, share_of_macs(original, 0.001), "magnitude", "global", 8), images)


def test_rounds_go_towards_the_limit_in_equal_steps(images):
    original = network("resnet8")
    target = Target(0.5, share_of_macs(original, 0.4), "magnitude", "global", 1)
    first = cut(original, original, target, images, done=0.5)
    assert macs(first) / macs(original) == pytest.approx(0.7, abs=0.03)
    second = cut(first, original, target, images)
    assert macs(second) / macs(original) == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize("ratio", [0.125, 0.25, 0.5])
def test_rounds_cut_no_more_than_one_cut(ratio, images):
    original, target = network("resnet8"), Target(ratio, None, "magnitude", "layer", 8)
    smaller = original
    for number in (1, 2, 3):
        smaller = cut(smaller, original, target, images, done=number / 3)
    assert shapes_of(smaller, original) == shapes_of(cut(original, original, target, images), original) != {}


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_weakest_channels_go(criterion, images):
    """A channel that does nothing is worthless to every criterion."""
    original = network("resnet8")
    block = original.blocks[0]
    dead = [0, 3, 5]
    with torch.no_grad():
        for layer in (block.first.conv, block.first.norm):
            layer.weight[dead] = 0
        block.first.norm.bias[dead] = 0
        block.second.conv.weight[:, dead] = 0
    smaller = cut(original, original, Target(3 / 224, None, criterion, "global", 1), images)
    assert smaller.blocks[0].first.conv.out_channels == 13
    image = torch.rand(4, 3, 16, 16)
    assert torch.allclose(smaller(image), original(image), atol=1e-5)


def test_a_network_comes_back_from_shapes_and_weights(images):
    original = network("mobilenet_v3_small@0.5")
    smaller = cut(original, original, HALF, images)
    again = with_shapes(network("mobilenet_v3_small@0.5"), shapes_of(smaller, original))
    again.load_state_dict(smaller.state_dict())
    image = torch.rand(2, 3, 16, 16)
    assert torch.equal(again.eval()(image), smaller(image))
    assert macs(again) == macs(smaller)
    assert repr(again) == repr(smaller), "layers know their own widths"


@pytest.mark.parametrize("name", ["wide_resnet_10_1", "mobilenet_v2@0.25"])
def test_the_file_runs_in_one_part(name, images):
    original = network(name)
    smaller = cut(original, original, HALF, images)
    content = convert(fold_batch_norm(smaller), SHAPE)
    assert sum(shape.macs for _, shape in file_layers(smaller, SHAPE)) == facts(content).macs
    runner = Runner(content)
    assert runner.delegation() == (1, 1.0)
    with torch.inference_mode():
        wanted = smaller(torch.from_numpy((images.images[:4].astype(np.float32) - 128) / 128).permute(0, 3, 1, 2))
    assert np.allclose(runner.run(runner.prepare(images.images[:4])), wanted.numpy(), atol=1e-3)


class CountsItself(nn.Module):
    """Code that holds its number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.classifier = nn.Linear(16, 4)

    def forward(self, x):
        x = self.second(self.first(x).reshape(-1, 16, 16, 16))
        return self.classifier(x.mean((2, 3)))


def test_a_network_that_counts_on_its_width_is_refused(images):
    original = CountsItself().eval()
    with pytest.raises(UserError, match="prune_channels: the network's code"):
        cut(original, original, Target(0.4, None, "magnitude", "layer", 1), images)


def test_gradients_are_of_all_classes_where_images_are_sorted(images, monkeypatch):
    many = Split(np.zeros((1200, 16, 16, 3), np.uint8), np.arange(1200) // 300, ("",) * 1200)
    seen = []
    loss = torch.nn.functional.cross_entropy
    monkeypatch.setattr(
        torch.nn.functional,
        "cross_entropy",
        lambda logits, labels: seen.extend(labels.tolist()) or loss(logits, labels),
    )
    original = network("resnet8")
    cut(original, original, Target(0.25, None, "taylor", "global", 8), many)
    assert len(seen) == 512 and {seen.count(label) for label in range(4)} <= {127, 128, 129}
