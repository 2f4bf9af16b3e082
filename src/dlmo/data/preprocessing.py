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
        """What `to_json` gave. Raises ValueError where somebody else noted another normalization."""
        noted = document.get("normalize", {"offset": PIXEL_OFFSET, "scale": PIXEL_SCALE})
        if (noted["offset"], noted["scale"]) != (PIXEL_OFFSET, PIXEL_SCALE):
            raise ValueError(
                f"preprocessing.json: normalize must have offset {PIXEL_OFFSET} and scale {PIXEL_SCALE:g}; "
                "`dlmo evaluate` takes others"
            )
        return Preprocessing(document["height"], document["width"], document["channels"])


def to_float(images: np.ndarray) -> np.ndarray:
    """uint8 images of any shape to the float32 input of a network, in [-1, 127/128]."""
    return (images.astype(np.float32) - PIXEL_OFFSET) / PIXEL_SCALE


@dataclass(frozen=True)
class Normalization:
    """From pixels, 0 to 255, to the real values a model was trained on: (pixel - mean) / std.

    One mean and std for all channels, or one per channel in the order of the input's channels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def levels(self) -> np.ndarray:
        """The value of every pixel level, float32 256 x (1 or channels)."""
        pixels = np.arange(256, dtype=np.float32)[:, None]
        return (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)

    def __str__(self) -> str:
        mean, std = (", ".join(f"{number:.6g}" for number in numbers) for numbers in (self.mean, self.std))
        return f"(pixel - {mean}) / {std}" if len(self.mean) == len(self.std) == 1 else f"(pixel - [{mean}]) / [{std}]"


OWN = Normalization((float(PIXEL_OFFSET),), (PIXEL_SCALE,))


def natural_normalization(dtype: np.dtype, scale: float, zero_point: int) -> Normalization:
    """What an input's type suggests where nothing else is known.

    The range of an 8-bit input stands for pixels 0 to 255, whatever real values its scale gives them: pixels are fed
    as they are, or less 128. Other inputs get dlmo's own normalization.
    """
    if np.dtype(dtype).itemsize > 1:
        return OWN
    zero = zero_point if np.dtype(dtype) == np.uint8 else zero_point + 128
    return Normalization((float(zero),), (1 / (scale or 1.0),))


def to_input(
    images: np.ndarray, dtype: np.dtype, scale: float, zero_point: int, normalization: Normalization | None = None
) -> np.ndarray:
    """uint8 images, ... x channels, to a model's input: float, or quantized with the tensor's scale and zero point.

    A scale of 0 means that the tensor has none. normalization: None takes the input's natural one.
    """
    dtype = np.dtype(dtype)
    rule = normalization or natural_normalization(dtype, scale, zero_point)
    if dtype == np.int8 and scale == 1 / PIXEL_SCALE and zero_point == 0 and rule == OWN:
        return (images ^ 0x80).view(np.int8)  # pixel - 128, without leaving the integers
    levels = rule.levels()
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        levels = np.clip(np.round(levels / np.float32(scale or 1.0)) + zero_point, limits.min, limits.max)
    levels = levels.astype(dtype)
    if levels.shape[1] == 1:
        return levels[:, 0][images]
    return np.stack([levels[:, channel][images[..., channel]] for channel in range(levels.shape[1])], axis=-1)
