"""What a teacher answers: losses between the logits of student and teacher, both float32 N x classes.

Each is called with (student, teacher, labels) and returns a scalar, the mean over the batch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class SoftenedLogits:
    """Kullback-Leibler divergence of the softened answers, times T^2.

    Hinton et al., "Distilling the Knowledge in a Neural Network" (2015), section 2.
    standardize: logits of each image to mean 0 and deviation 1 first (Sun et al., "Logit Standardization in
    Knowledge Distillation", CVPR 2024, section 3.3).
    """

    temperature: float
    standardize: bool = False

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        student, teacher = _prepared(student, teacher, self.standardize, self.temperature)
        return _divergence(student, teacher) * self.temperature**2


@dataclass(frozen=True)
class DecoupledLogits:
    """Target against all other classes, and the other classes among themselves, weighed apart.

    Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, section 3.2 (equation 7), times T^2.
    alpha: weight of the target's share (TCKD). beta: weight of the others (NCKD).
    """

    temperature: float
    alpha: float
    beta: float
    standardize: bool = False

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        student, teacher = _prepared(student, teacher, self.standardize, self.temperature)
        shares = _divergence(_target_or_not(student, labels), _target_or_not(teacher, labels))
        others = _divergence(_others(student, labels), _others(teacher, labels))
        return (self.alpha * shares + self.beta * others) * self.temperature**2


@dataclass(frozen=True)
class CorrelatedLogits:
    """One minus Pearson's correlation of the softened answers, per image and per class, times T^2.

    Huang et al., "Knowledge Distillation from A Stronger Teacher" (DIST), NeurIPS 2022, section 3.
    """

    temperature: float

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        student, teacher = (F.softmax(logits / self.temperature, 1) for logits in (student, teacher))
        per_image = 1 - _correlation(student, teacher).mean()
        per_class = 1 - _correlation(student.T, teacher.T).mean()
        return (per_image + per_class) * self.temperature**2


def _prepared(
    student: torch.Tensor, teacher: torch.Tensor, standardize: bool, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    if standardize:
        student, teacher = _standardized(student), _standardized(teacher)
    return student / temperature, teacher / temperature


def _standardized(logits: torch.Tensor) -> torch.Tensor:
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-7)


def _divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) of unnormalized log-probabilities, mean over the rows."""
    return F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True)


def _target_or_not(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Unnormalized log-probabilities of the target and of all others together, N x 2."""
    target = logits.gather(1, labels[:, None])
    return torch.cat([target, _others(logits, labels).logsumexp(1, keepdim=True)], 1)


def _others(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The logits of all classes but the target, N x (classes - 1)."""
    classes = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, classes + (classes >= labels[:, None]))


def _correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation of each pair of rows."""
    first, second = first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True)
    return F.cosine_similarity(first, second, dim=1, eps=1e-8)
