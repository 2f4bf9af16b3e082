"""Many files or images at once: headers, decoding and resizing on threads."""

import math
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image

from dlmo.data.files import Files
from dlmo.data.image import Header, ImageError, read_header, read_input
from dlmo.data.options import Progress
from dlmo.data.preprocessing import Preprocessing
from dlmo.errors import UserError

# Of the machine's memory decoded images may take this share: splits are cut out of them as copies.
_MEMORY_SHARE = 0.4
CHUNK = 32  # images per task: fewer would cost more in threads than in decoding

Result = TypeVar("Result")


def read_headers(files: Files, names: Sequence[str], workers: int | None) -> list[Header | ImageError]:
    """The header of every file, or why it has none."""
    headers: list[Header | ImageError] = [ImageError("not read")] * len(names)

    def read(index: int) -> None:
        headers[index] = _attempt(files, names[index], read_header)

    in_parallel(read, len(names), workers, None)
    return headers


def decode_all(
    files: Files,
    names: Sequence[str],
    preprocessing: Preprocessing,
    workers: int | None,
    progress: Progress | None,
) -> tuple[np.ndarray, list[bool | ImageError]]:
    """Every file as uint8, N x H x W x C, and per file whether it is grey, or why it is unusable (zeros)."""
    images = np.zeros(_shape(len(names), preprocessing), np.uint8)
    outcomes: list[bool | ImageError] = [False] * len(names)

    def read(index: int) -> None:
        result = _attempt(files, names[index], lambda stream: read_input(stream, preprocessing))
        if isinstance(result, ImageError):
            outcomes[index] = result
        else:
            images[index], outcomes[index] = result

    in_parallel(read, len(names), workers, progress)
    return images, outcomes


def resize_all(
    images: np.ndarray, preprocessing: Preprocessing, workers: int | None, progress: Progress | None
) -> np.ndarray:
    """Decoded images (uint8, N x H x W x 1 or 3) at another size or number of channels, by the same rule."""
    shape = _shape(len(images), preprocessing)
    if images.shape == shape:
        return images
    resized = np.empty(shape, np.uint8)

    def resize(index: int) -> None:
        pixels = images[index]
        resized[index] = preprocessing.apply(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))

    in_parallel(resize, len(images), workers, progress)
    return resized


def _shape(count: int, preprocessing: Preprocessing) -> tuple[int, int, int, int]:
    """Of so many decoded images. Raises UserError where they would not leave room for anything else."""
    height, width, channels = preprocessing.height, preprocessing.width, preprocessing.channels
    needed, present = math.prod((count, height, width, channels)), _memory_bytes()
    if needed > _MEMORY_SHARE * present:
        raise UserError(
            f"{count:,} images of {height}x{width}x{channels} take {needed / 1e9:.1f} GB as pixels, too much for the "
            f"{present / 1e9:.1f} GB of this machine; give fewer images or a smaller input size"
        )
    return count, height, width, channels


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def in_parallel(work: Callable[[int], None], count: int, workers: int | None, progress: Progress | None) -> None:
    """Calls work(0) .. work(count - 1) on threads; Pillow lets go of the interpreter while it decodes."""

    def run(start: int) -> None:
        for index in range(start, min(start + CHUNK, count)):
            work(index)

    starts = range(0, count, CHUNK)
    pool = ThreadPoolExecutor(workers or available_cpus())
    try:
        with warnings.catch_warnings():
            # Images this large are refused by MAX_PIXELS, with a reason; Pillow's own warning names no file.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            for start, _ in zip(starts, pool.map(run, starts)):
                if progress:
                    progress(min(start + CHUNK, count), count)
    finally:
        pool.shutdown(cancel_futures=True)


def available_cpus() -> int:
    """CPUs this process may use, where the system tells; else all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _attempt(files: Files, name: str, read: Callable[[BinaryIO], Result]) -> Result | ImageError:
    try:
        with files.open(name) as stream:
            return read(stream)
    except ImageError as error:
        return error
    except OSError as error:
        return ImageError(f"cannot be read: {error.strerror or error}")
