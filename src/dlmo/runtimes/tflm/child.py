"""The child process around one TensorFlow Lite Micro interpreter, which may abort on a bad file.

    python -m dlmo.runtimes.tflm.child

stdin: the model's length (8 bytes, little endian), the model, then images one by one, uint8 H x W x C.
stdout: one line of JSON, {"shape": [height, width, channels], "classes": N} or {"error": text}; then for each
image N float32 scores. At the end of its input it makes the runtime write its memory account to stderr.
"""

import json
import struct
import sys

import numpy as np

from dlmo.data.preprocessing import to_input
from dlmo.runtimes.tflm.rules import refusal

# Pages that are never touched cost nothing; no microcontroller has this much.
_ARENA_BYTES = 1 << 28


def main() -> None:
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    content = source.read(*struct.unpack("<Q", source.read(8)))
    try:
        reason = refusal(content)
    except Exception as error:  # whatever a broken file does to the parser
        reason = f"it is no readable .tflite file ({type(error).__name__})"
    if reason:
        _answer({"error": reason})
        return
    from tflite_micro.python.tflite_micro import runtime

    try:
        interpreter = runtime.Interpreter.from_bytes(content, arena_size=_ARENA_BYTES)
    except RuntimeError:
        _answer({"error": ""})  # the native side has written why to stderr
        return
    entry, result = interpreter.get_input_details(0), interpreter.get_output_details(0)
    classes = int(np.prod(result["shape"]))
    shape = [int(side) for side in entry["shape"][1:]]
    _answer({"shape": shape, "classes": classes})
    scale, zero_point = _quantization(entry)
    out_scale, out_zero = _quantization(result)
    length = int(np.prod(shape))
    while len(pixels := source.read(length)) == length:
        image = np.frombuffer(pixels, np.uint8).reshape(1, *shape)
        # Inside the arena the input's place is used again, so it is set for every run.
        interpreter.set_input(to_input(image, entry["dtype"], scale, zero_point), 0)
        interpreter.invoke()
        scores = interpreter.get_output(0).reshape(-1)
        if scores.dtype != np.float32:
            scores = (scores.astype(np.float32) - out_zero) * (out_scale or 1.0)
        sink.write(scores.tobytes())
        sink.flush()
    sys.stderr.flush()
    interpreter.print_allocations()


def _quantization(details: dict) -> tuple[float, int]:
    """Scale and zero point of a tensor; 0, 0 where it has none."""
    parameters = details["quantization_parameters"]
    if len(parameters["scales"]) == 0:
        return 0.0, 0
    return float(parameters["scales"][0]), int(parameters["zero_points"][0])


def _answer(document: dict) -> None:
    sys.stdout.buffer.write(json.dumps(document).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
