"""Source names, the digits, and what importing costs."""

import subprocess
import sys

import numpy as np
import pytest

from dlmo.data import SOURCES, load
from dlmo.data.dataset import Split, fingerprint
from dlmo.errors import UserError


def error(source: str, **options) -> str:
    with pytest.raises(UserError) as caught:
        load(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sources():
    assert set(SOURCES) == {"digits", "cifar10", "cifar100"}


def test_unknown_words_and_missing_paths(tmp_path):
    assert "did you mean 'digits'?" in error("digit")
    assert "did you mean 'cifar10'?" in error("CIFAR-10")
    assert "did you mean 'cifar100'?" in error("cifar_100:/data")
    assert "give one of digits, cifar10, cifar100" in error("flowers")
    assert f"'{tmp_path}/none' does not exist" in error(f"{tmp_path}/none")
    assert "'digits.zip' does not exist" in error("digits.zip")
    assert "no source or folder ''" in error("")


def test_digits():
    dataset = load("digits")
    assert dataset.classes == tuple("0123456789")
    assert dataset.input_shape == (16, 16, 1)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (1150, 288, 359)
    assert "test: 359 of 1797 images, stratified, seed 0" in dataset.notes
    everything = np.concatenate([dataset.train.labels, dataset.validation.labels, dataset.test.labels])
    assert np.abs(np.bincount(dataset.test.labels) - 0.2 * np.bincount(everything)).max() < 1
    names = {*dataset.train.names, *dataset.validation.names, *dataset.test.names}
    assert len(names) == 1797
    assert load("digits").fingerprint == dataset.fingerprint
    assert load("digits", split_seed=1).fingerprint != dataset.fingerprint


def test_digits_at_their_own_size_are_the_levels_of_the_source():
    from sklearn.datasets import load_digits

    levels = load_digits().images
    dataset = load("digits", input_size=8)
    for split in (dataset.train, dataset.test):
        for image, name in zip(split.images, split.names):
            assert np.array_equal(image[..., 0], np.round(levels[int(name.split("/")[1])] * 255 / 16))
    assert dataset.train.images.max() == 255


def test_digits_refuses_what_it_cannot_do():
    assert "takes no path" in error("digits:/data")
    assert "no file names to group by" in error("digits", group_by="(x)")


def test_fingerprint_tells_contents_apart():
    images, labels = np.zeros((4, 2, 2, 1), np.uint8), np.array([0, 1, 0, 1])
    split = Split(images, labels, ("a", "b", "c", "d"))
    base = fingerprint(("x", "y"), (split, split, split))
    assert fingerprint(("x", "y"), (Split(images, labels, ("e", "f", "g", "h")), split, split)) == base
    assert fingerprint(("x", "z"), (split, split, split)) != base
    assert fingerprint(("x", "y"), (split, split, Split(images, 1 - labels, split.names))) != base
    assert fingerprint(("x", "y"), (split, split, Split(images + 1, labels, split.names))) != base


def test_import_is_light():
    code = "import sys, dlmo.data; print({'torch', 'sklearn', 'scipy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize("images, count, wanted", [(10, 4, [0, 3, 6, 9]), (3, 8, [0, 1, 2]), (1, 5, [0]), (0, 5, [])])
def test_a_spread_reaches_from_the_first_image_to_the_last(images, count, wanted):
    numbers = np.arange(images)
    split = Split(np.zeros((images, 1, 1, 1), np.uint8), numbers, ("",) * images)
    assert split.spread(count).labels.tolist() == wanted
