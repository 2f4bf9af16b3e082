"""What shape alone tells of recipes, before any training: whether a budget can be met at all, and what cannot."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dlmo.errors import PASSING, UserError
from dlmo.measure.targets import CannotRun
from dlmo.strategy.budget import Budget, cost_excess, cost_shortfalls
from dlmo.study.recipe import Float32, Recipe
from dlmo.study.shape import SIZE_ERROR, untrained_file
from dlmo.study.workspace import Workspace

# A trained file may differ from the untrained one by so much, and so may two measurements of one file.
_SIZE_TOLERANCE, _RAM_TOLERANCE, _LATENCY_TOLERANCE = 1 + SIZE_ERROR, 1.1, 1.25


@dataclass(frozen=True)
class Evidence:
    """What a recipe's untrained file costs on the target; names and units as in study.results.Result."""

    recipe: Recipe
    size_bytes: int
    flash_bytes: int | None
    latency_ms: float | None
    ram_bytes: int | None


def gather(workspace: Workspace, recipes: Sequence[Recipe], threads: int) -> list[Evidence]:
    """Convert the recipes' networks as they are before training, and measure the files. Those that the target refuses
    are left out; raises UserError where it refuses all."""
    with workspace.progress.stage(f"make {len(recipes)} files of untrained networks") as update:
        contents = []
        for recipe in recipes:
            contents.append(untrained_file(workspace, recipe))
            update(len(contents) / len(recipes))
    measured = workspace.target.measure(contents, threads, workspace.progress, workspace.golden)
    found = [
        Evidence(recipe, len(content), costs.flash_bytes, costs.latency_ms, costs.ram_bytes)
        for recipe, content, costs in zip(recipes, contents, measured)
        if not isinstance(costs, CannotRun)
    ]
    if measured and not found:
        raise UserError(measured[0].reason)
    return found


def convertible(workspace: Workspace, recipes: Sequence[Recipe]) -> list[Recipe]:
    """Those whose untrained network can be made into a file. The others show what is wrong when they are run."""
    found = []
    for recipe in recipes:
        try:
            untrained_file(workspace, recipe)
        except PASSING:
            raise
        except Exception:  # a user's network may break any step
            continue
        found.append(recipe)
    return found


def refusal(evidence: Evidence, budget: Budget) -> str | None:
    """Which limits the recipe cannot keep, whatever its weights will be; None where it may keep them all."""
    lenient = replace(
        budget,
        max_size=budget.max_size and round(budget.max_size * _SIZE_TOLERANCE),
        max_ram=budget.max_ram and round(budget.max_ram * _RAM_TOLERANCE),
        max_latency_ms=budget.max_latency_ms and budget.max_latency_ms * _LATENCY_TOLERANCE,
    )
    return "; ".join(cost_shortfalls(evidence, budget)) if cost_shortfalls(evidence, lenient) else None


def smallest(workspace: Workspace, recipes: Sequence[Recipe]) -> list[Recipe]:
    """Those recipes whose network has the fewest parameters or the fewest multiply-accumulates.

    What none of them keeps, no other can be expected to keep.
    """
    from dlmo import networks

    names = list(dict.fromkeys(recipe.network for recipe in recipes))
    if len(names) == 1:
        return list(recipes)
    data = workspace.dataset
    shape, classes = data.input_shape, len(data.classes)
    counts = {name: networks.count(name, classes=classes, input_shape=shape, stem=workspace.stem) for name in names}
    least = {min(names, key=lambda name: counts[name].parameters), min(names, key=lambda name: counts[name].macs)}
    return [recipe for recipe in recipes if recipe.network in least]


def impossible(found: Sequence[Evidence], budget: Budget, count: int = 3) -> tuple[str, ...]:
    """Empty where a recipe may keep the budget's limits; else the nearest points that can be reached, in words."""
    reasons = {entry: refusal(entry, budget) for entry in found}
    if not all(reasons.values()):
        return ()
    ranked = sorted(found, key=lambda entry: (cost_excess(entry, budget), entry.size_bytes))
    return tuple(f"{entry.recipe}: {reasons[entry]}, by its shape alone" for entry in ranked[:count])


def out_of_reach(
    workspace: Workspace, recipes: Sequence[Recipe], budget: Budget, threads: int, deadline: float, thorough: bool
) -> tuple[str, ...]:
    """The nearest points, in words, where none of the recipes that can be made into a file may keep the budget.

    Nothing where they could not be made by the deadline, by time.monotonic(): the time is for training. thorough: all
    recipes are looked at before that is said, as what lies between the smallest and the fastest may keep both limits.
    """
    likely = smallest(workspace, recipes)
    found = _all_refused(workspace, likely, budget, threads, deadline)
    if found and thorough and len(likely) < len(recipes):
        return _all_refused(workspace, recipes, budget, threads, deadline)
    return found


def _all_refused(
    workspace: Workspace, recipes: Sequence[Recipe], budget: Budget, threads: int, deadline: float
) -> tuple[str, ...]:
    """The same of these recipes alone."""
    made = []
    for recipe in recipes:
        if time.monotonic() > deadline:
            return ()
        made += convertible(workspace, [recipe])
    return impossible(gather(workspace, made, threads), budget)


def too_large(workspace: Workspace, recipes: Sequence[Recipe], budget: Budget) -> list[Recipe]:
    """Those whose file is larger than allowed, whatever it learns; never all of them.

    What nothing is applied to is never among them: losses are measured against it. Latency and memory, which another
    measurement may see otherwise, are not looked at.
    """
    asked = convertible(workspace, [recipe for recipe in recipes if recipe.steps != (Float32(),)])
    if workspace.target.tells_flash:
        found = gather(workspace, asked, 1)
    else:
        found = [Evidence(recipe, len(untrained_file(workspace, recipe)), None, None, None) for recipe in asked]
    by_size = replace(budget, max_latency_ms=None, max_ram=None)
    refused = [entry.recipe for entry in found if refusal(entry, by_size)]
    if len(refused) < len(recipes):
        return refused
    kept = min(refused, key=lambda recipe: len(recipe.further_trainings))  # a job without any has nothing to compare
    return [recipe for recipe in refused if recipe is not kept]
