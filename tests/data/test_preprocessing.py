import numpy as np
import pytest

from dlmo.data.preprocessing import OWN, Normalization, natural_normalization, to_float, to_input

PIXELS = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
UNIT = Normalization((0.0,), (255.0,))


def test_dlmos_own_inputs_stay_exact():
    assert np.array_equal(to_input(PIXELS, np.float32, 0.0, 0), to_float(PIXELS))
    assert np.array_equal(to_input(PIXELS, np.int8, 1 / 128, 0), (PIXELS.astype(np.int16) - 128).astype(np.int8))


@pytest.mark.parametrize(
    "dtype, scale, zero_point, offset",
    [
        (np.uint8, 1 / 255, 0, 0),
        (np.uint8, 1 / 127.5, 127, 0),
        (np.uint8, 1.0, 0, 0),
        (np.uint8, 0.0, 0, 0),
        (np.int8, 1 / 255, -128, 128),
        (np.int8, 0.0186, -14, 128),
        (np.int8, 0.0, 0, 128),
    ],
)
def test_8_bit_inputs_take_pixels_as_they_are_where_nothing_else_is_said(dtype, scale, zero_point, offset):
    found = to_input(PIXELS, dtype, scale, zero_point)
    assert found.dtype == dtype
    assert np.array_equal(found.astype(int) + offset, PIXELS)


def test_quantized_inputs_quantize_the_real_value():
    found = to_input(PIXELS, np.int16, 1 / 32767, 0, UNIT)
    assert np.array_equal(found, np.round(PIXELS / 255 * 32767).astype(np.int16))
    clipped = to_input(PIXELS, np.uint8, 1 / 255, 0, OWN)  # half of the pixels lie below the input's range
    assert clipped[PIXELS <= 128].max() == 0 and clipped.max() == 253


def test_one_mean_and_std_per_channel():
    images = np.stack([PIXELS[..., 0]] * 3, axis=-1)
    rule = Normalization((10.0, 20.0, 30.0), (1.0, 2.0, 4.0))
    found = to_input(images, np.float32, 0.0, 0, rule)
    assert np.allclose(found, (images - np.array(rule.mean)) / np.array(rule.std))
    assert str(rule) == "(pixel - [10, 20, 30]) / [1, 2, 4]"


def test_wider_inputs_default_to_dlmos_own():
    assert natural_normalization(np.dtype(np.float32), 0.0, 0) == OWN
    assert natural_normalization(np.dtype(np.int16), 1 / 32767, 0) == OWN
