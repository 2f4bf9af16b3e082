"""`optimize` with time to search, for real: tiny networks, one epoch more or less."""

import pytest

from dlmo.strategy import plan, search, space
from dlmo.strategy.optimize import optimize
from dlmo.strategy.options import Options
from dlmo.study.recipe import SETUPS
from dlmo.study.results import pareto_front


@pytest.fixture
def small(monkeypatch):
    """Short schedules and few recipes, so that the search ends because nothing is left."""
    monkeypatch.setattr(plan, "full_epochs", lambda images: 2)
    monkeypatch.setattr("dlmo.strategy.job.full_epochs", lambda images: 2)
    monkeypatch.setattr(space, "_MOST_CUT", 0.5)
    monkeypatch.setattr(space, "_CUT_STEP", 0.25)
    monkeypatch.setattr(space, "_FORMS", ("int8",))
    monkeypatch.setattr(search, "_MOST_REPEATS", 8)
    monkeypatch.setattr(search, "_SHORT_PER_LONG", 1)


def run(store, **budget):
    options = Options(time="2h", store=store)
    return optimize("digits", network=["resnet8@0.25"], options=options, **budget)


def test_it_ends_with_a_front_and_another_budget_trains_nothing(small, shared_store, monkeypatch):
    monkeypatch.setattr("dlmo.data.assemble.FEW_VALIDATION", 0)  # else other files may be looked at again
    first = run(shared_store, service="high")
    recipes = [result.recipe for result in first.results]
    assert [result.setup for result in first.results][: len(SETUPS)] == list(SETUPS)
    assert "resnet8@0.25 > prune_channels(0.5, scope=layer) > int8" in recipes
    assert len(recipes) == len(set(recipes))
    assert first.search.stopped == "nothing new was proposed"
    assert {trial.epochs for trial in first.search.trials} == {0, 1, 2}
    (refused,) = [trial for trial in first.search.trials if trial.refused]
    assert refused.recipe == "resnet8@0.25 > prune_channels(0.25, scope=layer) > int8"
    assert "cuts nothing of resnet8@0.25" in refused.refused
    assert pareto_front(first.results, "size_bytes")
    monkeypatch.setattr("dlmo.study.trainings._train_into", None)
    second = run(shared_store, service="low", max_drop=1.0)
    assert [result.recipe for result in second.results] == recipes
    assert second.choice.result.size_bytes <= 1.01 * min(result.size_bytes for result in second.results)
    figures = {result.recipe: result for result in second.results}
    for rung in second.choice.waterfall:
        assert rung.size_bytes == figures[rung.recipe].size_bytes
        assert rung.accuracy == figures[rung.recipe].accuracy


def test_with_few_validation_images_the_choice_was_looked_at_again(small, shared_store, digits):
    found = run(shared_store, service="low", max_drop=1.0)
    images = sum(map(len, digits.folds))  # those alone that nothing was chosen on
    assert images > 2.9 * len(digits.validation)
    chosen = found.choice.result
    assert chosen.validation_images == images
    judged = [result for result in found.results if result.validation_images == images]
    assert {"NQ", "BLQ", "FIQ", "F16"} <= {result.setup for result in judged}  # of one training
    assert chosen.size_bytes <= 1.01 * min(result.size_bytes for result in judged)
    assert any(note.startswith(f"{chosen.recipe}: ") and "looked at again" in note for note in found.notes)
    assert found.to_json()["choice"]["validation_images"] == images
