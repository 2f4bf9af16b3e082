"""Each way to learn from a teacher: on few labelled digits the student gets more of the others right than without."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dlmo import networks
from dlmo.study.recipe import parse
from dlmo.study.teaching import technique_for
from dlmo.training import loop
from dlmo.training.device import Device, best_device
from dlmo.training.schedule import Augmentation, Schedule

DEVICE, FLOAT32 = best_device(), Device("cpu", None)
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
        shares.append(wrong_answers(fit(seed, images, epochs, digits, technique), digits))
    return np.concatenate(shares).mean()


def wrong_answers(network, digits):
    """Whether the network is wrong about each unseen digit."""
    splits = digits.validation, digits.test
    return np.concatenate([loop.predict(network, split, DEVICE).argmax(1) != split.labels for split in splits])


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


@pytest.mark.parametrize(
    "text",
    ["kd(scheme=online)", "kd(self, labels=0.5)", "kd(loss=projector)", "kd(standardize=true)",
     "kd(loss=dkd, standardize=true)"],
)  # fmt: skip
def test_students_learn_more_where_labels_are_wrong(text, with_wrong_labels):
    assert with_wrong_labels(text) < with_wrong_labels(None) - 0.01


def plain_network(seed):
    """Six convolutions without normalization or shortcuts: what their first ones learn has to come from far behind."""
    torch.manual_seed(seed)
    layers, inputs = [], 1
    for outputs, stride in ((16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight, nonlinearity="relu")
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


def test_a_network_without_normalization_learns_more_with_classifiers_on_its_shallow_stages(digits):
    """In 50 updates. The package's own networks gain nothing on digits, where nobody knows more than the student."""
    schedule, one = Schedule(2, 32, 0.1, 0.2, clip_norm=1.0), digits.validation.take(np.arange(1))
    kd = parse("resnet8 > kd(self, loss=shallow)").kd

    def wrong(taught, seed):
        technique = None
        if taught:
            technique = technique_for(
                kd, None, untrained=False, from_scratch=True, views=None, answers=None, classes=10, input_shape=SHAPE
            )
        images = digits.train.take(np.arange(800))
        trained = loop.train(plain_network(seed), images, one, schedule, PLAIN, FLOAT32, seed, technique=technique)
        return wrong_answers(trained.network, digits).mean()

    gains = [wrong(False, seed) - wrong(True, seed) for seed in range(16)]
    assert np.mean(gains) > 0.02
