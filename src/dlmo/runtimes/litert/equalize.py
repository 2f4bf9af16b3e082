"""Cross-layer equalization of a float .tflite file, so that one scale fits all channels of a tensor.

Between two layers with a ReLU or nothing in between, channel i may be divided by any s_i > 0 in the first and
multiplied by it in the second: the file computes the same. s_i is chosen so that the channel's weights span the same
range in both (Nagel et al., "Data-free quantization through weight equalization and bias correction",
arXiv:1906.04721, section 4.1). A ReLU6 in between does not scale. The paper takes a ReLU in its place; here that cost a
trained MobileNet v2 5 points in float already, so such pairs are left alone.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dlmo.runtimes.litert import flatbuffer

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
# Operators that may stand in between: they treat channels apart and keep zero.
_PASSING = ("PAD", "MEAN", "AVERAGE_POOL_2D", "MAX_POOL_2D", "RESHAPE")
_ACTIVATION = schema.ActivationFunctionType
_SCALABLE = (_ACTIVATION.NONE, _ACTIVATION.RELU)
# A layer stands in two pairs, so that scaling one pair disturbs its neighbours; after so many rounds little moves.
_ROUNDS = 20


@dataclass(frozen=True)
class _Pair:
    """Two layers, one behind the other: indices of the tensors that are scaled, and their axes of the channels."""

    weights: int
    bias: int
    axis: int  # of the first one's outputs
    next_weights: int
    next_axis: int  # of the second one's inputs


def equalized(content: bytes) -> bytes:
    """The same network with balanced channels, wherever two layers allow it. Names of tensors stay."""
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    pairs = _pairs(model, graph)
    values = {
        index: np.array(flatbuffer.constant(model, graph.tensors[index]))
        for pair in pairs
        for index in (pair.weights, pair.bias, pair.next_weights)
    }
    for _ in range(_ROUNDS):
        for pair in pairs:
            _balance(values, pair)
    for index, scaled in values.items():
        # A buffer of its own: equal constants of several tensors may share one.
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(scaled.tobytes(), np.uint8)
        graph.tensors[index].buffer = len(model.buffers)
        model.buffers.append(buffer)
    return flatbuffer.write(model)


def _pairs(model: schema.ModelT, graph: schema.SubGraphT) -> list[_Pair]:
    readers: dict[int, list[schema.OperatorT]] = {}  # by tensor
    for operator in graph.operators:
        for index in operator.inputs:
            readers.setdefault(int(index), []).append(operator)
    ends = set(map(int, graph.outputs))
    found = []
    for first in graph.operators:
        if flatbuffer.operator_name(model, first) not in _CONVOLUTIONS or len(first.inputs) < 3:
            continue
        if first.builtinOptions.fusedActivationFunction not in _SCALABLE:
            continue
        tensor, reader = int(first.outputs[0]), None
        while len(readers.get(tensor, ())) == 1 and tensor not in ends:
            reader = readers[tensor][0]
            if flatbuffer.operator_name(model, reader) not in _PASSING:
                break
            tensor, reader = int(reader.outputs[0]), None
        if reader is None or flatbuffer.operator_name(model, reader) not in flatbuffer.WEIGHTED:
            continue
        pair = _Pair(
            int(first.inputs[1]),
            int(first.inputs[2]),
            0 if flatbuffer.operator_name(model, first) == "CONV_2D" else 3,
            int(reader.inputs[1]),
            len(graph.tensors[int(reader.inputs[1])].shape) - 1,
        )
        if _fits(model, graph, pair, Counter({index: len(users) for index, users in readers.items()})):
            found.append(pair)
    return found


def _fits(model: schema.ModelT, graph: schema.SubGraphT, pair: _Pair, uses: Counter[int]) -> bool:
    """Whether the second layer has a weight for each channel of the first, and no other operator reads the weights."""
    indices = pair.weights, pair.bias, pair.next_weights
    constants = [flatbuffer.constant(model, graph.tensors[index]) for index in indices]
    if any(values is None for values in constants):
        return False
    if any(uses[index] > 1 and values.any() for index, values in zip(indices, constants)):
        return False
    return constants[0].shape[pair.axis] == constants[2].shape[pair.next_axis]


def _balance(values: dict[int, np.ndarray], pair: _Pair) -> None:
    """Scale each channel in place so that its weights span the same range in both layers."""
    weights, following = (
        np.moveaxis(values[index], axis, 0)
        for index, axis in ((pair.weights, pair.axis), (pair.next_weights, pair.next_axis))
    )
    span, next_span = (np.abs(part.reshape(len(part), -1)).max(1) for part in (weights, following))
    used = (span > 0) & (next_span > 0)
    scale = np.where(used, np.sqrt(span / np.where(used, next_span, 1)), 1)
    weights /= scale.reshape(-1, *[1] * (weights.ndim - 1))
    values[pair.bias] /= scale
    following *= scale.reshape(-1, *[1] * (following.ndim - 1))
