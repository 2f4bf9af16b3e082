from dataclasses import replace
from types import SimpleNamespace

import pytest

from dlmo.measure.statistics import PairedTest
from dlmo.strategy.budget import make_budget, without_latency
from dlmo.strategy.choose import explain, nearest, pick, shut_out, step_worth
from dlmo.strategy.remarks import few_images, repairs
from dlmo.study.recipe import for_setup
from dlmo.study.results import NOT_ENOUGH, Result, most_accurate, pareto_front


def result(setup="NQ", network="resnet8", **values):
    base = Result(
        recipe=str(for_setup(network, setup)), setup=setup, network=network, accuracy=0.9, accuracy_low=0.88,
        accuracy_high=0.92, validation_accuracy=0.9, size_bytes=1000, compressed_bytes=900, latency_ms=1.0,
        latency_p90_ms=1.1, threads=1, ram_bytes=5000, macs=1, parameters=1, delegated=1.0, partitions=1, seed=0,
        epochs=1, seconds=1.0, test_images=100, validation_images=100, sparsity=0.0, operators={},
        float_operators=(), artifact="x.tflite",
    )  # fmt: skip
    return replace(base, **values)


NQ = result()
FIQ = result("FIQ", validation_accuracy=0.895, size_bytes=300, latency_ms=0.4)
PRQ = result("PRQ", validation_accuracy=0.88, size_bytes=200, latency_ms=1.0)
F16 = result("F16", validation_accuracy=0.9, size_bytes=510)
ALL = [NQ, FIQ, PRQ, F16]


def same(first, second):
    return PairedTest(100, 3, 3, 1.0)


def test_low_takes_the_smallest_within_one_point():
    assert pick(ALL, make_budget("low")) is FIQ
    assert pick(ALL, make_budget("low", max_drop=0.02)) is PRQ


def test_mid_weighs_size_and_latency_against_accuracy():
    assert pick(ALL, make_budget("mid")) is FIQ
    assert pick([NQ, F16], make_budget("mid")) is F16


@pytest.mark.parametrize(("errors", "picked"), [(0.109, "half"), (0.111, "whole")])
@pytest.mark.parametrize("halved", ["size_bytes", "latency_ms"])
def test_half_the_size_or_the_latency_weighs_like_a_tenth_more_errors(halved, errors, picked):
    whole = result(validation_accuracy=0.9, validation_images=1_000_000)
    half = replace(
        whole, recipe="resnet8 > int8", validation_accuracy=1 - errors, **{halved: getattr(whole, halved) / 2}
    )
    found = pick([whole, half], make_budget("mid", max_drop=0.05))
    assert found is {"half": half, "whole": whole}[picked]


def test_high_takes_accuracy_first_then_latency():
    fast = replace(F16, latency_ms=0.9)
    assert pick([NQ, FIQ, fast], make_budget("high")) is fast


def test_choice_uses_validation_not_test():
    liar = replace(FIQ, accuracy=0.99, validation_accuracy=0.5)
    assert pick([NQ, liar], make_budget("high")) is NQ


def test_where_flash_is_told_it_is_what_counts():
    small_file = replace(FIQ, size_bytes=20_000, flash_bytes=80_000)
    small_flash = replace(PRQ, size_bytes=20_500, flash_bytes=52_000)
    plain = replace(NQ, size_bytes=90_000, flash_bytes=150_000)
    assert pick([plain, small_file, small_flash], make_budget("low", max_drop=0.05)) is small_flash


def test_among_equals_the_smallest_is_the_most_accurate():
    assert most_accurate([NQ, F16, FIQ]) is F16
    assert most_accurate([]) is None


def test_few_validation_images_are_said_not_to_tell_a_small_loss():
    choice, low = SimpleNamespace(result=replace(NQ, validation_images=29)), make_budget("low")
    (note,) = few_images(choice, low, looks_again=True)
    assert "29 validation images, of which one is 3.4 points" in note
    assert note.endswith("more images, or more --time to look again, would tell")
    assert few_images(choice, low, looks_again=False)[0].endswith("more images would tell")
    assert not few_images(choice, make_budget("high"), looks_again=True)
    assert not few_images(SimpleNamespace(result=NQ), low, looks_again=True), "100 images tell a point"


def test_limits_are_kept_and_the_nearest_named_with_what_they_lack():
    budget = make_budget("low", max_size="100")
    assert pick(ALL, budget) is None
    lines = nearest(ALL, budget)
    assert lines[0].startswith("resnet8 > prune > dynamic_int8: ")
    assert "200 bytes (allowed 100)" in lines[0]


def test_a_network_is_judged_against_the_best_network():
    weak = result("NQ", "vgg", validation_accuracy=0.7, size_bytes=50)
    assert pick([NQ, weak], make_budget("low")) is NQ


def test_unknown_memory_does_not_pass_a_memory_limit():
    budget = make_budget("low", max_ram="1MB")
    assert pick([replace(NQ, ram_bytes=None)], budget) is None


def test_worth_compares_with_the_recipe_without_the_step():
    chosen = result("PRN+FIQ", size_bytes=150, latency_ms=0.4)
    prn = result("PRN", size_bytes=400)
    worth = step_worth(chosen, [*ALL, prn, chosen], same)
    assert [(w.step, w.without) for w in worth] == [
        ("prune", "resnet8 > int8"),
        ("int8", "resnet8 > prune > float32"),
    ]
    assert worth[0].size_ratio == 0.5 and worth[0].paid
    assert worth[1].latency_ratio == 0.4 and worth[1].paid


def test_a_step_that_gave_nothing_is_named():
    chosen = result("QAT", size_bytes=300, latency_ms=0.4)
    choice = explain(chosen, [*ALL, chosen], make_budget("low"), same)
    assert any(reason.startswith("qat did not pay here") for reason in choice.reasons)
    assert [w.without for w in choice.worth] == ["resnet8 > int8", "resnet8 > float32"]


def test_advice_is_derived_from_the_measurements():
    choice = explain(FIQ, ALL, make_budget("low"), same)
    assert "advises PRQ" in choice.advice and "did not hold" in choice.advice
    held = explain(PRQ, ALL, make_budget("low", max_drop=0.5), same)
    assert "it held here" in held.advice
    assert "cannot tell" in explain(FIQ, [NQ, FIQ], make_budget("low"), same).advice


def test_pareto_front_keeps_what_nothing_beats():
    assert pareto_front(tuple(ALL), "size_bytes") == [PRQ, FIQ, F16]


def test_a_size_limit_is_about_flash_where_the_target_tells_it():
    budget = make_budget("low", max_size="400")
    assert pick([FIQ], budget) is FIQ
    stored = replace(FIQ, flash_bytes=500, flash_source="estimated")
    assert pick([stored], budget) is None
    assert "500 bytes of flash (allowed 400)" in nearest([stored], budget)[0]


def test_without_latency_ram_takes_its_place():
    budget = without_latency(make_budget("mid"), "mcu", None)
    untimed = {"latency_ms": None, "latency_p90_ms": None}
    plain = result(**untimed, ram_bytes=8000)
    lean = result("FIQ", **untimed, validation_accuracy=0.895, size_bytes=300, ram_bytes=2000)
    assert pick([plain, lean], budget) is lean
    assert pick([plain, replace(lean, ram_bytes=None)], budget) is plain
    high = without_latency(make_budget("high"), "mcu", None)
    assert pick([plain, replace(plain, ram_bytes=7000)], high).ram_bytes == 7000
    choice = explain(lean, [plain, lean], budget, same)
    assert any("4.0x less RAM" in reason for reason in choice.reasons)
    (worth,) = choice.worth
    assert (worth.latency_ratio, worth.ram_ratio) == (None, 0.25)
    assert "latency is not known" in nearest([plain], make_budget("mid"))[0]
    slow = replace(plain, latency_ms=35.0)
    assert "35 ms" in nearest([plain, slow], make_budget("mid"))[0], "it nearly keeps the limit; of the other who knows"


def test_an_unknown_latency_is_called_unknown():
    known, unknown = result(size_bytes=2000), result("FIQ", size_bytes=300, latency_ms=None, latency_p90_ms=None)
    for first, second in ((known, unknown), (replace(known, latency_ms=None), unknown)):
        choice = explain(second, [first, second], make_budget("low"), same)
        assert "6.7x smaller, not known whether it is faster" in choice.reasons[1]
        (worth,) = choice.worth
        assert worth.latency_ratio is None and worth.paid


def test_what_the_allowed_loss_alone_shuts_out_is_named():
    tiny = result("PRN", validation_accuracy=0.85, size_bytes=100)
    slow = result("BLQ", validation_accuracy=0.85, size_bytes=150, latency_ms=9.0)
    budget = make_budget("low", max_latency="5ms")
    assert shut_out(FIQ, [*ALL, tiny, slow], budget) == (
        "resnet8 > prune > float32: loses 5.00 points (allowed 1)",
        "resnet8 > prune > dynamic_int8: loses 2.00 points (allowed 1)",
    )
    assert shut_out(FIQ, [*ALL, tiny], make_budget("mid")) == ()
    as_good = replace(FIQ, size_bytes=299)  # the choice may have fewer steps than the smallest file
    assert shut_out(FIQ, [NQ, FIQ, as_good], make_budget("low")) == ()


def test_what_int8_lost_is_advised_on_by_what_was_not_tried_and_the_target_runs():
    lossy = replace(FIQ, repair=f"min/max ranges (lost 2.0){NOT_ENOUGH}")
    (note,) = repairs([NQ, lossy], "cpu")
    assert note.startswith("resnet8 > int8: quantized with min/max ranges")
    assert note.endswith(": try qat > int8, or mixed(drop=0.005), which leaves layers in float")
    (note,) = repairs([NQ, lossy, result("QAT")], "mcu")
    assert note.endswith(f"{NOT_ENOUGH} (by LiteRT on this machine)")
    assert repairs([NQ, FIQ], "cpu") == ()


def test_advice_that_cannot_be_told_from_the_choice():
    twin = result("PRN", size_bytes=310, latency_ms=0.41, validation_accuracy=0.894)
    budget = make_budget("mid")
    assert "this run cannot tell it from the choice" in explain(FIQ, [NQ, FIQ, twin], budget, same).advice
    slower = replace(twin, latency_ms=0.8)
    assert "PRN meets the budget, but is not best" in explain(FIQ, [NQ, FIQ, slower], budget, same).advice


def test_a_step_that_trained_longer_says_so():
    longer = result("PRN", epochs=4, size_bytes=300)
    (worth,) = step_worth(longer, [NQ, longer], same)
    assert worth.verdict.endswith(", with 3 epochs more of training")
