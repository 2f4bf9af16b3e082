"""Tasks of recipes, and what becomes of the rest when one fails, in this process."""

import functools
from dataclasses import replace

import numpy as np
import pytest

from dlmo.errors import UserError
from dlmo.measure.targets import CannotRun
from dlmo.measure.targets.host import Host
from dlmo.progress import SilentProgress
from dlmo.strategy.evidence import gather
from dlmo.strategy.plan import schedules
from dlmo.study.graph import Task, file_task, make_here, tasks_of
from dlmo.study.recipe import parse
from dlmo.study.run import file_name, run_recipes
from dlmo.study.store import Store

NETWORK = "resnet8@0.25"
PLAN = schedules(64, 8, 1)
# No training can be quantization-aware: batches of no images.
BROKEN = replace(PLAN, qat=replace(PLAN.qat, batch_size=0))


@pytest.fixture
def few(workspace, tmp_path):
    """64 digits and a store of its own."""
    data = workspace.dataset
    count = np.arange(64)
    small = {name: getattr(data, name).take(count) for name in ("train", "validation", "test")}
    return replace(workspace, dataset=replace(data, **small, fingerprint="64 digits"), store=Store(tmp_path / "store"))


def tasks(workspace, *texts, seeds=(0,)):
    recipes = [(parse(f"{NETWORK} > {text}"), seed) for seed in seeds for text in texts]
    return tasks_of(workspace, recipes, {NETWORK: PLAN})


def test_a_task_stands_after_those_it_needs(few):
    found = tasks(few, "kd(teacher=self, generations=2) > prune > int8", "qat > int8", seeds=(0, 1))
    for position, task in enumerate(found):
        assert set(task.needs) <= {before.key for before in found[:position]}
    assert len({task.key for task in found}) == len(found)


def test_trainings_are_shared_and_every_recipe_has_a_file(few):
    found = tasks(few, "float32", "int8", "prune > float32", "prune > int8")
    trainings = [task for task in found if task.trains]
    assert [task.needs for task in trainings] == [(), (trainings[0].key,)]
    files = [task for task in found if not task.trains]
    assert [task.needs[0] for task in files] == [trainings[0].key] * 2 + [trainings[1].key] * 2
    assert files[1].key == file_task(parse(f"{NETWORK} > int8"), 0)


def test_a_teacher_comes_before_its_student(few):
    plan = {NETWORK: replace(PLAN, teacher_seconds={"resnet8": 7.0})}
    found = tasks_of(few, [(parse(f"{NETWORK} > kd(resnet8) > int8"), 3)], plan)
    assert [len(task.needs) for task in found] == [0, 1, 1]
    assert found[0].seconds == pytest.approx(7.0)


def test_what_needs_a_failed_task_fails_with_it_and_the_rest_goes_on(few):
    made = []
    error = RuntimeError("no")

    def stub(key, *needs, fails=False):
        def make(workspace):
            if fails:
                raise error
            made.append(key)

        return Task(key, needs, 1.0, False, make)

    class Noting(SilentProgress):
        def note(self, text):
            made.append(text)

    chain = [stub("a"), stub("b", "a", fails=True), stub("c", "b"), stub("d", "a"), stub("e", "x")]
    errors = make_here(replace(few, progress=Noting()), chain, {"x": UserError("lost elsewhere")})
    assert made == ["a", "failed: RuntimeError: no", "d"], "told once, at once"
    assert errors["b"] is errors["c"] is error and str(errors["e"]) == "lost elsewhere"


def test_long_recipes_have_names_that_a_folder_takes():
    path = "/home/somebody/" + "experiments/" * 10 + "weights.safetensors"
    names = {file_name(parse(f"{NETWORK} > kd({path}) > {steps}"), 0) for steps in ("float32", "prune(0.9) > int8")}
    assert len(names) == 2 and max(len(name) for name in names) < 200
    assert all(name.startswith(NETWORK) and name.endswith("-seed0.tflite") for name in names)


def test_interrupting_is_no_failure(few):
    def interrupt(workspace):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_here(few, [Task("a", (), 1.0, False, interrupt)])


def test_a_failing_recipe_is_told_and_the_others_have_results(few):
    recipes = [parse(f"{NETWORK} > {text}") for text in ("float32", "qat > int8", "float16")]
    outcomes, failures, curves = run_recipes(few, recipes, {NETWORK: BROKEN}, (0,), 1)
    assert [outcome.result.setup for outcome in outcomes] == ["NQ", "F16"]
    (failure,) = failures
    assert (failure.recipe, failure.setup, failure.seed) == (str(recipes[1]), "QAT", 0)
    assert failure.error == "ZeroDivisionError: integer division or modulo by zero"
    assert run_recipes(few, recipes, {NETWORK: BROKEN}, (0,), 1, needed=recipes[1])[1] == failures
    with pytest.raises(UserError, match=r"> qat > int8: ZeroDivisionError: integer division"):
        run_recipes(few, recipes[1:2], {NETWORK: BROKEN}, (0,), 1)


def test_a_file_that_a_target_refuses_is_told_and_the_others_have_results(few, monkeypatch):
    measure = Host.measure

    def picky(self, contents, *arguments):
        found = measure(self, contents, *arguments)
        return [CannotRun("no such kernel") if entry is contents[1] else costs for entry, costs in zip(contents, found)]

    recipes = [parse(f"{NETWORK} > {text}") for text in ("float32", "float16", "int8")]
    both = replace(few, more_targets={"board": Host()})
    everything = run_recipes(both, recipes, {NETWORK: PLAN}, (0,), 1)[0]
    monkeypatch.setattr(Host, "measure", picky)
    outcomes, failures, _ = run_recipes(few, recipes, {NETWORK: PLAN}, (0,), 1)
    assert [outcome.result.recipe for outcome in outcomes] == [str(recipes[0]), str(recipes[2])]
    assert [(failure.recipe, failure.error) for failure in failures] == [(str(recipes[1]), "no such kernel")]
    assert [o.result.accuracy for o in outcomes] == [everything[0].result.accuracy, everything[2].result.accuracy]
    with pytest.raises(UserError, match="no such kernel"):
        run_recipes(few, recipes, {NETWORK: PLAN}, (0,), 1, needed=recipes[1])
    assert [entry.recipe for entry in gather(few, recipes, 1)] == [recipes[0], recipes[2]]

    monkeypatch.setattr(few.target, "measure", functools.partial(measure, few.target), raising=False)
    outcomes, failures, _ = run_recipes(both, recipes, {NETWORK: PLAN}, (0,), 1)
    there = outcomes[1].result.elsewhere["board"]
    assert not failures and there.latency_ms is None and there.doubts == ("no such kernel",)


def test_trainings_that_differ_by_the_precision_alone_have_a_curve_each(few):
    recipes = [parse(f"{NETWORK} > prune_channels(size=20KB) > {text}") for text in ("float32", "int8", "float16")]
    _, failures, curves = run_recipes(few, recipes, {NETWORK: PLAN}, (0,), 1)
    cut = f"{NETWORK} > prune_channels(size=20000)"
    titles = [NETWORK, cut, f"{cut} for int8", f"{cut} for float16"]
    assert not failures and list(curves) == [f"{title}, seed 0" for title in titles]
