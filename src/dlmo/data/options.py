"""What a caller may ask of any source."""

from collections.abc import Callable
from dataclasses import dataclass

from dlmo.data.preprocessing import Preprocessing
from dlmo.errors import UserError

MAX_INPUT_SIDE = 1024

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LoadOptions:
    """Checked arguments of `load`, handed to every source.

    size: height and width of the network's input in pixels; None lets the source decide.
    channels: 1 (grey) or 3 (RGB); None lets the source decide.
    group_by: regular expression searched in each file's name; what its capture groups match names the group.
    workers: threads that decode; None takes one per available CPU.
    progress: called as progress(done, total) in images, from the calling thread.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    group_by: str | None = None
    split_seed: int = 0
    workers: int | None = None
    progress: Progress | None = None

    def preprocessing(self, default_side: int, default_channels: int) -> Preprocessing:
        """What was asked for; the source's defaults where nothing was."""
        height, width = self.size or (default_side, default_side)
        return Preprocessing(height, width, self.channels or default_channels)


def check_size(input_size: int | tuple[int, int] | str | None) -> tuple[int, int] | None:
    """An input size as (height, width); as text: 64, or 32x96. Raises UserError outside 1 .. MAX_INPUT_SIDE."""
    if input_size is None:
        return None
    size = input_size
    if isinstance(size, str):
        size = [int(side) if side.isdecimal() else 0 for side in size.split("x")]
        size = size[0] if len(size) == 1 else size
    size = (size, size) if isinstance(size, int) else tuple(size)
    if len(size) != 2 or not all(isinstance(side, int) and 1 <= side <= MAX_INPUT_SIDE for side in size):
        raise UserError(
            f"--input-size {input_size}: give one whole number of pixels, such as 64, or HEIGHTxWIDTH, such as 32x96, "
            f"each from 1 to {MAX_INPUT_SIDE}"
        )
    return size


def check_channels(channels: int | None) -> int | None:
    """1, 3 or None. Raises UserError for anything else."""
    if channels not in (None, 1, 3):
        raise UserError(f"channels {channels!r}: give 1 (grey) or 3 (RGB)")
    return channels


def check_workers(workers: int | None) -> int | None:
    """None or at least 1. Raises UserError for anything else."""
    if workers is not None and workers < 1:
        raise UserError(f"workers {workers!r}: give at least 1 thread")
    return workers
