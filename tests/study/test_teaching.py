"""Recipes with a teacher, from text to trained networks in the store."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dlmo import networks
from dlmo.errors import UserError
from dlmo.strategy.plan import _Cost, _seconds, schedules
from dlmo.study import trainings
from dlmo.study.graph import tasks_of
from dlmo.study.keys import train_key
from dlmo.study.recipe import parse
from dlmo.study.stages import trainings_of
from dlmo.study.store import Store
from dlmo.study.teaching import check_maps
from dlmo.study.trainings import check_teaching, train, train_further
from dlmo.study.workspace import Trained, load_network

PLAN = schedules(64, 16, 2)
STUDENT = "resnet8@0.25"


@pytest.fixture
def few(workspace, tmp_path):
    """64 digits and a store of its own."""
    data = workspace.dataset
    count = np.arange(64)
    small = replace(data, train=data.train.take(count), validation=data.validation.take(count), fingerprint="64 digits")
    return replace(workspace, dataset=small, store=Store(tmp_path / "store"))


def run(workspace, text, plan=PLAN, seed=0) -> Trained:
    recipe = parse(f"{STUDENT} > {text}")
    check_teaching(workspace, recipe)
    trained = train(workspace, recipe.network, plan, seed, recipe.kd)
    for step in recipe.further_trainings:
        trained = train_further(workspace, trained, step, plan, seed, recipe.kd)
    return trained


def made(workspace, stage):
    folder = workspace.store.root / stage
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_the_teacher_is_trained_once_and_is_a_plain_network_like_any_other(few):
    teacher = train(few, "resnet8", PLAN, 0)
    first = run(few, "kd(resnet8)")
    assert made(few, "train") == {teacher.key, first.key}
    second = run(few, "kd(resnet8)", seed=1)
    assert made(few, "train") == {teacher.key, first.key, second.key}, "all seeds have one teacher"
    assert first.epochs == 2
    assert first.seconds > sum(epoch.seconds for epoch in first.curve()), "its teacher's time counts too"


def test_the_network_before_pruning_teaches_where_that_is_asked_for(few):
    plain, taught = (run(few, text) for text in ("prune(0.9)", "prune(0.9, teacher=parent)"))
    assert made(few, "answers"), "the dense network was asked"
    assert plain.sparsity == taught.sparsity > 0.85
    first, second = (load_network(few, each).state_dict() for each in (plain, taught))
    assert any((first[name] != second[name]).any() for name in first)
    own_teacher = {
        trainings_of(few, parse(f"{STUDENT} > kd(resnet8) > {step}"), PLAN, 0)[-1].key
        for step in ("prune(0.9, teacher=parent)", "prune(0.9)")
    }
    assert len(own_teacher) == 1, "a recipe's own teacher takes the parent's place"
    plan = replace(schedules(8_000, 16, 40), epoch_seconds=3.0)
    alone, helped = (parse(f"resnet8 > prune(0.9{who})").steps[0] for who in ("", ", teacher=parent"))
    assert plan.seconds_of(helped) > plan.seconds_of(alone) == 3.0 * plan.prune.epochs


def test_all_further_steps_keep_the_teacher_and_its_answers(few):
    trained = run(few, "kd(resnet8) > prune > qat > int8")
    assert trained.fake_quantized and trained.sparsity > 0.7
    assert len(made(few, "technique")) == 2
    # Two epochs go through one view; pruning and QAT need no other.
    assert len(made(few, "answers")) == 1
    run(few, "kd(resnet8, loss=dkd) > float32")
    assert len(made(few, "answers")) == 1, "another loss and student asks for the same answers"
    plain = parse(f"{STUDENT} > prune > qat > int8")
    distilled = parse(f"{STUDENT} > kd(resnet8) > prune > qat > int8")
    without = {training.key for training in trainings_of(few, plain, PLAN, 0)}
    with_teacher = [training.key for training in trainings_of(few, distilled, PLAN, 0)]
    assert not without & set(with_teacher)
    assert with_teacher[-1] == trained.key


@pytest.mark.parametrize(
    "text",
    [
        "kd(resnet8, loss=dkd, standardize=true) > float32",
        "kd(wide_resnet_10_1, loss=hint) > qat > int8",
        "kd(resnet8, scheme=online) > prune > float32",
        "kd(self, loss=shallow) > qat > int8",
        "kd(self, generations=2) > float32",
    ],
)
def test_every_scheme_runs_through_the_store(text, few):
    trained = run(few, text)
    recipe = parse(f"{STUDENT} > {text}")
    expected = trainings_of(few, recipe, PLAN, 0)
    assert expected[-1].key == trained.key
    assert all(few.store.finished(training.stage, training.key) for training in expected)
    assert len(made(few, "train")) + len(made(few, "technique")) == len(expected), "and nothing else was trained"
    again = run(few, text)
    assert again == trained


def test_a_teacher_that_is_gone_is_missed_only_while_somebody_has_to_learn(few):
    teacher, student = train(few, "resnet8", PLAN, 0), run(few, "kd(resnet8)")
    recipes = [parse(f"{STUDENT} > kd(resnet8) > {steps}") for steps in ("float32", "prune > float32")]

    def first_keys():
        return [trainings_of(few, recipe, PLAN, 0)[0].key for recipe in recipes]

    assert first_keys() == [teacher.key, teacher.key]
    shutil.rmtree(teacher.folder)
    assert first_keys() == [student.key, teacher.key]
    tasks = {task.key: task for task in tasks_of(few, [(recipe, 0) for recipe in recipes], {STUDENT: PLAN})}
    further = trainings_of(few, recipes[1], PLAN, 0)[-1].key
    assert teacher.key in tasks[further].needs and teacher.key not in tasks[student.key].needs


def test_of_generations_those_are_missed_that_somebody_learns_from(few):
    recipe = parse(f"{STUDENT} > kd(self, generations=2) > float32")
    run(few, "kd(self, generations=2)")
    first, second, student = trainings_of(few, recipe, PLAN, 0)
    for training in (first, student):
        shutil.rmtree(few.store.root / training.stage / training.key)
    assert [training.key for training in trainings_of(few, recipe, PLAN, 0)] == [second.key, student.key]
    shutil.rmtree(few.store.root / second.stage / second.key)
    assert len(trainings_of(few, recipe, PLAN, 0)) == 3


def test_a_peer_goes_on_as_the_teacher(few):
    student = run(few, "kd(resnet8, scheme=online)")
    peer = trainings._peer(student, "resnet8")
    assert len(load_network(few, peer).state_dict())
    assert json.loads((peer.folder / "record.json").read_text())["network"] == "resnet8"


def test_keys_change_with_what_changes_the_student(few):
    def key(text, seed=0, plan=PLAN):
        return trainings_of(few, parse(f"{STUDENT} > {text}"), plan, seed)[-1].key

    assert key("kd") == key("kd(resnet56)") == key("kd(weight=0.9, temperature=4)") == key("kd(views=1)")
    texts = ["kd", "kd(resnet8)", "kd(weight=0.5)", "kd(views=0)", "kd(loss=dkd)", "kd(self)", "kd(standardize=true)",
             "kd(self, generations=2)", "kd(scheme=online)", "kd(resnet56:medium, scheme=online)", "float32",
             "kd > prune", "prune"]  # fmt: skip
    keys = [key(text) for text in texts] + [key("kd", seed=1), key("kd", plan=schedules(64, 16, 3))]
    assert len(set(keys)) == len(keys)


def test_a_teacher_from_a_file(few):
    teacher = train(few, "resnet8", PLAN, 3)
    path = teacher.folder / "weights.safetensors"
    student = run(few, f"kd({path})")
    assert made(few, "train") == {teacher.key, student.key}
    with pytest.raises(UserError, match="classes 0, 1.* not a, b"):
        other = replace(few, dataset=replace(few.dataset, classes=tuple("abcdefghij")))
        check_teaching(other, parse(f"{STUDENT} > kd({path})"))
    larger = replace(few.dataset.preprocessing, height=24, width=24)
    with pytest.raises(UserError, match="input shape 16, 16, 1, not 24, 24, 1"):
        check_teaching(
            replace(few, dataset=replace(few.dataset, preprocessing=larger)), parse(f"{STUDENT} > kd({path})")
        )


def test_files_that_are_no_teacher(few, tmp_path):
    from dlmo.training import checkpoint

    broken, foreign = tmp_path / "broken.safetensors", tmp_path / "foreign.safetensors"
    broken.write_bytes(b"not weights at all")
    checkpoint.save(foreign, {"weight": torch.zeros(2)}, {})
    missing = tmp_path / "missing.safetensors"
    for path, message in ((broken, "no .safetensors file"), (foreign, "no float network"), (missing, "cannot read")):
        with pytest.raises(UserError, match=message):
            check_teaching(few, parse(f"{STUDENT} > kd({path})"))


def test_a_teacher_of_weights_alone(few, tmp_path):
    # Long enough that it answers best under its own normalization, beyond doubt.
    trained = train(few, "resnet8", schedules(64, 16, 40), 0)
    network, path = load_network(few, trained), tmp_path / "mine.pt"
    wrapped = {f"module.{name}": part for name, part in network.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, path)
    text = f"kd({path}, network=resnet8)"
    x = (torch.from_numpy(few.dataset.validation.images[:8]).permute(0, 3, 1, 2).float() - 128) / 128
    assert torch.equal(trainings._teacher_network(few, parse(f"{STUDENT} > {text}").kd)(x), network.eval()(x))
    assert run(few, text).epochs == 2
    keys = {
        train_key(place, f"{STUDENT}:small", PLAN, 0, parse(f"{STUDENT} > {text}").kd)
        for place in (few, replace(few, stem="medium"))  # of the teacher; the student names its own
    }
    assert len(keys) == 2
    hinted = run(few, f"kd({path}, network=resnet8, loss=hint)")
    assert hinted.key != run(few, text).key
    with pytest.raises(UserError, match="mine.pt does not fit the network; missing"):
        check_teaching(few, parse(f"{STUDENT} > kd({path}, network=resnet20)"))
    other = replace(few, dataset=replace(few.dataset, classes=("a", "b")))
    with pytest.raises(UserError, match="mine.pt scores 10 classes, but the data has 2"):
        check_teaching(other, parse(f"{STUDENT} > {text}"))
    torch.save(networks.build("resnet8@0.5", classes=10, input_shape=(16, 16, 1)).state_dict(), path)
    with pytest.raises(UserError, match="no better than always answering"):
        check_teaching(few, parse(f"{STUDENT} > kd({path}, network=resnet8@0.5)"))


@pytest.fixture
def exported(few, tmp_path):
    """A function that exports a trained teacher as others do: for its own pixels, any number of images."""

    def export(network, shape=(1, 16, 16), name="teacher"):
        sizes = ({0: torch.export.Dim("batch", min=1, max=1024)},)
        program = torch.export.export(network.eval(), (torch.zeros(2, *shape),), dynamic_shapes=sizes)
        torch.export.save(program, tmp_path / f"{name}.pt2")
        return tmp_path / f"{name}.pt2"

    return export


def test_a_teacher_in_a_pt2_file(few, exported):
    # Long enough that it answers best under its own normalization, beyond doubt.
    network = load_network(few, train(few, "resnet8", schedules(64, 16, 40), 0))

    class TakesUnit(nn.Module):
        """The same for pixels from 0 to 1."""

        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network((x * 255 - 128) / 128)

    path = exported(TakesUnit())
    teacher = trainings._teacher_network(few, parse(f"{STUDENT} > kd({path})").kd)
    x = (torch.from_numpy(few.dataset.validation.images[:8]).permute(0, 3, 1, 2).float() - 128) / 128
    assert torch.allclose(teacher(x), network(x), atol=1e-4), "its normalization was found"
    assert run(few, f"kd({path})").epochs == 2
    with pytest.raises(UserError, match="scores 10 classes, not 2"):
        check_teaching(replace(few, dataset=replace(few.dataset, classes=("a", "b"))), parse(f"{STUDENT} > kd({path})"))
    larger = replace(few.dataset, preprocessing=replace(few.dataset.preprocessing, height=24, width=24))
    with pytest.raises(UserError, match="takes 16x16 images of 1 channels, not 24x24"):
        check_teaching(replace(few, dataset=larger), parse(f"{STUDENT} > kd({path})"))


def test_a_pt2_teacher_that_knows_nothing_is_refused(few, exported):
    class Constant(nn.Module):
        def forward(self, x):
            return x.mean((1, 2, 3))[:, None] * torch.zeros(10) + torch.arange(10)

    with pytest.raises(UserError, match="no better than always"):
        check_teaching(few, parse(f"{STUDENT} > kd({exported(Constant())})"))


def test_maps_that_do_not_fit_are_refused():
    shape = (16, 16, 1)
    flat = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    teacher = networks.build("resnet8", classes=10, input_shape=shape)
    with pytest.raises(UserError, match="share 1 sizes of feature maps .16x16 and 16x16, 8x8, 4x4., 2 needed"):
        check_maps(parse("resnet8 > kd(loss=gram)").kd, flat, teacher, shape)
    with pytest.raises(UserError, match="shrinks its feature map"):
        check_maps(parse("resnet8 > kd(self, loss=shallow)").kd, flat, None, shape)
    check_maps(parse("resnet8 > kd(loss=hint)").kd, flat, teacher, shape)


def test_the_plan_counts_the_teacher_and_its_answers():
    plan = replace(schedules(8_000, 16, 40), epoch_seconds=3.0, teacher_seconds={"resnet56": 9.0})
    kd, live, online = (parse(f"resnet20 > kd({text})").kd for text in ("resnet56", "views=0", "scheme=online"))
    assert plan.seconds_of(None) == 120
    assert plan.of_teacher("resnet56").seconds_of(None) == 360
    # Answering costs a third of a training step: 3 s for each of 10 views, or in each of 40 epochs.
    assert plan.seconds_of(None, kd) == 120 + 10 * 3
    assert plan.seconds_of(None, live) == 120 + 40 * 3
    assert plan.seconds_of(None, online) == 120 + 40 * 9
    shared = {"resnet56": 9.0}
    cost = _Cost(3.0, 0.0, ((None, kd),), files=0, per_file=0.0, teachers=shared)
    two = {"resnet20": cost, "resnet8": cost}
    assert _seconds(two, lambda network: plan, seeds=2) == 360 + 2 * 2 * 150, (
        "one teacher for both networks and all seeds"
    )
    together = two | {"resnet56": _Cost(9.0, 0.0, ((None, None),), files=0, per_file=0.0)}
    assert _seconds(together, lambda network: plan, seeds=1) == 2 * 150 + 360


def test_standardized_scores_of_two_classes_are_refused(few):
    two = replace(few.dataset, classes=few.dataset.classes[:2])
    with pytest.raises(UserError, match="standardize=true teaches nothing on two classes"):
        check_teaching(replace(few, dataset=two), parse(f"{STUDENT} > kd(resnet8, standardize=true) > float32"))
