"""How much the layers of a float .tflite file suffer from weights of 4 bits."""

from dataclasses import dataclass

import numpy as np

from dlmo.runtimes.litert import flatbuffer
from dlmo.runtimes.litert.four_bits import takes_four_bits
from dlmo.runtimes.litert.interpreter import predict


@dataclass(frozen=True)
class Sensitivity:
    """One layer, by the name of its output. weights: how many it has.

    noise: power of the change of the scores when its weights alone are rounded, as a share of the scores' power.
    """

    layer: str
    weights: int
    noise: float


def sensitivities(content: bytes, images: np.ndarray) -> list[Sensitivity]:
    """Of every layer whose kernel takes such weights, in the order of execution.

    images: uint8 N x H x W x C; a few dozen are enough, since the scores are compared, not the answers.
    """
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    scores = predict(content, images)
    found = []
    for operator in graph.operators:
        if not takes_four_bits(model, operator):
            continue
        tensor = graph.tensors[int(operator.inputs[1])]
        weights, buffer = flatbuffer.constant(model, tensor), model.buffers[tensor.buffer]
        kept = buffer.data
        buffer.data = np.frombuffer(rounded(weights).tobytes(), np.uint8)
        changed = predict(flatbuffer.write(model), images)
        buffer.data = kept
        noise = float(np.square(changed - scores).sum() / np.square(scores).sum())
        found.append(Sensitivity(flatbuffer.output_tensor(graph, operator).name.decode(), weights.size, noise))
    return found


def rounded(weights: np.ndarray) -> np.ndarray:
    """Weights as 4 bits tell them: -7 to 7 steps, one step width per output channel (the first axis)."""
    rows = weights.reshape(len(weights), -1)
    step = np.abs(rows).max(1, keepdims=True) / 7
    return (np.round(rows / np.where(step > 0, step, 1)) * step).reshape(weights.shape).astype(np.float32)
