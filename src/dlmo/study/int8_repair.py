"""Self-repair of static int8: from the plain ranges up, until the accuracy of the float file is kept.

The rungs stand in rising order of cost. They are judged on validation images, the float file against each int8 file.
What they cannot mend is left to steps of their own: `mixed`, which leaves layers in float, and quantization-aware
training.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from dlmo.data.dataset import Dataset
from dlmo.measure.accuracy import right_answers
from dlmo.measure.layers import inspect_own
from dlmo.runtimes.litert.bias import bias_corrected
from dlmo.runtimes.litert.equalize import equalized
from dlmo.runtimes.litert.interpreter import predict
from dlmo.runtimes.litert.quantize import static_int8
from dlmo.runtimes.litert.ranges import mean_square, percentile
from dlmo.study.results import Repair

# The float file, calibration images and the layers that are not to be int8 (see static_int8) -> the int8 file.
Rung = Callable[..., bytes]


def _corrected_biases(content: bytes, images: np.ndarray, **options: object) -> bytes:
    return static_int8(bias_corrected(content, images), images, mean_square, **options)


def _equalized_channels(content: bytes, images: np.ndarray, **options: object) -> bytes:
    return static_int8(equalized(content), images, mean_square, **options)


RUNGS: dict[str, Rung] = {
    "min/max ranges": static_int8,
    "least-squares ranges": partial(static_int8, range_rule=mean_square),
    "99.9 % ranges": partial(static_int8, range_rule=percentile),
    "corrected biases": _corrected_biases,
    "equalized channels": _equalized_channels,
}
# A smaller loss of accuracy than this needs no repair, nor that of a single image.
_ENOUGH = 0.005
_JUDGED_IMAGES = 2000
_NAMED_LAYERS = 3


class Judge:
    """Accuracy lost against the float file, on validation images."""

    def __init__(self, content: bytes, dataset: Dataset) -> None:
        self._validation = dataset.validation.spread(_JUDGED_IMAGES)
        self.images = len(self._validation)
        self._reference = self._right(content)

    def lost(self, candidate: bytes) -> float:
        """Accuracy of the float file minus the candidate's, -1 to 1. Exactly k / images, so that a loss that is just
        allowed is not above the limit by a rounding."""
        return (self._reference - self._right(candidate)) / self.images

    def _right(self, content: bytes) -> int:
        return int(right_answers(predict(content, self._validation.images), self._validation.labels).sum())


def repaired_int8(content: bytes, dataset: Dataset, calibration: np.ndarray, judge: Judge) -> tuple[bytes, Repair]:
    """The int8 file of the cheapest rung that keeps the accuracy, else of the rung that loses least.

    content: the float file. calibration: uint8 N x H x W x C.
    """
    enough = max(_ENOUGH, 1 / judge.images)
    files: dict[str, bytes] = {}
    lost: dict[str, float] = {}
    for name, rung in RUNGS.items():
        files[name] = rung(content, calibration)
        lost[name] = judge.lost(files[name])
        if lost[name] <= enough:
            break
    best = min(lost, key=lost.__getitem__)
    blamed = _worst_layers(next(iter(files.values())), content, dataset) if len(files) > 1 else ()
    return files[best], Repair(best, lost, judge.images, blamed, enough)


def _worst_layers(quantized: bytes, content: bytes, dataset: Dataset) -> tuple[str, ...]:
    """The operators that add most error to the plain int8 file, worst first: `12 ADD 1x8x8x32 (9 dB)`."""
    worst = inspect_own("int8", quantized, "float32", content, dataset).worst(_NAMED_LAYERS)
    return tuple(f"{operator.title} ({operator.decibels:.0f} dB)" for operator in worst)
