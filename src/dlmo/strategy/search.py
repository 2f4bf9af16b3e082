"""Searching for recipes, cheapest evidence first.

Optuna proposes (its multi-objective TPE: validation accuracy, size, running cost). A recipe whose shape breaks the
user's limits is refused untrained. The others are trained short; of every few, the most promising one is trained
long, with the recipes that show what its steps are worth (successive halving: Li et al., "A system for massively
parallel hyperparameter tuning", MLSys 2020). Optuna's own pruners know one objective only. Of what was trained long,
the number formats that need no training are looked at too: they cost seconds.

The proposals, and what became of them, lie in Optuna's journal in the store: a killed search goes on there, several
can work on one, and who asks the same again with another budget gets what was found, without any training.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

from dlmo.errors import PASSING, UserError, one_line
from dlmo.measure.accuracy import accuracy
from dlmo.measure.statistics import wilson_interval
from dlmo.measure.targets import CannotRun
from dlmo.networks import plain_name
from dlmo.networks.own import is_own
from dlmo.progress import SilentProgress
from dlmo.strategy import evidence, legality
from dlmo.strategy.budget import SERVICES, Budget, cost_shortfalls, running_of, shortfalls
from dlmo.strategy.choose import pick
from dlmo.strategy.journal import keep_winners, open_study, question, winners
from dlmo.strategy.plan import QAT_COST, macs_of, remaining_seconds
from dlmo.strategy.space import Space
from dlmo.strategy.waterfall import ladder, without_teacher
from dlmo.study.recipe import DynamicInt8, Float16, Float32, Int8, Qat, Recipe, parse
from dlmo.study.results import Search, Trial, pareto_front
from dlmo.study.stages import make_artifact, scores
from dlmo.study.trainings import check_steps
from dlmo.study.workspace import Artifact, NetworkPlan, Workspace
from dlmo.training.schedule import PROGRESSIVE_COST

# Of so many short trainings one is followed by a long one.
_SHORT_PER_LONG = 3
# Drawn at random before the sampler has something to go by.
_RANDOM_TRIALS = 6
# So many proposals in a row that were tried already, or that the time left does not allow, end the search.
_MOST_REPEATS, _MOST_UNAFFORDABLE = 20, 10
# An epoch of a family that was not trained yet may take so much longer than its arithmetic tells.
_UNKNOWN_FAMILY = 3.0
_MET = "the budget is met"
# Number formats of any training but a quantization-aware one. Float comes along as a step on the way.
_FORMATS = (Float16(), DynamicInt8(), Int8())
# A file measured among others may take so much more of time or memory than alone.
_MEASURED_AGAIN = 1.05
# Files that go on to the results, without those that show what their steps are worth.
_MOST_FINALISTS = 6


@dataclass(frozen=True)
class Terms:
    """What a search is given.

    short, long: epochs from scratch. plan_of: the schedules for so many. seconds: what the user allowed for the whole
    job; deadline: when the search must end, by time.monotonic(). budget: its cost limits refuse by shape if `limited`.
    epoch_seconds: of networks that were timed; plain: validation accuracy, 0 to 1, of networks trained long without
    any step. judged_again: what is found is judged on other images afterwards (see strategy.confirm).
    """

    short: int
    long: int
    plan_of: Callable[[int], NetworkPlan]
    seconds: float
    deadline: float
    budget: Budget
    limited: bool
    seed: int
    threads: int
    epoch_seconds: dict[str, float]
    plain: dict[str, float]
    judged_again: bool = False


@dataclass(frozen=True)
class Found:
    """recipes: the finalists, each with those that lead to it step by step; plans: how their networks are trained."""

    search: Search
    recipes: list[Recipe]
    plans: dict[str, NetworkPlan]


def search(workspace: Workspace, space: Space, terms: Terms) -> Found:
    """Try recipes until the time is up or nothing new is proposed."""
    return _Searcher(workspace, space, terms).run()


class _Searcher:
    def __init__(self, workspace: Workspace, space: Space, terms: Terms) -> None:
        self._workspace, self._space, self._terms = workspace, space, terms
        self._begun, self._worked = time.monotonic(), 0.0
        self._asked = question(workspace, space, terms.threads, terms.seed)
        self._study = open_study(workspace, self._asked, terms.short, space.first())
        self._notes = self._study.user_attrs  # what became of recipes, by several names; reading it again takes time
        self._passing: dict[str, object] = {}
        self._macs: dict[str, int] = {}
        self._pace: dict[str, float] = {}  # seconds per epoch and multiply-accumulate, by family
        for network, seconds in terms.epoch_seconds.items():
            self._learn_pace(network, seconds)
        # What was asked for comes first, then what other services would ask of the same search.
        self._tiers = [terms.budget, *(_with_limits(tier, terms.budget) for tier in SERVICES.values())]

    def run(self) -> Found:
        budget, limits = self._terms.budget, None
        if self._terms.limited:
            limits = [budget.max_size, budget.max_latency_ms, budget.max_ram, budget.min_accuracy]
        # Under other limits other recipes are promising, and others refused.
        asked = {"limits": limits, "long": self._terms.long}
        usual = SERVICES[budget.service]
        accuracies = [budget.max_drop, budget.min_accuracy]
        if accuracies != [usual.max_drop, usual.min_accuracy]:
            asked["accuracy"] = accuracies
        name = f"ended {json.dumps(asked)}"
        ended = self._notes.get(name)
        stopped = None
        same = ended is not None and ended["seconds"] >= self._terms.seconds
        if same and not ended.get("failed"):
            stopped = f"{ended['reason']}, in an earlier run"
        if stopped is None or (ended["reason"] == _MET and not self._met()):
            self._ask_again()
            stopped = self._go_on()
            # Something failed: the same question again tries it again, once.
            failed = bool(self._passing) and not same
            self._note(name, {"seconds": self._terms.seconds, "reason": stopped, "failed": failed})
        finalists = self._finalists()
        self._remember(finalists)
        recipes = {str(rung): rung for recipe in finalists for rung in self._rungs(recipe)}
        if recipes:
            best = self._best_plain()  # a loss is measured against it, so the choice has to see it
            recipes |= {str(best): best} if best is not None else {}
        plans: dict[str, NetworkPlan] = {}
        for recipe in recipes.values():
            plan, before = self._plan(recipe, self._terms.long), plans.get(recipe.network)
            teachers = {**(before.teacher_seconds if before else {}), **plan.teacher_seconds}
            plans[recipe.network] = replace(plan, teacher_seconds=teachers)
        seconds = time.monotonic() - self._begun
        overhead = max(0.0, 1 - self._worked / seconds) if self._worked else None
        trials = (*self._looked_at(), *self._long().values())
        return Found(Search(trials, stopped, seconds, overhead), list(recipes.values()), plans)

    def _remember(self, finalists: list[Recipe]) -> None:
        """Leave what was best to searches of other lengths."""
        wanted = {str(recipe) for recipe in finalists}
        found = {
            trial.user_attrs["recipe"]: trial.params
            for trial in self._study.get_trials(deepcopy=False)
            if trial.user_attrs.get("recipe") in wanted
        }
        if found:
            keep_winners(self._workspace, self._asked, found)

    def _ask_again(self) -> None:
        """Propose anew what other limits than these refused by its shape, and what there was no time for."""
        from optuna.trial import TrialState

        noted = self._noted("trial ")
        stale = {trial.recipe for trial in noted if self._refused_by_others(trial)}
        tried = {trial.recipe for trial in noted}
        trials = self._study.get_trials(deepcopy=False)
        waiting = [trial.system_attrs.get("fixed_params") for trial in trials if trial.state == TrialState.WAITING]
        for trial in trials:
            recipe = trial.user_attrs.get("recipe")
            parameters = trial.system_attrs.get("fixed_params", trial.params)
            if recipe in stale:
                stale.discard(recipe)
                self._study.enqueue_trial(trial.params, skip_if_exists=False)
            elif trial.state == TrialState.FAIL and recipe not in tried and parameters not in waiting:
                waiting.append(parameters)
                self._study.enqueue_trial(parameters, skip_if_exists=False)

    def _refused_by_others(self, trial: Trial) -> bool:
        """Whether a recipe's shape, whose costs are known, breaks the limits of another search but none of this."""
        if not trial.refused or trial.size_bytes is None:
            return False
        return not self._terms.limited or evidence.refusal(trial, self._terms.budget) is None

    def _go_on(self) -> str:
        """Search; returns why it stopped."""
        from optuna.trial import TrialState

        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            # Left by a killed run, or another one's present work: the store lets one of the two do it.
            if "recipe" in trial.user_attrs:
                self._try(trial.number, parse(trial.user_attrs["recipe"]))
            else:
                self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        for recipe in self._promoted():  # what a killed run had no time for
            self._look_at_formats(parse(recipe))
        repeats = unaffordable = 0
        while True:
            self._notes = self._study.user_attrs
            if self._met():
                return _MET
            short = [trial for trial in self._looked_at() if not trial.refused]
            candidate = next((recipe for recipe in self._promising(short) if self._affords_long(recipe)), None)
            if len(short) >= _SHORT_PER_LONG * (len(self._promoted()) + 1) and candidate is not None:
                self._promote(candidate)
                continue
            if (
                unaffordable >= _MOST_UNAFFORDABLE
                or repeats >= _MOST_REPEATS
                or time.monotonic() > self._terms.deadline
            ):
                if candidate is None:
                    late = time.monotonic() > self._terms.deadline
                    return _why_stopped(repeats, late, self._terms.judged_again)
                self._promote(candidate)
                continue
            number, recipe = self._propose()
            known = next((trial for trial in self._looked_at() if trial.recipe == str(recipe)), None)
            if known is not None:
                repeats += 1
            elif not self._affords([recipe], self._terms.short):
                unaffordable += 1
                self._study.tell(number, state=TrialState.FAIL)
                continue
            else:
                repeats = unaffordable = 0
            self._try(number, recipe, known)

    def _met(self) -> bool:
        """Whether the user's limits, on costs and on accuracy, are kept by a recipe that was trained long; its accuracy
        by the lower end of its 95 % interval, as the best of many tried is flattered by chance. Never where other
        images have the last word: what does not hold there needs others to take its place."""
        budget = self._terms.budget
        if self._terms.judged_again or not self._terms.limited or budget.min_accuracy is None:
            return False
        strict = replace(
            budget,
            max_latency_ms=budget.max_latency_ms and budget.max_latency_ms / _MEASURED_AGAIN,
            max_ram=budget.max_ram and budget.max_ram / _MEASURED_AGAIN,
        )
        long = self._long().values()
        # Where the target runs no plain network, a loss is measured against the most accurate result.
        before = max(self._plain().values(), default=max((t.validation_accuracy or 0.0 for t in long), default=0.0))
        return any(
            not trial.refused and not shortfalls(trial, strict, before) and _surely(trial) >= budget.min_accuracy
            for trial in long
        )

    def _propose(self) -> tuple[int, Recipe]:
        """A new trial's number and recipe."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.samplers import TPESampler

        # Each proposal has a seed of its own, so that a search that goes on later proposes the same.
        seed = 10_000 * (self._terms.seed % 100_000) + len(self._study.get_trials(deepcopy=False))
        self._study.sampler = TPESampler(n_startup_trials=_RANDOM_TRIALS, seed=seed)
        while True:
            trial = self._study.ask()
            # Another process that begins now takes a trial without a recipe for one that a killed run left, and ends
            # it.
            with contextlib.suppress(UpdateFinishedTrialError):
                recipe = self._space.recipe(trial, max(self._plain(), key=self._plain().get, default=None))
                trial.set_user_attr("recipe", str(recipe))
                return trial.number, recipe

    def _try(self, number: int, recipe: Recipe, known: Trial | None = None) -> None:
        """Refuse a recipe or train it short, and tell Optuna. known: what became of the same recipe before."""
        from optuna.trial import TrialState

        refused = None if known else self._cuts_nothing(recipe)
        found = known or refused or self._refused(recipe) or self._trained(recipe, self._terms.short)
        failed = bool(found.refused) and found.size_bytes is None and refused is None
        if known is None:
            self._note(f"trial {found.recipe}", asdict(found), lasting=not failed)
            self._workspace.progress.note(f"search: {_words(found)}")
        if found.refused:
            # What failed is asked for again by the next run, see `_ask_again`.
            state = TrialState.FAIL if failed else TrialState.PRUNED
            self._study.tell(number, state=state, skip_if_finished=True)
            return
        running = running_of(found, self._terms.budget.running_cost)
        # Two digits: what is less is noise, and would make each search another one.
        values = found.validation_accuracy, found.size_bytes, float(f"{min(running, 1e12):.2g}")
        self._study.tell(number, values, skip_if_finished=True)

    def _cuts_nothing(self, recipe: Recipe) -> Trial | None:
        """The trial of a recipe that is another one's by its shape, now and always; None for others."""
        begun = time.monotonic()
        try:
            check_steps(self._workspace, recipe)
        except UserError as error:
            return self._trial(recipe, 0, begun, refused=one_line(error))
        return None

    def _refused(self, recipe: Recipe) -> Trial | None:
        """The trial of a recipe whose shape breaks the limits; None for others."""
        begun = time.monotonic()
        if not self._terms.limited:
            return None
        try:
            with self._working():
                (entry,) = evidence.gather(self._workspace, [recipe], self._terms.threads)
        except PASSING:
            raise
        except Exception as error:  # as in `_trained`
            return self._trial(recipe, 0, begun, refused=one_line(error))
        reason = evidence.refusal(entry, self._terms.budget)
        if reason is None:
            return None
        costs = {name: getattr(entry, name) for name in ("size_bytes", "flash_bytes", "latency_ms", "ram_bytes")}
        return self._trial(recipe, 0, begun, refused=reason, **costs)

    def _trained(self, recipe: Recipe, epochs: int) -> Trial:
        """Train, convert and measure a recipe."""
        begun = time.monotonic()
        try:
            with self._working():
                artifact = self._make(recipe, epochs)
                content = artifact.content()
                (measured,) = self._workspace.target.measure(
                    [content], self._terms.threads, SilentProgress(), self._workspace.golden
                )
                if isinstance(measured, CannotRun):
                    raise UserError(measured.reason)
                right = self._validation(content)
        except PASSING:
            raise
        except Exception as error:  # one recipe that does not work, whatever the reason, ends no search
            return self._trial(recipe, epochs, begun, refused=one_line(error))
        if recipe.kd is None and artifact.trained.epochs and _trained_here(artifact):
            # The seconds of taught ones hold their teacher's.
            train = self._plan(recipe, epochs).train
            spared = (1 - PROGRESSIVE_COST) * train.passes if train.progressive else 0.0
            self._learn_pace(recipe.network, artifact.trained.seconds / (artifact.trained.epochs - spared))
        return self._trial(
            recipe,
            epochs,
            begun,
            size_bytes=len(content),
            flash_bytes=measured.flash_bytes,
            latency_ms=measured.latency_ms,
            ram_bytes=measured.ram_bytes,
            validation_accuracy=right,
            validation_images=len(self._workspace.dataset.validation),
        )

    def _trial(self, recipe: Recipe, epochs: int, begun: float, **known) -> Trial:
        seconds = time.monotonic() - begun
        return Trial(str(recipe), recipe.setup, recipe.network, self._terms.seed, epochs, seconds, **known)

    def _promote(self, recipe: Recipe) -> None:
        """Train a recipe long, and the recipes that lead to it step by step."""
        found = self._trained(recipe, self._terms.long)
        if not found.refused:
            try:
                with self._working():
                    self._make_rungs(recipe)
            except PASSING:
                raise
            except Exception as error:
                found = replace(found, refused=one_line(error))
        self._note(f"long {self._terms.long} {found.recipe}", asdict(found), lasting=not found.refused)
        self._workspace.progress.note(f"search: {_words(found)}")
        if not found.refused:
            self._look_at_formats(recipe)

    def _look_at_formats(self, recipe: Recipe) -> None:
        """Make the files that cost no training beside one that was trained long, of every step on the way to it."""
        for rung in self._rungs(recipe):
            if any(isinstance(step, Qat) for step in rung.steps):
                continue
            for precision in _FORMATS:
                other = Recipe(rung.network, (*rung.steps[:-1], precision))
                known = str(other) in self._long() or precision.name not in self._space.forms
                if known or time.monotonic() > self._terms.deadline:
                    continue
                found = self._trained(other, self._terms.long)
                self._note(f"format {self._terms.long} {other}", asdict(found), lasting=not found.refused)

    def _make_rungs(self, recipe: Recipe) -> None:
        for rung in self._rungs(recipe):
            right = self._validation(self._make(rung, self._terms.long).content())
            if rung.steps == (Float32(),):
                self._note(f"plain {self._terms.long} {rung.network}", right)

    def _make(self, recipe: Recipe, epochs: int) -> Artifact:
        return make_artifact(self._workspace, recipe, self._plan(recipe, epochs), self._terms.seed)

    def _validation(self, content: bytes) -> float:
        right = scores(self._workspace, content, "validation", "a file")
        return accuracy(right, self._workspace.dataset.validation.labels).value

    def _rungs(self, recipe: Recipe) -> list[Recipe]:
        """The recipes that lead to one, itself last, and what it is without its teacher, as far as the target runs
        them."""
        rungs = [*without_teacher(recipe), *(rung for _, rung in ladder(recipe))]
        return [rung for rung in dict.fromkeys(rungs) if self._legal(rung)]

    def _legal(self, recipe: Recipe) -> bool:
        """Whether every target runs it."""
        targets = (self._workspace.target, *self._workspace.more_targets.values())
        return all(legality.refusal(recipe, target.name) is None for target in targets)

    def _looked_at(self) -> list[Trial]:
        return [trial for trial in self._noted("trial ") if not self._refused_by_others(trial)]

    def _promoted(self) -> dict[str, Trial]:
        """The recipes that were trained long."""
        return {trial.recipe: trial for trial in self._noted(f"long {self._terms.long} ")}

    def _long(self) -> dict[str, Trial]:
        """These and the other number formats of their trainings."""
        return self._promoted() | {trial.recipe: trial for trial in self._noted(f"format {self._terms.long} ")}

    def _note(self, name: str, value: object, lasting: bool = True) -> None:
        """lasting: else it holds for this run alone, as a failure does, which may be of the moment."""
        if lasting:
            self._notes[name] = value
            self._study.set_user_attr(name, value)
        else:
            self._passing[name] = value

    def _noted(self, kind: str) -> list[Trial]:
        notes = {**self._passing, **self._notes}
        return [Trial(**value) for name, value in notes.items() if name.startswith(kind)]

    def _plain(self) -> dict[str, float]:
        """Validation accuracy of the networks trained long without any step."""
        kind = f"plain {self._terms.long} "
        later = {n.removeprefix(kind): value for n, value in self._notes.items() if n.startswith(kind)}
        return self._terms.plain | later

    def _best_plain(self) -> Recipe | None:
        """The plain form of the network that is best without any step, where this search trained it."""
        plain = self._plain()
        network = max(plain, key=plain.get, default=None)
        recipe = None if network is None else Recipe(network, (Float32(),))
        if recipe is None or network in self._terms.plain or not self._legal(recipe):
            return None
        return recipe

    def _promising(self, short: list[Trial]) -> list[Recipe]:
        """The recipes to train long, best first: what an earlier search found best, what a service would choose, then
        the rest of the front; last what breaks a limit by no more than another measurement might tell."""
        known = self._long()
        fitting = [trial for trial in short if not evidence.refusal(trial, self._terms.budget)]
        known_best = winners(self._workspace, self._asked)
        ranked = [trial for trial in fitting if trial.recipe in known_best]
        ranked += [picked for tier in self._tiers if fitting and (picked := pick(fitting, tier))]
        ranked += sorted(self._front(fitting), key=lambda trial: -trial.validation_accuracy)
        ranked.sort(key=lambda trial: bool(cost_shortfalls(trial, self._terms.budget)))
        return [parse(text) for text in dict.fromkeys(trial.recipe for trial in ranked) if text not in known]

    def _front(self, trials: list[Trial]) -> list[Trial]:
        """The best trades of accuracy against size and against what running costs."""
        told = [t for t in trials if getattr(t, self._terms.budget.running_cost) is not None]
        return [*pareto_front(tuple(trials), "size_bytes"), *pareto_front(tuple(told), self._terms.budget.running_cost)]

    def _finalists(self) -> list[Recipe]:
        long = [trial for trial in self._long().values() if not trial.refused]
        plain = max(self._plain().values(), default=None)  # what the choice will measure a drop against
        best = [picked for tier in self._tiers if long and (picked := pick(long, tier, plain))]
        best += sorted(self._front(long), key=lambda trial: -trial.validation_accuracy)
        chosen = list(dict.fromkeys(trial.recipe for trial in best))[:_MOST_FINALISTS]
        return [parse(text) for text in self._long() if text in chosen]  # in an order that no budget changes

    def _affords_long(self, recipe: Recipe) -> bool:
        return self._affords(self._rungs(recipe), self._terms.long)

    def _affords(self, recipes: list[Recipe], epochs: int) -> bool:
        plans = {recipe.network: self._plan(recipes[-1], epochs) for recipe in recipes}
        expected = remaining_seconds(self._workspace, recipes, plans, [self._terms.seed])
        return time.monotonic() + expected <= self._terms.deadline

    def _plan(self, recipe: Recipe, epochs: int) -> NetworkPlan:
        epoch = self._epoch_seconds(recipe.network)
        teachers = {recipe.kd.teacher: self._epoch_seconds(recipe.kd.teacher)} if recipe.kd else {}
        plan = self._terms.plan_of(epochs)
        return replace(plan, epoch_seconds=epoch, qat_epoch_seconds=QAT_COST * epoch, teacher_seconds=teachers)

    def _epoch_seconds(self, network: str) -> float:
        pace = self._pace.get(_family(network), _UNKNOWN_FAMILY * max(self._pace.values(), default=0.0))
        return pace * self._macs_of(network)

    def _learn_pace(self, network: str, epoch_seconds: float) -> None:
        self._pace[_family(network)] = epoch_seconds / self._macs_of(network)

    def _macs_of(self, network: str) -> int:
        if network not in self._macs:
            self._macs[network] = macs_of(self._workspace, network)
        return self._macs[network]

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """Around training, conversion and measuring: what is not overhead."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._worked += time.monotonic() - begun


def _trained_here(artifact: Artifact) -> bool:
    """Whether the seconds of a file's trainings are this machine's; a store may come from another one."""
    from dlmo.training.device import best_device

    return set(artifact.trained.devices) <= {best_device().describe()}


def _with_limits(tier: Budget, budget: Budget) -> Budget:
    """A service's goal under the user's limits on costs."""
    return replace(
        tier,
        max_size=budget.max_size,
        max_ram=budget.max_ram,
        max_latency_ms=budget.max_latency_ms,
        running_cost=budget.running_cost,
    )


def _surely(trial: Trial) -> float:
    """The lower end of the 95 % Wilson interval of a trial's validation accuracy."""
    right = round(trial.validation_accuracy * trial.validation_images)
    return wilson_interval(right, trial.validation_images)[0]


def _why_stopped(repeats: int, late: bool, judged_again: bool) -> str:
    if repeats >= _MOST_REPEATS:
        return "nothing new was proposed"
    if not late:
        return "the rest of the time is too short for what was proposed next"
    rest = "looking again at the choice, and for measuring" if judged_again else "measuring"
    return f"the time to search is up; the rest is for {rest}"


def _family(network: str) -> str:
    name = network if is_own(network) else plain_name(network)
    return name.partition("@")[0].rstrip("0123456789_")


def _words(trial: Trial) -> str:
    if trial.refused:
        return f"{trial.recipe}: refused, {trial.refused}"
    return (
        f"{trial.recipe}, {trial.epochs} epochs: {100 * trial.validation_accuracy:.1f} % on validation, "
        f"{trial.size_bytes:,} bytes"
    )
