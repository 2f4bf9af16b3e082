"""What single layers take on this machine: a table over channels, measured, and read between its points.

A layer's time is no function of its multiply-accumulates: kernels work on whole vectors of channels, and small layers
spend their time elsewhere. So layers of the same kind, kernel, stride and map are timed over a grid of channels.
"""

import itertools
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from dlmo.networks.shapes import LayerShape
from dlmo.runtimes.litert.interpreter import quiet
from dlmo.runtimes.litert.single import layer_file

# Channels that are timed; besides them the most and the least that any layer of the kind has.
_CHANNELS = (4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 2048)
_ROUNDS, _SECONDS_PER_TURN = 5, 0.002
_RUNS_PER_TURN = (3, 100)
# Copies of a layer in one file, so long as outputs and weights stay in the caches, as they do in a network.
_COPIES, _CACHED_OUTPUTS, _CACHED_WEIGHTS = 8, 1 << 16, 1 << 18


@dataclass(frozen=True)
class Grid:
    """Times of one kind of layer. site: the layer, channels left at 0. microseconds[i][j]: of inputs[i] to outputs[j];
    of a depthwise layer, which has one kind of channels, microseconds[0][j]."""

    site: LayerShape
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    microseconds: tuple[tuple[float, ...], ...]

    def at(self, inputs: int, outputs: int) -> float:
        """Linear between the points, the nearest point outside of them."""
        by_input = [np.interp(outputs, self.outputs, row) for row in self.microseconds]
        return float(np.interp(inputs, self.inputs, by_input))


@dataclass(frozen=True)
class LatencyTable:
    """Layers of one number format (see runtimes.litert.single) on the machine that measured them, one thread.

    beside: what whole networks take, as a multiple of their layers' sum: sums, pools, the interpreter's call.
    """

    number_format: str
    grids: tuple[Grid, ...]
    beside: float = 1.0

    def __call__(self, shape: LayerShape) -> float:
        """Microseconds that a layer adds to its network."""
        grid = next(grid for grid in self.grids if grid.site == _site(shape))
        return self.beside * grid.at(shape.inputs, shape.outputs)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> "LatencyTable":
        document = json.loads(text)
        grids = [
            Grid(
                LayerShape(**{name: _frozen(value) for name, value in grid["site"].items()}),
                *(_frozen(grid[name]) for name in ("inputs", "outputs", "microseconds")),
            )
            for grid in document["grids"]
        ]
        return LatencyTable(document["number_format"], tuple(grids), document["beside"])


def measure_table(
    shapes: Iterable[LayerShape], number_format: str, progress: Callable[[float], None] = lambda share: None
) -> LatencyTable:
    """Time every kind of layer among `shapes`, from few channels up to theirs. All points take turns."""
    plans = [_plan(site, group) for site, group in _by_site(shapes).items()]
    points = [
        _Point(site.of(inputs, outputs), number_format)
        for site, inputs_axis, outputs_axis in plans
        for inputs, outputs in _pairs(site, inputs_axis, outputs_axis)
    ]
    for turn in range(_ROUNDS):
        for number, point in enumerate(points):
            point.take_turn()
            progress((turn + (number + 1) / len(points)) / _ROUNDS)
    remaining = iter(points)
    grids = []
    for site, inputs, outputs in plans:
        taken = itertools.islice(remaining, len(_pairs(site, inputs, outputs)))
        times = np.array([point.microseconds() for point in taken]).reshape(-1, len(outputs))
        grids.append(Grid(site, inputs[: len(times)], outputs, tuple(map(tuple, _rising(times).tolist()))))
    return LatencyTable(number_format, tuple(grids))


def with_rest(table: LatencyTable, shapes: Sequence[LayerShape], milliseconds: float) -> LatencyTable:
    """The table with what a network of these layers takes beside them, given the measured time of the whole."""
    layers = sum(map(replace(table, beside=1.0), shapes))
    return replace(table, beside=1000 * milliseconds / layers)


class _Point:
    """One layer in an interpreter of its own."""

    def __init__(self, shape: LayerShape, number_format: str) -> None:
        outputs = shape.outputs * shape.output[0] * shape.output[1]
        cached = min(_CACHED_OUTPUTS // outputs, _CACHED_WEIGHTS // shape.weights)
        self._copies = max(1, min(_COPIES, cached))
        with quiet():
            content = layer_file(shape, number_format, self._copies)
            self._interpreter = Interpreter(model_content=content, num_threads=1)
            self._interpreter.allocate_tensors()
        self._medians: list[float] = []

    def take_turn(self) -> None:
        invoke = self._interpreter.invoke
        for _ in range(2):  # the turn before left its own weights in the caches; the second tells how long one takes
            start = time.perf_counter_ns()
            invoke()
            single = time.perf_counter_ns() - start
        runs = int(np.clip(_SECONDS_PER_TURN * 1e9 / single, *_RUNS_PER_TURN))
        elapsed = np.empty(runs)
        for index in range(runs):
            start = time.perf_counter_ns()
            invoke()
            elapsed[index] = time.perf_counter_ns() - start
        self._medians.append(float(np.median(elapsed)))

    def microseconds(self) -> float:
        """Of one layer, in the best turn: what disturbs a measurement only adds to it."""
        return min(self._medians) / 1000 / self._copies


def _site(shape: LayerShape) -> LayerShape:
    """What layers of one grid share; a grouped one, whose channels are never cut, has a grid of its own."""
    return shape.of(0, 0) if shape.groups == 1 else shape


def _by_site(shapes: Iterable[LayerShape]) -> dict[LayerShape, list[LayerShape]]:
    found: dict[LayerShape, list[LayerShape]] = {}
    for shape in shapes:
        found.setdefault(_site(shape), []).append(shape)
    return found


def _plan(site: LayerShape, group: list[LayerShape]) -> tuple[LayerShape, tuple[int, ...], tuple[int, ...]]:
    """A site with its channels of inputs and of outputs to time."""
    if site.groups > 1:
        return site, (site.inputs,), (site.outputs,)
    return site, _axis(shape.inputs for shape in group), _axis(shape.outputs for shape in group)


def _axis(channels: Iterable[int]) -> tuple[int, ...]:
    present = sorted(channels)
    ends = {present[0], present[-1]}
    return tuple(sorted(ends | {count for count in _CHANNELS if count < present[-1]}))


def _pairs(site: LayerShape, inputs: Sequence[int], outputs: Sequence[int]) -> list[tuple[int, int]]:
    if site.kind == "depthwise":
        return [(count, count) for count in outputs]
    return list(itertools.product(inputs, outputs))


def _rising(times: np.ndarray) -> np.ndarray:
    """A layer takes no longer than one with more channels, which could stand in for it."""
    for axis in (0, 1):
        times = np.flip(np.minimum.accumulate(np.flip(times, axis), axis), axis)
    return times


def _frozen(value):
    """Lists of JSON as the tuples they were."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
