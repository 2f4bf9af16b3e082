"""What the jobs of dlmo (optimize, study, compress) share: data in, recipes run, a choice and its report out.

What needs a runtime is imported where it is used: `train_only` shares the first half and has none.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dlmo import tracking
from dlmo.data import Dataset, load
from dlmo.errors import PASSING, UserError, one_line
from dlmo.measure import targets
from dlmo.measure.accuracy import accuracy, confusion_matrix
from dlmo.progress import Progress, SilentProgress
from dlmo.strategy import remarks
from dlmo.strategy.budget import Budget, parse_duration
from dlmo.strategy.choose import AS_EXPECTED, asked_for, choose, is_expected, nearest, shut_out
from dlmo.strategy.confirm import can_confirm, confirm
from dlmo.strategy.evidence import out_of_reach, too_large
from dlmo.strategy.options import Options, check_options
from dlmo.strategy.own import Own, possible, take_in
from dlmo.strategy.plan import (
    PLANNED_SHARE,
    Plan,
    TooShort,
    augmentation_for,
    class_weights_for,
    full_epochs,
    macs_of,
    make_plan,
    plan_for,
    remaining_seconds,
    remaining_trainings,
)
from dlmo.strategy.search import Found, Terms, search
from dlmo.strategy.space import Space
from dlmo.study.graph import file_task
from dlmo.study.recipe import Float32, Mixed, Qat, Recipe, parse
from dlmo.study.results import Choice, Result, Run, most_accurate
from dlmo.study.run import Cluster, Outcome, comparer, make_recipes, run_recipes
from dlmo.study.stages import make_artifact, scores
from dlmo.study.store import open_store
from dlmo.study.trainings import check_steps, check_teaching
from dlmo.study.workspace import NetworkPlan, Workspace
from dlmo.tracking.follow import Tracked
from dlmo.tracking.work import Work, work_of

if TYPE_CHECKING:
    from dlmo.measure.layers import Inspection

# A search ends when this share of the time is gone, less what measuring all files at its end takes. Where validation
# images are few, much of the rest goes into looking again at what it found, until the last share is gone; there the
# setups before the search are planned into its share too.
_SEARCHED_SHARE, _SEARCHED_SHARE_OF_FEW, _CONFIRMED_SHARE = 0.95, 0.55, 0.97
_MEASURED_FILES, _SECONDS_TO_MEASURE = 15, 2.0
# Its first trainings take this share of a full schedule.
_SHORT_SHARE = 0.2
# At most so much of it may go by before it is known whether limits are in reach.
_SHAPES_SHARE = 0.25


@dataclass(frozen=True)
class Job:
    """One job on one data set.

    command: the command line that does the same again. recipes_for: the recipes to run for so many training images.
    default_time: the time to plan for where the user names none; None for full schedules. space_for: what to search
    in the time that the recipes leave, for such data; None for no search.
    all_networks: the user named the networks, so none may be dropped for lack of time. budget: what to choose for;
    given: the recipe whose result is the choice instead; neither: nothing is chosen. own: the user's model, the
    network of all recipes; strict: refuse recipes that it cannot go through, instead of leaving them out. notes: what
    the report shall tell beside its own. limited: the user set limits that the shape of a network may tell to be out
    of reach, before any training.
    """

    command: str
    recipes_for: Callable[[int], list[Recipe]]
    all_networks: bool = True
    budget: Budget | None = None
    given: Recipe | None = None
    own: Own | None = None
    strict: bool = False
    notes: tuple[str, ...] = ()
    limited: bool = False
    default_time: str | None = None
    space_for: Callable[[Dataset], Space] | None = None


@dataclass(frozen=True)
class Finished:
    """A job's run, every file with its scores, and what it worked on, for whoever compares further."""

    run: Run
    outcomes: list[Outcome]
    workspace: Workspace


@dataclass(frozen=True)
class Prepared:
    """A job whose data are read and whose recipes, by network, are known to be possible.

    seconds: it may take, None for full schedules, since `begun`, by time.monotonic(). notes: said so far.
    """

    workspace: Workspace
    recipes: dict[str, list[Recipe]]
    seconds: float | None
    notes: tuple[str, ...]
    trackers: list[tracking.Tracker]
    begun: float


@dataclass(frozen=True)
class Planned:
    """A job just before its trainings. recipes: those there is time for; work: the same for trackers."""

    plan: Plan
    recipes: list[Recipe]
    work: Work
    tracked: Tracked


def _lies_in(folder: Path, source: str | Path) -> bool:
    """Whether a folder is one of the source's; never where the source cannot be looked at, which reading it tells."""
    try:
        images = Path(source).expanduser()
        return images.is_dir() and folder.resolve().is_relative_to(images.resolve())
    except (OSError, RuntimeError):
        return False


def prepare(source: str | Path, job: Job, options: Options, progress: Progress, *, measuring: bool = True) -> Prepared:
    """Refuse what can be refused, and read the data. Without `measuring`, no runtime is asked for, and no --out."""
    begun = time.monotonic()
    found = {name: targets.find(name, ready=measuring) for name in options.targets}
    target = found.pop(options.target)
    allowed = options.time or job.default_time
    seconds = None if allowed is None else parse_duration("--time", allowed)
    check_options(options, job.recipes_for(0))
    if job.space_for is not None and options.epochs_of:
        raise UserError("a search trains all networks alike; give one number of epochs, or no search")
    if job.space_for is not None and len(options.seeds) != 1:
        raise UserError(f"seeds {options.seeds}: a search has one seed; give one, or no --time")
    if measuring and options.folder is not None:
        from dlmo.package.folder import check_free, check_writable

        check_writable(options.folder)
        check_free(options.folder)
        if _lies_in(options.folder, source):
            raise UserError(f"--out {options.folder} lies among the images of {source}; name a folder outside of it")
    trackers = tracking.find(options.track)
    store = open_store(options.store)
    own = job.own
    with progress.stage(f"read {source}") as update:
        dataset = load(
            source,
            input_size=options.input_size if options.input_size is not None or not own else own.source.input_size,
            channels=own.source.channels if own else None,
            group_by=options.group_by,
            progress=lambda done, total: update(done / max(1, total)),
        )
    network = take_in(own.source, own.request, dataset, options.stem, progress) if own else None
    unused = ("--epochs is given, so --time is not used",) if options.epochs and options.time else ()
    notes = (*job.notes, *unused, *dataset.notes, *(network.notes if network else ()))
    for note in notes:
        progress.note(note)
    workspace = Workspace(
        dataset, store, augmentation_for(dataset), class_weights_for(dataset), options.stem, progress, target, network,
        found,
    )  # fmt: skip
    recipes: dict[str, list[Recipe]] = {}
    for recipe in job.recipes_for(len(dataset.train)):
        if network is None or possible(recipe, network, job.strict):
            recipes.setdefault(recipe.network, []).append(recipe)
            try:
                _check_recipe(workspace, recipe, measuring)
            except (UserError, MemoryError, *PASSING):
                raise
            except Exception as error:
                if network is None:
                    raise
                raise UserError(f"{recipe}: {network.name} breaks it: {one_line(error)}") from error
    return Prepared(workspace, recipes, seconds, notes, trackers, begun)


def _check_recipe(workspace: Workspace, recipe: Recipe, measuring: bool) -> None:
    """Refuse what can be seen before any training not to work on these data."""
    check_teaching(workspace, recipe)
    check_steps(workspace, recipe)
    if measuring and isinstance(recipe.precision, Mixed) and recipe.precision.size is not None:
        from dlmo.study.mixed import check_size

        check_size(workspace, recipe)


def plan_job(ready: Prepared, job: Job, options: Options, *, known_only: bool = False) -> Planned | None:
    """Decide how long everything is trained, or take the plan that the store holds; with `known_only`, nothing else."""
    workspace, recipes, seeds = ready.workspace, ready.recipes, options.seeds
    plan = make_plan(
        workspace,
        list(recipes),
        recipes,
        ready.seconds,
        options.epochs,
        epochs_of=options.epochs_of,
        all_networks=job.all_networks,
        seeds=seeds,
        known_only=known_only,
        begun=ready.begun,
        share=_SEARCHED_SHARE_OF_FEW if job.space_for is not None and can_confirm(workspace) else PLANNED_SHARE,
    )
    if plan is None:
        return None
    for note in plan.notes:
        workspace.progress.note(note)
    planned = [recipe for name in plan.networks for recipe in recipes[name]]
    return _tracked(ready, job, options, plan, planned)


def _tracked(ready: Prepared, job: Job, options: Options, plan: Plan, recipes: list[Recipe]) -> Planned:
    """The plan with what trackers are told of it."""
    workspace = ready.workspace
    given = {"target": options.target, "threads": options.threads, "trained_on": plan.device}
    work = work_of(job.command, workspace, recipes, plan.networks, options.seeds, given)
    return Planned(plan, recipes, work, Tracked(ready.trackers, work, workspace.store, workspace.progress))


def run_job(source: str | Path, job: Job, options: Options, progress: Progress | None) -> Finished:
    """Read the data, plan, run every recipe, choose, and write the folder of `options.out`."""
    begun = time.monotonic()
    return run_prepared(prepare(source, job, options, progress or SilentProgress()), job, options, begun)


def run_prepared(ready: Prepared, job: Job, options: Options, begun: float, planned: Planned | None = None) -> Finished:
    """The rest of `run_job`. begun: when its time began, by time.monotonic(). planned: where that was done already."""
    from dlmo.measure.machine import machine
    from dlmo.package.folder import mistakes_of, write_run

    workspace, dataset, seeds = ready.workspace, ready.workspace.dataset, options.seeds
    space = _space(job, ready)
    # A plan times trainings, which for a long job takes longer than to see that a limit is out of reach.
    planned = planned or plan_job(ready, job, options, known_only=job.limited)
    # Else refusing would save nothing.
    if job.limited and (planned is None or space is not None or _trains(workspace, planned, seeds)):
        deadline = math.inf if ready.seconds is None else begun + _SHAPES_SHARE * ready.seconds
        near = _nearest_in_reach(ready, space, job, options, deadline)
        if near:
            return _refused(job, options, ready, near)
    try:
        planned = planned or plan_job(ready, job, options)
    except TooShort:
        # More time would not help where limits are out of reach, and if they are not, it will need these very files.
        near = _nearest_in_reach(ready, space, job, options, math.inf) if job.limited else ()
        if not near:
            raise
        return _refused(job, options, ready, near)
    left_out: tuple[str, ...] = ()
    if space is not None and job.budget.max_size is not None:
        dropped = too_large(workspace, planned.recipes, job.budget)
        if dropped:
            left_out = (f"not tried, as their files are too large whatever they learn: {len(dropped)} of the setups",)
            kept = [recipe for recipe in planned.recipes if recipe not in dropped]
            planned = _tracked(ready, job, options, planned.plan, kept)
    plan, recipes, plans, searched = planned.plan, planned.recipes, planned.plan.networks, None
    cluster = _cluster(options)
    expected = expected_seconds(ready, planned, options)
    left = ready.seconds - (time.monotonic() - begun) if space is not None else 0.0
    to_the_end = left > (expected or 0.0)  # a search takes the time there is
    with planned.tracked.following():
        with workspace.progress.total(max(expected or 0.0, left) if space is not None else expected, to_the_end):
            failed: dict[str, Exception] = {}
            if space is not None:
                failed = make_recipes(workspace, recipes, plans, seeds, cluster)
                made = [recipe for recipe in recipes if file_task(recipe, seeds[0]) not in failed]
                found = _search(workspace, space, job, options, plan, made, ready.seconds, begun)
                known, plans, searched = set(map(str, recipes)), _merged(found.plans, plans), found.search
                recipes = [*recipes, *(recipe for recipe in found.recipes if str(recipe) not in known)]
            outcomes, failures, curves = run_recipes(
                workspace, recipes, plans, seeds, options.threads, needed=job.given, cluster=cluster, failed=failed
            )
            looked_at, judged = (), [outcome.result for outcome in outcomes]
            if space is not None and can_confirm(workspace):
                deadline = begun + ready.seconds * _CONFIRMED_SHARE
                confirmed = confirm(workspace, outcomes, plans, seeds[0], job.budget, deadline)
                outcomes, judged, looked_at = confirmed.outcomes, confirmed.judged, confirmed.notes
        choice, best = _choose(job, outcomes, dataset, judged)
        guessed = remarks.guessed(best.result, dataset)
        if choice is not None and guessed:  # whatever is said of steps and of the study then says nothing
            choice = replace(choice, reasons=(*guessed, *choice.reasons), advice="")
        results = tuple(outcome.result for outcome in outcomes)
        trained = any(result.epochs for result in results)  # a user's own model may only be converted
        run = Run(
            title=job.command,
            dataset=_describe(dataset, job.command),
            target=options.target,
            machine=machine() | ({"training": remarks.trained_on(results, plan.device)} if trained else {}),
            budget=job.budget.words() if job.budget else {},
            results=results,
            choice=choice,
            nearest=_near(choice, results, judged, job.budget),
            notes=(
                *ready.notes,
                *left_out,
                *plan.notes,
                *(remarks.handling(workspace) if trained else ()),
                *looked_at,
                *remarks.repairs(results, options.target),
                *remarks.slower_than_asked(results, options),
                *remarks.without_numbers(outcomes),
                *(guessed if choice is None else ()),
                *remarks.doubts(options, results),
                *remarks.few_images(choice, job.budget, can_confirm(workspace)),
            ),
            search=searched,
            classes=dataset.classes,
            confusion=tuple(map(tuple, confusion_matrix(best.test_scores, dataset.test.labels).tolist())),
            test_counts=tuple(np.bincount(dataset.test.labels, minlength=len(dataset.classes)).tolist()),
            mistakes=mistakes_of(best, dataset),
            curves=curves,
            layers=_layers(best, outcomes, dataset),
            failures=tuple(failures),
        )
    planned.tracked.finish(run, outcomes)
    if options.folder is not None:
        write_run(options.folder, run, best, outcomes, dataset, options.group_by)
    return Finished(run, outcomes, workspace)


def _near(
    choice: Choice | None, results: Sequence[Result], judged: Sequence[Result], budget: Budget | None
) -> tuple[str, ...]:
    """What the limits left out narrowly, or the allowed loss alone. judged: see choose; what is only expected is said
    to be."""
    if budget is None:
        return ()
    lines = nearest(judged, budget) if choice is None else shut_out(choice.result, judged, budget)
    expected = {entry.recipe for entry, result in zip(judged, results) if is_expected(entry, result)}
    return tuple(line + AS_EXPECTED * (line.partition(": ")[0] in expected) for line in lines)


def expected_seconds(ready: Prepared, planned: Planned, options: Options) -> float | None:
    """What the recipes of a planned job still take; None for a cluster, which tells its own time left by its size."""
    if options.cluster is not None:
        return None
    return remaining_seconds(ready.workspace, planned.recipes, planned.plan.networks, options.seeds)


def _trains(workspace: Workspace, planned: Planned, seeds: Sequence[int]) -> bool:
    """Whether a planned job has anything left to train."""
    return bool(remaining_trainings(workspace, planned.recipes, planned.plan.networks, seeds))


def _space(job: Job, ready: Prepared) -> Space | None:
    """What to search in, where there is something to search."""
    own = ready.workspace.own
    trainable = own is None or own.post_training_only is None
    return job.space_for(ready.workspace.dataset) if job.space_for and trainable else None


def _search(
    workspace: Workspace,
    space: Space,
    job: Job,
    options: Options,
    plan: Plan,
    planned: Sequence[Recipe],
    seconds: float,
    begun: float,
) -> Found:
    """Search in what is left of the time. planned: was made already; its networks may become teachers.

    seconds: allowed for the whole job, which began at `begun`, by time.monotonic().
    """
    (seed,) = options.seeds
    plain = {}
    for recipe in planned:
        if recipe.steps == (Float32(),):
            content = make_artifact(workspace, recipe, plan.networks[recipe.network], seed).content()
            right = accuracy(scores(workspace, content, "validation", str(recipe)), workspace.dataset.validation.labels)
            plain[recipe.network] = right.value
    macs = max(macs_of(workspace, name) for name in plan.networks)
    per_file = _SECONDS_TO_MEASURE + workspace.target.seconds_to_predict(len(workspace.dataset.test), macs)
    to_measure = (len(planned) + _MEASURED_FILES) * per_file
    share = _SEARCHED_SHARE_OF_FEW if can_confirm(workspace) else _SEARCHED_SHARE
    short = round(_SHORT_SHARE * full_epochs(len(workspace.dataset.train)))
    terms = Terms(
        short=min(plan.epochs, max(1, min(short, plan.epochs // 2))),
        long=plan.epochs,
        plan_of=lambda epochs: plan_for(workspace, epochs),
        seconds=seconds,
        deadline=begun + seconds * share - to_measure,
        budget=job.budget,
        limited=job.limited,
        seed=seed,
        threads=options.threads,
        epoch_seconds={name: entry.epoch_seconds for name, entry in plan.networks.items()},
        plain=plain,
        judged_again=can_confirm(workspace),
    )
    return search(workspace, space, terms)


def _merged(found: Mapping[str, NetworkPlan], planned: Mapping[str, NetworkPlan]) -> dict[str, NetworkPlan]:
    """The plans of a search beside those it began with, which know nothing of its teachers."""
    teachers = {name: plan.teacher_seconds for name, plan in found.items()}
    kept = {
        name: replace(plan, teacher_seconds={**teachers.get(name, {}), **plan.teacher_seconds})
        for name, plan in planned.items()
    }
    return {**found, **kept}


def _nearest_in_reach(
    ready: Prepared, space: Space | None, job: Job, options: Options, deadline: float
) -> tuple[str, ...]:
    """Empty where a candidate may keep the limits, see evidence.out_of_reach."""
    known = [recipe for recipes in ready.recipes.values() for recipe in recipes]
    candidates = [*known, *(space.smallest() if space else ())]
    return out_of_reach(ready.workspace, candidates, job.budget, options.threads, deadline, job.all_networks)


def _refused(job: Job, options: Options, ready: Prepared, near: tuple[str, ...]) -> Finished:
    """The run of a budget that no candidate can keep, whatever it learns."""
    from dlmo.measure.machine import machine
    from dlmo.package.folder import holds_model, write_run

    dataset = ready.workspace.dataset
    kept = options.folder is not None and holds_model(options.folder)
    notes = ["nothing was trained: the files of the smallest candidates, untrained, break the limits"]
    if job.default_time is not None and job.space_for is None and not options.epochs and not job.all_networks:
        notes.append("with --time, such as --time 15m, narrower networks and cut ones are tried too")
    if kept:
        notes.append(f"{options.out} keeps the model and the reports of the earlier run; nothing was written")
    run = Run(
        title=job.command,
        dataset=_describe(dataset, job.command),
        target=options.target,
        machine=machine(),
        budget=job.budget.words(),
        results=(),
        choice=None,
        nearest=near,
        notes=(*ready.notes, *notes),
        classes=dataset.classes,
        confusion=(),
        mistakes=(),
    )
    if options.folder is not None and not kept:
        write_run(options.folder, run, None, [], dataset, options.group_by)
    return Finished(run, [], ready.workspace)


def _choose(
    job: Job, outcomes: Sequence[Outcome], dataset: Dataset, judged: Sequence[Result]
) -> tuple[Choice | None, Outcome]:
    """The choice, if one is asked for and possible, and the outcome whose file is the answer. judged: see choose."""
    results = [outcome.result for outcome in outcomes]
    compare = comparer(outcomes, dataset)
    choice = None
    if job.budget is not None:
        choice = choose(results, job.budget, compare, judged)
    elif job.given is not None:
        wanted = next((result for result in results if result.recipe == str(job.given)), None)
        choice = None if wanted is None else asked_for(wanted, results, compare)
    shown = choice.result if choice else most_accurate(results)
    return choice, next(outcome for outcome in outcomes if outcome.result is shown)


def _cluster(options: Options) -> Cluster | None:
    """What makes the stages elsewhere, if asked for."""
    if options.cluster is None:
        return None
    from dlmo.study.cluster import make_on

    return partial(make_on, options.cluster)


def _layers(best: Outcome, outcomes: Sequence[Outcome], dataset: Dataset) -> "Inspection | None":
    """The answer's operators against the float file of the same training. Of other trainings, layers differ for other
    reasons than the number format."""
    from dlmo.measure.layers import inspect_own

    recipe = parse(best.result.recipe)
    trained = tuple(step for step in recipe.steps[:-1] if not isinstance(step, Qat))
    text = str(Recipe(recipe.network, (*trained, Float32())))
    for other in outcomes:
        same = other.result.recipe == text and other.result.seed == best.result.seed
        if same and other is not best:
            return inspect_own(best.result.recipe, best.content, text, other.content, dataset)
    return None


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
