"""The losses of distillation and their published settings; free of torch, so that recipes are checked without it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Loss:
    """One way to learn from a teacher.

    knowledge: `response`, `feature`, `relation` or `self` (no teacher network).
    published: the settings of `source`. `labels` weighs the labels' cross-entropy and `weight` the distillation
    loss in their sum; `warmup` is the share of a training from scratch over which `weight` rises from 0. A recipe
    may change any setting listed, and no other.
    stored: all it reads of the teacher is one vector per image (the logits, or the pooled last map), which can be kept.
    """

    knowledge: str
    source: str
    published: Mapping[str, float | bool]
    stored: bool = False


LOSSES: dict[str, Loss] = {
    "kd": Loss(
        "response",
        "arXiv:1503.02531; weights as arXiv:1910.10699 compares all methods",
        {"labels": 0.1, "weight": 0.9, "temperature": 4.0, "standardize": False},
        stored=True,
    ),
    # 20 of 240 epochs of warm-up. beta is 8 for the paper's equally strong pairs, and 6 for WRN-40-2 -> WRN-16-2.
    "dkd": Loss(
        "response",
        "arXiv:2203.08679",
        {
            "labels": 1.0,
            "weight": 1.0,
            "temperature": 4.0,
            "alpha": 1.0,
            "beta": 8.0,
            "standardize": False,
            "warmup": 1 / 12,
        },
        stored=True,
    ),
    # Those of CIFAR; on ImageNet the temperature is 1.
    "dist": Loss("response", "arXiv:2205.10536", {"labels": 1.0, "weight": 2.0, "temperature": 4.0}, stored=True),
    # Weights of hint and gram are ours, as their losses are relative here: see `feature.Hint`. On validation digits
    # (benchmarks/distillation_methods.py digits --student resnet8@0.25 --teacher resnet8 --epochs 5 --seeds 2 --split
    # validation), 73.6 % without a teacher: hint 1, 5 and 20 do not differ (74.8, 72.4, 72.7 +- 6); gram 0.3, 1 and 3
    # give 72.2, 74.7 and 66.5 +- 5.
    "hint": Loss("feature", "arXiv:1412.6550", {"labels": 1.0, "weight": 5.0}),
    "attention": Loss("feature", "arXiv:1612.03928", {"labels": 1.0, "weight": 1000.0}),
    "projector": Loss("feature", "arXiv:2210.15274", {"labels": 1.0, "weight": 25.0}, stored=True),
    # Of the paper's 25 for distances and 50 for angles, `weight` scales both.
    "rkd": Loss("relation", "arXiv:1904.05068", {"labels": 1.0, "weight": 1.0}, stored=True),
    "gram": Loss("relation", "CVPR 2017, Yim et al.", {"labels": 1.0, "weight": 1.0}),
    # `labels` weighs the deepest classifier, `weight` the shallow ones together.
    "shallow": Loss("self", "arXiv:1905.08094", {"labels": 1.0, "weight": 1.0, "temperature": 3.0, "alpha": 0.3}),
}

# Logit standardization, arXiv:2403.01427: what changes against the plain loss.
_STANDARDIZED: dict[str, float | bool] = {"weight": 9.0, "temperature": 2.0}
# Deep mutual learning, arXiv:1706.00384: both networks weigh labels and each other alike, no softening.
_ONLINE: dict[str, float | bool] = {"labels": 1.0, "weight": 1.0, "temperature": 1.0, "warmup": 0.0}


def settings_of(loss: str, scheme: str, given: Mapping[str, float | bool]) -> dict[str, float | bool]:
    """All settings of a loss: the published ones of this scheme, overridden by those given."""
    published = dict(LOSSES[loss].published)
    if given.get("standardize"):
        published |= _STANDARDIZED
    if scheme == "online":
        published |= {name: value for name, value in _ONLINE.items() if name in published}
    return published | given
