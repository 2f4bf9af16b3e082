"""How splits are cut."""

import numpy as np
import pytest

from dlmo.data.splits import Cut, find_groups, grouped, quotas, stratified, validation_percent
from dlmo.errors import UserError


def cut(percent: int = 20, seed: int = 0, leave: int = 1) -> Cut:
    return Cut("test", percent, seed, leave)


def test_quotas_by_largest_remainder():
    # 20 % of 7, 7, 6 are 1.4, 1.4, 1.2: one each, and the fourth of 4 to the first largest remainder.
    assert quotas(np.array([7, 7, 6]), cut()).tolist() == [2, 1, 1]
    assert quotas(np.array([100, 50, 30]), cut()).tolist() == [20, 10, 6]


def test_quotas_leave_every_class_on_both_sides():
    assert quotas(np.array([1000, 2, 3]), cut(10)).tolist() == [100, 1, 1]
    assert quotas(np.array([3, 3]), cut(90, leave=2)).tolist() == [1, 1]


def test_stratified_takes_the_quota_of_each_class_once():
    labels = np.repeat([0, 1, 2], [50, 25, 5])
    indices = stratified(labels, [f"{i}.png" for i in range(80)], "abc", cut())
    assert np.bincount(labels[indices]).tolist() == [10, 5, 1]
    assert len(set(indices.tolist())) == 16
    assert np.all(np.diff(indices) > 0)


def test_stratified_depends_on_names_not_on_their_order():
    labels = np.repeat([0, 1], 50)
    keys = np.array([f"{i}.png" for i in range(100)])
    shuffled = np.random.default_rng(1).permutation(100)
    taken = set(keys[stratified(labels, keys.tolist(), "ab", cut())])
    other = shuffled[stratified(labels[shuffled], keys[shuffled].tolist(), "ab", cut())]
    assert set(keys[other]) == taken
    assert set(keys[stratified(labels, keys.tolist(), "ab", cut(seed=1))]) != taken


def test_validation_share_depends_on_the_size():
    assert validation_percent(1999) == 20
    assert validation_percent(2000) == 10


def test_grouped_keeps_groups_whole_and_classes_near_their_share():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 60, 900)
    labels = (rng.random(900) < 0.3).astype(np.int64)
    indices = grouped(labels, groups, [f"slot {i}" for i in range(60)], "ab", cut())
    inside, outside = set(groups[indices]), set(np.delete(groups, indices))
    assert not inside & outside
    shares = np.bincount(labels[indices]) / np.bincount(labels)
    assert np.all(np.abs(shares - 0.2) < 0.03)
    again = grouped(labels, groups, [f"slot {i}" for i in range(60)], "ab", cut())
    assert np.array_equal(indices, again)


def test_grouped_puts_a_rare_class_on_both_sides():
    labels = np.array([0] * 90 + [1] * 6)
    groups = np.array([i % 10 for i in range(90)] + [0, 0, 0, 7, 7, 7])
    indices = grouped(labels, groups, [str(i) for i in range(10)], "ab", cut())
    assert np.bincount(labels[indices], minlength=2)[1] == 3
    assert len(set(groups[indices])) == 2


def test_grouped_refuses_a_class_in_one_group():
    with pytest.raises(UserError, match=r"class 'b' lies in 1 group.*at least 2"):
        grouped(np.array([0, 0, 0, 1]), np.array([0, 1, 2, 2]), ["x", "y", "z"], "ab", cut())


def test_groups_are_what_the_expression_captures():
    names = ["a/A_20_7.jpg", "b/B_21_7.jpg"]
    assert find_groups(names, r"_(\d+)\.jpg") == ["7", "7"]
    assert find_groups(names, r"/([AB])_\d+_(\d+)") == ["A|7", "B|7"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(\d+", "not a regular expression"),
        (r"\d+", "no capture group"),
        (r"A_(\d+)", "matches 1 of 2 file names, not for example 'b/B_2.jpg'"),
        (r"Z(\d)", "matches 0 of 2 file names"),
    ],
)
def test_unfit_group_expressions(pattern, message):
    with pytest.raises(UserError) as caught:
        find_groups(["a/A_1.jpg", "b/B_2.jpg"], pattern)
    assert message in str(caught.value)
