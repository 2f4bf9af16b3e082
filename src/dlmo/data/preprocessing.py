"""From a decoded image to a network's input: one rule, used in training, evaluation and prediction alike.

Needs numpy and Pillow only, so that a shipped package can use it without torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# Networks see (pixel - 128) / 128. In int8 that is exactly pixel - 128 with scale 1/128 and zero point 0,
# so a full-integer model takes the raw bytes of an image without any loss and without floating point.
PIXEL_OFFSET = 128
PIXEL_SCALE = 128.0
PAD_VALUE = 128  # 0 after normalization


@dataclass(frozen=True)
class Preprocessing:
    """Height, width (pixels) and channels (1 or 3) of the input.

    The resize rule is always the same: scale so that the image just fits (aspect kept, antialiased bilinear),
    centre it, fill the rest with mid grey.
    """

    height: int
    width: int
    channels: int

    def apply(self, image: Image.Image) -> np.ndarray:
        """A decoded image (mode L or RGB) to uint8, H x W x C."""
        image = image.convert("L" if self.channels == 1 else "RGB")
        if image.size != (self.width, self.height):
            image = self._fit(image)
        return np.asarray(image, np.uint8).reshape(self.height, self.width, self.channels)

    def _fit(self, image: Image.Image) -> Image.Image:
        from PIL import Image  # training imports this module, on machines that may have no Pillow

        scale = min(self.width / image.width, self.height / image.height)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = image.resize(size, Image.Resampling.BILINEAR)
        if size == (self.width, self.height):
            return image
        canvas = Image.new(image.mode, (self.width, self.height), PAD_VALUE if image.mode == "L" else (PAD_VALUE,) * 3)
        canvas.paste(image, ((self.width - size[0]) // 2, (self.height - size[1]) // 2))
        return canvas

    def to_json(self) -> dict:
        return {
            **asdict(self),
            "resize": "fit inside, keep aspect, antialiased bilinear, centre, fill with 128",
            "normalize": {"offset": PIXEL_OFFSET, "scale": PIXEL_SCALE},
        }

    @staticmethod
    def from_json(document: dict) -> Preprocessing:
        return Preprocessing(document["height"], document["width"], document["channels"])


def to_float(images: np.ndarray) -> np.ndarray:
    """uint8 images of any shape to the float32 input of a network, in [-1, 127/128]."""
    return (images.astype(np.float32) - PIXEL_OFFSET) / PIXEL_SCALE


def to_input(images: np.ndarray, dtype: np.dtype, scale: float, zero_point: int) -> np.ndarray:
    """uint8 images to a model's input: float32, or quantized with the tensor's scale and zero point."""
    if np.dtype(dtype) == np.float32:
        return to_float(images)
    if np.dtype(dtype) == np.int8 and scale == 1 / PIXEL_SCALE and zero_point == 0:
        return (images ^ 0x80).view(np.int8)  # pixel - 128, without leaving the integers
    if scale == 0:  # an integer input without quantization takes pixels as they are
        return images if np.dtype(dtype) == np.uint8 else (images ^ 0x80).view(np.int8)
    limits = np.iinfo(dtype)
    quantized = np.round(to_float(images) / scale) + zero_point
    return np.clip(quantized, limits.min, limits.max).astype(dtype)
