"""Files of a single layer, made by hand: what its kernel takes can be timed without converting a network."""

import math

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dlmo.networks.shapes import LayerShape
from dlmo.runtimes.litert import flatbuffer

# Number formats of a layer: of its input and output, its weights, and its biases.
FORMATS = {
    "float32": (np.float32, np.float32, np.float32),
    "dynamic_int8": (np.float32, np.int8, np.float32),
    "int8": (np.int8, np.int8, np.int32),
}
_TYPES = {
    np.float32: schema.TensorType.FLOAT32,
    np.int8: schema.TensorType.INT8,
    np.int32: schema.TensorType.INT32,
}
_CODES = {
    "conv": schema.BuiltinOperator.CONV_2D,
    "depthwise": schema.BuiltinOperator.DEPTHWISE_CONV_2D,
    "linear": schema.BuiltinOperator.FULLY_CONNECTED,
}
# Any values that a quantized layer can have.
_INPUT_SCALE, _WEIGHT_SCALE, _OUTPUT_SCALE = 1 / 128, 0.01, 0.1


def layer_file(shape: LayerShape, number_format: str, copies: int = 1) -> bytes:
    """A model of `copies` such layers side by side: one input, an output of each, random weights, ReLU at the end.

    Side by side, because one small layer takes less than the call of the interpreter. number_format: see FORMATS; a
    dynamic depthwise layer computes in float, as in runtimes.litert.quantize.
    """
    if number_format == "dynamic_int8" and shape.kind == "depthwise":
        number_format = "float32"
    values, weights, biases = FORMATS[number_format]
    random = np.random.default_rng(0)
    model = schema.ModelT()
    model.version = 3
    model.buffers = [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, graph.name = [], [], b"main"

    def tensor(sides: tuple[int, ...], dtype: type, scales: np.ndarray | float = 0.0, axis: int = 0) -> int:
        """Add a tensor that is computed; scales: one, or one per index of `axis`."""
        entry = schema.TensorT()
        entry.shape, entry.type, entry.buffer = list(sides), _TYPES[dtype], 0
        if dtype is not np.float32:
            quantization = schema.QuantizationParametersT()
            quantization.scale = np.atleast_1d(np.asarray(scales, np.float32))
            quantization.zeroPoint = np.zeros(len(quantization.scale), np.int64)
            quantization.quantizedDimension = axis
            entry.quantization = quantization
        graph.tensors.append(entry)
        return len(graph.tensors) - 1

    def constant(content: np.ndarray, scales: np.ndarray | float = 0.0, axis: int = 0) -> int:
        index = tensor(content.shape, content.dtype.type, scales, axis)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(content.tobytes(), np.uint8)
        model.buffers.append(buffer)
        graph.tensors[index].buffer = len(model.buffers) - 1
        return index

    source = tensor(_map(shape, shape.size, shape.inputs), values, _INPUT_SCALE)
    sides, axis = _weight_sides(shape)
    outputs = []
    for _ in range(copies):
        scales = np.full(shape.outputs, _WEIGHT_SCALE)
        drawn = random.normal(size=sides).astype(np.float32)
        weight = constant(np.clip(32 * drawn, -127, 127).astype(np.int8) if weights is np.int8 else drawn, scales, axis)
        bias = constant(np.zeros(shape.outputs, biases), scales * _INPUT_SCALE)
        outputs.append(tensor(_map(shape, shape.output, shape.outputs), values, _OUTPUT_SCALE))
        operator = schema.OperatorT()
        operator.opcodeIndex = 0
        operator.inputs, operator.outputs = [source, weight, bias], [outputs[-1]]
        operator.builtinOptionsType, operator.builtinOptions = _options(shape)
        graph.operators.append(operator)
    graph.inputs, graph.outputs = [source], outputs
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = _CODES[shape.kind]
    code.version = 3 if values is np.int8 else 5 if weights is np.int8 and shape.kind == "conv" else 1
    model.operatorCodes, model.subgraphs = [code], [graph]
    return flatbuffer.write(model)


def _map(shape: LayerShape, sides: tuple[int, int], channels: int) -> tuple[int, ...]:
    return (1, channels) if shape.kind == "linear" else (1, *sides, channels)


def _weight_sides(shape: LayerShape) -> tuple[tuple[int, ...], int]:
    """Shape of the weights, and the axis of their output channels."""
    if shape.kind == "linear":
        return (shape.outputs, shape.inputs), 0
    if shape.kind == "depthwise":
        return (1, *shape.kernel, shape.outputs), 3
    return (shape.outputs, *shape.kernel, shape.inputs // shape.groups), 0


def _options(shape: LayerShape) -> tuple[int, object]:
    kinds = {
        "conv": (schema.BuiltinOptions.Conv2DOptions, schema.Conv2DOptionsT),
        "depthwise": (schema.BuiltinOptions.DepthwiseConv2DOptions, schema.DepthwiseConv2DOptionsT),
        "linear": (schema.BuiltinOptions.FullyConnectedOptions, schema.FullyConnectedOptionsT),
    }
    number, make = kinds[shape.kind]
    options = make()
    options.fusedActivationFunction = schema.ActivationFunctionType.RELU
    if shape.kind != "linear":
        same = all(out == math.ceil(side / step) for side, step, out in zip(shape.size, shape.stride, shape.output))
        options.padding = schema.Padding.SAME if same else schema.Padding.VALID
        options.strideH, options.strideW = shape.stride
        options.dilationHFactor = options.dilationWFactor = 1
    if shape.kind == "depthwise":
        options.depthMultiplier = 1
    return number, options
