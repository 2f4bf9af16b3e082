"""What tells one training from another."""

from dataclasses import replace

import pytest
import torch

from dlmo.strategy.plan import schedules
from dlmo.study.recipe import parse
from dlmo.study.stages import make_trained, trainings_of
from dlmo.study.trainings import train
from dlmo.study.workspace import load_network
from dlmo.training.device import best_device

PLAN = schedules(64, 16, 1)
NAMED = "resnet8@0.25:medium"


def test_a_stem_in_the_name_and_one_for_all_networks_share_what_is_trained(workspace):
    recipe, plain = parse(f"{NAMED} > prune(0.5)"), parse("resnet8@0.25 > prune(0.5)")
    halved = replace(workspace, stem="medium")
    keys = [training.key for training in trainings_of(workspace, recipe, PLAN, 0)]
    assert keys == [training.key for training in trainings_of(halved, plain, PLAN, 0)]
    assert keys != [training.key for training in trainings_of(workspace, plain, PLAN, 0)]
    first = make_trained(halved, plain, PLAN, 0)
    again = make_trained(workspace, recipe, PLAN, 0)
    assert (first.key, again.key) == (keys[-1], keys[-1])
    assert (first.network, again.network) == ("resnet8@0.25", NAMED), "each is called as it was asked for"
    for asked, trained in ((halved, first), (workspace, again)):
        assert load_network(asked, trained).stem.conv.stride == (2, 2)


def test_the_stem_that_images_get_by_default_may_be_named(workspace):
    assert train(workspace, "resnet8@0.25", PLAN, 0).key == train(workspace, "resnet8@0.25:small", PLAN, 0).key


def test_a_second_prune_keeps_the_zeros_of_the_first_while_it_trains_or_cuts_at_once(workspace):
    once, again, at_once = (
        make_trained(workspace, parse(f"resnet8@0.5 > prune(0.5){steps}"), PLAN, 0)
        for steps in ("", " > prune(0.75)", " > prune(0.75, epochs=0)")
    )
    first = load_network(workspace, once).state_dict()
    for trained in (again, at_once):
        assert trained.sparsity == pytest.approx(0.75, abs=0.01)
        zeros = [
            (weight == 0) & (first[name] == 0) for name, weight in load_network(workspace, trained).state_dict().items()
        ]
        assert sum(map(torch.Tensor.sum, zeros)) == sum((weight == 0).sum() for weight in first.values())
    assert at_once.epochs == once.epochs < again.epochs
    assert once.devices == at_once.devices == [best_device().describe()]
    kept = load_network(workspace, at_once).state_dict()
    assert all(bool(((weight == first[name]) | (weight == 0)).all()) for name, weight in kept.items())
