"""From a loss's name to its object."""

from collections.abc import Mapping
from dataclasses import fields

from dlmo.techniques.distillation.feature import AttentionTransfer, Hint, ProjectedDirection
from dlmo.techniques.distillation.relation import DistancesAndAngles, GramMatrices
from dlmo.techniques.distillation.response import CorrelatedLogits, DecoupledLogits, SoftenedLogits

_CLASSES = {
    "kd": SoftenedLogits,
    "dkd": DecoupledLogits,
    "dist": CorrelatedLogits,
    "hint": Hint,
    "attention": AttentionTransfer,
    "projector": ProjectedDirection,
    "rkd": DistancesAndAngles,
    "gram": GramMatrices,
}


def loss_of(name: str, settings: Mapping[str, float | bool]):
    """The loss with its own settings, as `settings.settings_of` gives them; weights are not the loss's."""
    kind = _CLASSES[name]
    return kind(**{field.name: settings[field.name] for field in fields(kind) if field.name in settings})
