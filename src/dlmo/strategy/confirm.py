"""Looking again at what is about to be chosen, where validation images are few, by cross-validation.

A file that looks best of twenty on 200 images is as a rule the luckiest of them: half a point is one image. So what
would be chosen, and the network that its loss is measured against, are trained again on other parts of the same images,
and judged on the images that those trainings did not see (Stone: "Cross-validatory choice and assessment of
statistical predictions", 1974). What does not hold is left out, and the next one is looked at.

The network that losses are measured against was the luckiest of its kind, so what others should have by its luck is too
little. While there is time, what would be chosen if it were as right as it seemed is looked at too.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dlmo.data.dataset import Dataset, Split, fingerprint
from dlmo.errors import PASSING, one_line
from dlmo.measure.accuracy import right_answers
from dlmo.strategy.budget import Budget, cost_shortfalls
from dlmo.strategy.choose import likely_choice, pick, reference_of
from dlmo.strategy.plan import augmentation_for, class_weights_for, remaining_seconds, remaining_trainings
from dlmo.study.recipe import Recipe, parse
from dlmo.study.results import Result
from dlmo.study.run import Outcome
from dlmo.study.stages import make_artifact, scores
from dlmo.study.workspace import NetworkPlan, Workspace

# Trainings take so much longer than foretold at times.
_SAFETY = 1.2


@dataclass(frozen=True)
class Confirmed:
    """outcomes: as they were, those that were looked at again with their accuracy on the images of the other parts.
    judged: their results as the choice shall see them: what was not looked at again with the accuracy it would
    have if it gained or lost as plain networks did that were. notes: what was found."""

    outcomes: list[Outcome]
    judged: list[Result]
    notes: tuple[str, ...]


def can_confirm(workspace: Workspace) -> bool:
    """Whether a choice is looked at again; a user's own network may have been trained on all of the images."""
    return bool(workspace.dataset.folds) and workspace.own is None


def confirm(
    workspace: Workspace,
    outcomes: Sequence[Outcome],
    plans: dict[str, NetworkPlan],
    seed: int,
    budget: Budget,
    deadline: float,
) -> Confirmed:
    """Look again at the likely choice and its reference until the choice is one of those that were looked at, then at
    what may be better, as long as it would be done by the deadline, by time.monotonic().

    Files that need no further training come along with those that do.
    """
    first = {outcome.result.recipe: outcome.result for outcome in outcomes}
    again: dict[str, Result] = {}
    passed_over: set[str] = set()
    notes = []
    if all(cost_shortfalls(result, budget) for result in first.values()):  # nothing will be chosen
        return Confirmed(list(outcomes), list(first.values()), ())
    judge = _Judge(workspace, plans, seed)

    def look_again(recipe: str) -> None:
        try:
            again[recipe] = judge.again(first[recipe])
        except PASSING:
            raise
        except Exception as error:  # one recipe that does not work on other images ends no job
            notes.append(f"{recipe}: could not be looked at again: {one_line(error)}")
            passed_over.add(recipe)

    while True:
        likely = _next(first, again, passed_over, budget)
        recipe = likely or _contender(first, again, passed_over, budget)
        if recipe is None:
            break
        if time.monotonic() + _SAFETY * judge.seconds(first[recipe]) > deadline:
            if recipe == likely:
                notes.append(f"{recipe}: there was no time to look at it again on other validation images")
            passed_over.add(recipe)  # another may take less
            continue
        look_again(recipe)
        if recipe not in again:
            continue
        notes.append(_words(first[recipe], again[recipe], judge.trainings))
        before = len(again)
        for other in first:
            waiting = other not in again and other not in passed_over
            if waiting and time.monotonic() < deadline and judge.is_trained(parse(other)):
                look_again(other)
        if along := list(again)[before:]:
            notes.append(f"looked at again with {recipe}, as they need no other training: {', '.join(along)}")
    kept = [replace(outcome, result=again.get(outcome.result.recipe, outcome.result)) for outcome in outcomes]
    return Confirmed(kept, _judged(first, again), tuple(notes))


def _next(first: dict[str, Result], again: dict[str, Result], passed_over: set[str], budget: Budget) -> str | None:
    """The recipe to look at now: the reference, then what would be chosen; None where both were looked at or passed
    over."""
    judged = _judged(first, again)
    wanted = reference_of(judged), likely_choice(judged, budget)
    waiting = [result.recipe for result in wanted if result is not None and result.recipe not in again]
    return next((recipe for recipe in waiting if recipe not in passed_over), None)


def _contender(first: dict[str, Result], again: dict[str, Result], passed_over: set[str], budget: Budget) -> str | None:
    """What would be chosen if what was not looked at again were as right as it seemed at first; None where that was
    looked at, or nothing can tell."""
    if not again:
        return None
    judged, closed = _judged(first, again), again.keys() | passed_over
    hopeful = [
        entry
        if entry.recipe in closed
        else replace(entry, validation_accuracy=max(entry.validation_accuracy, first[entry.recipe].validation_accuracy))
        for entry in judged
    ]
    picked = pick(hopeful, budget, reference_of(judged).validation_accuracy)
    return None if picked is None or picked.recipe in closed else picked.recipe


def _judged(first: dict[str, Result], again: dict[str, Result]) -> list[Result]:
    return [again.get(recipe) or _expected(result, first, again) for recipe, result in first.items()]


def _expected(result: Result, first: dict[str, Result], again: dict[str, Result]) -> Result:
    """What looking again should show of a result, by how much harder the other images were for those looked at."""
    if not again:
        return result
    shifts = {recipe: now.validation_accuracy - first[recipe].validation_accuracy for recipe, now in again.items()}
    plain = [shift for recipe, shift in shifts.items() if again[recipe].setup == "NQ"]
    # What was looked at as the likely choice was lucky more often than not: of one alone its loss tells nothing of
    # others, of several the least.
    of_others = max(shifts.values()) if len(shifts) > 1 else 0.0
    shift = sum(plain) / len(plain) if plain else of_others
    expected = min(1.0, max(0.0, result.validation_accuracy + shift))
    # As if of as many images: what a choice adds for how few there are must be the same for all.
    images = next(iter(again.values())).validation_images
    return replace(result, validation_accuracy=expected, validation_images=images)


def _words(first: Result, again: Result, trainings: int) -> str:
    before, after = (f"{100 * result.validation_accuracy:.1f} %" for result in (first, again))
    return (
        f"{first.recipe}: {before} right on {first.validation_images:,} validation images; looked at again, {after} of "
        f"{again.validation_images:,} images, each answered by one of {trainings} trainings that had not seen it"
    )


class _Judge:
    """Trains on other parts of the images and judges on the rest."""

    def __init__(self, workspace: Workspace, plans: dict[str, NetworkPlan], seed: int) -> None:
        # Not the images that everything was chosen on so far: what was lucky there would keep a part of its luck.
        self._folds = [_on(workspace, fold) for fold in fold_datasets(workspace.dataset)]
        self._plans, self._seed = plans, seed

    @property
    def trainings(self) -> int:
        return len(self._folds)

    def seconds(self, result: Result) -> float:
        """What looking at it again should take: what was planned, or what its first trainings took if that is more."""
        recipe = parse(result.recipe)
        waiting = [part for part in self._folds if remaining_trainings(part, [recipe], self._plans, [self._seed])]
        planned = sum(remaining_seconds(part, [recipe], self._plans, [self._seed]) for part in self._folds)
        return max(planned, len(waiting) * result.seconds)

    def is_trained(self, recipe: Recipe) -> bool:
        """Whether it shares all its trainings with what was looked at."""
        return not any(remaining_trainings(part, [recipe], self._plans, [self._seed]) for part in self._folds)

    def again(self, result: Result) -> Result:
        """The result with its accuracy on all the images of the other parts."""
        recipe = parse(result.recipe)
        right = []
        for part in self._folds:
            content = make_artifact(part, recipe, self._plans[recipe.network], self._seed).content()
            right.append(right_answers(scores(part, content, "validation", "a file"), part.dataset.validation.labels))
        answers = np.concatenate(right)
        return replace(result, validation_accuracy=float(answers.mean()), validation_images=len(answers))


def fold_datasets(dataset: Dataset) -> list[Dataset]:
    """The same images with other ones for validation, and none for test."""
    found = []
    for number, fold in enumerate(dataset.folds, 2):
        rest = dataset.train.take(np.setdiff1d(np.arange(len(dataset.train)), fold))
        splits = _together(rest, dataset.validation), dataset.train.take(fold), dataset.test.take(np.arange(0))
        found.append(
            replace(
                dataset,
                name=f"{dataset.name}, fold {number}",
                train=splits[0],
                validation=splits[1],
                test=splits[2],
                fingerprint=fingerprint(dataset.classes, splits),
                folds=(),
            )
        )
    return found


def _together(first: Split, second: Split) -> Split:
    return Split(
        np.concatenate([first.images, second.images]),
        np.concatenate([first.labels, second.labels]),
        first.names + second.names,
    )


def _on(workspace: Workspace, dataset: Dataset) -> Workspace:
    """The workspace with other images."""
    weights = class_weights_for(dataset)
    return replace(workspace, dataset=dataset, augmentation=augmentation_for(dataset), class_weights=weights)
