"""From a recipe's `kd` step to the technique that trains under it, and what can be refused before any training."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dlmo.errors import UserError
from dlmo.study.recipe import Kd
from dlmo.techniques.distillation.settings import LOSSES

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dlmo.techniques.distillation.offline import LiveTeacher
    from dlmo.techniques.technique import Technique


def technique_for(
    kd: Kd,
    teacher: "nn.Module | None",
    *,
    untrained: bool,
    views: int | None,
    answers: "Callable[[LiveTeacher, int], torch.Tensor]",
    classes: int,
    input_shape: tuple[int, int, int],
) -> "Technique":
    """The technique of one training under `kd`.

    teacher: None where the loss has none; untrained: it learns along with the student. views: how many fixed
    augmentations, None for fresh ones. answers: a teacher's logits for one view of all training images.
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
    if LOSSES[kd.loss].knowledge != "response":
        return FromMaps(loss, labels, weight, live, input_shape)
    if views is None:
        return FromAnswers(loss, labels, weight, lambda batch: live(batch.inputs))
    return FromAnswers(loss, labels, weight, StoredTeacher(lambda view: answers(live, view), device), views)


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
    """A network's weights as dlmo's training stage wrote them: `weights.safetensors` with a record of what they are."""

    def __init__(self, path: str) -> None:
        self.path = Path(path).expanduser()
        try:
            self._content = self.path.read_bytes()
        except OSError as error:
            raise UserError(f"kd: cannot read the teacher {path}: {error.strerror}") from None

    @property
    def digest(self) -> str:
        return hashlib.blake2b(self._content, digest_size=16).hexdigest()

    def load(self, expected: dict, build: "Callable[[str], nn.Module]") -> "nn.Module":
        """The network. expected: the record's entries that must be so, such as the classes. Raises UserError."""
        from safetensors import SafetensorError

        from dlmo.training import checkpoint

        try:
            tensors, record = checkpoint.load(self.path)
        except (SafetensorError, ValueError):
            raise UserError(f"kd: the teacher {self.path} is no .safetensors file") from None
        if "network" not in record or record.get("fake_quantized"):
            raise UserError(f"kd: the teacher {self.path} is no float network that dlmo trained")
        for name, wanted in expected.items():
            if record.get(name) != wanted:
                raise UserError(
                    f"kd: the teacher {self.path} was trained for other data: {name.replace('_', ' ')} "
                    f"{_short(record.get(name))}, not {_short(wanted)}"
                )
        network = build(record["network"])
        try:
            network.load_state_dict(tensors)
        except RuntimeError:
            raise UserError(f"kd: the weights in {self.path} do not fit {record['network']}") from None
        return network.eval()


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) < 80 else f"{text[:77]}..."
