"""A folder or archive of image files: a folder per class, with or without train/ val/ test/ on top."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dlmo.data.assemble import Labelled, assemble
from dlmo.data.dataset import Dataset, Skipped, Split
from dlmo.data.decode import decode_all, read_headers
from dlmo.data.files import ARCHIVE_SUFFIXES, BESIDE_IMAGES, open_files, printable
from dlmo.data.image import Header, ImageError
from dlmo.data.layout import Item, Layout, read_layout
from dlmo.data.options import LoadOptions
from dlmo.data.preprocessing import Preprocessing
from dlmo.errors import UserError

MAX_BAD_SHARE = 0.05  # of all files in class folders; above it the source, not a file, is wrong
# Of a square input; with more, another shape is advised.
MOST_FILL = 0.5
MIN_SIDE, MAX_SIDE, SIDE_STEP = 16, 64, 4  # pixels, of the input size chosen by itself


def load(path: Path, options: LoadOptions) -> Dataset:
    """Reads a folder or archive. Every file is decoded once, to the final size.

    Raises UserError for a source without class folders, with one class, with more than MAX_BAD_SHARE unusable
    files, and for all that `open_files` and `assemble` refuse.
    """
    with open_files(path) as files:
        layout = read_layout(path, files)
        headers = read_headers(files, [item.name for item in layout.items], options.workers)
        items, bad = _sort_out(layout.items, headers, layout.loose)
        _check_bad(path, bad, len(items))
        headers = [header for header in headers if isinstance(header, Header)]
        size, notes = _input_size(items, headers, options)
        channels = options.channels or (1 if all(header.grey for header in headers) else 3)
        images, outcomes = decode_all(
            files,
            [item.name for item in items],
            Preprocessing(*size, channels),
            options.workers,
            options.progress,
        )
    usable, bad = _sort_out(items, outcomes, bad)
    _check_bad(path, bad, len(usable))
    if len(usable) < len(items):
        images = images[[not isinstance(outcome, ImageError) for outcome in outcomes]]
    if options.channels is None and channels == 3 and all(outcome is not False for outcome in outcomes):
        images, channels = np.ascontiguousarray(images[..., :1]), 1
    present = {item.split for item in usable}
    labelled = Labelled(
        _source_name(path),
        layout.classes,
        _split("train", usable, images, layout),
        *(_split(name, usable, images, layout) if name in present else None for name in ("validation", "test")),
        preprocessing=Preprocessing(*size, channels),
        root=layout.root,
        skipped=bad,
        notes=(*layout.notes, *notes, *_left_out(bad, len(usable))),
    )
    return assemble(labelled, options)


def _sort_out(
    items: Sequence[Item], outcomes: Sequence[object], bad: tuple[Skipped, ...]
) -> tuple[list[Item], tuple[Skipped, ...]]:
    """The usable items, and the files left out so far together with those whose outcome is an error."""
    usable = [item for item, outcome in zip(items, outcomes) if not isinstance(outcome, ImageError)]
    failed = [
        Skipped(item.name, str(outcome)) for item, outcome in zip(items, outcomes) if isinstance(outcome, ImageError)
    ]
    return usable, (*bad, *failed)


def _check_bad(path: Path, bad: tuple[Skipped, ...], usable: int) -> None:
    if not usable:
        first = f", first {_listed(bad[:1])}" if bad else ""
        raise UserError(f"{path}: none of {len(bad)} files is a usable image{first}; give folders of images")
    # These are left out and named, but no sign of a wrong source.
    bad = tuple(one for one in bad if not one.path.lower().endswith(BESIDE_IMAGES))
    share = len(bad) / (len(bad) + usable)
    if share > MAX_BAD_SHARE:
        raise UserError(
            f"{path}: {len(bad)} of {len(bad) + usable} files ({share:.1%}) are no usable images, "
            f"more than {MAX_BAD_SHARE:.0%}: {_listed(bad[:3])}{', ...' if len(bad) > 3 else ''}; "
            "repair or remove them (read are JPEG, PNG, WebP, BMP, GIF, TIFF, PPM, AVIF and JPEG 2000)"
        )


def _left_out(bad: tuple[Skipped, ...], usable: int) -> list[str]:
    if not bad:
        return []
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    return [f"left out {len(bad)} of {len(bad) + usable} files: {_listed(bad[:3])}{more}"]


def _listed(skipped: tuple[Skipped, ...]) -> str:
    return ", ".join(f"{one.path} ({one.reason})" for one in skipped)


def _input_size(items: list[Item], headers: list[Header], options: LoadOptions) -> tuple[tuple[int, int], list[str]]:
    """Height and width, and the note on how they were chosen."""
    if options.size:
        return options.size, []
    sides = np.array([(h.height, h.width) for item, h in zip(items, headers) if item.split == "train"])
    if not len(sides):
        raise UserError("no usable training image; every class needs some in train/")
    median = float(np.median(sides.max(1)))
    side = min(MAX_SIDE, max(MIN_SIDE, SIDE_STEP * math.ceil(median / SIDE_STEP)))
    return (side, side), [
        f"input size {side}x{side}: median of the longer sides of the training images ({median:g} pixels), "
        f"as a multiple of {SIDE_STEP} from {MIN_SIDE} to {MAX_SIDE}",
        *_mostly_fill(side, sides),
    ]


def _mostly_fill(side: int, sides: np.ndarray) -> list[str]:
    """What to ask for where images are so wide or so high that most of a square input is fill. sides: heights and
    widths, N x 2."""
    height, width = np.median(sides, axis=0).tolist()
    fill = 1 - min(height / width, width / height)
    if fill < MOST_FILL:
        return []
    scale = min(1.0, side / math.sqrt(height * width))  # as many pixels as the square has, and no more than there are
    # Networks take 8 pixels and more.
    rows, columns = (max(8, SIDE_STEP * round(scale * s / SIDE_STEP)) for s in (height, width))
    return [
        f"{100 * fill:.0f} % of the input is fill, as the images are not square: --input-size {rows}x{columns} fits "
        "them at no more arithmetic"
    ]


def _split(name: str, items: list[Item], images: np.ndarray, layout: Layout) -> Split:
    index = {label: position for position, label in enumerate(layout.classes)}
    rows = [row for row, item in enumerate(items) if item.split == name]
    labels = np.array([index[items[row].label] for row in rows], np.int64)
    return Split(images[rows], labels, tuple(items[row].name for row in rows))


def _source_name(path: Path) -> str:
    name = printable(path.resolve().name)
    for suffix in sorted(ARCHIVE_SUFFIXES, key=len, reverse=True):
        if path.is_file() and name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name
