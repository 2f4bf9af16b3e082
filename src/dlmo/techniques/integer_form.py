"""The form of a network that int8 kernels run whole.

XNNPACK has no int8 hard-swish: each one leaves the delegate, and MobileNet v3 runs in 20 pieces, slower than in
float. Written out as multiplications, an addition and a ReLU6, which all have int8 kernels, it is one piece. The
converter writes x * (relu6(x + 3) / 6) back into a hard-swish, so the sixth stands at the other factor.
"""

import copy

import torch
from torch import nn


class HardswishInSteps(nn.Module):
    """x * relu6(x + 3) / 6 (Howard et al., "Searching for MobileNetV3", section 5.2), by elementary operators."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = nn.ReLU6()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * (1 / 6)) * self.clip(x + 3)


class HardsigmoidInSteps(nn.Module):
    """relu6(x + 3) / 6, by elementary operators."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = nn.ReLU6()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.clip(x + 3) * (1 / 6)


class SiluInSteps(nn.Module):
    """x * sigmoid(x), each with its own integers."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(x)


_IN_STEPS = {nn.Hardswish: HardswishInSteps, nn.Hardsigmoid: HardsigmoidInSteps, nn.SiLU: SiluInSteps}


def needs_integer_form(network: nn.Module) -> bool:
    """Whether the network has an activation without an int8 kernel."""
    return any(type(module) in _IN_STEPS for module in network.modules())


def integer_form(network: nn.Module) -> nn.Module:
    """A copy that computes the same (to float rounding) with operators that have int8 kernels."""
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in _IN_STEPS:
                setattr(parent, name, _IN_STEPS[type(child)]())
    return network
