"""Estimating the flash of a microcontroller's program: the interpreter and the kernels a model needs."""

from dataclasses import dataclass

from dlmo.runtimes.litert import flatbuffer

# TensorFlow Lite's operator -> the method of MicroMutableOpResolver that registers it.
RESOLVER_METHODS: dict[str, str] = {
    "ADD": "AddAdd",
    "AVERAGE_POOL_2D": "AddAveragePool2D",
    "CONCATENATION": "AddConcatenation",
    "CONV_2D": "AddConv2D",
    "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D",
    "DEQUANTIZE": "AddDequantize",
    "FULLY_CONNECTED": "AddFullyConnected",
    "HARD_SWISH": "AddHardSwish",
    "LOGISTIC": "AddLogistic",
    "MAX_POOL_2D": "AddMaxPool2D",
    "MEAN": "AddMean",
    "MUL": "AddMul",
    "PAD": "AddPad",
    "QUANTIZE": "AddQuantize",
    "RELU": "AddRelu",
    "RELU6": "AddRelu6",
    "RESHAPE": "AddReshape",
    "SOFTMAX": "AddSoftmax",
    "STRIDED_SLICE": "AddStridedSlice",
    "SUB": "AddSub",
    "TRANSPOSE": "AddTranspose",
}

# Measured by benchmarks/flash.py with TensorFlow Lite Micro 90b983c2 (August 2026) and gcc 12.2 -Os for a Cortex-M4
# with FPU: bytes of a linked program with interpreter, resolver and CONV_2D, and what each further operator adds.
# Reference kernels for all types; optimized ones (CMSIS-NN) differ. The sum is 2 % over the linked program with
# CONV_2D, DEPTHWISE_CONV_2D, ADD, PAD, MEAN and FULLY_CONNECTED (39,300 bytes), as operators share some code.
BASE_BYTES = 22_392
KERNEL_BYTES: dict[str, int] = {
    "ADD": 5_420,
    "AVERAGE_POOL_2D": 2_216,
    "CONCATENATION": 2_336,
    "DEPTHWISE_CONV_2D": 3_120,
    "DEQUANTIZE": 800,
    "FULLY_CONNECTED": 3_408,
    "HARD_SWISH": 936,
    "LOGISTIC": 4_296,
    "MAX_POOL_2D": 2_312,
    "MEAN": 3_136,
    "MUL": 4_940,
    "PAD": 2_464,
    "QUANTIZE": 1_856,
    "RELU": 904,
    "RELU6": 776,
    "RESHAPE": 960,
    "SOFTMAX": 5_180,
    "STRIDED_SLICE": 4_416,
    "SUB": 5_516,
    "TRANSPOSE": 1_152,
}
SOURCE = "estimated: model + interpreter and reference kernels as compiled by gcc 12.2 -Os for a Cortex-M4"


@dataclass(frozen=True)
class Flash:
    """Bytes of flash: the model, and program code for it. unknown: operators whose kernels are not in the table."""

    model: int
    code: int
    unknown: tuple[str, ...]

    @property
    def total(self) -> int:
        return self.model + self.code

    @property
    def source(self) -> str:
        return SOURCE + (f", without {', '.join(self.unknown)}" if self.unknown else "")


def flash(content: bytes) -> Flash:
    """What a program with this model takes, without the user's own code."""
    operators = set(flatbuffer.facts(content).operators)
    code = BASE_BYTES + sum(KERNEL_BYTES.get(operator, 0) for operator in operators)
    return Flash(len(content), code, tuple(sorted(operators - KERNEL_BYTES.keys() - {"CONV_2D"})))
