"""Which results are looked at again, with figures that need no training; for real in test_search_on_digits."""

import time
from dataclasses import dataclass, replace

import numpy as np
import pytest

from dlmo.data.dataset import fingerprint
from dlmo.measure.statistics import PairedTest
from dlmo.strategy import confirm as confirming
from dlmo.strategy.budget import make_budget
from dlmo.strategy.choose import choose
from dlmo.strategy.confirm import confirm, fold_datasets
from dlmo.strategy.job import _near
from dlmo.study.recipe import for_setup
from dlmo.study.results import Result
from dlmo.study.run import Outcome


def result(setup, network, validation_accuracy, size_bytes):
    return Result(
        recipe=str(for_setup(network, setup)), setup=setup, network=network, accuracy=0.9, accuracy_low=0.8,
        accuracy_high=1.0, validation_accuracy=validation_accuracy, validation_images=200, size_bytes=size_bytes,
        compressed_bytes=size_bytes, latency_ms=1.0, latency_p90_ms=1.1, threads=1, ram_bytes=5000, macs=1,
        parameters=1, delegated=1.0, partitions=1, seed=0, epochs=1, seconds=1.0, test_images=100, sparsity=0.0,
        operators={}, float_operators=(), artifact="x.tflite",
    )  # fmt: skip


NQ = result("NQ", "resnet8", 0.97, 1000)
LUCKY = result("PRQ", "resnet8@0.25", 0.98, 100)
GOOD = result("FIQ", "resnet8@0.5", 0.965, 300)
ALL = [NQ, LUCKY, GOOD]
TRUTH = {NQ.recipe: 0.95, LUCKY.recipe: 0.92, GOOD.recipe: 0.945}
LOW = make_budget("low")


@dataclass
class Judge:
    """Knows the truth; asked: what was looked at, in order."""

    asked: list
    cost: dict
    broken: tuple = ()
    trained: tuple = ()
    trainings = 4

    def seconds(self, result):
        return self.cost.get(result.recipe, 1.0)

    def is_trained(self, recipe):
        return str(recipe) in self.trained

    def again(self, result):
        self.asked.append(result.recipe)
        if result.recipe in self.broken:
            raise ValueError("no such thing")
        return replace(result, validation_accuracy=TRUTH[result.recipe], validation_images=800)


@pytest.fixture
def judge(monkeypatch):
    judge = Judge([], {})
    monkeypatch.setattr(confirming, "_Judge", lambda workspace, plans, seed: judge)
    return judge


def looked_at(judge, results=ALL, budget=LOW):
    outcomes = [Outcome(entry, b"", np.zeros((1, 2))) for entry in results]
    return confirm(None, outcomes, {}, 0, budget, time.monotonic() + 100)


def chosen(found, budget=LOW):
    """What the job takes then, of its own results."""
    results = [outcome.result for outcome in found.outcomes]
    choice = choose(results, budget, lambda first, second: PairedTest(100, 3, 3, 1.0), found.judged)
    assert choice.result in results
    return choice.result.recipe


def test_a_lucky_file_is_found_out_and_the_next_one_taken(judge):
    found = looked_at(judge)
    assert judge.asked == [NQ.recipe, LUCKY.recipe, GOOD.recipe]
    assert [outcome.result.validation_accuracy for outcome in found.outcomes] == [0.95, 0.92, 0.945]
    assert found.judged == [outcome.result for outcome in found.outcomes]
    assert {entry.validation_images for entry in found.judged} == {800}
    assert chosen(found) == GOOD.recipe
    assert "98.0 % right on 200 validation images; looked at again, 92.0 % of 800 images" in found.notes[1]


def test_what_was_not_looked_at_is_compared_by_what_was_seen_of_the_others(judge):
    # On the first 200 images NQ did two points better than on all: by that, this one loses too much.
    weaker = replace(GOOD, validation_accuracy=0.955)
    judge.cost = {weaker.recipe: 1e6}
    found = looked_at(judge, [NQ, weaker])
    assert judge.asked == [NQ.recipe] and len(found.notes) == 1, "nobody waited for it, so nobody misses it"
    assert found.outcomes[1].result == weaker
    assert found.judged[1].validation_accuracy == pytest.approx(0.935)
    assert chosen(found) == NQ.recipe


def test_what_may_be_better_is_looked_at_while_there_is_time(judge):
    # By the luck of NQ it should lose 1.5 points; it had less luck, and loses half a point.
    weaker = replace(GOOD, validation_accuracy=0.955)
    found = looked_at(judge, [NQ, weaker])
    assert judge.asked == [NQ.recipe, weaker.recipe]
    assert chosen(found) == weaker.recipe
    worse = replace(GOOD, validation_accuracy=0.939)  # too little even if it had no luck at all
    judge.asked.clear()
    assert chosen(looked_at(judge, [NQ, worse])) == NQ.recipe and judge.asked == [NQ.recipe]


def test_without_time_for_any_everything_stays_and_is_said(judge):
    judge.cost = dict.fromkeys(TRUTH, 1e6)
    found = looked_at(judge)
    assert found.judged == ALL and judge.asked == []
    for recipe, note in zip((NQ.recipe, LUCKY.recipe), found.notes, strict=True):
        assert f"{recipe}: there was no time to look at it again" in note


def test_without_time_for_the_reference_the_best_file_is_looked_at_all_the_same(judge):
    judge.cost = {NQ.recipe: 1e6}
    found = looked_at(judge)
    # What LUCKY lost is not taken off the others, or nothing would be better.
    assert judge.asked == [LUCKY.recipe, GOOD.recipe]
    assert f"{NQ.recipe}: there was no time to look at it again" in found.notes[0]
    assert "looked at again, 92.0 % of 800 images" in found.notes[1]
    assert chosen(found) == GOOD.recipe


def test_a_lucky_file_is_found_out_where_the_reference_cannot_be_looked_at(judge, monkeypatch):
    for entry, right in zip(ALL, (0.965, 0.90, 0.96)):
        monkeypatch.setitem(TRUTH, entry.recipe, right)
    judge.cost = {NQ.recipe: 1e6}
    found = looked_at(judge)
    assert judge.asked == [LUCKY.recipe, GOOD.recipe]
    assert chosen(found) == GOOD.recipe


def test_without_time_for_the_best_file_it_is_still_the_best(judge):
    judge.cost = {LUCKY.recipe: 1e6}
    found = looked_at(judge)
    assert judge.asked == [NQ.recipe]
    assert chosen(found) == LUCKY.recipe
    assert f"{LUCKY.recipe}: there was no time to look at it again" in found.notes[1]


def test_one_that_cannot_be_trained_again_ends_nothing(judge):
    judge.broken = (NQ.recipe,)
    found = looked_at(judge)
    assert judge.asked == [NQ.recipe, LUCKY.recipe, GOOD.recipe]
    assert [outcome.result.validation_images for outcome in found.outcomes] == [200, 800, 800]
    assert f"{NQ.recipe}: could not be looked at again: ValueError: no such thing" in found.notes


def test_files_of_the_same_trainings_come_along_and_may_fail_alone(judge):
    sibling = result("F16", "resnet8", 0.97, 500)
    judge.trained, judge.broken = (sibling.recipe, GOOD.recipe), (sibling.recipe,)
    found = looked_at(judge, [NQ, sibling, GOOD])
    assert judge.asked == [NQ.recipe, sibling.recipe, GOOD.recipe]
    assert [outcome.result.validation_images for outcome in found.outcomes] == [800, 200, 800]


def test_the_balance_is_the_same_for_what_was_looked_at_and_what_was_not(judge, monkeypatch):
    # As right as the reference, better in all else; and all were better on the other images.
    perfect = result("PRQ", "resnet8@0.5", 1.0, 400)
    monkeypatch.setitem(TRUTH, NQ.recipe, 0.99)
    monkeypatch.setitem(TRUTH, perfect.recipe, 1.0)
    mid = make_budget("mid")
    found = looked_at(judge, [NQ, perfect], mid)
    assert judge.asked == [NQ.recipe, perfect.recipe]
    assert chosen(found, mid) == perfect.recipe


def test_nothing_is_looked_at_again_where_no_file_keeps_the_limits(judge):
    tiny = make_budget("low", max_size="10")
    found = looked_at(judge, budget=tiny)
    assert judge.asked == [] and found.judged == ALL and found.notes == ()


def test_an_accuracy_that_is_only_expected_is_said_to_be(judge):
    weaker = replace(GOOD, validation_accuracy=0.955)
    judge.cost = {weaker.recipe: 1e6}
    found = looked_at(judge, [NQ, weaker])
    results = [outcome.result for outcome in found.outcomes]
    choice = choose(results, LOW, lambda first, second: PairedTest(100, 3, 3, 1.0), found.judged)
    (line,) = _near(choice, results, found.judged, LOW)
    assert line.startswith(f"{weaker.recipe}: loses 1.50 points")
    assert line.endswith("(accuracy as expected: not looked at again)")
    assert "expected" not in choice.reasons[0]
    assert _near(choice, results, results, LOW) == (), "as it was measured, it loses two points"


def test_folds_hold_every_image_once_and_no_test_image(digits):
    folds = fold_datasets(digits)
    assert len(folds) == len(digits.folds) == 3
    pool = len(digits.train) + len(digits.validation)
    names = [set(digits.validation.names), *(set(fold.validation.names) for fold in folds)]
    assert sum(map(len, names)) == len(set.union(*names))
    for fold in folds:
        assert len(fold.train) + len(fold.validation) == pool and len(fold.test) == 0
        assert not set(fold.train.names) & set(fold.validation.names)
        assert not set(fold.train.names) & set(digits.test.names)
        assert np.bincount(fold.validation.labels, minlength=10).min() > 0
        assert abs(len(fold.validation) - len(digits.validation)) <= 10
        assert fold.fingerprint == fingerprint(fold.classes, (fold.train, fold.validation, fold.test))
    assert len({digits.fingerprint, *(fold.fingerprint for fold in folds)}) == 4


def test_a_choice_whose_accuracy_is_only_expected_says_by_which_it_was_made(judge):
    judge.cost = {LUCKY.recipe: 1e6}
    found = looked_at(judge)
    results = [outcome.result for outcome in found.outcomes]
    choice = choose(results, LOW, lambda first, second: PairedTest(100, 3, 3, 1.0), found.judged)
    assert choice.result is LUCKY
    assert choice.reasons[0].endswith(
        "; its accuracy is taken as 96.0 % of 800 validation images, as expected: it was not looked at again"
    )


def test_an_accuracy_that_is_expected_to_be_the_same_is_only_expected_too(judge, monkeypatch):
    monkeypatch.setitem(TRUTH, NQ.recipe, 1.0)
    perfect = [replace(entry, validation_accuracy=1.0) for entry in (NQ, LUCKY)]
    judge.cost = {LUCKY.recipe: 1e6}
    found = looked_at(judge, perfect)
    results = [outcome.result for outcome in found.outcomes]
    choice = choose(results, LOW, lambda first, second: PairedTest(100, 3, 3, 1.0), found.judged)
    assert choice.result.recipe == LUCKY.recipe
    assert "100.0 % of 800 validation images, as expected: it was not looked at again" in choice.reasons[0]
