"""The training curve; free of torch, so that reports can read it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """One line of the training curve; accuracies 0 to 1, on augmented training and plain validation images.

    All lines but the last are drawn on a part of the validation images where there are many.
    """

    epoch: int
    loss: float
    train_accuracy: float
    validation_accuracy: float
    seconds: float
