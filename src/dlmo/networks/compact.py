"""Networks for files of tens to hundreds of kilobytes, found by a search: `benchmarks/compact_networks.py`.

At one size of the int8 file the search compared stages of residual and of inverted blocks, of 3x3 and 5x5 depthwise
filters, their widths and numbers. Two shapes came out ahead of ResNets of as many bytes (docs/compression.md): `deep`,
which begins with narrow residual blocks, and `wide`, of few blocks with many channels, the faster one in int8. `wide`
has one block more in its second stage than the search had given it.
"""

from dataclasses import dataclass

import torch
from torch import nn

from dlmo.networks.cifar_resnet import BasicBlock
from dlmo.networks.layers import conv_norm, initialize, scaled
from dlmo.networks.mobilenet_v2 import InvertedResidual


@dataclass(frozen=True)
class Stage:
    """Blocks of one resolution; the first of them halves the map, but in the first stage, where the stem decides.

    kind: `residual` (cifar_resnet.BasicBlock) or `inverted` (mobilenet_v2.InvertedResidual).
    channels: of the maps between blocks. inner: channels inside a block, as a multiple of those it writes (residual) or
    reads (inverted, a whole number). kernel: side of the inverted blocks' depthwise filters.
    """

    kind: str
    channels: int
    inner: float
    blocks: int
    kernel: int = 3


LAYOUTS = {
    "wide": (
        Stage("inverted", 64, 2, 1),
        Stage("inverted", 96, 1, 4, kernel=5),
        Stage("inverted", 120, 1, 1),
    ),
    "deep": (
        Stage("residual", 16, 0.5, 5),
        Stage("inverted", 24, 6, 3, kernel=5),
        Stage("inverted", 32, 4, 2, kernel=5),
    ),
}


class Compact(nn.Module):
    """N x C x H x W -> N x classes. Halves the map with every stage after the first, and as the stem says."""

    def __init__(
        self, *, classes: int, channels: int, strides: tuple[int, int], width: float, stages: tuple[Stage, ...]
    ) -> None:
        super().__init__()
        inputs = scaled(stages[0].channels, width)
        self.stem = conv_norm(channels, inputs, 3, stride=strides[0], activation=nn.ReLU)
        blocks: list[nn.Module] = []
        for number, stage in enumerate(stages):
            outputs = scaled(stage.channels, width)
            for block in range(stage.blocks):
                stride = 1 if block else (2 if number else strides[1])
                blocks.append(_block(stage, inputs, outputs, stride, width))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.stem(x))
        return self.classifier(torch.flatten(self.pool(x), 1))


def _block(stage: Stage, inputs: int, outputs: int, stride: int, width: float) -> nn.Module:
    if stage.kind == "inverted":
        return InvertedResidual(inputs, outputs, stride, int(stage.inner), stage.kernel)
    return BasicBlock(inputs, outputs, stride, scaled(stage.channels * stage.inner, width))


def build(*, classes: int, channels: int, strides: tuple[int, int], width: float, shape: str) -> Compact:
    return Compact(classes=classes, channels=channels, strides=strides, width=width, stages=LAYOUTS[shape])
