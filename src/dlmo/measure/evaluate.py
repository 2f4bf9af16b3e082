"""Judging any .tflite file on a data set. Whatever touches the file runs in a child process."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dlmo.data import Dataset, Split
from dlmo.errors import UserError
from dlmo.measure.accuracy import accuracy, right_answers
from dlmo.measure.feeding import (
    SIDECAR,
    Feed,
    FeedOptions,
    choose_feed,
    choose_labels,
    common_feeds,
    load_for,
    notes_split,
    output_of_class,
)
from dlmo.measure.isolated import Child, memory_for
from dlmo.measure.machine import MOST_THREADS, machine
from dlmo.measure.probe import Probe, latency_of, probe_file, scores_of
from dlmo.measure.size import compressed_bytes
from dlmo.progress import Progress, SilentProgress

SPLITS = ("train", "validation", "test", "all")
# Below this part of the way from guessing to perfection, other normalizations are tried on so many images.
_SUSPICIOUS = 0.25
_TRIED_IMAGES = 100
_PIECE_BYTES = 1 << 28  # of images that a child holds


@dataclass(frozen=True)
class Evaluation:
    """Facts and measurements of one file; units as in study.results.Result.

    input: height, width, channels. layout, channel_order, normalization, labels: how images got in and what the
    outputs were taken for, with the place that said so. notes: sentences for the user.
    """

    model: str
    dataset: str
    split: str
    images: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    size_bytes: int
    compressed_bytes: int
    latency_ms: float
    latency_p90_ms: float
    threads: int
    ram_bytes: int | None
    macs: int
    parameters: int
    delegated: float
    partitions: int
    operators: dict[str, int]
    float_operators: tuple[str, ...]
    machine: dict
    input: tuple[int, int, int]
    input_dtype: str
    output_dtype: str
    layout: str
    channel_order: str
    normalization: str
    normalization_source: str
    labels_source: str
    notes: tuple[str, ...]

    def to_json(self) -> dict:
        return asdict(self)


def evaluate(
    model: str | Path,
    source: str | Path,
    *,
    split: str = "test",
    threads: int = 1,
    group_by: str | None = None,
    feed: FeedOptions | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run a file on one split of a data set, or on `all` of its images.

    How images become its input and what its outputs mean: `feed` first, then `preprocessing.json` and `labels.txt`
    beside the file, then its own metadata, then defaults; the data is split as `preprocessing.json` notes. A file
    that crashes, hangs or eats memory ends with a UserError.
    """
    progress, options = progress or SilentProgress(), feed or FeedOptions()
    path = Path(model).expanduser()
    if split not in SPLITS:
        raise UserError(f'unknown split "{split}"; known: {", ".join(SPLITS)}')
    if not 1 <= threads <= MOST_THREADS:
        raise UserError(f"--threads {threads}: give 1 to {MOST_THREADS}")
    content = read_model(path)
    with Child(str(path), memory=memory_for(content)) as child:
        with progress.stage(f"open {path.name}") as update:
            probe = Probe(**child.call(probe_file, content, options.layout, options.size, update=update))
        chosen = choose_feed(options, path, probe)
        with progress.stage(f"read {source}"):
            dataset = load_for(source, path, probe, "" if split == "all" else group_by, progress)
        images = _images_of(dataset, split)
        labels, labels_source = choose_labels(options, path, probe.labels, dataset.classes)
        outputs = output_of_class(path, probe.classes, labels, labels_source, dataset.name, dataset.classes)

        def scores(feed: Feed, images: np.ndarray, update: Callable[[float], None] | None) -> np.ndarray:
            return scores_in_pieces(child, content, options, feed, images, update)

        kind = "" if split == "all" else f"{split} "
        with progress.stage(f"run on {len(images):,} {kind}images") as update:
            found = scores(chosen, images.images, update)
        # All outputs compete: an answer that is no class of this data set is wrong, and so is one that is no number.
        no_number = np.isnan(found).any(1)
        measured = accuracy(found, np.where(no_number, -1, outputs[images.labels]))
        notes = _notes_on(dataset, split)
        if split == "all" and notes_split(path.parent / SIDECAR):
            known = len(dataset.train) + len(dataset.validation)
            notes.append(
                f"dlmo made this model: if it did so of these images, it was trained and chosen on {known:,} of them; "
                "without --split all the others alone judge it"
            )
        if no_number.any():
            notes.append(f"{no_number.sum():,} images get scores that are no numbers")
        if probe.batch > 1:
            notes.append(f"the file takes {probe.batch} images at once and no fewer: latency is that of all of them")
        guessing = np.bincount(images.labels).max() / len(images)
        if measured.value < guessing + _SUSPICIOUS * (1 - guessing):
            with progress.stage("try other normalizations"):
                notes.append(_advice(images, outputs, options, chosen, probe.channels, scores, guessing))
        with progress.stage("measure latency") as update:
            latency = child.call(latency_of, content, options.layout, options.size, threads, update=update)
    return Evaluation(
        model=str(path),
        dataset=dataset.name,
        split=split,
        images=measured.images,
        accuracy=measured.value,
        accuracy_low=measured.low,
        accuracy_high=measured.high,
        size_bytes=len(content),
        compressed_bytes=compressed_bytes(content),
        latency_ms=latency["p50_ms"],
        latency_p90_ms=latency["p90_ms"],
        threads=threads,
        ram_bytes=probe.ram_bytes,
        macs=probe.macs,
        parameters=probe.parameters,
        delegated=probe.delegated,
        partitions=probe.partitions,
        operators=probe.operators,
        float_operators=tuple(probe.float_operators),
        machine=machine(),
        input=(*probe.size, probe.channels),
        input_dtype=probe.input_dtype,
        output_dtype=probe.output_dtype,
        layout=probe.layout,
        channel_order=options.channel_order,
        normalization=str(chosen.normalization),
        normalization_source=chosen.normalization_source,
        labels_source=labels_source,
        notes=tuple(notes),
    )


def _images_of(dataset: Dataset, split: str) -> Split:
    if split != "all":
        return getattr(dataset, split)
    parts = dataset.train, dataset.validation, dataset.test
    return Split(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
        tuple(name for part in parts for name in part.names),
    )


def _notes_on(dataset: Dataset, split: str) -> list[str]:
    """What was noted of the data, without what is about other splits or about training."""
    others = tuple(
        beginning for name in SPLITS if name != split for beginning in (f"{name}: ", f"{name} has no image of")
    )
    about_choices = "which the choice is made on"
    return [n for n in dataset.notes if not n.startswith((*others, "imbalance ")) and about_choices not in n]


def scores_in_pieces(
    child: Child,
    content: bytes,
    options: FeedOptions,
    feed: Feed,
    images: np.ndarray,
    update: Callable[[float], None] | None,
) -> np.ndarray:
    """Scores of uint8 images, N x classes. The child gets them in pieces: its memory is for the model."""
    found = []
    for piece in np.array_split(images, images.nbytes // _PIECE_BYTES + 1):
        before, share = sum(map(len, found)) / len(images), len(piece) / len(images)
        scaled = None if update is None else lambda done, before=before, share=share: update(before + done * share)
        arguments = options.layout, options.size, feed.normalization, feed.pixels(piece)
        found.append(child.call(scores_of, content, *arguments, update=scaled))
    return np.concatenate(found)


def _advice(
    images: Split,
    outputs: np.ndarray,
    options: FeedOptions,
    chosen: Feed,
    channels: int,
    scores: Callable,
    guessing: float,
) -> str:
    """What usually makes a good model look bad, and whether another common normalization does better on some images."""
    some = images.spread(_TRIED_IMAGES)

    def right(feed: Feed) -> int:
        return int(right_answers(scores(feed, some.images, None), outputs[some.labels]).sum())

    own, tried = right(chosen), {}
    for words, feed in common_feeds(options, chosen, channels).items():
        tried[words] = right(feed)
    best = max(tried, key=tried.get)
    text = (
        f"little better than the {guessing:.0%} of always answering the largest class; usual causes: another "
        "normalization, channel order, layout or order of classes than in training"
    )
    if tried[best] - own > 0.1 * len(some):
        return f"{text}; {best} gets {tried[best]} of {len(some)} images right, this run {own}"
    return f"{text}; no other common normalization does clearly better, so look at the labels' order first"


def read_model(path: Path) -> bytes:
    """A model file's bytes. Raises UserError if it is missing or no .tflite file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the model {path}: {error.strerror}") from None
    if content[4:8] != b"TFL3":
        raise UserError(f"{path} is no .tflite file (its identifier is missing)")
    return content
