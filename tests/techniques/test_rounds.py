"""Making a network smaller in rounds, with training in between."""

from functools import partial

import numpy as np
import pytest
import torch

from dlmo.data.dataset import Split
from dlmo.networks import build
from dlmo.techniques import block_pruning, channel_pruning
from dlmo.techniques.rounds import epochs_of_rounds, train_in_rounds
from dlmo.training.device import best_device
from dlmo.training.loop import Training, train
from dlmo.training.schedule import Augmentation, Schedule

SHAPE = (16, 16, 3)
HALF = channel_pruning.Target(0.5, None, "magnitude", "global", 8)


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    return Split(random.integers(0, 256, (96, *SHAPE), np.uint8), np.arange(96) % 4, ("",) * 96)


def network(name: str):
    torch.manual_seed(0)
    module = build(name, classes=4, input_shape=SHAPE).eval()
    module.register_buffer("mean", torch.zeros(3))  # as a user's own network may hold
    return module


def channels(original, images):
    smaller = partial(channel_pruning.cut, original=original, target=HALF, images=images)
    return smaller, partial(channel_pruning.restored, original=original)


def blocks(original, images):
    smaller = partial(block_pruning.leave_out, original=original, depth=block_pruning.Depth(0.7, None), images=images)
    return smaller, partial(block_pruning.restored, original=original, input_shape=SHAPE)


def test_epochs_of_rounds():
    assert epochs_of_rounds(20, 3) == [3, 3, 14]
    assert epochs_of_rounds(4, 3) == [1, 1, 2]
    assert epochs_of_rounds(2, 3) == [1, 1]
    assert epochs_of_rounds(1, 1) == [1]


class Killed(Exception):
    pass


@pytest.mark.parametrize("name, what", [("resnet8@0.5", channels), ("resnet20@0.5", blocks)])
def test_a_killed_run_ends_with_the_same_network(name, what, images, tmp_path):
    schedule = Schedule(3, 32, 0.05, 0.1)

    def run(folder, die_in_training: int | None = None):
        trainings = []

        def fit(module, schedule, state, progress):
            trainings.append(state)
            if len(trainings) == die_in_training:
                raise Killed
            return train(
                module, images, images, schedule, Augmentation(True, 1, 0, 0.0), best_device(), 0,
                checkpoint_path=state, progress=progress,
            )  # fmt: skip

        folder.mkdir(exist_ok=True)
        shares = []
        module = network(name)
        done = train_in_rounds(module, *what(module, images), 3, schedule, folder, fit, shares.append)
        assert shares == sorted(shares) and shares[-1] == 1
        return done

    plain = run(tmp_path / "plain")
    with pytest.raises(Killed):
        run(tmp_path / "killed", die_in_training=3)
    resumed = run(tmp_path / "killed")
    assert [epoch.epoch for epoch in plain.curve] == [1, 2, 3]
    state = resumed.network.state_dict()
    assert state.keys() == plain.network.state_dict().keys() and len(state) < len(network(name).state_dict()) + (
        what is channels
    )
    assert all(torch.equal(tensor, state[name]) for name, tensor in plain.network.state_dict().items())


def test_a_part_of_an_epoch_stays_one(images, tmp_path):
    asked = []

    def fit(module, schedule, state, progress):
        asked.append(schedule.passes)
        return Training(module, ())

    module = network("resnet8@0.5")
    schedule = Schedule(1, 32, 0.05, 0.1).lasting(0.5)
    train_in_rounds(module, *channels(module, images), 3, schedule, tmp_path, fit, print)
    assert asked == [0.5]
