"""What a teacher sees: losses between feature maps, lists of float32 N x channels x H x W, shallow to deep.

Each is called with (student maps, teacher maps) and returns a scalar. reads: which of the tapped maps it wants, as
in `taps.paired`. projects: when a trained 1x1 convolution first brings the student's maps to the teacher's channels.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Hint:
    """Mean squared difference of the maps in the middle of the networks, over the teacher's mean square.

    Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, section 2.2. The ratio is ours: the scale of maps
    differs between networks, and training diverged (resnet8 as teacher, on the digits) at the weight of 100 that is
    customary for the plain difference.
    """

    reads: ClassVar[str] = "middle"
    projects: ClassVar[str] = "where channels differ"

    def __call__(self, student: list[torch.Tensor], teacher: list[torch.Tensor]) -> torch.Tensor:
        return relative_error(student[0], teacher[0])


@dataclass(frozen=True)
class AttentionTransfer:
    """Mean squared difference of the normalized maps of where a stage is active, summed over the stages.

    Zagoruyko, Komodakis: "Paying More Attention to Attention", ICLR 2017, section 3.1: the mean square over the
    channels, as a vector of length 1.
    """

    reads: ClassVar[str] = "stages"
    projects: ClassVar[str] = "never"

    def __call__(self, student: list[torch.Tensor], teacher: list[torch.Tensor]) -> torch.Tensor:
        return sum(F.mse_loss(_attention(own), _attention(theirs)) for own, theirs in zip(student, teacher))


@dataclass(frozen=True)
class ProjectedDirection:
    """One minus the cosine between the pooled last maps, the student's projected.

    Chen et al., "Improved Feature Distillation via Projector Ensemble", NeurIPS 2022, section 3, with one linear
    projector. It projects between equal channels too: without it the student copies features instead of learning
    to classify with its own.
    """

    reads: ClassVar[str] = "last"
    projects: ClassVar[str] = "always"

    def __call__(self, student: list[torch.Tensor], teacher: list[torch.Tensor]) -> torch.Tensor:
        own, theirs = student[0].mean((2, 3)), teacher[0].mean((2, 3))
        return 1 - F.cosine_similarity(own, theirs, dim=1).mean()


def relative_error(own: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Mean squared difference over the teacher's mean square."""
    return F.mse_loss(own, theirs) / theirs.square().mean().clamp_min(1e-12)


def _attention(maps: torch.Tensor) -> torch.Tensor:
    return F.normalize(maps.square().mean(1).flatten(1), dim=1)
