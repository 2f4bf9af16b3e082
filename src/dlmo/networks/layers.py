"""Layers the families share: width scaling, convolution blocks, initialization.

Convolutions are padded by half the kernel on every side. TFLite has only SAME, which on even sizes pads a stride-2
convolution on the far side alone, so the file gets one PAD per such layer. Measured with interleaved runs, that
costs nothing (0.99 to 1.00 of the time without); one-sided padding in torch left TRANSPOSE operators behind wherever
two layers read the same map, and broke the export of quantization-aware models.
"""

from collections import OrderedDict

from torch import nn

_BRANCH_SCALE = 0.2


def scaled(channels: int, width: float) -> int:
    """Channels times width, to the nearest multiple of 8, never more than 10 % below (MobileNet's rule)."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


def conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias; the map's sides become ceil(side / stride)."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = None,
    eps: float = 1e-5,
) -> nn.Sequential:
    """`conv`, `norm` (BatchNorm) and, if given, `activation`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = conv(inputs, outputs, kernel, stride=stride, groups=groups)
    layers["norm"] = nn.BatchNorm2d(outputs, eps=eps)
    if activation is not None:
        layers["activation"] = activation()
    return nn.Sequential(layers)


def quiet(branch_end: nn.Sequential) -> nn.Sequential:
    """The `conv_norm` that ends a residual branch, so scaled that the sum begins as little more than its shortcut.

    Otherwise the map's variance grows with every block, and deep networks spend the first epochs getting it down.
    Goyal et al. (arXiv:1706.02677, section 5.1) begin at 0, where a branch learns nothing in its first step. What it
    gains: `benchmarks/first_steps.py`.
    """
    nn.init.constant_(branch_end.norm.weight, _BRANCH_SCALE)
    return branch_end


def initialize(network: nn.Module) -> None:
    """He et al. 2015 (arXiv:1502.01852) for convolutions.

    Fan-in, because a depthwise kernel's fan-out as torch counts it is too large by the number of channels.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
