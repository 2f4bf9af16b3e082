"""File sizes, and what a file of the same network with other channels would take."""

import zlib
from dataclasses import dataclass

import numpy as np

from dlmo.networks.shapes import LayerShape


def compressed_bytes(content: bytes) -> int:
    """Size after DEFLATE at level 9, the compression of zip archives."""
    return len(zlib.compress(content, 9))


@dataclass(frozen=True)
class FileSize:
    """Bytes of a file by what its layers hold, in one precision.

    per_weight: of a layer's weights. per_channel: of each output channel of a layer: its bias and its scales. rest:
    of what does not depend on channels.
    """

    per_weight: float
    per_channel: float
    rest: float

    def __call__(self, shape: LayerShape) -> float:
        """Bytes of one layer."""
        return self.per_weight * shape.weights + self.per_channel * shape.outputs

    @staticmethod
    def of(content: bytes) -> "FileSize":
        """Read off a file."""
        from dlmo.runtimes.litert import flatbuffer

        model = flatbuffer.read(content)
        graph = model.subgraphs[0]
        makers = {int(output): operator for operator in graph.operators for output in operator.outputs}
        weights = channels = weight_bytes = channel_bytes = 0
        for operator in graph.operators:
            if flatbuffer.operator_name(model, operator) not in flatbuffer.WEIGHTED:
                continue
            stored = [_stored(graph, makers, int(index)) for index in operator.inputs[1:] if index >= 0]
            weights += int(np.prod(flatbuffer.shape_of(stored[0])))
            weight_bytes += len(flatbuffer.buffer_bytes(model, stored[0].buffer))
            channels += flatbuffer.shape_of(flatbuffer.output_tensor(graph, operator))[-1]
            channel_bytes += sum(len(flatbuffer.buffer_bytes(model, bias.buffer)) for bias in stored[1:])
            channel_bytes += sum(map(_scale_bytes, stored))
        per_weight, per_channel = weight_bytes / weights, channel_bytes / channels
        return FileSize(per_weight, per_channel, len(content) - weight_bytes - channel_bytes)


def _stored(graph, makers: dict, index: int):
    """The tensor in the file that an operator reads, past the operator that widens float16 weights."""
    return graph.tensors[int(makers[index].inputs[0]) if index in makers else index]


def _scale_bytes(tensor) -> int:
    """Scales (float32) of a tensor that has one per channel. Its zero points, all 0, are shared over the file."""
    scales = getattr(tensor.quantization, "scale", None)
    return 0 if scales is None or len(scales) < 2 else 4 * len(scales)
