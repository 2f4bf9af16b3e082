"""Latency of one image at batch 1, measured fairly: artifacts take turns in one run.

Needs numpy only, so that devices get this very file (see targets/ssh.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dlmo.runtimes.litert.interpreter import Runner

_WARM_UP_RUNS = 10
_ROUNDS = 12
_SECONDS_PER_TURN = 0.04
_RUNS_PER_TURN = (4, 100)
_LONGEST_TURN = 1.0  # seconds; so that a slow file is timed in a few runs


@dataclass(frozen=True)
class Latency:
    """Milliseconds per image at batch 1: median and 90th percentile over `runs` single runs."""

    p50_ms: float
    p90_ms: float
    runs: int
    threads: int


def measure_latency(
    contents: Sequence[bytes],
    threads: int,
    progress: Callable[[float], None] | None = None,
    *,
    open_file: Callable[[bytes, int], Runner],
    after_turn: Callable[[], None] | None = None,
) -> list[Latency]:
    """Time every file, `threads` threads each, in turns: a slow moment of the machine hits all of them alike.

    The input is a fixed random image in the model's own type; setting and reading tensors is not counted.
    progress: told the share done, 0 to 1, after every file of every turn. after_turn: called when all had theirs.
    """
    runners, per_turn, pieces = [], [], 0

    def one_more() -> None:
        nonlocal pieces
        pieces += 1
        if progress is not None:
            progress(pieces / ((2 + _ROUNDS) * len(contents)))

    for content in contents:
        runners.append(open_file(content, threads))
        one_more()
    for runner in runners:
        image = np.random.default_rng(0).integers(0, 256, (runner.batch, *runner.input_shape), np.uint8)
        runner.interpreter.set_tensor(runner.input["index"], runner.prepare(image))
        elapsed = _time_runs(runner, _WARM_UP_RUNS)
        per_turn.append(int(np.clip(_SECONDS_PER_TURN * 1e9 / np.median(elapsed), *_RUNS_PER_TURN)))
        one_more()
    times: list[list[np.ndarray]] = [[] for _ in runners]
    for _ in range(_ROUNDS):
        for index, runner in enumerate(runners):
            _time_runs(runner, 2)  # the turn before left its own weights in the caches
            times[index].append(_time_runs(runner, per_turn[index]))
            one_more()
        if after_turn is not None:
            after_turn()
    merged = [np.concatenate(parts) / 1e6 for parts in times]
    return [
        Latency(float(np.median(values)), float(np.percentile(values, 90)), len(values), threads) for values in merged
    ]


def _time_runs(runner: Runner, runs: int) -> np.ndarray:
    """Nanoseconds of each of `runs` single runs; of fewer, at least one, where they take too long."""
    invoke = runner.interpreter.invoke
    elapsed = np.empty(runs, np.int64)
    first = time.perf_counter_ns()
    for index in range(runs):
        start = time.perf_counter_ns()
        invoke()
        end = time.perf_counter_ns()
        elapsed[index] = end - start
        if end - first > _LONGEST_TURN * 1e9:
            return elapsed[: index + 1]
    return elapsed
