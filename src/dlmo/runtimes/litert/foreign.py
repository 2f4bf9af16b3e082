"""Float .tflite files that dlmo did not make, brought into the form the rest of the package works on."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dlmo.errors import UserError
from dlmo.runtimes.litert import flatbuffer

_SIGNATURE = b"serving_default"


def normalized(content: bytes, factor: np.ndarray, shift: np.ndarray) -> bytes:
    """The same network behind `x * factor + shift` per channel, with names and a signature for the quantizer.

    content: one graph from a float image, 1 x H x W x C, to scores. factor, shift: float32, C. Factors of 1 and
    shifts of 0 add no operator.
    """
    model = flatbuffer.read(content)
    if len(model.subgraphs) != 1:
        raise UserError(f"the .tflite file has {len(model.subgraphs)} graphs; dlmo compresses files of one")
    graph = model.subgraphs[0]
    if not (np.all(factor == 1) and np.all(shift == 0)):
        _prepend_affine(model, graph, factor, shift)
    for index, tensor in enumerate(graph.tensors):  # the quantizer finds tensors by name
        tensor.name = f"t{index}".encode()
    signature = schema.SignatureDefT()
    signature.signatureKey = _SIGNATURE
    signature.inputs = [_entry(b"image", int(graph.inputs[0]))]
    signature.outputs = [_entry(b"logits", int(graph.outputs[0]))]
    model.signatureDefs = [signature]
    return flatbuffer.write(model)


def _prepend_affine(model: schema.ModelT, graph: schema.SubGraphT, factor: np.ndarray, shift: np.ndarray) -> None:
    """A 1x1 depthwise convolution in front: delegated, and quantized per channel."""
    old = int(graph.inputs[0])
    height, width, channels = (int(side) for side in graph.tensors[old].shape[1:])
    image = _add_tensor(model, graph, (1, height, width, channels), None)
    weights = _add_tensor(model, graph, (1, 1, 1, channels), factor)
    bias = _add_tensor(model, graph, (channels,), shift)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DEPTHWISE_CONV_2D
    code.version = 1
    model.operatorCodes.append(code)
    options = schema.DepthwiseConv2DOptionsT()
    options.padding = schema.Padding.VALID
    options.strideW = options.strideH = options.dilationWFactor = options.dilationHFactor = options.depthMultiplier = 1
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs, operator.outputs = [image, weights, bias], [old]
    operator.builtinOptionsType = schema.BuiltinOptions.DepthwiseConv2DOptions
    operator.builtinOptions = options
    graph.operators.insert(0, operator)
    graph.inputs = [image]


def _add_tensor(
    model: schema.ModelT, graph: schema.SubGraphT, shape: tuple[int, ...], values: np.ndarray | None
) -> int:
    """Add a float tensor, constant where values are given; returns its index."""
    buffer = schema.BufferT()
    if values is not None:
        buffer.data = np.frombuffer(np.ascontiguousarray(values, np.float32).tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.type = schema.TensorType.FLOAT32
    tensor.shape = list(shape)
    tensor.buffer = len(model.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _entry(name: bytes, tensor: int) -> schema.TensorMapT:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, tensor
    return entry
