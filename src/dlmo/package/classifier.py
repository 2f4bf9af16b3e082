"""A package opened once and asked image by image, as a program with a camera does. Needs numpy, Pillow and LiteRT."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from dlmo.data.image import ImageError, grey_or_rgb, read_input
from dlmo.errors import UserError
from dlmo.package.opened import open_package
from dlmo.package.predict import Prediction

if TYPE_CHECKING:
    from dlmo.package.run import Model


def load(package: str | Path) -> "Classifier":
    """The model of a run's folder, a package's folder or its .zip, ready to classify.

    Raises UserError where something is missing or damaged.
    """
    with open_package(Path(package).expanduser()) as found:
        return Classifier(found.model())


class Classifier:
    """A loaded model on one thread; give each of several threads its own.

    labels: the classes' names. input_shape: height, width and channels that images are brought to.
    """

    def __init__(self, model: "Model") -> None:
        self._model = model
        self.labels = tuple(model.labels)
        wanted = model.preprocessing
        self.input_shape = wanted.height, wanted.width, wanted.channels

    def predict(self, image: "str | Path | Image.Image | np.ndarray", top: int = 3) -> Prediction:
        """The `top` best classes of an image of any size: a file, an image of Pillow's, or pixels as uint8, H x W
        (grey), H x W x 1, H x W x 3 (RGB) or H x W x 4 (RGBA).

        Raises UserError where it is no such image. The prediction's `image` names the file, and is empty else.
        """
        if top < 1:
            raise UserError(f"top={top}: give 1 or more")
        name = str(image) if isinstance(image, str | Path) else ""
        try:
            best = self._model.best(self._model.shares_of(self._pixels(image)), top)
        except OSError as error:
            raise UserError(f"{name}: cannot be read: {error.strerror or error}") from None
        except ImageError as error:
            raise UserError(f"{name}: {error}" if name else str(error)) from None
        return Prediction(name, tuple(label for label, _ in best), tuple(share for _, share in best))

    def _pixels(self, image: "str | Path | Image.Image | np.ndarray") -> np.ndarray:
        """uint8, of `input_shape`."""
        preprocessing = self._model.preprocessing
        if isinstance(image, str | Path):
            with open(Path(image).expanduser(), "rb") as stream:
                return read_input(stream, preprocessing)[0]
        if isinstance(image, np.ndarray):
            image = _from_pixels(image)
        if not isinstance(image, Image.Image):
            raise UserError(f"an image is a file's name, a PIL.Image or an array of uint8, not {type(image).__name__}")
        return preprocessing.apply(grey_or_rgb(ImageOps.exif_transpose(image)))


def _from_pixels(pixels: np.ndarray) -> Image.Image:
    fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4))
    if pixels.dtype != np.uint8 or not fits or 0 in pixels.shape:
        shape = " x ".join(map(str, pixels.shape))
        raise UserError(f"pixels are {pixels.dtype}, {shape}; give uint8, H x W, H x W x 1, H x W x 3 or H x W x 4")
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
