"""Training without the rest: fills the store on a machine that has a GPU and no runtime.

The keys of trainings do not depend on the machine, but for channels cut to a limit that files tell, which are refused.
So where the store is copied to, the same job trains nothing anew and converts, runs and measures.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from dlmo.errors import UserError, one_line
from dlmo.progress import Progress, SilentProgress
from dlmo.strategy.job import Job, plan_job, prepare
from dlmo.strategy.options import Options
from dlmo.strategy.plan import remaining_trainings
from dlmo.study.graph import make_here, tasks_of
from dlmo.study.results import Failure
from dlmo.study.stages import trainings_of
from dlmo.study.workspace import read_curve, read_trained


@dataclass(frozen=True)
class TrainedStage:
    """One training in the store.

    dataset: its name. name: network and steps so far, as in `resnet20 > prune(0.9)`. epochs, seconds: its own.
    validation_accuracy: of the network as torch computes it, 0 to 1.
    """

    dataset: str
    name: str
    seed: int
    stage: str
    key: str
    epochs: float
    seconds: float
    validation_accuracy: float


@dataclass(frozen=True)
class TrainedOnly:
    """What the training part of a job left in the store. failures: recipes that could not be trained to their end."""

    store: Path
    trainings: tuple[TrainedStage, ...]
    failures: tuple[Failure, ...] = ()

    def to_json(self) -> dict:
        return asdict(self) | {"store": str(self.store)}


def train_only(source: str | Path, job: Job, options: Options, progress: Progress | None) -> TrainedOnly:
    """Read the data, plan, and run the training stages of every recipe. Needs no runtime; writes no --out."""
    progress = progress or SilentProgress()
    _check(job, options)
    ready = prepare(source, job, options, progress, measuring=False)
    planned = plan_job(ready, job, options)
    workspace, plans = ready.workspace, planned.plan.networks
    waiting = remaining_trainings(workspace, planned.recipes, plans, options.seeds)
    wanted = [(recipe, seed) for seed in options.seeds for recipe in planned.recipes]
    with progress.total(sum(training.seconds for training in waiting.values())), planned.tracked.following():
        errors = make_here(workspace, [task for task in tasks_of(workspace, wanted, plans) if task.trains])
        failures = []
        for recipe, seed in wanted:
            keys = [training.key for training in trainings_of(workspace, recipe, plans[recipe.network], seed)]
            error = next((errors[key] for key in keys if key in errors), None)
            if error is not None:
                failures.append(Failure(str(recipe), recipe.setup, recipe.network, seed, one_line(error)))
        if len(failures) == len(wanted):
            raise UserError(f"nothing could be trained: {failures[0].recipe}: {failures[0].error}")
    planned.tracked.finish(failures=failures)
    found = []
    for training in planned.work.trainings():
        done = workspace.store.finished(training.stage, training.key)
        curve = read_curve(done) if done else ()
        if curve:  # a network of the user's comes trained
            found.append(
                TrainedStage(
                    dataset=workspace.dataset.name,
                    name=training.name,
                    seed=training.seed,
                    stage=training.stage,
                    key=training.key,
                    epochs=read_trained(training.key, done, training.name).epochs - training.passes_before,
                    seconds=sum(epoch.seconds for epoch in curve),
                    validation_accuracy=curve[-1].validation_accuracy,
                )
            )
    return TrainedOnly(workspace.store.root, tuple(found), tuple(failures))


def _check(job: Job, options: Options) -> None:
    """Refuse what needs more than training."""
    if options.cluster is not None:
        raise UserError("--train-only trains in this process; leave out --cluster")
    for recipe in job.recipes_for(0):
        for step in recipe.further_trainings:
            if step.needs_files:
                limit = "size" if step.latency is None else "latency"
                raise UserError(
                    f"--train-only: {recipe}: its {limit} limit is told by files, which this machine need not run; "
                    "give a share of channels or macs="
                )
