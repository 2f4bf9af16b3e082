"""What the first steps of a training gain by quiet residual branches and slower large classifiers.

    python benchmarks/first_steps.py cifar10:DIR [--network resnet50:large ...] [--steps 100] [--images 2000]

The same network, images and schedule, from the same seed: as torch has it (branches at scale 1, one rate for all
weights), with the lower rate of linear layers, with both. Images at half size; accuracy on validation images.
"""

import argparse
import contextlib
from unittest import mock

import numpy as np

from dlmo import networks
from dlmo.data import load
from dlmo.networks import layers
from dlmo.training import device, loop, optimizer
from dlmo.training.schedule import Augmentation, Schedule

BATCH = 128
WITHOUT = {"branches": (layers, "_BRANCH_SCALE", 1.0), "rates": (optimizer, "_INPUTS_AT_FULL_RATE", 1e9)}


def accuracy_after(name: str, data, arguments: argparse.Namespace, left_out: tuple[str, ...]) -> tuple[float, float]:
    """Mean loss of the training and accuracy behind it, at half the images' size."""
    import torch

    images = data.train.take(np.arange(BATCH * arguments.steps))
    judged = data.validation.take(np.arange(arguments.images))
    schedule = Schedule(1, BATCH, 0.14, warmup=0.15, orthogonal=True)
    with contextlib.ExitStack() as changed:
        changed.enter_context(mock.patch.object(Schedule, "size_at", lambda self, step, total: 0.5))
        changed.enter_context(mock.patch.object(loop.to_network_input, "__defaults__", (0.5,)))
        for part in left_out:
            changed.enter_context(mock.patch.object(*WITHOUT[part]))
        torch.manual_seed(0)
        network = networks.build(name, classes=len(data.classes), input_shape=data.input_shape)
        plain = Augmentation(flip=False, shift=0, cutout=0, lighting=0.0)
        done = loop.train(network, images, judged, schedule, plain, device.best_device(), 0)
    return done.curve[-1].loss, done.curve[-1].validation_accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--network", action="append", help="with a stem: NAME:STEM; may be repeated")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--images", type=int, default=2000)
    arguments = parser.parse_args()
    data = load(arguments.source)
    print(f"{data.name}, {arguments.steps} steps of {BATCH} images at half size, seed 0")
    print(f"accuracy on {arguments.images:,} validation images")
    for name in arguments.network or ["resnet50:large", "mobilenet_v2:medium", "resnet20"]:
        found = []
        for words, left_out in (
            ("as torch has it", ("branches", "rates")),
            ("linear layers slower", ("branches",)),
            ("and branches quiet", ()),
        ):
            loss, accuracy = accuracy_after(name, data, arguments, left_out)
            found.append(f"{words}: mean loss {loss:.2f}, {accuracy:.1%}")
        print(f"{name}: {'; '.join(found)}", flush=True)


if __name__ == "__main__":
    main()
