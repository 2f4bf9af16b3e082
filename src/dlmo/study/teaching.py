"""From a recipe's `kd` step to the technique that trains under it, and what can be refused before any training."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dlmo.data.dataset import Dataset
from dlmo.errors import UserError
from dlmo.measure.accuracy import right_answers
from dlmo.study.recipe import Kd
from dlmo.study.workspace import smaller_form
from dlmo.techniques.distillation.settings import LOSSES

# A foreign teacher's normalization is found on so many validation images.
_COMPARED_IMAGES = 512

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dlmo.techniques.technique import Technique


def technique_for(
    kd: Kd,
    teacher: "nn.Module | None",
    *,
    untrained: bool,
    from_scratch: bool,
    views: int | None,
    answers: "Callable[[Callable[[torch.Tensor], torch.Tensor], int], torch.Tensor]",
    classes: int,
    input_shape: tuple[int, int, int],
) -> "Technique":
    """The technique of one training under `kd`.

    teacher: None where the loss has none; untrained: it learns along with the student. from_scratch: the student too
    begins untrained. views: how many fixed augmentations, None for fresh ones. answers: what a function of images
    gives for one view of all training images.
    """
    from dlmo.techniques.distillation.losses import loss_of
    from dlmo.techniques.distillation.offline import FromAnswers, FromMaps, LiveTeacher, StoredTeacher
    from dlmo.techniques.distillation.online import MutualLearning
    from dlmo.techniques.distillation.within import DeepestToShallow
    from dlmo.training.device import best_device

    settings = kd.settings
    labels, weight = settings["labels"], settings["weight"]
    if teacher is None:
        return DeepestToShallow(labels, weight, settings["alpha"], settings["temperature"], classes, input_shape)
    loss, device = loss_of(kd.loss, settings), best_device()
    if untrained:
        return MutualLearning(loss, labels, weight, teacher, device)
    live = LiveTeacher(teacher, device)

    def stored(ask: "Callable[[torch.Tensor], torch.Tensor]") -> StoredTeacher:
        return StoredTeacher(lambda view: answers(ask, view), device)

    if LOSSES[kd.loss].knowledge != "response":
        pooled = None if views is None else stored(live.pooled(input_shape))
        return FromMaps(loss, labels, weight, live, input_shape, pooled, views)
    asked = (lambda batch: live(batch.inputs)) if views is None else stored(live)
    return FromAnswers(loss, labels, weight, asked, views, settings.get("warmup", 0.0) if from_scratch else 0.0)


def check_maps(kd: Kd, student: "nn.Module", teacher: "nn.Module | None", input_shape: tuple[int, int, int]) -> None:
    """Refuse a loss on feature maps that these networks do not have. Runs them once; works on the meta device."""
    if LOSSES[kd.loss].knowledge == "response":
        return
    from dlmo.techniques.distillation.losses import loss_of
    from dlmo.techniques.distillation.taps import paired
    from dlmo.techniques.distillation.within import shallow_stages

    if teacher is None:
        shallow_stages(student, input_shape)
    else:
        paired(loss_of(kd.loss, kd.settings).reads, student, teacher, input_shape)


class TeacherFile:
    """A trained network in a file: weights as dlmo's training stage wrote them (`weights.safetensors` with a record of
    what they are), weights of anyone's for a network that the recipe names, or a whole network (.pt2)."""

    def __init__(self, kd: Kd) -> None:
        self.path, self._network = Path(kd.teacher).expanduser(), kd.network
        try:
            self._content = self.path.read_bytes()
        except OSError as error:
            raise UserError(f"kd: cannot read the teacher {kd.teacher}: {error.strerror}") from None

    @property
    def identity(self) -> str:
        """What stands for it in keys."""
        digest = hashlib.blake2b(self._content, digest_size=16).hexdigest()
        return digest if self._network is None else f"{digest} {self._network}"

    def load(
        self, dataset: Dataset, expected: "Callable[[str], dict]", build: "Callable[[str], nn.Module]"
    ) -> "nn.Module":
        """The network, for dlmo's pixels, in evaluation mode. Raises UserError.

        Where dlmo did not train it, its normalization is the common one under which it is most accurate on validation
        images. expected: of a network's name, the entries that dlmo's record of it must have, such as the classes.
        """
        if self.path.suffix == ".pt2":
            return self._normalized(self._exported(dataset), dataset)
        if self._network is not None:
            return self._normalized(self._fitted(build(self._network), len(dataset.classes)), dataset)
        return self._recorded(dataset, expected, build)

    def _fitted(self, network: "nn.Module", classes: int) -> "nn.Module":
        """The network the recipe names, with the file's weights."""
        from dlmo.networks.weights import fit, read_weights

        fit(network, read_weights(self.path), self.path, classes)
        return network.eval()

    def _exported(self, dataset: Dataset) -> "nn.Module":
        """The network of a .pt2 file, for pixels of its own."""
        import torch

        from dlmo.networks.exported import read_exported

        found = read_exported(self.path)
        height, width, channels = dataset.input_shape
        if (*found.size, found.channels) != dataset.input_shape:
            raise UserError(
                f"kd: the teacher {self.path} takes {found.size[0]}x{found.size[1]} images of {found.channels} "
                f"channels, not {height}x{width} of {channels}"
            )
        if found.batch is not None:
            raise UserError(f"kd: the teacher {self.path} takes one image at a time; export it for any number")
        answer = found.graph(torch.zeros(2, channels, height, width))
        if not isinstance(answer, torch.Tensor) or answer.ndim != 2:
            raise UserError(f"kd: the teacher {self.path} does not give one row of scores per image")
        classes = answer.shape[1]
        if classes != len(dataset.classes):
            raise UserError(f"kd: the teacher {self.path} scores {classes} classes, not {len(dataset.classes)}")
        return found.graph

    def _normalized(self, network: "nn.Module", dataset: Dataset) -> "nn.Module":
        from dlmo.networks.normalization import KNOWN, normalized
        from dlmo.training.device import best_device
        from dlmo.training.loop import predict

        part, device, channels = dataset.validation.spread(_COMPARED_IMAGES), best_device(), dataset.input_shape[2]

        def right(network: "nn.Module") -> int:
            return int(right_answers(predict(network.to(device.name), part, device), part.labels).sum())

        best = max((normalized(network, entry, channels) for entry in KNOWN.values()), key=right)
        if right(best) <= np.bincount(part.labels).max():
            raise UserError(
                f"kd: the teacher {self.path} is no better than always answering the most frequent class, under any "
                "common normalization: were its classes in another order?"
            )
        return best

    def _recorded(
        self, dataset: Dataset, expected: "Callable[[str], dict]", build: "Callable[[str], nn.Module]"
    ) -> "nn.Module":
        """The network that the file's own record describes."""
        from safetensors import SafetensorError

        from dlmo.training import checkpoint

        try:
            tensors, record = checkpoint.load(self.path)
        except (SafetensorError, ValueError):
            raise UserError(f"kd: the teacher {self.path} is no .safetensors file") from None
        if "network" not in record or record.get("fake_quantized"):
            raise UserError(
                f"kd: the teacher {self.path} is no float network that dlmo trained; weights of your own need "
                "network=NAME, see `dlmo networks`"
            )
        for name, wanted in expected(record["network"]).items():
            if record.get(name) != wanted:
                raise UserError(
                    f"kd: the teacher {self.path} was trained for other data: {name.replace('_', ' ')} "
                    f"{_short(record.get(name))}, not {_short(wanted)}"
                )
        network = smaller_form(
            build(record["network"]), record.get("shapes", {}), record.get("left_out", ()), dataset.input_shape
        )
        try:
            network.load_state_dict(tensors)
        except RuntimeError:
            raise UserError(f"kd: the weights in {self.path} do not fit {record['network']}") from None
        return network.eval()


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) < 80 else f"{text[:77]}..."
