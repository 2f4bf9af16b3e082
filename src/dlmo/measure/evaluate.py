"""Judging any .tflite file on a data set."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dlmo.data import Dataset, Split, load
from dlmo.errors import UserError
from dlmo.measure.accuracy import accuracy
from dlmo.measure.latency import machine, measure_latency
from dlmo.measure.memory import measure_memory
from dlmo.measure.size import compressed_bytes
from dlmo.progress import Progress, SilentProgress
from dlmo.runtimes.litert import flatbuffer
from dlmo.runtimes.litert.interpreter import Runner, predict

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Evaluation:
    """Facts and measurements of one file; units as in study.results.Result."""

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

    def to_json(self) -> dict:
        return asdict(self)


def evaluate(
    model: str | Path,
    source: str | Path,
    *,
    split: str = "test",
    threads: int = 1,
    group_by: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run a file on one split of a data set.

    Beside the file, `labels.txt` gives the order of its classes and `preprocessing.json` how its data was split;
    without them classes are in the data set's order. Float inputs get (pixel - 128) / 128.
    """
    progress = progress or SilentProgress()
    path = Path(model).expanduser()
    if split not in SPLITS:
        raise UserError(f'unknown split "{split}"; known: {", ".join(SPLITS)}')
    if threads < 1:
        raise UserError(f"--threads {threads}: give 1 or more")
    content = read_model(path)
    runner = Runner(content)
    height, width, channels = runner.input_shape
    if channels not in (1, 3):
        raise UserError(f"{path}: takes {channels} channels; dlmo feeds grey (1) or RGB (3) images")
    with progress.stage(f"read {source}"):
        dataset = _load(source, (height, width), channels, group_by, path.parent / "preprocessing.json", progress)
    images: Split = getattr(dataset, split)
    outputs = _output_of_class(path, dataset, runner.classes)
    with progress.stage(f"run on {len(images):,} {split} images"):
        # All outputs compete: an answer that is no class of this data set is wrong.
        measured = accuracy(predict(content, images.images), outputs[images.labels])
    with progress.stage("measure latency") as update:
        (latency,) = measure_latency([content], threads, update)
    facts = flatbuffer.facts(content)
    partitions, delegated = runner.delegation()
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
        latency_ms=latency.p50_ms,
        latency_p90_ms=latency.p90_ms,
        threads=threads,
        ram_bytes=measure_memory(content),
        macs=facts.macs,
        parameters=facts.parameters,
        delegated=delegated,
        partitions=partitions,
        operators=facts.operators,
        float_operators=facts.float_operators,
        machine=machine(),
    )


def read_model(path: Path) -> bytes:
    """A model file's bytes. Raises UserError if it is missing or no .tflite file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the model {path}: {error.strerror}") from None
    if content[4:8] != b"TFL3":
        raise UserError(f"{path} is no .tflite file (its identifier is missing)")
    return content


def _load(
    source: str | Path,
    size: tuple[int, int],
    channels: int,
    group_by: str | None,
    sidecar: Path,
    progress: Progress,
) -> Dataset:
    """The data set, split as the sidecar notes where the user says nothing else and the source allows it."""
    noted = None if group_by is not None else _noted_group_by(sidecar)
    if noted is not None:
        try:
            return load(source, input_size=size, channels=channels, group_by=noted)
        except UserError:
            progress.note(f"{sidecar} notes groups that {source} does not have; split without them")
    return load(source, input_size=size, channels=channels, group_by=group_by or None)


def _noted_group_by(sidecar: Path) -> str | None:
    try:
        noted = json.loads(sidecar.read_text())["split"]["group_by"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return noted if isinstance(noted, str) else None


def _output_of_class(path: Path, dataset: Dataset, outputs: int) -> np.ndarray:
    """For each class of the data set, which output of the model is its score."""
    labels = path.parent / "labels.txt"
    names = labels.read_text().splitlines() if labels.exists() else list(dataset.classes)
    if len(names) != outputs:
        where = f"{labels} lists" if labels.exists() else f"{dataset.name} has"
        raise UserError(f"{path} scores {outputs} classes, but {where} {len(names)}")
    missing = [name for name in dataset.classes if name not in names]
    if missing:
        raise UserError(f"{dataset.name} has classes that {labels} does not list: {', '.join(missing[:5])}")
    return np.array([names.index(name) for name in dataset.classes])
