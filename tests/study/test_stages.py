"""What tells one training from another."""

from dataclasses import replace

from dlmo.strategy.plan import schedules
from dlmo.study.recipe import parse
from dlmo.study.stages import make_trained, trainings_of
from dlmo.study.trainings import train
from dlmo.study.workspace import load_network

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
