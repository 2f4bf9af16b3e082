"""What counts as the same scores."""

import numpy as np
import pytest

from dlmo.measure.agreement import agreement

SCORES = np.array([[1.0, 3.0], [4.0, 2.0]], np.float32)


def test_a_small_difference_is_rounding_and_a_large_one_is_not():
    assert agreement(SCORES, SCORES + 0.1).passed
    assert not agreement(SCORES, SCORES[:, ::-1]).passed


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_agrees_with_itself_alone(odd):
    damaged = SCORES.copy()
    damaged[0, 1] = odd
    assert agreement(damaged, damaged).passed
    assert not agreement(SCORES, damaged).passed
    assert not agreement(damaged, SCORES).passed
