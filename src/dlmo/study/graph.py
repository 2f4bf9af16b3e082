"""The stages of a study as tasks: each is made once, after those it needs, here or on a cluster."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from dlmo.errors import one_line
from dlmo.study.recipe import Recipe
from dlmo.study.stages import make_scores, trainings_of
from dlmo.study.workspace import NetworkPlan, Workspace

# Converting, quantizing and running a file; a training tells its own time.
_SECONDS_PER_FILE = 5.0


@dataclass(frozen=True)
class Task:
    """What is made in one go, into the workspace's store, unless it is there already.

    key: its name in the study. needs: keys of the tasks it comes after. seconds: what it should take, 0 for a training
    that the store holds.
    trains: whether it is a training.
    """

    key: str
    needs: tuple[str, ...]
    seconds: float
    trains: bool
    make: Callable[[Workspace], object]


def tasks_of(
    workspace: Workspace, recipes: Sequence[tuple[Recipe, int]], plans: Mapping[str, NetworkPlan]
) -> list[Task]:
    """The trainings of recipes with their seeds, each once, and a file with its scores for every recipe.

    A task stands after those it needs.
    """
    tasks: dict[str, Task] = {}
    for recipe, seed in recipes:
        plan = plans[recipe.network]
        needs: tuple[str, ...] = ()
        for training in trainings_of(workspace, recipe, plan, seed):
            if training.key not in tasks:
                seconds = 0.0 if workspace.store.has(training.stage, training.key) else training.seconds
                tasks[training.key] = Task(training.key, needs, seconds, True, training.make)
            # All before it, not the last alone: a student that is trained already does not wait for its teacher, but
            # what trains it further does.
            needs = (*needs, training.key)
        key, make = file_task(recipe, seed), partial(make_scores, recipe=recipe, plan=plan, seed=seed)
        tasks[key] = Task(key, needs[-1:], _SECONDS_PER_FILE, False, make)
    return list(tasks.values())


def file_task(recipe: Recipe, seed: int) -> str:
    """The key of the task that makes a recipe's file and scores, its last one."""
    return f"{recipe}, seed {seed}"


def make_here(
    workspace: Workspace, tasks: Sequence[Task], failed: Mapping[str, Exception] | None = None
) -> dict[str, Exception]:
    """Make one task after the other in this process. failed: tasks that failed elsewhere, and why.

    Returns all that failed; what needs a failed task fails with it, the rest goes on.
    """
    errors = dict(failed or {})
    for task in tasks:
        if task.key in errors:
            continue
        broken = next((errors[need] for need in task.needs if need in errors), None)
        if broken is not None:
            errors[task.key] = broken
            continue
        try:
            task.make(workspace)
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # they hold a training's tensors
            errors[task.key] = error
            workspace.progress.note(f"failed: {one_line(error)}")  # at once: the rest may take hours
    return errors
