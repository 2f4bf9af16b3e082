"""Augmentation as batched tensor work on uint8 images; nothing is done image by image in Python."""

import torch

from dlmo.training.schedule import Augmentation

# Random numbers of an image: mirrored, two shifts, contrast and brightness, the place of the cutout.
NUMBERS = 7


def numbers_of_view(count: int, view: int) -> torch.Tensor:
    """The random numbers of one fixed augmentation of `count` images, float32 count x 7, 0 to 1: the same `view`
    gives the same pixels in every training."""
    return torch.rand((count, NUMBERS), generator=torch.Generator().manual_seed(view))


def numbers_of_epoch(count: int, seed: int, epoch: int) -> torch.Tensor:
    """The random numbers of an epoch (from 0), float32 count x 7, 0 to 1.

    Mirroring alternates: what one epoch shows as it is, the next one mirrors, so that any two show both sides of
    every image (Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv:2404.00498, section 3.6).
    """
    # Other seeds than the loop's, which shuffles the images with its own.
    numbers = torch.rand((count, NUMBERS), generator=torch.Generator().manual_seed(2**40 + seed * 100_003 + epoch))
    first = torch.rand(count, generator=torch.Generator().manual_seed(2**41 + seed))
    numbers[:, 0] = (first + epoch / 2) % 1
    return numbers


def augment(images: torch.Tensor, augmentation: Augmentation, numbers: torch.Tensor) -> torch.Tensor:
    """Augment a batch. images: uint8 N x H x W x C on any device; returns the same shape and type.

    numbers: the images' rows of `numbers_of_view` or `numbers_of_epoch`, on any device.
    """
    count, height, width, _ = images.shape
    mirrored, down, across, light, place = numbers.to(images.device).split((1, 1, 1, 2, 2), 1)
    rows = torch.arange(height, device=images.device).expand(count, height)
    columns = torch.arange(width, device=images.device).expand(count, width)
    if augmentation.flip:
        columns = torch.where(mirrored < 0.5, width - 1 - columns, columns)
    if augmentation.shift:
        span = 2 * augmentation.shift + 1
        rows = (rows + (down * span).long() - augmentation.shift).clamp(0, height - 1)
        columns = (columns + (across * span).long() - augmentation.shift).clamp(0, width - 1)
    if augmentation.flip or augmentation.shift:
        batch = torch.arange(count, device=images.device)[:, None, None]
        images = images[batch, rows[:, :, None], columns[:, None, :]]
    if augmentation.lighting:
        images = _relight(images, augmentation.lighting, light)
    if augmentation.cutout:
        images = _cut_out(images, augmentation.cutout, place)
    return images


def _relight(images: torch.Tensor, strength: float, random: torch.Tensor) -> torch.Tensor:
    contrast, brightness = ((random * 2 - 1) * strength).reshape(-1, 2, 1, 1, 1).unbind(1)
    pixels = images.float() - 128
    return (pixels * (1 + contrast) + 128 * (1 + brightness)).clamp_(0, 255).to(torch.uint8)


def _cut_out(images: torch.Tensor, side: int, random: torch.Tensor) -> torch.Tensor:
    _, height, width, _ = images.shape
    centres = torch.stack([random[:, 0] * height, random[:, 1] * width], 1).long()

    def inside(length: int, centre: torch.Tensor) -> torch.Tensor:
        start = centre[:, None] - side // 2
        position = torch.arange(length, device=images.device)
        return (position >= start) & (position < start + side)

    hole = inside(height, centres[:, 0])[:, :, None] & inside(width, centres[:, 1])[:, None, :]
    return images.masked_fill(hole[..., None], 128)
