"""The two jobs of dlmo on one data set: optimize (find the model for a budget) and study (measure recipes)."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dlmo import networks
from dlmo.data import Dataset, load
from dlmo.errors import BudgetError, UserError
from dlmo.measure.accuracy import confusion_matrix
from dlmo.measure.latency import machine
from dlmo.package.folder import check_writable, mistakes_of, write_run
from dlmo.strategy import legality
from dlmo.strategy.budget import Budget, make_budget, parse_duration
from dlmo.strategy.choose import explain, nearest, pick
from dlmo.strategy.plan import DEFAULT_NETWORKS, Plan, augmentation_for, class_weights_for, make_plan, remaining_seconds
from dlmo.study.recipe import SETUPS, Recipe, for_setup, parse
from dlmo.study.results import Run
from dlmo.study.run import Outcome, comparer, run_recipes
from dlmo.study.stages import Progress, Workspace
from dlmo.study.store import Store, default_root


@dataclass(frozen=True)
class Options:
    """What both jobs share. time: a duration such as "10m"; epochs overrides it; out: None writes nothing."""

    time: str | None = "10m"
    epochs: int | None = None
    threads: int = 1
    seeds: tuple[int, ...] = (0,)
    input_size: int | None = None
    group_by: str | None = None
    stem: str = "auto"
    target: str = "cpu"
    out: Path | None = None
    store: Path | None = None


def optimize(
    source: str,
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
    budget = make_budget(service, **limits, min_accuracy=min_accuracy, max_drop=max_drop)
    names = list(dict.fromkeys(networks.canonical(name) for name in network))
    candidates = names or list(DEFAULT_NETWORKS[service])
    recipes = {name: [for_setup(name, code) for code in SETUPS] for name in candidates}
    return _run(source, f"dlmo optimize {source}", candidates, recipes, bool(names), budget, options, progress)


def study(
    source: str,
    *,
    network: Sequence[str] = (),
    setup: Sequence[str] = (),
    recipe: Sequence[str] = (),
    options: Options | None = None,
    progress: Progress | None = None,
) -> Run:
    """Measure setups on networks, and further recipes as given. No setup means all of the study's."""
    codes = [code for entry in setup for code in entry.split(",")] or ([] if recipe and not network else list(SETUPS))
    wanted = [for_setup(name, code) for name in network for code in codes] + [parse(text) for text in recipe]
    if not wanted:
        raise UserError("nothing to study: give --network NAME (see `dlmo networks`) or --recipe TEXT")
    recipes: dict[str, list[Recipe]] = {}
    for entry in {str(entry): entry for entry in wanted}.values():
        recipes.setdefault(entry.network, []).append(entry)
    title = f"dlmo study {source}"
    return _run(source, title, list(recipes), recipes, True, None, options or Options(), progress)


def _run(
    source: str,
    title: str,
    candidates: list[str],
    recipes: dict[str, list[Recipe]],
    all_networks: bool,
    budget: Budget | None,
    options: Options,
    progress: Progress | None,
) -> Run:
    from dlmo.report.progress import SilentProgress

    progress = progress or SilentProgress()
    seconds = None if options.epochs or options.time is None else parse_duration("--time", options.time, default="s")
    _check(options, recipes)
    store = Store(options.store or default_root())
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
    plan = make_plan(
        workspace, candidates, recipes, seconds, options.epochs, all_networks=all_networks, seeds=len(options.seeds)
    )
    for note in plan.notes:
        progress.note(note)
    chosen_recipes = [recipe for name in plan.networks for recipe in recipes[name]]
    expected = remaining_seconds(workspace, chosen_recipes, plan.networks, options.seeds)
    with progress.total(expected):
        outcomes, curves = run_recipes(workspace, chosen_recipes, plan.networks, options.seeds, options.threads)
    run, best = _conclude(title, workspace, plan, budget, options, outcomes, curves)
    if options.out is not None:
        write_run(options.out, run, best, outcomes, dataset, options.group_by)
    if budget is not None and run.choice is None:
        raise BudgetError(run)
    return run


def _check(options: Options, recipes: dict[str, list[Recipe]]) -> None:
    """Everything that can be refused before any data is read."""
    if options.threads < 1:
        raise UserError(f"--threads {options.threads}: give 1 or more")
    if options.epochs is not None and options.epochs < 1:
        raise UserError(f"--epochs {options.epochs}: give 1 or more")
    for entries in recipes.values():
        for recipe in entries:
            legality.check(recipe, options.target)
    if options.out is not None:
        check_writable(options.out)


def _conclude(
    title: str,
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
        title=title,
        dataset=_describe(dataset, title, options),
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


def _describe(dataset: Dataset, title: str, options: Options) -> dict:
    defaults = Options()
    flags = []
    for name in ("time", "epochs", "threads", "input_size", "group_by", "stem", "target"):
        value = getattr(options, name)
        if value != getattr(defaults, name) and value is not None:
            flags += [f"--{name.replace('_', '-')}", str(value)]
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
        "command": " ".join([title, *map(shlex.quote, flags)]),
    }
