import copy

import numpy as np
import pytest
import torch

from dlmo.techniques.fake_quantization import QuantizationAwareTraining
from dlmo.techniques.pruning import GradualMagnitudePruning
from dlmo.techniques.technique import Technique
from dlmo.training import loop, replay
from dlmo.training.device import Device, best_device
from dlmo.training.replay import Replay
from dlmo.training.schedule import Augmentation, Schedule

CPU = Device("cpu", None)
GPU = Device("cuda", None)


class Recording:
    def __init__(self, step):
        self._step = step

    def replay(self):
        self._step()
        self._step.replayed += 1


class Step:
    """Counts how often it ran, and how often of these from a recording."""

    def __init__(self):
        self.done = self.replayed = 0

    def __call__(self):
        self.done += 1


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that records; tells which steps were recorded."""
    recorded = []

    def record(step):
        recorded.append(step)
        return Recording(step)

    def waits(step):
        step()
        return False

    monkeypatch.setattr(replay, "_record", record)
    monkeypatch.setattr(replay, "_waits", waits)
    monkeypatch.setattr(replay, "_finish", lambda: None)
    return recorded


def test_on_a_processor_every_step_runs(gpu):
    step, steps = Step(), Replay(CPU)
    for _ in range(10):
        steps.run(step, kind=1.0)
    assert step.done == 10 and step.replayed == 0 and gpu == []


def test_on_a_gpu_a_step_is_recorded_once_for_each_kind_and_no_step_is_left_out(gpu):
    first, second, steps = Step(), Step(), Replay(GPU)
    for step, kind in [(first, 0.5)] * 8 + [(second, 1.0)] * 8:
        steps.run(step, kind=kind)
    assert gpu == [first, second]
    assert first.done == second.done == 8
    assert first.replayed == second.replayed == 8 - replay.STEPS_BEFORE


def test_a_step_that_waits_for_the_gpu_is_never_recorded(gpu, monkeypatch):
    def waits(step):
        step()
        return True

    monkeypatch.setattr(replay, "_waits", waits)
    step, steps = Step(), Replay(GPU)
    for _ in range(10):
        steps.run(step, kind=1.0)
    assert step.done == 10 and gpu == []


def test_where_recording_fails_every_step_runs_and_nothing_more_is_recorded(gpu, monkeypatch):
    def fail(step):
        gpu.append(step)
        replay._failed.append(step)

    monkeypatch.setattr(replay, "_failed", [])
    monkeypatch.setattr(replay, "_record", fail)
    first, second, steps = Step(), Step(), Replay(GPU)
    for step, kind in [(first, 0.5)] * 8 + [(second, 1.0)] * 8:
        steps.run(step, kind=kind)
    assert first.done == second.done == 8 and gpu == [first]


def test_a_first_step_may_wait(gpu, monkeypatch):
    step, steps = Step(), Replay(GPU)

    def waits(step):
        step()
        return step.done == 1

    monkeypatch.setattr(replay, "_waits", waits)
    for _ in range(10):
        steps.run(step, kind=1.0)
    assert step.done == 10 and step.replayed == 10 - replay.STEPS_BEFORE


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("technique", [Technique, QuantizationAwareTraining, lambda: GradualMagnitudePruning(0.8, 20)])
def test_a_replayed_training_learns_what_one_of_single_steps_learns(digits, monkeypatch, technique):
    from dlmo import networks

    torch.manual_seed(0)
    network = networks.build("resnet8@0.5", classes=10, input_shape=(16, 16, 1))
    augmentation = Augmentation(flip=False, shift=1, cutout=4, lighting=0.1)

    def fit(steps_before):
        monkeypatch.setattr(replay, "STEPS_BEFORE", steps_before)
        schedule = Schedule(2, batch_size=32, learning_rate=0.05, warmup=0.2, clip_norm=1.0)
        part = digits.train.take(np.arange(640))
        return loop.train(
            copy.deepcopy(network), part, digits.validation, schedule, augmentation, best_device(), 0,
            technique=technique(),
        )  # fmt: skip

    replayed, single = fit(replay.STEPS_BEFORE), fit(10**9)
    for ours, theirs in zip(replayed.curve, single.curve):
        assert ours.loss == pytest.approx(theirs.loss, rel=0.02)
