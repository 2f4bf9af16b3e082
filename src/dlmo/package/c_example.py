"""The model as C++ for TensorFlow Lite Micro: arrays, class names, and a program that replays golden images.

Operators and types are those of TensorFlow Lite Micro's kernels as of August 2026 (micro_mutable_op_resolver.h).
"""

from importlib import resources
from string import Template

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dlmo.package.run import TOLERANCE
from dlmo.runtimes.litert import flatbuffer

C_FILES = ("labels.h", "model_data.h", "model_data.cc", "golden_data.h", "golden_data.cc", "main.cc")
# What image classifiers are made of and TensorFlow Lite Micro has a kernel for.
OPERATORS = frozenset({
    "ABS", "ADD", "ADD_N", "ARG_MAX", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "DEQUANTIZE",
    "DIV", "EXP", "EXPAND_DIMS", "FULLY_CONNECTED", "HARD_SWISH", "L2_NORMALIZATION", "LEAKY_RELU", "LOGISTIC",
    "LOG_SOFTMAX", "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM", "MIRROR_PAD", "MUL", "NEG", "PACK", "PAD", "PRELU",
    "QUANTIZE", "REDUCE_MAX", "RELU", "RELU6", "RESHAPE", "RSQRT", "SLICE", "SOFTMAX", "SPACE_TO_DEPTH", "SPLIT",
    "SPLIT_V", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "SQUEEZE", "STRIDED_SLICE", "SUB", "SUM", "TANH", "TRANSPOSE",
    "TRANSPOSE_CONV", "UNPACK",
})  # fmt: skip
_TYPES = (schema.TensorType.FLOAT32, schema.TensorType.INT8, schema.TensorType.INT32)
_C_TYPES = {np.dtype(np.float32): "float", np.dtype(np.int8): "int8_t"}
_INT8_WOULD = "the recipe `int8` makes a file that runs there"
_VECTORS = 2  # golden images in the program: they lie in the device's flash
_LARGEST_FILE = 16 << 20  # bytes; written out as C text, larger ones take minutes and no compiler likes them
_ALIGNMENT = 16  # bytes, of tensors in the arena and of the model


def obstacle(content: bytes) -> str | None:
    """Why there is nothing in a file for TensorFlow Lite Micro; None where it can run it."""
    if len(content) > _LARGEST_FILE:
        return f"its {len(content) / 1e6:,.0f} MB are more than a microcontroller holds"
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    names = [flatbuffer.operator_name(model, operator) for operator in graph.operators]
    unknown = sorted(set(names) - OPERATORS)
    if len(model.subgraphs) > 1:
        return "it has more than one graph"
    if any(tensor.sparsity is not None for tensor in graph.tensors):
        return f"its zeros are encoded as sparse tensors, which TensorFlow Lite Micro cannot read; {_INT8_WOULD}"
    if unknown:
        return f"TensorFlow Lite Micro has no kernel for {', '.join(unknown)}"
    if any(tensor.type not in _TYPES for tensor in graph.tensors):
        return f"it has weights or activations that are neither float32 nor int8; {_INT8_WOULD}"
    for name, operator in zip(names, graph.operators):
        inputs = [graph.tensors[int(index)] for index in operator.inputs if index >= 0]
        if name in flatbuffer.WEIGHTED and inputs[0].type != inputs[1].type:
            what = "it has int8 weights with float activations, which TensorFlow Lite Micro has no kernel for"
            return f"{what}; {_INT8_WOULD}"
        if name == "DEQUANTIZE" and flatbuffer.constant(model, inputs[0]) is not None:
            return (
                f"its weights are widened to float when loaded, which TensorFlow Lite Micro does not do; {_INT8_WOULD}"
            )
    return None


def c_files(
    content: bytes, labels: list[str], inputs: np.ndarray, outputs: np.ndarray, arena_bytes: int | None
) -> dict[str, bytes]:
    """Name to content of every source file; only for a file without `obstacle`.

    inputs, outputs: golden vectors in the model's own types, N x ... arena_bytes: as measured; None: estimated.
    """
    model = flatbuffer.read(content)
    output = model.subgraphs[0].tensors[int(model.subgraphs[0].outputs[0])]
    scale = float(output.quantization.scale[0]) if outputs.dtype == np.int8 else 1.0
    zero_point = int(output.quantization.zeroPoint[0]) if outputs.dtype == np.int8 else 0
    inputs, outputs = inputs[:_VECTORS].reshape(min(_VECTORS, len(inputs)), -1), outputs[:_VECTORS]
    largest = float(np.abs((outputs.astype(np.float32) - zero_point) * scale).max()) or 1.0
    operators = sorted({flatbuffer.operator_name(model, operator) for operator in model.subgraphs[0].operators})
    fields = {
        "operator_count": len(operators),
        "operators": "\n".join(f"  if (resolver.{_adder(name)}() != kTfLiteOk) return false;" for name in operators),
        "arena_bytes": f"{arena_bytes or estimated_arena(content):,}".replace(",", "'"),
        "arena_source": "measured" if arena_bytes else "estimated",
        "input_type": _C_TYPES[inputs.dtype],
        "output_type": _C_TYPES[outputs.dtype],
        "vectors": len(inputs),
        "input_size": inputs.shape[1],
        "classes": len(labels),
        "tolerance": c_float(TOLERANCE * largest / scale),
        "labels": "\n".join(f"    {_c_string(label)}," for label in labels),
        "model_size": len(content),
        "model_bytes": _numbers(np.frombuffer(content, np.uint8)),
        "inputs": ",\n".join(f"{{\n{_numbers(row)}}}" for row in inputs),
        "outputs": ",\n".join(f"{{\n{_numbers(row)}}}" for row in outputs),
    }
    folder = resources.files("dlmo.package") / "templates"
    return {name: Template((folder / name).read_text()).substitute(fields).encode() for name in C_FILES}


def estimated_arena(content: bytes) -> int:
    """Bytes of memory TensorFlow Lite Micro needs beside the model, on the safe side, as a multiple of 1,024.

    Activations: the most that live at once, each aligned. What the interpreter and its kernels keep is taken as
    256 bytes per operator, 64 per tensor and 8 per output channel (multiplier and shift), and a quarter is added.
    """
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    born = {int(index): 0 for index in graph.inputs}
    dies = {int(index): len(graph.operators) for index in graph.outputs}
    kept = 64 * len(graph.tensors)
    for step, operator in enumerate(graph.operators):
        born |= {int(index): step for index in operator.outputs}
        dies |= {int(index): step for index in operator.inputs if int(index) not in graph.outputs}
        kept += 256
        if flatbuffer.operator_name(model, operator) in flatbuffer.WEIGHTED:
            kept += 8 * int(graph.tensors[int(operator.outputs[0])].shape[-1])
    sizes = {index: _tensor_bytes(graph.tensors[index]) for index in born}
    peak = max(
        sum(size for index, size in sizes.items() if born[index] <= step <= dies.get(index, step))
        for step in range(len(graph.operators))
    )
    return -(-5 * (peak + kept) // (4 * 1024)) * 1024


def _tensor_bytes(tensor: schema.TensorT) -> int:
    width = 1 if tensor.type == schema.TensorType.INT8 else 4
    return -(-int(np.prod(tensor.shape)) * width // _ALIGNMENT) * _ALIGNMENT


def _adder(operator: str) -> str:
    """The resolver's method: DEPTHWISE_CONV_2D -> AddDepthwiseConv2D."""
    return "Add" + "".join(part.capitalize() for part in operator.split("_")).replace("2d", "2D")


def _c_string(text: str) -> str:
    """UTF-8 as a C string; every byte that is not plain is written in octal, so that nothing can end the string."""
    plain = (chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in text.encode())
    return f'"{"".join(plain)}"'


def _numbers(values: np.ndarray) -> str:
    """Numbers of a C array, 20 a line; floats with the digits that give back the same bits."""
    written = [f"{value:.9g}" if values.dtype == np.float32 else str(value) for value in values.tolist()]
    if values.dtype == np.float32:
        written = [text + ("f" if "." in text or "e" in text else ".0f") for text in written]
    return "".join(", ".join(written[start : start + 20]) + ",\n" for start in range(0, len(written), 20))


def c_float(value: float) -> str:
    """A float literal of C++ with six digits; whole numbers need their point: 3.0f"""
    return f"{float(f'{value:.6g}')!r}f"
