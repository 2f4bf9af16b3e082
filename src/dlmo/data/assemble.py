"""The last step of every source: missing splits are cut, the data is looked over, the fingerprint taken."""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dlmo.data.dataset import Dataset, Skipped, Split, fingerprint
from dlmo.data.options import LoadOptions
from dlmo.data.preprocessing import Preprocessing
from dlmo.data.splits import (
    TEST_PERCENT,
    Cut,
    check_counts,
    find_groups,
    grouped,
    stratified,
    validation_percent,
)
from dlmo.errors import UserError

IMBALANCE_NOTE = 1.5  # largest class over smallest, above which the user is told
# Training images without any pixel as bright as this, of 255, are hardly images.
DARK = 64
# Fewer validation images than this are few, and so many further sets of them are cut.
FEW_VALIDATION, FURTHER_FOLDS = 500, 3


@dataclass(frozen=True)
class Labelled:
    """Decoded images as the source has them: `validation` and `test` are None where it has no such split.

    root: what all names begin with and does not tell one image from another (wrapper folders).
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split | None
    test: Split | None
    preprocessing: Preprocessing
    root: str = ""
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()


def assemble(labelled: Labelled, options: LoadOptions) -> Dataset:
    """Cuts test, then validation, from the training images where the source lacks them.

    Raises UserError for fewer than two classes, a class with too few images, an unfit group_by.
    """
    classes = labelled.classes
    if len(classes) < 2:
        found = f"one class only, {classes[0]!r}" if classes else "no class"
        raise UserError(f"{labelled.name}: {found}; at least two are needed, each in its own folder")
    given = {"validation": labelled.validation, "test": labelled.test}
    given = {name: split for name, split in given.items() if split is not None}
    check_counts(labelled.train.labels, classes, 2 - len(given))
    notes = [*labelled.notes, *_group_overlap(labelled, options.group_by)]
    train = labelled.train
    for name in ("test", "validation"):
        if name in given:
            notes.append(f"{name}: {len(given[name])} images, the source's own")
            notes += _absent(name, given[name], classes)
        else:
            # What stays must still do for training and for the cut that may follow.
            leave = 2 if name == "test" and "validation" not in given else 1
            train, given[name], note = _cut(name, train, labelled, options, leave)
            notes.append(note)
    if options.group_by is not None:
        notes.append(
            "images of one group are alike: 95 % intervals and tests between files, which take every image for another "
            "one, are too narrow"
        )
    splits = train, given["validation"], given["test"]
    digests = [list(map(_digest, split.images)) for split in splits]
    return Dataset(
        labelled.name,
        classes,
        *splits,
        labelled.preprocessing,
        labelled.skipped,
        (
            *notes,
            *_imbalance(train, classes),
            *_dark(train),
            *_copies(*digests),
            *_contradictions(splits, digests, classes),
        ),
        fingerprint(classes, splits),
        _folds(train, len(given["validation"]), labelled, options) if labelled.validation is None else (),
        labelled.test is None,
    )


def _cut(name: str, train: Split, labelled: Labelled, options: LoadOptions, leave: int) -> tuple[Split, Split, str]:
    """Training images without the cut, the cut, and the note on it."""
    percent = TEST_PERCENT if name == "test" else validation_percent(len(train))
    indices, groups = _taken(train, Cut(name, percent, options.split_seed, leave), labelled, options)
    how = f"stratified, seed {options.split_seed}"
    if groups:
        how += f", grouped by {options.group_by} ({groups})"
    rest = np.setdiff1d(np.arange(len(train)), indices)
    whole = "images" if name == "test" and labelled.validation is None else "training images"
    note = f"{name}: {len(indices)} of {len(train)} {whole}, {how}"
    return train.take(rest), train.take(indices), note


def _taken(train: Split, cut: Cut, labelled: Labelled, options: LoadOptions) -> tuple[np.ndarray, str]:
    """Indices of the cut, and how many groups it takes of how many, empty where there are none."""
    keys = _keys(labelled, train)
    if options.group_by is None:
        return stratified(train.labels, keys, labelled.classes, cut), ""
    groups, inverse = np.unique(find_groups(keys, options.group_by), return_inverse=True)
    indices = grouped(train.labels, inverse, groups.tolist(), labelled.classes, cut)
    return indices, f"{len(set(inverse[indices]))} of {len(groups)} groups"


def _folds(train: Split, validation: int, labelled: Labelled, options: LoadOptions) -> tuple[np.ndarray, ...]:
    """Further sets of as many images as there are for validation, cut as that was; as many as can be."""
    if validation >= FEW_VALIDATION:
        return ()
    found: list[np.ndarray] = []
    rest = np.arange(len(train))
    for number in range(FURTHER_FOLDS):
        percent = round(100 * validation / len(rest))
        if not 0 < percent <= 75:
            break
        try:
            cut = Cut(f"fold {number + 2}", percent, options.split_seed, 1)
            taken, _ = _taken(train.take(rest), cut, labelled, options)
        except UserError:  # too few groups
            break
        found.append(rest[taken])
        rest = np.setdiff1d(rest, rest[taken])
    return tuple(found)


def _keys(labelled: Labelled, split: Split) -> list[str]:
    """The images' names, the same for a folder and for an archive that was packed with it, on whatever system."""
    return [unicodedata.normalize("NFC", name.removeprefix(labelled.root)) for name in split.names]


def _group_overlap(labelled: Labelled, group_by: str | None) -> list[str]:
    """Tells of groups that the source itself put into two splits."""
    if group_by is None:
        return []
    seen = set(find_groups(_keys(labelled, labelled.train), group_by))
    notes = []
    for name, split in (("validation", labelled.validation), ("test", labelled.test)):
        if split is not None:
            shared = seen & set(find_groups(_keys(labelled, split), group_by))
            if shared:
                notes.append(f"{len(shared)} groups lie in both train and {name} of the source, e.g. {min(shared)}")
    return notes


def _absent(name: str, split: Split, classes: tuple[str, ...]) -> list[str]:
    counts = np.bincount(split.labels, minlength=len(classes))
    absent = [label for label, count in zip(classes, counts) if count == 0]
    return [f"{name} has no image of class {', '.join(absent)}"] if absent else []


def _imbalance(train: Split, classes: tuple[str, ...]) -> list[str]:
    counts = np.bincount(train.labels, minlength=len(classes))
    most, least = int(np.argmax(counts)), int(np.argmin(counts))
    ratio = counts[most] / counts[least]
    if ratio <= IMBALANCE_NOTE:
        return []
    return [
        f"imbalance {ratio:.1f}x in train: largest {classes[most]} {counts[most]}, "
        f"smallest {classes[least]} {counts[least]}"
    ]


def _copies(trained: list[bytes], chosen: list[bytes], tested: list[bytes]) -> list[str]:
    """Tells of images whose pixels, at input size, are also among those that were seen before them: test images that
    training or choice sees, validation images that training sees. Each split as digests of its images."""
    learned = set(trained)
    seen = learned.union(chosen)
    validated, copies = sum(d in learned for d in chosen), sum(d in seen for d in tested)
    notes = []
    if validated:
        notes.append(
            f"{validated} of {len(chosen)} validation images, which the choice is made on, are exact copies of a "
            "training image"
        )
    if copies:
        notes.append(f"{copies} of {len(tested)} test images are exact copies of a training or validation image")
    return notes


def _contradictions(splits: Sequence[Split], digests: Sequence[list[bytes]], classes: tuple[str, ...]) -> list[str]:
    """Tells of images whose pixels, at input size, lie in more than one class. digests: of each split's images."""
    labelled: dict[bytes, dict[int, list[str]]] = {}
    for split, seen in zip(splits, digests):
        for digest, label, name in zip(seen, split.labels.tolist(), split.names):
            labelled.setdefault(digest, {}).setdefault(label, []).append(name)
    several = [found for found in labelled.values() if len(found) > 1]
    if not several:
        return []
    count = sum(len(names) for found in several for names in found.values())
    first = " and ".join(f"{names[0]} ({classes[label]})" for label, names in list(several[0].items())[:2])
    return [f"{count} images lie in more than one class, by their pixels, e.g. {first}: one label of each is wrong"]


def _dark(train: Split) -> list[str]:
    """Tells of images in which next to nothing is left to be seen."""
    brightest = int(train.images.max())
    if brightest >= DARK:
        return []
    return [
        f"the brightest pixel of all training images is {brightest} of 255: 16-bit files with values of 10 or 12 bits? "
        "Scale those to the full 16"
    ]


def _digest(pixels: np.ndarray) -> bytes:
    return hashlib.blake2b(pixels, digest_size=16).digest()
