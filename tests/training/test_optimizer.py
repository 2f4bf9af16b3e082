import pytest
import torch
from torch import nn

from dlmo import networks
from dlmo.training.optimizer import Muon, Sgd, normalized_filters, optimizers_for, orthogonalized, rows_at_once
from dlmo.training.schedule import Schedule

SCHEDULE = Schedule(1, 32, 0.1, 0.1, orthogonal=True)


@pytest.mark.parametrize("number_format", [None, torch.bfloat16])
def test_orthogonalized_matrices_keep_their_directions_and_even_out_their_lengths(number_format):
    torch.manual_seed(0)
    left, lengths, right = torch.linalg.svd(torch.randn(2, 8, 20) * torch.tensor([1.0, 100.0])[:, None, None])
    assert lengths.max() / lengths.min() > 100
    for matrices in (
        left @ torch.diag_embed(lengths) @ right[:, :8],
        (left @ torch.diag_embed(lengths) @ right[:, :8]).mT,
    ):
        evened = orthogonalized(matrices, number_format)
        assert evened.shape == matrices.shape and evened.dtype == torch.float32
        found = torch.linalg.svdvals(evened)
        assert found.min() > 0.5 and found.max() < 1.3
        exact = left @ right[:, :8]
        assert nn.functional.cosine_similarity(
            evened.flatten(), (exact if matrices.shape[1] == 8 else exact.mT).flatten(), 0
        ) > 0.97  # fmt: skip


def test_only_dense_convolutions_behind_which_a_normalization_stands_are_orthogonalized():
    network = networks.build("mobilenet_v3_small", classes=10, input_shape=(32, 32, 3))
    filters = normalized_filters(network)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    assert filters and all(weight is not first.weight for weight in filters)
    chosen = {id(weight) for weight in filters}
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and id(module.weight) in chosen:
            assert module.groups == 1 and module.bias is None
    sgd, muon = optimizers_for(network, nn.Identity(), SCHEDULE)
    trained = [p for optimizer in (sgd, muon) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, trained)) == sorted(map(id, network.parameters()))


def test_linear_layers_of_many_inputs_learn_at_a_lower_rate():
    network = networks.build("mobilenet_v2", classes=10, input_shape=(32, 32, 3))
    sgd = optimizers_for(network, nn.Identity(), SCHEDULE)[0]
    shares = {id(p): group["share"] for group in sgd.param_groups for p in group["params"]}
    assert shares[id(network.classifier.weight)] == 64 / 1280
    assert shares[id(network.classifier.bias)] == 1
    small = networks.build("resnet20", classes=10, input_shape=(32, 32, 3))
    assert {group["share"] for group in optimizers_for(small, nn.Identity(), SCHEDULE)[0].param_groups} == {1.0}


def test_many_filters_are_orthogonalized_in_blocks():
    assert [rows_at_once(rows) for rows in (1, 64, 96, 512, 130, 67)] == [1, 64, 48, 64, 26, 1]
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(128, 256, 1, 1))
    before = weight.detach().clone()
    optimizer = Muon([weight])
    optimizer.param_groups[0]["lr"] = torch.tensor(0.035)
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    step = before * 128**0.5 / before.norm() - weight.detach()
    for block in step.flatten(1).split(64):
        lengths = torch.linalg.svdvals(block)
        assert lengths.min() > 0.5 * lengths.max()


def test_without_the_schedules_wish_everything_is_sgd():
    network = networks.build("resnet8@0.5", classes=10, input_shape=(16, 16, 1))
    (sgd,) = optimizers_for(network, nn.Identity(), Schedule(1, 32, 0.1, 0.1))
    assert isinstance(sgd, Sgd)


def test_sgd_steps_as_the_librarys_does():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(0))) for _ in range(2))
    unused = nn.Parameter(torch.ones(2))
    group = {"params": [ours, unused], "weight_decay": 0.01, "share": 1.0}
    optimizer = Sgd([group], 0.9)
    library = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    for step in range(4):
        rate = 0.1 / (step + 1)
        optimizer.param_groups[0]["lr"] = torch.tensor(rate)
        library.param_groups[0]["lr"] = rate
        ours.grad = torch.randn(4, 3)
        theirs.grad = ours.grad.clone()
        optimizer.step()
        library.step()
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert bool((unused == 1).all())


def test_a_step_goes_downhill_and_keeps_filters_at_norm_one_on_average():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(8, 4, 3, 3))
    wanted = torch.randn(8, 4, 3, 3)
    wanted *= 8**0.5 / wanted.norm()
    optimizer = Muon([weight])
    optimizer.param_groups[0]["lr"] = torch.tensor(0.035)
    losses = []
    for _ in range(30):
        loss = (weight - wanted).square().sum()
        losses.append(float(loss))
        weight.grad = None
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[1] / 2
    assert 0.8 < float(weight.norm()) / 8**0.5 < 1.2
