import pytest

from dlmo.errors import UserError
from dlmo.measure import memory
from dlmo.strategy.budget import make_budget, parse_duration, parse_size, without_latency
from dlmo.strategy.optimize import optimize


@pytest.mark.parametrize("text, size", [("100KB", 100_000), ("96KiB", 98_304), ("1.5MB", 1_500_000), ("7", 7)])
def test_sizes(text, size):
    assert parse_size("--max-size", text) == size


@pytest.mark.parametrize("text, seconds", [("2ms", 0.002), ("90", 90), ("10m", 600), ("1.5h", 5400), ("5us", 5e-6)])
def test_durations(text, seconds):
    assert parse_duration("--time", text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "big", "-3KB", "0", "5 parsecs", "1e3KB", "nan", "9" * 400, "9" * 310 + "MB"])
def test_nonsense_is_refused_with_the_option_and_an_example(text):
    for parse, option in ((parse_size, "--max-size"), (parse_duration, "--time")):
        with pytest.raises(UserError, match=f"{option}.*write it like"):
            parse(option, text)


def test_python_may_give_numbers():
    budget = make_budget("low", max_size=100_000, max_ram=64_000, max_latency=2.5)
    assert (budget.max_size, budget.max_ram, budget.max_latency_ms) == (100_000, 64_000, pytest.approx(2.5))
    with pytest.raises(UserError, match="--min-accuracy 0.9 is no share"):
        make_budget("low", min_accuracy="0.9")


def test_a_service_can_be_overridden_limit_by_limit():
    budget = make_budget("low", max_latency="2", min_accuracy=0.9)
    assert (budget.goal, budget.max_drop, budget.min_accuracy) == ("size", 0.01, 0.9)
    assert budget.max_latency_ms == pytest.approx(2)


def test_unknown_service_and_shares_outside_0_to_1():
    with pytest.raises(UserError, match='did you mean "low"'):
        make_budget("lo")
    with pytest.raises(UserError, match="--min-accuracy 90"):
        make_budget("low", min_accuracy=90)
    with pytest.raises(UserError, match="--max-drop -0.1"):
        make_budget("low", max_drop=-0.1)


def test_a_target_without_latency_is_judged_by_ram():
    budget = without_latency(make_budget("mid", max_ram="64KB"), "mcu", None)
    assert (budget.max_latency_ms, budget.max_ram, budget.running_cost) == (None, 64_000, "ram_bytes")
    assert budget.words()["goal"] == "best balance of accuracy, RAM and size"
    with pytest.raises(UserError, match="--max-latency.*target mcu"):
        without_latency(budget, "mcu", "3ms")


def test_a_limit_on_memory_that_nobody_can_see_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "is_told", lambda: False)
    with pytest.raises(UserError, match="--max-ram 64KB: this system does not tell"):
        optimize("digits", max_ram="64KB")
