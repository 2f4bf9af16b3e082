"""Pixel values after decoding, rule by rule."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dlmo.data.decode import resize_all
from dlmo.data.image import ImageError, read_header, read_image, read_input
from dlmo.data.preprocessing import Preprocessing
from dlmo.errors import UserError


def decoded(data: bytes, side: int = 64) -> Image.Image:
    return read_image(io.BytesIO(data), side)


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decoded(data)
    return str(caught.value)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_grey_and_colour_keep_their_pixels(draw, encode):
    grey, colour = draw(1), draw(2, mode="RGB")
    assert decoded(encode(grey)).mode == "L"
    assert np.array_equal(decoded(encode(grey)), grey)
    assert decoded(encode(colour)).mode == "RGB"
    assert np.array_equal(decoded(encode(colour)), colour)


def test_rgb_with_equal_channels_is_grey_and_one_odd_pixel_makes_it_colour(draw, encode):
    grey = draw(3)
    rgb = grey.convert("RGB")
    assert decoded(encode(rgb)).mode == "L"
    assert np.array_equal(decoded(encode(rgb)), grey)
    rgb.putpixel((7, 5), (10, 10, 11))
    assert decoded(encode(rgb)).mode == "RGB"


def test_alpha_is_laid_over_mid_grey(encode):
    image = Image.new("RGBA", (3, 1))
    image.putdata([(200, 100, 0, 255), (200, 100, 0, 0), (228, 28, 128, 128)])
    pixels = np.asarray(decoded(encode(image)))[0].astype(int)
    assert pixels[0].tolist() == [200, 100, 0]
    assert pixels[1].tolist() == [128, 128, 128]
    assert np.abs(pixels[2] - [178, 78, 128]).max() <= 1  # half way from 128


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_grey_with_alpha_stays_grey(mode, encode):
    image = Image.new("LA", (2, 1))
    image.putdata([(255, 255), (255, 0)])
    result = decoded(encode(image.convert(mode)))
    assert result.mode == "L"
    assert np.asarray(result).tolist() == [[255, 128]]


def test_transparent_colour_of_rgb_and_grey(encode):
    rgb = Image.new("RGB", (2, 1))
    rgb.putdata([(255, 0, 0), (0, 255, 0)])
    assert np.asarray(decoded(encode(rgb, transparency=(255, 0, 0)))).tolist() == [[[128] * 3, [0, 255, 0]]]
    grey = Image.new("L", (2, 1))
    grey.putdata([7, 9])
    assert np.asarray(decoded(encode(grey, transparency=7))).tolist() == [[128, 9]]


def test_palette_becomes_colours_and_its_transparent_entry_mid_grey(encode):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 0, 255, 9, 8, 7])
    image.putdata([0, 1, 2])
    assert np.asarray(decoded(encode(image))).tolist() == [[[255, 0, 0], [0, 0, 255], [9, 8, 7]]]
    pixels = np.asarray(decoded(encode(image, transparency=1)))
    assert pixels.tolist() == [[[255, 0, 0], [128, 128, 128], [9, 8, 7]]]


def test_grey_palette_is_grey(encode):
    image = Image.new("P", (2, 1))
    image.putpalette([50, 50, 50, 90, 90, 90])
    image.putdata([0, 1])
    result = decoded(encode(image))
    assert result.mode == "L"
    assert np.asarray(result).tolist() == [[50, 90]]


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_cmyk_becomes_rgb(format, encode):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    pixels = np.asarray(decoded(encode(image, format))).astype(int)
    assert pixels.shape == (16, 16, 3)
    assert np.abs(pixels - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_divided_by_256_not_clipped(format, encode):
    levels = np.array([[0, 255, 256, 32768, 65280, 65535]], np.uint16)
    result = decoded(encode(Image.fromarray(levels), format))
    assert result.mode == "L"
    assert np.asarray(result).tolist() == [[0, 0, 1, 128, 255, 255]]


def test_16_bit_pgm_which_pillow_holds_in_32_bits():
    data = b"P5\n3 1\n65535\n" + struct.pack(">3H", 0, 32768, 65535)
    assert np.asarray(decoded(data)).tolist() == [[0, 128, 255]]


def test_pixels_without_a_known_range_are_refused(encode):
    assert "float" in reason(encode(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"))
    assert "32-bit" in reason(encode(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF"))


def test_one_bit_image(encode):
    image = Image.new("1", (2, 1))
    image.putdata([0, 255])
    assert np.asarray(decoded(encode(image))).tolist() == [[0, 255]]


def test_exif_orientation_turns_the_image(draw, encode):
    image = draw(4, size=(4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned left: turn right by 90 degrees
    result = decoded(encode(image, exif=exif))
    assert result.size == (2, 4)
    assert np.array_equal(result, np.rot90(np.asarray(image), -1))


def test_animation_gives_its_first_frame(encode):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decoded(data))[3, 3].tolist() == [250, 0, 0]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (300, 1)])
def test_thin_images_are_scaled_up_or_down_to_the_input(size, encode):
    data = encode(Image.new("L", size, 200))
    pixels, is_grey = read_input(io.BytesIO(data), Preprocessing(16, 16, 1))
    assert is_grey
    assert pixels.shape == (16, 16, 1)
    assert set(np.unique(pixels)) <= {200, 128}
    assert (pixels == 200).sum() == {(1, 1): 256, (1, 9): 32, (300, 1): 16}[size]


def test_unusable_files_have_a_reason(draw, encode):
    whole = encode(draw(5, size=(64, 64), mode="RGB"), "JPEG")
    assert "truncated" in reason(whole[: len(whole) // 2])
    assert reason(b"") == "empty file"
    assert reason(b"hello, I am text") == "no image of a known format"
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n") == "no image of a known format"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 14_000, 60_000])
def test_huge_image_is_refused_by_its_header(side):
    data = png_header(side, side)
    assert "100 megapixels" in reason(data)
    with pytest.raises(ImageError, match="100 megapixels"):
        read_header(io.BytesIO(data))


def test_header_tells_size_and_grey_without_pixels(draw, encode):
    header = read_header(io.BytesIO(png_header(123, 45)))
    assert (header.width, header.height, header.grey) == (123, 45, False)
    assert read_header(io.BytesIO(encode(draw(6)))).grey


def test_large_jpeg_read_at_reduced_scale_gives_the_same_input(encode):
    rows, columns = np.mgrid[0:600, 0:800]
    photo = Image.fromarray(
        np.stack([rows * 255 // 600, columns * 255 // 800, (rows // 50 + columns // 50) % 2 * 200], -1).astype(np.uint8)
    )
    data = encode(photo, "JPEG", quality=95)
    reduced = read_image(io.BytesIO(data), 32)
    assert reduced.size == (200, 150)
    preprocessing = Preprocessing(32, 32, 3)
    full = preprocessing.apply(Image.open(io.BytesIO(data))).astype(int)
    difference = np.abs(preprocessing.apply(reduced).astype(int) - full)
    assert difference.max() <= 6
    assert difference.mean() < 1


def test_resize_all_equals_the_preprocessing_rule(draw):
    images = np.stack([np.asarray(draw(seed, mode="RGB")) for seed in range(40)])
    preprocessing = Preprocessing(12, 16, 1)
    resized = resize_all(images, preprocessing, 2, None)
    assert resized.shape == (40, 12, 16, 1)
    for image, result in zip(images, resized):
        assert np.array_equal(result, preprocessing.apply(Image.fromarray(image)))
    assert resize_all(images, Preprocessing(20, 20, 3), 2, None) is images


def test_images_that_memory_cannot_hold_are_refused_before_they_try(monkeypatch):
    images = np.zeros((40, 20, 20, 3), np.uint8)
    monkeypatch.setattr("dlmo.data.decode._memory_bytes", lambda: 100_000)
    with pytest.raises(UserError, match="40 images of 32x32x3 take 0.0 GB as pixels, too much for the 0.0 GB"):
        resize_all(images, Preprocessing(32, 32, 3), 1, None)
    assert len(resize_all(images, Preprocessing(16, 16, 3), 1, None)) == 40


def test_whatever_a_decoder_raises_at_a_header_is_a_reason(monkeypatch):
    def damaged(stream, formats):
        raise RuntimeError("Missing or empty image item")

    monkeypatch.setattr("dlmo.data.image.Image.open", damaged)
    assert reason(b"avif") == "header cannot be read: Missing or empty image item"


@pytest.mark.parametrize("type", [np.int32, np.uint16])
def test_values_of_8_bits_in_wider_pixels_are_no_black_image(type, encode):
    pixels = np.arange(64, dtype=type).reshape(8, 8)
    with pytest.raises(ImageError, match="would all be black; save as 8 bit"):
        decoded(encode(Image.fromarray(pixels), format="TIFF"))
    assert np.asarray(decoded(encode(Image.fromarray(pixels * 256), format="TIFF"))).max() == 63
