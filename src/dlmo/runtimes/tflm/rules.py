"""What TensorFlow Lite Micro gets wrong without saying so, read off a file; the rest it refuses by itself."""

from ai_edge_litert import schema_py_generated as schema

from dlmo.runtimes.litert import flatbuffer


def refusal(content: bytes) -> str | None:
    """Why the runtime must not be given this file; None where it may."""
    if any(_buffers_out_of_line(content)):
        return (
            "it keeps weights behind its tables, where TensorFlow Lite Micro does not look; "
            "write it again in one piece (dlmo.runtimes.litert.flatbuffer: write(read(content)))"
        )
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        return f"it has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, not one image and its scores"
    entry = graph.tensors[int(graph.inputs[0])]
    if len(entry.shape) != 4 or entry.shape[0] != 1:
        return f"it takes {list(map(int, entry.shape))}, not one image of shape [1, height, width, channels]"
    for operator in graph.operators:
        if flatbuffer.operator_name(model, operator) != "DEQUANTIZE":
            continue
        given = graph.tensors[int(operator.inputs[0])].quantization
        if given is not None and given.scale is not None and len(given.scale) > 1:
            return "it widens weights with a scale per channel; TensorFlow Lite Micro would use the first for all"
    return None


def _buffers_out_of_line(content: bytes) -> list[bool]:
    model = schema.Model.GetRootAs(content)
    return [model.Buffers(index).Offset() > 1 for index in range(model.BuffersLength())]
