import numpy as np
import pytest

from dlmo.measure.accuracy import accuracy, confusion_matrix
from dlmo.measure.statistics import paired_test, wilson_interval


def test_wilson_interval_of_a_textbook_case():
    # Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I: 81/263, 15/148, 0/20.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_wilson_interval_at_the_ends_and_for_nothing():
    assert wilson_interval(20, 20)[1] == 1.0
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_paired_test_by_hand():
    first = np.array([True] * 10 + [False] * 2 + [True] * 8)
    second = np.array([True] * 10 + [True] * 2 + [False] * 8)
    test = paired_test(first, second)
    assert (test.only_first, test.only_second) == (8, 2)
    # Binomial(10, 1/2): twice P(X <= 2) = 2 * 56 / 1024
    assert test.p_value == pytest.approx(112 / 1024)
    assert test.gain == pytest.approx(-0.3)
    assert test.sentence() == "no difference that 20 images can show (p = 0.11)"


def test_a_clear_difference_is_said_with_its_direction():
    right, wrong = np.ones(100, bool), np.zeros(100, bool)
    assert "worse by 100.00 points on 100 images" in paired_test(right, wrong).sentence()
    assert "better" in paired_test(wrong, right).sentence()
    assert paired_test(right, right).p_value == 1.0


def test_accuracy_and_confusion():
    scores = np.array([[2.0, 1, 0], [0, 3, 1], [0, 2, 1], [1, 0, 4]])
    labels = np.array([0, 1, 2, 2])
    measured = accuracy(scores, labels)
    assert (measured.value, measured.images) == (0.75, 4)
    assert measured.low < 0.75 < measured.high
    scores[0, 2] = np.nan
    assert accuracy(scores, labels).value == 0.5, "what is no number is no answer"
    scores[0, 2] = 0
    assert confusion_matrix(scores, labels).tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]


def test_scores_that_are_no_numbers_are_no_answer():
    scores, labels = np.array([[np.nan, 1], [0, 1], [np.nan, np.nan]]), np.array([0, 1, 0])
    assert confusion_matrix(scores, labels).tolist() == [[0, 0], [0, 1]]
    assert accuracy(scores, labels).value == pytest.approx(1 / 3)
