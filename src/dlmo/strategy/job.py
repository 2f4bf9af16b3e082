"""What the jobs of dlmo (optimize, study, compress) share: data in, recipes run, a choice and its report out."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlmo.data import Dataset, load
from dlmo.errors import UserError
from dlmo.measure import targets
from dlmo.measure.accuracy import confusion_matrix
from dlmo.measure.latency import machine
from dlmo.measure.layers import Inspection, inspect_own
from dlmo.package.folder import check_writable, mistakes_of, write_run
from dlmo.progress import Progress, SilentProgress
from dlmo.strategy import legality
from dlmo.strategy.budget import Budget, parse_duration
from dlmo.strategy.choose import asked_for, explain, nearest, pick
from dlmo.strategy.own import Own, possible, take_in
from dlmo.strategy.plan import augmentation_for, class_weights_for, make_plan, remaining_seconds
from dlmo.study.recipe import Float32, Qat, Recipe, parse
from dlmo.study.results import Choice, Result, Run
from dlmo.study.run import Outcome, comparer, run_recipes
from dlmo.study.stages import Workspace, check_cutting, check_teaching
from dlmo.study.store import Store, default_root

# Beyond it, the seeds of epochs leave torch's range.
_LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Options:
    """What all jobs share. time: a duration such as "10m", None for full schedules; epochs overrides it; out: None
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


@dataclass(frozen=True)
class Job:
    """One job on one data set.

    command: the command line that does the same again. recipes_for: the recipes to run for so many training images.
    all_networks: the user named the networks, so none may be dropped for lack of time. budget: what to choose for;
    given: the recipe whose result is the choice instead; neither: nothing is chosen. own: the user's model, the
    network of all recipes; strict: refuse recipes that it cannot go through, instead of leaving them out. notes: what
    the report shall tell beside its own.
    """

    command: str
    recipes_for: Callable[[int], list[Recipe]]
    all_networks: bool = True
    budget: Budget | None = None
    given: Recipe | None = None
    own: Own | None = None
    strict: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finished:
    """A job's run, every file with its scores, and the data, for whoever compares further."""

    run: Run
    outcomes: list[Outcome]
    dataset: Dataset


def run_job(source: str | Path, job: Job, options: Options, progress: Progress | None) -> Finished:
    """Read the data, plan, run every recipe, choose, and write the folder of `options.out`."""
    progress = progress or SilentProgress()
    target = targets.find(options.target)
    seconds = None if options.time is None else parse_duration("--time", options.time)
    _check(options, job.recipes_for(0))
    store = Store(Path(options.store).expanduser() if options.store else default_root())
    own = job.own
    with progress.stage(f"read {source}") as update:
        dataset = load(
            source,
            input_size=options.input_size or (own.source.input_size if own else None),
            channels=own.source.channels if own else None,
            group_by=options.group_by,
            progress=lambda done, total: update(done / max(1, total)),
        )
    network = take_in(own.source, own.request, dataset, options.stem, progress) if own else None
    notes = (*job.notes, *dataset.notes, *(network.notes if network else ()))
    for note in notes:
        progress.note(note)
    workspace = Workspace(
        dataset, store, augmentation_for(dataset), class_weights_for(dataset), options.stem, progress, target, network
    )
    recipes: dict[str, list[Recipe]] = {}
    for recipe in job.recipes_for(len(dataset.train)):
        if network is None or possible(recipe, network, job.strict):
            recipes.setdefault(recipe.network, []).append(recipe)
            check_teaching(workspace, recipe)
            check_cutting(workspace, recipe)
    seeds = options.seeds
    plan = make_plan(
        workspace, list(recipes), recipes, seconds, options.epochs, all_networks=job.all_networks, seeds=len(seeds)
    )
    for note in plan.notes:
        progress.note(note)
    planned = [recipe for name in plan.networks for recipe in recipes[name]]
    with progress.total(remaining_seconds(workspace, planned, plan.networks, seeds)):
        outcomes, curves = run_recipes(workspace, planned, plan.networks, seeds, options.threads)
    choice, best = _choose(job, outcomes, dataset)
    results = tuple(outcome.result for outcome in outcomes)
    run = Run(
        title=job.command,
        dataset=_describe(dataset, job.command),
        target=options.target,
        machine=machine() | {"training": f"trained on {plan.device}"},
        budget=job.budget.words() if job.budget else {},
        results=results,
        choice=choice,
        nearest=nearest(results, job.budget) if job.budget and choice is None else (),
        notes=(*notes, *plan.notes, *_handling_notes(workspace), *_repair_notes(results)),
        classes=dataset.classes,
        confusion=tuple(map(tuple, confusion_matrix(best.test_scores, dataset.test.labels).tolist())),
        mistakes=mistakes_of(best.test_scores, dataset),
        curves=curves,
        layers=_layers(best, outcomes, dataset),
    )
    if options.folder is not None:
        write_run(options.folder, run, best, outcomes, dataset, options.group_by)
    return Finished(run, outcomes, dataset)


def _choose(job: Job, outcomes: Sequence[Outcome], dataset: Dataset) -> tuple[Choice | None, Outcome]:
    """The choice, if one is asked for and possible, and the outcome whose file is the answer."""
    results = [outcome.result for outcome in outcomes]
    compare = comparer(outcomes, dataset)
    choice = None
    if job.budget is not None:
        picked = pick(results, job.budget)
        choice = explain(picked, results, job.budget, compare) if picked is not None else None
    elif job.given is not None:
        wanted = next(result for result in results if result.recipe == str(job.given))
        choice = asked_for(wanted, results, compare)
    shown = choice.result if choice else max(results, key=lambda result: result.validation_accuracy)
    return choice, next(outcome for outcome in outcomes if outcome.result is shown)


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


def given_options(options: Options) -> dict[str, object]:
    """The options of a command that are not at their default."""
    defaults = Options()
    names = ("time", "epochs", "threads", "input_size", "group_by", "stem", "target")
    given = {name: getattr(options, name) for name in names if getattr(options, name) != getattr(defaults, name)}
    if options.seeds != defaults.seeds:
        given |= {"seed": options.seeds[0]} if len(options.seeds) == 1 else {"seeds": len(options.seeds)}
    return given


def command_line(job: str, inputs: Sequence[str | Path], arguments: dict[str, object]) -> str:
    """The command line that does the same again."""
    words = ["dlmo", job, *map(str, inputs)]
    for name, value in arguments.items():
        for entry in value if isinstance(value, list) else [value]:
            if entry is not None:
                words += [f"--{name.replace('_', '-')}", f"{entry:g}" if isinstance(entry, float) else str(entry)]
    return shlex.join(words)


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


def _layers(best: Outcome, outcomes: Sequence[Outcome], dataset: Dataset) -> Inspection | None:
    """The answer's operators against the float file of the same training, else of the same network."""
    recipe = parse(best.result.recipe)
    trained = tuple(step for step in recipe.steps[:-1] if not isinstance(step, Qat))
    for steps in ((*trained, Float32()), (Float32(),)):
        text = str(Recipe(recipe.network, steps))
        for other in outcomes:
            same = other.result.recipe == text and other.result.seed == best.result.seed
            if same and other is not best:
                return inspect_own(best.result.recipe, best.content, text, other.content, dataset)
    return None


def _repair_notes(results: Sequence[Result]) -> tuple[str, ...]:
    return tuple(f"{result.recipe}: int8 needed {result.repair}" for result in results if result.repair)


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
