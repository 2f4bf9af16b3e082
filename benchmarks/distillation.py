"""What a teacher costs: training a student with one against training it without.

    python benchmarks/distillation.py [--student resnet20] [--teacher resnet56] [--epochs 8] [--steps 4] [--rounds 3]

Random images of 32x32, dlmo's own loop, progressive image sizes as in every training of 8 epochs or more. Three
trainings take turns in one process: without a teacher, with one that answers each of `epochs / 4` fixed views once
(what `kd` does for losses on answers; computing the answers is counted), and with one that runs on every batch (what
losses on feature maps need). Ratios are of whole trainings, the best round of each.
"""

import argparse
import functools
import os
import time

import numpy as np
import torch

from dlmo import networks
from dlmo.data.dataset import Split
from dlmo.measure.latency import machine
from dlmo.study.recipe import parse
from dlmo.techniques.distillation.losses import loss_of
from dlmo.techniques.distillation.offline import FromAnswers, FromMaps, LiveTeacher, StoredTeacher, answers_to_view
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
    schedule = Schedule(epochs, BATCH, 0.01, 0.1, progressive=epochs >= 8)
    network = fresh(student)
    started = time.monotonic()
    loop.train(network, split, split.take(np.arange(1)), schedule, AUGMENTATION, device.best_device(), 0,
               technique=technique)  # fmt: skip
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--teacher", default="resnet56")
    parser.add_argument("--loss", default="hint", help="the loss on feature maps")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="batches per epoch")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    split = random_split(BATCH * arguments.steps)
    chosen = device.best_device()
    live = LiveTeacher(fresh(arguments.teacher), chosen)
    answered, mapped = (parse(f"{arguments.student} > kd(loss={name})").kd for name in ("kd", arguments.loss))

    def stored() -> Technique:
        answers = functools.partial(answers_to_view, live, split, AUGMENTATION)
        # Once per view, as the store keeps them.
        kept = StoredTeacher(functools.cache(answers), chosen)
        views = answered.views_in(arguments.epochs)
        return FromAnswers(loss_of("kd", answered.settings), 0.1, 0.9, kept, views)

    def on_maps() -> Technique:
        return FromMaps(loss_of(arguments.loss, mapped.settings), 1.0, 1.0, live, (SIDE, SIDE, 3))

    print(f"{machine()['cpu']}, {os.cpu_count()} cores; dlmo trains on {chosen.describe()}")
    trainings = {"without": lambda: None, "kd": stored, arguments.loss: on_maps}
    best = dict.fromkeys(trainings, float("inf"))
    for _ in range(arguments.rounds):
        for name, technique in trainings.items():
            best[name] = min(best[name], seconds(arguments.student, split, arguments.epochs, technique()))
    print(f"{arguments.student} taught by {arguments.teacher}, {arguments.epochs} epochs of {arguments.steps} steps, "
          f"best of {arguments.rounds} rounds: {best['without']:.2f} s without a teacher")  # fmt: skip
    for name in ("kd", arguments.loss):
        kind = "answers stored" if name == "kd" else "teacher on every batch"
        print(f"{name} ({kind}): {best[name]:.2f} s, {best[name] / best['without']:.2f}x")


if __name__ == "__main__":
    main()
