"""The options that all jobs share, and the command line that gives them again."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dlmo.data.files import printable
from dlmo.errors import UserError
from dlmo.measure.machine import MOST_THREADS
from dlmo.networks.stems import choose as choose_stem
from dlmo.strategy import legality
from dlmo.study.recipe import PruneChannels, Recipe

# Beyond it, the seeds of epochs leave torch's range.
_LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Options:
    """What all jobs share. time: a duration such as "10m", None leaves it to the job; epochs overrides it, less than 1
    is a part of the images; epochs_of: of networks that shall have others; stem: of networks whose name holds none;
    target: what limits and choice are about; more_targets: further ones to measure on; out: None writes nothing;
    store: a folder or URL, None is the user's (see study.store.open_store); track: see `dlmo.tracking`; cluster:
    address of the Ray cluster that makes the stages, None makes them in this process."""

    time: str | None = None
    epochs: float | None = None
    epochs_of: Mapping[str, float] = field(default_factory=dict)
    threads: int = 1
    seeds: tuple[int, ...] = (0,)
    input_size: int | tuple[int, int] | str | None = None
    group_by: str | None = None
    stem: str = "auto"
    target: str = "cpu"
    more_targets: tuple[str, ...] = ()
    out: str | Path | None = None
    store: str | Path | None = None
    track: tuple[str, ...] = ()
    cluster: str | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.target, *self.more_targets)

    @property
    def folder(self) -> Path | None:
        return None if self.out is None else Path(self.out).expanduser()


def check_options(options: Options, recipes: list[Recipe]) -> None:
    """Everything about the options that can be refused before any data is read."""
    choose_stem(options.stem, (1, 1, 1))  # an unknown one is refused
    if not 1 <= options.threads <= MOST_THREADS:
        raise UserError(f"--threads {options.threads}: give 1 to {MOST_THREADS}")
    for epochs in (options.epochs, *options.epochs_of.values()):
        if epochs is not None and not (0 < epochs < 1 or (epochs >= 1 and epochs == round(epochs))):
            raise UserError(f"--epochs {epochs:g}: give a whole number, or a part of one epoch, above 0 and below 1")
    for seed in options.seeds:
        if not 0 <= seed <= _LARGEST_SEED:
            raise UserError(f"--seed {seed}: give a number from 0 to {_LARGEST_SEED:,}")
    for recipe in recipes:
        for target in options.targets:
            legality.check(recipe, target)
    if options.cluster is not None:
        for recipe in recipes:
            if any(isinstance(step, PruneChannels) and step.latency is not None for step in recipe.steps):
                raise UserError(
                    f"--cluster: {recipe}: its latency limit is told by layers timed on the machine that measures; "
                    "give a share of channels, macs= or size="
                )
        from dlmo.study.cluster import check

        check(options.cluster)


def listed(named: str | Sequence[str]) -> list[str]:
    """One name or several, as a list: a text is a sequence of letters as well."""
    return [named] if isinstance(named, str) else list(named)


def given_options(options: Options) -> dict[str, object]:
    """The options of a command that are not at their default."""
    defaults = Options()
    names = ("time", "epochs", "threads", "input_size", "group_by", "stem", "target")
    given = {name: getattr(options, name) for name in names if getattr(options, name) != getattr(defaults, name)}
    if isinstance(options.input_size, tuple):
        given["input_size"] = "x".join(map(str, options.input_size))
    if options.epochs_of:
        first = [given["epochs"]] if "epochs" in given else []
        given["epochs"] = [*first, *(f"{network}={value:g}" for network, value in options.epochs_of.items())]
    if options.more_targets:
        given["target"] = list(options.targets)
    if options.seeds != defaults.seeds:
        given |= {"seed": options.seeds[0]} if len(options.seeds) == 1 else {"seeds": len(options.seeds)}
    return given


def command_line(job: str, inputs: Sequence[str | Path], arguments: dict[str, object]) -> str:
    """The command line that does the same again."""
    words = ["dlmo", job, *map(str, inputs)]
    for name, value in arguments.items():
        for entry in value if isinstance(value, list) else [value]:
            if entry is not None:
                words += [f"--{name.replace('_', '-')}", _number(entry) if isinstance(entry, float) else str(entry)]
    return printable(shlex.join(words))


def _number(value: float) -> str:
    """As the command line reads it, which knows no exponents: 0.00005."""
    return np.format_float_positional(value, trim="-")
