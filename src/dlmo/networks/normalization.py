"""Networks that were trained on other pixel values than dlmo's: a first layer turns ours into theirs.

It stays a layer of its own: folded into a zero-padded convolution it would shift the padding too. As a 1x1
convolution it is delegated, and quantized per channel.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from dlmo.data import normalization
from dlmo.data.preprocessing import PIXEL_OFFSET, PIXEL_SCALE
from dlmo.data.preprocessing import Normalization as PixelNormalization


@dataclass(frozen=True)
class Normalization:
    """(pixel / 255 - mean) / std with one number or one per channel, in the order the network takes them.

    bgr: the network takes blue, green, red.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False

    def __str__(self) -> str:
        order = ", channels blue-green-red" if self.bgr else ""
        return f"mean {_numbers(self.mean)}, std {_numbers(self.std)}{order}"

    def in_order(self, bgr: bool) -> "Normalization":
        """One of KNOWN, which are of red, green and blue, for a network that takes the channels in that order."""
        return replace(self, mean=self.mean[::-1], std=self.std[::-1], bgr=True) if bgr else self

    def affine(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Factor and shift, float32, one per channel, from dlmo's (pixel - 128) / 128 to the network's values."""
        if self == KNOWN["dlmo"]:
            return np.ones(channels, np.float32), np.zeros(channels, np.float32)
        mean, std = (_per_channel(values, channels) for values in (self.mean, self.std))
        return np.float32(PIXEL_SCALE / (255 * std)), np.float32((PIXEL_OFFSET / 255 - mean) / std)


# A normalization in numbers of six digits may be off by so much.
_ROUNDED = 1e-6

KNOWN = {name: Normalization(*numbers) for name, numbers in normalization.NAMED.items()}


def parse(mean: str | None, std: str | None) -> Normalization | None:
    """What `--mean` and `--std` say; None where neither is given. Raises UserError."""
    if mean in KNOWN and std in (None, mean):
        return KNOWN[mean]
    rule = normalization.parse(mean, std)
    return None if rule is None else of_pixels(rule)


def of_pixels(rule: PixelNormalization) -> Normalization:
    """The same as (pixel - mean) / std."""
    found = Normalization(*(tuple(round(value / 255, 9) for value in values) for values in (rule.mean, rule.std)))
    own = KNOWN["dlmo"]  # also where it is told in rounded numbers: it needs no layer
    near = all(abs(value - own.mean[0]) < _ROUNDED for value in (*found.mean, *found.std))
    return own if near else found


class Normalized(nn.Module):
    """A network behind its normalization: takes (pixel - 128) / 128, N x C x H x W."""

    def __init__(self, network: nn.Module, normalization: Normalization, channels: int) -> None:
        super().__init__()
        factor, shift = (torch.from_numpy(values) for values in normalization.affine(channels))
        self.normalization = nn.Conv2d(channels, channels, 1, groups=1 if normalization.bgr else channels)
        weight = torch.diag(factor).flip(1) if normalization.bgr else factor
        with torch.no_grad():
            self.normalization.weight.copy_(weight.reshape(self.normalization.weight.shape))
            self.normalization.bias.copy_(shift)
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(self.normalization(x))


def normalized(network: nn.Module, normalization: Normalization, channels: int) -> nn.Module:
    """The network for dlmo's pixels; itself if it takes them already."""
    if normalization == KNOWN["dlmo"]:
        return network.eval()
    return Normalized(network, normalization, channels).eval()


def _per_channel(values: tuple[float, ...], channels: int) -> np.ndarray:
    """One number per channel; for grey images the mean of three."""
    numbers = np.array(values)
    return numbers if len(numbers) == channels else np.full(channels, numbers.mean())


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
