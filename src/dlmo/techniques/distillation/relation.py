"""What a teacher sees alike: losses between relations of images, or of layers. Called as those in feature.py."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from dlmo.techniques.distillation.feature import relative_error


@dataclass(frozen=True)
class DistancesAndAngles:
    """Huber losses between the distances of all pairs and the angles of all triples of images.

    Park et al., "Relational Knowledge Distillation", CVPR 2019, sections 3.2.1 and 3.2.2, on the pooled last maps;
    weights 25 and 50 of section 4. Distances are in units of their mean.
    """

    distance: float = 25.0
    angle: float = 50.0
    reads: ClassVar[str] = "last"
    projects: ClassVar[str] = "never"

    def __call__(self, student: list[torch.Tensor], teacher: list[torch.Tensor]) -> torch.Tensor:
        own, theirs = student[0].mean((2, 3)), teacher[0].mean((2, 3))
        distances = F.smooth_l1_loss(_distances(own), _distances(theirs))
        angles = F.smooth_l1_loss(_angles(own), _angles(theirs))
        return self.distance * distances + self.angle * angles


@dataclass(frozen=True)
class GramMatrices:
    """Squared difference of the matrices of inner products between the channels of successive stages.

    Yim et al., "A Gift from Knowledge Distillation", CVPR 2017, section 3.2 (flow of the solution procedure); the
    larger map is max-pooled to the smaller one's size. Summed over the pairs of stages; relative to the teacher's
    mean square for the reason given at `Hint`.
    """

    reads: ClassVar[str] = "successive"
    projects: ClassVar[str] = "where channels differ"

    def __call__(self, student: list[torch.Tensor], teacher: list[torch.Tensor]) -> torch.Tensor:
        return sum(relative_error(own, theirs) for own, theirs in zip(_flows(student), _flows(teacher)))


def _distances(features: torch.Tensor) -> torch.Tensor:
    """Distances between all images, N x N, over their mean; features: N x channels."""
    squares = (features[:, None] - features[None]).square().sum(2)
    # The root's slope is infinite at 0: two equal images must not make the gradient so.
    distances = squares.clamp_min(1e-12).sqrt() * (squares > 0)
    return distances / distances.sum() * (squares > 0).sum()


def _angles(features: torch.Tensor) -> torch.Tensor:
    """Cosine of the angle at each image between the directions to two others, N x N x N."""
    directions = F.normalize(features[None] - features[:, None], dim=2)
    return directions @ directions.transpose(1, 2)


def _flows(maps: list[torch.Tensor]) -> list[torch.Tensor]:
    """Inner products of the channels of each map with those of the next, over positions: N x channels x channels."""
    flows = []
    for first, second in zip(maps, maps[1:]):
        first = F.adaptive_max_pool2d(first, second.shape[2:]).flatten(2)
        second = second.flatten(2)
        flows.append(first @ second.transpose(1, 2) / first.shape[2])
    return flows
