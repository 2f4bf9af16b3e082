"""CIFAR-10 and CIFAR-100 from their official files.

The files are pickles. They are read only if their md5 is the official one, and even then by an unpickler that
can build numpy arrays and nothing else.
"""

import hashlib
import io
import os
import pickle
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlmo.data.assemble import Labelled, assemble
from dlmo.data.dataset import Dataset, Split
from dlmo.data.decode import resize_all
from dlmo.data.files import DAMAGED, tar_members
from dlmo.data.options import LoadOptions
from dlmo.data.preprocessing import Preprocessing
from dlmo.data.splits import NoGroups
from dlmo.errors import UserError

DATA_VARIABLE = "DLMO_DATA"
PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
SIDE = 32


@dataclass(frozen=True)
class Release:
    """One of the two data sets as published.

    md5: of every file needed, by name. train, test, meta: names of files.
    labels, label_names: keys inside the pickles.
    """

    name: str
    folder: str
    archive: str
    md5: dict[str, str]
    train: tuple[str, ...]
    test: str
    meta: str
    labels: bytes
    label_names: bytes


CIFAR10 = Release(
    name="cifar10",
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    md5={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
    train=("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"),
    test="test_batch",
    meta="batches.meta",
    labels=b"labels",
    label_names=b"label_names",
)
CIFAR100 = Release(
    name="cifar100",
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    md5={
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
    train=("train",),
    test="test",
    meta="meta",
    labels=b"fine_labels",
    label_names=b"fine_label_names",
)


def load_cifar10(path: str | None, options: LoadOptions) -> Dataset:
    """50,000 + 10,000 images of 10 classes; validation is cut from the former."""
    return load_release(CIFAR10, path, options)


def load_cifar100(path: str | None, options: LoadOptions) -> Dataset:
    """50,000 + 10,000 images of the 100 fine classes; validation is cut from the former."""
    return load_release(CIFAR100, path, options)


def load_release(release: Release, path: str | None, options: LoadOptions) -> Dataset:
    """Reads the official files at `path`, or at $DLMO_DATA where it is None.

    Raises UserError where there are none, and for a file whose md5 is not the official one.
    """
    if options.group_by is not None:
        raise NoGroups(f"--group-by: {release.name} has no file names to group by; leave it out")
    place = find_release(release, path)
    pickles = read_folder(release, place) if place.is_dir() else read_archive(release, place)
    for name, data in pickles.items():
        check_md5(place, name, data, release.md5[name])
    classes = tuple(name.decode() for name in unpickle(pickles[release.meta])[release.label_names])
    train = [unpickle(pickles.pop(name)) for name in release.train]
    test = [unpickle(pickles.pop(release.test))]
    preprocessing = options.preprocessing(SIDE, 3)
    labelled = Labelled(
        release.name,
        classes,
        _split("train", train, release, preprocessing, options),
        None,
        _split("test", test, release, preprocessing, options),
        preprocessing,
    )
    return assemble(labelled, options)


def find_release(release: Release, path: str | None) -> Path:
    """The official folder or .tar.gz: `path` itself, or one inside it, or one inside $DLMO_DATA."""
    given = path or os.environ.get(DATA_VARIABLE)
    if not given:
        raise UserError(
            f"{release.name}: where are the official files? Write {release.name}:PATH or set "
            f"{DATA_VARIABLE}; PATH is or holds {release.folder} or {release.archive} from {PAGE}"
        )
    place = Path(given).expanduser()
    if place.is_file() or (place / release.meta).is_file():
        return place
    for inside in (place / release.folder, place / release.archive):
        if inside.exists():
            return inside
    origin = f"{release.name}:{path}" if path else f"{release.name}: {DATA_VARIABLE}={given}"
    what = "neither is nor holds" if place.exists() else "does not exist; it should be or hold"
    raise UserError(f"{origin} {what} {release.folder} or {release.archive}; get it from {PAGE}")


def read_folder(release: Release, folder: Path) -> dict[str, bytes]:
    """The content of every file needed. Raises UserError where one is missing."""
    try:
        return {name: (folder / name).read_bytes() for name in release.md5}
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be read ({error.strerror}); {release.name} needs "
            f"{', '.join(release.md5)}, unpack {release.archive} again"
        ) from error


def read_archive(release: Release, archive: Path) -> dict[str, bytes]:
    """The content of every file needed, from memory alone. Raises UserError where one is missing."""
    wanted = {f"{release.folder}/{name}": name for name in release.md5}
    pickles: dict[str, bytes] = {}
    try:
        with closing(tar_members(archive)) as members:
            for name, content in members:
                if content is not None and name.removeprefix("./") in wanted:
                    pickles[wanted[name.removeprefix("./")]] = content.read()
    except DAMAGED as error:
        raise UserError(f"{archive}: cannot be read as an archive ({error}); get it again from {PAGE}") from error
    missing = [name for name in release.md5 if name not in pickles]
    if missing:
        raise UserError(f"{archive}: no {release.folder}/{missing[0]} in it; get {release.archive} from {PAGE}")
    return pickles


def check_md5(place: Path, name: str, data: bytes, expected: str) -> None:
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != expected:
        raise UserError(f"{place / name}: md5 is {found}, the official file has {expected}; get it again from {PAGE}")


class ArrayUnpickler(pickle.Unpickler):
    """Builds numbers, texts, lists, dicts and numpy arrays; refuses everything else."""

    _RECONSTRUCT = np.empty(0).__reduce__()[0]
    _ALLOWED = {
        ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,  # its place before numpy 2
        ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> object:
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed here") from None


def unpickle(data: bytes) -> dict:
    """The dict in an official file; keys and texts are bytes, as Python 2 wrote them."""
    return ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()


def _split(
    name: str, batches: list[dict], release: Release, preprocessing: Preprocessing, options: LoadOptions
) -> Split:
    """Planes of red, green and blue, N x 3072, to N x H x W x C."""
    planes = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, SIDE, SIDE)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    labels = np.concatenate([np.array(batch[release.labels], np.int64) for batch in batches])
    images = resize_all(images, preprocessing, options.workers, options.progress)
    return Split(images, labels, tuple(f"{name}/{index}" for index in range(len(labels))))
