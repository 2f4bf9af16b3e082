import io
import time

import pytest

from dlmo.progress import SilentProgress
from dlmo.report.progress import Forecast, Stage, TerminalProgress


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_where_there_is_no_terminal():
    stream, clock = io.StringIO(), Clock()
    progress = TerminalProgress(stream, clock)
    with progress.total(200), progress.stage("train resnet20: 30 epochs", 100) as update:
        for clock.now in range(0, 101, 10):
            update(clock.now / 100)
        progress.note("a note")
    assert stream.getvalue().splitlines() == [
        "expected to take 3m 20s",
        "train resnet20: 30 epochs: started",
        "train resnet20: 30 epochs: 30 %, 1m 10s left, all: 2m 50s left",
        "train resnet20: 30 epochs: 60 %, 40 s left, all: 2m 20s left",
        "train resnet20: 30 epochs: 90 %, 10 s left, all: 1m 50s left",
        "a note",
        "train resnet20: 30 epochs: done in 1m 40s",
        "all done in 1m 40s",
    ]


def test_a_work_that_takes_the_time_it_is_given_ends_by_the_clock():
    stream, clock = io.StringIO(), Clock()
    progress = TerminalProgress(stream, clock)
    with progress.total(600, to_the_end=True):
        with progress.stage("train", 100):
            clock.now = 300  # three times what was expected
        with progress.stage("search") as update:
            clock.now = 400
            update(0.5)
    assert "all: 3m 20s left" in stream.getvalue()


def test_plain_lines_hold_no_control_characters():
    stream = io.StringIO()
    progress = TerminalProgress(stream, Clock())
    with progress.stage("evil \x1b[31m\r stage [bold]") as update:
        update(0.5)
    assert "\x1b" not in stream.getvalue() and "\r" not in stream.getvalue()
    assert "[bold]" in stream.getvalue()


def test_a_stage_that_fails_is_not_called_done():
    stream = io.StringIO()
    progress = TerminalProgress(stream, Clock())
    with pytest.raises(KeyboardInterrupt), progress.stage("convert"):
        raise KeyboardInterrupt
    assert "convert: stopped after" in stream.getvalue()
    assert "done" not in stream.getvalue()


def test_bars_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    stream, clock = Terminal(), Clock()
    progress = TerminalProgress(stream, clock)
    with progress.total(300):
        with progress.stage("train [x]: 30 epochs", 200) as update:
            clock.now = 60.0
            update(0.4)
            time.sleep(0.6)  # the bars are drawn four times a second
            progress.note("above the bars")
        with progress.stage("convert"):
            pass
    text = stream.getvalue()
    for part in (
        "train [x]: 30 epochs",
        "40 %",
        "1m 00s, 1m 30s left",
        "above the bars",
        "done in 1m 00s",
        "all",
    ):
        assert part in text


def test_the_first_steps_tell_no_pace():
    stage = Stage("train", 1000, 0)
    stage.tell(0.0001, 60)  # a teacher answered first
    assert stage.left(60) == pytest.approx(1000, rel=0.01)
    stage.tell(0.001, 61)
    assert stage.left(61) == pytest.approx(1000, rel=0.01)
    stage.tell(0.0501, 160)
    assert stage.left(160) == pytest.approx(0.95 * 100 / 0.05, rel=0.01)
    unknown = Stage("train", None, 0)
    unknown.tell(0.001, 1)
    assert unknown.left(1) == pytest.approx(999)


def test_the_whole_follows_the_pace_of_the_first_stage():
    forecast, stage = Forecast(expected=1000, started=0), Stage("train", 900, 0)
    forecast.begin(stage)
    for second in range(1, 11):
        stage.tell(second / 20, 10.0 * second)
    assert forecast.left(100) == pytest.approx(100 + 100), "what is left of the stage, and what comes after it"


def test_forecast_learns_from_finished_stages():
    forecast = Forecast(expected=100, started=0)
    first, second = Stage("a", 40, 0), Stage("b", 40, 80)
    forecast.begin(first)
    assert forecast.left(10) == 90
    forecast.end(first, 80)  # took twice as long as expected
    assert forecast.left(80) == pytest.approx(120)
    forecast.begin(second)
    second.done = 0.5
    assert forecast.left(120) == pytest.approx(40 + 40)
    assert forecast.share(120) == pytest.approx(120 / 200)


def test_what_an_earlier_run_did_is_not_taken_for_the_pace_of_this_one():
    forecast, stage = Forecast(expected=200, started=0), Stage("train", 100, 0)
    forecast.begin(stage)
    stage.tell(0.90, 1)
    for now in range(2, 7):  # 1 % a second
        stage.tell(0.89 + now / 100, now)
    assert stage.left(6) == pytest.approx(5) and stage.left(7) == pytest.approx(4)
    assert stage.earlier() == pytest.approx(0.89)
    assert forecast.left(6) == pytest.approx(200 - 89 - 6)
    stage.tell(1.0, 11)
    forecast.end(stage, 11)  # 11 % in 11 seconds, as expected
    assert forecast.left(11) == pytest.approx(100)


def test_forecast_without_expected_stages_counts_down_but_not_below_the_stage():
    forecast = Forecast(expected=100, started=0)
    stage = Stage("a", None, 0)
    forecast.begin(stage)
    stage.done = 0.25
    assert forecast.left(20) == pytest.approx(80)
    assert forecast.left(90) == pytest.approx(270)


def test_silent_progress_has_the_same_interface(capfd):
    progress = SilentProgress()
    with progress.total(None), progress.stage("x") as update:
        update(0.5)
        progress.note("y")
    assert capfd.readouterr() == ("", "")
