"""What each operator of a file adds to its latency.

LiteRT's Python package tells no times of single operators, and an operator in a file of its own finds other caches and
other neighbours. So the beginnings of the graph are timed, each in turns with the one that is an operator shorter: the
difference is what the operator adds.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from dlmo.measure.probe import Report, opener
from dlmo.runtimes.litert import flatbuffer
from dlmo.runtimes.litert.beginning import beginning, computing
from dlmo.runtimes.litert.interpreter import quiet

_ROUNDS, _SECONDS_PER_TURN = 9, 0.01
_RUNS_PER_TURN = (1, 100)
_LONGEST = 4.0  # seconds for one pair: slow files are timed in fewer rounds


def operator_latencies(content: bytes, layout: str, size: list[int] | None, threads: int, report: Report) -> dict:
    """In a child: `operators`, microseconds that each operator of a file adds to a run, in the order of execution, and
    `whole`, microseconds of a run of the whole file.

    An operator adds the median over turns of the difference of medians; 0 where that is below 0, and for operators
    that only prepare constants when the file is loaded. The first that computes has the interpreter's own call in it.
    A run takes one image, or the file's own batch.
    """
    report(0)
    runs = computing(flatbuffer.read(content))
    shape = opener(layout, size)(content).input["shape"]
    found = [0.0] * len(runs)
    shorter, turns = None, np.zeros((1, 2))
    for index, does in enumerate(runs):
        if not does:
            continue
        longer = _open(beginning(content, index + 1), shape, threads)
        turns = _in_turns(longer, shorter, partial(report, index / len(runs)))
        found[index] = max(0.0, float(np.median(turns[:, 0] - turns[:, 1])))
        shorter = longer
    report(1)
    return {"operators": found, "whole": float(np.median(turns[:, 0]))}


def _open(content: bytes, shape: np.ndarray, threads: int) -> Interpreter:
    with quiet():
        interpreter = Interpreter(model_content=content, num_threads=threads)
        entry = interpreter.get_input_details()[0]
        if tuple(entry["shape"]) != tuple(shape):
            interpreter.resize_tensor_input(entry["index"], shape)
        interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]
    numbers = np.random.default_rng(0).integers(0, 127, entry["shape"])
    interpreter.set_tensor(entry["index"], numbers.astype(entry["dtype"]))
    return interpreter


def _in_turns(longer: Interpreter, shorter: Interpreter | None, alive: Callable[[], None]) -> np.ndarray:
    """Microseconds of a run of both in each of several turns, turns x 2; 0 for a shorter one that is not there."""
    began = time.monotonic()
    runs = int(np.clip(_SECONDS_PER_TURN * 1e6 / max(1.0, _microseconds(longer, 1)), *_RUNS_PER_TURN))
    turns = []
    while len(turns) < _ROUNDS and (not turns or time.monotonic() - began < _LONGEST):
        alive()
        taken = _microseconds(longer, runs)
        alive()
        turns.append((taken, 0.0 if shorter is None else _microseconds(shorter, runs)))
    return np.array(turns)


def _microseconds(interpreter: Interpreter, runs: int) -> float:
    """The median of `runs` runs, after one that brings weights and maps back into the caches."""
    interpreter.invoke()
    elapsed = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        interpreter.invoke()
        elapsed.append(time.perf_counter_ns() - start)
    return float(np.median(elapsed)) / 1000
