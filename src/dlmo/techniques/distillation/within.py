"""Learning from oneself: classifiers on the shallow stages learn from the network's own answer."""

import torch
from torch import nn

from dlmo.errors import UserError
from dlmo.networks.layers import conv_norm
from dlmo.techniques.distillation.response import SoftenedLogits
from dlmo.techniques.distillation.taps import Taps, stages
from dlmo.techniques.technique import Batch, Technique


class DeepestToShallow(Technique):
    """Add a classifier to every stage but the last, taught by the labels and by the deepest classifier.

    Zhang et al., "Be Your Own Teacher", ICCV 2019, section 3, with one 1x1 convolution per classifier and, as in the
    authors' later code, without the loss between features. The classifiers are dropped after training.
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
        *shallow, (_, deepest) = shallow_stages(network, self._input_shape)
        self._taps = Taps([module for module, _ in shallow])
        self._heads = nn.ModuleList(_classifier(channels, deepest, self._classes) for _, channels in shallow)
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


def _classifier(channels: int, deepest: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        conv_norm(channels, deepest, 1, activation=nn.ReLU),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(deepest, classes),
    )
