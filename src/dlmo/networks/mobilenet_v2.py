"""MobileNet v2: inverted residuals with linear bottlenecks.

Sandler et al.: "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381, table 2. A width
under 1 leaves the last convolution at 1280 channels, as published.
"""

import torch
from torch import nn

from dlmo.networks.layers import conv_norm, initialize, quiet, scaled

# Expansion, output channels, blocks, stride of the first block; None is the stem's choice (published: 2).
LAYOUT = (
    (1, 16, 1, 1),
    (6, 24, 2, None),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
LAST_CHANNELS = 1280
DROPOUT = 0.2  # before the classifier, as in the authors' code


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise (published: 3x3), linear 1x1 projection; a sum where the shape stays: section 3.3."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, kernel: int = 3) -> None:
        super().__init__()
        inner = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(conv_norm(inputs, inner, 1, activation=nn.ReLU6))
        layers.append(conv_norm(inner, inner, kernel, stride=stride, groups=inner, activation=nn.ReLU6))
        self.same_shape = stride == 1 and inputs == outputs
        projection = conv_norm(inner, outputs, 1)
        layers.append(quiet(projection) if self.same_shape else projection)
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.same_shape else self.layers(x)


class MobileNetV2(nn.Module):
    """N x C x H x W -> N x classes. Total stride 8, 16 or 32 by stem; large is the published one."""

    def __init__(self, *, classes: int, channels: int, strides: tuple[int, int], width: float) -> None:
        super().__init__()
        inputs = scaled(32, width)
        layers: list[nn.Module] = [conv_norm(channels, inputs, 3, stride=strides[0], activation=nn.ReLU6)]
        for expansion, layer_channels, count, first_stride in LAYOUT:
            outputs = scaled(layer_channels, width)
            for block in range(count):
                stride = (first_stride or strides[1]) if block == 0 else 1
                layers.append(InvertedResidual(inputs, outputs, stride, expansion))
                inputs = outputs
        last = scaled(LAST_CHANNELS, max(1.0, width))
        layers.append(conv_norm(inputs, last, 1, activation=nn.ReLU6))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(last, classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.features(x))
        return self.classifier(self.dropout(torch.flatten(x, 1)))


build = MobileNetV2
