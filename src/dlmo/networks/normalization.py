"""Networks that were trained on other pixel values than dlmo's: a first layer turns ours into theirs.

It stays a layer of its own: folded into a zero-padded convolution it would shift the padding too. As a 1x1
convolution it is delegated, and quantized per channel.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from dlmo.data.preprocessing import PIXEL_OFFSET, PIXEL_SCALE
from dlmo.errors import UserError


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

    def affine(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Factor and shift, float32, one per channel, from dlmo's (pixel - 128) / 128 to the network's values."""
        if self == KNOWN["dlmo"]:
            return np.ones(channels, np.float32), np.zeros(channels, np.float32)
        mean, std = (_per_channel(values, channels) for values in (self.mean, self.std))
        return np.float32(PIXEL_SCALE / (255 * std)), np.float32((PIXEL_OFFSET / 255 - mean) / std)


# dlmo: what the networks of this package see. unit: ToTensor alone. pixels: 0 to 255.
KNOWN = {
    "dlmo": Normalization((PIXEL_OFFSET / 255,), (PIXEL_SCALE / 255,)),
    "half": Normalization((0.5,), (0.5,)),
    "unit": Normalization((0.0,), (1.0,)),
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar": Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "pixels": Normalization((0.0,), (1 / 255,)),
}


def parse(mean: str | None, std: str | None) -> Normalization | None:
    """What `--mean` and `--std` say: a name for both, or one or three numbers each; None where neither is given."""
    if mean is None and std is None:
        return None
    if mean in KNOWN and std in (None, mean):
        return KNOWN[mean]
    if mean is None or std is None:
        raise UserError(f"give both --mean and --std as numbers, or --mean with a name: {', '.join(KNOWN)}")
    values = tuple(_parse_numbers(option, text) for option, text in (("--mean", mean), ("--std", std)))
    if min(values[1]) <= 0:
        raise UserError(f"--std {std}: give numbers over 0")
    return Normalization(*values)


def _parse_numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 3):
        raise UserError(f'{option} "{text}": give one or three numbers for pixels from 0 to 1, or {", ".join(KNOWN)}')
    return numbers


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
