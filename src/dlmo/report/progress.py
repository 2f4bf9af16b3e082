"""Progress of long work on stderr: live bars in a terminal, plain lines elsewhere, or nothing."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.progress import ProgressColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Column
from rich.text import Text

from dlmo.report.wording import duration

Update = Callable[[float], None]
PLAIN_INTERVAL = 30.0  # seconds between progress lines where there is no terminal
# A pace over less than this share says little: the first steps wait for memory, kernels and a teacher's answers.
_LEAST_TOLD = 0.02


@dataclass
class Stage:
    """A stage under way. done: share of it, 0 to 1; None until it first tells.

    A stage that goes on where a killed run left it tells a large share at once, so its pace is taken from the first
    time that it told to the last.
    """

    name: str
    expected: float | None
    started: float
    done: float | None = None
    _first: tuple[float, float] | None = None  # when it told, and the share
    _last: float = 0.0

    def tell(self, share: float, now: float) -> None:
        self.done = min(1.0, max(0.0, share))
        self._first, self._last = self._first or (now, self.done), now

    def elapsed(self, now: float) -> float:
        return now - self.started

    def left(self, now: float) -> float | None:
        """Seconds left by the pace so far, else by what was expected; None where nothing is known."""
        pace = self._pace()
        if self.expected is not None and (0 < (self.done or 0) < _LEAST_TOLD or 0 < self._told() < _LEAST_TOLD):
            pace = self.expected
        if pace is not None:
            return max(0.0, (1 - self.done) * pace - (now - self._last))
        if self.done:
            return self.elapsed(now) * (1 - self.done) / self.done
        return None if self.expected is None else max(0.0, self.expected - self.elapsed(now))

    def share(self, now: float) -> float | None:
        return self.done

    def earlier(self) -> float:
        """The share that was done before the stage was begun here, by its pace since."""
        pace = self._pace()
        if not pace:
            return 0.0
        told, share = self._first
        return max(0.0, share - (told - self.started) / pace)

    def _pace(self) -> float | None:
        """Seconds for the whole; None until it told of two shares."""
        return (self._last - self._first[0]) / self._told() if self._told() > 0 else None

    def _told(self) -> float:
        """The share that was done since it first told."""
        return 0.0 if self._first is None else self.done - self._first[1]


@dataclass
class Forecast:
    """Time left of the whole work, corrected by how long finished stages took against what was expected.

    to_the_end: nothing is corrected, the work takes what was expected.
    """

    expected: float | None
    started: float
    to_the_end: bool = False
    open: list[Stage] = field(default_factory=list)
    finished_expected: float = 0.0
    finished_actual: float = 0.0

    def begin(self, stage: Stage) -> None:
        self.open.append(stage)

    def end(self, stage: Stage, now: float) -> None:
        self.open.remove(stage)
        # A stage inside another is already counted by the outer one.
        if not self.open and stage.expected is not None:
            earlier = stage.expected * stage.earlier()
            if self.expected is not None and not self.to_the_end:
                self.expected -= earlier
            self.finished_expected += stage.expected - earlier
            self.finished_actual += stage.elapsed(now)

    def left(self, now: float) -> float | None:
        if self.expected is None:
            return None
        if self.to_the_end:
            return max(0.0, self.expected - (now - self.started))
        current = (self.open[0].left(now) or 0.0) if self.open else 0.0
        if not self.finished_expected and (not self.open or not self.open[0].expected or not self.open[0].done):
            return max(self.expected - (now - self.started), current)
        if not self.finished_expected:  # the first stage tells its own pace; what is ahead is as it was expected
            return max(0.0, self.expected - self.open[0].expected) + current
        ahead = self.expected - self.finished_expected - ((self.open[0].expected or 0.0) if self.open else 0.0)
        return max(0.0, ahead) * self.finished_actual / self.finished_expected + current

    def share(self, now: float) -> float | None:
        left = self.left(now)
        if left is None:
            return None
        elapsed = now - self.started
        return elapsed / (elapsed + left) if elapsed + left > 0 else 0.0


class TerminalProgress:
    """Bars with elapsed time and time left on a terminal; elsewhere a plain line per event, without controls."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = Console(file=stream or sys.stderr)
        self._clock = clock
        self._display = _Bars(self._console) if self._console.is_terminal else _Lines(self._console.file)
        self._forecast = Forecast(None, clock())

    @contextmanager
    def total(self, expected_seconds: float | None, to_the_end: bool = False) -> Iterator[None]:
        self._forecast = Forecast(expected_seconds, self._clock(), to_the_end)
        with self._display.whole(self._forecast, self._clock):
            yield

    @contextmanager
    def stage(self, name: str, expected_seconds: float | None = None) -> Iterator[Update]:
        stage = Stage(name, expected_seconds, self._clock())
        self._forecast.begin(stage)

        def update(share: float) -> None:
            stage.tell(share, self._clock())
            self._display.moved(stage, self._forecast, self._clock())

        try:
            with self._display.part(stage, self._clock):
                yield update
        finally:
            self._forecast.end(stage, self._clock())

    def note(self, text: str) -> None:
        self._display.note(text)


class _Bars:
    """Rich bars; they vanish when done, and a line per finished stage stays above them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._depth = 0
        self._bars: RichProgress | None = None

    @contextmanager
    def whole(self, forecast: Forecast, clock: Callable[[], float]) -> Iterator[None]:
        with self._live(clock):
            if forecast.expected is None:
                yield
            else:
                with self._bar("all", forecast):
                    yield

    @contextmanager
    def part(self, stage: Stage, clock: Callable[[], float]) -> Iterator[None]:
        with self._live(clock), self._bar(stage.name, stage):
            yield
            self.note(f"{stage.name}: done in {duration(stage.elapsed(clock()))}")

    def moved(self, stage: Stage, forecast: Forecast, now: float) -> None:
        """Nothing to do: the bars read stage and forecast whenever they are drawn."""

    def note(self, text: str) -> None:
        self._console.print(Text(text))

    @contextmanager
    def _bar(self, name: str, source: Stage | Forecast) -> Iterator[None]:
        bars = self._bars
        task = bars.add_task(name, total=None, source=source)
        try:
            yield
        finally:
            bars.remove_task(task)

    @contextmanager
    def _live(self, clock: Callable[[], float]) -> Iterator[None]:
        """One live display for however many are nested."""
        if self._bars is None:
            self._bars = RichProgress(
                TextColumn(
                    "{task.description}",
                    markup=False,
                    table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
                ),
                _ShareBar(clock),
                _ShareText(clock),
                _Times(clock),
                console=self._console,
                transient=True,
                expand=True,
                refresh_per_second=4,
            )
            self._bars.start()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._bars.stop()
                self._bars = None


class _ShareBar(ProgressColumn):
    """The share done as a bar; moving to and fro where nothing is known."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> ProgressBar:
        share = task.fields["source"].share(self._clock())
        return ProgressBar(total=None if share is None else 1.0, completed=share or 0.0, width=16)


class _ShareText(ProgressColumn):
    """The share done in percent."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        super().__init__(Column(no_wrap=True, justify="right", min_width=5))

    def render(self, task: Task) -> Text:
        share = task.fields["source"].share(self._clock())
        return Text("" if share is None else f"{share * 100:.0f} %")


class _Times(ProgressColumn):
    """Time elapsed and time left."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        super().__init__(Column(no_wrap=True, justify="right", min_width=20))

    def render(self, task: Task) -> Text:
        now = self._clock()
        source: Stage | Forecast = task.fields["source"]
        left = source.left(now)
        elapsed = _whole_seconds(now - source.started)
        return Text(elapsed if left is None else f"{elapsed}, {_whole_seconds(left)} left")


class _Lines:
    """One line per event; for log files and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._said = 0.0

    @contextmanager
    def whole(self, forecast: Forecast, clock: Callable[[], float]) -> Iterator[None]:
        if forecast.expected is not None:
            self.note(f"expected to take {duration(forecast.expected)}")
        yield
        self.note(f"all done in {duration(clock() - forecast.started)}")

    @contextmanager
    def part(self, stage: Stage, clock: Callable[[], float]) -> Iterator[None]:
        self.note(f"{stage.name}: started")
        self._said = stage.started
        try:
            yield
        except BaseException:
            self.note(f"{stage.name}: stopped after {duration(stage.elapsed(clock()))}")
            raise
        self.note(f"{stage.name}: done in {duration(stage.elapsed(clock()))}")

    def moved(self, stage: Stage, forecast: Forecast, now: float) -> None:
        if now - self._said < PLAIN_INTERVAL:
            return
        self._said = now
        parts = [f"{stage.name}: {stage.done:.0%}".replace("%", " %")]
        stage_left, all_left = stage.left(now), forecast.left(now)
        if stage_left is not None:
            parts.append(f"{_whole_seconds(stage_left)} left")
        if all_left is not None:
            parts.append(f"all: {_whole_seconds(all_left)} left")
        self.note(", ".join(parts))

    def note(self, text: str) -> None:
        print("".join(c if c.isprintable() else " " for c in text), file=self._stream, flush=True)


def _whole_seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 10 else duration(seconds)
