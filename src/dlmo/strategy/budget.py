"""Budgets: the limits a model must keep, and what to look for within them."""

import math
from dataclasses import dataclass, replace
from numbers import Real
from typing import Protocol

from dlmo.errors import UserError, did_you_mean
from dlmo.study.results import Result
from dlmo.units import parse_duration, parse_size

# 30 images a second.
_REAL_TIME_MS = 1000 / 30


@dataclass(frozen=True)
class Budget:
    """Limits (None = no limit) and the goal within them.

    goal: `size` (smallest file), `balance` (see strategy.choose), `accuracy` (highest, then latency).
    max_size (of the file, or of flash where the target tells that), max_ram in bytes; max_latency_ms per image;
    min_accuracy 0 to 1; max_drop: how much accuracy, 0 to 1, may be lost against the best network without any
    optimization (NQ). Accuracies are those on validation.
    service: the named budget this one started from. running_cost: what of a Result running it is judged by:
    `latency_ms`, or `ram_bytes` for a target that tells no latency.
    """

    goal: str
    service: str
    max_size: int | None = None
    max_latency_ms: float | None = None
    max_ram: int | None = None
    min_accuracy: float | None = None
    max_drop: float | None = None
    running_cost: str = "latency_ms"

    def words(self) -> dict[str, str]:
        """The budget for people, in the order it is checked."""
        points = None if self.max_drop is None else f"{self.max_drop * 100:g}"
        limits = {
            "service": self.service,
            "goal": _GOALS[self.goal].format(cost=RUNNING_COSTS[self.running_cost]),
            "max_drop": points and f"{points} point{'' if points == '1' else 's'} against NQ",
            "min_accuracy": None if self.min_accuracy is None else f"{self.min_accuracy * 100:g} %",
            "max_size": None if self.max_size is None else f"{self.max_size:,} bytes",
            "max_latency": None if self.max_latency_ms is None else f"{self.max_latency_ms:.4g} ms",
            "max_ram": None if self.max_ram is None else f"{self.max_ram:,} bytes",
        }
        return {name: text for name, text in limits.items() if text is not None}


_GOALS = {
    "size": "smallest file",
    "balance": "best balance of accuracy, {cost} and size",
    "accuracy": "highest accuracy, then {cost}",
}
RUNNING_COSTS = {"latency_ms": "latency", "ram_bytes": "RAM"}

# The study's tiers. Its advice for each is checked against the measurements, never followed blindly.
SERVICES: dict[str, Budget] = {
    "low": Budget(goal="size", service="low", max_drop=0.01),
    "mid": Budget(goal="balance", service="mid", max_drop=0.01, max_latency_ms=_REAL_TIME_MS),
    "high": Budget(goal="accuracy", service="high"),
}
STUDY_ADVICE: dict[str, tuple[str, ...]] = {"low": ("PRQ",), "mid": ("PRN",), "high": ("F16", "PRN")}


def make_budget(
    service: str,
    *,
    max_size: str | int | None = None,
    max_latency: str | float | None = None,
    max_ram: str | int | None = None,
    min_accuracy: float | None = None,
    max_drop: float | None = None,
) -> Budget:
    """A service's budget with explicit limits over it. Raises UserError for a limit nobody can mean.

    Sizes are texts such as "100KB" or bytes, max_latency a text such as "2ms" or milliseconds, the others 0 to 1.
    """
    if service not in SERVICES:
        raise UserError(f'unknown service "{service}"{did_you_mean(service, SERVICES)}; known: {", ".join(SERVICES)}')
    for name, share in (("--min-accuracy", min_accuracy), ("--max-drop", max_drop)):
        if share is not None and (not isinstance(share, Real) or isinstance(share, bool) or not 0 <= share <= 1):
            raise UserError(f"{name} {share} is no share: give a number from 0 to 1, such as 0.9 for 90 %")
    budget = SERVICES[service]
    if max_size is not None:
        budget = replace(budget, max_size=parse_size("--max-size", max_size))
    if max_ram is not None:
        budget = replace(budget, max_ram=parse_size("--max-ram", max_ram))
    if max_latency is not None:
        budget = replace(budget, max_latency_ms=1000 * parse_duration("--max-latency", max_latency, default="ms"))
    if min_accuracy is not None:
        budget = replace(budget, min_accuracy=min_accuracy)
    if max_drop is not None:
        budget = replace(budget, max_drop=max_drop)
    return budget


def without_latency(budget: Budget, target: str, max_latency: str | None) -> Budget:
    """The budget for a target that tells no latency: running is judged by RAM, a service's latency is dropped.

    max_latency: what the user asked for; raises UserError if that is anything.
    """
    if max_latency is not None:
        raise UserError(f"--max-latency: no latency can be told for target {target}; limit --max-ram and --max-size")
    return replace(budget, max_latency_ms=None, running_cost="ram_bytes")


class Costs(Protocol):
    """What a file costs: a Result, or what is known of one before training. Names and units as in Result."""

    size_bytes: int
    flash_bytes: int | None
    latency_ms: float | None
    ram_bytes: int | None


def stored_bytes(costs: Costs) -> int:
    """What a size limit is about: flash where the target tells it, else the file."""
    return costs.size_bytes if costs.flash_bytes is None else costs.flash_bytes


def running_of(costs: Costs, running_cost: str) -> float:
    """What running a file costs, by that field of it; infinite where nobody can tell."""
    cost = getattr(costs, running_cost)
    return math.inf if cost is None else cost


def running_ratio(costs: Costs, other: Costs, running_cost: str) -> float | None:
    """What running the first costs, as a multiple of the other; None where nobody can tell one of them."""
    cost, of_other = getattr(costs, running_cost), getattr(other, running_cost)
    return None if cost is None or of_other is None else cost / of_other


def shortfalls(result: Result, budget: Budget, reference: float) -> list[str]:
    """What a result lacks to meet the budget, in words; empty if it meets it. reference: NQ's accuracy, 0 to 1."""
    lacks = []
    accuracy = result.validation_accuracy
    if budget.max_drop is not None and reference - accuracy > budget.max_drop + 1e-9:
        lacks.append(f"loses {100 * (reference - accuracy):.2f} points (allowed {100 * budget.max_drop:g})")
    if budget.min_accuracy is not None and accuracy < budget.min_accuracy:
        lacks.append(f"accuracy {100 * accuracy:.2f} % (wanted {100 * budget.min_accuracy:g} %)")
    return lacks + cost_shortfalls(result, budget)


def cost_shortfalls(costs: Costs, budget: Budget) -> list[str]:
    """The limits on size, latency and memory that a file does not keep, in words."""
    lacks = []
    if budget.max_size is not None and stored_bytes(costs) > budget.max_size:
        kind = "bytes" if costs.flash_bytes is None else "bytes of flash"
        lacks.append(f"{stored_bytes(costs):,} {kind} (allowed {budget.max_size:,})")
    if budget.max_latency_ms is not None and costs.latency_ms is None:
        lacks.append("latency is not known")
    elif budget.max_latency_ms is not None and costs.latency_ms > budget.max_latency_ms:
        lacks.append(f"{costs.latency_ms:.4g} ms (allowed {budget.max_latency_ms:.4g})")
    if budget.max_ram is not None:
        if costs.ram_bytes is None:
            lacks.append("memory could not be measured here")
        elif costs.ram_bytes > budget.max_ram:
            lacks.append(f"{costs.ram_bytes:,} bytes of RAM (allowed {budget.max_ram:,})")
    return lacks


def cost_excess(costs: Costs, budget: Budget) -> float:
    """How far a file is over the limits on its costs, as a sum of relative excesses; 0 where it keeps them. A cost that
    nobody can tell counts as twice what is allowed."""
    limits = (
        (budget.max_size, stored_bytes(costs)),
        (budget.max_latency_ms, costs.latency_ms),
        (budget.max_ram, costs.ram_bytes),
    )
    return sum(1.0 if value is None else max(0.0, value / limit - 1) for limit, value in limits if limit is not None)
