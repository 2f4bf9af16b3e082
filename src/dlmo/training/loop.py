"""The training loop."""

import contextlib
import functools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dlmo.data.dataset import Split
from dlmo.data.preprocessing import PIXEL_OFFSET, PIXEL_SCALE
from dlmo.measure.accuracy import right_answers
from dlmo.techniques.technique import Batch, Technique
from dlmo.training import checkpoint
from dlmo.training.augmentation import NUMBERS, augment, numbers_of_epoch, numbers_of_view
from dlmo.training.convolutions import quick_convolutions
from dlmo.training.curve import Epoch
from dlmo.training.device import Device, memory_format, prepare
from dlmo.training.optimizer import optimizers_for
from dlmo.training.replay import Replay
from dlmo.training.schedule import Augmentation, Schedule

# A checkpoint at the end of an epoch when the last one is older than this (seconds).
_CHECKPOINT_SECONDS = 20.0
# In a batch that is only predicted: so many images, and of large ones so many pixels.
_PREDICTED_IMAGES, _PREDICTED_PIXELS = 256, 2**22
# The curve is drawn on so many validation images, evenly spaced; its last point on all of them.
CURVE_IMAGES = 1000


@dataclass(frozen=True)
class Training:
    """The trained network (evaluation mode, CPU) and its curve."""

    network: nn.Module
    curve: tuple[Epoch, ...]


def train(
    network: nn.Module,
    images: Split,
    validation: Split,
    schedule: Schedule,
    augmentation: Augmentation,
    device: Device,
    seed: int,
    *,
    technique: Technique | None = None,
    class_weights: np.ndarray | None = None,
    checkpoint_path: Path | None = None,
    progress: Callable[[float], None] | None = None,
) -> Training:
    """Train `network` (in place where the technique allows) and return it with its curve.

    class_weights: weight of each class in the loss, float, classes.
    checkpoint_path: where to save the state now and then, and to resume from if it exists.
    progress: called with the share of the work that is done, 0 to 1.
    The same arguments give the same network, resumed or not (on a GPU but for rounding, whose order is not fixed
    there); the epoch to keep is always the last.
    """
    technique = technique or Technique()
    prepare(device)
    torch.manual_seed(seed)
    steps_per_epoch = max(1, round(schedule.share * len(images)) // schedule.batch_size)
    total = steps_per_epoch * schedule.epochs
    network = technique.begin(network.to(device.name), total)
    layout = memory_format(network, device)
    network = network.to(device.name, memory_format=layout)
    extra = technique.extra().to(device.name)
    trained = nn.ModuleList([network, extra])
    optimizers = optimizers_for(network, extra, schedule, device.autocast)
    pixels = torch.from_numpy(images.images).to(device.name)
    labels = torch.from_numpy(images.labels).to(device.name)
    weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32, device=device.name)
    part = validation.spread(CURVE_IMAGES)
    curve: list[Epoch] = []
    first = 0
    if checkpoint_path is not None and checkpoint_path.exists():
        curve = _resume(checkpoint_path, network, extra, optimizers)
        first = len(curve)
        if curve:
            technique.resume(network, first * steps_per_epoch)
    batch_size = min(schedule.batch_size, len(labels))
    # What a step reads and writes stays where it is, so that a GPU can replay it.
    chosen = torch.zeros(batch_size, dtype=torch.long, device=device.name)
    numbers = torch.zeros((len(labels), NUMBERS), device=device.name)
    rate = torch.zeros((), device=device.name)
    loss_sum = torch.zeros((), device=device.name)
    right = torch.zeros((), dtype=torch.long, device=device.name)

    def train_on_chosen(scale: float, view: int | None) -> None:
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate * group["share"]
        augmented = augment(pixels[chosen], augmentation, numbers[chosen])
        task_loss = functools.partial(
            cross_entropy, labels=labels[chosen], weights=weights, label_smoothing=schedule.label_smoothing
        )
        # A copy, not `contiguous`: with one channel that keeps strides that say channels_last.
        inputs = to_network_input(augmented, scale).clone(memory_format=layout)
        batch = Batch(inputs, labels[chosen], chosen, view, task_loss)
        autocast = torch.autocast(device.name, device.autocast, enabled=device.autocast is not None)
        with quick_convolutions(trained) if device.name == "cpu" else contextlib.nullcontext():
            with autocast:
                logits = network(batch.inputs)
            logits = logits.float()
            loss = technique.loss(batch, logits, task_loss(logits))
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if schedule.clip_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), schedule.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
        loss_sum.add_(loss.detach())
        right.add_((logits.detach().argmax(1) == batch.labels).sum())

    replay = Replay(device)
    saved = time.monotonic()
    for epoch in range(first, schedule.epochs):
        started = time.monotonic()
        # Everything random in an epoch follows from (seed, epoch), so a resumed run repeats an undisturbed one.
        torch.manual_seed(seed * 100_003 + epoch)
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        order = torch.randperm(len(labels), generator=generator).to(device.name)
        view = None if technique.views is None else epoch % technique.views
        drawn = numbers_of_epoch(len(labels), seed, epoch) if view is None else numbers_of_view(len(labels), view)
        numbers.copy_(drawn)
        technique.begin_epoch(view)
        loss_sum.zero_()
        right.zero_()
        network.train()
        extra.train()
        for step in range(steps_per_epoch):
            number = epoch * steps_per_epoch + step
            rate.fill_(schedule.learning_rate_at(number, total))
            chosen.copy_(order[step * batch_size : (step + 1) * batch_size])
            scale = schedule.size_at(number, total)
            replay.run(functools.partial(train_on_chosen, scale, view), kind=scale)
            technique.after_step(network, number + 1)
            if progress is not None:
                progress(schedule.work_done(number + 1, total))
        seen = steps_per_epoch * batch_size
        judged = validation if epoch == schedule.epochs - 1 else part
        curve.append(
            Epoch(
                epoch + 1,
                float(loss_sum) / steps_per_epoch,
                int(right) / seen,
                float(right_answers(predict(network, judged, device), judged.labels).mean()),
                time.monotonic() - started,
            )
        )
        if checkpoint_path is not None and time.monotonic() - saved > _CHECKPOINT_SECONDS:
            _save(checkpoint_path, network, extra, optimizers, curve)
            saved = time.monotonic()
    technique.end(network)
    return Training(network.to("cpu").eval(), tuple(curve))


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None, label_smoothing: float
) -> torch.Tensor:
    """As torch has it, whose form for weighed classes waits for a GPU. weights: float32, classes, or None."""
    if weights is None:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    scores, own = logits.log_softmax(1), weights[labels]
    of_labels = -(own * scores.gather(1, labels[:, None])[:, 0]).sum()
    of_all = -(scores @ weights).sum() / logits.shape[1]
    return ((1 - label_smoothing) * of_labels + label_smoothing * of_all) / own.sum()


def to_network_input(images: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """uint8 N x H x W x C to normalized float32 N x C x H x W in channels_last layout, sides times `scale`."""
    batch = images.permute(0, 3, 1, 2).to(torch.float32).sub_(PIXEL_OFFSET).div_(PIXEL_SCALE)
    if scale == 1.0:
        return batch
    # Sides stay multiples of 4: the networks halve the map at least twice.
    size = [max(8, int(side * scale) // 4 * 4) for side in batch.shape[2:]]
    return F.interpolate(batch, size, mode="bilinear", antialias=True).contiguous(memory_format=torch.channels_last)


def predicted_at_once(image_shape: tuple[int, int, int], images: int = _PREDICTED_IMAGES) -> int:
    """How many images to predict at once, at most `images`: large ones take too much memory. image_shape: H x W x C."""
    return max(1, min(images, _PREDICTED_PIXELS // (image_shape[0] * image_shape[1])))


def predict(network: nn.Module, split: Split, device: Device, batch_size: int | None = None) -> np.ndarray:
    """Logits of a split, float32 N x classes, in evaluation mode and float32 arithmetic."""
    network.eval()
    batch_size = batch_size or predicted_at_once(split.images.shape[1:])
    pieces = []
    with torch.inference_mode():
        for start in range(0, len(split), batch_size):
            images = torch.from_numpy(split.images[start : start + batch_size]).to(device.name)
            pieces.append(network(to_network_input(images)).float().cpu())
    return torch.cat(pieces).numpy()


def _save(
    path: Path, network: nn.Module, extra: nn.Module, optimizers: list[torch.optim.Optimizer], curve: list[Epoch]
) -> None:
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"extra.{name}": tensor for name, tensor in extra.state_dict().items()}
    for index, (optimizer, parameter) in enumerate(_trained(optimizers)):
        buffer = optimizer.state[parameter].get("momentum_buffer")
        if buffer is not None:
            tensors[f"momentum.{index}"] = buffer
    checkpoint.save(path, tensors, {"curve": [asdict(epoch) for epoch in curve]})


def _resume(path: Path, network: nn.Module, extra: nn.Module, optimizers: list[torch.optim.Optimizer]) -> list[Epoch]:
    """The curve up to a checkpoint, whose state is taken; nothing where the file is damaged, which is thrown away."""
    from safetensors import SafetensorError

    try:
        tensors, record = checkpoint.load(path)
    except (SafetensorError, ValueError):
        path.unlink()
        return []
    for prefix, module in (("network.", network), ("extra.", extra)):
        module.load_state_dict(
            {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        )
    for index, (optimizer, parameter) in enumerate(_trained(optimizers)):
        buffer = tensors.get(f"momentum.{index}")
        if buffer is not None:
            # In the parameter's memory layout: steps over tensors of one layout are one kernel on a GPU.
            optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer)
    return [Epoch(**line) for line in record["curve"]]


def _trained(optimizers: list[torch.optim.Optimizer]) -> list[tuple[torch.optim.Optimizer, nn.Parameter]]:
    """Every parameter that is trained with its optimizer, always in the same order."""
    return [(o, parameter) for o in optimizers for group in o.param_groups for parameter in group["params"]]
