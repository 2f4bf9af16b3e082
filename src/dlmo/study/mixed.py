"""Mixed precision: int8, but weights of 4 bits where they cost least, or float where int8 costs most.

Layers are ranked by the noise they bring (on a few images); how many of them change is decided by accuracy on
validation images, or by the file's size. Everything stays inside the delegate's one partition.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np

from dlmo.data.dataset import Dataset
from dlmo.errors import UserError
from dlmo.measure.layers import inspect_own
from dlmo.measure.sensitivity import Sensitivity, sensitivities
from dlmo.runtimes.litert import flatbuffer
from dlmo.runtimes.litert.quantize import LayerForm
from dlmo.study.int8_repair import RUNGS, Judge, repaired_int8
from dlmo.study.recipe import Mixed, Recipe
from dlmo.study.results import Repair
from dlmo.study.workspace import Workspace

_RANKED_ON = 48  # images
_LEAST_SAVING = 256  # bytes
# Of the multiply-accumulates: where int8 is faster than float, a file with half of the work in float still is.
_FLOAT_WORK = 0.5

# The file in which operators, by the name of their output, have another form than int8.
_Maker = Callable[[Mapping[str, LayerForm]], bytes]


def mixed_file(
    content: bytes, precision: Mixed, dataset: Dataset, calibration: np.ndarray, judge: Judge
) -> tuple[bytes, Repair]:
    """The file within the recipe's bound, and what was done for it. Raises UserError where nothing keeps the bound.

    content: the float file. With `size` the file that loses least, with `drop` the smallest.
    """
    plain, repair = repaired_int8(content, dataset, calibration, judge)
    lost = repair.lost[repair.rung]

    def file(exceptions: Mapping[str, LayerForm]) -> bytes:
        return RUNGS[repair.rung](content, calibration, exceptions=exceptions)

    if precision.size is not None:
        made, words = _within_size(content, precision.size, file, dataset)
    elif lost > precision.drop:
        made, words = _in_float(content, plain, precision.drop, file, judge, dataset)
    else:
        made, words = _fewer_bits(content, precision.drop, file, judge, dataset)
    return made, Repair(words, {f"int8, {repair.rung}": lost, words: judge.lost(made)}, judge.images, repair.layers)


def _within_size(content: bytes, size: int, file: _Maker, dataset: Dataset) -> tuple[bytes, str]:
    layers = _by_harm(content, dataset)

    @cache
    def stored(count: int) -> int:
        return len(flatbuffer.shorten_names(file(_with_fewer_bits(layers[:count]))))

    count = bisect_left(range(len(layers) + 1), True, key=lambda number: stored(number) <= size)
    if count > len(layers):
        raise _too_large(size, len(layers), stored(len(layers)))
    return file(_with_fewer_bits(layers[:count])), f"4-bit weights in {count} layers"


def _too_large(size: int, layers: int, least: int) -> UserError:
    return UserError(
        f"mixed(size={size}): with 4-bit weights in {layers} layers the file still takes {least:,} bytes; cut channels "
        "(prune_channels) or take a narrower network"
    )


def check_size(workspace: Workspace, recipe: Recipe) -> None:
    """Refuse, before any training, a `mixed(size=)` that 4-bit weights in all layers do not reach. Raises UserError."""
    from dlmo.study.shape import SIZE_ERROR, untrained_float

    content = untrained_float(workspace, recipe)
    layers = _by_harm(content, workspace.dataset)
    images = workspace.dataset.validation.spread(_RANKED_ON).images
    made = RUNGS["min/max ranges"](content, images, exceptions=_with_fewer_bits(layers))
    least = len(flatbuffer.shorten_names(made))
    if least > recipe.precision.size * (1 + SIZE_ERROR):
        raise _too_large(recipe.precision.size, len(layers), least)


def _fewer_bits(content: bytes, drop: float, file: _Maker, judge: Judge, dataset: Dataset) -> tuple[bytes, str]:
    """4-bit weights in as many layers as the drop allows."""
    layers = _by_harm(content, dataset)

    def loses(count: int) -> bool:
        return count > 0 and judge.lost(file(_with_fewer_bits(layers[:count]))) > drop

    count = bisect_left(range(len(layers) + 1), True, key=loses) - 1
    return file(_with_fewer_bits(layers[:count])), f"4-bit weights in {count} layers"


def _in_float(
    content: bytes, plain: bytes, drop: float, file: _Maker, judge: Judge, dataset: Dataset
) -> tuple[bytes, str]:
    """The operators that add most error to the int8 file left in float, about as few as needed."""
    names = _by_added_error(content, plain, dataset)
    for count in sorted({*(2**power for power in range(len(names).bit_length())), len(names)}):
        made = file(dict.fromkeys(names[:count], "float16"))
        if judge.lost(made) <= drop:
            return made, f"{count} operators in float"
    raise UserError(
        f"mixed(drop={drop:g}): not kept with {len(names)} operators in float; more of them would be slower than "
        "float32. Train with qat, or allow a larger drop"
    )


def _by_added_error(content: bytes, plain: bytes, dataset: Dataset) -> list[str]:
    """Outputs of the operators that add most error, worst first, as many as leave the file faster than float.

    Each with the operators it reads from: what it suffers from is often the rounding of its input.
    """
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    makers = {int(tensor): operator for operator in graph.operators for tensor in operator.outputs}
    macs: dict[str, int] = {}
    for worst in inspect_own("int8", plain, "float32", content, dataset).worst(len(graph.operators)):
        operator = graph.operators[worst.twin]
        sources = [makers[int(tensor)] for tensor in operator.inputs if int(tensor) in makers]
        for each in (operator, *sources):
            name, output = flatbuffer.operator_name(model, each), flatbuffer.output_tensor(graph, each)
            macs[output.name.decode()] = flatbuffer.work(name, flatbuffer.input_tensors(graph, each), output, 1)[1]
    allowed = np.cumsum(list(macs.values())) <= _FLOAT_WORK * flatbuffer.facts(content).macs
    return list(macs)[: int(allowed.sum())]


def _with_fewer_bits(layers: list[Sensitivity]) -> dict[str, LayerForm]:
    return {layer.layer: "int4" for layer in layers}


def _by_harm(content: bytes, dataset: Dataset) -> list[Sensitivity]:
    """The layers that 4-bit weights make smaller, least noise per saved byte first."""
    found = sensitivities(content, dataset.validation.spread(_RANKED_ON).images)
    saving = [layer for layer in found if layer.weights / 2 >= _LEAST_SAVING]
    return sorted(saving, key=lambda layer: layer.noise / layer.weights)
