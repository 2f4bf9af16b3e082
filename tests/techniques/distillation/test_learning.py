"""Each way to learn from a teacher: on few labelled digits the student gets more of the others right than without."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

from dlmo import networks
from dlmo.study.recipe import parse
from dlmo.study.teaching import technique_for
from dlmo.training import loop
from dlmo.training.device import best_device
from dlmo.training.schedule import Augmentation, Schedule

DEVICE = best_device()
PLAIN = Augmentation(flip=False, shift=1, cutout=0, lighting=0.0)
SHAPE = (16, 16, 1)
STUDENT = "resnet8@0.5"


def build(seed):
    torch.manual_seed(seed)
    return networks.build(STUDENT, classes=10, input_shape=SHAPE)


@pytest.fixture(scope="module")
def teacher(digits):
    """Has seen all training images, and knows more than any student here."""
    return fit(9, digits.train, 4, digits)


def fit(seed, images, epochs, digits, technique=None):
    schedule, one = Schedule(epochs, 32, 0.1, 0.2), digits.validation.take(np.arange(1))
    return loop.train(build(seed), images, one, schedule, PLAIN, DEVICE, seed, technique=technique).network


def share_wrong(text, images, epochs, seeds, teacher, digits):
    """Of unseen digits the share that students taught by `text` (a kd step; None: without) get wrong, the mean."""
    shares = []
    for seed in seeds:
        technique = None
        if text is not None:
            kd = parse(f"{STUDENT} > {text}").kd
            online = kd.scheme == "online"
            who = build(10 + seed) if online else fit(20 + seed, images, epochs, digits) if kd.born_again else teacher
            technique = technique_for(
                kd, who, untrained=online, from_scratch=True, views=None, answers=None, classes=10, input_shape=SHAPE
            )
        student = fit(seed, images, epochs, digits, technique)
        for split in (digits.validation, digits.test):
            shares.append(loop.predict(student, split, DEVICE).argmax(1) != split.labels)
    return np.concatenate(shares).mean()


@pytest.fixture(scope="module")
def with_few_labels(digits, teacher):
    """Students of 160 labelled digits and 100 updates."""
    few = digits.train.take(np.arange(160))
    return functools.cache(lambda text: share_wrong(text, few, 20, range(4), teacher, digits))


@pytest.fixture(scope="module")
def with_wrong_labels(digits, teacher):
    """Students whose 160 labels are wrong in two of five, long enough to learn these by heart: there it shows what a
    peer, or a student's own first answers, are good for."""
    few, random = digits.train.take(np.arange(160)), np.random.default_rng(0)
    labels, wrong = few.labels.copy(), random.random(160) < 0.4
    labels[wrong] = random.integers(0, 10, wrong.sum())
    few = replace(few, labels=labels)
    return functools.cache(lambda text: share_wrong(text, few, 60, range(2), teacher, digits))


# Published weights but where 100 updates on maps of 16x16 need another one.
@pytest.mark.parametrize(
    "text",
    ["kd(labels=0.5)", "kd(loss=dkd)", "kd(loss=dist)", "kd(loss=hint)", "kd(loss=attention, weight=50)",
     "kd(loss=rkd)", "kd(loss=gram)"],
)  # fmt: skip
def test_students_learn_more_with_a_teacher_in_as_many_updates(text, with_few_labels):
    assert with_few_labels(text) < with_few_labels(None)


# Deepest to shallow is not here: its student has nobody that knows more, and digits this small gain nothing by it (160
# of them, 40 updates, 10 seeds: 64.1 % wrong with it, 62.2 % without, p = 0.29; 70 updates: 51.1 and 50.2 %, p = 0.71).
@pytest.mark.parametrize(
    "text",
    ["kd(scheme=online)", "kd(self, labels=0.5)", "kd(loss=projector)", "kd(standardize=true)",
     "kd(loss=dkd, standardize=true)"],
)  # fmt: skip
def test_students_learn_more_where_labels_are_wrong(text, with_wrong_labels):
    assert with_wrong_labels(text) < with_wrong_labels(None) - 0.01
