"""How images get into a file that dlmo may not have made, and what its outputs mean.

Each fact comes from the first place that has it: an option, the files beside the model, the model's own metadata,
the default. Which place it was is kept, to be told.
"""

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dlmo.data import Dataset, load
from dlmo.data.normalization import Numbers, parse
from dlmo.data.options import MAX_INPUT_SIDE, check_size
from dlmo.data.preprocessing import Normalization, natural_normalization
from dlmo.data.splits import NoGroups
from dlmo.errors import UserError
from dlmo.measure.probe import Probe
from dlmo.progress import Progress
from dlmo.runtimes.litert.interpreter import LAYOUTS
from dlmo.runtimes.litert.metadata import label_lines

CHANNEL_ORDERS = ("rgb", "bgr")
# What dlmo writes beside a model.
SIDECAR = "preprocessing.json"


@dataclass(frozen=True)
class FeedOptions:
    """What the user says about a file's input and outputs; None and auto leave it to be found out.

    mean, std, scale: see data.normalization.parse. layout: auto, nhwc, nchw. channel_order: rgb, bgr. input_size: side
    in pixels, for a file that leaves it open. labels: a file with one class name a line, in the order of the outputs.
    """

    mean: Numbers | None = None
    std: Numbers | None = None
    scale: float | None = None
    layout: str = "auto"
    channel_order: str = "rgb"
    input_size: int | None = None
    labels: Path | None = None

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise UserError(f"--layout {self.layout}: give {', '.join(LAYOUTS)}")
        if self.channel_order not in CHANNEL_ORDERS:
            raise UserError(f"--channel-order {self.channel_order}: give {' or '.join(CHANNEL_ORDERS)}")
        self.normalization(), self.size  # noqa: B018 (both check)

    def normalization(self) -> Normalization | None:
        """What the options say; None where they say nothing."""
        return parse(self.mean, self.std, self.scale, bgr=self.channel_order == "bgr")

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width that were given."""
        return check_size(self.input_size)


@dataclass(frozen=True)
class Feed:
    """What was decided for one file. source: the place each fact came from, in words."""

    normalization: Normalization
    normalization_source: str
    bgr: bool

    def pixels(self, images: np.ndarray) -> np.ndarray:
        """RGB images in the channel order of the model."""
        return images[..., ::-1] if self.bgr else images


def choose_feed(options: FeedOptions, model: Path, probe: Probe) -> Feed:
    """The first of: options, preprocessing.json beside the model, the model's metadata, what its input suggests."""
    sidecar = model.parent / SIDECAR
    given = options.normalization()
    places = (
        (given, "options"),
        (None if given is not None else noted_normalization(sidecar), sidecar.name),
        (probe.mean and Normalization(tuple(probe.mean), tuple(probe.std)), "the file's metadata"),
        (
            natural_normalization(np.dtype(probe.input_dtype), *probe.quantization),
            f"default, {probe.input_dtype} input",
        ),
    )
    rule, source = next((rule, source) for rule, source in places if rule is not None)
    if {len(rule.mean), len(rule.std)} - {1, probe.channels}:
        raise UserError(f"{model} takes {probe.channels} channels, but {source}: means and stds for {len(rule.mean)}")
    bgr = options.channel_order == "bgr"
    if bgr and probe.channels != 3:
        raise UserError(f"{model} takes grey images; leave out --channel-order")
    return Feed(rule, source, bgr)


def choose_labels(
    options: FeedOptions, model: Path, embedded: Sequence[str] | None, classes: tuple[str, ...]
) -> tuple[tuple[str, ...], str]:
    """Class names in the order of the outputs, and where they are from: like `choose_feed`, at last the data set."""
    beside = model.parent / "labels.txt"
    if options.labels is not None:
        return _read_labels(Path(options.labels).expanduser()), f"--labels {options.labels}"
    if beside.exists():
        return _read_labels(beside), str(beside)
    if embedded:
        return tuple(embedded), "the file's metadata"
    return classes, "the data set"


def output_of_class(
    model: Path, outputs: int, labels: tuple[str, ...], source: str, dataset: str, classes: tuple[str, ...]
) -> np.ndarray:
    """For each class of the data set, which output of the model is its score. Labels may hold more than the data set.

    Raises UserError where labels and outputs, or labels and classes do not fit.
    """
    classes, labels = (tuple(map(_comparable, names)) for names in (classes, labels))
    if len(labels) != outputs:
        where = f"{dataset} has" if source == "the data set" else f"{source} lists"
        hint = "; --labels FILE names the outputs, one a line" + (
            ", for one more than there are classes most likely with a background class first"
            if outputs == len(labels) + 1
            else ""
        )
        raise UserError(f"{model} scores {outputs} classes, but {where} {len(labels)}{hint}")
    missing = [name for name in classes if name not in labels]
    if missing:
        raise UserError(f"{dataset} has classes that {source} does not list: {', '.join(missing[:5])}")
    twice = [name for name in classes if labels.count(name) > 1]
    if twice:
        raise UserError(
            f"{source} lists {twice[0]} more than once, so which output is {dataset}'s class {twice[0]} is unknown; "
            "give each output a name of its own (--labels FILE)"
        )
    return np.array([labels.index(name) for name in classes])


def _comparable(name: str) -> str:
    """A folder's name may end in a space, and accents may be written in two ways."""
    return unicodedata.normalize("NFC", name.strip())


def load_for(source: str | Path, model: Path, probe: Probe, group_by: str | None, progress: Progress) -> Dataset:
    """The data set in the model's size and channels.

    Split as preprocessing.json beside the model notes, where the user says nothing else and the source allows it.
    """
    if max(probe.size) > MAX_INPUT_SIDE:
        taken = " x ".join(map(str, probe.size))
        raise UserError(f"{model} takes images of {taken} pixels; images are read at up to {MAX_INPUT_SIDE} a side")
    noted = None if group_by is not None else _noted_group_by(model.parent / SIDECAR)
    if noted is not None:
        try:
            return load(source, input_size=tuple(probe.size), channels=probe.channels, group_by=noted)
        except NoGroups:
            lost = f"the groups noted beside {model} are not in {source}: it is split without them"
            progress.note(lost)
            found = load(source, input_size=tuple(probe.size), channels=probe.channels)
            return replace(found, notes=(*found.notes, lost))
        except UserError as error:
            raise UserError(f"{error} (as noted beside {model}; --group-by '' splits without groups)") from None
    return load(source, input_size=tuple(probe.size), channels=probe.channels, group_by=group_by or None)


def notes_split(sidecar: Path) -> bool:
    """Whether the preprocessing.json at `sidecar` tells how the images were split that the model was made of."""
    return _noted_split(sidecar) != {}


def _noted_group_by(sidecar: Path) -> str | None:
    noted = _noted_split(sidecar).get("group_by")
    return noted if isinstance(noted, str) else None


def _noted_split(sidecar: Path) -> dict:
    try:
        noted = json.loads(sidecar.read_text())["split"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return noted if isinstance(noted, dict) else {}


def common_feeds(options: FeedOptions, chosen: Feed, channels: int) -> dict[str, Feed]:
    """What people mostly train with, by the options that say so. options: those that `chosen` came of."""
    found = {
        "--mean pixels": ((0.0,), (1.0,), False),
        "--mean unit": ((0.0,), (255.0,), False),
        "--mean half": ((127.5,), (127.5,), False),
    }
    if channels == 3:
        # The means and deviations of ImageNet's training images, as torchvision and as Caffe's descendants use them.
        torchvision = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
        found["--mean imagenet"] = (*torchvision, False)
        found["--channel-order bgr --mean 103.939,116.779,123.68"] = ((103.939, 116.779, 123.68), (1.0,), True)
    feeds = {words: Feed(Normalization(mean, std), words, bgr) for words, (mean, std, bgr) in found.items()}
    if channels == 3:
        order = "rgb" if chosen.bgr else "bgr"
        rule = replace(options, channel_order=order).normalization() or chosen.normalization
        feeds[f"--channel-order {order}"] = replace(chosen, normalization=rule, bgr=not chosen.bgr)
    return feeds


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        return label_lines(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read the labels {path}: {error.strerror}") from None


def noted_normalization(sidecar: Path) -> Normalization | None:
    """`normalize` of the preprocessing.json at `sidecar`: offset and scale, each one number or one per
    channel; None without it."""
    try:
        noted = json.loads(sidecar.read_text())["normalize"]
        offset, scale = noted["offset"], noted["scale"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        return parse(offset, scale, 1.0)
    except UserError:
        raise UserError(f"{sidecar}: its normalize is no offset and scale; mend it or remove the file") from None
