"""How much each layer of a float .tflite file suffers from weights of few bits."""

from dataclasses import dataclass

import numpy as np

from dlmo.runtimes.litert import flatbuffer
from dlmo.runtimes.litert.interpreter import predict

# What the kernels take with 4-bit weights; depthwise convolutions have few weights and suffer most.
_LAYERS = ("CONV_2D", "FULLY_CONNECTED")


@dataclass(frozen=True)
class Sensitivity:
    """One layer, by the name of its output. weights: how many it has. macs: at batch 1.

    noise: power of the change of the scores when its weights alone are rounded, as a share of the scores' power.
    """

    layer: str
    weights: int
    macs: int
    noise: float


def sensitivities(content: bytes, images: np.ndarray, bits: int) -> list[Sensitivity]:
    """Of every convolution and dense layer, in the order of execution.

    images: uint8 N x H x W x C; a few dozen are enough, since the scores are compared, not the answers.
    """
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    scores = predict(content, images)
    found = []
    for operator in graph.operators:
        name = flatbuffer.operator_name(model, operator)
        tensor = graph.tensors[int(operator.inputs[1])] if name in _LAYERS else None
        weights = None if tensor is None else flatbuffer.constant(model, tensor)
        if weights is None:
            continue
        buffer = model.buffers[tensor.buffer]
        kept = buffer.data
        buffer.data = np.frombuffer(rounded(weights, bits).tobytes(), np.uint8)
        changed = predict(flatbuffer.write(model), images)
        buffer.data = kept
        noise = float(np.square(changed - scores).sum() / np.square(scores).sum())
        output = flatbuffer.output_tensor(graph, operator)
        macs = flatbuffer.work(name, flatbuffer.input_tensors(graph, operator), output)[1]
        found.append(Sensitivity(output.name.decode(), weights.size, macs, noise))
    return found


def rounded(weights: np.ndarray, bits: int) -> np.ndarray:
    """Weights as integers of so many bits can tell them: symmetric, one scale per output channel (the first axis)."""
    largest = 2 ** (bits - 1) - 1
    rows = weights.reshape(len(weights), -1)
    scale = np.abs(rows).max(1, keepdims=True) / largest
    return (np.round(rows / np.where(scale > 0, scale, 1)) * scale).reshape(weights.shape).astype(np.float32)
