"""What trackers are told, and when."""

import time
from dataclasses import replace

import numpy as np
import pytest

from dlmo import tracking
from dlmo.errors import UserError
from dlmo.strategy.plan import schedules
from dlmo.study.recipe import parse
from dlmo.study.store import Store
from dlmo.study.trainings import curve_so_far, train, train_further
from dlmo.tracking import follow
from dlmo.tracking.follow import Tracked
from dlmo.tracking.work import work_of
from dlmo.training import loop

PLAN = schedules(64, 16, 3)
RECIPES = [
    parse(f"resnet8@0.25 > {steps}") for steps in ("float32", "prune(0.5, epochs=2) > float32", "kd(resnet8) > int8")
]


class Listener:
    """Keeps what it is told; raises at the event named `fails`."""

    place = "a list"

    def __init__(self, fails: str = "") -> None:
        self.told = []
        self._fails = fails

    def __getattr__(self, event):
        def tell(*arguments):
            if event == self._fails:
                raise RuntimeError("disk full\nand more")
            self.told.append((event, *arguments))

        return tell

    def curves(self) -> dict[str, list[int]]:
        found = {}
        for event, *arguments in self.told:
            if event == "curve":
                training, epochs, _ = arguments
                found.setdefault(training.name, []).extend(training.before + epoch.epoch for epoch in epochs)
        return found


class Notes:
    def __init__(self) -> None:
        self.lines = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def few(workspace, tmp_path):
    data = workspace.dataset
    count = np.arange(64)
    small = replace(data, train=data.train.take(count), validation=data.validation.take(count), fingerprint="64 digits")
    return replace(workspace, dataset=small, store=Store(tmp_path / "store"))


def tracked(few, recipes, *trackers):
    plans = {recipe.network: PLAN for recipe in recipes}
    work = work_of("dlmo study", few, recipes, plans, (0,), {"threads": 1})
    notes = Notes()
    return Tracked(trackers, work, few.store, notes), work, notes


def run(few, recipe):
    trained = train(few, recipe.network, PLAN, 0, recipe.kd)
    for step in recipe.further_trainings:
        trained = train_further(few, trained, step, PLAN, 0, recipe.kd)
    return trained


def test_every_training_is_named_once_and_counts_epochs_from_scratch(few):
    _, work, _ = tracked(few, RECIPES)
    names = {training.name: training.before for training in work.trainings()}
    assert names == {
        "resnet8@0.25": 0,
        "resnet8@0.25 > prune(0.5, epochs=2)": 3,
        "resnet8": 0,
        "resnet8@0.25 > kd(resnet8)": 0,
    }
    pruned = work.models[1].settings
    assert (pruned["setup"], pruned["network"], pruned["seed"]) == ("PRN", "resnet8@0.25", 0)
    assert (pruned["train.epochs"], pruned["prune.epochs"], pruned["threads"]) == (3, 2, 1)
    assert pruned["data_fingerprint"] == "64 digits"
    assert [training.name for training in work.models[2].teachers] == ["resnet8"]


def test_curves_are_told_when_trained_and_when_taken_from_the_store(few):
    for _ in range(2):
        listener = Listener()
        job, _, _ = tracked(few, RECIPES[:2], listener)
        with job.following():
            run(few, RECIPES[1])
        job.finish()
        assert listener.curves() == {"resnet8@0.25": [1, 2, 3], "resnet8@0.25 > prune(0.5, epochs=2)": [4, 5]}
        assert listener.told[0][0] == "begin"
        assert listener.told[-1] == ("close", "FINISHED", ())


def test_a_curve_is_told_while_the_training_goes_on(few, monkeypatch):
    monkeypatch.setattr(follow, "_SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0)
    listener = Listener()
    job, work, _ = tracked(few, RECIPES[:1], listener)
    training = next(work.trainings())
    seen = []

    class Waiting:
        """Progress that holds the training in its last epoch until its first ones were told."""

        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            return getattr(self._inner, name)

        def stage(self, name, expected=None):
            from contextlib import nullcontext

            def update(share):
                deadline = time.monotonic() + 20
                while share > 0.9 and not listener.curves() and time.monotonic() < deadline:
                    time.sleep(0.01)
                seen.append(curve_so_far(few.store, training.stage, training.key))

            return nullcontext(update)

    with job.following():
        run(replace(few, progress=Waiting(few.progress)), RECIPES[0])
    curves = [arguments for event, *arguments in listener.told if event == "curve"]
    assert [epoch.epoch for epoch in seen[-1]] == [1, 2], "read from the checkpoint"
    assert not curves[0][2] and curves[-1][2], "told in parts, the last one whole"
    assert listener.curves() == {"resnet8@0.25": [1, 2, 3]}


def test_a_job_that_fails_closes_its_log(few):
    for error, status in ((UserError("no"), "FAILED"), (KeyboardInterrupt(), "KILLED")):
        listener = Listener()
        job, _, _ = tracked(few, RECIPES[:1], listener)
        with pytest.raises(type(error)), job.following():
            raise error
        assert listener.told[-1] == ("close", status)


def test_a_tracker_that_fails_is_left_out_and_the_work_goes_on(few):
    broken, sound = Listener(fails="curve"), Listener()
    job, _, notes = tracked(few, RECIPES[:1], broken, sound)
    with job.following():
        run(few, RECIPES[0])
    job.finish()
    assert broken.told[1:] == [("close", "FAILED")], "what it has begun does not look like work under way"
    assert sound.told[-1] == ("close", "FINISHED", ())
    assert notes.lines[-1] == "tracking stopped, the work goes on: a list: disk full"


def test_unknown_trackers_are_refused_with_the_nearest():
    with pytest.raises(UserError, match='--track mlfow: no such tracker; did you mean "mlflow"'):
        tracking.find(["mlfow"])
