"""What each operator of a file adds to its latency.

LiteRT's Python package tells no times of single operators, and an operator in a file of its own finds other caches and
other neighbours. So the beginnings of the graph are timed, each in turns with the one that is an operator shorter: the
difference is what the operator adds.
"""

import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from dlmo.measure.probe import Report, opener
from dlmo.runtimes.litert import flatbuffer
from dlmo.runtimes.litert.beginning import beginning, computing
from dlmo.runtimes.litert.interpreter import quiet

_WARM_UP_RUNS = 3
_ROUNDS, _SECONDS_PER_TURN = 9, 0.01
_RUNS_PER_TURN = (1, 100)


def operator_latencies(
    content: bytes, layout: str, size: list[int] | None, threads: int, report: Report
) -> list[float]:
    """In a child: microseconds that each operator of a file adds at batch 1, in the order of execution.

    The median over turns of the difference of medians; 0 where that is below 0, and for operators that only prepare
    constants when the file is loaded. The first that computes has the interpreter's own call in it.
    """
    report(0)
    runs = computing(flatbuffer.read(content))
    shape = opener(layout, size)(content).input["shape"]
    found = [0.0] * len(runs)
    shorter = None
    for index, does in enumerate(runs):
        if not does:
            continue
        longer = _open(beginning(content, index + 1), shape, threads)
        found[index] = max(0.0, _difference(shorter, longer))
        shorter = longer
        report((index + 1) / len(runs))
    return found


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
    for _ in range(_WARM_UP_RUNS):
        interpreter.invoke()
    return interpreter


def _difference(shorter: Interpreter | None, longer: Interpreter) -> float:
    """Microseconds that one run of `longer` takes more; all that it takes where there is no shorter one."""
    both = [longer] if shorter is None else [longer, shorter]
    runs = int(np.clip(_SECONDS_PER_TURN * 1e6 / max(1.0, _microseconds(longer, 3)), *_RUNS_PER_TURN))
    turns = np.array([[_microseconds(each, runs) for each in both] for _ in range(_ROUNDS)])
    return float(np.median(turns[:, 0] - (turns[:, 1] if shorter is not None else 0.0)))


def _microseconds(interpreter: Interpreter, runs: int) -> float:
    """The median of `runs` runs, after one that brings weights and maps back into the caches."""
    interpreter.invoke()
    elapsed = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        interpreter.invoke()
        elapsed.append(time.perf_counter_ns() - start)
    return float(np.median(elapsed)) / 1000
