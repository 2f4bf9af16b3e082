"""Reading and rewriting .tflite files, and the facts that can be read off one without running it."""

import os
from collections import Counter
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

_OPERATOR_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int) and name[0] != "_"
}
_NUMPY_TYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.INT32: np.int32,
}
# Operators whose second and third inputs are trained parameters.
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_FLOATS = (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16)


def read(content: bytes) -> schema.ModelT:
    """Parse a file's bytes."""
    return flatbuffer_utils.read_model_from_bytearray(bytearray(content))


def write(model: schema.ModelT) -> bytes:
    """Serialize with all buffers in line, as microcontroller interpreters need them."""
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def operator_name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM:
        return code.customCode.decode() if isinstance(code.customCode, bytes) else str(code.customCode)
    return _OPERATOR_NAMES.get(number, str(number))


def constant(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray | None:
    """A constant tensor's values in its shape; None for one that is computed, sparse or of another type."""
    data = model.buffers[tensor.buffer].data
    dtype = _NUMPY_TYPES.get(tensor.type)
    if data is None or len(data) == 0 or dtype is None or tensor.sparsity is not None:
        return None
    return np.frombuffer(bytes(data), dtype).reshape(tensor.shape)


def shorten_names(content: bytes) -> bytes:
    """Give inner tensors short names and drop what the converter noted for itself; outputs stay bit-identical.

    Names take 35-54 KB of a freshly converted file.
    """
    model = read(content)
    for graph in model.subgraphs:
        kept = {*map(int, graph.inputs), *map(int, graph.outputs)}
        for index, tensor in enumerate(graph.tensors):
            tensor.name = b"" if index not in kept else tensor.name
        for index, name in [(i, b"image") for i in graph.inputs] + [(i, b"logits") for i in graph.outputs]:
            graph.tensors[int(index)].name = name
        graph.name = b"main"
    for signature in model.signatureDefs or []:
        signature.signatureKey = b"serving_default"
        for tensor_map, name in [(signature.inputs, b"image"), (signature.outputs, b"logits")]:
            for entry in tensor_map:
                entry.name = name
    model.metadata = None
    model.metadataBuffer = None
    model.description = b"dlmo"
    _drop_unused_buffers(model)
    return write(model)


def _drop_unused_buffers(model: schema.ModelT) -> None:
    used = {0} | {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    order = sorted(used)
    moved = {old: new for new, old in enumerate(order)}
    model.buffers = [model.buffers[index] for index in order]
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = moved[tensor.buffer]


@dataclass(frozen=True)
class FileFacts:
    """What a file holds.

    operators: how many of each operator. float_operators: computing operators that stayed in float although
    the file has int8 activations (`NAME output-shape`). parameters: trained numbers (weights and biases, zeros
    included). macs: multiply-accumulates of one inference at batch 1.
    """

    operators: dict[str, int]
    float_operators: tuple[str, ...]
    parameters: int
    macs: int


def facts(content: bytes) -> FileFacts:
    """Count operators, parameters and multiply-accumulates of the main graph."""
    model = read(content)
    graph = model.subgraphs[0]
    names = [operator_name(model, operator) for operator in graph.operators]
    parameters = macs = 0
    in_float = []
    any_int8 = False
    for name, operator in zip(names, graph.operators):
        output = graph.tensors[int(operator.outputs[0])]
        first = graph.tensors[int(operator.inputs[0])] if len(operator.inputs) else output
        computed = name not in ("DEQUANTIZE", "QUANTIZE", "DENSIFY")
        if computed and output.type == schema.TensorType.INT8:
            any_int8 = True
        if computed and output.type in _FLOATS and first.type in _FLOATS:
            in_float.append(f"{name} {'x'.join(map(str, output.shape))}")
        if name in WEIGHTED:
            weights = graph.tensors[int(operator.inputs[1])]
            count = int(np.prod(weights.shape))
            parameters += count
            if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
                parameters += int(np.prod(graph.tensors[int(operator.inputs[2])].shape))
            positions = int(np.prod(output.shape[1:3])) if len(output.shape) == 4 else 1
            macs += count * positions
    return FileFacts(dict(Counter(names)), tuple(in_float) if any_int8 else (), parameters, macs)


def write_atomically(path: os.PathLike | str, content: bytes) -> None:
    """Write beside the target and rename, so that a killed process leaves either nothing or the whole file."""
    temporary = f"{os.fspath(path)}.part"
    with open(temporary, "wb") as file:
        file.write(content)
    os.replace(temporary, path)
