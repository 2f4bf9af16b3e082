"""What users say about the pixel values a model was trained on: `--mean`, `--std` and `--scale`."""

import math
from collections.abc import Sequence

from dlmo.data.preprocessing import PIXEL_OFFSET, PIXEL_SCALE, Normalization
from dlmo.errors import UserError

Numbers = str | float | Sequence[float]

# By name, (mean, std) for pixels from 0 to 1. dlmo: what the networks of this package see. unit: divided by 255 alone.
# pixels: as they are. imagenet, cifar: means and deviations of those data sets' training images.
NAMED = {
    "dlmo": ((PIXEL_OFFSET / 255,), (PIXEL_SCALE / 255,)),
    "half": ((0.5,), (0.5,)),
    "unit": ((0.0,), (1.0,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "pixels": ((0.0,), (1 / 255,)),
}
# Means and deviations of pixels from 0 to 1 are below it, those of pixels from 0 to 255 are not all.
_LARGEST_OF_UNIT_PIXELS = 5.0


def parse(
    mean: Numbers | None, std: Numbers | None, scale: float | None = None, *, bgr: bool = False
) -> Normalization | None:
    """(pixel / scale - mean) / std, pixels from 0 to 255; None where nothing is given.

    mean, std: one number or one per channel (text with commas or spaces, or numbers), or for mean a name of NAMED.
    scale: without it numbers are taken for pixels from 0 to 1 (scale 255), unless one of them is larger than 5 and
    so can only mean pixels from 0 to 255 (scale 1).
    bgr: the order of the channels is blue, green, red: numbers are given in it, the names' are turned around.
    """
    if mean is None and std is None and scale is None:
        return None
    if isinstance(mean, str) and mean in NAMED:
        if scale is not None or std not in (None, mean):
            raise UserError(f"--mean {mean} says all; leave out --std and --scale")
        return _scaled(*(numbers[:: -1 if bgr else 1] for numbers in NAMED[mean]), 255.0)
    means = _numbers("--mean", 0.0 if mean is None else mean)
    deviations = _numbers("--std", 1.0 if std is None else std)
    if min(deviations) <= 0 or (scale is not None and not 0 < scale < math.inf):
        raise UserError("--std and --scale: give numbers above 0")
    if {len(means), len(deviations)} - {1, max(len(means), len(deviations))}:
        raise UserError("--mean and --std: give one number each, or as many as the other")
    if scale is None:
        scale = 1.0 if max(map(abs, (*means, *deviations))) > _LARGEST_OF_UNIT_PIXELS else 255.0
    return _scaled(means, deviations, scale)


def _scaled(mean: Sequence[float], std: Sequence[float], scale: float) -> Normalization:
    count = max(len(mean), len(std))
    mean, std = (tuple(numbers) * count if len(numbers) == 1 else tuple(numbers) for numbers in (mean, std))
    return Normalization(tuple(value * scale for value in mean), tuple(value * scale for value in std))


def _numbers(option: str, value: Numbers) -> tuple[float, ...]:
    parts = value.replace(",", " ").split() if isinstance(value, str) else value
    try:
        numbers = tuple(float(part) for part in (parts if isinstance(parts, Sequence) else [parts]))
    except (ValueError, TypeError):
        numbers = ()
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
        names = f", or {', '.join(NAMED)}" if option == "--mean" else ""
        raise UserError(f"{option} {value}: give one number, or three with commas between{names}")
    return numbers
