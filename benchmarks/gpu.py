"""Training on a CUDA GPU: images per second, and the time to 94 % on CIFAR-10, by dlmo's own loop.

    python benchmarks/gpu.py [cifar10:DIR] [--network resnet20@2] [--batch 128] [--steps 100] [--rounds 3] [--epochs N]

Images per second are of random images at full size, without progressive resizing, best of the rounds: as dlmo trains,
each step recorded once and replayed, and with every kernel of every step started anew. With a source of
CIFAR-10, the network is trained as `dlmo study` trains it, under longer and longer schedules (or the one of --epochs),
until one ends at 94 % of the test images; its training time is what is told (reading data and building are not
counted). --rounds 0 leaves out the images per second.
Says so and does nothing where there is no CUDA GPU.
"""

import argparse
import time
from collections.abc import Callable, Hashable, Sequence
from unittest import mock

import numpy as np
import torch

from dlmo import networks
from dlmo.data import load
from dlmo.strategy.plan import augmentation_for, schedules
from dlmo.training import loop
from dlmo.training.device import Device, best_device
from dlmo.training.schedule import Schedule
from training import AUGMENTATION, fresh, random_split

GOAL = 0.94
SIDE = 32
TRIED_EPOCHS = (8, 12, 16, 24, 32, 48, 64)
WARM_UP_STEPS = 20  # kernels are chosen, memory pools filled, the step recorded


class NoReplay:
    """Stands in for `Replay`."""

    def __init__(self, device: Device) -> None:
        pass

    def run(self, step: Callable[[], None], kind: Hashable) -> None:
        step()


def rate(network: torch.nn.Module, batch: int, steps: int, device: Device) -> float:
    """Images per second of the training loop once it runs warm."""
    split = random_split(batch * (WARM_UP_STEPS + steps), SIDE)
    stamps: list[float] = []

    def stamp(share: float) -> None:
        done = len(stamps) + 1
        # Steps are only queued on a GPU; waiting at every one of them would cost what queueing gains.
        if done in (WARM_UP_STEPS, WARM_UP_STEPS + steps) and device.name == "cuda":
            torch.cuda.synchronize()
        stamps.append(time.monotonic())

    schedule = Schedule(1, batch, 0.01, 0.1, orthogonal=True)
    loop.train(network, split, split.take(np.arange(1)), schedule, AUGMENTATION, device, 0, progress=stamp)
    return batch * steps / (stamps[-1] - stamps[WARM_UP_STEPS - 1])


def time_to_goal(source: str, name: str, tried_epochs: Sequence[int], device: Device) -> None:
    data = load(source)
    for epochs in tried_epochs:
        torch.manual_seed(0)
        network = networks.build(name, classes=len(data.classes), input_shape=data.input_shape)
        schedule = schedules(len(data.train), data.input_shape[0], epochs).train
        started = time.monotonic()
        trained = loop.train(network, data.train, data.validation, schedule, augmentation_for(data), device, 0)
        seconds = time.monotonic() - started
        right = loop.predict(trained.network.to(device.name), data.test, device).argmax(1) == data.test.labels
        print(f"{name}, {epochs} epochs on {len(data.train):,} images: {right.mean():.2%} of the test images right, "
              f"{seconds:.1f} s", flush=True)  # fmt: skip
        if right.mean() >= GOAL:
            return
    print(f"none of these schedules ends at {GOAL:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", help="cifar10:DIR, for the time to 94 %%")
    parser.add_argument("--network", default="resnet20@2")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int)
    arguments = parser.parse_args()
    device = best_device()
    if device.name != "cuda":
        print("skipped: torch sees no CUDA GPU on this machine")
        return
    print(f"dlmo trains on {device.describe()}, torch {torch.__version__}")
    for kind, maker in (("replayed", loop.Replay), ("started anew", NoReplay)) if arguments.rounds else ():
        with mock.patch.object(loop, "Replay", maker):
            rates = [
                rate(fresh(arguments.network, SIDE), arguments.batch, arguments.steps, device)
                for _ in range(arguments.rounds)
            ]
        print(f"{arguments.network}, batch {arguments.batch}, {kind}: {max(rates):,.0f} images/s", flush=True)
    if arguments.source is not None:
        tried = TRIED_EPOCHS if arguments.epochs is None else (arguments.epochs,)
        time_to_goal(arguments.source, arguments.network, tried, device)


if __name__ == "__main__":
    main()
