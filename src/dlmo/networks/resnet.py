"""Bottleneck residual networks for large images: resnet50 and resnet101.

He et al.: "Deep Residual Learning for Image Recognition", arXiv:1512.03385, section 4.1, table 1. The
stride sits on the 3x3 convolution, as in Facebook's and torchvision's versions (parameters and MACs are
nearly the same).

Stems: large is the published one (7x7 of stride 2, max pooling), medium leaves out the max pooling, small
is a 3x3 convolution of stride 1, as usual for 32x32 images (7,680 parameters fewer).
"""

import torch
from torch import nn

from dlmo.networks.layers import conv_norm, initialize, quiet, scaled

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut (1x1 convolution where the shape changes): figure 5, right."""

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        outputs = inner * EXPANSION
        self.reduce = conv_norm(inputs, inner, 1, activation=nn.ReLU)
        self.spatial = conv_norm(inner, inner, 3, stride=stride, activation=nn.ReLU)
        self.expand = quiet(conv_norm(inner, outputs, 1))
        same_shape = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same_shape else conv_norm(inputs, outputs, 1, stride=stride)
        self.activation = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.expand(self.spatial(self.reduce(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """N x C x H x W -> N x classes. Total stride 8, 16 or 32 by stem."""

    def __init__(
        self,
        *,
        depth: int,
        classes: int,
        channels: int,
        strides: tuple[int, int],
        width: float,
    ) -> None:
        super().__init__()
        inputs = scaled(64, width)
        kernel = 7 if strides[0] == 2 else 3
        self.stem = conv_norm(channels, inputs, kernel, stride=strides[0], activation=nn.ReLU)
        self.stem_pool = nn.MaxPool2d(3, 2, ceil_mode=True) if strides[1] == 2 else nn.Identity()
        blocks: list[nn.Module] = []
        for stage, count in enumerate(BLOCKS[depth]):
            inner = scaled(64 * 2**stage, width)
            for block in range(count):
                stride = 2 if block == 0 and stage > 0 else 1
                blocks.append(Bottleneck(inputs, inner, stride))
                inputs = inner * EXPANSION
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.stem_pool(self.stem(x)))
        return self.classifier(torch.flatten(self.pool(x), 1))


build = ResNet
