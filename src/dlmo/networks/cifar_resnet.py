"""Residual networks for small images: resnetN with N = 6n+2.

He et al.: "Deep Residual Learning for Image Recognition", arXiv:1512.03385, section 4.2: three stages of n
blocks of two 3x3 convolutions with 16, 32 and 64 channels. `resnet50` fits the formula too, but names the
bottleneck network.

Where the shape changes, the shortcut is a 1x1 convolution (option B, 1 % more parameters), not the paper's
parameter-free subsampling and zero channels (option A): in the .tflite file of resnet20 option A was 11 to
15 % slower and cut the graph into three delegated parts as a strided slice, and cost 14 TRANSPOSE operators
as a pooling layer.
"""

import torch
from torch import nn

from dlmo.networks.layers import conv_norm, initialize, quiet, scaled


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: figure 5, left. inner: channels between the two, `outputs` if not given."""

    def __init__(self, inputs: int, outputs: int, stride: int, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or outputs
        self.first = conv_norm(inputs, inner, 3, stride=stride, activation=nn.ReLU)
        self.second = quiet(conv_norm(inner, outputs, 3))
        same_shape = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same_shape else conv_norm(inputs, outputs, 1, stride=stride)
        self.activation = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.second(self.first(x)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """N x C x H x W -> N x classes. Total stride 4 with the small (published) stem, 8 medium, 16 large."""

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
        inputs = scaled(16, width)
        self.stem = conv_norm(channels, inputs, 3, stride=strides[0], activation=nn.ReLU)
        blocks: list[nn.Module] = []
        for stage, first_stride in enumerate((strides[1], 2, 2)):
            outputs = scaled(16 * 2**stage, width)
            for block in range((depth - 2) // 6):
                stride = first_stride if block == 0 else 1
                blocks.append(BasicBlock(inputs, outputs, stride))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.stem(x))
        return self.classifier(torch.flatten(self.pool(x), 1))


build = CifarResNet
