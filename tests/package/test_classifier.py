"""A package asked image by image, from Python."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import dlmo


def test_files_pictures_and_pixels_are_answered_alike(small_run, int8_package, digit_files):
    classifier = dlmo.load(int8_package)
    assert classifier.labels == tuple("0123456789") and classifier.input_shape[2] == 1
    for file, expected in zip(digit_files[:5], dlmo.predict(int8_package, digit_files[:5], top=10)):
        picture = Image.open(file)
        pixels = np.asarray(picture)
        given = [classifier.predict(image, top=10) for image in (file, str(file), picture, pixels, pixels[..., None])]
        assert given[0] == given[1] == expected
        assert {answer.shares for answer in given} == {expected.shares}
        assert {answer.classes for answer in given} == {expected.classes}
        assert [answer.image for answer in given[2:]] == ["", "", ""]


def test_a_colour_picture_of_any_size_is_brought_to_the_input(int8_package):
    grey = np.random.default_rng(0).integers(0, 256, (90, 40), dtype=np.uint8)
    classifier = dlmo.load(int8_package)
    in_colour = classifier.predict(np.stack([grey] * 3, axis=2))
    assert in_colour == classifier.predict(grey)
    transparent = np.zeros((90, 40, 4), np.uint8)
    assert classifier.predict(transparent) == classifier.predict(np.full((90, 40), 128, np.uint8)), "over mid grey"
    assert len(in_colour.classes) == 3 and in_colour.shares[0] >= in_colour.shares[1]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((8, 8)), "pixels are float64, 8 x 8; give uint8"),
        (np.zeros((2, 8, 8, 3), np.uint8), "pixels are uint8, 2 x 8 x 8 x 3"),
        (np.zeros((0, 8), np.uint8), "pixels are uint8, 0 x 8"),
        ("nowhere.png", "nowhere.png: cannot be read: No such file"),
        (__file__, "test_classifier.py: no image of a known format"),
        (b"bytes", "not bytes"),
    ],
)
def test_what_is_no_image_is_refused(image, words, int8_package):
    with pytest.raises(dlmo.UserError, match=words):
        dlmo.load(int8_package).predict(image)


def test_torch_is_not_needed(int8_package, digit_files):
    code = f"import sys; sys.modules['torch'] = None; import dlmo; print(dlmo.load({str(int8_package)!r}).predict(" + (
        f"{str(digit_files[0])!r}).classes[0])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == dlmo.predict(int8_package, digit_files[:1])[0].classes[0]
