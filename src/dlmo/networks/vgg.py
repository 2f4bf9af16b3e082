"""The reference study's small VGG: 3x3 convolutions in stages with max pooling between.

Simonyan, Zisserman: "Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv:1409.1556,
section 2.1, cut down by Lee et al. (Sensors 22(19):7344) to five convolutions, 32, 32 | 64, 64 | 128, with
BatchNorm, global average pooling and one linear layer: about 0.14 M parameters.
"""

import torch
from torch import nn

from dlmo.networks.layers import conv_norm, initialize, scaled


class VGG(nn.Module):
    """N x C x H x W -> N x classes. Maps: H, H/2, H/4 with the small stem."""

    def __init__(self, *, classes: int, channels: int, strides: tuple[int, int], width: float) -> None:
        super().__init__()
        inputs = channels
        layers: list[nn.Module] = []
        for stage_channels, stage_strides in ((32, strides), (64, (1, 1)), (128, (1,))):
            if layers:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
            outputs = scaled(stage_channels, width)
            for stride in stage_strides:
                layers.append(conv_norm(inputs, outputs, 3, stride=stride, activation=nn.ReLU))
                inputs = outputs
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


build = VGG
