"""Learning from oneself: classifiers on the shallow stages learn from the network's own answer."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from dlmo.errors import UserError
from dlmo.networks.layers import conv_norm
from dlmo.techniques.distillation.response import SoftenedLogits
from dlmo.techniques.distillation.taps import Taps, stages
from dlmo.techniques.technique import Batch, Technique


class DeepestToShallow(Technique):
    """Add a classifier to every stage but the last, taught by the labels and by the deepest classifier.

    Zhang et al., "Be Your Own Teacher", ICCV 2019, section 3. A classifier goes through the remaining resolutions by
    separable convolutions of its own, one for each, so that a shallow stage need not separate the classes itself; there
    is no loss between features. The classifiers are dropped after training.
    alpha: share of the deepest classifier's answer, 1 - alpha is the labels'. It weighs the divergence itself, not
    the one times T^2.
    """

    def __init__(
        self,
        labels: float,
        weight: float,
        alpha: float,
        temperature: float,
        classes: int,
        input_shape: tuple[int, int, int],
    ) -> None:
        self._labels, self._weight, self._alpha = labels, weight, alpha
        self._loss, self._squared_temperature = SoftenedLogits(temperature), temperature**2
        self._classes, self._input_shape = classes, input_shape

    def begin(self, network: nn.Module, steps: int) -> nn.Module:
        modules, channels = zip(*shallow_stages(network, self._input_shape))
        self._taps = Taps(modules[:-1])
        self._heads = nn.ModuleList(_classifier(channels[stage:], self._classes) for stage in range(len(channels) - 1))
        return network

    def extra(self) -> nn.Module:
        return self._heads

    def loss(self, batch: Batch, logits: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        answers = [head(maps) for head, maps in zip(self._heads, self._taps.take())]
        from_labels = sum(batch.task_loss(answer) for answer in answers)
        from_deepest = sum(self._loss(answer, logits.detach(), batch.labels) for answer in answers)
        from_deepest = from_deepest / self._squared_temperature
        shallow = (1 - self._alpha) * from_labels + self._alpha * from_deepest
        return self._labels * loss + self._weight * shallow

    def end(self, network: nn.Module) -> None:
        self._taps.remove()


def shallow_stages(network: nn.Module, input_shape: tuple[int, int, int]) -> list[tuple[nn.Module, int]]:
    """The last module of each stage and its channels, the deepest last; at least two."""
    found = list(stages(network, input_shape).values())
    if len(found) < 2:
        raise UserError("loss=shallow needs a network that shrinks its feature map at least once at this input size")
    return found


def _classifier(channels: Sequence[int], classes: int) -> nn.Sequential:
    """channels: of the stage whose maps it reads, and of the stages behind that one."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        layers += [
            conv_norm(inputs, inputs, 3, stride=2, groups=inputs, activation=nn.ReLU),
            conv_norm(inputs, outputs, 1, activation=nn.ReLU),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes))
