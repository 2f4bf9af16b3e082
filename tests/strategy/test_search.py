"""The search's course, with figures that need no training; the whole of it on digits is in test_search_on_digits."""

import re
import time
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from dlmo.errors import DeviceError, StoreError, UserError
from dlmo.strategy import journal
from dlmo.strategy import search as searching
from dlmo.strategy.budget import make_budget
from dlmo.strategy.evidence import Evidence
from dlmo.strategy.plan import plan_for
from dlmo.strategy.search import Terms, search
from dlmo.strategy.space import Space
from dlmo.study.recipe import parse
from dlmo.study.store import Store

REAL_PROMOTE = searching._Searcher._promote
REAL_FORMATS = searching._Searcher._look_at_formats
SPACE = Space(("resnet8", "resnet14"), (0.25, 0.5), ("small",), True, ("int8",))


@pytest.fixture
def fresh(workspace, tmp_path):
    return replace(workspace, store=Store(tmp_path / "store"))


@pytest.fixture
def trained(monkeypatch):
    """Takes the place of training and measuring; the recipes and epochs that were asked for."""
    asked = []

    def figures(self, recipe, epochs):
        asked.append((str(recipe), epochs))
        width = 0.25 if "0.25" in recipe.network else 0.5
        kept = next((1 - step.ratio for step in recipe.steps if step.name == "prune_channels"), 1.0)
        size = int(20_000 * width * kept * (2 if "14" in recipe.network else 1))
        right = 0.9 + 0.02 * kept * width + 0.01 * (recipe.kd is not None) + 0.001 * epochs
        costs = {"size_bytes": size, "latency_ms": size / 1e5, "ram_bytes": 9_000}
        return self._trial(
            recipe, epochs, time.monotonic(), **costs, validation_accuracy=right, validation_images=400
        )  # fmt: skip

    monkeypatch.setattr(searching._Searcher, "_trained", figures)
    monkeypatch.setattr(searching._Searcher, "_promote", promoted)
    monkeypatch.setattr(searching._Searcher, "_look_at_formats", lambda self, recipe: None)
    monkeypatch.setattr(searching, "check_steps", lambda workspace, recipe: None)  # widths are figures here too
    monkeypatch.setattr(searching, "_MOST_REPEATS", 3)
    return asked


@pytest.fixture
def small_files(monkeypatch):
    """No recipe is refused by its shape."""
    costs = 4_000, None, 0.1, 5_000
    monkeypatch.setattr(
        searching.evidence, "gather", lambda workspace, recipes, threads: [Evidence(r, *costs) for r in recipes]
    )


def promoted(self, recipe):
    """As the real one, without the files of the recipes that lead to this one."""
    found = self._trained(recipe, self._terms.long)
    self._note(f"plain {self._terms.long} {recipe.network}", found.validation_accuracy)
    self._note(f"long {self._terms.long} {found.recipe}", searching.asdict(found))


def terms(workspace, **changes):
    usual = Terms(
        short=1, long=4, plan_of=lambda epochs: plan_for(workspace, epochs), seconds=60,
        deadline=time.monotonic() + 1e6, budget=make_budget("low"), limited=False, seed=0, threads=1,
        epoch_seconds={"resnet8@0.5": 0.1}, plain={"resnet8@0.5": 0.8},
    )  # fmt: skip
    return replace(usual, **changes)


def recipes_of(found):
    return [trial.recipe for trial in found.search.trials]


def test_short_trainings_sort_and_long_ones_decide(fresh, trained):
    found = search(fresh, SPACE, terms(fresh))
    short = [recipe for recipe, epochs in trained if epochs == 1]
    long = [recipe for recipe, epochs in trained if epochs == 4]
    assert found.search.stopped == "nothing new was proposed"
    assert len(short) == len(set(short)) >= 10
    assert set(long) <= set(short) and len(long) >= len(short) // 4
    assert max(short.index(recipe) for recipe in long[:2]) <= 6, "the first long training does not wait for the end"
    assert recipes_of(found) == short + long
    final = {str(recipe) for recipe in found.recipes}
    assert final & set(long)
    for recipe in found.recipes:
        assert found.plans[recipe.network].train.epochs == 4
    assert found.search.overhead is None, "nothing was trained or measured in earnest"


def test_the_front_of_what_was_trained_long_comes_through(fresh, trained):
    found = search(fresh, SPACE, terms(fresh))
    long = [trial for trial in found.search.trials if trial.epochs == 4]
    final = {str(recipe) for recipe in found.recipes}
    assert min(long, key=lambda trial: trial.size_bytes).recipe in final
    best = max(trial.validation_accuracy for trial in long)
    assert any(trial.recipe in final for trial in long if trial.validation_accuracy == best)
    chosen = next(parse(trial.recipe) for trial in long if "prune_channels" in trial.recipe and trial.recipe in final)
    assert f"{chosen.network} > float32" in final, "the recipes that lead to it come along"


def test_formats_that_need_no_training_are_looked_at(fresh, trained, monkeypatch):
    monkeypatch.setattr(searching._Searcher, "_look_at_formats", REAL_FORMATS)
    monkeypatch.setattr(searching._Searcher, "_promote", REAL_PROMOTE)
    monkeypatch.setattr(searching._Searcher, "_make_rungs", lambda self, recipe: None)
    space = replace(SPACE, forms=("qat > int8", "prune > int8", "int8", "float16"))
    found = search(fresh, space, terms(fresh))
    long = {str(recipe) for recipe, epochs in trained if epochs == 4}
    promoted = [recipe for recipe, epochs in trained if epochs == 1 and recipe in long]
    for recipe in map(parse, promoted):
        before = [step for step in recipe.steps[:-1] if step.name != "qat"]
        others = {" > ".join([recipe.network, *map(str, before), form]) for form in ("int8", "float16")}
        assert others <= long
    assert not any("dynamic_int8" in recipe for recipe in long), "not among the forms"
    assert not any("qat" in recipe and recipe not in promoted for recipe in long)
    assert set(recipes_of(found)) >= long
    count = len(trained)
    search(fresh, space, terms(fresh))
    assert len(trained) == count, "each once"


def test_the_same_seed_tries_the_same(fresh, trained, tmp_path):
    first = recipes_of(search(fresh, SPACE, terms(fresh)))
    again = replace(fresh, store=Store(tmp_path / "again"))
    assert recipes_of(search(again, SPACE, terms(again))) == first
    other = replace(fresh, store=Store(tmp_path / "other"))
    assert recipes_of(search(other, SPACE, terms(other, seed=1))) != first


def test_killed_it_goes_on_and_ends_the_same(fresh, trained, tmp_path, monkeypatch):
    undisturbed = recipes_of(search(fresh, SPACE, terms(fresh)))
    figures = searching._Searcher._trained

    def die(self, recipe, epochs):
        if len(trained) == before + 5:
            raise KeyboardInterrupt
        return figures(self, recipe, epochs)

    before = len(trained)
    killed = replace(fresh, store=Store(tmp_path / "killed"))
    monkeypatch.setattr(searching._Searcher, "_trained", die)
    with pytest.raises(KeyboardInterrupt):
        search(killed, SPACE, terms(killed))
    monkeypatch.setattr(searching._Searcher, "_trained", figures)
    assert recipes_of(search(killed, SPACE, terms(killed))) == undisturbed
    assert len(trained) == 2 * before, "what was finished is not tried again"


def test_another_budget_trains_nothing(fresh, trained):
    first = search(fresh, SPACE, terms(fresh))
    before = len(trained)
    second = search(fresh, SPACE, terms(fresh, budget=make_budget("high"), seconds=30))
    assert len(trained) == before
    assert recipes_of(second) == recipes_of(first)
    assert second.search.stopped.endswith("in an earlier run")


def test_more_time_goes_on_with_what_was_found(fresh, trained):
    few = search(fresh, SPACE, terms(fresh, deadline=time.monotonic()))
    assert few.search.stopped == "the time to search is up; the rest is for measuring" and not few.recipes
    more = search(fresh, SPACE, terms(fresh, seconds=120))
    assert more.recipes and set(recipes_of(few)) <= set(recipes_of(more))


def test_a_longer_search_begins_with_what_a_shorter_one_found_best(fresh, trained):
    short = search(fresh, SPACE, terms(fresh))
    tried = {trial.recipe for trial in short.search.trials}
    best = {untaught(str(recipe)) for recipe in short.recipes if str(recipe) in tried}
    trained.clear()
    search(fresh, SPACE, terms(fresh, short=2, long=8, seconds=600))
    first = [untaught(recipe) for recipe, epochs in trained if epochs == 2][: len(SPACE.first()) + len(best)]
    assert best and best <= set(first)


def test_what_an_earlier_search_found_best_is_trained_long_first(fresh, trained):
    search(fresh, SPACE, terms(fresh))
    trained.clear()
    again = terms(fresh, long=8, seconds=600)  # the same short trainings
    best = journal.winners(fresh, journal.question(fresh, SPACE, again.threads, again.seed))
    search(fresh, SPACE, again)
    long = [recipe for recipe, epochs in trained if epochs == 8]
    assert best and set(long[: len(best)]) == set(best)


def test_a_cut_that_changes_nothing_is_no_failure_to_try_again(fresh, trained, monkeypatch):
    def check(workspace, recipe):
        if any(step.name == "prune_channels" for step in recipe.steps):
            raise UserError("cuts nothing")

    monkeypatch.setattr(searching, "check_steps", check)
    first = search(fresh, SPACE, terms(fresh)).search
    assert any(trial.refused == "cuts nothing" for trial in first.trials)
    before = len(trained)
    assert "in an earlier run" in search(fresh, SPACE, terms(fresh)).search.stopped and len(trained) == before


def test_a_recipe_must_run_on_every_target(fresh):
    class Microcontroller:
        name = "mcu"

    searcher = searching._Searcher(replace(fresh, more_targets={"mcu": Microcontroller()}), SPACE, terms(fresh))
    for text in ("resnet8@0.5 > prune(0.8) > int8", "resnet8@0.5 > dynamic_int8"):
        assert not searcher._legal(parse(text))
    assert searcher._legal(parse("resnet8@0.5 > int8"))


def untaught(recipe):
    """The teacher is the best network so far, which is another one at another time."""
    return re.sub(r"kd\([^)]*\)", "kd", recipe)


def test_what_breaks_a_limit_by_its_shape_is_refused_untrained(fresh, trained, monkeypatch):
    def gather(workspace, recipes, threads):
        return [Evidence(r, 9_000 if "0.25" in r.network else 90_000, None, 0.1, 5_000) for r in recipes]

    monkeypatch.setattr(searching.evidence, "gather", gather)
    found = search(fresh, SPACE, terms(fresh, budget=make_budget("low", max_size="10KB"), limited=True))
    refused = [trial for trial in found.search.trials if trial.refused]
    assert refused and all("0.5" in trial.network for trial in refused)
    assert all("0.25" in recipe for recipe, _ in trained)
    assert refused[0].refused == "90,000 bytes (allowed 10,000)" and refused[0].size_bytes == 90_000


def test_other_limits_are_another_question_to_the_same_trials(fresh, trained, monkeypatch):
    def gather(workspace, recipes, threads):
        return [Evidence(r, 9_000 if "0.25" in r.network else 90_000, None, 0.1, 5_000) for r in recipes]

    monkeypatch.setattr(searching.evidence, "gather", gather)
    tight = terms(fresh, budget=make_budget("low", max_size="10KB"), limited=True)
    first = search(fresh, SPACE, tight)
    wide = search(fresh, SPACE, replace(tight, budget=make_budget("low", max_size="1MB")))
    assert not any(trial.refused for trial in wide.search.trials)
    was_refused = {trial.recipe for trial in first.search.trials if trial.refused}
    assert was_refused & {recipe for recipe, _ in trained}
    before = len(trained)
    again = search(fresh, SPACE, replace(tight, budget=make_budget("low", max_size="1MB")))
    assert again.search.stopped.endswith("in an earlier run") and len(trained) == before


def test_what_other_code_found_is_asked_anew(fresh, trained, monkeypatch):
    search(fresh, SPACE, terms(fresh))
    before = len(trained)
    search(fresh, SPACE, terms(fresh))
    assert len(trained) == before
    monkeypatch.setitem(journal.VERSIONS, "artifact", -1)
    search(fresh, SPACE, terms(fresh))
    assert len(trained) > before


def test_limits_after_a_search_without_any_still_find_what_keeps_them(fresh, trained, monkeypatch):
    monkeypatch.setattr(searching.evidence, "gather", lambda workspace, recipes, threads: [
        Evidence(r, 4_000 if "0.25" in r.network else 9_000, None, 0.1, 5_000) for r in recipes
    ])  # fmt: skip
    search(fresh, SPACE, terms(fresh))
    limited = terms(fresh, budget=make_budget("low", max_size="4500"), limited=True)
    found = search(fresh, SPACE, limited)
    long = [trial for trial in found.search.trials if trial.epochs == 4 and trial.size_bytes <= 4_500]
    assert long and {trial.recipe for trial in long} & set(map(str, found.recipes))


def test_it_stops_when_limits_and_accuracy_are_surely_kept(fresh, trained, small_files):
    def searched(wanted, folder):
        budget = make_budget("low", max_size="1MB", min_accuracy=wanted)
        asked = terms(fresh, budget=budget, limited=True)
        return search(replace(fresh, store=Store(fresh.store.root / folder)), SPACE, asked).search

    met = searched(0.8, "easy")
    assert met.stopped == "the budget is met"
    assert sum(trial.epochs == 4 for trial in met.trials) == 1, "the first long training was enough"
    # 0.92 right of 400: the interval begins at 0.89.
    unsure = searched(0.92, "unsure")
    assert unsure.stopped == "nothing new was proposed" and len(unsure.trials) > len(met.trials)


def test_it_does_not_stop_at_a_budget_that_other_images_have_yet_to_confirm(fresh, trained, small_files):
    budget = make_budget("low", max_size="1MB", min_accuracy=0.8)
    asked = terms(fresh, budget=budget, limited=True, judged_again=True)
    assert search(fresh, SPACE, asked).search.stopped == "nothing new was proposed"


def test_another_loss_that_is_allowed_is_searched_for(fresh, trained, small_files):
    search(fresh, SPACE, terms(fresh))
    assert search(fresh, SPACE, terms(fresh, budget=make_budget("mid"))).search.stopped.endswith("in an earlier run")
    looser = terms(fresh, budget=make_budget("low", max_drop=0.1))
    assert search(fresh, SPACE, looser).search.stopped == "nothing new was proposed"
    assert search(fresh, SPACE, looser).search.stopped.endswith("in an earlier run")


def test_a_recipe_that_breaks_ends_no_search(fresh, monkeypatch):
    monkeypatch.setattr(searching, "_MOST_REPEATS", 2)
    monkeypatch.setattr(searching, "check_steps", lambda workspace, recipe: None)

    def broken(workspace, recipe, plan, seed):
        raise RuntimeError("the converter gave up\nlong trace")

    monkeypatch.setattr(searching, "make_artifact", broken)
    found = search(fresh, SPACE, terms(fresh))
    assert found.search.trials and not found.recipes
    assert {trial.refused for trial in found.search.trials} == {"RuntimeError: the converter gave up"}

    def full(workspace, recipe, plan, seed):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(searching, "make_artifact", full)
    with pytest.raises(OSError, match="No space left"):
        search(replace(fresh, store=Store(fresh.store.root / "other")), SPACE, terms(fresh))


def test_a_device_that_is_gone_is_not_the_recipes_fault(fresh, monkeypatch):
    tried = []

    def gone(workspace, recipe, plan, seed):
        tried.append(recipe)
        raise DeviceError("device board: no answer")

    monkeypatch.setattr(searching, "make_artifact", gone)
    with pytest.raises(DeviceError):
        search(fresh, SPACE, terms(fresh))
    asked = []
    monkeypatch.setattr(searching._Searcher, "_trained", lambda self, recipe, epochs: asked.append(recipe) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        search(fresh, SPACE, terms(fresh))
    assert asked == tried, "it is tried again"


def test_what_the_choice_would_refuse_does_not_meet_the_budget(fresh, trained, small_files):
    budget = make_budget("low", max_size="1MB", min_accuracy=0.8)
    better = terms(fresh, budget=budget, limited=True, plain={"resnet8@0.5": 0.99})
    found = search(fresh, SPACE, better).search
    assert found.stopped == "nothing new was proposed", "all lose more than a point against the plain network"


def test_a_budget_that_was_met_and_is_no_more_is_searched_again(fresh, trained, small_files):
    asked = terms(fresh, budget=make_budget("low", max_size="1MB", min_accuracy=0.8), limited=True)
    assert search(fresh, SPACE, asked).search.stopped == "the budget is met"
    assert search(fresh, SPACE, asked).search.stopped == "the budget is met, in an earlier run"
    again = search(fresh, SPACE, replace(asked, plain={"resnet8@0.5": 0.99})).search
    assert again.stopped == "nothing new was proposed"


def test_a_line_cut_short_in_the_journal_is_taken_off(fresh, trained, tmp_path):
    first = search(fresh, SPACE, terms(fresh)).search
    (file,) = fresh.store.root.glob("search/*/journal.log")
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"op_code": 4, "trial')
    more = search(fresh, SPACE, terms(fresh, seconds=120)).search
    assert first.trials and {trial.recipe for trial in first.trials} <= {trial.recipe for trial in more.trials}
    assert file.read_bytes().startswith(whole)


def test_what_the_time_left_does_not_allow_is_not_begun(fresh, trained):
    slow = terms(fresh, epoch_seconds={"resnet8@0.5": 1e5}, deadline=time.monotonic() + 60)
    found = search(fresh, SPACE, slow)
    assert not trained and found.search.stopped == "the rest of the time is too short for what was proposed next"


def test_what_there_was_no_time_for_is_proposed_again(fresh, trained, tmp_path):
    undisturbed = replace(fresh, store=Store(tmp_path / "undisturbed"))
    search(undisturbed, SPACE, terms(undisturbed))
    wanted = [untaught(recipe) for recipe, epochs in trained if epochs == 1][: len(SPACE.first())]
    trained.clear()
    search(fresh, SPACE, terms(fresh, epoch_seconds={"resnet8@0.5": 1e5}, deadline=time.monotonic() + 60))
    assert not trained
    search(fresh, SPACE, terms(fresh, seconds=600))
    begun = [untaught(recipe) for recipe, epochs in trained if epochs == 1][: len(SPACE.first())]
    assert wanted and set(begun) == set(wanted)


def test_what_failed_is_tried_again_by_the_next_run(fresh, trained, monkeypatch):
    figures, promote = searching._Searcher._trained, searching._Searcher._promote
    failed = []

    def now_and_then(self, recipe, epochs):
        if epochs == 4 or len(trained) == 2:
            failed.append((str(recipe), epochs))
            trained.append((str(recipe), 0))
            return self._trial(recipe, epochs, time.monotonic(), refused="RuntimeError: can't allocate memory")
        return figures(self, recipe, epochs)

    monkeypatch.setattr(searching._Searcher, "_trained", now_and_then)
    monkeypatch.setattr(searching._Searcher, "_promote", REAL_PROMOTE)
    assert not search(fresh, SPACE, terms(fresh)).recipes
    monkeypatch.setattr(searching._Searcher, "_trained", figures)
    monkeypatch.setattr(searching._Searcher, "_promote", promote)
    before = len(trained)
    found = search(fresh, SPACE, terms(fresh))
    assert found.recipes and {entry for entry in failed if entry[1] == 1} <= set(trained[before:])
    before = len(trained)
    assert search(fresh, SPACE, terms(fresh)).recipes and len(trained) == before


def test_a_proposal_that_another_process_ended_is_made_again(fresh, trained, monkeypatch):
    from optuna.exceptions import UpdateFinishedTrialError

    recipe, ended = Space.recipe, []

    def once(self, trial, teacher):
        if not ended:
            ended.append(trial.number)
            trial.study.tell(trial.number, state=TrialState.FAIL)
            with pytest.raises(UpdateFinishedTrialError):
                trial.set_user_attr("recipe", "x")
        return recipe(self, trial, teacher)

    monkeypatch.setattr(Space, "recipe", once)
    assert search(fresh, SPACE, terms(fresh)).recipes and ended == [0]


def test_a_store_that_is_gone_is_not_the_recipes_fault(fresh, monkeypatch):
    def gone(workspace, recipe, plan, seed):
        raise StoreError("store s3://bucket: cannot read: no answer")

    monkeypatch.setattr(searching, "check_steps", lambda workspace, recipe: None)
    monkeypatch.setattr(searching, "make_artifact", gone)
    with pytest.raises(StoreError):
        search(fresh, SPACE, terms(fresh))
