"""Running recipes: every stage, then every measurement, with files measured against each other in one go."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from dlmo.data.dataset import Dataset
from dlmo.errors import UserError, one_line
from dlmo.measure.accuracy import accuracy, right_answers
from dlmo.measure.size import compressed_bytes
from dlmo.measure.statistics import PairedTest, paired_test
from dlmo.measure.targets import CannotRun, shown
from dlmo.study.graph import Task, file_task, make_here, tasks_of
from dlmo.study.recipe import Recipe
from dlmo.study.results import Failure, Result
from dlmo.study.stages import make_artifact, scores, trainings_of
from dlmo.study.trainings import curve_so_far
from dlmo.study.workspace import Artifact, NetworkPlan, Workspace
from dlmo.training.curve import Epoch

# Of a recipe in the name of its file: a path may hold names of 255 bytes at most.
_LONGEST_NAME = 160

# Makes tasks elsewhere; returns those that failed, and why.
Cluster = Callable[[Workspace, Sequence[Task]], dict[str, Exception]]


@dataclass(frozen=True)
class Outcome:
    """A result, its file, and its scores on the test images (float32 N x classes)."""

    result: Result
    content: bytes
    test_scores: np.ndarray


def make_recipes(
    workspace: Workspace,
    recipes: Sequence[Recipe],
    plans: dict[str, NetworkPlan],
    seeds: Sequence[int],
    cluster: Cluster | None,
    failed: Mapping[str, Exception] | None = None,
) -> dict[str, Exception]:
    """Train, convert and score everything that the store lacks; returns the tasks that failed, and why.

    failed: tasks that failed already, and are not tried again.
    """
    known = dict(failed or {})
    tasks = [task for task in tasks_of(workspace, _with_seeds(recipes, seeds), plans) if task.key not in known]
    if cluster is not None:
        lost, possible = set(known), []
        for task in tasks:  # those that others need come before them
            if lost.isdisjoint(task.needs):
                possible.append(task)
            else:
                lost.add(task.key)
        known |= cluster(workspace, possible) if possible else {}
    return make_here(workspace, tasks, known)


def _with_seeds(recipes: Sequence[Recipe], seeds: Sequence[int]) -> list[tuple[Recipe, int]]:
    return [(recipe, seed) for seed in seeds for recipe in recipes]


def run_recipes(
    workspace: Workspace,
    recipes: Sequence[Recipe],
    plans: dict[str, NetworkPlan],
    seeds: Sequence[int],
    threads: int,
    *,
    needed: Recipe | None = None,
    cluster: Cluster | None = None,
    failed: Mapping[str, Exception] | None = None,
) -> tuple[list[Outcome], list[Failure], dict[str, tuple[Epoch, ...]]]:
    """Train and convert everything, then measure everything on the workspace's targets, one after the other.

    Returns outcomes, the recipes that failed, and the training curves by title. Raises the first error if all
    recipes fail, as a UserError, and what the user can mend of `needed`. cluster: makes the stages first; what it
    leaves out is made here. failed: see make_recipes.

    What the target measures comes last, when nothing else runs, with all files at hand to take turns.
    """
    from dlmo.runtimes.litert import flatbuffer

    errors = make_recipes(workspace, recipes, plans, seeds, cluster, failed)
    made: list[tuple[Recipe, int, Artifact]] = []
    failures = []

    def leave_out(recipe: Recipe, seed: int, error: Exception) -> None:
        if recipe == needed and isinstance(error, UserError | OSError):
            raise error
        failures.append(Failure(str(recipe), recipe.setup, recipe.network, seed, one_line(error)))

    for recipe, seed in _with_seeds(recipes, seeds):
        error = errors.get(file_task(recipe, seed))
        if error is None:
            made.append((recipe, seed, make_artifact(workspace, recipe, plans[recipe.network], seed)))
        else:
            leave_out(recipe, seed, error)
    if not made:
        first = next(iter(errors.values()))
        if isinstance(first, UserError | OSError | MemoryError):
            raise first
        raise UserError(f"{failures[0].recipe}: {failures[0].error}") from first
    contents = [artifact.content() for _, _, artifact in made]
    measured, *others = [
        target.measure(contents, threads, workspace.progress, workspace.golden)
        for target in (workspace.target, *workspace.more_targets.values())
    ]
    outcomes = []
    for index, (recipe, seed, artifact) in enumerate(made):
        content, costs = contents[index], measured[index]
        if isinstance(costs, CannotRun):
            leave_out(recipe, seed, UserError(costs.reason))
            continue
        facts = flatbuffer.facts(content)
        test_scores = scores(workspace, content, "test", "a file")
        on_test = accuracy(test_scores, workspace.dataset.test.labels)
        on_validation = accuracy(
            scores(workspace, content, "validation", "a file"), workspace.dataset.validation.labels
        )
        result = Result(
            recipe=str(recipe),
            setup=recipe.setup,
            network=recipe.network,
            accuracy=on_test.value,
            accuracy_low=on_test.low,
            accuracy_high=on_test.high,
            validation_accuracy=on_validation.value,
            size_bytes=len(content),
            compressed_bytes=compressed_bytes(content),
            threads=threads,
            macs=facts.macs,
            parameters=facts.parameters,
            seed=seed,
            epochs=artifact.trained.epochs,
            seconds=artifact.trained.seconds,
            trained_on=tuple(artifact.trained.devices),
            test_images=on_test.images,
            validation_images=on_validation.images,
            sparsity=artifact.trained.sparsity,
            operators=facts.operators,
            float_operators=facts.float_operators,
            artifact=file_name(recipe, seed),
            repair=repair.words() if (repair := artifact.repair()) else "",
            elsewhere={name: shown(other[index]) for name, other in zip(workspace.more_targets, others)},
            **asdict(costs),
        )
        outcomes.append(Outcome(result, content, test_scores))
    if not outcomes:
        raise UserError(f"{failures[0].recipe}: {failures[0].error}")
    return outcomes, failures, _curves(workspace, made, plans)


def file_name(recipe: Recipe, seed: int) -> str:
    """A file name that tells the recipe: `resnet20@0.5-prune-int8-seed0.tflite`."""
    return f"{safe_name(str(recipe))}-seed{seed}.tflite"


def safe_name(text: str) -> str:
    """A recipe's text, or the beginning of one, as part of a file's name; one too long for that ends in its hash."""
    name = "".join(c if c.isalnum() or c in "@._-=" else "_" for c in text.replace(" > ", "-")).rstrip("_")
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    kept = name.encode()[:_LONGEST_NAME].decode(errors="ignore")
    return f"{kept}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"


def comparer(outcomes: Sequence[Outcome], dataset: Dataset) -> Callable[[Result, Result], PairedTest]:
    """A paired test on the test images between two results of these outcomes."""
    right = {id(o.result): right_answers(o.test_scores, dataset.test.labels) for o in outcomes}
    return lambda first, second: paired_test(right[id(first)], right[id(second)])


def _curves(
    workspace: Workspace, made: list[tuple[Recipe, int, Artifact]], plans: dict[str, NetworkPlan]
) -> dict[str, tuple[Epoch, ...]]:
    """Curve of each training behind these files, teachers' too, titled by network, steps so far and seed; with the
    precision where a training differs by it, as one that cuts channels to a file's size does."""
    curves, of = {}, {}
    for recipe, seed, _ in made:
        for training in trainings_of(workspace, recipe, plans[recipe.network], seed):
            title = f"{training.name}, seed {training.seed}"
            if of.setdefault(title, training.key) != training.key:
                title = f"{training.name} for {recipe.precision}, seed {training.seed}"
            curve = curve_so_far(workspace.store, training.stage, training.key)
            if curve:  # a user's own network has none
                curves[title] = curve
    return curves
