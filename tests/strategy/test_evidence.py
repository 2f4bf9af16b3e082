"""What shape alone tells before any training, and what it refuses."""

import pytest

from dlmo.errors import BudgetError, UserError
from dlmo.strategy.budget import make_budget
from dlmo.strategy.evidence import Evidence, convertible, gather, impossible, refusal, smallest, too_large
from dlmo.strategy.optimize import optimize
from dlmo.strategy.options import Options
from dlmo.study.recipe import parse


def evidence(recipe="resnet8 > int8", size=10_000, latency=0.1, ram=50_000, flash=None):
    return Evidence(parse(recipe), size, flash, latency, ram)


def test_only_what_is_clearly_over_a_limit_is_refused():
    budget = make_budget("low", max_size="10KB")
    assert refusal(evidence(), budget) is None
    assert refusal(evidence(size=10_200), budget) is None, "the trained file may be a little smaller"
    assert refusal(evidence(size=10_400), budget) == "10,400 bytes (allowed 10,000)"
    assert "of flash" in refusal(evidence(flash=90_000), budget)
    fast = make_budget("low", max_latency="90us")
    assert refusal(evidence(), fast) is None, "another measurement may be faster"
    assert refusal(evidence(latency=0.2), fast) == "0.2 ms (allowed 0.09)"
    assert "RAM" in refusal(evidence(), make_budget("low", max_ram="1KB"))


def test_the_nearest_point_that_can_be_reached_comes_first():
    budget = make_budget("low", max_size="1KB")
    large, small = evidence("resnet8 > float32", size=40_000), evidence(size=9_000)
    lines = impossible([large, small], budget)
    assert lines[0] == "resnet8 > int8: 9,000 bytes (allowed 1,000), by its shape alone"
    assert len(lines) == 2
    assert impossible([large, evidence(size=900)], budget) == ()


def test_the_smallest_networks_stand_for_all(workspace):
    names = ("resnet14", "resnet8@0.25", "resnet8")
    recipes = [parse(f"{name} > {precision}") for name in names for precision in ("float32", "int8")]
    assert [str(recipe) for recipe in smallest(workspace, recipes)] == [
        "resnet8@0.25 > float32", "resnet8@0.25 > int8"
    ]  # fmt: skip


@pytest.mark.parametrize("limit", [{"max_size": "1KB"}, {"max_latency": "1us"}, {"max_ram": "1KB"}])
@pytest.mark.parametrize("time", [None, "5h"])
def test_an_impossible_budget_is_refused_without_training(limit, time, shared_store, tmp_path, monkeypatch):
    monkeypatch.setattr("dlmo.strategy.plan._seconds_per_epoch", None)  # not even a step is timed
    options = Options(time=time, epochs=None if time else 1, store=shared_store, out=tmp_path / "out")
    trained = set(shared_store.glob("train/*"))
    with pytest.raises(BudgetError, match="allowed") as caught:
        optimize("digits", network=["resnet8@0.25"], options=options, **limit)
    run = caught.value.run
    assert not run.results and run.choice is None and len(run.nearest) == 3
    assert "nothing was trained" in run.notes[-1]
    assert set(shared_store.glob("train/*")) == trained
    assert "allowed" in (tmp_path / "out" / "report.html").read_text()


def test_an_impossible_budget_is_refused_however_short_the_time(shared_store):
    options = Options(time="1ms", store=shared_store)
    with pytest.raises(BudgetError, match="bytes .allowed 1,000., by its shape alone"):
        optimize("digits", network=["resnet8@0.25"], options=options, max_size="1KB")
    with pytest.raises(UserError, match="too short"):
        optimize("digits", network=["resnet8@0.25"], options=options, max_size="1MB")


def test_a_recipe_that_cannot_be_made_refuses_no_budget(workspace, monkeypatch):
    """An own network may break a step that nobody asked for; the search tells so of its own trials."""

    def made(workspace, recipe):
        if "prune_channels" in str(recipe):
            raise UserError("prune_channels: cannot cut a layer of type GroupNorm")
        return b""

    monkeypatch.setattr("dlmo.strategy.evidence.untrained_file", made)
    recipes = [parse("resnet8 > int8"), parse("resnet8 > prune_channels > int8")]
    assert convertible(workspace, recipes) == recipes[:1]
    assert impossible(gather(workspace, [], 1), make_budget("low", max_size="1KB")) == ()


def test_a_named_network_between_the_smallest_and_the_fastest_may_keep_both_limits(shared_store, monkeypatch):
    costs = {"resnet8@0.25": (9_000, 2.0), "mobilenet_v2@0.25": (90_000, 0.1), "resnet14@0.25": (20_000, 0.5)}

    def told(workspace, recipes, threads):
        return [evidence(str(recipe), *costs[recipe.network]) for recipe in recipes]

    def stop(*arguments, **options):
        raise RuntimeError("goes on")

    monkeypatch.setattr("dlmo.strategy.evidence.gather", told)
    monkeypatch.setattr("dlmo.strategy.evidence.smallest", lambda workspace, recipes: [
        recipe for recipe in recipes if recipe.network != "resnet14@0.25"
    ])  # fmt: skip
    monkeypatch.setattr("dlmo.strategy.job.expected_seconds", stop)
    options = Options(epochs=1, store=shared_store)
    for limit, expected in (("25KB", RuntimeError), ("15KB", BudgetError)):
        with pytest.raises(expected):
            optimize("digits", network=list(costs), options=options, max_size=limit, max_latency="1ms")


def test_a_refused_budget_leaves_the_model_of_an_earlier_run_alone(shared_store, tmp_path):
    earlier = {name: '{"dlmo": "0.1.0", "files": {}}' for name in ("model.tflite", "manifest.json", "report.html")}
    for name, text in earlier.items():
        (tmp_path / name).write_text(text)
    options = Options(epochs=1, store=shared_store, out=tmp_path)
    with pytest.raises(BudgetError) as caught:
        optimize("digits", network=["resnet8@0.25"], options=options, max_size="1KB")
    assert f"{tmp_path} keeps the model" in caught.value.run.notes[-1]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == earlier


def test_setups_that_are_too_large_leave_their_time_to_the_search(workspace):
    recipes = [parse(f"resnet8@0.25 > {steps}") for steps in ("float32", "float16", "prune > int8")]
    half, least = (entry.size_bytes for entry in gather(workspace, recipes[1:], 1))
    assert least < half

    def refused(limit, recipes=recipes):
        return too_large(workspace, recipes, make_budget("low", max_size=str(limit)))

    assert refused((least + half) // 2) == [recipes[1]]
    assert refused(2 * half) == [], "the plain network stays too: losses are measured against it"
    assert refused(10) == recipes[1:]
    assert refused(10, recipes[1:]) == [recipes[2]], "the cheapest one stays, for something to begin with"
