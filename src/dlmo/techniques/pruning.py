"""Unstructured magnitude pruning: the smallest weights become zero, gradually, with training in between."""

import math

import numpy as np
import torch
from torch import nn

from dlmo.techniques.technique import Technique

# Depthwise kernels and tiny layers hold few weights and lose most accuracy when pruned.
_SMALLEST_PRUNED_LAYER = 1000
# The last third of training runs at the final sparsity, so that the network settles.
_RAMP_SHARE = 2 / 3
# Of what all layers keep on average each one keeps at least this share. By its scores alone MobileNet v3-small's hidden
# layer, which has 4 weights of 10, lost 98 of 100 where 88 were asked for.
_LEAST_KEPT = 0.4


class GradualMagnitudePruning(Technique):
    """Raise the share of zeros along the cubic schedule of Zhu and Gupta, "To prune, or not to prune" (2017).

    sparsity: final share of zeros among the prunable weights, 0 to 1 (exclusive).
    rounds: how often the share rises (the study: 60-70).
    Which weights go is decided over all layers together by LAMP scores (Lee et al., "Layer-adaptive sparsity for
    magnitude-based pruning", ICLR 2021): a weight's square over the sum of the squares of its layer that are not
    smaller; but each layer keeps a share that is not far below what all keep on average. Without any step of training
    all of them go at the end.
    """

    def __init__(self, sparsity: float, rounds: int) -> None:
        self.sparsity = sparsity
        self.rounds = rounds

    def begin(self, network: nn.Module, steps: int) -> nn.Module:
        self._steps, self._ramp_steps = steps, max(1, int(steps * _RAMP_SHARE))
        self._layers = prunable_layers(network)
        self._masks: list[torch.Tensor] = []
        return network

    def after_step(self, network: nn.Module, step: int) -> None:
        if self._round(step) != self._round(step - 1):
            self._masks = lamp_masks([layer.weight for layer in self._layers], self.sparsity_at(step))
        if self._masks:
            with torch.no_grad():
                torch._foreach_mul_([layer.weight for layer in self._layers], self._masks)

    def end(self, network: nn.Module) -> None:
        if not self._steps:
            with torch.no_grad():
                weights = [layer.weight for layer in self._layers]
                torch._foreach_mul_(weights, lamp_masks(weights, self.sparsity))

    def resume(self, network: nn.Module, step: int) -> None:
        # Weights that are zero in the checkpoint are the mask: training never lands on an exact zero by itself.
        if self._round(step) > 0:
            self._masks = [(layer.weight != 0).to(layer.weight.dtype) for layer in self._layers]

    def _round(self, step: int) -> int:
        return min(self.rounds, step * self.rounds // self._ramp_steps)

    def sparsity_at(self, step: int) -> float:
        """Share of zeros after `step` optimizer steps."""
        progress = self._round(step) / self.rounds
        return self.sparsity * (1 - (1 - progress) ** 3)


class KeepZeros(Technique):
    """Hold the zeros of an already pruned network while another technique trains it."""

    def begin(self, network: nn.Module, steps: int) -> nn.Module:
        self._layers = [layer for layer in prunable_layers(network) if bool((layer.weight == 0).any())]
        self._masks = [(layer.weight != 0).to(layer.weight.dtype) for layer in self._layers]
        return network

    def after_step(self, network: nn.Module, step: int) -> None:
        if self._masks:
            with torch.no_grad():
                torch._foreach_mul_([layer.weight for layer in self._layers], self._masks)


def prunable_layers(network: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """Dense convolutions and linear layers of at least 1,000 weights, in order; all of them where none is so large.
    Not those that are fixed, which could not recover."""
    dense = [
        module
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
        and getattr(module, "groups", 1) == 1
        and module.weight.requires_grad
    ]
    return [layer for layer in dense if layer.weight.numel() >= _SMALLEST_PRUNED_LAYER] or dense


def lamp_masks(weights: list[torch.Tensor], sparsity: float) -> list[torch.Tensor]:
    """Masks (1 keep, 0 drop; shaped as the weights) that drop the share `sparsity` of all weights by LAMP score."""
    squares = [weight.detach().square() for weight in weights]
    # A score rises with the square, so sorted squares are enough, and sorting alone is far cheaper than a sort that
    # also tells where each came from. Weights that are zero already come first and need no sorting.
    ordered = [np.sort(square[square > 0].cpu().numpy()) for square in squares]
    scores = [_lamp_scores(values) for values in ordered]
    total, nonzero = sum(weight.numel() for weight in weights), sum(map(len, ordered))
    # What scores 1 stays, as the largest weight of each layer does.
    least = [max(1, math.ceil(_LEAST_KEPT * (1 - sparsity) * weight.numel())) for weight in weights]
    for score, kept in zip(scores, least):
        score[max(0, len(score) - kept) :] = 1.0
    droppable = sum(max(0, len(values) - kept) for values, kept in zip(ordered, least))
    more = min(round(sparsity * total) - (total - nonzero), droppable)
    if more <= 0:
        return [(square > 0).to(weight.dtype) for square, weight in zip(squares, weights)]
    threshold = np.partition(np.concatenate(scores), more - 1)[more - 1]
    kept = [
        _keep_largest(square, values, int(np.searchsorted(score, threshold, side="right")))
        for square, values, score in zip(squares, ordered, scores)
    ]
    return [mask.to(weight.dtype) for mask, weight in zip(kept, weights)]


def _keep_largest(square: torch.Tensor, ordered: np.ndarray, dropped: int) -> torch.Tensor:
    """Mask of all but the zeros and the `dropped` smallest of the others, which `ordered` holds."""
    limit = float(ordered[dropped - 1]) if dropped else 0.0
    kept = square > limit
    missing = len(ordered) - dropped - int(kept.sum())
    if missing:  # Some of those that equal the last one dropped stay.
        kept[(square == limit).nonzero()[:missing].unbind(1)] = True
    return kept


def _lamp_scores(ordered: np.ndarray) -> np.ndarray:
    """Of squared weights in rising order, each over the sum of those not smaller; float64, in rising order."""
    squares = ordered.astype(np.float64)
    return squares / squares[::-1].cumsum()[::-1]


def sparsity_of(network: nn.Module) -> float:
    """Share of zeros among the prunable weights, 0 to 1."""
    layers = prunable_layers(network)
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers)
    return zeros / max(1, sum(layer.weight.numel() for layer in layers))
