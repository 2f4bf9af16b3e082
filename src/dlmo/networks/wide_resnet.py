"""Wide residual networks: wide_resnet_D_K with depth D = 6n+4 and widening factor K.

Zagoruyko, Komodakis: "Wide Residual Networks", arXiv:1605.07146, section 3, table 1: three stages of n
pre-activation blocks (BatchNorm, ReLU, 3x3 convolution, twice) with 16K, 32K and 64K channels. No dropout,
as in its tables 4 and 5.
"""

import torch
from torch import nn

from dlmo.networks.layers import conv, conv_norm, initialize, scaled


class PreActivationBlock(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))): He et al. 2016 (arXiv:1603.05027), figure 1b.

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input, as in the authors'
    code. `norm` follows a sum, so it folds into no convolution; the one inside `first` does.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.activation = nn.ReLU()
        self.first = conv_norm(inputs, outputs, 3, stride=stride, activation=nn.ReLU)
        self.second = conv(outputs, outputs, 3)
        self.same_shape = stride == 1 and inputs == outputs
        if not self.same_shape:
            self.shortcut = conv(inputs, outputs, 1, stride=stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = self.activation(self.norm(x))
        shortcut = x if self.same_shape else self.shortcut(activated)
        return self.second(self.first(activated)) + shortcut


class WideResNet(nn.Module):
    """N x C x H x W -> N x classes. Total stride 4 with the small (published) stem, 8 medium, 16 large."""

    def __init__(
        self,
        *,
        depth: int,
        widening: int,
        classes: int,
        channels: int,
        strides: tuple[int, int],
        width: float,
    ) -> None:
        super().__init__()
        inputs = scaled(16, width)
        self.stem = conv(channels, inputs, 3, stride=strides[0])
        blocks: list[nn.Module] = []
        for stage, first_stride in enumerate((strides[1], 2, 2)):
            outputs = scaled(16 * widening * 2**stage, width)
            for block in range((depth - 4) // 6):
                stride = first_stride if block == 0 else 1
                blocks.append(PreActivationBlock(inputs, outputs, stride))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(inputs)
        self.activation = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.norm(self.blocks(self.stem(x))))
        return self.classifier(torch.flatten(self.pool(x), 1))


build = WideResNet
