"""What the stages do for each step that trains a network further: one module per step, and here the list of them."""

from dlmo.study.recipe import FurtherTraining, Prune, PruneBlocks, PruneChannels, Qat
from dlmo.study.steps.prune import Pruning
from dlmo.study.steps.prune_blocks import BlockPruning
from dlmo.study.steps.prune_channels import ChannelPruning
from dlmo.study.steps.qat import QuantizationAwareness
from dlmo.study.steps.work import StepWork

_WORK: dict[type[FurtherTraining], StepWork] = {
    Prune: Pruning(),
    PruneChannels: ChannelPruning(),
    PruneBlocks: BlockPruning(),
    Qat: QuantizationAwareness(),
}


def work_of(step: FurtherTraining) -> StepWork:
    """What is done for a step of Recipe.further_trainings."""
    return _WORK[type(step)]


def versions() -> dict[str, int]:
    """The versions of all steps' code, for keys."""
    return {name: version for work in _WORK.values() for name, version in work.versions.items()}
