"""Ranges of activations for static quantization, from a float .tflite file and calibration images.

Each function maps sampled values of one tensor (float, flat) to the (low, high) its integers shall span.
"""

from collections.abc import Callable

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from dlmo.data.preprocessing import to_float
from dlmo.runtimes.litert.interpreter import quiet

RangeRule = Callable[[np.ndarray], tuple[float, float]]

# Values kept per tensor and image; enough for a 99.9th percentile over a hundred images.
_SAMPLES_PER_IMAGE = 512
_SHRINKAGES = np.linspace(1.0, 0.4, 25)


def percentile(values: np.ndarray) -> tuple[float, float]:
    """Cuts off the outermost 0.1 % of the values (Wu et al., "Integer quantization for deep learning inference",
    arXiv:2004.09602, section 3.3)."""
    low, high = np.percentile(values, (0.1, 99.9))
    return float(low), float(high)


def mean_square(values: np.ndarray) -> tuple[float, float]:
    """The range, shrunk from the full one on both sides alike, whose rounding and clipping cost the least squared
    error over 8 bits (Nagel et al., "A white paper on neural network quantization", arXiv:2106.08295, section 3.1)."""
    full = min(0.0, float(values.min())), max(0.0, float(values.max()))
    if full[0] == full[1]:
        return full

    def error(shrinkage: float) -> float:
        low, high = full[0] * shrinkage, full[1] * shrinkage
        step = (high - low) / 255
        return float(np.square(np.round(np.clip(values, low, high) / step) * step - values).sum())

    best = min(_SHRINKAGES, key=error)
    return full[0] * best, full[1] * best


def sampled_values(content: bytes, images: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    """Values that the named float tensors take on the images, up to a fixed number per image and tensor.

    images: uint8 N x H x W x C. Tensors the interpreter does not keep are left out.
    """
    with quiet():
        interpreter = Interpreter(model_content=content, experimental_preserve_all_tensors=True)
        interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    indices = {tensor["name"]: tensor["index"] for tensor in interpreter.get_tensor_details()}
    wanted = [name for name in names if name in indices]
    seen: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    generator = np.random.default_rng(0)
    for image in images:
        interpreter.set_tensor(source, to_float(image[None]))
        interpreter.invoke()
        for name in wanted:
            values = interpreter.get_tensor(indices[name]).reshape(-1)
            if values.size > _SAMPLES_PER_IMAGE:
                values = values[generator.integers(0, values.size, _SAMPLES_PER_IMAGE)]
            seen[name].append(np.array(values, np.float32))
    return {name: np.concatenate(parts) for name, parts in seen.items()}
