"""Do two machines compute the same scores of a file? Needs numpy alone: packages and devices get this very file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Kernels of other processors round differently, by a few steps of an int8 output's grid. More than this share of
# the largest expected output is no rounding.
TOLERANCE = 0.05


@dataclass(frozen=True)
class Agreement:
    """same_answers: of how many images the best class is the same (or another one that was expected to score as much,
    within the tolerance). largest_difference: of a score, in units of the scores; share: the same over the largest
    expected score.
    """

    images: int
    same_answers: int
    largest_difference: float
    share: float

    @property
    def passed(self) -> bool:
        return self.same_answers == self.images and self.share <= TOLERANCE


def agreement(expected: np.ndarray, found: np.ndarray) -> Agreement:
    """expected, found: scores of the same images, float32 N x classes. What is no number agrees with itself."""
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        largest = float(np.where(same, 0, np.abs(found - expected)).max())
        scale = float(np.abs(expected[np.isfinite(expected)]).max(initial=0)) or 1.0
        rows = np.arange(len(expected))
        same_answers = same.all(1) | (expected[rows, found.argmax(1)] >= expected.max(1) - TOLERANCE * scale)
    return Agreement(len(expected), int(same_answers.sum()), largest, largest / scale)
