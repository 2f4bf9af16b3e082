"""From a file's bytes to pixels, by stated rules. Needs numpy and Pillow only: packages ship this module.

A decoded image has mode L or RGB, L exactly when it is grey:
- turned upright by its EXIF orientation; of an animation the first frame
- transparency is laid over mid grey (128)
- palette, CMYK, YCbCr and the like become RGB; RGB whose three channels are equal everywhere is grey
- 16-bit grey is divided by 256, nothing is clipped; float and 32-bit pixels have no known range: refused
- colour profiles are not applied
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dlmo.data.preprocessing import PAD_VALUE, Preprocessing

MAX_PIXELS = 100_000_000  # an image with more, by its header, is not decoded
# Other plugins of Pillow are not for photos, and some start programs (EPS) or read further files.
FORMATS = {
    "JPEG": "Jpeg", "PNG": "Png", "WEBP": "WebP", "BMP": "Bmp", "GIF": "Gif", "TIFF": "Tiff", "PPM": "Ppm",
    "AVIF": "Avif", "JPEG2000": "Jpeg2K",
}  # fmt: skip
DRAFT_FACTOR = 4  # a JPEG is read at a reduced scale, if it stays this many times larger than the input

GREY_MODES = ("1", "L", "LA", "I;16", "I;16L", "I;16B", "I;16N", "I")


class ImageError(ValueError):
    """A file that is no usable image; the text is the reason, for the user."""


@dataclass(frozen=True)
class Header:
    """Width and height in pixels as stored; grey: True if the file's mode rules out colour."""

    width: int
    height: int
    grey: bool


def read_header(stream: BinaryIO) -> Header:
    """Size and mode without decoding. Raises ImageError."""
    with _open(stream) as image:
        return Header(image.width, image.height, image.mode in GREY_MODES)


def read_image(stream: BinaryIO, input_side: int) -> Image.Image:
    """The image in mode L (grey) or RGB, for an input whose longer side is `input_side` pixels.

    It may be smaller than stored, but never below DRAFT_FACTOR times that side. Raises ImageError.
    """
    with _open(stream) as image:
        try:
            # Like this a 12-megapixel photo costs a third, and Preprocessing still averages real pixels.
            image.draft(None, (DRAFT_FACTOR * input_side, DRAFT_FACTOR * input_side))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return grey_or_rgb(image)
        except ImageError:
            raise
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
            raise ImageError(f"cannot be decoded: {_one_line(error)}") from error


def read_input(stream: BinaryIO, preprocessing: Preprocessing) -> tuple[np.ndarray, bool]:
    """One file as a network's input, uint8 H x W x C, and whether the image is grey. Raises ImageError.

    Training, evaluation and prediction all come through here.
    """
    image = read_image(stream, max(preprocessing.height, preprocessing.width))
    return preprocessing.apply(image), image.mode == "L"


def _open(stream: BinaryIO) -> Image.Image:
    """The image with its header read and its size checked."""
    try:
        image = Image.open(stream, formats=_formats())
    except Image.DecompressionBombError as error:
        raise ImageError(f"more than {MAX_PIXELS // 10**6} megapixels") from error
    except UnidentifiedImageError as error:
        stream.seek(0)
        raise ImageError("no image of a known format" if stream.read(1) else "empty file") from error
    except Exception as error:  # whatever a decoder raises at damaged bytes
        raise ImageError(f"header cannot be read: {_one_line(error)}") from error
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{image.width} x {image.height} is more than {MAX_PIXELS // 10**6} megapixels")
    return image


@cache
def _formats() -> tuple[str, ...]:
    """The FORMATS that this Pillow reads."""
    for plugin in FORMATS.values():
        with suppress(ImportError):
            import_module(f"PIL.{plugin}ImagePlugin")  # Image.init() would import forty, which takes longer to start
    return tuple(name for name in FORMATS if name in Image.OPEN)


def grey_or_rgb(image: Image.Image) -> Image.Image:
    """Any decoded image in mode L or RGB, by the rules above. Raises ImageError."""
    if image.mode.startswith("I"):
        return _eight_bits(image)
    if image.mode == "F":
        raise ImageError("float pixels have no known range; save as 8 or 16 bit")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (PAD_VALUE,) * 3 + (255,)), image)
    if image.mode in ("1", "L"):
        return image.convert("L")
    image = image.convert("RGB")
    return image.getchannel(0) if _is_grey(image) else image


def _is_grey(image: Image.Image) -> bool:
    """Whether the three channels of an RGB image are equal everywhere."""
    if len(set(image.getpixel((image.width // 2, image.height // 2)))) > 1:
        return False  # most colour images show it here, which costs far less than looking at every pixel
    pixels = np.asarray(image)
    return np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 1], pixels[..., 2])


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 bit. Pillow holds some of it in 32 bits (mode I)."""
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise ImageError("32-bit pixels have no known range; save as 8 or 16 bit")
    if 0 < pixels.max() < 256:
        raise ImageError("16- or 32-bit pixels with 8-bit values would all be black; save as 8 bit")
    return Image.fromarray((pixels >> 8).astype(np.uint8))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
