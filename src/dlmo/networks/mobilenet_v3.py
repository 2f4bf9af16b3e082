"""MobileNet v3: searched inverted residuals with squeeze-excite and hard-swish.

Howard et al.: "Searching for MobileNetV3", arXiv:1905.02244, tables 1 (large) and 2 (small). Where the
paper leaves a choice this follows torchvision, whose parameter counts these are: squeeze-excite to a
quarter of the expanded channels, BatchNorm with eps 1e-3, dropout 0.2, all layers scaled by the width. Its
momentum of 0.01 would leave statistics of smaller images in the file after a schedule of few epochs.
"""

from functools import partial

import torch
from torch import nn

from dlmo.networks import layers
from dlmo.networks.layers import initialize, quiet, scaled

conv_norm = partial(layers.conv_norm, eps=1e-3)

RE, HS = nn.ReLU, nn.Hardswish
# Kernel, expanded and output channels, squeeze-excite, activation, stride; None: the stem's, published as 2.
LAYOUTS = {
    "large": (
        (3, 16, 16, False, RE, 1),
        (3, 64, 24, False, RE, None),
        (3, 72, 24, False, RE, 1),
        (5, 72, 40, True, RE, 2),
        (5, 120, 40, True, RE, 1),
        (5, 120, 40, True, RE, 1),
        (3, 240, 80, False, HS, 2),
        (3, 200, 80, False, HS, 1),
        (3, 184, 80, False, HS, 1),
        (3, 184, 80, False, HS, 1),
        (3, 480, 112, True, HS, 1),
        (3, 672, 112, True, HS, 1),
        (5, 672, 160, True, HS, 2),
        (5, 960, 160, True, HS, 1),
        (5, 960, 160, True, HS, 1),
    ),
    "small": (
        (3, 16, 16, True, RE, None),
        (3, 72, 24, False, RE, 2),
        (3, 88, 24, False, RE, 1),
        (5, 96, 40, True, HS, 2),
        (5, 240, 40, True, HS, 1),
        (5, 240, 40, True, HS, 1),
        (5, 120, 48, True, HS, 1),
        (5, 144, 48, True, HS, 1),
        (5, 288, 96, True, HS, 2),
        (5, 576, 96, True, HS, 1),
        (5, 576, 96, True, HS, 1),
    ),
}
HIDDEN = {"large": 1280, "small": 1024}


class SqueezeExcite(nn.Module):
    """Gates channels by their global average: section 5.3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = scaled(channels // 4, 1.0)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, inner, 1)
        self.activation = nn.ReLU()
        self.expand = nn.Conv2d(inner, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.gate(self.expand(self.activation(self.reduce(self.pool(x)))))
        return x * gate


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise, squeeze-excite, linear 1x1 projection; a sum where shapes agree: figure 4."""

    def __init__(
        self,
        inputs: int,
        inner: int,
        outputs: int,
        *,
        kernel: int,
        squeeze_excite: bool,
        activation: type[nn.Module],
        stride: int,
    ) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        if inner != inputs:
            steps.append(conv_norm(inputs, inner, 1, activation=activation))
        steps.append(conv_norm(inner, inner, kernel, stride=stride, groups=inner, activation=activation))
        if squeeze_excite:
            steps.append(SqueezeExcite(inner))
        self.same_shape = stride == 1 and inputs == outputs
        projection = conv_norm(inner, outputs, 1)
        steps.append(quiet(projection) if self.same_shape else projection)
        self.layers = nn.Sequential(*steps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.same_shape else self.layers(x)


class MobileNetV3(nn.Module):
    """N x C x H x W -> N x classes. Total stride 8, 16 or 32 by stem; large is the published one."""

    def __init__(
        self,
        *,
        variant: str,
        classes: int,
        channels: int,
        strides: tuple[int, int],
        width: float,
    ) -> None:
        super().__init__()
        inputs = scaled(16, width)
        features: list[nn.Module] = [conv_norm(channels, inputs, 3, stride=strides[0], activation=HS)]
        for kernel, inner, outputs, squeeze_excite, activation, stride in LAYOUTS[variant]:
            stride = stride or strides[1]
            block = InvertedResidual(
                inputs,
                scaled(inner, width),
                scaled(outputs, width),
                kernel=kernel,
                squeeze_excite=squeeze_excite,
                activation=activation,
                stride=stride,
            )
            features.append(block)
            inputs = scaled(outputs, width)
        features.append(conv_norm(inputs, 6 * inputs, 1, activation=HS))
        self.features = nn.Sequential(*features)
        self.pool = nn.AdaptiveAvgPool2d(1)
        hidden = scaled(HIDDEN[variant], width)
        self.hidden = nn.Linear(6 * inputs, hidden)
        self.activation = HS()
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(hidden, classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.flatten(self.pool(self.features(x)), 1)
        return self.classifier(self.dropout(self.activation(self.hidden(x))))


build = MobileNetV3
