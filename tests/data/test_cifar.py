"""CIFAR: finding and checking the official files, on small stand-ins; the real ones where $DLMO_DATA has them."""

import dataclasses
import hashlib
import os
import pickle
import shutil
import tarfile

import numpy as np
import pytest

from dlmo.data import cifar, load
from dlmo.data.options import LoadOptions
from dlmo.errors import UserError


def batch(seed: int, count: int = 20) -> dict:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)
    return {b"data": pixels, b"labels": [index % 2 for index in range(count)]}


@pytest.fixture
def release(tmp_path, monkeypatch) -> cifar.Release:
    """A stand-in for CIFAR-10 with two classes of official form, at tmp_path/cifar-10-batches-py."""
    monkeypatch.delenv(cifar.DATA_VARIABLE, raising=False)
    folder = tmp_path / cifar.CIFAR10.folder
    folder.mkdir()
    for seed, name in enumerate(cifar.CIFAR10.md5):
        content = {b"label_names": [b"cat", b"dog"]} if name == "batches.meta" else batch(seed)
        (folder / name).write_bytes(pickle.dumps(content, protocol=3))
    md5 = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in cifar.CIFAR10.md5}
    return dataclasses.replace(cifar.CIFAR10, md5=md5)


def pack(tmp_path, release) -> None:
    with tarfile.open(tmp_path / release.archive, "w:gz") as archive:
        archive.add(tmp_path / release.folder, arcname=release.folder)
    shutil.rmtree(tmp_path / release.folder)


def test_planes_become_pixels_in_official_order(tmp_path, release):
    dataset = cifar.load_release(release, str(tmp_path), LoadOptions())
    assert dataset.classes == ("cat", "dog")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (80, 20, 20)
    expected = batch(5)[b"data"].reshape(20, 3, 32, 32)  # test_batch is the sixth file
    assert np.array_equal(dataset.test.images, np.moveaxis(expected, 1, -1))
    assert dataset.test.images.flags.c_contiguous
    assert dataset.test.labels.tolist() == [0, 1] * 10
    assert dataset.test.names[3] == "test/3"


@pytest.mark.parametrize("packed", [False, True])
def test_folder_parent_archive_and_variable_lead_to_the_same(tmp_path, release, monkeypatch, packed):
    if packed:
        pack(tmp_path, release)
    inside = tmp_path / (release.archive if packed else release.folder)
    fingerprints = {cifar.load_release(release, str(place), LoadOptions()).fingerprint for place in (inside, tmp_path)}
    for place in (inside, tmp_path):
        monkeypatch.setenv(cifar.DATA_VARIABLE, str(place))
        fingerprints.add(cifar.load_release(release, None, LoadOptions()).fingerprint)
    assert len(fingerprints) == 1


@pytest.mark.parametrize("packed", [False, True])
def test_wrong_md5_is_refused_before_the_pickle_is_opened(tmp_path, release, monkeypatch, packed):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "trapped"),))

    evil = pickle.dumps(Trap())
    (tmp_path / release.folder / "data_batch_3").write_bytes(evil)
    if packed:
        pack(tmp_path, release)
    monkeypatch.setattr(cifar, "unpickle", lambda data: pytest.fail("opened"))
    with pytest.raises(UserError) as caught:
        cifar.load_release(release, str(tmp_path), LoadOptions())
    message = str(caught.value)
    assert "data_batch_3" in message
    assert hashlib.md5(evil).hexdigest() in message
    assert release.md5["data_batch_3"] in message
    assert not (tmp_path / "trapped").exists()


def test_official_names_are_checked_against_official_md5(tmp_path, release):
    with pytest.raises(UserError, match="data_batch_1: md5 is .* has c99cafc152244af753f735de768cd75f"):
        load(f"cifar10:{tmp_path}")


@pytest.mark.parametrize("function", [eval, os.system, np.load])
def test_unpickler_builds_nothing_but_arrays(function):
    class Trap:
        def __reduce__(self):
            return (function, ("1",))

    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        cifar.unpickle(pickle.dumps(Trap()))
    assert cifar.unpickle(pickle.dumps({b"a": np.arange(3)}, protocol=3))[b"a"].tolist() == [0, 1, 2]


def test_missing_files(tmp_path, release, monkeypatch):
    def error(source: str) -> str:
        with pytest.raises(UserError) as caught:
            load(source)
        return str(caught.value)

    assert "cifar100:PATH or set DLMO_DATA" in error("cifar100")
    assert "neither is nor holds cifar-100-python" in error(f"cifar100:{tmp_path}")
    assert "does not exist" in error(f"cifar10:{tmp_path}/nowhere")
    monkeypatch.setenv(cifar.DATA_VARIABLE, str(tmp_path))
    assert f"DLMO_DATA={tmp_path} neither is nor holds" in error("cifar100")
    (tmp_path / release.folder / "data_batch_2").unlink()
    assert "data_batch_2: cannot be read" in error("cifar10")
    pack(tmp_path, release)
    assert "no cifar-10-batches-py/data_batch_2 in it" in error("cifar10")
    (tmp_path / release.archive).write_bytes(b"\x1f\x8bdamaged")
    assert "cannot be read as an archive" in error("cifar10")


def test_other_size_and_grey(tmp_path, release):
    dataset = cifar.load_release(release, str(tmp_path), LoadOptions(size=(16, 24), channels=1))
    assert dataset.train.images.shape == (80, 16, 24, 1)


def test_group_by_is_refused(tmp_path, release):
    with pytest.raises(UserError, match="no file names to group by"):
        load(f"cifar10:{tmp_path}", group_by="(x)")


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_official_files(name, classes):
    try:
        cifar.find_release(cifar.CIFAR10 if classes == 10 else cifar.CIFAR100, None)
    except UserError as error:
        pytest.skip(str(error))
    dataset = load(name)
    assert np.bincount(dataset.train.labels).tolist() == [45000 // classes] * classes
    assert np.bincount(dataset.validation.labels).tolist() == [5000 // classes] * classes
    assert np.bincount(dataset.test.labels).tolist() == [10000 // classes] * classes
    assert dataset.classes[:2] == (("airplane", "automobile") if classes == 10 else ("apple", "aquarium_fish"))
    # The published channel means of the training images.
    pixels = np.concatenate([dataset.train.images, dataset.validation.images])
    means = {10: [0.4914, 0.4822, 0.4465], 100: [0.5071, 0.4865, 0.4409]}[classes]
    assert np.abs(pixels.mean((0, 1, 2)) / 255 - means).max() < 1e-3
