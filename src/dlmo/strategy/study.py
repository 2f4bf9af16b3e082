"""Study: measure setups and recipes side by side."""

import math
from collections.abc import Sequence
from pathlib import Path

from dlmo import networks as registry
from dlmo.errors import UserError
from dlmo.progress import Progress
from dlmo.strategy.job import Job, run_job
from dlmo.strategy.options import Options, command_line, given_options, listed
from dlmo.strategy.own import Own, open_own, own_arguments
from dlmo.strategy.train_only import TrainedOnly, train_only
from dlmo.study.recipe import SETUPS, Recipe, for_setup, parse, parse_steps
from dlmo.study.results import Run


def study(
    source: str | Path,
    *,
    network: str | Sequence[str] = (),
    setup: str | Sequence[str] = (),
    recipe: str | Sequence[str] = (),
    model: str | Path | None = None,
    mean: str | None = None,
    std: str | None = None,
    channel_order: str | None = None,
    kd: str = "kd",
    prune: str = "prune",
    options: Options | None = None,
    progress: Progress | None = None,
) -> Run:
    """Measure setups on networks, and further recipes as given. No setup means all of the study's.

    kd, prune: the steps that KD and PRN stand for in setups.
    model: the user's own, in place of the networks of this package; recipes are then steps alone.
    """
    options = options or Options(time=None)
    own = open_own(model, listed(network), mean, std, channel_order)
    return run_job(source, study_job(source, network, setup, recipe, own, options, kd, prune), options, progress).run


def train_study(
    source: str | Path,
    *,
    network: str | Sequence[str] = (),
    setup: str | Sequence[str] = (),
    recipe: str | Sequence[str] = (),
    model: str | Path | None = None,
    mean: str | None = None,
    std: str | None = None,
    channel_order: str | None = None,
    kd: str = "kd",
    prune: str = "prune",
    options: Options | None = None,
    progress: Progress | None = None,
) -> TrainedOnly:
    """The training part of `study`, for a machine without a runtime; the arguments are the same."""
    if model is not None and Path(model).suffix.lower() == ".tflite":  # opening one needs the runtime
        raise UserError(f"--train-only: {model} holds no network that could be trained")
    options = options or Options(time=None)
    own = open_own(model, listed(network), mean, std, channel_order)
    return train_only(source, study_job(source, network, setup, recipe, own, options, kd, prune), options, progress)


def epochs_by_network(entries: Sequence[str]) -> tuple[float | None, dict[str, float]]:
    """What --epochs says of all networks, None if nothing, and what it says of single ones, written NETWORK=EPOCHS."""
    for_all, single = None, {}
    for entry in entries:
        network, equals, text = entry.rpartition("=")
        try:
            value = float(text)
            if not math.isfinite(value):
                raise ValueError
        except ValueError:
            raise UserError(f'--epochs {entry}: "{text}" is not a number; write 20, or NETWORK=20') from None
        value = int(value) if value.is_integer() else value
        if equals:
            single[registry.canonical(network)] = value
        elif for_all is not None:
            raise UserError(
                f"--epochs {for_all} and --epochs {entry}: which one? for one network write NETWORK={entry}"
            )
        else:
            for_all = value
    return for_all, single


def study_job(
    source: str | Path,
    network: str | Sequence[str],
    setup: str | Sequence[str],
    recipe: str | Sequence[str],
    own: Own | None,
    options: Options,
    kd: str = "kd",
    prune: str = "prune",
) -> Job:
    """What is to be measured; the arguments are those of `study`."""
    named, recipe = [own.name] if own else listed(network), listed(recipe)
    codes = [code for entry in listed(setup) for code in entry.split(",")]
    if codes and not named:
        raise UserError("--setup needs --network NAME: a setup is measured on networks (see `dlmo networks`)")
    setups = codes or ([] if own and recipe else list(SETUPS))
    _check_used(setups if named else [], kd, prune)
    wanted = [for_setup(name, code, kd, prune) for name in named for code in setups]
    wanted += [Recipe(own.name, parse_steps(text)) if own else parse(text) for text in recipe]
    if not wanted:
        raise UserError("nothing to study: give --network NAME (see `dlmo networks`) or --recipe TEXT")
    wanted = list({str(entry): entry for entry in wanted}.values())
    arguments = {**own_arguments(own, named), "setup": codes, "recipe": recipe, **given_options(options)}
    arguments |= {name: step for name, step in (("kd", kd), ("prune", prune)) if step != name}
    command = command_line("study", [source], arguments)
    return Job(command, lambda images: wanted, own=own, strict=bool(codes or recipe))


def _check_used(setups: Sequence[str], kd: str, prune: str) -> None:
    """Raises UserError where --kd or --prune would change nothing."""
    if kd != "kd" and not any(code.split("+")[0] == "KD" for code in setups):
        raise UserError(f'--kd "{kd}": no setup here has a teacher; add --setup KD+FIQ or the like, or a --recipe')
    if prune != "prune" and not any("prune" in SETUPS.get(code.removeprefix("KD+"), "") for code in setups):
        raise UserError(f'--prune "{prune}": no setup here prunes; add --setup PRN or the like, or a --recipe')
