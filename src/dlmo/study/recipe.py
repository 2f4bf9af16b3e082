"""Recipes: a network and the steps done to it, as data and as text.

mobilenet_v2@0.5 > prune(0.9) > qat > int8
"""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dlmo import networks
from dlmo.errors import UserError, did_you_mean
from dlmo.networks.own import is_own
from dlmo.techniques.distillation.settings import LOSSES, settings_of
from dlmo.units import parse_duration, parse_size

# Of a trained teacher: weights, which dlmo's own file says the network of, or a whole network.
_WEIGHTS_FILES = (".safetensors", ".pt", ".pth")
_OTHER_FILES = (".ckpt", ".onnx", ".tflite")
# Share of zeros where a recipe names none, and from how many parameters (1 MB in float) a network is a large one.
_ZEROS, _ZEROS_OF_LARGE, _LARGE = 0.8, 0.88, 250_000


class Step(BaseModel):
    """One thing done to a model. Fields carry default, bounds and the range worth searching, see `search_range`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str]
    code: ClassVar[str]  # the study's word for it, used to name setups
    summary: ClassVar[str]

    def __str__(self) -> str:
        given = [(field, value) for field, value in self if field in self.model_fields_set]
        fields = list(type(self).model_fields)
        # A value that holds "=", such as a path, reads back as one only behind the name of its field.
        positional = bool(given) and given[0][0] == fields[0] and "=" not in _text(given[0][1])
        parts = [f"{field}={_text(value)}" for field, value in given]
        if positional:
            parts[0] = _text(given[0][1])
        return f"{self.name}({', '.join(parts)})" if parts else self.name

    @property
    def parent_teaches(self) -> "Kd | None":
        """How the network before this step teaches while it trains, where no other teacher does."""
        trains = getattr(self, "epochs", None) != 0
        return Kd(teacher="self") if trains and getattr(self, "teacher", None) == "parent" else None


def search_range(step: type[Step], field: str) -> tuple[float, float]:
    """The values of a step's field that are worth trying, from and to."""
    low, high = step.model_fields[field].json_schema_extra["search"]
    return low, high


class Kd(Step):
    """Knowledge distillation. The student trains from scratch as long as without; further steps keep the teacher.

    teacher: a network (trained as plainly as the student would be, and as long unless it has epochs of its own), a
    .safetensors file of dlmo's, weights of anyone's together with `network`, a .pt2 file, or `self`: the student's own
    network, trained before it (born-again networks, arXiv:1805.04770). A user's own model comes trained: its further
    steps learn from a file, or from the model as it was given (`self`).
    network: of dlmo's, whose weights are in the teacher's file, where the file does not say.
    loss: see `dlmo.techniques.distillation.settings`, where None takes the published value; labels weighs the
    labels' loss, weight the teacher's. scheme online: the teacher is trained together with the student, not before.
    generations: with teacher=self, how many trainings follow the one without a teacher.
    views: how many fixed augmentations of each image are drawn in turn, so that the teacher answers each one once;
    None: a quarter of the epochs where the loss can live with stored answers, else and with 0 a fresh one in every
    epoch.
    """

    name, code, summary = "kd", "KD", "train with a teacher network; the steps that follow keep it"
    teacher: str = "resnet56"
    loss: str = "kd"
    temperature: float | None = Field(None, ge=0.5, le=20, json_schema_extra={"search": [1, 8]})
    weight: float | None = Field(
        None, ge=0, le=100_000, json_schema_extra={"search": [0.25, 4], "times": "the loss's published weight"}
    )
    labels: float | None = Field(None, ge=0, le=10, json_schema_extra={"search": [0.1, 1]})
    alpha: float | None = Field(None, ge=0, le=100, json_schema_extra={"search": [0.1, 2]})
    beta: float | None = Field(None, ge=0, le=100, json_schema_extra={"search": [1, 10]})
    standardize: bool | None = None
    warmup: float | None = Field(None, ge=0, le=1)
    scheme: Literal["offline", "online"] = "offline"
    generations: int = Field(1, ge=1, le=10)
    views: int | None = Field(None, ge=0, le=1000)
    network: str | None = None

    @field_validator("teacher")
    @classmethod
    def _known_teacher(cls, teacher: str) -> str:
        if teacher.endswith(_OTHER_FILES):
            raise UserError(
                f"kd: {teacher}: a teacher's file is a .safetensors that dlmo trained (weights.safetensors, in its "
                f"store), other weights ({', '.join(_WEIGHTS_FILES)}) with network=NAME, or a .pt2 of torch.export"
            )
        if teacher == "self" or teacher.endswith((*_WEIGHTS_FILES, ".pt2")):
            return teacher
        return networks.canonical(teacher)

    @field_validator("network")
    @classmethod
    def _known_network(cls, network: str | None) -> str | None:
        return None if network is None else networks.canonical(network)

    @model_validator(mode="after")
    def _fits_together(self) -> "Kd":
        if self.loss not in LOSSES:
            hint = did_you_mean(self.loss, LOSSES)
            raise UserError(f'kd: unknown loss "{self.loss}"{hint}; known: {", ".join(LOSSES)}')
        own = LOSSES[self.loss]
        for option in ("temperature", "alpha", "beta", "standardize", "warmup"):
            if getattr(self, option) is not None and option not in own.published:
                takers = ", ".join(name for name, loss in LOSSES.items() if option in loss.published)
                raise UserError(f"kd: loss={self.loss} has no {option}; these have: {takers}")
        if own.knowledge == "self" and (self.teacher != "self" or self.scheme == "online" or self.generations > 1):
            raise UserError(f"kd: loss={self.loss} has no teacher network; write kd(teacher=self, loss={self.loss})")
        if self.scheme == "online" and (own.knowledge != "response" or self.from_file):
            raise UserError("kd: scheme=online needs a loss on answers (kd, dkd, dist) and a network's name as teacher")
        if self.scheme == "online" and self.generations > 1:
            raise UserError("kd: scheme=online has no generations; leave one of the two out")
        if self.teacher.endswith(".pt2") and (own.knowledge != "response" or self.views == 0):
            raise UserError("kd: a .pt2 file only answers, at one size: take loss=kd, dkd or dist, and no views=0")
        if self.network is not None and not self.teacher.endswith(_WEIGHTS_FILES):
            raise UserError(
                f"kd: network={self.network} says whose weights a teacher's file ({', '.join(_WEIGHTS_FILES)}) holds; "
                f"{self.teacher} needs none"
            )
        if self.network is None and self.teacher.endswith((".pt", ".pth")):
            raise UserError(f"kd: {self.teacher} holds weights alone: add network=NAME, see `dlmo networks`")
        if self.generations > 1 and self.teacher != "self":
            raise UserError("kd: generations needs teacher=self")
        if self.views and not self.answers_once:
            storing = ", ".join(name for name, loss in LOSSES.items() if loss.stored)
            raise UserError(f"kd: views needs scheme=offline and a loss that reads one vector per image ({storing})")
        return self

    @property
    def settings(self) -> dict[str, float | bool]:
        """Weights and options of the loss, with the published value where none was given."""
        options = ("labels", "weight", "temperature", "alpha", "beta", "standardize", "warmup")
        given = {name: getattr(self, name) for name in options if getattr(self, name) is not None}
        return settings_of(self.loss, self.scheme, given)

    @property
    def from_file(self) -> bool:
        return self.teacher.endswith((*_WEIGHTS_FILES, ".pt2"))

    @property
    def born_again(self) -> bool:
        """Whether the teacher is the student's own network, trained before it."""
        return self.teacher == "self" and self.scheme == "offline" and self.loss != "shallow"

    @property
    def answers_once(self) -> bool:
        """Whether what the loss wants of the teacher for an image can be stored, and does not change."""
        return self.scheme == "offline" and LOSSES[self.loss].stored

    def views_in(self, epochs: int) -> int | None:
        """How many views a training from scratch of so many epochs goes through; None: fresh ones. epochs: 0 where
        nothing is trained from scratch."""
        if not self.answers_once or self.views == 0 or (self.views is None and epochs == 0):
            return None
        return self.views or max(1, epochs // 4)


class FurtherTraining(Step):
    """A step that trains the network further; what it does to it lies in `dlmo.study.steps`.

    schedule: which of a plan's it trains by, see workspace.NetworkPlan. meanwhile: what goes on, in words.
    makes_smaller: whether layers of the network lose channels or go. needs_files: whether files of the untrained
    network have to tell what it does.
    """

    schedule: ClassVar[Literal["prune", "cut", "qat"]]
    meanwhile: ClassVar[str]
    makes_smaller: ClassVar[bool] = False
    needs_files: ClassVar[bool] = False


class Prune(FurtherTraining):
    """See techniques.pruning.

    sparsity: final share of zeros; None is told by the network's size, see `share_of`. rounds: how often it rises.
    epochs: 0 cuts at once, without training, which pays where a pruned network's file is a little too large. teacher:
    `parent`, the network before pruning, or `none`, the study's plain form; a recipe's `kd` takes its place.
    """

    name, code = "prune", "PRN"
    summary = "gradual magnitude pruning, to 80 % zeros, in networks of 1 MB and more 88 %; zeros are stored sparse"
    schedule, meanwhile = "prune", "while pruning"
    sparsity: float | None = Field(None, gt=0, lt=1, json_schema_extra={"search": [0.5, 0.95]})
    rounds: int = Field(65, ge=1, le=1000, json_schema_extra={"search": [60, 70]})
    epochs: int | None = Field(None, ge=0, le=10_000)  # None: the plan's share of the schedule
    teacher: Literal["parent", "none"] = "none"

    def share_of(self, parameters: int) -> float:
        """Final share of zeros of a network with so many parameters.

        Large networks spare more: from a float file of 1 MB on, 88 %, with which int8 weights take less than a tenth of
        that file; smaller ones 80 %.
        """
        return self.sparsity or (_ZEROS_OF_LARGE if parameters >= _LARGE else _ZEROS)


class PruneChannels(FurtherTraining):
    """See techniques.channel_pruning. Under one of the limits, channels go by importance lost per cost saved.

    ratio: share of the channels removed. macs: share of the MACs kept. size: bytes of the recipe's file, such as 96KB;
    a `prune` that follows makes it smaller still. latency: milliseconds of the recipe's file on this machine, one
    thread, such as 0.2ms, by a table of its layers measured here.
    teacher: `parent`, the network before the cut, or `none`; a recipe's `kd` takes its place.
    """

    name, code, summary = "prune_channels", "CHP", "cuts whole channels: a smaller and faster dense network"
    schedule, meanwhile, makes_smaller = "cut", "while cutting channels", True
    ratio: float = Field(0.5, gt=0, lt=1, json_schema_extra={"search": [0.125, 0.625]})
    macs: float | None = Field(None, gt=0, lt=1, json_schema_extra={"search": [0.2, 0.8]})
    size: int | None = Field(None, ge=1000)
    latency: float | None = Field(None, gt=0)
    criterion: Literal["magnitude", "taylor", "bn_scale", "lamp"] = "magnitude"
    scope: Literal["global", "layer"] = "global"
    rounds: int = Field(3, ge=1, le=100, json_schema_extra={"search": [1, 5]})
    round_to: int = Field(8, ge=1, le=64)
    teacher: Literal["parent", "none"] = "parent"
    epochs: int | None = Field(None, ge=1, le=10_000)

    @field_validator("size", mode="before")
    @classmethod
    def _bytes(cls, size: object) -> object:
        return parse_size("size", size) if isinstance(size, str) else size

    @field_validator("latency", mode="before")
    @classmethod
    def _milliseconds(cls, latency: object) -> object:
        if not isinstance(latency, str):
            return latency
        return round(1000 * parse_duration("latency", latency, default="ms"), 9)

    @model_validator(mode="after")
    def _one_target(self) -> "PruneChannels":
        given = [name for name in ("ratio", "macs", "size", "latency") if name in self.model_fields_set]
        if len(given) > 1:
            raise ValueError(f"give only one of {', '.join(given)}")
        return self

    @property
    def needs_files(self) -> bool:
        return (self.size, self.latency) != (None, None)

    @property
    def limited(self) -> bool:
        """Whether something else than the share of channels is given."""
        return (self.macs, self.size, self.latency) != (None, None, None)


class PruneBlocks(FurtherTraining):
    """See techniques.block_pruning.

    ratio: share of the residual blocks left out, the same in every stage of the network. macs: in its place, the share
    of the MACs kept. teacher: `parent`, the network before, or `none`; a recipe's `kd` takes its place.
    """

    name, code, summary = "prune_blocks", "BLP", "leaves out whole residual blocks: a network of fewer layers"
    schedule, meanwhile, makes_smaller = "cut", "while leaving out blocks", True
    ratio: float = Field(0.5, gt=0, le=1, json_schema_extra={"search": [0.25, 0.75]})
    macs: float | None = Field(None, gt=0, lt=1, json_schema_extra={"search": [0.2, 0.8]})
    rounds: int = Field(3, ge=1, le=100, json_schema_extra={"search": [1, 5]})
    teacher: Literal["parent", "none"] = "parent"
    epochs: int | None = Field(None, ge=1, le=10_000)

    @model_validator(mode="after")
    def _one_target(self) -> "PruneBlocks":
        if {"ratio", "macs"} <= self.model_fields_set:
            raise ValueError("give ratio or macs, not both")
        return self


class Qat(FurtherTraining):
    name, code, summary = "qat", "QAT", "quantization-aware training"
    schedule, meanwhile = "qat", "quantization-aware"
    epochs: int | None = Field(None, ge=1, le=10_000)


class Precision(Step):
    """The last step of a recipe: the number format of the file."""


class Float32(Precision):
    name, code, summary = "float32", "NQ", "float weights and activations"


class Float16(Precision):
    name, code, summary = "float16", "F16", "weights in float16"


class DynamicInt8(Precision):
    name, code, summary = "dynamic_int8", "BLQ", "int8 weights, float activations"


class Int8(Precision):
    name, code, summary = "int8", "FIQ", "everything in integers, input and output too"
    calibration: int = Field(200, ge=1, le=5000, json_schema_extra={"search": [100, 500]})


class Mixed(Precision):
    """See study.mixed. One bound: size, bytes of the file such as 96KB, or drop, the accuracy (0 to 1) that may be
    lost against float on validation images."""

    name, code, summary = "mixed", "MIX", "int8; where it pays, 4-bit weights or float layers"
    size: int | None = Field(None, ge=1000)
    drop: float = Field(0.005, gt=0, lt=1, json_schema_extra={"search": [0.002, 0.02]})
    calibration: int = Field(200, ge=1, le=5000, json_schema_extra={"search": [100, 500]})

    @field_validator("size", mode="before")
    @classmethod
    def _bytes(cls, size: object) -> object:
        return parse_size("size", size) if isinstance(size, str) else size

    @model_validator(mode="after")
    def _one_bound(self) -> "Mixed":
        if {"size", "drop"} <= self.model_fields_set:
            raise ValueError("give size or drop, not both")
        return self


_KINDS = (Kd, Prune, PruneChannels, PruneBlocks, Qat, Float32, Float16, DynamicInt8, Int8, Mixed)
STEPS: dict[str, type[Step]] = {step.name: step for step in _KINDS}

# The study's setups (its Tables 5-12), and PRN with full-integer quantization, which it did not try.
SETUPS: dict[str, str] = {
    "NQ": "float32",
    "BLQ": "dynamic_int8",
    "FIQ": "int8",
    "F16": "float16",
    "QAT": "qat > int8",
    "PRN": "prune > float32",
    "PRQ": "prune > dynamic_int8",
    "PRN+FIQ": "prune > int8",
}


@dataclass(frozen=True)
class Recipe:
    """A network name and its steps; the last step is the precision."""

    network: str
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return " > ".join([self.network, *map(str, self.steps)])

    @property
    def precision(self) -> Precision:
        return self.steps[-1]

    @property
    def kd(self) -> Kd | None:
        """The distillation that all trainings of the recipe share."""
        return self.steps[0] if isinstance(self.steps[0], Kd) else None

    @property
    def further_trainings(self) -> tuple[FurtherTraining, ...]:
        """The steps that train the network further, after the training from scratch."""
        return tuple(step for step in self.steps if isinstance(step, FurtherTraining))

    @property
    def setup(self) -> str:
        """The study's code where it has one, else the steps' codes joined; KD+CODE with a teacher, KD for KD+NQ."""
        rest = [step for step in self.steps if not isinstance(step, Kd)]
        names = " > ".join(step.name for step in rest)
        code = next((code for code, steps in SETUPS.items() if steps == names), "+".join(step.code for step in rest))
        return code if self.kd is None else "KD" if code == "NQ" else f"KD+{code}"


def parse(text: str) -> Recipe:
    """Read a recipe. A missing precision means float32. Raises UserError with the nearest known name."""
    head, *rest = [part.strip() for part in text.split(">")]
    if not head:
        raise UserError(f'recipe "{text}" has no network before the first ">"')
    if rest == [""]:
        raise UserError(f'recipe "{text}" ends with ">": name the step that follows, or leave it out')
    if re.match(r"\w*", head)[0] in STEPS:
        raise UserError(f'recipe "{text}" begins with a step; here its network comes first, as in "resnet20 > {text}"')
    return Recipe(head if is_own(head) else networks.canonical(head), parse_steps(" > ".join(rest)))


def parse_steps(text: str) -> tuple[Step, ...]:
    """Read the steps of a recipe, without its network."""
    steps = [_parse_step(part.strip()) for part in text.split(">")] if text.strip() else []
    if not steps or not isinstance(steps[-1], Precision):
        steps.append(Int8() if steps and isinstance(steps[-1], Qat) else Float32())
    _check_order(steps)
    return tuple(steps)


def for_setup(network: str, code: str, kd: str = "kd", prune: str = "prune") -> Recipe:
    """The recipe of one of the study's setups. kd, prune: the steps that KD and PRN stand for, as text."""
    plain = "NQ" if code == "KD" else code.removeprefix("KD+")
    if plain not in SETUPS:
        hint = did_you_mean(plain, SETUPS)
        raise UserError(f'unknown setup "{code}"{hint}; known: {", ".join(SETUPS)}, KD and KD+ before a setup')
    name = network if is_own(network) else networks.canonical(network)
    if not isinstance(_parse_step(kd), Kd):
        raise UserError(f'--kd "{kd}": give a kd step, such as "kd(wide_resnet_40_2, loss=dkd)"')
    if not isinstance(_parse_step(prune), Prune):
        raise UserError(f'--prune "{prune}": give a prune step, such as "prune(0.9)"')
    steps = " > ".join(prune if step == "prune" else step for step in SETUPS[plain].split(" > "))
    return Recipe(name, parse_steps(steps if plain == code else f"{kd} > {steps}"))


def _parse_step(text: str) -> Step:
    match = re.fullmatch(r"(\w+)\s*(?:\((.*)\))?", text)
    if match is None:
        raise UserError(f'"{text}" is not a step; write NAME or NAME(value, option=value)')
    name, arguments = match[1], match[2]
    if name not in STEPS:
        raise UserError(f'unknown step "{name}"{did_you_mean(name, STEPS)}; known: {", ".join(STEPS)}')
    kind = STEPS[name]
    fields = list(kind.model_fields)
    values: dict[str, str] = {}
    named = False
    for position, part in enumerate(arguments.split(",") if arguments and arguments.strip() else []):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            if named:
                raise UserError(f'step "{text}": "{key}" must stand before what has a name')
            if position >= len(fields):
                raise UserError(f'step "{text}" takes at most {len(fields)} values')
            key, value = fields[position], key
        named = named or bool(equals)
        if key not in fields:
            known = f"; it has {', '.join(fields)}" if fields else "; it has none"
            raise UserError(f'step "{name}" has no option "{key}"{did_you_mean(key, fields)}{known}')
        if key in values:
            raise UserError(f'step "{text}" gives "{key}" twice')
        values[key] = value
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{name}: " for name in first["loc"])
        raise UserError(f'step "{text}": {where}{first["msg"].lower().removeprefix("value error, ")}') from None


def _check_order(steps: list[Step]) -> None:
    for step in steps[:-1]:
        if isinstance(step, Precision):
            raise UserError(f'"{step.name}" must be the last step: it fixes the file\'s number format')
    names = [step.name for step in steps]
    for name in set(names):
        shares = [step.sparsity for step in steps if step.name == name == "prune"]
        if names.count(name) > 1 and not shares:
            raise UserError(f'step "{name}" stands twice')
        if len(shares) > 1 and None in shares:
            raise UserError('"prune" beside another "prune" needs a share of zeros: "prune(0.8)"')
        if shares != sorted(set(shares)):
            raise UserError('"prune" may stand again for a larger share only: zeros stay zeros')
    for name in ("prune_channels", "prune_blocks"):
        if {"prune", name} <= set(names) and names.index("prune") < names.index(name):
            raise UserError(f'"{name}" must come before "prune": training the smaller network would fill its zeros')
    if {"prune_channels", "prune_blocks"} <= set(names) and names.index("prune_blocks") < names.index("prune_channels"):
        raise UserError('"prune_channels" must come before "prune_blocks": its limits are told by the whole network')
    if {"prune", "mixed"} <= set(names):
        raise UserError('"prune" must end in another precision than "mixed": 4-bit weights cannot be stored sparse')
    if "kd" in names[1:]:
        raise UserError('"kd" must be the first step: the network learns from its teacher from the start')
    if "qat" in names and names[-2:] != ["qat", "int8"]:
        raise UserError('"qat" must be followed by "int8": it trains the scales of the int8 file')
    if "qat" in names and "calibration" in steps[-1].model_fields_set:
        raise UserError('"int8" after "qat" takes no calibration: its ranges are the trained ones')


def _text(value: object) -> str:
    """A value as recipes write it: true, 4 (not 4.0), 0.9."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
