"""Top-1 accuracy of scores."""

from dataclasses import dataclass

import numpy as np

from dlmo.measure.statistics import wilson_interval


@dataclass(frozen=True)
class Accuracy:
    """Share of right answers, 0 to 1, with its 95 % Wilson interval over `images` images."""

    value: float
    low: float
    high: float
    images: int


def right_answers(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which images get their label as the top score, bool N. scores: N x classes; NaN is no answer."""
    return (scores.argmax(1) == labels) & ~np.isnan(scores).any(1)


def accuracy(scores: np.ndarray, labels: np.ndarray) -> Accuracy:
    right = int(right_answers(scores, labels).sum())
    low, high = wilson_interval(right, len(labels))
    return Accuracy(right / max(1, len(labels)), low, high, len(labels))


def confusion_matrix(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts, int64 classes x classes; row = true class, column = predicted class. Scores with a NaN, which are no
    answer, are in no cell."""
    classes = scores.shape[1]
    told = ~np.isnan(scores).any(1)
    cells = labels[told] * classes + scores[told].argmax(1)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)
