"""Learning together: the teacher starts untrained too, and learns from the student as the student from it."""

import torch
from torch import nn

from dlmo.techniques.technique import Batch, Technique
from dlmo.training.device import Device, memory_format


class MutualLearning(Technique):
    """Student and peer each add a loss towards the other's answers to their own.

    Zhang et al., "Deep Mutual Learning", CVPR 2018, section 3.2. Each one's gradient stops at the other's answers, so
    that optimizing the sum of both losses trains each network by its own.
    peer: the other network; trained in place.
    """

    def __init__(self, loss, labels: float, weight: float, peer: nn.Module, device: Device) -> None:
        self._loss, self._labels, self._weight = loss, labels, weight
        self._layout = memory_format(peer, device)  # which may be another than the student's
        self.peer = peer.to(memory_format=self._layout)
        self._device = device

    def extra(self) -> nn.Module:
        return self.peer

    def loss(self, batch: Batch, logits: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        device = self._device
        with torch.autocast(device.name, device.autocast, enabled=device.autocast is not None):
            theirs = self.peer(batch.inputs.clone(memory_format=self._layout))
        theirs = theirs.float()
        own = self._labels * loss + self._weight * self._loss(logits, theirs.detach(), batch.labels)
        peer = self._labels * batch.task_loss(theirs) + self._weight * self._loss(theirs, logits.detach(), batch.labels)
        return own + peer
