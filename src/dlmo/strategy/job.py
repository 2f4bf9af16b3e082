"""What the jobs of dlmo (optimize, study, compress) share: data in, recipes run, a choice and its report out.

What needs a runtime is imported where it is used: `train_only` shares the first half and has none.
"""

import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dlmo import tracking
from dlmo.data import Dataset, load
from dlmo.data.files import printable
from dlmo.errors import PASSING, UserError, one_line
from dlmo.measure import targets
from dlmo.measure.accuracy import accuracy, confusion_matrix
from dlmo.networks.stems import choose as choose_stem
from dlmo.progress import Progress, SilentProgress
from dlmo.strategy import legality
from dlmo.strategy.budget import Budget, parse_duration
from dlmo.strategy.choose import AS_EXPECTED, asked_for, choose, is_expected, nearest, shut_out
from dlmo.strategy.confirm import confirm
from dlmo.strategy.evidence import Evidence, convertible, gather, impossible, refusal, smallest
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
from dlmo.study.recipe import Float32, Mixed, Prune, PruneChannels, Qat, Recipe, parse
from dlmo.study.results import NOT_ENOUGH, Choice, Result, Run, most_accurate
from dlmo.study.run import Cluster, Outcome, comparer, make_recipes, run_recipes
from dlmo.study.shape import untrained_file
from dlmo.study.stages import make_artifact, scores
from dlmo.study.store import open_store
from dlmo.study.trainings import check_cutting, check_teaching
from dlmo.study.workspace import NetworkPlan, Workspace
from dlmo.tracking.follow import Tracked
from dlmo.tracking.work import Work, work_of

if TYPE_CHECKING:
    from dlmo.measure.layers import Inspection

# Beyond it, the seeds of epochs leave torch's range.
_LARGEST_SEED = 2**31 - 1
# A search ends when this share of the time is gone, less what measuring all files at its end takes. Where validation
# images are few, much of the rest goes into looking again at what it found, until the last share is gone; there the
# setups before the search are planned into its share too.
_SEARCHED_SHARE, _SEARCHED_SHARE_OF_FEW, _CONFIRMED_SHARE = 0.95, 0.55, 0.97
_MEASURED_FILES, _SECONDS_TO_MEASURE = 15, 2.0
# Its first trainings take this share of a full schedule.
_SHORT_SHARE = 0.2
# At most so much of it may go by before it is known whether limits are in reach.
_SHAPES_SHARE = 0.25
# A file may take so much longer than its recipe asked for without a word, as measurements differ.
_LATENCY_KEPT = 1.05


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
    input_size: int | None = None
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
    _check(options, job.recipes_for(0))
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
    check_cutting(workspace, recipe)
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
        share=_SEARCHED_SHARE_OF_FEW if job.space_for is not None and _confirms(workspace) else PLANNED_SHARE,
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
    from dlmo.measure.latency import machine
    from dlmo.package.folder import mistakes_of, write_run

    workspace, dataset, seeds = ready.workspace, ready.workspace.dataset, options.seeds
    space = _space(job, ready)
    # A plan times trainings, which for a long job takes longer than to see that a limit is out of reach.
    planned = planned or plan_job(ready, job, options, known_only=job.limited)
    # Else refusing would save nothing.
    if job.limited and (planned is None or space is not None or _trains(workspace, planned, seeds)):
        deadline = math.inf if ready.seconds is None else begun + _SHAPES_SHARE * ready.seconds
        out_of_reach = _out_of_reach(ready, space, job, options, deadline)
        if out_of_reach:
            return _refused(job, options, ready, out_of_reach)
    try:
        planned = planned or plan_job(ready, job, options)
    except TooShort:
        # More time would not help where limits are out of reach, and if they are not, it will need these very files.
        out_of_reach = _out_of_reach(ready, space, job, options, math.inf) if job.limited else ()
        if not out_of_reach:
            raise
        return _refused(job, options, ready, out_of_reach)
    left_out: tuple[str, ...] = ()
    if space is not None and job.budget.max_size is not None:
        too_large = _too_large(ready, planned, job.budget)
        if too_large:
            left_out = (f"not tried, as their files are too large whatever they learn: {len(too_large)} of the setups",)
            kept = [recipe for recipe in planned.recipes if recipe not in too_large]
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
            if space is not None and _confirms(workspace):
                deadline = begun + ready.seconds * _CONFIRMED_SHARE
                confirmed = confirm(workspace, outcomes, plans, seeds[0], job.budget, deadline)
                outcomes, judged, looked_at = confirmed.outcomes, confirmed.judged, confirmed.notes
        choice, best = _choose(job, outcomes, dataset, judged)
        guessed = _guessed(best.result, dataset)
        if choice is not None and guessed:  # whatever is said of steps and of the study then says nothing
            choice = replace(choice, reasons=(*guessed, *choice.reasons), advice="")
        results = tuple(outcome.result for outcome in outcomes)
        trained = any(result.epochs for result in results)  # a user's own model may only be converted
        run = Run(
            title=job.command,
            dataset=_describe(dataset, job.command),
            target=options.target,
            machine=machine() | ({"training": _trained_on(results, plan)} if trained else {}),
            budget=job.budget.words() if job.budget else {},
            results=results,
            choice=choice,
            nearest=_near(choice, results, judged, job.budget),
            notes=(
                *ready.notes,
                *left_out,
                *plan.notes,
                *(_handling_notes(workspace) if trained else ()),
                *looked_at,
                *_repair_notes(results, options.target),
                *_latency_notes(results, options),
                *_no_number_notes(outcomes),
                *(guessed if choice is None else ()),
                *_doubts(options, results),
                *_few_images(choice, job.budget, workspace),
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


def _out_of_reach(ready: Prepared, space: Space | None, job: Job, options: Options, deadline: float) -> tuple[str, ...]:
    """The nearest points, where none of the candidates that can be made into a file may keep the budget.

    Nothing where they could not be made by the deadline, by time.monotonic(): the time is for training.
    """
    known = [recipe for recipes in ready.recipes.values() for recipe in recipes]
    candidates = [*known, *(space.smallest() if space else ())]
    likely = smallest(ready.workspace, candidates)
    found = _all_refused(ready.workspace, likely, job, options, deadline)
    if found and job.all_networks and len(likely) < len(candidates):
        # The networks the user named: what lies between the smallest and the fastest may keep both limits.
        return _all_refused(ready.workspace, candidates, job, options, deadline)
    return found


def _all_refused(
    workspace: Workspace, recipes: Sequence[Recipe], job: Job, options: Options, deadline: float
) -> tuple[str, ...]:
    """The same of these recipes alone."""
    made = []
    for recipe in recipes:
        if time.monotonic() > deadline:
            return ()
        made += convertible(workspace, [recipe])
    return impossible(gather(workspace, made, options.threads), job.budget)


def _too_large(ready: Prepared, planned: Planned, budget: Budget) -> list[Recipe]:
    """Of the planned recipes those whose file is larger than allowed, whatever it learns. The search gets their time.

    What nothing is applied to stays: losses are measured against it. Latency and memory, which another measurement may
    see otherwise, are left to the search.
    """
    workspace = ready.workspace
    asked = convertible(workspace, [recipe for recipe in planned.recipes if recipe.steps != (Float32(),)])
    if workspace.target.tells_flash:
        found = gather(workspace, asked, 1)
    else:
        found = [Evidence(recipe, len(untrained_file(workspace, recipe)), None, None, None) for recipe in asked]
    by_size = replace(budget, max_latency_ms=None, max_ram=None)
    too_large = [entry.recipe for entry in found if refusal(entry, by_size)]
    if len(too_large) < len(planned.recipes):
        return too_large
    kept = min(too_large, key=lambda recipe: len(recipe.further_trainings))  # a job without any has nothing to compare
    return [recipe for recipe in too_large if recipe is not kept]


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
    share = _SEARCHED_SHARE_OF_FEW if _confirms(workspace) else _SEARCHED_SHARE
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
        judged_again=_confirms(workspace),
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


def _confirms(workspace: Workspace) -> bool:
    """Whether a choice is looked at again; a user's own network may have been trained on all of the images."""
    return bool(workspace.dataset.folds) and workspace.own is None


def _refused(job: Job, options: Options, ready: Prepared, out_of_reach: tuple[str, ...]) -> Finished:
    """The run of a budget that no candidate can keep, whatever it learns."""
    from dlmo.measure.latency import machine
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
        nearest=out_of_reach,
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


def _check(options: Options, recipes: list[Recipe]) -> None:
    """Everything about the options that can be refused before any data is read."""
    choose_stem(options.stem, (1, 1, 1))  # an unknown one is refused
    if options.threads < 1:
        raise UserError(f"--threads {options.threads}: give 1 or more")
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
        from dlmo.study.cluster import check

        check(options.cluster)


def _cluster(options: Options) -> Cluster | None:
    """What makes the stages elsewhere, if asked for."""
    if options.cluster is None:
        return None
    from dlmo.study.cluster import make_on

    return partial(make_on, options.cluster)


def listed(named: str | Sequence[str]) -> list[str]:
    """One name or several, as a list: a text is a sequence of letters as well."""
    return [named] if isinstance(named, str) else list(named)


def given_options(options: Options) -> dict[str, object]:
    """The options of a command that are not at their default."""
    defaults = Options()
    names = ("time", "epochs", "threads", "input_size", "group_by", "stem", "target")
    given = {name: getattr(options, name) for name in names if getattr(options, name) != getattr(defaults, name)}
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


def _trained_on(results: Sequence[Result], plan: Plan) -> str:
    """Where the results' networks were trained: not always here, see `train_only`."""
    known = [result.trained_on or (plan.device,) for result in results if result.epochs]
    return f"trained on {' and '.join(dict.fromkeys(device for devices in known for device in devices))}"


def _handling_notes(workspace: Workspace) -> tuple[str, ...]:
    augmentation = workspace.augmentation
    parts = [
        "mirrored" if augmentation.flip else "not mirrored",
        f"shifted by up to {augmentation.shift} pixel{'' if augmentation.shift == 1 else 's'}",
        f"cutout {augmentation.cutout} pixels" if augmentation.cutout else "",
        f"lighting +-{augmentation.lighting * 100:g} %" if augmentation.lighting else "",
    ]
    notes = [f"augmentation: {', '.join(part for part in parts if part)}"]
    if workspace.class_weights:
        low, high = min(workspace.class_weights), max(workspace.class_weights)
        notes.append(f"classes are unbalanced: the loss weighs images by 1/sqrt(class size), {low:.2f} to {high:.2f}")
    return tuple(notes)


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


def _repair_notes(results: Sequence[Result], target: str) -> tuple[str, ...]:
    tried = {(result.network, type(step)) for result in results for step in parse(result.recipe).steps}
    notes = []
    for name, result in zip(_named(results), results):
        if not result.repair:
            continue
        words, recipe = result.repair, parse(result.recipe)
        if words.endswith(NOT_ENOUGH):
            mixed = Mixed(drop=0.005)
            others = [] if (result.network, Qat) in tried else ["qat > int8"]
            fits = not any(isinstance(step, Prune) for step in recipe.steps)
            if fits and legality.refusal(Recipe(recipe.network, (mixed,)), target) is None:
                others.append(f"{mixed}, which leaves layers in float")
            words += f": try {', or '.join(others)}" if others else ""
        if target != "cpu" and target.partition(":")[0] in ("mcu", "npu"):
            words += " (by LiteRT on this machine)"
        notes.append(f"{name}: quantized with {words}")
    return tuple(notes)


def _named(results: Sequence[Result]) -> list[str]:
    """The results' recipes, with their seeds where there are several."""
    several = len({result.seed for result in results}) > 1
    return [f"{result.recipe}, seed {result.seed}" if several else result.recipe for result in results]


def _latency_notes(results: Sequence[Result], options: Options) -> tuple[str, ...]:
    """Recipes cut to a latency that their files do not keep: it was told by a table of single layers."""
    if options.target != "cpu" or options.threads != 1:
        return ()
    notes = []
    for name, result in zip(_named(results), results):
        for step in parse(result.recipe).steps:
            limit = step.latency if isinstance(step, PruneChannels) else None
            if limit is not None and result.latency_ms > _LATENCY_KEPT * limit:
                notes.append(f"{name}: {result.latency_ms:.3g} ms measured, {limit:g} ms were asked for")
    return tuple(notes)


def _no_number_notes(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """Files that answer test images with no number: a training that went astray, or a damaged model."""
    counts = [(outcome.result, int(np.isnan(outcome.test_scores).any(1).sum())) for outcome in outcomes]
    return tuple(
        f"{result.recipe} (seed {result.seed}): {count:,} test images get scores that are no numbers, counted as wrong"
        for result, count in counts
        if count
    )


def _guessed(result: Result, dataset: Dataset) -> tuple[str, ...]:
    """Where a file is right no more often than one that looks at no image."""
    counts = np.bincount(dataset.validation.labels, minlength=len(dataset.classes))
    share = counts.max() / counts.sum()
    # Looked at again it was judged on other images, of which the share may be an image more.
    if round(result.validation_accuracy * result.validation_images) > math.ceil(share * result.validation_images):
        return ()
    longer = "train longer (--time, --epochs), " * bool(result.epochs)
    return (
        f'{result.recipe}: no better than always answering "{dataset.classes[counts.argmax()]}", which is right on '
        f"{100 * share:.1f} % of the validation images; {longer}give more images of the other classes, or look at the "
        "labels",
    )


def _few_images(choice: Choice | None, budget: Budget | None, workspace: Workspace) -> tuple[str, ...]:
    """Where one image more or less decides whether a loss is allowed."""
    if choice is None or budget is None or budget.max_drop is None:
        return ()
    images = choice.result.validation_images
    if images * budget.max_drop >= 1:
        return ()
    return (
        f"the choice was made on {images} validation images, of which one is {100 / images:.1f} points: a loss of "
        f"{100 * budget.max_drop:g} of them cannot be told from luck; more images"
        f"{', or more --time to look again,' * _confirms(workspace)} would tell",
    )


def _doubts(options: Options, results: Sequence[Result]) -> tuple[str, ...]:
    """What makes measurements of targets doubtful; with the recipes, where it is not all of them."""
    notes = []
    for name in dict.fromkeys(options.targets):
        told = [(result.elsewhere.get(name, result).doubts, result.recipe) for result in results]
        for doubt in dict.fromkeys(doubt for doubts, _ in told for doubt in doubts):
            recipes = [recipe for doubts, recipe in told if doubt in doubts]
            notes.append(f"{name}: {doubt}" + ("" if len(recipes) == len(results) else f" ({', '.join(recipes)})"))
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
