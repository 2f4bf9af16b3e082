import pytest
import torch
from torch import nn

from dlmo.techniques.pruning import (
    GradualMagnitudePruning,
    KeepZeros,
    lamp_masks,
    prunable_layers,
    sparsity_of,
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3, groups=64), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(64, 10)
    )


def test_depthwise_and_tiny_layers_are_left_alone():
    layers = prunable_layers(network())
    assert [tuple(layer.weight.shape) for layer in layers] == [(64, 3, 3, 3), (64, 64, 3, 3)]


def test_lamp_scores_by_hand():
    # Squares 1, 4, 9, 16: scores 1/30, 4/29, 9/25, 16/16; and 25, 25, 25, 25: 25/100 ... 25/25.
    first, second = torch.tensor([1.0, -2.0, 3.0, 4.0]), torch.tensor([5.0, 5.0, 5.0, 5.0])
    masks = lamp_masks([first, second], 3 / 8)
    assert masks[0].tolist() == [0, 0, 1, 1]  # 0.033, 0.138 go first
    assert int(masks[1].sum()) == 3  # then 0.25, before 0.333 and 0.36


def test_a_layer_far_larger_than_the_others_keeps_its_share():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(count, generator=generator) for count in (100_000, *[2_000] * 10)]
    large, *small = lamp_masks(weights, 0.88)
    # By scores alone all layers keep about as many weights, 1.3 % of the large one and 65 % of the others.
    assert int(large.sum()) == 4_800  # 0.4 * 12 %
    assert int(large.sum()) + sum(int(mask.sum()) for mask in small) == 14_400
    kept = weights[0].abs()[large > 0]
    assert kept.min() >= weights[0].abs()[large == 0].max()
    (later,) = lamp_masks([weights[0] * large], 0.97)
    assert int(later.sum()) == 3_000 and not ((later > 0) & (large == 0)).any()


def test_the_ramp_is_cubic_in_rounds_and_ends_at_the_target():
    pruning = GradualMagnitudePruning(0.8, rounds=65)
    model = network()
    pruning.begin(model, steps=300)
    assert pruning.sparsity_at(0) == 0
    assert pruning.sparsity_at(200) == pytest.approx(0.8)
    assert pruning.sparsity_at(100) == pytest.approx(0.8 * (1 - (1 - 32 / 65) ** 3))
    levels = {round(pruning.sparsity_at(step), 9) for step in range(301)}
    assert len(levels) == 66


def train(pruning, model, steps):
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    generator = torch.Generator().manual_seed(0)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 7, 7, generator=generator)[..., :7, :7]).square().mean().backward()
        optimizer.step()
        pruning.after_step(model, step)


def test_without_training_all_weights_go_at_once():
    pruning = GradualMagnitudePruning(0.75, rounds=65)
    model = network()
    before = [layer.weight.detach().clone() for layer in prunable_layers(model)]
    pruning.end(pruning.begin(model, steps=0))
    assert sparsity_of(model) == pytest.approx(0.75, abs=1e-3)
    for layer, weight in zip(prunable_layers(model), before):
        kept = layer.weight != 0
        assert torch.equal(layer.weight[kept], weight[kept])
        assert weight[kept].abs().min() >= weight[~kept].abs().max()


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 5), nn.Flatten(), nn.Linear(64, 10))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_of_equal_weights_some_stay(layout):
    weight = torch.ones(4, 8, 3, 3).contiguous(memory_format=layout)
    (mask,) = lamp_masks([weight], 0.25)
    assert mask.shape == weight.shape
    assert mask.sum() == 0.75 * weight.numel()
    smaller = weight * torch.where(mask == 0, 0.5, 1.0)
    (again,) = lamp_masks([smaller], 0.25)
    assert torch.equal(again, mask), "the smaller ones went"


def test_training_ends_with_the_wanted_zeros_and_no_layer_emptied():
    model = small_network()
    pruning = GradualMagnitudePruning(0.9, rounds=10)
    pruning.begin(model, 30)
    train(pruning, model, 30)
    assert sparsity_of(model) == pytest.approx(0.9, abs=0.001)
    assert all((layer.weight != 0).any() for layer in prunable_layers(model))


def test_zeros_stay_zero_while_the_rest_learns():
    model = small_network()
    pruning = GradualMagnitudePruning(0.5, rounds=1)
    pruning.begin(model, 3)
    train(pruning, model, 3)
    keep = KeepZeros()
    keep.begin(model, 5)
    before = [layer.weight.clone() for layer in prunable_layers(model)]
    train(keep, model, 5)
    for old, layer in zip(before, prunable_layers(model)):
        assert torch.equal(old == 0, layer.weight == 0)
        assert not torch.equal(old, layer.weight)


def test_resuming_takes_the_zeros_of_the_checkpoint():
    model = small_network()
    first = GradualMagnitudePruning(0.7, rounds=4)
    first.begin(model, 12)
    train(first, model, 6)
    zeros = [layer.weight == 0 for layer in prunable_layers(model)]
    resumed = GradualMagnitudePruning(0.7, rounds=4)
    resumed.begin(model, 12)
    resumed.resume(model, 6)
    with torch.no_grad():
        for layer in prunable_layers(model):
            layer.weight += 1
    resumed.after_step(model, 7)
    assert all(torch.equal(layer.weight == 0, mask) for layer, mask in zip(prunable_layers(model), zeros))


def test_a_network_of_tiny_layers_is_pruned_too_and_never_emptied():
    tiny = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 3))
    layers = prunable_layers(tiny)
    assert len(layers) == 2
    masks = lamp_masks([layer.weight for layer in layers], 0.9999)
    assert [int(mask.sum()) for mask in masks] == [1, 1]
