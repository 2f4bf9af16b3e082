import pytest

from dlmo.errors import BudgetError
from dlmo.strategy.budget import make_budget
from dlmo.strategy.evidence import Evidence, impossible, refusal, smallest
from dlmo.strategy.job import Options
from dlmo.strategy.optimize import optimize
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
    (tmp_path / "out" / "c").mkdir(parents=True)
    earlier = [
        tmp_path / "out" / name for name in ("model.tflite", "c/model_data.cc", "model_card.md", "manifest.json")
    ]
    for path in earlier:
        path.write_text('{"dlmo": "0.1.0"}')
    trained = set(shared_store.glob("train/*"))
    with pytest.raises(BudgetError, match="allowed") as caught:
        optimize("digits", network=["resnet8@0.25"], options=options, **limit)
    run = caught.value.run
    assert not run.results and run.choice is None and len(run.nearest) == 3
    assert "nothing was trained" in run.notes[-1]
    assert set(shared_store.glob("train/*")) == trained
    assert "allowed" in (tmp_path / "out" / "report.html").read_text()
    assert not any(path.exists() for path in earlier), "no file speaks for another run"
