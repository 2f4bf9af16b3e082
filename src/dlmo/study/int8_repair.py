"""Self-repair of static int8: from the plain ranges up, until the accuracy of the float file is kept.

The rungs stand in rising order of cost. They are judged on validation images, the float file against each int8 file.
What no range can mend is left to quantization-aware training, a step of its own.
"""

import numpy as np

from dlmo.data.dataset import Dataset
from dlmo.runtimes.litert.interpreter import predict
from dlmo.runtimes.litert.quantize import static_int8
from dlmo.runtimes.litert.ranges import RangeRule, mean_square, percentile
from dlmo.study.results import Repair

RUNGS: dict[str, RangeRule | None] = {
    "min/max ranges": None,
    "least-squares ranges": mean_square,
    "99.9 % ranges": percentile,
}
# A smaller loss of accuracy than this needs no repair.
_ENOUGH = 0.005
_JUDGED_IMAGES = 2000


def repaired_int8(content: bytes, dataset: Dataset, calibration: np.ndarray) -> tuple[bytes, Repair]:
    """The int8 file of the cheapest rung that keeps the accuracy, else of the rung that loses least.

    content: the float file. calibration: uint8 N x H x W x C.
    """
    validation = dataset.validation.spread(_JUDGED_IMAGES)

    def accuracy(candidate: bytes) -> float:
        return float((predict(candidate, validation.images).argmax(1) == validation.labels).mean())

    reference = accuracy(content)
    files: dict[str, bytes] = {}
    lost: dict[str, float] = {}
    for name, rule in RUNGS.items():
        files[name] = static_int8(content, calibration, rule)
        lost[name] = reference - accuracy(files[name])
        if lost[name] <= _ENOUGH:
            break
    best = min(lost, key=lost.__getitem__)
    return files[best], Repair(best, lost, len(validation))
