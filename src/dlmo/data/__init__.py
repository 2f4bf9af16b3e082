"""Labelled images from any source as one `Dataset`: decoded once, to one size, in three splits."""

import difflib
import os
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from dlmo.data.dataset import Dataset, Skipped, Split
from dlmo.data.files import ARCHIVE_SUFFIXES
from dlmo.data.options import LoadOptions, Progress, check_channels, check_size, check_workers
from dlmo.data.preprocessing import Preprocessing
from dlmo.errors import UserError

__all__ = ["SOURCES", "Dataset", "Preprocessing", "Skipped", "Split", "load"]

# Module and function of each source, called with what follows its name and a colon (None if nothing does) and the
# options. Imported when used: training needs this package's types on machines that cannot decode images.
SOURCES: dict[str, tuple[str, str]] = {
    "digits": ("dlmo.data.digits", "load"),
    "cifar10": ("dlmo.data.cifar", "load_cifar10"),
    "cifar100": ("dlmo.data.cifar", "load_cifar100"),
}


def load(
    source: str,
    *,
    input_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    group_by: str | None = None,
    split_seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Reads `digits`, `cifar10[:PATH]`, `cifar100[:PATH]`, a folder or an archive with a folder per class.

    input_size: one side or (height, width) in pixels; by default the source's own, or for files the
        median of their longer sides.
    channels: 1 or 3; by default 1 exactly when every image is grey.
    group_by: regular expression with a capture group, searched in each file's name; files of one group
        never fall into two splits.
    split_seed: the same source and seed give the same splits.
    workers: threads that decode; by default one per available CPU.
    progress: called as progress(done, total) in images, from the calling thread.

    A source's name goes before a folder of the same name: write `./digits` for that folder.
    Raises UserError for whatever is wrong with the source or an argument.
    """
    options = LoadOptions(
        check_size(input_size),
        check_channels(channels),
        group_by,
        split_seed,
        check_workers(workers),
        progress,
    )
    source = os.fspath(source)
    name, colon, rest = source.partition(":")
    if name in SOURCES:
        module, function = SOURCES[name]
        found = getattr(import_module(module), function)(rest if colon else None, options)
        if not colon and Path(source).is_dir():
            note = f"{source} is the data set of that name; the folder here is read as ./{source}"
            found = replace(found, notes=(*found.notes, note))
        return found
    try:
        path = Path(source).expanduser()
        there = bool(source) and path.exists()
    except (OSError, RuntimeError) as error:  # a folder that may not be read, a name too long, nobody's home
        raise UserError(f"{source!r} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not there:
        raise UserError(_unknown(source))
    return import_module("dlmo.data.folder").load(path, options)


def _unknown(source: str) -> str:
    """Why `source` is nothing that can be loaded, and what may have been meant."""
    known = ", ".join(SOURCES)
    looks_like_path = "/" in source or os.sep in source or source.lower().endswith(ARCHIVE_SUFFIXES)
    close = difflib.get_close_matches(source.partition(":")[0].lower(), SOURCES, n=1)
    if close and not source.lower().endswith(ARCHIVE_SUFFIXES):
        return f"no source, folder or archive {source!r}; did you mean {close[0]!r}?"
    if looks_like_path:
        return f"{source!r} does not exist; give an existing folder or archive, or one of {known}"
    return f"no source or folder {source!r}; give one of {known}, or the path of a folder or archive"
