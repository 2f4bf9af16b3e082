"""Optimize: find the best model for a budget."""

from collections.abc import Sequence
from pathlib import Path

from dlmo import networks
from dlmo.data import Dataset
from dlmo.errors import BudgetError, UserError
from dlmo.measure import memory, targets
from dlmo.progress import Progress
from dlmo.strategy import legality
from dlmo.strategy.budget import make_budget, without_latency
from dlmo.strategy.job import Job, run_job
from dlmo.strategy.options import Options, command_line, given_options, listed
from dlmo.strategy.own import open_own, own_arguments
from dlmo.strategy.plan import default_networks
from dlmo.strategy.space import Space, space_for
from dlmo.study.recipe import SETUPS, Recipe, for_setup
from dlmo.study.results import Run

_DEFAULT_TIME = "10m"


def optimize(
    source: str | Path,
    *,
    service: str = "mid",
    max_size: str | int | None = None,
    max_latency: str | float | None = None,
    max_ram: str | int | None = None,
    min_accuracy: float | None = None,
    max_drop: float | None = None,
    network: str | Sequence[str] = (),
    model: str | Path | None = None,
    mean: str | None = None,
    std: str | None = None,
    channel_order: str | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Run:
    """Find the best model for a budget; see the command line's help for the arguments.

    model: the user's own, in place of the networks of this package; `network` then says what its weights are for.
    Raises UserError for wrong input, BudgetError (after everything was written) when nothing meets the budget.
    """
    options = options or Options()
    limits = {"max_size": max_size, "max_latency": max_latency, "max_ram": max_ram}
    shares = {"min_accuracy": min_accuracy, "max_drop": max_drop}
    budget = make_budget(service, **limits, **shares)
    if not targets.find(options.target).tells_latency:
        budget = without_latency(budget, options.target, max_latency)
    if max_ram is not None and options.target == "cpu" and not memory.is_told():
        raise UserError(
            f"--max-ram {max_ram}: this system does not tell what memory a process takes (no /proc); leave it out, or "
            "name a target that tells it (mcu, npu, ssh:...)"
        )
    network = listed(network)
    own = open_own(model, network, mean, std, channel_order)
    named = [own.name] if own else list(dict.fromkeys(networks.canonical(name) for name in network))
    arguments = {"service": service, **limits, **shares, **own_arguments(own, named), **given_options(options)}

    # A time that the user names is used up by a search; without one the setups are all.
    searching = options.time is not None and options.epochs is None

    def every_recipe(images: int) -> list[Recipe]:
        return [for_setup(name, code) for name in named or default_networks(images, searching) for code in SETUPS]

    def legal(images: int) -> tuple[list[Recipe], tuple[str, ...]]:
        """The recipes that every target can run, and notes on the others."""
        recipes, notes = every_recipe(images), ()
        for target in options.targets:
            recipes, more = legality.without_illegal(recipes, target)
            notes += more
        return recipes, notes

    def space(dataset: Dataset) -> Space:
        images, shape = len(dataset.train), dataset.input_shape
        return space_for(options.targets, images, shape, options.stem, tuple(named), own is not None)

    job = Job(
        command_line("optimize", [source], arguments),
        lambda images: legal(images)[0],
        all_networks=bool(named),
        budget=budget,
        own=own,
        limited=any(limit is not None for limit in limits.values()),
        notes=legal(0)[1],
        default_time=_DEFAULT_TIME,
        space_for=space if searching else None,
    )
    run = run_job(source, job, options, progress).run
    if run.choice is None:
        raise BudgetError(run)
    return run
