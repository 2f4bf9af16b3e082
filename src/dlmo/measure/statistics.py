"""Intervals and tests for counts of right answers."""

import math
from dataclasses import dataclass

import numpy as np


def wilson_interval(right: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % score interval of a share (Wilson, 1927), 0 to 1; (0, 1) for no observations."""
    if total == 0:
        return 0.0, 1.0
    share = right / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    # At 0 and `total` the bound is exact; rounding must not move it inside.
    low = 0.0 if right == 0 else (centre - spread) / scale
    high = 1.0 if right == total else (centre + spread) / scale
    return low, high


@dataclass(frozen=True)
class PairedTest:
    """Two classifiers on the same images (McNemar, 1947; exact binomial form).

    only_first, only_second: images that only one of them gets right. p_value: two-sided, 0 to 1.
    """

    images: int
    only_first: int
    only_second: int
    p_value: float

    @property
    def gain(self) -> float:
        """Accuracy of the second minus accuracy of the first, -1 to 1."""
        return (self.only_second - self.only_first) / max(1, self.images)

    def sentence(self) -> str:
        if self.p_value >= 0.05:
            return f"no difference that {self.images} images can show (p = {self.p_value:.2f})"
        word = "better" if self.gain > 0 else "worse"
        return f"{word} by {abs(self.gain) * 100:.2f} points on {self.images} images (p = {self.p_value:.2g})"


def paired_test(first_right: np.ndarray, second_right: np.ndarray) -> PairedTest:
    """Compare two vectors of right/wrong (bool, N) on the same N images."""
    from scipy.stats import binomtest

    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    different = only_first + only_second
    p_value = 1.0 if different == 0 else float(binomtest(only_first, different, 0.5).pvalue)
    return PairedTest(len(first_right), only_first, only_second, p_value)
