"""Running recipes: every stage, then every measurement, with files measured against each other in one go."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from dlmo.data.dataset import Dataset
from dlmo.measure.accuracy import accuracy, right_answers
from dlmo.measure.size import compressed_bytes
from dlmo.measure.statistics import PairedTest, paired_test
from dlmo.runtimes.litert import flatbuffer
from dlmo.study.recipe import Recipe
from dlmo.study.results import Result
from dlmo.study.stages import Artifact, NetworkPlan, Workspace, has_scores, make_artifact, scores
from dlmo.training.curve import Epoch

# For targets that compare their answers with this machine's.
_GOLDEN_IMAGES = 32


@dataclass(frozen=True)
class Outcome:
    """A result, its file, and its scores on the test images (float32 N x classes)."""

    result: Result
    content: bytes
    test_scores: np.ndarray


def run_recipes(
    workspace: Workspace,
    recipes: Sequence[Recipe],
    plans: dict[str, NetworkPlan],
    seeds: Sequence[int],
    threads: int,
) -> tuple[list[Outcome], dict[str, tuple[Epoch, ...]]]:
    """Train and convert everything, then measure everything on the workspace's targets, one after the other.

    Returns outcomes and the training curves by title.

    What the target measures comes last, when nothing else runs, with all files at hand to take turns.
    """
    made: list[tuple[Recipe, int, Artifact]] = []
    for seed in seeds:
        for recipe in recipes:
            made.append((recipe, seed, make_artifact(workspace, recipe, plans[recipe.network], seed)))
    contents = [artifact.content() for _, _, artifact in made]
    validation, test = (_score_all(workspace, contents, split) for split in ("validation", "test"))
    golden = workspace.dataset.validation.spread(_GOLDEN_IMAGES).images
    measured, *others = [
        target.measure(contents, threads, workspace.progress, golden)
        for target in (workspace.target, *workspace.more_targets.values())
    ]
    outcomes = []
    for index, (recipe, seed, artifact) in enumerate(made):
        content = contents[index]
        facts = flatbuffer.facts(content)
        on_test = accuracy(test[index], workspace.dataset.test.labels)
        on_validation = accuracy(validation[index], workspace.dataset.validation.labels)
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
            test_images=on_test.images,
            validation_images=on_validation.images,
            sparsity=artifact.trained.sparsity,
            operators=facts.operators,
            float_operators=facts.float_operators,
            artifact=file_name(recipe, seed),
            repair=repair.words() if (repair := artifact.repair()) else "",
            elsewhere={name: other[index] for name, other in zip(workspace.more_targets, others)},
            **asdict(measured[index]),
        )
        outcomes.append(Outcome(result, content, test[index]))
    return outcomes, _curves(made)


def file_name(recipe: Recipe, seed: int) -> str:
    """A file name that tells the recipe: `resnet20@0.5-prune-int8-seed0.tflite`."""
    text = "-".join(str(recipe).split(" > "))
    safe = "".join(c if c.isalnum() or c in "@._-=" else "_" for c in text).rstrip("_")
    return f"{safe}-seed{seed}.tflite"


def comparer(outcomes: Sequence[Outcome], dataset: Dataset) -> Callable[[Result, Result], PairedTest]:
    """A paired test on the test images between two results of these outcomes."""
    right = {id(o.result): right_answers(o.test_scores, dataset.test.labels) for o in outcomes}
    return lambda first, second: paired_test(right[id(first)], right[id(second)])


def _score_all(workspace: Workspace, contents: list[bytes], split: str) -> list[np.ndarray]:
    images = len(getattr(workspace.dataset, split))
    expected = sum(
        workspace.target.seconds_to_predict(images, flatbuffer.facts(content).macs)
        for content in contents
        if not has_scores(workspace, content, split)
    )
    with workspace.progress.stage(f"run {len(contents)} files on the {split} images", expected or None) as update:
        found = []
        for index, content in enumerate(contents):

            def within(share: float, done: int = index) -> None:
                update((done + share) / len(contents))

            found.append(scores(workspace, content, split, within))
            within(1)
    return found


def _curves(made: list[tuple[Recipe, int, Artifact]]) -> dict[str, tuple[Epoch, ...]]:
    """Curve of each last training, titled by network, training steps and seed."""
    curves = {}
    for recipe, seed, artifact in made:
        title = " > ".join([recipe.network, *map(str, recipe.steps[:-1])])
        if artifact.trained.curve():  # a user's own network has none
            curves[f"{title}, seed {seed}"] = artifact.trained.curve()
    return curves
