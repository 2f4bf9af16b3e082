"""Cutting validation and test images from training images.

The order in which images are taken comes from a hash of seed and name, not from a random generator: it is
the same on every system and library version, and a new file does not stir all the others.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dlmo.errors import UserError

TEST_PERCENT = 20
VALIDATION_PERCENT_SMALL, VALIDATION_PERCENT = 20, 10
SMALL_TRAIN = 2000  # training images below which the larger validation share is taken


class NoGroups(UserError):
    """No name of the source tells a group."""


@dataclass(frozen=True)
class Cut:
    """What one cut shall do.

    split: `validation` or `test`; also sets the order apart from that of the other cut.
    percent: share of the images to take.
    leave: images (groups) of every class that must stay, at least.
    """

    split: str
    percent: int
    seed: int
    leave: int


def validation_percent(train_count: int) -> int:
    return VALIDATION_PERCENT_SMALL if train_count < SMALL_TRAIN else VALIDATION_PERCENT


def check_counts(labels: np.ndarray, classes: Sequence[str], cuts: int) -> None:
    """Raises UserError unless every class has an image for training and for each of the cuts."""
    minimum = 1 + cuts
    counts = np.bincount(labels, minlength=len(classes))
    short = [f"{name!r} has {count}" for name, count in zip(classes, counts) if count < minimum]
    if short:
        listed = ", ".join(short[:5]) + (", ..." if len(short) > 5 else "")
        raise UserError(
            f"too few usable training images: class {listed}; each class needs at least {minimum}, "
            "so add images or take the class out"
        )


def stratified(labels: np.ndarray, keys: Sequence[str], classes: Sequence[str], cut: Cut) -> np.ndarray:
    """Indices to take, ascending: of every class its share, and at least one image.

    labels: int64, N. keys: N unique names that decide the order.
    """
    counts = np.bincount(labels, minlength=len(classes))
    order = _hash_order(keys, cut)
    by_class = order[np.argsort(labels[order], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    taken = [by_class[start : start + quota] for start, quota in zip(starts, quotas(counts, cut))]
    return np.sort(np.concatenate(taken))


def quotas(counts: np.ndarray, cut: Cut) -> np.ndarray:
    """Images to take per class: largest remainders, at least one, `cut.leave` left over."""
    whole, remainder = np.divmod(counts * cut.percent, 100)
    total = round(int(counts.sum()) * cut.percent / 100)
    largest = np.argsort(-remainder, kind="stable")[: max(0, total - whole.sum())]
    whole[largest] += 1
    return np.clip(whole, 1, counts - cut.leave)


def grouped(
    labels: np.ndarray, groups: np.ndarray, names: Sequence[str], classes: Sequence[str], cut: Cut
) -> np.ndarray:
    """Indices to take, ascending, in whole groups, with class counts near their share.

    groups: int64, N, indices into `names`. Every class gets at least one image on both sides.
    Raises UserError where a class lies in too few groups for that.
    """
    table = np.zeros((len(names), len(classes)), np.int64)  # images per group and class
    np.add.at(table, (groups, labels), 1)
    _check_groups(table, classes, cut)
    counts = table.sum(0)
    target = counts * cut.percent / 100

    def distance(taken: np.ndarray) -> float:
        return float((((taken - target) ** 2) / counts).sum())

    is_taken = np.zeros(len(names), bool)
    taken = np.zeros(len(classes), np.int64)
    left = (table > 0).sum(0)  # groups per class not taken

    def may_take(group: int) -> bool:
        return bool(np.all(left - (table[group] > 0) >= np.where(table[group] > 0, cut.leave, 0)))

    def take(group: int) -> None:
        nonlocal taken, left
        is_taken[group] = True
        taken = taken + table[group]
        left = left - (table[group] > 0)

    order = [int(group) for group in _hash_order(names, cut) if table[group].any()]
    # The rarest class first: later, the groups that could still serve it may be gone.
    for index in np.argsort((table > 0).sum(0), kind="stable"):
        if taken[index] == 0:
            candidates = [group for group in order if table[group, index] and may_take(group)]
            if not candidates:
                raise UserError(
                    f"grouping leaves no way to put class {classes[index]!r} into both training and "
                    f"{cut.split}; give smaller groups, or a source with its own splits"
                )
            take(min(candidates, key=lambda group: distance(taken + table[group])))
    for group in order:
        if not is_taken[group] and may_take(group) and distance(taken + table[group]) < distance(taken):
            take(group)
    return np.flatnonzero(is_taken[groups])


def find_groups(names: Sequence[str], pattern: str) -> list[str]:
    """The group of each name: what the capture groups of `pattern` match in it, joined by `|`.

    Raises UserError for a pattern that is wrong, has no capture group or misses a name, NoGroups where it misses all.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--group-by {pattern!r}: not a regular expression ({error})") from error
    if not expression.groups:
        raise UserError(
            f"--group-by {pattern!r}: no capture group; put ( ) around the part of a name that tells its group"
        )
    matches = [expression.search(name) for name in names]
    missed = [name for name, match in zip(names, matches) if not match]
    if missed:
        kind = NoGroups if len(missed) == len(names) else UserError
        raise kind(
            f"--group-by {pattern!r}: matches {len(names) - len(missed)} of {len(names)} file names, "
            f"not for example {missed[0]!r}; every name must match"
        )
    return ["|".join(part or "" for part in match.groups()) for match in matches]


def _check_groups(table: np.ndarray, classes: Sequence[str], cut: Cut) -> None:
    per_class = (table > 0).sum(0)
    scarce = int(np.argmin(per_class))
    if per_class[scarce] < cut.leave + 1:
        raise UserError(
            f"class {classes[scarce]!r} lies in {per_class[scarce]} group(s); at least {cut.leave + 1} "
            f"are needed to cut {cut.split} by group, so give a finer group_by or none"
        )


def _hash_order(keys: Sequence[str], cut: Cut) -> np.ndarray:
    """Indices of `keys` in an order that looks random and depends on each key alone."""
    prefix = f"{cut.split}/{cut.seed}/"
    digests = [hashlib.blake2b((prefix + key).encode(), digest_size=8).digest() for key in keys]
    return np.array(sorted(range(len(keys)), key=lambda index: (digests[index], keys[index])), np.int64)
