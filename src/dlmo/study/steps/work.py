"""What the stages ask of a step that trains a network further."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dlmo.study.recipe import FurtherTraining, Precision, Recipe

if TYPE_CHECKING:
    from torch import nn

    from dlmo.study.workspace import Workspace
    from dlmo.techniques.technique import Technique


@dataclass(frozen=True)
class Shrinking:
    """How a network becomes smaller in rounds, see techniques.rounds.

    smaller: the network of the round before and the share that is done to that of this round. restored: the whole
    network with the shape that a checkpoint's weights have.
    """

    smaller: "Callable[..., nn.Module]"
    restored: "Callable[..., nn.Module]"


class StepWork:
    """The base class changes nothing: the network is trained further as it is.

    versions: of the code behind the step, by their names in keys; raise one when what a step makes changes, but for
    rounding.
    """

    versions: ClassVar[dict[str, int]] = {}

    def versions_for(self, workspace: "Workspace", network: str) -> dict[str, int]:
        """Those that a training of this network depends on."""
        return self.versions

    def limits(self, workspace: "Workspace", step: FurtherTraining, network: str, precision: Precision) -> dict | None:
        """What the step's limits are told by, for keys; None where it has none."""
        return None

    def check(
        self, workspace: "Workspace", recipe: Recipe, step: FurtherTraining, network: "nn.Module", widths_known: bool
    ) -> "tuple[nn.Module, bool]":
        """Raise UserError where the step cannot be done to an untrained network or changes nothing of it.

        network: as the steps before leave it. widths_known: before training; else they are others after it. Returns
        both as they are after the step.
        """
        return network, widths_known

    def technique(self, step: FurtherTraining, network: "nn.Module") -> "Technique":
        """What goes on while the network trains."""
        from dlmo.techniques.technique import Technique

        return Technique()

    def shrinking(
        self, workspace: "Workspace", step: FurtherTraining, name: str, network: "nn.Module", precision: Precision
    ) -> Shrinking | None:
        """How the step makes the network smaller while it trains; None where it does not. precision: of the file."""
        return None

    def record(self, workspace: "Workspace", trained: "nn.Module", before: "nn.Module") -> dict:
        """What `Trained` has to know of the step, beside what it knows of the steps before."""
        return {}

    def shaped(
        self, workspace: "Workspace", recipe: Recipe, step: FurtherTraining, network: "nn.Module"
    ) -> "nn.Module":
        """An untrained network as the step leaves it, but for the values of its weights."""
        return network
