"""A network is made smaller a little at a time and trained in between, so that what was lost is learned again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from dlmo.training import checkpoint
from dlmo.training.loop import Training
from dlmo.training.schedule import Schedule

# Share of the epochs for each round but the last, whose long training heals what the rounds broke.
_ROUND_SHARE = 0.15


def train_in_rounds(
    network: nn.Module,
    smaller: Callable[..., nn.Module],
    restore: Callable[[Path], nn.Module],
    rounds: int,
    schedule: Schedule,
    folder: Path,
    train: Callable[[nn.Module, Schedule, Path, Callable[[float], None]], Training],
    progress: Callable[[float], None],
) -> Training:
    """Make `network` smaller in each of `rounds` and train in between; returns the last one and the whole curve.

    smaller(network, done=): a smaller copy, where `done` of the whole way (0 to 1) is reached hereafter. restore(path):
    such a copy from its weights. train(network, schedule, checkpoint path, progress): the training loop, all else
    bound. folder: what a killed run left there is used: each round's network as it began, its training's checkpoint.
    """
    training = Training(network, ())
    curve = ()
    epochs = epochs_of_rounds(schedule.epochs, rounds)
    for number, count in enumerate(epochs, 1):
        path = folder / f"round-{number}.safetensors"
        if path.exists():
            begun = restore(path)
        else:
            begun = smaller(training.network, done=number / len(epochs))
            checkpoint.save_weights(path, begun, {})
        before = len(curve)
        training = train(
            begun,
            replace(schedule, epochs=count),
            folder / f"round-{number}-training.safetensors",
            lambda share, before=before, count=count: progress((before + share * count) / schedule.epochs),
        )
        curve += tuple(replace(epoch, epoch=before + epoch.epoch) for epoch in training.curve)
    return Training(training.network, curve)


def epochs_of_rounds(epochs: int, rounds: int) -> list[int]:
    """Epochs of each round, at least one each; fewer rounds where there are fewer epochs."""
    rounds = min(rounds, epochs)
    short = min(max(1, int(_ROUND_SHARE * epochs)), epochs // rounds)
    return [short] * (rounds - 1) + [epochs - short * (rounds - 1)]
