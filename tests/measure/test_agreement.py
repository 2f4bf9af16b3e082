"""What counts as the same scores."""

import numpy as np
import pytest

from dlmo.measure.agreement import agreement

SCORES = np.array([[1.0, 3.0], [4.0, 2.0]], np.float32)


def test_a_small_difference_is_rounding_and_a_large_one_is_not():
    assert agreement(SCORES, SCORES + 0.1).passed
    assert not agreement(SCORES, SCORES[:, ::-1]).passed


@pytest.mark.parametrize(("share", "passed"), [(0.049, True), (0.051, False)])
def test_a_twentieth_of_the_largest_score_is_the_most_that_is_rounding(share, passed):
    off = SCORES.copy()
    off[0, 0] -= share * SCORES.max()
    found = agreement(SCORES, off)
    assert found.passed is passed and found.same_answers == 2
    assert found.share == pytest.approx(share, rel=1e-4)


@pytest.mark.parametrize(("lead", "same_answers"), [(0.19, 2), (0.21, 1)])
def test_another_answer_is_the_same_where_it_was_expected_to_score_as_much(lead, same_answers):
    expected = np.array([[4.0, 0.0], [4.0, 4.0 - lead]], np.float32)
    turned = expected.copy()
    turned[1] = turned[1, ::-1]
    found = agreement(expected, turned)
    assert found.same_answers == same_answers and found.passed is (same_answers == 2)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_agrees_with_itself_alone(odd):
    damaged = SCORES.copy()
    damaged[0, 1] = odd
    assert agreement(damaged, damaged).passed
    assert not agreement(SCORES, damaged).passed
    assert not agreement(damaged, SCORES).passed
