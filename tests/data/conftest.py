"""Small real images, drawn by seed, so that every test knows what it wrote."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def draw_image(seed: int, size: tuple[int, int] = (20, 20), mode: str = "L") -> Image.Image:
    """A noise image; size is width, height."""
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def encode_image(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture
def draw() -> Callable[..., Image.Image]:
    return draw_image


@pytest.fixture
def encode() -> Callable[..., bytes]:
    return encode_image


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """make_folder({"train/a": 10}, ...) writes 10 different PNGs 00.png.. into that folder of a new source."""

    def make(counts: dict[str, int], name: str = "set", **drawing) -> Path:
        root = tmp_path / name
        root.mkdir()
        seed = 0
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                draw_image(seed, **drawing).save(root / folder / f"{index:03}.png")
                seed += 1
        return root

    return make
