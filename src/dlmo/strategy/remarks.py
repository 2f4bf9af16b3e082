"""What a run says beside its figures: how images and networks were handled, and what makes a figure doubtful."""

import math
from collections.abc import Sequence

import numpy as np

from dlmo.data import Dataset
from dlmo.strategy import legality
from dlmo.strategy.budget import Budget
from dlmo.strategy.options import Options
from dlmo.study.recipe import Mixed, Prune, PruneChannels, Qat, Recipe, parse
from dlmo.study.results import NOT_ENOUGH, Choice, Result
from dlmo.study.run import Outcome
from dlmo.study.workspace import Workspace

# A file may take so much longer than its recipe asked for without a word, as measurements differ.
_LATENCY_KEPT = 1.05


def trained_on(results: Sequence[Result], device: str) -> str:
    """Where the results' networks were trained: not always on this machine's device, see `train_only`."""
    known = [result.trained_on or (device,) for result in results if result.epochs]
    return f"trained on {' and '.join(dict.fromkeys(device for devices in known for device in devices))}"


def handling(workspace: Workspace) -> tuple[str, ...]:
    """How images are changed in training, and classes weighed."""
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


def repairs(results: Sequence[Result], target: str) -> tuple[str, ...]:
    """What int8 needed beyond min/max ranges, and what else to try where that was not enough."""
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


def slower_than_asked(results: Sequence[Result], options: Options) -> tuple[str, ...]:
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


def without_numbers(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """Files that answer test images with no number: a training that went astray, or a damaged model."""
    counts = [(outcome.result, int(np.isnan(outcome.test_scores).any(1).sum())) for outcome in outcomes]
    return tuple(
        f"{result.recipe} (seed {result.seed}): {count:,} test images get scores that are no numbers, counted as wrong"
        for result, count in counts
        if count
    )


def guessed(result: Result, dataset: Dataset) -> tuple[str, ...]:
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


def few_images(choice: Choice | None, budget: Budget | None, looks_again: bool) -> tuple[str, ...]:
    """Where one image more or less decides whether a loss is allowed. looks_again: given time, see strategy.confirm."""
    if choice is None or budget is None or budget.max_drop is None:
        return ()
    images = choice.result.validation_images
    if images * budget.max_drop >= 1:
        return ()
    return (
        f"the choice was made on {images} validation images, of which one is {100 / images:.1f} points: a loss of "
        f"{100 * budget.max_drop:g} of them cannot be told from luck; more images"
        f"{', or more --time to look again,' * looks_again} would tell",
    )


def doubts(options: Options, results: Sequence[Result]) -> tuple[str, ...]:
    """What makes measurements of targets doubtful; with the recipes, where it is not all of them."""
    notes = []
    for name in dict.fromkeys(options.targets):
        told = [(result.elsewhere.get(name, result).doubts, result.recipe) for result in results]
        for doubt in dict.fromkeys(doubt for doubts, _ in told for doubt in doubts):
            recipes = [recipe for doubts, recipe in told if doubt in doubts]
            notes.append(f"{name}: {doubt}" + ("" if len(recipes) == len(results) else f" ({', '.join(recipes)})"))
    return tuple(notes)
