"""Taking in a user's own model: build it for the data, find its normalization, show what it is worth first."""

import contextlib
import hashlib
import io
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dlmo.data.dataset import Dataset, Split
from dlmo.errors import UserError
from dlmo.measure.accuracy import right_answers
from dlmo.measure.statistics import wilson_interval
from dlmo.networks.own import OwnNetwork, Source, fingerprint, open_model, own_name
from dlmo.progress import Progress
from dlmo.study.recipe import Kd, Recipe

if TYPE_CHECKING:
    from dlmo.networks.normalization import Normalization

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
    channel_order: str | None = None


@dataclass(frozen=True)
class Own:
    """The user's model: what was asked for, and the opened file."""

    request: Request
    source: Source

    @property
    def name(self) -> str:
        return self.source.name


def open_own(
    model: str | Path | None,
    network: Sequence[str],
    mean: str | None,
    std: str | None,
    channel_order: str | None = None,
) -> Own | None:
    """Open the user's model; None where none was named. Raises UserError before any data is read."""
    if model is None:
        if (mean, std, channel_order) != (None, None, None):
            raise UserError(
                "--mean, --std and --channel-order belong to --model: the networks of dlmo have their own normalization"
            )
        return None
    if channel_order not in (None, "rgb", "bgr"):
        raise UserError(f"--channel-order {channel_order}: give rgb or bgr")
    if len(network) > 1:
        raise UserError("--model goes with one --network at most: the network its weights are for")
    request = Request(str(model), network[0] if network else None, mean, std, channel_order)
    return Own(request, open_source(request))


def own_arguments(own: Own | None, named: list[str]) -> dict[str, object]:
    """Networks and the user's model as the command line writes them."""
    if own is None:
        return {"network": named}
    request = own.request
    return {"model": request.model} | {
        name: getattr(request, name) for name in ("network", "mean", "std", "channel_order")
    }


def possible(recipe: Recipe, network: OwnNetwork, strict: bool) -> bool:
    """Whether the user's network can go through a recipe; raises UserError in place of False if `strict`."""
    kd = recipe.kd
    if kd is not None and (reason := _untaught(kd, recipe)) is not None:
        if strict:
            raise UserError(f'"{kd}": {network.name} comes trained, nothing is trained from scratch: {reason}')
        return False
    further = recipe.further_trainings
    if network.post_training_only is None or not further:
        return True
    if strict:
        raise UserError(
            f'"{further[0]}" trains the network further, which {network.name} does not allow: '
            f"{network.post_training_only}; use float32, float16, dynamic_int8 or int8 alone"
        )
    return False


def _untaught(kd: Kd, recipe: Recipe) -> str | None:
    """Why a network that comes trained cannot learn by `kd`; None if it can."""
    if kd.scheme == "online" or kd.generations > 1 or not (kd.from_file or kd.teacher == "self"):
        return "its teacher can be itself, kd(self), or a file"
    if not recipe.further_trainings:
        return "add a step that trains it further, such as qat > int8"
    return None


def open_source(request: Request) -> Source:
    """Read what the user named. Raises UserError for everything that can be refused without data."""
    path = Path(request.model).expanduser()
    if path.suffix.lower() != ".tflite":
        return open_model(request.model, request.network)
    if request.network is not None:
        raise UserError(f"{path} is a whole network; --network goes with a file of weights")
    from dlmo.measure.evaluate import read_model
    from dlmo.measure.isolated import Child, memory_for
    from dlmo.measure.probe import Probe, probe_file

    content = read_model(path)
    # What crashes, hangs or cannot be parsed ends in a child process, before this one opens the file.
    with Child(str(path), memory=memory_for(content)) as child:
        try:
            probe = Probe(**child.call(probe_file, content, "auto", None))
        except UserError as error:
            if "--input-size" not in str(error):
                raise
            raise UserError(f"{path} leaves the size of its images open; convert it for one") from None
    if (probe.input_dtype, probe.output_dtype) != ("float32", "float32"):
        raise UserError(f"{path} is quantized already; give the float model")
    from dlmo.runtimes.litert import flatbuffer

    batch = flatbuffer.batch_of(flatbuffer.read(content).subgraphs[0])
    if batch != 1:
        raise UserError(f"{path} takes {batch} images at once; convert it for one")
    if not flatbuffer.has_float_weights(content):
        raise UserError(f"{path} has weights that are quantized or sparse already; give the float model")
    (height, width), channels = probe.size, probe.channels
    if channels not in (1, 3):
        raise UserError(f"{path} takes {height}x{width}x{channels}; it must take height x width x 1 or 3")
    if probe.layout != "nhwc":
        raise UserError(f"{path} takes channels first; convert it to take height x width x channels")
    return Source(own_name(path.stem), None, "tflite", channels, (height, width), content)


def take_in(source: Source, request: Request, dataset: Dataset, stem: str, progress: Progress) -> OwnNetwork:
    """The model as a network for this data. Raises UserError where it does not belong to it."""
    from dlmo.networks.normalization import KNOWN, parse

    if stem != "auto" and not source.has_stem:
        raise UserError(f"--stem {stem}: {request.model} is as it is; leave it out")
    notes = []
    given = parse(request.mean, request.std)
    if given is None and source.make is None and (noted := _noted(request)) is not None:
        given = noted
        notes.append(f"normalization: {given}, as preprocessing.json beside {request.model} says")
    candidate = _File(source, request, dataset) if source.make is None else _Module(source, request, dataset, stem)
    if request.channel_order is not None:
        if dataset.input_shape[2] != 3:
            raise UserError(f"--channel-order: {dataset.name} has grey images; leave it out")
        if not candidate.swaps_channels:
            raise UserError("--channel-order does not go with a .tflite file: it must take red, green, blue")
    bgr = request.channel_order == "bgr"
    if given is None:
        tries_bgr = candidate.swaps_channels and request.channel_order is None
        with progress.stage("find the normalization") as update:
            given, note = _infer(candidate, dataset, bgr, tries_bgr, update)
        notes.append(note)
    elif request.channel_order is not None:
        given = given.in_order(bgr) if request.mean in KNOWN else replace(given, bgr=bgr)
    network = candidate.behind(given)
    if network.post_training_only is not None:
        notes.append(f"{network.name} goes through setups without training alone: {network.post_training_only}")
    if dataset.test_cut:
        notes.append(
            f"the test images were cut from yours: if {network.name} was trained on them, its accuracy and that of "
            "files without further training is flattered; images in a test/ folder that it has not seen would tell"
        )
    with progress.stage(f"run {source.name} on {len(dataset.validation):,} validation images"):
        notes += _verdict(source.name, candidate.accuracy(given, dataset.validation), dataset)
    return replace(network, notes=tuple(notes))


class _File:
    """A float .tflite file."""

    swaps_channels = False

    def __init__(self, source: Source, request: Request, dataset: Dataset) -> None:
        from dlmo.runtimes.litert.interpreter import Runner

        self._source = source
        wanted, given = (*source.input_size, source.channels), dataset.input_shape
        if given != wanted:
            raise UserError(
                f"{request.model} takes {'x'.join(map(str, wanted))}, not {'x'.join(map(str, given))}: "
                "leave out --input-size"
            )
        _check_classes(Runner(source.tflite).classes, request.model, dataset)

    def behind(self, normalization: "Normalization") -> OwnNetwork:
        from dlmo.runtimes.litert import foreign

        content = foreign.normalized(self._source.tflite, *normalization.affine(self._source.channels))
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        return OwnNetwork(self._source.name, None, digest, content, "a .tflite file holds no trainable network")

    def accuracy(self, normalization: "Normalization", split: Split) -> float:
        from dlmo.runtimes.litert.interpreter import predict

        scores = predict(self.behind(normalization).tflite, split.images)
        return float(right_answers(scores, split.labels).mean())


class _Module:
    """A torch network, as a graph."""

    swaps_channels = True

    def __init__(self, source: Source, request: Request, dataset: Dataset, stem: str) -> None:
        import torch

        self._source = source
        height, width, self._channels = dataset.input_shape
        network = source.make(len(dataset.classes), dataset.input_shape, stem)
        sample = torch.zeros(1, self._channels, height, width)
        if not all(bool(torch.isfinite(weights).all()) for weights in network.parameters()):
            raise UserError(f"{request.model}: its weights hold values that are no numbers: a training went astray")
        _check_classes(_count_scores(network, sample, request.model), request.model, dataset)
        if source.exported:
            self._graph, self._untrainable = network, "a .pt2 file holds operators, no layers that could be trained"
        else:
            self._graph, self._untrainable = _traced(network, sample, request.model)
        if self._untrainable is None and _gives_probabilities(self._graph, sample):
            self._untrainable = "it ends in softmax, and training needs what comes before it; return the logits"

    def behind(self, normalization: "Normalization") -> OwnNetwork:
        from dlmo.networks.normalization import normalized

        module = normalized(self._graph, normalization, self._channels)
        digest = fingerprint(module, self._source.identity)
        return OwnNetwork(self._source.name, module, digest, None, self._untrainable)

    def accuracy(self, normalization: "Normalization", split: Split) -> float:
        from dlmo.training.device import best_device
        from dlmo.training.loop import predict

        device = best_device()
        module = self.behind(normalization).module.to(device.name)
        scores = predict(module, split, device, self._source.batch)
        module.to("cpu")
        return float(right_answers(scores, split.labels).mean())


def _check_classes(scores: int, model: str, dataset: Dataset) -> None:
    if scores != len(dataset.classes):
        raise UserError(
            f"{model} scores {scores} classes, but {dataset.name} has {len(dataset.classes)}; give data of the same "
            "classes, or a function that takes their number as `classes`"
        )


def _count_scores(network, sample, model: str) -> int:
    """How many scores one image gives."""
    import torch

    try:
        with torch.no_grad():
            scores = network(sample)
    except Exception as error:  # whatever a stranger's code raises
        size = "x".join(map(str, sample.shape[1:]))
        raise UserError(
            f"{model} does not take {size} images: {_first_line(error)}; --input-size sets their side"
        ) from error
    if not isinstance(scores, torch.Tensor) or scores.ndim != 2 or len(scores) != 1:
        found = f"shape {list(scores.shape)}" if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise UserError(f"{model} gives {found} for one image, not one row of scores")
    with torch.no_grad():
        numbers = torch.isfinite(network(_noise(sample)[:1])).all()
    if not numbers:
        raise UserError(f"{model} gives scores that are no numbers (NaN or infinity); look at its weights")
    return scores.shape[1]


def _traced(network, sample, model: str):
    """The network as a graph, and why it cannot be trained further, if so."""
    from dlmo.networks.modular import exported, modular

    try:
        return _same(modular(network, sample), network, sample), None
    except Exception as error:  # whatever a stranger's code raises when it is traced
        reason = f"its code cannot be traced by torch.fx ({_first_line(error)})"
    try:
        with _torch_silent():
            graph = exported(network, sample)
        return _same(graph, network, sample), reason
    except Exception as error:
        raise UserError(f"{model}: {reason}, nor exported ({_first_line(error)})") from error


@contextlib.contextmanager
def _torch_silent():
    """Without what torch logs and prints of code that it cannot export: the graph so far, and where it stopped."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(disabled)


def _same(graph, network, sample):
    """The graph, if it computes what the network does; tracing takes one course where code has several."""
    import torch

    images = _noise(sample)
    with torch.inference_mode():
        if not torch.allclose(graph.eval()(images), network.eval()(images), rtol=1e-3, atol=1e-4):
            raise ValueError("the traced network computes other scores")
    return graph


def _gives_probabilities(graph, sample) -> bool:
    """Whether the scores of an image are at least 0 and add up to 1."""
    import torch

    with torch.inference_mode():
        scores = graph.eval()(_noise(sample))
    return bool((scores >= 0).all()) and torch.allclose(scores.sum(1), torch.ones(len(scores)), atol=1e-4)


def _noise(sample):
    """Two images of the sample's size."""
    import torch

    return torch.rand((2, *sample.shape[1:]), generator=torch.Generator().manual_seed(0))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _noted(request: Request) -> "Normalization | None":
    """What `preprocessing.json` beside a .tflite file says, as dlmo writes it."""
    from dlmo.measure.feeding import SIDECAR, noted_normalization
    from dlmo.networks.normalization import of_pixels

    rule = noted_normalization(Path(request.model).expanduser().parent / SIDECAR)
    return None if rule is None else of_pixels(rule)


def _infer(candidate: _File | _Module, dataset: Dataset, bgr: bool, tries_bgr: bool, update: Callable[[float], None]):
    """The common normalization under which the model is most accurate on validation images, and a note on it.

    bgr: the order of the channels that was given; tries_bgr: none was.
    """
    from dlmo.networks.normalization import KNOWN

    part = dataset.validation.spread(_COMPARED_IMAGES)
    found = {}
    for name, normalization in KNOWN.items():
        found[name] = candidate.accuracy(normalization.in_order(bgr), part)
        update(len(found) / len(KNOWN))
    first, second, *_ = sorted(found, key=found.get, reverse=True)
    best, accuracy = KNOWN[first].in_order(bgr), found[first]
    if tries_bgr and dataset.input_shape[2] == 3:
        swapped = candidate.accuracy(best.in_order(True), part)
        if swapped > accuracy + _BGR_GAIN:
            best, accuracy = best.in_order(True), swapped
    note = (
        f"normalization inferred on {len(part)} validation images: {first} ({best}), {100 * accuracy:.1f} % right; "
        f"next {second}, {100 * found[second]:.1f} %; --mean and --std set it"
    )
    return best, note


def _verdict(name: str, accuracy: float, dataset: Dataset) -> list[str]:
    """The float model's accuracy, and where it is no better than chance what usually causes that."""
    images = len(dataset.validation)
    notes = [f"{name} as given: {100 * accuracy:.1f} % right on {images:,} validation images"]
    likeliest = np.bincount(dataset.validation.labels).max() / images
    low, _ = wilson_interval(round(accuracy * images), images)
    if low <= likeliest:
        told = "no better than" if accuracy <= likeliest else "not surely better than"
        names = ", ".join(dataset.classes[:3]) + (", ..." if len(dataset.classes) > 3 else "")
        notes.append(
            f"that is {told} always answering the most frequent class ({100 * likeliest:.1f} %); usual causes: "
            "untrained weights, another normalization (--mean, --std), another order of classes (theirs must be "
            f"{names}), other classes, another input size"
        )
    return notes
