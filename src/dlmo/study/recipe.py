"""Recipes: a network and the steps done to it, as data and as text.

mobilenet_v2@0.5 > prune(0.9) > qat > int8
"""

import difflib
import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dlmo import networks
from dlmo.errors import UserError
from dlmo.networks.own import is_own


class Step(BaseModel):
    """One thing done to a model. Fields carry default, bounds and, for the planner, a search range."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str]
    code: ClassVar[str]  # the study's word for it, used to name setups
    summary: ClassVar[str]

    def __str__(self) -> str:
        given = [(field, value) for field, value in self if field in self.model_fields_set]
        fields = list(type(self).model_fields)
        positional = bool(given) and given[0][0] == fields[0]
        parts = [str(value) if positional and i == 0 else f"{field}={value}" for i, (field, value) in enumerate(given)]
        return f"{self.name}({', '.join(parts)})" if parts else self.name


class Prune(Step):
    name, code, summary = "prune", "PRN", "gradual magnitude pruning; zeros are stored sparse"
    sparsity: float = Field(0.8, gt=0, lt=1, json_schema_extra={"search": [0.5, 0.95]})
    rounds: int = Field(65, ge=1, le=1000, json_schema_extra={"search": [60, 70]})
    epochs: int | None = Field(None, ge=1, le=10_000)  # None: the plan's share of the schedule


class PruneChannels(Step):
    """See techniques.channel_pruning. ratio: share of the channels removed; macs: share of the MACs kept."""

    name, code, summary = "prune_channels", "CHP", "cuts whole channels: a smaller and faster dense network"
    ratio: float = Field(0.5, gt=0, lt=1, json_schema_extra={"search": [0.25, 0.75]})
    macs: float | None = Field(None, gt=0, lt=1)  # in place of ratio
    criterion: Literal["magnitude", "taylor", "bn_scale", "lamp"] = "magnitude"
    scope: Literal["global", "layer"] = "global"
    rounds: int = Field(3, ge=1, le=100, json_schema_extra={"search": [1, 5]})
    round_to: int = Field(8, ge=1, le=64)
    epochs: int | None = Field(None, ge=1, le=10_000)

    @model_validator(mode="after")
    def _one_target(self) -> "PruneChannels":
        if {"ratio", "macs"} <= self.model_fields_set:
            raise ValueError("give ratio or macs, not both")
        return self


class Qat(Step):
    name, code, summary = "qat", "QAT", "quantization-aware training"
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


_KINDS = (Prune, PruneChannels, Qat, Float32, Float16, DynamicInt8, Int8)
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
    def setup(self) -> str:
        """The study's code where it has one, else the steps' codes joined."""
        names = " > ".join(step.name for step in self.steps)
        for code, steps in SETUPS.items():
            if steps == names:
                return code
        return "+".join(step.code for step in self.steps)


def parse(text: str) -> Recipe:
    """Read a recipe. A missing precision means float32. Raises UserError with the nearest known name."""
    head, *rest = [part.strip() for part in text.split(">")]
    if not head:
        raise UserError(f'recipe "{text}" has no network before the first ">"')
    return Recipe(head if is_own(head) else networks.canonical(head), parse_steps(" > ".join(rest)))


def parse_steps(text: str) -> tuple[Step, ...]:
    """Read the steps of a recipe, without its network."""
    steps = [_parse_step(part.strip()) for part in text.split(">")] if text.strip() else []
    if not steps or not isinstance(steps[-1], Precision):
        steps.append(Int8() if steps and isinstance(steps[-1], Qat) else Float32())
    _check_order(steps)
    return tuple(steps)


def for_setup(network: str, code: str) -> Recipe:
    """The recipe of one of the study's setups."""
    if code not in SETUPS:
        raise UserError(f'unknown setup "{code}"{_nearest(code, SETUPS)}; known: {", ".join(SETUPS)}')
    return Recipe(network if is_own(network) else networks.canonical(network), parse_steps(SETUPS[code]))


def _parse_step(text: str) -> Step:
    match = re.fullmatch(r"(\w+)\s*(?:\((.*)\))?", text)
    if match is None:
        raise UserError(f'"{text}" is not a step; write NAME or NAME(value, option=value)')
    name, arguments = match[1], match[2]
    if name not in STEPS:
        raise UserError(f'unknown step "{name}"{_nearest(name, STEPS)}; known: {", ".join(STEPS)}')
    kind = STEPS[name]
    fields = list(kind.model_fields)
    values: dict[str, str] = {}
    for position, part in enumerate(arguments.split(",") if arguments and arguments.strip() else []):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            if position >= len(fields):
                raise UserError(f'step "{text}" takes at most {len(fields)} values')
            key, value = fields[position], key
        if key not in fields:
            known = f"; it has {', '.join(fields)}" if fields else "; it has none"
            raise UserError(f'step "{name}" has no option "{key}"{_nearest(key, fields)}{known}')
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
        if names.count(name) > 1:
            raise UserError(f'step "{name}" stands twice')
    if {"prune", "prune_channels"} <= set(names) and names.index("prune") < names.index("prune_channels"):
        raise UserError('"prune_channels" must come before "prune": training the smaller network would fill its zeros')
    if "qat" in names and names[-2:] != ["qat", "int8"]:
        raise UserError('"qat" must be followed by "int8": it trains the scales of the int8 file')


def _nearest(name: str, known: list[str] | dict[str, object]) -> str:
    close = difflib.get_close_matches(name.lower(), [entry.lower() for entry in known], 1, 0.5)
    original = {entry.lower(): entry for entry in known}
    return f'; did you mean "{original[close[0]]}"?' if close else ""
