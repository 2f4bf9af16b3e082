import pytest
import torch
from torch import nn

from dlmo import networks
from dlmo.errors import UserError
from dlmo.techniques.distillation.taps import Taps, cut_at, paired, stages
from dlmo.techniques.fake_quantization import fold_batch_norm, insert_fake_quantization

SHAPE = (16, 16, 3)


def build(name, shape=SHAPE):
    torch.manual_seed(0)
    return networks.build(name, classes=4, input_shape=shape)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("resnet8", {(16, 16): 16, (8, 8): 32, (4, 4): 64}),
        # The last at the larger size is what the next block reads: activated, or expanded six times.
        ("wide_resnet_10_1", {(16, 16): 16, (8, 8): 32, (4, 4): 64}),
        ("mobilenet_v2", {(16, 16): 144, (8, 8): 192, (4, 4): 576, (2, 2): 1280}),
        ("vgg", {(16, 16): 32, (8, 8): 64, (4, 4): 128}),
    ],
)
def test_stages_by_the_sizes_of_maps(name, expected):
    assert {size: channels for size, (_, channels) in stages(build(name), SHAPE).items()} == expected


def test_looking_changes_nothing():
    network = build("resnet8").train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    stages(network, SHAPE)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_fake_quantized_network_has_the_same_stages():
    plain = build("resnet8").eval()
    found = stages(insert_fake_quantization(plain), SHAPE)
    assert {size: channels for size, (_, channels) in found.items()} == {(16, 16): 16, (8, 8): 32, (4, 4): 64}


@pytest.mark.parametrize("name", ["resnet8", "wide_resnet_10_1", "mobilenet_v2", "vgg"])
def test_a_cut_network_gives_the_maps_that_the_whole_one_has_there(name):
    network = build(name).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.weight, 0.5, 2)
    found = list(stages(network, SHAPE).values())
    taps = Taps([module for module, _ in found])
    x = torch.randn(2, 3, 16, 16)
    network(x)
    expected = taps.take()
    taps.remove()
    folded = fold_batch_norm(network)
    part = cut_at(folded, [module for module, _ in stages(folded, SHAPE).values()])
    for own, theirs in zip(part(x), expected, strict=True):
        assert torch.allclose(own, theirs, atol=0.02)  # rounding grows through clipped activations
    shallow = cut_at(folded, [next(iter(stages(folded, SHAPE).values()))[0]])
    assert len(shallow.graph.nodes) < len(part.graph.nodes) < len(folded.graph.nodes), "nothing behind is computed"


def test_taps_hold_the_last_maps_until_taken_or_removed():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    taps = Taps([network[1], network[0]])
    x = torch.randn(2, 3, 5, 5)
    out = network(x)
    relu, conv = taps.take()
    assert torch.equal(relu, out) and torch.equal(conv, network[0](x))
    taps.remove()
    assert not any(module._forward_hooks for module in network.modules())


def channels(pairs):
    return [(own, theirs) for (_, own), (_, theirs) in pairs]


def test_pairs_of_equal_size():
    student, teacher = build("resnet8@0.5"), build("wide_resnet_10_2")
    assert channels(paired("stages", student, teacher, SHAPE)) == [(8, 32), (16, 64), (32, 128)]
    assert channels(paired("middle", student, teacher, SHAPE)) == [(16, 64)]
    assert channels(paired("last", student, teacher, SHAPE)) == [(32, 128)]


def test_networks_without_a_common_size_are_refused():
    student = networks.build("resnet8", classes=4, input_shape=SHAPE, stem="small")
    teacher = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))  # 14 x 14
    with pytest.raises(UserError, match="loss=kd"):
        paired("stages", student, teacher, SHAPE)
    with pytest.raises(UserError, match="2 needed"):
        paired("successive", nn.Sequential(nn.Conv2d(3, 8, 3, padding=1)), student, SHAPE)
    assert len(paired("last", student, teacher, SHAPE)) == 1


@pytest.mark.parametrize("reads", ["last", "stages"])
def test_networks_without_maps_are_refused(reads):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    with pytest.raises(UserError, match="no feature maps: take a loss on answers"):
        paired(reads, flat, flat, (16, 16, 1))
