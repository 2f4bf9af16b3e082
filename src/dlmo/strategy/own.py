"""Taking in a user's own model: build it for the data, find its normalization, show what it is worth first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dlmo.data.dataset import Dataset, Split
from dlmo.errors import UserError
from dlmo.measure.statistics import wilson_interval
from dlmo.networks.own import OwnNetwork, Source, fingerprint, open_model, own_name
from dlmo.progress import Progress
from dlmo.study.recipe import Recipe

# Normalizations are compared on so many validation images.
_COMPARED_IMAGES = 512
# Blue-green-red is believed only where it is better by this, 0 to 1: colours matter little to many a network.
_BGR_GAIN = 0.02


@dataclass(frozen=True)
class Request:
    """What the user named: see `dlmo.networks.own.open_model` and `dlmo.networks.normalization.parse`."""

    model: str
    network: str | None = None
    mean: str | None = None
    std: str | None = None


@dataclass(frozen=True)
class Own:
    """The user's model: what was asked for, and the opened file."""

    request: Request
    source: Source

    @property
    def name(self) -> str:
        return self.source.name


def open_own(model: str | Path | None, network: Sequence[str], mean: str | None, std: str | None) -> Own | None:
    """Open the user's model; None where none was named. Raises UserError before any data is read."""
    if model is None:
        if mean is not None or std is not None:
            raise UserError("--mean and --std belong to --model: the networks of dlmo have their own normalization")
        return None
    if len(network) > 1:
        raise UserError("--model goes with one --network at most: the network its weights are for")
    request = Request(str(model), network[0] if network else None, mean, std)
    return Own(request, open_source(request))


def own_arguments(own: Own | None, named: list[str]) -> dict[str, object]:
    """Networks and the user's model as the command line writes them."""
    if own is None:
        return {"network": named}
    request = own.request
    return {"model": request.model, "network": request.network, "mean": request.mean, "std": request.std}


def possible(recipe: Recipe, network: OwnNetwork, strict: bool) -> bool:
    """Whether the user's network can go through a recipe; raises UserError in place of False if `strict`."""
    further = recipe.steps[:-1]
    if network.post_training_only is None or not further:
        return True
    if strict:
        raise UserError(
            f'"{further[0]}" trains the network further, which {network.name} does not allow: '
            f"{network.post_training_only}; use float32, float16, dynamic_int8 or int8 alone"
        )
    return False


def open_source(request: Request) -> Source:
    """Read what the user named. Raises UserError for everything that can be refused without data."""
    if Path(request.model).suffix.lower() == ".tflite":
        return _open_tflite(Path(request.model).expanduser(), request.network)
    return open_model(request.model, request.network)


def _open_tflite(path: Path, network: str | None) -> Source:
    from dlmo.measure.evaluate import read_model
    from dlmo.runtimes.litert.interpreter import Runner

    if network is not None:
        raise UserError(f"--model {path} is a whole network; --network goes with a file of weights")
    content = read_model(path)
    runner = Runner(content)
    if runner.input["dtype"] != np.float32:
        raise UserError(f"--model {path} is quantized already; give the float model")
    height, width, channels = runner.input_shape
    if channels not in (1, 3):
        raise UserError(f"--model {path} takes {height}x{width}x{channels}; it must take height x width x 1 or 3")
    return Source(own_name(path.stem), None, "tflite", channels, (height, width), content)


def take_in(source: Source, request: Request, dataset: Dataset, stem: str, progress: Progress) -> OwnNetwork:
    """The model as a network for this data. Raises UserError where it does not belong to it."""
    if source.make is None:
        return _take_in_file(source, request, dataset, progress)
    import torch

    from dlmo.networks import normalization

    given = normalization.parse(request.mean, request.std)
    network = source.make(len(dataset.classes), dataset.input_shape, stem)
    height, width, channels = dataset.input_shape
    sample = torch.zeros(1, channels, height, width)
    _check_scores(network, sample, dataset, request.model)
    network, reason = _traced(network, sample, request.model)
    notes = []
    if given is None:
        with progress.stage("find the normalization") as update:
            given, note = _infer(network, dataset, update)
        notes.append(note)
    module = normalization.normalized(network, given, channels)
    with progress.stage(f"run {source.name} on {len(dataset.validation):,} validation images"):
        accuracy = _accuracy(module, dataset.validation)
    notes += _verdict(source.name, accuracy, dataset)
    return OwnNetwork(source.name, module, fingerprint(module, source.identity), None, reason, tuple(notes))


def _take_in_file(source: Source, request: Request, dataset: Dataset, progress: Progress) -> OwnNetwork:
    """A float .tflite file; it must take dlmo's pixels."""
    import hashlib

    from dlmo.runtimes.litert.interpreter import Runner, predict

    if request.mean is not None or request.std is not None:
        raise UserError("--mean and --std do not go with a .tflite file: it must take (pixel - 128) / 128")
    classes = Runner(source.tflite).classes
    if classes != len(dataset.classes):
        raise UserError(f"{request.model} scores {classes} classes, but {dataset.name} has {len(dataset.classes)}")
    with progress.stage(f"run {source.name} on {len(dataset.validation):,} validation images"):
        answers = predict(source.tflite, dataset.validation.images).argmax(1)
    notes = _verdict(source.name, float((answers == dataset.validation.labels).mean()), dataset)
    digest = hashlib.blake2b(source.tflite, digest_size=16).hexdigest()
    reason = "a .tflite file holds no trainable network"
    return OwnNetwork(source.name, None, digest, source.tflite, reason, tuple(notes))


def _traced(network, sample, model: str):
    """The network as a graph, and why it cannot be trained further, if so."""
    from dlmo.networks.modular import exported, modular

    try:
        return modular(network, sample), None
    except Exception as error:  # whatever a stranger's code raises when it is traced
        reason = f"its code cannot be traced by torch.fx ({_first_line(error)})"
    try:
        return exported(network, sample), reason
    except Exception as error:
        raise UserError(f"{model}: {reason}, nor exported ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_scores(network, sample, dataset: Dataset, model: str) -> None:
    """One image must give one score per class."""
    import torch

    size = "x".join(map(str, sample.shape[1:]))
    try:
        with torch.no_grad():
            scores = network(sample)
    except Exception as error:  # whatever a stranger's code raises
        raise UserError(
            f"{model} does not take {size} images: {_first_line(error)}; --input-size sets their side"
        ) from error
    if not isinstance(scores, torch.Tensor) or scores.ndim != 2 or len(scores) != 1:
        found = f"shape {list(scores.shape)}" if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise UserError(f"{model} gives {found} for one image, not one row of scores")
    if scores.shape[1] != len(dataset.classes):
        raise UserError(
            f"{model} scores {scores.shape[1]} classes, but {dataset.name} has {len(dataset.classes)}; "
            "give data of the same classes, or a function that takes the number as `classes`"
        )


def _infer(network, dataset: Dataset, update):
    """The common normalization under which the network is most accurate on validation images, and a note on it."""
    from dlmo.networks.normalization import KNOWN, normalized

    channels = dataset.input_shape[2]
    every = max(1, len(dataset.validation) // _COMPARED_IMAGES)
    part = dataset.validation.take(np.arange(0, len(dataset.validation), every)[:_COMPARED_IMAGES])
    found = {}
    for index, (name, candidate) in enumerate(KNOWN.items()):
        found[name] = _accuracy(normalized(network, candidate, channels), part)
        update((index + 1) / (len(KNOWN) + 1))
    first, second, *_ = sorted(found, key=found.get, reverse=True)
    best, accuracy = KNOWN[first], found[first]
    if channels == 3:
        swapped = replace(best, bgr=True)
        gained = _accuracy(normalized(network, swapped, channels), part) - accuracy
        if gained > _BGR_GAIN:
            best, accuracy = swapped, accuracy + gained
    note = (
        f"normalization inferred on {len(part)} validation images: {first} ({best}), {100 * accuracy:.1f} % right; "
        f"next {second}, {100 * found[second]:.1f} %; --mean and --std set it"
    )
    return best, note


def _accuracy(network, split: Split) -> float:
    from dlmo.training.device import best_device
    from dlmo.training.loop import predict

    device = best_device()
    answers = predict(network.to(device.name), split, device).argmax(1)
    network.to("cpu")
    return float((answers == split.labels).mean())


def _verdict(name: str, accuracy: float, dataset: Dataset) -> list[str]:
    """The float model's accuracy, and where it is no better than chance what usually causes that."""
    images = len(dataset.validation)
    notes = [f"{name} as given: {100 * accuracy:.1f} % right on {images:,} validation images"]
    likeliest = np.bincount(dataset.validation.labels).max() / images
    low, _ = wilson_interval(round(accuracy * images), images)
    if low <= likeliest:
        notes.append(
            f"that is no better than always answering the most frequent class ({100 * likeliest:.1f} %); usual causes: "
            "untrained weights, another normalization (--mean, --std), another order of classes (theirs must be "
            f"{', '.join(dataset.classes[:3])}, ...), other classes, another input size"
        )
    return notes
