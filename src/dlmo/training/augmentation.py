"""Augmentation as batched tensor work on uint8 images; nothing is done image by image in Python."""

import torch

from dlmo.training.schedule import Augmentation

# Random numbers an image can need: mirrored, two shifts, contrast and brightness, the place of the cutout.
_NUMBERS = 7


def numbers_of_view(count: int, view: int) -> torch.Tensor:
    """The random numbers of one fixed augmentation of `count` images, float32 count x 7, 0 to 1: the same `view`
    gives the same pixels in every training."""
    return torch.rand((count, _NUMBERS), generator=torch.Generator().manual_seed(view))


def augment(images: torch.Tensor, augmentation: Augmentation, source: torch.Generator | torch.Tensor) -> torch.Tensor:
    """Augment a batch. images: uint8 N x H x W x C on any device; returns the same shape and type.

    source: where all random numbers come from: a CPU generator, or the rows of `numbers_of_view` of these images.
    """
    count, height, width, _ = images.shape
    taken = 0

    def random(count: int, columns: int) -> torch.Tensor:
        nonlocal taken
        taken += columns
        if isinstance(source, torch.Tensor):
            return source[:, taken - columns : taken].to(images.device)
        return torch.rand((count, columns), generator=source).to(images.device)

    rows = torch.arange(height, device=images.device).expand(count, height)
    columns = torch.arange(width, device=images.device).expand(count, width)
    if augmentation.flip:
        mirrored = random(count, 1) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    if augmentation.shift:
        span = 2 * augmentation.shift + 1
        rows = (rows + (random(count, 1) * span).long() - augmentation.shift).clamp(0, height - 1)
        columns = (columns + (random(count, 1) * span).long() - augmentation.shift).clamp(0, width - 1)
    if augmentation.flip or augmentation.shift:
        batch = torch.arange(count, device=images.device)[:, None, None]
        images = images[batch, rows[:, :, None], columns[:, None, :]]
    if augmentation.lighting:
        images = _relight(images, augmentation.lighting, random(count, 2))
    if augmentation.cutout:
        images = _cut_out(images, augmentation.cutout, random(count, 2))
    return images


def _relight(images: torch.Tensor, strength: float, random: torch.Tensor) -> torch.Tensor:
    contrast, brightness = ((random * 2 - 1) * strength).reshape(-1, 2, 1, 1, 1).unbind(1)
    pixels = images.float() - 128
    return (pixels * (1 + contrast) + 128 * (1 + brightness)).clamp_(0, 255).to(torch.uint8)


def _cut_out(images: torch.Tensor, side: int, random: torch.Tensor) -> torch.Tensor:
    _, height, width, _ = images.shape
    centres = (random * torch.tensor([height, width], device=images.device)).long()

    def inside(length: int, centre: torch.Tensor) -> torch.Tensor:
        start = centre[:, None] - side // 2
        position = torch.arange(length, device=images.device)
        return (position >= start) & (position < start + side)

    hole = inside(height, centres[:, 0])[:, :, None] & inside(width, centres[:, 1])[:, None, :]
    return images.masked_fill(hole[..., None], 128)
