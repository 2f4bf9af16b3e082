"""Choosing one result for a budget, on validation results alone, and saying why."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from dlmo.measure.statistics import PairedTest
from dlmo.strategy.budget import (
    RUNNING_COSTS,
    STUDY_ADVICE,
    Budget,
    cost_excess,
    running_of,
    running_ratio,
    shortfalls,
    stored_bytes,
)
from dlmo.strategy.waterfall import LATENCY_NOISE, compared, dropped_words, leanest, pays, waterfall
from dlmo.study.recipe import parse
from dlmo.study.results import Choice, Result, StepWorth

# In the balance, a file or a latency half as large weighs like errors growing by this factor. Errors, not points of
# accuracy: half a point is little at 80 % and doubles the errors at 99.5 %. At 1.1, a file of a quarter of the size and
# of the latency may make 1.46 times as many errors; at 1.25 it could make 2.4 times as many.
_ERRORS_PER_HALVING = 1.1

# Said where an accuracy is not what was measured, but what looking again should give.
AS_EXPECTED = " (accuracy as expected: not looked at again)"

Compare = Callable[[Result, Result], PairedTest]


def is_expected(judged: Result, measured: Result) -> bool:
    """Whether a choice sees an accuracy of a result that was not measured. judged: see choose."""
    # The images too: what should be right on all of many others may have been so on few.
    seen = [(result.validation_accuracy, result.validation_images) for result in (judged, measured)]
    return seen[0] != seen[1]


def reference_of(results: Sequence[Result]) -> Result:
    """What a drop is measured against: the best network without optimization, by validation accuracy.

    Where no NQ was tried, the most accurate result.
    """
    plain = [result for result in results if result.setup == "NQ"] or list(results)
    return max(plain, key=lambda result: result.validation_accuracy)


def pick(results: Sequence[Result], budget: Budget, plain: float | None = None) -> Result | None:
    """The result that meets the budget and serves its goal best; None if none meets it.

    plain: what a drop is measured against, 0 to 1, where that is none of the results.
    """
    reference = reference_of(results)
    before = reference.validation_accuracy if plain is None else plain
    legal = [r for r in results if not shortfalls(r, budget, before)]
    if not legal:
        return None
    if budget.goal == "size":
        return min(legal, key=lambda r: (stored_bytes(r), -r.validation_accuracy, running_of(r, budget.running_cost)))
    if budget.goal == "balance":
        return max(legal, key=lambda r: balance(r, reference, budget))
    return max(legal, key=lambda r: (round(r.validation_accuracy, 3), -running_of(r, budget.running_cost)))


def balance(result: Result, reference: Result, budget: Budget) -> float:
    """How many halvings of size, of running cost and of errors (weighed) a result is ahead of the reference.

    One error more than was seen is counted, so that no errors among few images are not taken for none at all.
    """
    size = math.log2(stored_bytes(reference) / stored_bytes(result))
    before, after = (running_of(r, budget.running_cost) for r in (reference, result))
    # Against a reference of unknown cost only size and errors count; an unknown cost itself comes last.
    running = -math.inf if after == math.inf else 0.0 if before == math.inf else math.log2(before / after)
    return size + running + math.log(_errors(reference) / _errors(result), _ERRORS_PER_HALVING)


def _errors(result: Result) -> float:
    return 1 - result.validation_accuracy + 1 / result.validation_images


def likely_choice(judged: Sequence[Result], budget: Budget) -> Result | None:
    """What is chosen, without the steps that did not pay; None if none meets the budget."""
    picked = pick(judged, budget)
    return picked and leanest(picked, judged, budget, reference_of(judged).validation_accuracy)


def choose(
    results: Sequence[Result], budget: Budget, compare: Compare, judged: Sequence[Result] | None = None
) -> Choice | None:
    """The result for a budget, without the steps that did not pay; None if none meets it. compare: see explain.

    judged: the same results with the validation accuracies to choose by, where those are others (see confirm).
    """
    judged = results if judged is None else judged
    picked, leaner = pick(judged, budget), likely_choice(judged, budget)
    if picked is None:
        return None
    told = {id(entry): result for entry, result in zip(judged, results)}
    if leaner is picked:
        return explain(told[id(picked)], results, budget, compare, judged=judged)
    said = "as good as {}, but for noise, with fewer steps"
    choice = explain(told[id(leaner)], results, budget, compare, said, judged)
    # On the same images, or as expected there: accuracies on few images and on many are not to be compared.
    doubt = AS_EXPECTED * any(is_expected(entry, told[id(entry)]) for entry in (picked, leaner))
    return replace(choice, reasons=(*choice.reasons, dropped_words(picked, leaner) + doubt))


def explain(
    chosen: Result,
    results: Sequence[Result],
    budget: Budget,
    compare: Compare,
    said: str = "{}",
    judged: Sequence[Result] | None = None,
) -> Choice:
    """Reasons, the worth of each step, and whether the study's advice held. compare: paired test on test images.

    said: how the first reason, {}, is put. judged: see choose.
    """
    judged = results if judged is None else judged
    reference = reference_of(judged)
    legal = [r for r in judged if not shortfalls(r, budget, reference.validation_accuracy)]
    measure = budget.running_cost
    cost = RUNNING_COSTS[measure]
    goal = {
        "size": "the smallest file" if chosen.flash_bytes is None else "the least flash",
        "balance": f"the best balance (half the size or {cost} weighs like a tenth more errors)",
        "accuracy": f"the highest validation accuracy (to 0.1 point), then the lowest {cost}",
    }[budget.goal]
    meet = "1 candidate" if len(legal) == 1 else f"{len(legal)} candidates"
    why = said.format(f"{goal} of {meet} (of {len(results)}) that meet{'s' * (len(legal) == 1)} the budget")
    entry = next(entry for entry, result in zip(judged, results) if result is chosen)
    if is_expected(entry, chosen):
        taken = f"{100 * entry.validation_accuracy:.1f} % of {entry.validation_images:,} validation images"
        why += f"; its accuracy is taken as {taken}, as expected: it was not looked at again"
    advised = advice(chosen, results, budget, compare, judged)
    return _choice(chosen, results, compare, measure, why, advised, _told(reference, results))


def asked_for(chosen: Result, results: Sequence[Result], compare: Compare) -> Choice:
    """The result of the recipe the user gave, and what it brought. compare: paired test on test images."""
    measure = "ram_bytes" if chosen.latency_ms is None else "latency_ms"
    return _choice(chosen, results, compare, measure, "the recipe was given", "", reference_of(results))


def _told(judged: Result, results: Sequence[Result]) -> Result:
    """The result that one of those to choose by stands for."""
    return next(result for result in results if (result.recipe, result.seed) == (judged.recipe, judged.seed))


def _choice(
    chosen: Result,
    results: Sequence[Result],
    compare: Compare,
    measure: str,
    why: str,
    advised: str,
    reference: Result,
) -> Choice:
    """measure: the running cost that counts, a key of RUNNING_COSTS."""
    better, worse = ("faster", "slower") if measure == "latency_ms" else ("less RAM", "more RAM")
    reasons = [why]
    if chosen is not reference:
        reasons.append(
            f"against {reference.network} {reference.setup}: "
            f"{_ratio(chosen.size_bytes / reference.size_bytes, 'smaller', 'larger')}, "
            f"{_ratio(running_ratio(chosen, reference, measure), better, worse)}; "
            f"accuracy on test: {compare(reference, chosen).sentence()}"
        )
    if chosen.float_operators:
        reasons.append(f"operators that stayed in float: {', '.join(chosen.float_operators)}")
    worth = step_worth(chosen, results, compare, measure)
    for step in worth:
        if not step.paid:
            reasons.append(f"{step.step} did not pay here: {step.verdict}")
    return Choice(chosen, tuple(reasons), worth, advised, waterfall(chosen, results, compare, measure))


def step_worth(
    chosen: Result, results: Sequence[Result], compare: Compare, running_cost: str = "latency_ms"
) -> tuple[StepWorth, ...]:
    """Each step of the chosen recipe against the same recipe without it, where that was tried."""
    steps = chosen.recipe.split(" > ")
    known = {str(parse(r.recipe)): r for r in results if r.seed == chosen.seed}
    found = []
    for index in range(1, len(steps)):
        rest = [step for position, step in enumerate(steps) if position != index]
        last = index == len(steps) - 1
        # Without its precision a recipe gives the float file; QAT without int8 trains for nothing.
        texts = [" > ".join([*rest, "float32"]) if last else " > ".join(rest)]
        if last and "qat" in rest:
            texts.append(" > ".join([*(step for step in rest if step != "qat"), "float32"]))
        without = next((known[text] for text in texts if _canonical(text) and text in known), None)
        if without is None or without is chosen:
            continue
        test = compare(without, chosen)
        size = chosen.size_bytes / without.size_bytes
        running = running_ratio(chosen, without, running_cost)
        paid = pays(test, without, chosen, running_cost)
        latency, ram = (running, None) if running_cost == "latency_ms" else (None, running)
        verdict = compared(test, without, chosen)
        found.append(StepWorth(steps[index], without.recipe, test.gain, size, latency, verdict, paid, ram))
    return tuple(found)


def _canonical(text: str) -> bool:
    from dlmo.errors import UserError

    try:
        parse(text)
    except UserError:
        return False
    return True


def advice(
    chosen: Result, results: Sequence[Result], budget: Budget, compare: Compare, judged: Sequence[Result] | None = None
) -> str:
    """Whether the study's advice for this tier held on this data. judged: see choose."""
    judged = results if judged is None else judged
    advised = STUDY_ADVICE.get(budget.service, ())
    if not advised:
        return ""
    said = f"The study advises {' or '.join(advised)} for this tier"
    if chosen.setup in advised:
        return f"{said}: it held here, {chosen.setup} was chosen."
    rivals = [r for r in judged if r.network == chosen.network and r.setup in advised and r.seed == chosen.seed]
    if not rivals:
        return f"{said}; it was not tried on {chosen.network}, so this run cannot tell."
    rival = max(rivals, key=lambda r: r.validation_accuracy)
    missed = shortfalls(rival, budget, reference_of(judged).validation_accuracy)
    test = compare(_told(rival, results), chosen)
    verdict = (
        f"{rival.setup} misses the budget: {'; '.join(missed)}" if missed
        else f"{rival.setup} meets the budget, but is not best"
    ) + AS_EXPECTED * is_expected(rival, _told(rival, results))  # fmt: skip
    costs = chosen.size_bytes / rival.size_bytes, running_ratio(chosen, rival, budget.running_cost)
    alike = all(cost is not None and abs(cost - 1) <= LATENCY_NOISE for cost in costs)
    if not missed and alike and test.p_value >= 0.05:
        return f"{said}: {rival.setup} meets the budget too, and this run cannot tell it from the choice."
    return (
        f"{said}: it did not hold here. On {rival.network} {verdict}. {rival.setup} is {rival.size_bytes:,} bytes at "
        f"{_running_words(rival, budget)}, the chosen {chosen.setup} {chosen.size_bytes:,} bytes at "
        f"{_running_words(chosen, budget)}; accuracy of the choice on test: "
        f"{test.sentence()}."
    )


def _running_words(result: Result, budget: Budget) -> str:
    cost = running_of(result, budget.running_cost)
    return f"{cost:.3g} ms" if budget.running_cost == "latency_ms" else f"{cost:,} bytes of RAM"


def shut_out(chosen: Result, results: Sequence[Result], budget: Budget, count: int = 3) -> tuple[str, ...]:
    """The smallest files below a choice for size that meet every limit but the loss against the best network, and
    what each lacks: a better network makes that limit stricter."""
    if budget.goal != "size" or budget.max_drop is None:
        return ()
    reference, free = reference_of(results).validation_accuracy, replace(budget, max_drop=None)
    smaller = [
        r
        for r in results
        if r.size_bytes < chosen.size_bytes and shortfalls(r, budget, reference) and not shortfalls(r, free, reference)
    ]
    smaller.sort(key=lambda r: r.size_bytes)
    return tuple(f"{r.recipe}: {'; '.join(shortfalls(r, budget, reference))}" for r in smaller[:count])


def nearest(results: Sequence[Result], budget: Budget, count: int = 3) -> tuple[str, ...]:
    """The results that lack least, and what each lacks."""
    reference = reference_of(results).validation_accuracy
    ranked = sorted(results, key=lambda r: (_distance(r, budget, reference), r.size_bytes))
    return tuple(f"{r.recipe}: {'; '.join(shortfalls(r, budget, reference))}" for r in ranked[:count])


def _distance(result: Result, budget: Budget, reference: float) -> float:
    """How far over the limits, as a sum of relative excesses (a point of accuracy counts as 10 %)."""
    total = cost_excess(result, budget)
    if budget.max_drop is not None:
        total += 10 * max(0.0, reference - result.validation_accuracy - budget.max_drop)
    if budget.min_accuracy is not None:
        total += 10 * max(0.0, budget.min_accuracy - result.validation_accuracy)
    return total


def _ratio(ratio: float | None, better: str, worse: str) -> str:
    if ratio is None:
        return f"not known whether it is {better}"
    if abs(ratio - 1) < LATENCY_NOISE:
        return {"smaller": "as large", "faster": "as fast"}.get(better, "as much RAM")
    return f"{1 / ratio:.1f}x {better}" if ratio <= 1 else f"{ratio:.1f}x {worse}"
