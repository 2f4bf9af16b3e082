"""Learning from a trained teacher, through its answers or through its feature maps."""

from collections.abc import Callable

import torch
from torch import nn

from dlmo.data.dataset import Split
from dlmo.techniques.distillation.taps import Taps, cut_at, paired, stages
from dlmo.techniques.fake_quantization import fold_batch_norm
from dlmo.techniques.technique import Batch, Technique
from dlmo.training.augmentation import augment, numbers_of_view
from dlmo.training.device import Device
from dlmo.training.loop import predicted_at_once, to_network_input
from dlmo.training.schedule import Augmentation

_BATCH = 512


class LiveTeacher:
    """Runs the teacher on the student's batch: a copy without BatchNorm, no gradients, the device's fast number format.

    Folding BatchNorm away saves a tenth of resnet56's forward pass on a CPU.
    """

    def __init__(self, network: nn.Module, device: Device) -> None:
        folded = fold_batch_norm(network)
        self.network = folded.to(device.name, memory_format=torch.channels_last).requires_grad_(False)
        self._device = device

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits, float32 N x classes."""
        return self.run(self.network, inputs).float()

    def run(self, part: nn.Module, inputs: torch.Tensor):
        """What a part of the teacher, such as `cut_at` gives, makes of the images."""
        device = self._device
        with torch.no_grad(), torch.autocast(device.name, device.autocast, enabled=device.autocast is not None):
            return part(inputs)

    def pooled(self, input_shape: tuple[int, int, int]) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function from images to the mean of the last map, float32 N x channels."""
        found = stages(self.network, input_shape)
        part = cut_at(self.network, [found[min(found)][0]])
        return lambda inputs: self.run(part, inputs)[0].float().mean((2, 3))


class StoredTeacher:
    """What the teacher says of fixed views of the training images, each computed once; see `answers_to_view`. Whoever
    asks turns to an epoch's view first: while a GPU replays steps, nothing here is called.

    answers: gives a view's logits or pooled maps, N x classes or channels. One view is held at a time.
    """

    def __init__(self, answers: Callable[[int], torch.Tensor], device: Device) -> None:
        self._answers = answers
        self._device = device
        self._view: int | None = None
        self._said: torch.Tensor | None = None

    def turn_to(self, view: int) -> None:
        """Hold what the teacher says of this view, in the place of the one before."""
        if view == self._view:
            return
        said = self._answers(view)
        if self._said is None:
            self._said = said.to(self._device.name, copy=True)
        else:
            self._said.copy_(said)
        self._view = view

    def __call__(self, batch: Batch) -> torch.Tensor:
        if batch.view != self._view:
            raise ValueError(f"turned to view {self._view}, asked for view {batch.view}")
        return self._said[batch.positions].float()


class FromAnswers(Technique):
    """Add a loss between the logits of student and teacher.

    answers: the teacher's logits for a batch. views: with a StoredTeacher, how many views there are.
    warmup: share of the steps, 0 to 1, over which the weight rises linearly from 0.
    """

    def __init__(
        self,
        loss,
        labels: float,
        weight: float,
        answers: Callable[[Batch], torch.Tensor],
        views: int | None = None,
        warmup: float = 0.0,
    ) -> None:
        self._loss, self._labels, self._weight = loss, labels, weight
        self._answers = answers
        self.views = views
        self._warmup = warmup

    def begin(self, network: nn.Module, steps: int) -> nn.Module:
        self._rise = self._warmup * steps
        self._risen = torch.zeros((), device=next(network.parameters()).device)
        self._rise_to(0)
        return network

    def begin_epoch(self, view: int | None) -> None:
        if isinstance(self._answers, StoredTeacher):
            self._answers.turn_to(view)

    def loss(self, batch: Batch, logits: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        weight = self._weight * self._risen
        return self._labels * loss + weight * self._loss(logits, self._answers(batch), batch.labels)

    def after_step(self, network: nn.Module, step: int) -> None:
        if step < self._rise + 1:
            self._rise_to(step)

    def resume(self, network: nn.Module, step: int) -> None:
        self._rise_to(step)

    def _rise_to(self, step: int) -> None:
        self._risen.fill_(step / self._rise if step < self._rise else 1)


class FromMaps(Technique):
    """Add a loss between feature maps of student and teacher, projected where the loss asks for it.

    pooled: the teacher's last maps, pooled, for a loss that pools them anyway; with a StoredTeacher, views are how
    many there are. None: the teacher runs on every batch, as far as the deepest map that the loss reads.
    """

    def __init__(
        self,
        loss,
        labels: float,
        weight: float,
        teacher: LiveTeacher,
        input_shape: tuple[int, int, int],
        pooled: Callable[[Batch], torch.Tensor] | None = None,
        views: int | None = None,
    ) -> None:
        self._loss, self._labels, self._weight = loss, labels, weight
        self._teacher = teacher
        self._input_shape = input_shape
        self._pooled = pooled
        self.views = views

    def begin(self, network: nn.Module, steps: int) -> nn.Module:
        pairs = paired(self._loss.reads, network, self._teacher.network, self._input_shape)
        self._own = Taps([module for (module, _), _ in pairs])
        self._theirs = cut_at(self._teacher.network, [module for _, (module, _) in pairs])
        self._projectors = nn.ModuleList(
            _projector(self._loss.projects, own, theirs) for (_, own), (_, theirs) in pairs
        )
        return network

    def extra(self) -> nn.Module:
        return self._projectors

    def begin_epoch(self, view: int | None) -> None:
        if isinstance(self._pooled, StoredTeacher):
            self._pooled.turn_to(view)

    def loss(self, batch: Batch, logits: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        if self._pooled is None:
            theirs = [maps.float() for maps in self._teacher.run(self._theirs, batch.inputs)]
        else:
            theirs = [self._pooled(batch)[:, :, None, None]]
        own = [project(maps) for project, maps in zip(self._projectors, self._own.take())]
        return self._labels * loss + self._weight * self._loss(own, theirs)

    def end(self, network: nn.Module) -> None:
        self._own.remove()


def answers_to_view(
    ask: Callable[[torch.Tensor], torch.Tensor], device: Device, images: Split, augmentation: Augmentation, view: int
) -> torch.Tensor:
    """What `ask` (a LiveTeacher, or a part of one) gives for one fixed view of all images at full size, float16 N x
    values, on the CPU."""
    numbers = numbers_of_view(len(images), view)
    pieces = []
    batch = predicted_at_once(images.images.shape[1:], _BATCH)
    for start in range(0, len(images), batch):
        part = slice(start, start + batch)
        pixels = augment(torch.from_numpy(images.images[part]).to(device.name), augmentation, numbers[part])
        pieces.append(ask(to_network_input(pixels)).half().cpu())
    return torch.cat(pieces)


def _projector(projects: str, own: int, theirs: int) -> nn.Module:
    if projects == "always" or (projects == "where channels differ" and own != theirs):
        return nn.Conv2d(own, theirs, 1, bias=False)
    return nn.Identity()
