"""Trackers people already use (MLflow, TensorBoard): a job's settings, training curves and results told to them.

A tracker is named KIND or KIND:REST. A new one is one module with a class like those here and one line in TRACKERS.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from dlmo import kinds
from dlmo.tracking.work import Training, Work

if TYPE_CHECKING:
    from dlmo.study.results import Failure, Run
    from dlmo.study.run import Outcome
    from dlmo.training.curve import Epoch

FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"


class Tracker(Protocol):
    """What is told to a tracker, in this order. Its class is made with the REST of its name, empty where there is none.

    Only `check` may refuse; whatever else raises ends the tracking, never the job.
    """

    place: str  # where the log is and how to look at it, for the user

    def check(self) -> None:
        """Raise UserError where nothing can be logged: a missing extra, no answer within seconds."""

    def begin(self, work: Work) -> None:
        """A job starts."""

    def curve(self, training: Training, epochs: "Sequence[Epoch]", whole: bool) -> None:
        """The next epochs of a training's curve; whole: no more will follow."""

    def results(self, run: "Run", outcomes: "Sequence[Outcome]") -> None:
        """Everything is measured."""

    def close(self, status: str, failures: "Sequence[Failure]" = ()) -> None:
        """The job has ended: FINISHED, FAILED or KILLED. failures: recipes that could not be trained all the same,
        where there are no results to tell it."""


# Kind: module and class, loaded when asked for.
TRACKERS: dict[str, str] = {
    "mlflow": "dlmo.tracking.mlflow:Mlflow",
    "tensorboard": "dlmo.tracking.tensorboard:TensorBoard",
}


def find(names: Sequence[str]) -> list[Tracker]:
    """The trackers of these names, ready to use. Raises UserError if one is unknown or cannot log."""
    return [_find(name) for name in dict.fromkeys(names)]


def _find(name: str) -> Tracker:
    tracker = kinds.make(name, TRACKERS, f"--track {name}: no such tracker")
    tracker.check()
    return tracker
