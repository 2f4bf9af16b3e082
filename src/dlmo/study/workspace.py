"""What all stages of a study share: the workspace, the schedules of a network, and what a training leaves behind."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dlmo.data.dataset import Dataset
from dlmo.measure.targets import Target
from dlmo.measure.targets.host import Host
from dlmo.networks.own import OwnNetwork
from dlmo.networks.registry import parse
from dlmo.networks.stems import choose
from dlmo.progress import Progress
from dlmo.study.recipe import FurtherTraining, Kd
from dlmo.study.results import Repair
from dlmo.study.store import Store
from dlmo.training.curve import Epoch
from dlmo.training.schedule import PROGRESSIVE_COST, Augmentation, Schedule

_GOLDEN_IMAGES = 32


@dataclass(frozen=True)
class NetworkPlan:
    """How one network is trained: from scratch, while it is pruned, quantization-aware, while channels or blocks go.

    teacher_trains: schedules from scratch of teachers that have their own; others are trained as the network is.
    epoch_seconds, qat_epoch_seconds: what an epoch at full image size should take, for the time left that is shown;
    teacher_seconds: the same of plain training of each teacher.
    """

    train: Schedule
    prune: Schedule
    qat: Schedule
    cut: Schedule
    teacher_trains: Mapping[str, Schedule] = field(default_factory=dict)
    epoch_seconds: float = 0.0
    qat_epoch_seconds: float = 0.0
    teacher_seconds: Mapping[str, float] = field(default_factory=dict)

    def schedule_of(self, step: FurtherTraining | None) -> Schedule:
        """The schedule of a step; None is training from scratch."""
        if step is None:
            return self.train
        schedule = getattr(self, step.schedule)
        return schedule if step.epochs is None else schedule.lasting(step.epochs)

    def seconds_of(self, step: FurtherTraining | None, kd: Kd | None = None) -> float:
        """What a step's training should take, under the teacher of `kd` if there is one."""
        schedule = self.schedule_of(step)
        epoch = self.qat_epoch_seconds if step is not None and step.schedule == "qat" else self.epoch_seconds
        resized = PROGRESSIVE_COST if schedule.progressive else 1.0
        seconds = epoch * schedule.passes * resized
        if kd is None and step is not None and step.parent_teaches is not None:
            return seconds + epoch / 3 * step.parent_teaches.views_in(schedule.epochs)
        if kd is None or kd.loss == "shallow":
            return seconds
        teacher = self.teacher_seconds.get(kd.teacher, self.epoch_seconds)
        if kd.scheme == "online" and step is None:
            return seconds + teacher * schedule.passes * resized
        # Answering is the forward third of a training step. Fixed views are answered once, at full size.
        views = kd.views_in(self.train.epochs)
        answered = schedule.passes * resized if views is None else min(views, schedule.epochs) * (step is None)
        return seconds + teacher / 3 * answered

    def of_teacher(self, teacher: str) -> "NetworkPlan":
        """How a teacher is trained from scratch."""
        seconds = self.teacher_seconds.get(teacher, self.epoch_seconds)
        return replace(self, train=self.teacher_trains.get(teacher, self.train), epoch_seconds=seconds)


@dataclass(frozen=True)
class Workspace:
    """What all stages of one study share. own: the user's network, which takes the place of one trained here.
    more_targets: further ones to measure on, by the names the user gave them. stem: of networks whose name holds none.
    """

    dataset: Dataset
    store: Store
    augmentation: Augmentation
    class_weights: tuple[float, ...] | None
    stem: str
    progress: Progress
    target: Target = Host()
    own: OwnNetwork | None = None
    more_targets: Mapping[str, Target] = field(default_factory=dict)

    def identity(self, network: str) -> dict[str, str]:
        """What tells a network's shape, for keys: two spellings of one shape share what is trained."""
        if self.is_own(network):
            return {"network": network, "stem": self.stem}
        parsed = parse(network)
        return {"network": parsed.plain, "stem": choose(parsed.stem or self.stem, self.dataset.input_shape)}

    @property
    def golden(self) -> np.ndarray:
        """Images on which a target's answers are compared with this machine's, uint8 N x H x W x C."""
        return self.dataset.validation.spread(_GOLDEN_IMAGES).images

    def is_own(self, network: str) -> bool:
        return self.own is not None and network == self.own.name


@dataclass(frozen=True)
class Trained:
    """A finished training stage.

    epochs and seconds count the whole way from scratch to here. shapes: of the parameters and buffers that
    channel pruning made smaller, by name. left_out: names of the blocks that block pruning left out. devices: what it
    was trained on, in words; empty where nothing was, and in stores of earlier versions.
    """

    key: str
    folder: Path
    network: str
    fake_quantized: bool
    sparsity: float
    epochs: float
    seconds: float
    shapes: dict[str, list[int]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)

    def curve(self) -> tuple[Epoch, ...]:
        return read_curve(self.folder)


@dataclass(frozen=True)
class Artifact:
    """A finished .tflite file."""

    key: str
    path: Path
    trained: Trained

    def repair(self) -> Repair | None:
        """What an int8 file quantized after training needed to keep its accuracy."""
        record = json.loads((self.path.parent / "repair.json").read_text())
        return Repair(**record) if record else None

    def content(self) -> bytes:
        return self.path.read_bytes()


def read_curve(folder: Path) -> tuple[Epoch, ...]:
    """The curve of a finished training stage."""
    return tuple(Epoch(**line) for line in json.loads((folder / "curve.json").read_text()))


def read_trained(key: str, folder: Path, network: str) -> Trained:
    """network: how it is called where it was asked for."""
    return Trained(key, folder, **json.loads((folder / "record.json").read_text()) | {"network": network})


def build_network(workspace: Workspace, network: str):
    """The network before any training here; the user's own with its weights."""
    from dlmo import networks

    if workspace.is_own(network):
        return copy.deepcopy(workspace.own.module)
    dataset = workspace.dataset
    return networks.build(network, classes=len(dataset.classes), input_shape=dataset.input_shape, stem=workspace.stem)


def smaller_form(network, shapes: Mapping[str, list[int]], left_out: Sequence[str], input_shape: tuple[int, int, int]):
    """The network as pruning of channels and blocks left it, but for the values of its weights. input_shape: height,
    width, channels."""
    if shapes:
        from dlmo.techniques.channel_pruning import with_shapes

        network = with_shapes(network, shapes)
    if left_out:
        from dlmo.techniques.block_pruning import without

        network = without(network, left_out, input_shape)
    return network


def load_network(workspace: Workspace, trained: Trained):
    """The trained torch network, in evaluation mode."""
    from dlmo.techniques.fake_quantization import insert_fake_quantization
    from dlmo.training import checkpoint

    network = build_network(workspace, trained.network)
    network = smaller_form(network, trained.shapes, trained.left_out, workspace.dataset.input_shape)
    if trained.fake_quantized:
        network = insert_fake_quantization(network)
    checkpoint.load_weights(trained.folder / "weights.safetensors", network)
    return network.eval()


def made_for(workspace: Workspace, network: str) -> dict:
    """What a network's weights can be used for; written into their file."""
    dataset, stem = workspace.dataset, workspace.identity(network)["stem"]
    return {"classes": list(dataset.classes), "input_shape": list(dataset.input_shape), "stem": stem}
