"""Runs that were measured on several targets: a column, a chart and a front for each."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from dlmo.measure.targets import Measured
from dlmo.report import wording
from dlmo.report.charts import charts
from dlmo.report.document import run_of
from dlmo.report.model_card import model_card
from dlmo.report.terminal import print_run

BOARD = "ssh:pi@pi4?python=dlmo-venv/bin/python"


@pytest.fixture
def on_two(run):
    """The same on a board, where the float files are the faster ones."""

    def there(result):
        slower = result.latency_ms * (30 if "int8" in result.recipe else 8)
        return Measured(
            ram_bytes=result.ram_bytes,
            ram_source="measured",
            latency_ms=slower,
            latency_p90_ms=1.1 * slower,
            latency_source="measured",
            delegated=1.0,
            partitions=1,
            latency_by_threads={"1": slower, "4": slower / 3},
            device="Raspberry Pi 4 Model B Rev 1.4, 4 cores",
        )

    results = tuple(replace(result, elsewhere={BOARD: there(result)}) for result in run.results)
    chosen = next(result for result in results if result.recipe == run.choice.result.recipe)
    return replace(run, results=results, choice=replace(run.choice, result=chosen))


def test_the_terminal_has_a_column_for_each_and_says_what_it_is(on_two):
    text = io.StringIO()
    print_run(on_two, Console(file=text, width=80))
    assert max(map(len, text.getvalue().splitlines())) <= 80
    for result in on_two.results:
        there = wording.milliseconds(result.elsewhere[BOARD].latency_ms)
        assert any(line.endswith(f" {there}") for line in text.getvalue().splitlines()), "no digit is cut off"
    words = " ".join(text.getvalue().split())
    assert "on 2" in words and f"on 2: {BOARD}; measured; Raspberry Pi 4" in words
    assert f"on {BOARD} {wording.milliseconds(on_two.choice.result.elsewhere[BOARD].latency_ms)} ms p50" in words


def test_each_target_has_its_own_front(on_two):
    drawn = charts(on_two)
    fronts = [
        [point["recipe"] for point in drawn[name]["layer"][0]["data"]["values"]]
        for name in ("chart-latency", "chart-latency-2")
    ]
    assert fronts[0] != fronts[1] and all(fronts)
    ring = drawn["chart-latency-2"]["layer"][2]["data"]["values"]
    assert [point["recipe"] for point in ring] == [on_two.choice.result.recipe]


def test_the_page_shows_what_a_device_adds(on_two):
    html = pytest.importorskip("dlmo.report.html")
    page = html.render(on_two.on(BOARD))
    assert "p50 ms, 4 threads" in page and "Raspberry Pi 4 Model B" in page
    both = html.render(on_two)
    assert 'id="chart-latency-2"' in both and f"p50 ms on {BOARD}" in both and "also on" in both


def test_csv_document_and_card_hold_it(on_two):
    lines = on_two.to_csv().splitlines()
    assert lines[0].endswith(f"latency_ms on {BOARD},latency_p90_ms on {BOARD},ram_bytes on {BOARD}")
    assert len(lines) == len(on_two.results) + 1
    assert run_of(on_two.to_json()).results == on_two.results
    card = model_card(on_two)
    assert "latency on ssh:pi@pi4" in card
    assert "latency by threads" in model_card(on_two.on(BOARD))


def test_a_run_on_one_target_has_nothing_of_it(run):
    assert run.further_targets == () and wording.elsewhere(run) == []
    assert "chart-latency-2" not in charts(run)
