"""Reading and rewriting .tflite files, and the facts that can be read off one without running it."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import flatbuffers
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
_INTEGERS = (schema.TensorType.INT8, schema.TensorType.UINT8, schema.TensorType.INT16)


def read(content: bytes) -> schema.ModelT:
    """Parse a file's bytes."""
    return flatbuffer_utils.read_model_from_bytearray(bytearray(content))


def write(model: schema.ModelT) -> bytes:
    """Serialize with all buffers in line, as microcontroller interpreters need them, equal vectors stored once."""
    builder = _SharingBuilder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


class _SharingBuilder(flatbuffers.Builder):
    """Stores equal vectors and strings once.

    A file of int8 per channel repeats itself: 8 bytes of zero point for each channel, all of them 0, once for the
    weights and once for the biases. Every reader sees the same model, as the format refers to vectors by their place.
    """

    def __init__(self, initial_size: int):
        super().__init__(initial_size)
        self._places: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        return self._once((x.dtype.str, x.tobytes()), lambda: super(_SharingBuilder, self).CreateNumpyVector(x))

    def CreateString(self, s, *options) -> int:
        key = s.encode() if isinstance(s, str) else bytes(s)
        return self._once(("string", key), lambda: super(_SharingBuilder, self).CreateString(s, *options))

    def _once(self, key: tuple[str, bytes], create: Callable[[], int]) -> int:
        if key not in self._places:
            self._places[key] = create()
        return self._places[key]


def operator_name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM:
        return code.customCode.decode() if isinstance(code.customCode, bytes) else str(code.customCode)
    return _OPERATOR_NAMES.get(number, str(number))


def buffer_bytes(model: schema.ModelT, index: int) -> bytes:
    """What a buffer holds; empty for the buffer of a tensor that is computed."""
    data = model.buffers[index].data
    return b"" if data is None else bytes(data)


def constant(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray | None:
    """A constant tensor's values in its shape; None for one that is computed, sparse or of another type."""
    data = model.buffers[tensor.buffer].data
    dtype = _NUMPY_TYPES.get(tensor.type)
    if data is None or len(data) == 0 or dtype is None or tensor.sparsity is not None:
        return None
    return np.frombuffer(bytes(data), dtype).reshape(tensor.shape)


def has_float_weights(content: bytes) -> bool:
    """Whether no layer's weights are in int8, float16 or sparse form."""
    model = read(content)
    graph = model.subgraphs[0]
    names = [operator_name(model, operator) for operator in graph.operators]
    weights = [graph.tensors[int(o.inputs[1])] for name, o in zip(names, graph.operators) if name in WEIGHTED]
    return not {"DEQUANTIZE", "DENSIFY"} & set(names) and all(
        tensor.type == schema.TensorType.FLOAT32 and tensor.sparsity is None for tensor in weights
    )


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
    model.description = b"dlmo"
    drop_unread(model)
    return write(model)


def drop_unread(model: schema.ModelT) -> None:
    """Drop metadata, and the buffers that are no tensor's."""
    model.metadata = None
    model.metadataBuffer = None
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
    the file has integer activations (`NAME output-shape`). parameters: trained numbers (weights and biases, zeros
    included). macs: multiply-accumulates of one inference at batch 1.
    """

    operators: dict[str, int]
    float_operators: tuple[str, ...]
    parameters: int
    macs: int


def facts(content: bytes) -> FileFacts:
    """Count operators, parameters and multiply-accumulates of the main graph."""
    return facts_of(read(content))


def facts_of(model: schema.ModelT) -> FileFacts:
    """The same, of a parsed file."""
    graph = model.subgraphs[0]
    names = [operator_name(model, operator) for operator in graph.operators]
    parameters = macs = 0
    batch = batch_of(graph)
    in_float = []
    any_integer = False
    for name, operator in zip(names, graph.operators):
        inputs, output = input_tensors(graph, operator), output_tensor(graph, operator)
        computed = output is not None and name not in ("DEQUANTIZE", "QUANTIZE", "DENSIFY")
        if computed and output.type in _INTEGERS:
            any_integer = True
        if computed and output.type in _FLOATS and (inputs or [output])[0].type in _FLOATS:
            in_float.append(f"{name} {'x'.join(map(str, shape_of(output)))}")
        own_parameters, own_macs = work(name, inputs, output, batch)
        parameters += own_parameters
        macs += own_macs
    return FileFacts(dict(Counter(names)), tuple(in_float) if any_integer else (), parameters, macs)


def batch_of(graph: schema.SubGraphT) -> int:
    """How many images a file takes at once."""
    sides = [shape_of(graph.tensors[int(index)]) for index in _indices(graph.inputs)]
    return max(1, sides[0][0]) if sides and sides[0] else 1


def work(name: str, inputs: list[schema.TensorT], output: schema.TensorT | None, batch: int) -> tuple[int, int]:
    """Parameters, and multiply-accumulates for one image, of one operator; 0 for one that multiplies no matrices.

    batch: of the file. The product of two activations (attention) has work and no parameters.
    """
    if len(inputs) < 2 or output is None:
        return 0, 0
    sides = shape_of(output)
    if name == "BATCH_MATMUL":
        return 0, math.prod(sides) * shape_of(inputs[0])[-1] // batch
    if name not in WEIGHTED:
        return 0, 0
    weights = math.prod(shape_of(inputs[1]))
    biases = math.prod(shape_of(inputs[2])) if len(inputs) > 2 else 0
    # Every weight of a convolution works once at each place of the output, of a dense layer once for each row, of which
    # an image may have several (tokens), next to those of other images.
    return weights + biases, weights * math.prod(sides[:-1]) // batch


def input_tensors(graph: schema.SubGraphT, operator: schema.OperatorT) -> list[schema.TensorT]:
    """The tensors an operator reads, without optional ones that are absent."""
    return [graph.tensors[int(index)] for index in _indices(operator.inputs) if index >= 0]


def output_tensor(graph: schema.SubGraphT, operator: schema.OperatorT) -> schema.TensorT | None:
    """The first tensor an operator writes."""
    indices = _indices(operator.outputs)
    return graph.tensors[int(indices[0])] if len(indices) else None


def shape_of(tensor: schema.TensorT) -> tuple[int, ...]:
    return tuple(map(int, _indices(tensor.shape)))


def _indices(values) -> list[int]:
    return [] if values is None else list(values)
