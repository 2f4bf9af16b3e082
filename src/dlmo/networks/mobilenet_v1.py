"""MobileNet v1: depthwise separable convolutions.

Howard et al.: "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
arXiv:1704.04861, table 1. ReLU6 in place of the paper's ReLU, as in the authors' code.
"""

import torch
from torch import nn

from dlmo.networks.layers import conv_norm, initialize, scaled

# Output channels and stride of each separable convolution; None is the stem's choice (published: 2).
LAYOUT = (
    (64, 1),
    (128, None),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)


class MobileNetV1(nn.Module):
    """N x C x H x W -> N x classes. Total stride 8, 16 or 32 by stem; large is the published one."""

    def __init__(self, *, classes: int, channels: int, strides: tuple[int, int], width: float) -> None:
        super().__init__()
        inputs = scaled(32, width)
        layers = [conv_norm(channels, inputs, 3, stride=strides[0], activation=nn.ReLU6)]
        for layer_channels, stride in LAYOUT:
            stride = stride or strides[1]
            outputs = scaled(layer_channels, width)
            layers.append(conv_norm(inputs, inputs, 3, stride=stride, groups=inputs, activation=nn.ReLU6))
            layers.append(conv_norm(inputs, outputs, 1, activation=nn.ReLU6))
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


build = MobileNetV1
