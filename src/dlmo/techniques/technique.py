"""What the training loop asks of a technique."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Batch:
    """What one step trains on.

    inputs: float32 N x channels x H x W, augmented and resized. labels: int64 N.
    positions: int64 N, the images' places among the training images. view: number of their fixed augmentation,
    None where it is a fresh one; to be acted upon in `begin_epoch`, not in `loss`, which a GPU may replay.
    task_loss: the cross-entropy of logits (N x classes) and labels that plain training minimizes.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    view: int | None
    task_loss: Callable[[torch.Tensor], torch.Tensor]


class Technique:
    """Hooks into training. The base class changes nothing: plain training.

    views: how many fixed augmentations of each image to train on, one per epoch in turn; None for a fresh one in
    every epoch.
    """

    views: int | None = None

    def begin(self, network: nn.Module, steps: int) -> nn.Module:
        """Prepare for `steps` optimizer steps; returns the network to train (may be another object)."""
        return network

    def extra(self) -> nn.Module:
        """What is trained and checkpointed together with the network, and dropped afterwards. Asked after `begin`."""
        return nn.Module()

    def begin_epoch(self, view: int | None) -> None:
        """Called before each epoch's steps. view: the fixed augmentation it trains on, None where it is a fresh one."""

    def loss(self, batch: Batch, logits: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        """The loss to minimize. logits: the network's, float32 N x classes, just computed. loss: that of the
        techniques before this one, else the batch's task loss.

        A GPU may record what this computes and replay it: what changes from step to step must be a tensor that stays
        where it is.
        """
        return loss

    def after_step(self, network: nn.Module, step: int) -> None:
        """Called after each optimizer step, `step` counted from 1. Must be a function of `step` and the weights
        alone, so that a training resumed from a checkpoint goes on as if it had not stopped."""

    def resume(self, network: nn.Module, step: int) -> None:
        """Called once after a checkpoint's weights were loaded, `step` steps done."""

    def end(self, network: nn.Module) -> None:
        """Called once after the last step; leaves nothing of the technique on the network."""


class Chain(Technique):
    """Several techniques at once, in order."""

    def __init__(self, *techniques: Technique) -> None:
        self._techniques = techniques
        self.views = next((technique.views for technique in techniques if technique.views is not None), None)

    def begin(self, network: nn.Module, steps: int) -> nn.Module:
        for technique in self._techniques:
            network = technique.begin(network, steps)
        return network

    def extra(self) -> nn.Module:
        return nn.ModuleList(technique.extra() for technique in self._techniques)

    def begin_epoch(self, view: int | None) -> None:
        for technique in self._techniques:
            technique.begin_epoch(view)

    def loss(self, batch: Batch, logits: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        for technique in self._techniques:
            loss = technique.loss(batch, logits, loss)
        return loss

    def after_step(self, network: nn.Module, step: int) -> None:
        for technique in self._techniques:
            technique.after_step(network, step)

    def resume(self, network: nn.Module, step: int) -> None:
        for technique in self._techniques:
            technique.resume(network, step)

    def end(self, network: nn.Module) -> None:
        for technique in self._techniques:
            technique.end(network)
