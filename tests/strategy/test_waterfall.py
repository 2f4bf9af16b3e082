from dataclasses import replace

import pytest

from dlmo.measure.statistics import PairedTest
from dlmo.strategy.budget import make_budget
from dlmo.strategy.choose import choose
from dlmo.strategy.options import Options
from dlmo.strategy.study import study
from dlmo.strategy.waterfall import ladder, leanest, waterfall, without_teacher
from dlmo.study.recipe import parse
from dlmo.study.results import Result

FULL = "resnet8 > kd(resnet20) > prune_channels(0.5) > qat > int8"


def result(recipe, accuracy=0.9, size=1000, latency=1.0):
    parsed = parse(recipe)
    return Result(
        recipe=str(parsed), setup=parsed.setup, network=parsed.network, accuracy=accuracy, accuracy_low=0.8,
        accuracy_high=0.95, validation_accuracy=accuracy, size_bytes=size, compressed_bytes=900, latency_ms=latency,
        latency_p90_ms=1.1, threads=1, ram_bytes=5000, macs=1, parameters=1, delegated=1.0, partitions=1, seed=0,
        epochs=1, seconds=1.0, test_images=100, validation_images=1000, sparsity=0.0, operators={},
        float_operators=(), artifact="x.tflite",
    )  # fmt: skip


def same(first, second):
    return PairedTest(100, 3, 3, 1.0)


def test_the_ladder_adds_one_step_at_a_time():
    assert [(step, str(recipe)) for step, recipe in ladder(parse(FULL))] == [
        ("float32", "resnet8 > float32"),
        ("kd(resnet20)", "resnet8 > kd(resnet20) > float32"),
        ("prune_channels(0.5)", "resnet8 > kd(resnet20) > prune_channels(0.5) > float32"),
        ("int8", "resnet8 > kd(resnet20) > prune_channels(0.5) > int8"),
        ("qat", FULL),
    ]
    assert [step for step, _ in ladder(parse("resnet8 > prune > float32"))] == ["float32", "prune"]
    assert [step for step, _ in ladder(parse("resnet8 > float32"))] == ["float32"]


def test_a_teacher_alone_can_be_left_out_without_another_training():
    assert [str(recipe) for recipe in without_teacher(parse("resnet8 > kd(resnet20) > int8"))] == ["resnet8 > int8"]
    for text in (FULL, "resnet8 > kd(resnet20) > prune > int8", "resnet8 > prune > int8", "resnet8 > int8"):
        assert without_teacher(parse(text)) == []
    # So a file as good as that of the chosen recipe is there, and is taken.
    plain, taught = result("resnet8 > int8", 0.9, 250), result("resnet8 > kd(resnet20) > int8", 0.9, 250)
    assert leanest(taught, [plain, taught], make_budget("low"), 0.9) is plain


def test_rungs_say_what_paid_and_join_what_was_not_tried_alone():
    results = [
        result("resnet8 > float32", 0.9, 1000, 1.0),
        result("resnet8 > kd(resnet20) > float32", 0.9, 1000, 1.0),
        result("resnet8 > kd(resnet20) > prune_channels(0.5) > int8", 0.89, 100, 0.2),
        result(FULL, 0.9, 100, 0.2),
    ]
    rungs = waterfall(results[-1], results, same, "latency_ms")
    assert [(rung.step, rung.paid) for rung in rungs] == [
        ("float32", True), ("kd(resnet20)", False), ("prune_channels(0.5) + int8", True), ("qat", False)
    ]  # fmt: skip
    assert rungs[0].verdict == "" and "no difference" in rungs[1].verdict
    assert waterfall(results[0], results, same, "latency_ms") == ()


def test_a_step_that_helps_beyond_chance_pays():
    results = [result("resnet8 > int8", 0.8), result("resnet8 > qat > int8", 0.9)]
    rungs = waterfall(results[1], results, lambda first, second: PairedTest(100, 0, 10, 0.01), "latency_ms")
    assert [rung.paid for rung in rungs] == [True, True]


def test_the_choice_is_made_without_steps_that_did_not_pay():
    budget = make_budget("low")
    plain, trained = result("resnet8 > int8", 0.9, 301, 0.41), result("resnet8 > qat > int8", 0.9, 300, 0.4)
    results = [result("resnet8 > float32"), plain, trained]
    choice = choose(results, budget, same)
    assert choice.result is plain
    assert choice.reasons[0].startswith("as good as the smallest file of 3 candidates")
    assert choice.reasons[-1].startswith("qat did not pay and was dropped: resnet8 > qat > int8 is 300 bytes")
    better = replace(trained, validation_accuracy=0.92)
    assert choose([*results[:2], better], budget, same).result is better
    smaller = replace(trained, size_bytes=250)
    assert choose([*results[:2], smaller], budget, same).result is smaller


@pytest.mark.parametrize("other", ["resnet8@0.5 > int8", "resnet8 > float32", "resnet8 > prune > int8"])
def test_only_the_same_network_with_fewer_steps_is_leaner(other):
    chosen = result("resnet8 > qat > int8")
    assert leanest(chosen, [chosen, result(other)], make_budget("low"), 0.9) is chosen


def test_the_limits_hold_for_the_leaner_one_too():
    chosen, other = result("resnet8 > qat > int8", size=1000), result("resnet8 > int8", size=1005)
    assert leanest(chosen, [other], make_budget("low"), 0.9) is other
    assert leanest(chosen, [other], make_budget("low", max_size="1KB"), 0.9) is chosen


def test_rungs_hold_the_figures_of_the_results(shared_store):
    """Real files: a study's results, and the waterfall of its most accurate int8 file."""
    options = Options(epochs=2, store=shared_store)
    recipes = [f"resnet8@0.25 > {steps}" for steps in ("float32", "int8", "qat(1) > int8")]
    run = study("digits", recipe=recipes, options=options)
    rungs = waterfall(run.results[2], run.results, same, "latency_ms")
    assert [rung.step for rung in rungs] == ["float32", "int8", "qat(1)"]
    for rung, row in zip(rungs, run.results):
        for name in ("recipe", "size_bytes", "latency_ms", "ram_bytes", "validation_accuracy", "accuracy"):
            assert getattr(rung, name) == getattr(row, name)
