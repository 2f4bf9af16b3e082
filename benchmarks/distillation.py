"""What a teacher costs: training a student with one against training it without.

    python benchmarks/distillation.py [--student resnet20] [--teacher resnet56] [--epochs 8] [--steps 4] [--rounds 3]

Random images of 32x32, dlmo's own loop, progressive image sizes as in every training of 8 epochs or more. Trainings
take turns in one process: without a teacher, and with each loss as recipes train with it: those that read
one vector per image ask the teacher once for each of `epochs / 4` fixed views (that is counted), the others run it
on every batch, as far as they read it. Ratios are of whole trainings, the best round of each.
"""

import argparse
import functools
import os
import time

import numpy as np
import torch

from dlmo import networks
from dlmo.data.dataset import Split
from dlmo.measure.machine import machine
from dlmo.study.recipe import parse
from dlmo.study.teaching import technique_for
from dlmo.techniques.distillation.offline import answers_to_view
from dlmo.techniques.distillation.settings import LOSSES
from dlmo.techniques.technique import Technique
from dlmo.training import device, loop
from dlmo.training.schedule import Augmentation, Schedule

CLASSES, SIDE, BATCH = 10, 32, 128
AUGMENTATION = Augmentation(flip=True, shift=3, cutout=0, lighting=0.0)


def random_split(count: int) -> Split:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    return Split(images, random.integers(0, CLASSES, count), ("",) * count)


def fresh(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return networks.build(name, classes=CLASSES, input_shape=(SIDE, SIDE, 3))


def seconds(student: str, split: Split, epochs: int, technique: Technique | None) -> float:
    """Time of one whole training."""
    schedule = Schedule(epochs, BATCH, 0.01, 0.1, progressive=epochs >= 8, orthogonal=True)
    network = fresh(student)
    started = time.monotonic()
    loop.train(network, split, split.take(np.arange(1)), schedule, AUGMENTATION, device.best_device(), 0,
               technique=technique)  # fmt: skip
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--teacher", default="resnet56")
    parser.add_argument("--loss", action="append", choices=[name for name in LOSSES if name != "shallow"])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="batches per epoch")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    split = random_split(BATCH * arguments.steps)
    chosen = device.best_device()
    teacher, student = fresh(arguments.teacher), arguments.student
    losses = arguments.loss or ["kd", "hint", "attention", "projector", "rkd", "gram"]

    def technique(name: str) -> Technique:
        kd = parse(f"{student} > kd(loss={name})").kd
        # Once per view, as the store keeps them.
        answers = functools.cache(lambda ask, view: answers_to_view(ask, chosen, split, AUGMENTATION, view))
        return technique_for(
            kd, teacher, untrained=False, from_scratch=True, views=kd.views_in(arguments.epochs), answers=answers,
            classes=CLASSES, input_shape=(SIDE, SIDE, 3),
        )  # fmt: skip

    print(f"{machine()['cpu']}, {os.cpu_count()} cores; dlmo trains on {chosen.describe()}")
    best = dict.fromkeys((None, *losses), float("inf"))
    for _ in range(arguments.rounds):
        for name in best:
            made = None if name is None else technique(name)
            best[name] = min(best[name], seconds(student, split, arguments.epochs, made))
    print(f"{student} taught by {arguments.teacher}, {arguments.epochs} epochs of {arguments.steps} steps, "
          f"best of {arguments.rounds} rounds: {best[None]:.2f} s without a teacher")  # fmt: skip
    for name in losses:
        kind = "stored" if LOSSES[name].stored else "teacher on every batch"
        print(f"{name} ({kind}): {best[name]:.2f} s, {best[name] / best[None]:.2f}x")


if __name__ == "__main__":
    main()
