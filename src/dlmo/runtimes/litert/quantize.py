"""Post-training quantization of a float .tflite file, through ai-edge-quantizer.

Works on the file as the converter wrote it (it finds tensors by name); names are shortened afterwards.
"""

import re
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe_manager
from ai_edge_quantizer.utils import qsv_utils

from dlmo.data.preprocessing import to_float
from dlmo.runtimes.litert import flatbuffer
from dlmo.runtimes.litert.four_bits import pointwise_as_dense
from dlmo.runtimes.litert.interpreter import quiet
from dlmo.runtimes.litert.ranges import RangeRule, sampled_values

_CALIBRATED_AT_ONCE = 16
_OPERATION = qtyping.TFLOperationName
# What a layer of an int8 file may be instead: the same with weights of 4 bits (see runtimes.litert.four_bits), or float
# arithmetic with weights of 16 bits.
LayerForm = Literal["int4", "float16"]
# What a filter's largest weight is at least, as a share of its bias: enough for the bias to fit at an input scale of
# 2e-4, little beside the bias itself.
_LEAST_SPAN = 3e-4


def float16(content: bytes) -> bytes:
    """Weights in float16 (the study's F16); kernels widen them once, at load time."""
    recipe = recipe_manager.RecipeManager()
    _add_float16(recipe, ".*")
    return _quantize(content, recipe, None)


def dynamic_int8(content: bytes) -> bytes:
    """int8 weights, activations quantized while running (the study's BLQ).

    Depthwise convolutions get int8 weights and float arithmetic: the kernels have no dynamic form of them and
    would leave the delegate (MobileNet v2: 4 times slower).
    """
    recipe = recipe_manager.RecipeManager()
    recipe.add_weight_only_config(".*", _OPERATION.DEPTHWISE_CONV_2D, 8)
    for operation in (_OPERATION.CONV_2D, _OPERATION.FULLY_CONNECTED):
        recipe.add_dynamic_config(".*", operation, 8)
    return _quantize(content, recipe, None)


def weight_only_int8(content: bytes) -> bytes:
    """int8 weights, widened once when the model is loaded; float arithmetic.

    The form of BLQ for pruned models: the kernels' dynamic int8 convolutions refuse sparse-encoded weights.
    """
    recipe = recipe_manager.RecipeManager()
    for operation in (_OPERATION.CONV_2D, _OPERATION.DEPTHWISE_CONV_2D, _OPERATION.FULLY_CONNECTED):
        recipe.add_weight_only_config(".*", operation, 8)
    return _quantize(content, recipe, None)


def static_int8(
    content: bytes,
    images: np.ndarray,
    range_rule: RangeRule | None = None,
    exceptions: Mapping[str, LayerForm] | None = None,
) -> bytes:
    """Weights, activations, biases, input and output in integers (the study's FIQ).

    images: uint8 N x H x W x C calibration samples. range_rule: what range to give an activation (see
    runtimes.litert.ranges); None is the smallest and largest value seen. exceptions: by the name of an operator's
    output, what it is instead; one without weights just stays in float.
    The input range is fixed to what pixels can be, so that its int8 form is exactly pixel - 128.
    """
    recipe = recipe_manager.RecipeManager()
    recipe.add_static_config(".*", _OPERATION.ALL_SUPPORTED, 8, 8)
    for name, form in (exceptions or {}).items():
        scope = f"^{re.escape(name)};$"  # as the quantizer writes an operator's name
        if form == "int4":
            for operation in (_OPERATION.CONV_2D, _OPERATION.FULLY_CONNECTED):
                recipe.add_static_config(scope, operation, 8, 4)
        else:
            recipe.add_quantization_config(
                scope, _OPERATION.ALL_SUPPORTED, algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE
            )
            _add_float16(recipe, scope)
    content = _with_no_filter_empty(content)
    made = _quantize(content, recipe, lambda model: _ranges(model, recipe, images, range_rule))
    return pointwise_as_dense(made) if exceptions else made


def _with_no_filter_empty(content: bytes) -> bytes:
    """The network with a tiny weight in each filter that has none beside its bias, as pruning leaves them.

    An int8 layer's biases are stored in steps of input scale times filter scale, in 32 bits. The quantizer gives an
    empty filter a scale so small that its bias would be cut to nothing.
    """
    model = flatbuffer.read(content)
    graph, buffers = model.subgraphs[0], len(model.buffers)
    for operator in graph.operators:
        name = flatbuffer.operator_name(model, operator)
        if name not in flatbuffer.WEIGHTED or len(operator.inputs) < 3 or operator.inputs[2] < 0:
            continue
        tensor = graph.tensors[int(operator.inputs[1])]
        weights, bias = (flatbuffer.constant(model, graph.tensors[int(index)]) for index in operator.inputs[1:3])
        if weights is None or bias is None or weights.dtype != np.float32:
            continue
        weights = weights.copy()
        filters = np.moveaxis(weights, -1 if name == "DEPTHWISE_CONV_2D" else 0, 0)
        spans = np.abs(filters.reshape(len(filters), -1)).max(1)
        least = _LEAST_SPAN * np.abs(bias)
        small = spans < least
        if not small.any():
            continue
        filters[(small, *[0] * (filters.ndim - 1))] = least[small]
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(weights.tobytes(), np.uint8)
        tensor.buffer = len(model.buffers)
        model.buffers.append(buffer)
    return flatbuffer.write(model) if len(model.buffers) > buffers else content


def _ranges(
    content: bytes, recipe: recipe_manager.RecipeManager, images: np.ndarray, range_rule: RangeRule | None
) -> dict:
    # The quantizer's default, a moving average over samples, clips; min/max keeps every value seen.
    calibration = calibrator.Calibrator(content, num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    signature, names = next(iter(calibration._tfl_interpreter.get_signature_list().items()))
    name = names["inputs"][0]
    for start in range(0, len(images), _CALIBRATED_AT_ONCE):  # each takes four times the memory as a float input
        part = images[start : start + _CALIBRATED_AT_ONCE]
        calibration.calibrate({signature: [{name: to_float(image[None])} for image in part]}, recipe)
    ranges = calibration.get_model_qsvs()
    if range_rule is not None:
        for tensor, values in sampled_values(content, images, list(ranges)).items():
            low, high = range_rule(values)
            shape = np.shape(ranges[tensor]["min"])
            ranges[tensor] = {"min": np.full(shape, low, np.float32), "max": np.full(shape, high, np.float32)}
    index = calibration._tfl_interpreter.get_input_details()[0]["index"]
    tensor = calibration._tfl_interpreter.get_tensor_details()[index]["name"]
    limits = to_float(np.array([0, 255], np.uint8))
    shape = np.shape(ranges[tensor]["min"])
    ranges[tensor] = {"min": np.full(shape, limits[0]), "max": np.full(shape, limits[1])}
    return ranges


def _add_float16(recipe: recipe_manager.RecipeManager, scope: str) -> None:
    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
    )
    for operation in (_OPERATION.CONV_2D, _OPERATION.DEPTHWISE_CONV_2D, _OPERATION.FULLY_CONNECTED):
        recipe.add_quantization_config(scope, operation, config, quantizer.AlgorithmName.FLOAT_CASTING)


def _quantize(content: bytes, recipe: recipe_manager.RecipeManager, calibrate: Callable[[bytes], dict] | None) -> bytes:
    with quiet():
        worker = quantizer.Quantizer(content, quantization_recipe=recipe.get_quantization_recipe())
        ranges = calibrate(content) if calibrate else None
        return bytes(worker.quantize(ranges, enable_progress_report=False).quantized_model)
