"""Training without the rest: fills the store on a machine that has a GPU and no runtime.

The keys of stages do not depend on the machine. So where the store is copied to, the same job trains nothing anew and
converts, runs and measures.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from dlmo.progress import Progress, SilentProgress
from dlmo.strategy.job import Job, Options, plan_job, prepare
from dlmo.strategy.plan import remaining_trainings
from dlmo.study.stages import make_trained
from dlmo.study.workspace import read_curve


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
    """What the training part of a job left in the store."""

    store: Path
    trainings: tuple[TrainedStage, ...]

    def to_json(self) -> dict:
        return asdict(self) | {"store": str(self.store)}


def train_only(source: str | Path, job: Job, options: Options, progress: Progress | None) -> TrainedOnly:
    """Read the data, plan, and run the training stages of every recipe. Needs no runtime; writes no --out."""
    progress = progress or SilentProgress()
    ready = prepare(source, job, options, progress, measuring=False)
    planned = plan_job(ready, job, options)
    workspace, plans = ready.workspace, planned.plan.networks
    waiting = remaining_trainings(workspace, planned.recipes, plans, options.seeds)
    with progress.total(sum(training.seconds for training in waiting.values())), planned.tracked.following():
        for seed in options.seeds:
            for recipe in planned.recipes:
                make_trained(workspace, recipe, plans[recipe.network], seed)
    planned.tracked.finish()
    found = []
    for training in planned.work.trainings():
        curve = read_curve(workspace.store.finished(training.stage, training.key))
        if curve:  # a network of the user's comes trained
            found.append(
                TrainedStage(
                    dataset=workspace.dataset.name,
                    name=training.name,
                    seed=training.seed,
                    stage=training.stage,
                    key=training.key,
                    epochs=len(curve),
                    seconds=sum(epoch.seconds for epoch in curve),
                    validation_accuracy=curve[-1].validation_accuracy,
                )
            )
    return TrainedOnly(workspace.store.root, tuple(found))
