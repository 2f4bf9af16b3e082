"""What every data source returns: labelled uint8 images in three splits."""

import hashlib
from dataclasses import dataclass

import numpy as np

from dlmo.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class Split:
    """Images of one split.

    images: uint8, N x H x W x C, C = 1 (grey) or 3 (RGB).
    labels: int64, N, indices into `Dataset.classes`.
    names: where each image came from (file inside the source, or `split/index`), N.
    """

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Split":
        return Split(self.images[indices], self.labels[indices], tuple(self.names[i] for i in indices))

    def spread(self, count: int) -> "Split":
        """At most `count` images, evenly spaced: a split may stand in the order of its classes."""
        return self.take(np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int)))


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """Labelled images in three splits, decoded to one size.

    notes: sentences for the user on what was decided while loading (how the splits were cut, imbalance, ...).
    fingerprint: hex digest of pixels, labels, class names and splits; equal exactly when these are.
    folds: where the validation images are few and were cut here: further sets of training images, as indices, that
    could have been cut in their place; no image is in two of them.
    test_cut: whether the test images were cut from the training images here.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    preprocessing: Preprocessing
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    fingerprint: str
    folds: tuple[np.ndarray, ...] = ()
    test_cut: bool = False

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.preprocessing.height, self.preprocessing.width, self.preprocessing.channels

    def class_counts(self) -> np.ndarray:
        """Training images per class, int64, in the order of `classes`."""
        return np.bincount(self.train.labels, minlength=len(self.classes))


def fingerprint(classes: tuple[str, ...], splits: tuple[Split, Split, Split]) -> str:
    """Hex digest over class names and, per split, shape, pixels and labels (not file names)."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update("\n".join(classes).encode())
    for split in splits:
        digest.update(repr(split.images.shape).encode())
        digest.update(np.ascontiguousarray(split.images))
        digest.update(np.ascontiguousarray(split.labels, dtype=np.int64))
    return digest.hexdigest()
