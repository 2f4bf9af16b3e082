import functools
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest

from dlmo.errors import UserError
from dlmo.strategy import plan as planning
from dlmo.strategy.plan import (
    _Cost,
    _fit,
    augmentation_for,
    class_weights_for,
    default_networks,
    full_epochs,
    make_plan,
    schedules,
)
from dlmo.study.recipe import Prune, Qat, for_setup, parse
from dlmo.study.stages import trainings_of
from dlmo.study.store import Store

COST = _Cost(train=1.0, qat=2.0, trainings=((None, None), (Prune(), None), (Qat(), None)), files=8, per_file=1.0)


def test_writing_is_not_mirrored_and_photographs_are(digits):
    assert not augmentation_for(digits).flip
    rgb = np.zeros((4, 32, 32, 3), np.uint8)
    split = replace(digits.train, images=rgb, labels=np.arange(4) % 2, names=("",) * 4)
    shape = replace(digits.preprocessing, height=32, width=32, channels=3)
    photos = replace(digits, train=split, classes=("cat", "dog"), preprocessing=shape)
    assert augmentation_for(photos).flip
    assert not augmentation_for(replace(photos, classes=("A", "B"))).flip


def test_unbalanced_classes_weigh_by_the_root_of_their_size(digits):
    assert class_weights_for(digits) is None
    labels = np.array([0] * 900 + [1] * 100)
    images = np.zeros((1000, 16, 16, 1), np.uint8)
    split = replace(digits.train, images=images, labels=labels, names=("",) * 1000)
    weights = class_weights_for(replace(digits, classes=("a", "b"), train=split))
    assert weights[1] / weights[0] == pytest.approx(3, rel=1e-3)
    assert (np.array(weights)[labels]).mean() == pytest.approx(1, rel=1e-3)


def test_small_sets_get_more_epochs():
    assert full_epochs(45_000) == 60
    assert full_epochs(8_000) >= 30
    assert full_epochs(500) > full_epochs(8_000)
    assert full_epochs(10) == 150


def fit(names, seconds, epochs=None, named=True, epochs_of=MappingProxyType({})):
    plan_of = functools.partial(schedules, 8_000, 32)
    return _fit(dict.fromkeys(names, COST), 8_000, plan_of, seconds, epochs, epochs_of, named, 1)


def test_all_named_networks_share_the_time_and_keep_within_it():
    alone, together = fit("a", 32), fit("ab", 64)
    assert alone == {"a": alone["a"]} and together == {"a": alone["a"], "b": alone["a"]}
    assert 1 <= fit("ab", 32)["a"] < alone["a"] < full_epochs(8_000)
    spent = COST.seconds(schedules(8_000, 32, alone["a"]), 1)
    assert spent <= 32 < COST.seconds(schedules(8_000, 32, alone["a"] + 5), 1)


def test_candidates_are_dropped_when_they_would_all_train_too_short():
    assert fit("abc", 10_000, named=False) == dict.fromkeys("abc", full_epochs(8_000))
    assert list(fit("abc", 32, named=False)) == ["a"]


def test_more_time_shortens_no_networks_schedule():
    plans = [fit("abc", seconds, named=False) for seconds in range(32, 300)]
    assert list(plans[0]) == ["a"] and plans[-1] == dict.fromkeys("abc", full_epochs(8_000))
    for shorter, longer in zip(plans, plans[1:]):
        assert all(longer[name] >= epochs for name, epochs in shorter.items())


def test_too_little_time_is_refused_with_what_is_needed():
    with pytest.raises(UserError, match="give at least 1m"):
        fit("a", 5)


def test_epochs_asked_for_of_one_network_leave_the_rest_of_the_time_to_the_others():
    plain, short = fit("ab", 64), fit("ab", 64, epochs_of={"b": 1})
    assert short["a"] > plain["a"], "what b does not take, a gets"
    with pytest.raises(UserError, match="too short"):
        fit("ab", 64, epochs_of={"b": 500})
    assert fit("a", 5, epochs_of={"a": 500}), "nothing is left to plan: it takes what it takes"


def test_a_cut_to_a_files_size_is_trained_for_each_number_format(workspace, monkeypatch):
    monkeypatch.setattr(planning, "_seconds_to_score", lambda workspace, network: 0.0)

    def trainings(step):
        recipes = [parse(f"resnet8 > {step} > {precision}") for precision in ("int8", "float16")]
        return len(_Cost.probe(workspace, "resnet8", recipes, {"resnet8": 1.0}, None).trainings)

    assert trainings("prune_channels(macs=0.5)") == 2
    assert trainings("prune_channels(size=40KB)") == 3


def test_of_a_large_set_a_part_of_an_epoch_may_do():
    plan_of = functools.partial(schedules, 128_000, 32)  # 1,000 steps each
    cost = replace(COST, train=100.0, qat=200.0)
    counts = [_fit({"a": cost}, 128_000, plan_of, seconds, None, {}, True, 1)["a"] for seconds in (400, 80, 60)]
    assert counts[0] >= 1 > counts[1] > counts[2] >= 0.1
    with pytest.raises(UserError, match="too short: 10% of an epoch of a with all further steps"):
        _fit({"a": cost}, 128_000, plan_of, 20, None, {}, True, 1)


def test_epochs_override_time():
    assert fit("ab", 5, epochs=7) == {"a": 7, "b": 7}


def test_more_images_bring_larger_networks():
    assert set(default_networks(1_000)) < set(default_networks(50_000))
    assert default_networks(50_000, searching=True) == ("resnet8",), "a search finds its own"


def test_progressive_sizes_only_where_images_are_large_enough():
    assert schedules(8_000, 32, 30).train.progressive
    assert not schedules(8_000, 20, 30).train.progressive
    assert not schedules(8_000, 32, 4).train.progressive


def test_pruning_takes_three_tenths_of_the_epochs_from_scratch() -> None:
    assert schedules(45_000, 32, 20).prune.epochs == 6
    assert schedules(8_000, 32, 30).prune.epochs == 9
    assert schedules(1_000, 32, 48).prune.epochs == 14


def test_a_part_of_an_epoch_is_a_schedule_too_and_further_steps_are_in_proportion() -> None:
    plan = schedules(45_000, 32, 0.5)
    assert plan.train.passes == 0.5 and plan.train.words == "0.5 epoch" and plan.train.progressive
    assert 100 <= plan.prune.passes * 351 < 110 and 100 <= plan.qat.passes * 351 < 110  # fewest steps
    assert schedules(45_000, 32, 4).prune.words == "1 epoch" and schedules(45_000, 32, 4).qat.passes == 0.4
    small = schedules(1_000, 32, 1)  # where epochs cost nothing they are whole
    assert (small.prune.passes, small.qat.passes) == (3, 1)


def test_networks_may_have_other_epochs(workspace):
    recipes = {name: [for_setup(name, "QAT")] for name in ("resnet8@0.5", "vgg:medium")}

    def plan(**others):
        return make_plan(workspace, list(recipes), recipes, None, 8, **others)

    made = plan(epochs_of={"vgg:medium": 3}, all_networks=True)
    assert [plan.train.epochs for plan in made.networks.values()] == [8, 3]
    assert made.notes == (
        "schedule of resnet8@0.5: 8 epochs from scratch, 1 epoch quantization-aware",
        "schedule of vgg:medium: 3 epochs from scratch, 1 epoch quantization-aware",
    )
    with pytest.raises(UserError, match="--epochs resnet56=3: resnet56 is not studied here"):
        plan(epochs_of={"resnet56": 3}, all_networks=True)


def test_a_teacher_may_have_its_own_epochs_and_is_the_network_trained_as_long(workspace):
    recipes = {"resnet8@0.5": [parse("resnet8@0.5 > kd(resnet8) > float32")]}
    made = make_plan(workspace, list(recipes), recipes, None, 8, epochs_of={"resnet8": 3}, all_networks=True)
    teacher, student = trainings_of(workspace, recipes["resnet8@0.5"][0], made.networks["resnet8@0.5"], 0)
    alone = {"resnet8": [for_setup("resnet8", "NQ")]}
    as_long = make_plan(workspace, ["resnet8"], alone, None, 3, all_networks=True).networks["resnet8"]
    assert teacher.key == trainings_of(workspace, alone["resnet8"][0], as_long, 0)[0].key
    assert list(made.networks) == ["resnet8@0.5"] and made.networks["resnet8@0.5"].train.epochs == 8
    other = make_plan(workspace, list(recipes), recipes, None, 8, epochs_of={"resnet8": 4}, all_networks=True)
    keys = [entry.key for entry in trainings_of(workspace, recipes["resnet8@0.5"][0], other.networks["resnet8@0.5"], 0)]
    assert teacher.key != keys[0] and student.key != keys[1]


def test_the_same_question_gets_the_same_plan_without_timing_again(workspace, monkeypatch):
    recipes = {"resnet8@0.5": [for_setup("resnet8@0.5", "NQ")]}
    arguments = (workspace, ["resnet8@0.5"], recipes, 600.0, None)
    first = make_plan(*arguments, all_networks=True)
    monkeypatch.setattr(planning._Cost, "probe", None)
    assert make_plan(*arguments, all_networks=True) == first
    assert first.networks["resnet8@0.5"].train.epochs >= 1
    assert first.networks["resnet8@0.5"].seconds_of(None) > 0


def test_the_schedule_of_steps_that_are_there_is_told(workspace):
    def notes(*codes):
        recipes = {"resnet8@0.5": [for_setup("resnet8@0.5", code) for code in codes]}
        return make_plan(workspace, ["resnet8@0.5"], recipes, None, 8, all_networks=True).notes

    assert notes("NQ", "FIQ") == ("schedule: 8 epochs from scratch",)
    assert notes("PRN", "QAT") == (
        "schedule: 8 epochs from scratch, 3 epochs while pruning, 1 epoch quantization-aware",
    )
    own = parse("resnet8@0.5 > prune(0.8, epochs=5) > prune(0.9, epochs=0, teacher=parent) > int8")
    plan = make_plan(workspace, ["resnet8@0.5"], {"resnet8@0.5": [own]}, None, 8, all_networks=True)
    assert plan.notes == ("schedule: 8 epochs from scratch, 5 epochs while pruning",)
    assert plan.networks["resnet8@0.5"].seconds_of(own.further_trainings[1]) == 0


def test_what_was_trained_for_less_time_is_no_shorter_with_more(workspace, monkeypatch):
    """The machine seems slower when it is asked again."""
    network = "resnet8@0.5"
    recipes = {network: [for_setup(network, "NQ")]}
    answers = iter([5, 3, 3])
    monkeypatch.setattr(planning, "_fit", lambda *_: {network: next(answers)})
    fresh = replace(workspace, store=Store(workspace.store.root / "elsewhere"))

    def epochs(seconds):
        return make_plan(fresh, [network], recipes, seconds, None, all_networks=True).networks[network]

    first = epochs(61.0)
    assert first.train.epochs == 5
    assert epochs(62.0).train.epochs == 3, "nothing was trained yet"
    (training,) = trainings_of(fresh, recipes[network][0], first, 0)
    fresh.store.stage(training.stage, training.key, lambda folder: None)
    assert epochs(63.0).train.epochs == 5


def test_epochs_that_were_asked_for_are_no_matter_of_time(workspace):
    recipes = {"resnet8@0.5": [for_setup("resnet8@0.5", "NQ")]}
    plan = make_plan(workspace, ["resnet8@0.5"], recipes, 600.0, 3, all_networks=True)
    assert plan.notes == ("schedule: 3 epochs from scratch",)
