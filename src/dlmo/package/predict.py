"""Predicting from a package folder, with numpy, Pillow and LiteRT alone."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dlmo.data.image import ImageError, read_input
from dlmo.data.preprocessing import Preprocessing
from dlmo.errors import UserError
from dlmo.measure.evaluate import read_model
from dlmo.runtimes.litert.interpreter import predict as run


@dataclass(frozen=True)
class Prediction:
    """The best classes of one image, best first, with their softmax shares, 0 to 1."""

    image: str
    classes: tuple[str, ...]
    shares: tuple[float, ...]

    def to_json(self) -> dict:
        return asdict(self)


def predict(package: str | Path, images: Sequence[str | Path], top: int = 3) -> list[Prediction]:
    """Classify image files with the model of a folder that `dlmo optimize --out` wrote."""
    folder = Path(package).expanduser()
    try:
        labels = (folder / "labels.txt").read_text().splitlines()
        preprocessing = Preprocessing.from_json(json.loads((folder / "preprocessing.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} is no package: it needs model.tflite, labels.txt and preprocessing.json") from None
    content = read_model(folder / "model.tflite")
    scores = run(content, np.stack([_read(Path(image), preprocessing) for image in images]))
    shares = np.exp(scores - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [
        Prediction(str(image), tuple(labels[i] for i in best), tuple(float(share[i]) for i in best))
        for image, best, share in zip(images, order, shares)
    ]


def _read(path: Path, preprocessing: Preprocessing) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            return read_input(file, preprocessing)[0]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except ImageError as error:
        raise UserError(f"{path} is no image dlmo can read: {error}") from None
