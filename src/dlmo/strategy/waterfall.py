"""The way from the plain float network to the chosen recipe, one step at a time, and which steps it can do without."""

from collections.abc import Callable, Sequence

from dlmo.measure.statistics import PairedTest
from dlmo.strategy.budget import Budget, running_of, running_ratio, shortfalls, stored_bytes
from dlmo.study.recipe import Float32, Kd, Qat, Recipe, parse
from dlmo.study.results import Result, Rung

# Latencies closer than this are one latency: what is left of noise after measuring in turns.
LATENCY_NOISE = 0.05
# A shorter recipe is as good if it loses no more validation accuracy (0 to 1) and its file is not larger than this.
_SAME_ACCURACY, _SAME_SIZE = 0.001, 1.01


def ladder(recipe: Recipe) -> list[tuple[str, Recipe]]:
    """Each step's text and the recipe up to it: float, then what trains the network, the number format, QAT.

    QAT comes last, although it is trained before the file is made: its worth is what it adds to the format.
    """
    trained = [step for step in recipe.steps[:-1] if not isinstance(step, Qat)]
    rungs = [("float32", Recipe(recipe.network, (Float32(),)))]
    rungs += [(str(step), Recipe(recipe.network, (*trained[:end], Float32()))) for end, step in enumerate(trained, 1)]
    if not isinstance(recipe.precision, Float32):
        rungs.append((str(recipe.precision), Recipe(recipe.network, (*trained, recipe.precision))))
    return rungs + [(str(step), recipe) for step in recipe.steps if isinstance(step, Qat)]


def without_teacher(recipe: Recipe) -> list[Recipe]:
    """The same number format on the network without a teacher, where the ladder trains that anyway.

    So a teacher that did not pay can be dropped at the price of one file.
    """
    trained = [step for step in recipe.steps[:-1] if not isinstance(step, Qat)]
    if len(trained) != 1 or not isinstance(trained[0], Kd):
        return []
    return [Recipe(recipe.network, (recipe.precision,))]


def waterfall(
    chosen: Result, results: Sequence[Result], compare: Callable[[Result, Result], PairedTest], running_cost: str
) -> tuple[Rung, ...]:
    """The rungs of the chosen recipe's ladder; steps that were not tried one by one stand on one rung.

    compare: paired test on test images. running_cost: what running is judged by, a field of Result.
    """
    known = {result.recipe: result for result in results if result.seed == chosen.seed}
    found: list[Rung] = []
    before: Result | None = None
    untried: list[str] = []
    for step, recipe in ladder(parse(chosen.recipe)):
        untried.append(step)
        result = chosen if str(recipe) == chosen.recipe else known.get(str(recipe))
        if result is None:
            continue
        verdict, paid = "", True
        if before is not None:
            test = compare(before, result)
            verdict, paid = compared(test, before, result), pays(test, before, result, running_cost)
        comparable = result.validation_images == chosen.validation_images
        found.append(
            Rung(
                step=" + ".join(untried),
                recipe=result.recipe,
                size_bytes=result.size_bytes,
                latency_ms=result.latency_ms,
                ram_bytes=result.ram_bytes,
                validation_accuracy=result.validation_accuracy if comparable else None,
                accuracy=result.accuracy,
                verdict=verdict,
                paid=paid,
            )
        )
        before, untried = result, []
    return tuple(found) if len(found) > 1 else ()


def compared(test: PairedTest, without: Result, with_it: Result) -> str:
    """The paired test in words, and where a step trained longer, that this is a part of what it brought."""
    more = with_it.epochs - without.epochs
    words = f", with {more:.3g} epoch{'' if more == 1 else 's'} more of training" if more > 0 else ""
    return test.sentence() + words


def pays(test: PairedTest, without: Result, with_it: Result, running_cost: str) -> bool:
    """Whether a step made the answers better beyond chance, what is stored smaller or running it cheaper."""
    running = running_ratio(with_it, without, running_cost)
    better = test.gain > 0 and test.p_value < 0.05
    return (
        better
        or stored_bytes(with_it) < 0.99 * stored_bytes(without)
        or (running is not None and running < 1 - LATENCY_NOISE)
    )


def leanest(picked: Result, results: Sequence[Result], budget: Budget, reference: float) -> Result:
    """The recipe with the fewest steps that is as good as the picked one and has no other steps.

    As good: within the budget, and no worse in validation accuracy, size and what running costs, but for noise.
    reference: NQ's validation accuracy, 0 to 1.
    """
    steps = _steps(picked)

    def as_good(other: Result) -> bool:
        return (
            other.validation_accuracy >= picked.validation_accuracy - _SAME_ACCURACY - 1e-9
            and stored_bytes(other) <= _SAME_SIZE * stored_bytes(picked)
            and running_of(other, budget.running_cost) <= (1 + LATENCY_NOISE) * running_of(picked, budget.running_cost)
            and not shortfalls(other, budget, reference)
        )

    shorter = [
        other
        for other in results
        if (other.network, other.seed) == (picked.network, picked.seed) and _steps(other) < steps and as_good(other)
    ]
    return min(shorter, key=lambda other: (len(_steps(other)), -other.validation_accuracy), default=picked)


def dropped_words(picked: Result, leaner: Result) -> str:
    """Which steps of the picked recipe the leaner one does without, and why that is right."""
    kept = _steps(leaner)
    dropped = [step for step in picked.recipe.split(" > ")[1:] if step not in kept]
    return (
        f"{', '.join(dropped)} did not pay and was dropped: {picked.recipe} is {picked.size_bytes:,} bytes at "
        f"{100 * picked.validation_accuracy:.1f} % on validation, without it {leaner.size_bytes:,} bytes at "
        f"{100 * leaner.validation_accuracy:.1f} %"
    )


def _steps(result: Result) -> frozenset[str]:
    return frozenset(result.recipe.split(" > ")[1:])
