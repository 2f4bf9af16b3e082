"""Leaving out residual blocks: which are found, which go, and what is left."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dlmo.data.dataset import Split
from dlmo.errors import UserError
from dlmo.networks import build
from dlmo.networks.counting import count_module
from dlmo.networks.modular import modular
from dlmo.runtimes.litert.convert import convert
from dlmo.runtimes.litert.interpreter import Runner
from dlmo.techniques.block_pruning import Depth, blocks_of, leave_out, left_out_of, restored, without
from dlmo.techniques.channel_pruning import file_layers
from dlmo.techniques.fake_quantization import fold_batch_norm
from dlmo.training import checkpoint

SHAPE = (16, 16, 3)
# Residual blocks whose input and output have one shape, by the stages of each network.
FAMILIES = {
    "resnet20": [3, 2, 2],
    "resnet50@0.125": [2, 3, 5, 2],
    "wide_resnet_16_1": [2, 1, 1],
    "mobilenet_v2@0.25": [3, 2, 3, 2, 2],
    "mobilenet_v3_small@0.5": [1, 1, 4, 2],
    "compact_wide@0.5": [1, 3],
}


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    return Split(random.integers(0, 256, (32, *SHAPE), np.uint8), np.arange(32) % 4, ("",) * 32)


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    module = build(name, classes=4, input_shape=SHAPE)
    with torch.no_grad():  # else branches begin at nothing, and leaving them out changes nothing
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    return module.eval()


def stages(module: nn.Module) -> list[int]:
    return list(Counter(block.stage for block in blocks_of(module, SHAPE)).values())


def macs(module: nn.Module) -> int:
    return count_module(module, SHAPE).macs


def scores(module: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return module.eval()(torch.rand((2, 3, 16, 16), generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_blocks_of_every_family(name):
    assert stages(network(name)) == FAMILIES[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_block_left_out_is_one_whose_branch_is_zero(name, images):
    original = network(name)
    smaller = leave_out(original, original, Depth(1.0, None), images)
    assert blocks_of(smaller, SHAPE) == []
    assert scores(smaller).shape == (2, 4) and macs(smaller) < macs(original)
    silenced = copy.deepcopy(original)
    for block in blocks_of(original, SHAPE):
        for layer in block.layers:
            module = silenced.get_submodule(layer)
            for tensor in (*module.parameters(), *[b for n, b in module.named_buffers() if n == "running_mean"]):
                nn.init.zeros_(tensor)
    assert torch.allclose(scores(smaller), scores(silenced), atol=1e-5)
    assert not torch.allclose(scores(smaller), scores(original), atol=1e-3)
    assert set(smaller.state_dict()) < set(original.state_dict())
    assert blocks_of(original, SHAPE) == blocks_of(network(name), SHAPE), "the original is left as it was"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_stage_loses_its_share(name, images):
    original = network(name)
    smaller = leave_out(original, original, Depth(0.5, None), images)
    kept = Counter(block.stage for block in blocks_of(smaller, SHAPE))
    assert sum(kept.values()) == sum(FAMILIES[name]) - round(0.5 * sum(FAMILIES[name]))
    for stage, count in Counter(block.stage for block in blocks_of(original, SHAPE)).items():
        assert abs(kept[stage] - count / 2) <= 1


def test_a_share_of_the_macs(images):
    original = network("resnet20")
    smaller = leave_out(original, original, Depth(0.5, 0.6), images)
    whole = sum(shape.macs for _, shape in file_layers(original, SHAPE))
    left = sum(shape.macs for _, shape in file_layers(smaller, SHAPE))
    assert 0.5 < left / whole <= 0.6


def test_a_share_out_of_reach_is_named(images):
    original = network("resnet20")
    with pytest.raises(UserError, match=r"macs=0\.01 is out of reach: without any of its 7 .* has 0\.191 of its mult"):
        leave_out(original, original, Depth(0.5, 0.01), images)


def test_rounds_end_where_one_cut_does(images):
    original = network("resnet20")
    for depth in (Depth(0.7, None), Depth(0.5, 0.5)):
        stepwise = original
        for done in (1 / 3, 2 / 3, 1.0):
            stepwise = leave_out(stepwise, original, depth, images, done)
        assert stages(stepwise) == stages(leave_out(original, original, depth, images))


def test_a_block_that_does_nothing_goes_first(images):
    torch.manual_seed(0)
    original = build("resnet20", classes=4, input_shape=SHAPE).eval()
    idle = blocks_of(original, SHAPE)[-1]
    with torch.no_grad():
        original.classifier.weight.mul_(1000)  # sure of its answers: whatever changes them costs
        for name, parameter in original.named_parameters():
            if name.endswith("second.norm.weight"):
                parameter.fill_(1.0)
        for layer in idle.layers:
            for tensor in original.get_submodule(layer).parameters():
                tensor.zero_()
    inputs = (torch.from_numpy(images.images.astype(np.float32)) - 128) / 128
    with torch.inference_mode():
        answers = original(inputs.permute(0, 3, 1, 2)).argmax(1).numpy()
    own = Split(images.images, answers, images.names)
    assert left_out_of(leave_out(original, original, Depth(0.15, None), own), original, SHAPE) == [idle.name]


def test_a_network_without_residual_blocks_is_refused(images):
    original = network("vgg")
    with pytest.raises(UserError, match="no residual block that could be left out"):
        leave_out(original, original, Depth(0.5, None), images)


class Own(nn.Module):
    """The sums in the network's own code, an in-place one too; a branch whose inside is used elsewhere stays."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.second = nn.Conv2d(8, 8, 1)
        self.watched = nn.Conv2d(8, 8, 1)
        self.classifier = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        x = F.relu(self.first(x) + x)
        x += self.second(x)
        seen = self.watched(x)
        x = x + seen
        return self.classifier((x * seen).mean((2, 3)))


def test_sums_in_a_users_own_code(images):
    torch.manual_seed(0)
    original = modular(Own().eval(), torch.zeros(1, 3, 16, 16))
    assert [block.name for block in blocks_of(original, SHAPE)] == ["first.0", "second"]
    smaller = without(original, ["first.0"], SHAPE)
    assert [block.name for block in blocks_of(smaller, SHAPE)] == ["second"]
    assert scores(smaller).shape == (2, 4)


class Sums(nn.Module):
    """Blocks as people write them, one way each."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(6))
        self.scales = nn.ParameterList(nn.Parameter(torch.full((1,), 0.5)) for _ in range(6))
        self.down = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.classifier = nn.Linear(8, 4)

    def forward(self, x):
        x, lateral = self.stem(x), 0
        if self.how == "scaled":
            for conv, scale in zip(self.convs, self.scales):
                x = x + scale * F.gelu(conv(x))
        elif self.how == "three terms":
            for first, second in zip(self.convs[::2], self.convs[1::2]):
                x = x + first(x) + second(x)
        elif self.how == "nested":
            for outer, inner in zip(self.convs[::2], self.convs[1::2]):
                x = x + outer(x + inner(x))
        elif self.how == "nested in a block that shrinks":
            x = self.down(x) + self.down(x + self.convs[0](x))
        elif self.how == "recurrent":
            for _ in range(3):
                x = x + F.relu(self.convs[0](x))
            for conv in self.convs[1:]:
                x = x + conv(x)
        elif self.how == "in place":
            y = self.act(x + self.convs[0](x))
            x, lateral = y + self.convs[1](y), x
        return self.classifier((x + lateral).mean((2, 3)))


HOW = ("scaled", "three terms", "nested", "nested in a block that shrinks", "recurrent", "in place")


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_however_sums_are_written_what_was_trained_is_what_is_restored(how, ratio, images, tmp_path):
    torch.manual_seed(0)
    original = modular(Sums(how).eval(), torch.zeros(1, 3, 16, 16))
    count = len(blocks_of(original, SHAPE))
    assert count >= 1
    smaller = original
    for done in (0.5, 1.0):
        smaller = leave_out(smaller, original, Depth(ratio, None), images, done)
        with torch.no_grad():
            for parameter in smaller.parameters():
                parameter.mul_(1.01)
    gone = left_out_of(smaller, original, SHAPE)
    assert len(gone) == round(ratio * count)
    checkpoint.save_weights(tmp_path / "weights.safetensors", smaller, {})
    again = without(original, gone, SHAPE)
    again.load_state_dict(smaller.state_dict())
    for network_again in (again, restored(tmp_path / "weights.safetensors", original, SHAPE)):
        assert torch.equal(scores(network_again), scores(smaller))
    smaller.train()(torch.rand(2, 3, 16, 16)).sum().backward()


def test_an_activation_in_place_leaves_what_the_block_began_with():
    torch.manual_seed(0)
    original = modular(Sums("in place").eval(), torch.zeros(1, 3, 16, 16))
    smaller = without(original, ["convs.0"], SHAPE)
    with torch.no_grad():
        original.convs.get_submodule("0").weight.zero_()
        original.convs.get_submodule("0").bias.zero_()
    assert torch.allclose(scores(smaller), scores(original), atol=1e-6)


def test_no_activation_stands_twice_in_a_row(images):
    original = network("resnet20")
    smaller = leave_out(original, original, Depth(1.0, None), images)
    relus = sum(isinstance(module, nn.ReLU) for module in smaller.modules())
    assert relus == 1 + 2 * 2, "of the stem, and two in each block that changes the shape"


def test_the_file_computes_the_same_in_one_part(images):
    original = network("wide_resnet_16_1")
    smaller = leave_out(original, original, Depth(0.5, None), images)
    runner = Runner(convert(fold_batch_norm(smaller), SHAPE))
    assert runner.delegation() == (1, 1.0)
    with torch.inference_mode():
        wanted = smaller(torch.from_numpy((images.images[:4].astype(np.float32) - 128) / 128).permute(0, 3, 1, 2))
    assert np.allclose(runner.run(runner.prepare(images.images[:4])), wanted.numpy(), atol=1e-3)
