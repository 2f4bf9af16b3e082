"""The two jobs of dlmo on one data set: optimize (find the model for a budget) and study (measure recipes)."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlmo import networks
from dlmo.data import Dataset, load
from dlmo.errors import BudgetError, UserError
from dlmo.measure.accuracy import confusion_matrix
from dlmo.measure.latency import machine
from dlmo.package.folder import check_writable, mistakes_of, write_run
from dlmo.progress import Progress, SilentProgress
from dlmo.strategy import legality
from dlmo.strategy.budget import Budget, make_budget, parse_duration
from dlmo.strategy.choose import explain, nearest, pick
from dlmo.strategy.plan import Plan, augmentation_for, class_weights_for, default_networks, make_plan, remaining_seconds
from dlmo.study.recipe import SETUPS, Recipe, for_setup, parse
from dlmo.study.results import Run
from dlmo.study.run import Outcome, comparer, run_recipes
from dlmo.study.stages import Workspace, check_teaching
from dlmo.study.store import Store, default_root

# Beyond it, the seeds of epochs leave torch's range.
_LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Options:
    """What both jobs share. time: a duration such as "10m", None for full schedules; epochs overrides it; out: None
    writes nothing; store: None is the user's (see study.store.default_root)."""

    time: str | None = "10m"
    epochs: int | None = None
    threads: int = 1
    seeds: tuple[int, ...] = (0,)
    input_size: int | None = None
    group_by: str | None = None
    stem: str = "auto"
    target: str = "cpu"
    out: str | Path | None = None
    store: str | Path | None = None

    @property
    def folder(self) -> Path | None:
        return None if self.out is None else Path(self.out).expanduser()


def optimize(
    source: str | Path,
    *,
    service: str = "mid",
    max_size: str | None = None,
    max_latency: str | None = None,
    max_ram: str | None = None,
    min_accuracy: float | None = None,
    max_drop: float | None = None,
    network: Sequence[str] = (),
    options: Options | None = None,
    progress: Progress | None = None,
) -> Run:
    """Find the best model for a budget; see the command line's help for the arguments.

    Raises UserError for wrong input, BudgetError (after everything was written) when nothing meets the budget.
    """
    options = options or Options()
    limits = {"max_size": max_size, "max_latency": max_latency, "max_ram": max_ram}
    shares = {"min_accuracy": min_accuracy, "max_drop": max_drop}
    budget = make_budget(service, **limits, **shares)
    named = list(dict.fromkeys(networks.canonical(name) for name in network))
    arguments = {"service": service, **limits, **shares, "network": named, **_given(options)}

    def recipes_for(images: int) -> list[Recipe]:
        return [for_setup(name, code) for name in named or default_networks(images) for code in SETUPS]

    command = _command("optimize", source, arguments)
    return _run(source, command, recipes_for, bool(named), budget, options, progress)


def study(
    source: str | Path,
    *,
    network: Sequence[str] = (),
    setup: Sequence[str] = (),
    recipe: Sequence[str] = (),
    options: Options | None = None,
    progress: Progress | None = None,
) -> Run:
    """Measure setups on networks, and further recipes as given. No setup means all of the study's."""
    options = options or Options(time=None)
    codes = [code for entry in setup for code in entry.split(",")]
    if codes and not network:
        raise UserError("--setup needs --network NAME: a setup is measured on networks (see `dlmo networks`)")
    setups = codes or list(SETUPS)
    wanted = [for_setup(name, code) for name in network for code in setups] + [parse(text) for text in recipe]
    if not wanted:
        raise UserError("nothing to study: give --network NAME (see `dlmo networks`) or --recipe TEXT")
    wanted = list({str(entry): entry for entry in wanted}.values())
    arguments = {"network": list(network), "setup": codes, "recipe": list(recipe), **_given(options)}
    return _run(source, _command("study", source, arguments), lambda images: wanted, True, None, options, progress)


def _run(
    source: str | Path,
    command: str,
    recipes_for: Callable[[int], list[Recipe]],
    all_networks: bool,
    budget: Budget | None,
    options: Options,
    progress: Progress | None,
) -> Run:
    """recipes_for: the recipes to run for so many training images."""
    progress = progress or SilentProgress()
    seconds = None if options.time is None else parse_duration("--time", options.time)
    _check(options, recipes_for(0))
    store = Store(Path(options.store).expanduser() if options.store else default_root())
    with progress.stage(f"read {source}") as update:
        dataset = load(
            source,
            input_size=options.input_size,
            group_by=options.group_by,
            progress=lambda done, total: update(done / max(1, total)),
        )
    for note in dataset.notes:
        progress.note(note)
    weights = class_weights_for(dataset)
    workspace = Workspace(dataset, store, augmentation_for(dataset), weights, options.stem, progress)
    recipes: dict[str, list[Recipe]] = {}
    for recipe in recipes_for(len(dataset.train)):
        recipes.setdefault(recipe.network, []).append(recipe)
        check_teaching(workspace, recipe)
    plan = make_plan(
        workspace, list(recipes), recipes, seconds, options.epochs, all_networks=all_networks, seeds=len(options.seeds)
    )
    for note in plan.notes:
        progress.note(note)
    planned = [recipe for name in plan.networks for recipe in recipes[name]]
    with progress.total(remaining_seconds(workspace, planned, plan.networks, options.seeds)):
        outcomes, curves = run_recipes(workspace, planned, plan.networks, options.seeds, options.threads)
    run, best = _conclude(command, workspace, plan, budget, options, outcomes, curves)
    if options.folder is not None:
        write_run(options.folder, run, best, outcomes, dataset, options.group_by)
    if budget is not None and run.choice is None:
        raise BudgetError(run)
    return run


def _check(options: Options, recipes: list[Recipe]) -> None:
    """Everything that can be refused before any data is read."""
    if options.threads < 1:
        raise UserError(f"--threads {options.threads}: give 1 or more")
    if options.epochs is not None and options.epochs < 1:
        raise UserError(f"--epochs {options.epochs}: give 1 or more")
    for seed in options.seeds:
        if not 0 <= seed <= _LARGEST_SEED:
            raise UserError(f"--seed {seed}: give a number from 0 to {_LARGEST_SEED:,}")
    for recipe in recipes:
        legality.check(recipe, options.target)
    if options.folder is not None:
        check_writable(options.folder)


def _given(options: Options) -> dict[str, object]:
    """The options of a command that are not at their default."""
    defaults = Options()
    names = ("time", "epochs", "threads", "input_size", "group_by", "stem", "target")
    given = {name: getattr(options, name) for name in names if getattr(options, name) != getattr(defaults, name)}
    if options.seeds != defaults.seeds:
        given |= {"seed": options.seeds[0]} if len(options.seeds) == 1 else {"seeds": len(options.seeds)}
    return given


def _command(job: str, source: str | Path, arguments: dict[str, object]) -> str:
    """The command line that does the same again."""
    words = ["dlmo", job, str(source)]
    for name, value in arguments.items():
        for entry in value if isinstance(value, list) else [value]:
            if entry is not None:
                words += [f"--{name.replace('_', '-')}", f"{entry:g}" if isinstance(entry, float) else str(entry)]
    return shlex.join(words)


def _conclude(
    command: str,
    workspace: Workspace,
    plan: Plan,
    budget: Budget | None,
    options: Options,
    outcomes: list[Outcome],
    curves: dict,
) -> tuple[Run, Outcome]:
    """Choose, and gather what the report tells; also returns the outcome whose file is the answer."""
    dataset = workspace.dataset
    results = [outcome.result for outcome in outcomes]
    compare = comparer(outcomes, dataset)
    choice = None
    if budget is not None:
        picked = pick(results, budget)
        choice = explain(picked, results, budget, compare) if picked is not None else None
    shown = choice.result if choice else max(results, key=lambda result: result.validation_accuracy)
    best = next(outcome for outcome in outcomes if outcome.result is shown)
    run = Run(
        title=command,
        dataset=_describe(dataset, command),
        target=options.target,
        machine=machine() | {"training": f"trained on {plan.device}"},
        budget=budget.words() if budget else {},
        results=tuple(results),
        choice=choice,
        nearest=nearest(results, budget) if budget and choice is None else (),
        notes=(*dataset.notes, *plan.notes, *_handling_notes(workspace)),
        classes=dataset.classes,
        confusion=tuple(map(tuple, confusion_matrix(best.test_scores, dataset.test.labels).tolist())),
        mistakes=mistakes_of(best.test_scores, dataset),
        curves=curves,
    )
    return run, best


def _handling_notes(workspace: Workspace) -> tuple[str, ...]:
    augmentation = workspace.augmentation
    parts = [
        "mirrored" if augmentation.flip else "not mirrored",
        f"shifted by up to {augmentation.shift} pixels",
        f"cutout {augmentation.cutout} pixels" if augmentation.cutout else "",
        f"lighting +-{augmentation.lighting * 100:g} %" if augmentation.lighting else "",
    ]
    notes = [f"augmentation: {', '.join(part for part in parts if part)}"]
    if workspace.class_weights:
        low, high = min(workspace.class_weights), max(workspace.class_weights)
        notes.append(f"classes are unbalanced: the loss weighs images by 1/sqrt(class size), {low:.2f} to {high:.2f}")
    return tuple(notes)


def _describe(dataset: Dataset, command: str) -> dict:
    counts = dataset.class_counts()
    return {
        "name": dataset.name,
        "classes": list(dataset.classes),
        "train_images": len(dataset.train),
        "validation_images": len(dataset.validation),
        "test_images": len(dataset.test),
        "input": list(dataset.input_shape),
        "resize": dataset.preprocessing.to_json()["resize"],
        "class_counts": {name: int(count) for name, count in zip(dataset.classes, counts)},
        "skipped": [{"file": skipped.path, "reason": skipped.reason} for skipped in dataset.skipped],
        "fingerprint": dataset.fingerprint,
        "command": command,
    }
