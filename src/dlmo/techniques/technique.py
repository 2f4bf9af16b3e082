"""What the training loop asks of a technique."""

from torch import nn


class Technique:
    """Hooks into training. The base class changes nothing: plain training."""

    def begin(self, network: nn.Module, steps: int) -> nn.Module:
        """Prepare for `steps` optimizer steps; returns the network to train (may be another object)."""
        return network

    def after_step(self, network: nn.Module, step: int) -> None:
        """Called after each optimizer step, `step` counted from 1. Must be a function of `step` and the weights
        alone, so that a training resumed from a checkpoint goes on as if it had not stopped."""

    def resume(self, network: nn.Module, step: int) -> None:
        """Called once after a checkpoint's weights were loaded, `step` steps done."""


class Chain(Technique):
    """Several techniques at once, in order."""

    def __init__(self, *techniques: Technique) -> None:
        self._techniques = techniques

    def begin(self, network: nn.Module, steps: int) -> nn.Module:
        for technique in self._techniques:
            network = technique.begin(network, steps)
        return network

    def after_step(self, network: nn.Module, step: int) -> None:
        for technique in self._techniques:
            technique.after_step(network, step)

    def resume(self, network: nn.Module, step: int) -> None:
        for technique in self._techniques:
            technique.resume(network, step)
