"""Bias correction of a float .tflite file, for weights that will be rounded to int8.

Rounding changes a channel's weights by an error that the inputs do not cancel where their mean is not zero, as behind
every ReLU: the channel's output is shifted. The shift, rounding error times mean input, is taken off its bias (Nagel et
al., "Data-free quantization through weight equalization and bias correction", arXiv:1906.04721, section 4.2, with means
measured on calibration images as in its appendix D).
"""

import copy
from collections import Counter

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from dlmo.data.preprocessing import to_float
from dlmo.runtimes.litert import flatbuffer
from dlmo.runtimes.litert.interpreter import quiet

_LARGEST = 127  # of a symmetric int8 weight


def bias_corrected(content: bytes, images: np.ndarray) -> bytes:
    """The network with biases that make up for the rounding of its weights; names of tensors stay.

    images: uint8 N x H x W x C calibration samples. Layers without a bias of their own are left alone.
    """
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    layers = [
        operator
        for operator in graph.operators
        if flatbuffer.operator_name(model, operator) in flatbuffer.WEIGHTED
        and len(operator.inputs) > 2
        and all(_values(model, graph, index) is not None for index in operator.inputs[1:3])
    ]
    means = _mean_inputs(content, images, [int(layer.inputs[0]) for layer in layers])
    readers = Counter(int(layer.inputs[2]) for layer in layers)
    for layer in layers:
        weights, bias = (_values(model, graph, index) for index in layer.inputs[1:3])
        depthwise = flatbuffer.operator_name(model, layer) == "DEPTHWISE_CONV_2D"
        shift = _shift(weights, means[int(layer.inputs[0])], depthwise)
        # A buffer of its own: equal constants of several tensors may share one.
        buffer = schema.BufferT()
        buffer.data = np.frombuffer((bias - shift).astype(np.float32).tobytes(), np.uint8)
        index = int(layer.inputs[2])
        if readers[index] > 1:  # the converter gives layers without a bias one tensor of zeros
            graph.tensors.append(copy.copy(graph.tensors[index]))
            index = len(graph.tensors) - 1
            graph.tensors[index].name += b"/%d" % index  # the quantizer goes by names
            layer.inputs = [*layer.inputs[:2], index, *layer.inputs[3:]]
        graph.tensors[index].buffer = len(model.buffers)
        model.buffers.append(buffer)
    return flatbuffer.write(model)


def _values(model: schema.ModelT, graph: schema.SubGraphT, index: int) -> np.ndarray | None:
    return flatbuffer.constant(model, graph.tensors[int(index)]) if index >= 0 else None


def _shift(weights: np.ndarray, mean: np.ndarray, depthwise: bool) -> np.ndarray:
    """What rounding the weights adds to each output channel on average. mean: of the inputs, by channel."""
    if depthwise:  # 1 x H x W x outputs, of which as many in a row as an input has
        kernels = weights.reshape(-1, weights.shape[-1]).T
        means = np.repeat(mean, len(kernels) // len(mean))[:, None]
    else:  # outputs x ... x inputs, those of the output's group alone
        kernels = weights.reshape(len(weights), -1)
        if len(mean) < weights.shape[-1]:  # a dense layer that reads every place of a map
            mean = np.tile(mean, weights.shape[-1] // len(mean))
        by_group = mean.reshape(-1, weights.shape[-1])
        groups = np.repeat(by_group, len(weights) // len(by_group), axis=0)
        means = np.tile(groups, kernels.shape[1] // weights.shape[-1])
    step = np.abs(kernels).max(1, keepdims=True) / _LARGEST
    step[step == 0] = 1
    return ((np.round(kernels / step) * step - kernels) * means).sum(1)


def _mean_inputs(content: bytes, images: np.ndarray, tensors: list[int]) -> dict[int, np.ndarray]:
    """By tensor, the mean of each channel over images and places."""
    with quiet():
        interpreter = Interpreter(model_content=content, experimental_preserve_all_tensors=True)
        interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    sums = dict.fromkeys(tensors, 0.0)
    for image in images:
        interpreter.set_tensor(source, to_float(image[None]))
        interpreter.invoke()
        for tensor in sums:
            values = interpreter.get_tensor(tensor)
            sums[tensor] = sums[tensor] + values.reshape(-1, values.shape[-1]).mean(0)
    return {tensor: total / len(images) for tensor, total in sums.items()}
