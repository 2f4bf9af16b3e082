"""Training throughput: dlmo's loop against a plain PyTorch loop, and against the machine's arithmetic peak.

    python benchmarks/training.py [--network resnet20[:STEM] ...] [--side 32] [--batch 128] [--steps 15] [--rounds 3]

The plain loop is what a tutorial writes: DataLoader, per-sample transforms, float32, contiguous layout. Both train
the same network on the same random images, with the same batch size and augmentation, taking turns in one process;
ratios are of the best round of each. dlmo trains as its plans have it, with orthogonalized momentum: once at full image
size throughout, as it prunes and quantizes, and once by the sizes of a schedule from scratch (40 % of the steps at half
the side, 40 % at three quarters, 20 % at the full one). `--allocator` compares dlmo's loop with and without its
allocator setting, each in a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from dlmo import networks
from dlmo.data.dataset import Split
from dlmo.measure.machine import machine
from dlmo.networks.counting import count_module
from dlmo.training import device, loop
from dlmo.training.schedule import Augmentation, Schedule

CLASSES = 10
AUGMENTATION = Augmentation(flip=True, shift=3, cutout=0, lighting=0.0)


class PlainImages(TorchDataset):
    """One image at a time, augmented one at a time."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = torch.from_numpy(self.images[index]).permute(2, 0, 1).float().div(255)
        image = (image - 0.5) / 0.5
        if torch.rand(()) < 0.5:
            image = image.flip(2)
        shift = AUGMENTATION.shift
        top, left = torch.randint(0, 2 * shift + 1, (2,)).tolist()
        side = image.shape[1]
        image = F.pad(image, [shift] * 4)[:, top : top + side, left : left + side]
        return image, int(self.labels[index])


def random_split(count: int, side: int) -> Split:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, side, side, 3), np.uint8)
    return Split(images, random.integers(0, CLASSES, count), ("",) * count)


def fresh(name: str, side: int) -> torch.nn.Module:
    """name: of a network, with its stem behind a colon if not the one for such images."""
    torch.manual_seed(0)
    network, _, stem = name.partition(":")
    return networks.build(network, classes=CLASSES, input_shape=(side, side, 3), stem=stem or "auto")


def plain_rate(name: str, split: Split, side: int, batch: int) -> float:
    """Images per second of one epoch of the plain loop."""
    network = fresh(name, side).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(PlainImages(split.images, split.labels), batch, shuffle=True, num_workers=0)
    started = time.monotonic()
    for images, labels in loader:
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return len(split) / (time.monotonic() - started)


def dlmo_rate(name: str, split: Split, side: int, batch: int, *, progressive: bool) -> float:
    """Images per second of one epoch of dlmo's loop."""
    schedule = Schedule(1, batch, 0.01, 0.1, orthogonal=True, progressive=progressive)
    nothing = split.take(np.arange(1))
    network = fresh(name, side)
    started = time.monotonic()
    loop.train(network, split, nothing, schedule, AUGMENTATION, device.best_device(), 0)
    return len(split) / (time.monotonic() - started)


def matmul_peak(dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product (two per multiply-accumulate)."""
    side = 2048
    a, b = torch.randn(side, side).to(dtype), torch.randn(side, side).to(dtype)
    a @ b
    best = min(_timed(lambda: a @ b) for _ in range(5))
    return 2 * side**3 / best


def _timed(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare_allocator(name: str, arguments: argparse.Namespace) -> None:
    """dlmo's loop with and without its allocator setting, alternating processes."""
    rates: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(arguments.rounds):
        for kind in rates:
            command = [sys.executable, __file__, "--only-dlmo", kind]
            command += ["--network", name]
            for option in ("side", "batch", "steps"):
                command += [f"--{option}", str(getattr(arguments, option))]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rates[kind].append(json.loads(done.stdout)["rate"])
    best = {kind: max(values) for kind, values in rates.items()}
    print(f"{name}: {best['without']:.0f} images/s without, {best['with']:.0f} with: "
          f"{best['with'] / best['without']:.2f}x")  # fmt: skip


def compare_loops(name: str, split: Split, arguments: argparse.Namespace, peak: float) -> None:
    parts = (name, split, arguments.side, arguments.batch)
    rounds = [
        (plain_rate(*parts), dlmo_rate(*parts, progressive=False), dlmo_rate(*parts, progressive=True))
        for _ in range(arguments.rounds)
    ]
    plain, full, scratch = (max(column) for column in zip(*rounds))
    macs = count_module(fresh(name, arguments.side), (arguments.side, arguments.side, 3)).macs
    # Forward, gradient of the input and gradient of the weights: three times the forward arithmetic.
    print(f"{name}: plain loop {plain:.0f} images/s; dlmo at full size {full:.0f}, {full / plain:.2f}x, "
          f"{6 * macs * full / 1e9:.0f} GFLOP/s, {6 * macs * full / peak:.0%} of a matrix product's; from scratch "
          f"{scratch:.0f}, {scratch / plain:.2f}x", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", help="with a stem: NAME:STEM; may be repeated")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--allocator", action="store_true")
    parser.add_argument("--only-dlmo", choices=("with", "without"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = arguments.network or ["resnet20"]
    split = random_split(arguments.batch * arguments.steps, arguments.side)
    if arguments.only_dlmo:
        if arguments.only_dlmo == "without":
            loop.prepare = lambda device: None
        rate = dlmo_rate(names[0], split, arguments.side, arguments.batch, progressive=False)
        print(json.dumps({"rate": rate}))
        return
    if arguments.allocator:
        for name in names:
            compare_allocator(name, arguments)
        return
    facts = machine()
    chosen = device.best_device()
    if chosen.name != "cpu":
        raise SystemExit("both loops run on the CPU here: set CUDA_VISIBLE_DEVICES= (benchmarks/gpu.py is for GPUs)")
    peak = matmul_peak(chosen.autocast or torch.float32)
    print(f"{facts['cpu']}, {os.cpu_count()} cores, {facts['instructions']}; dlmo trains on {chosen.describe()}; "
          f"{arguments.side}x{arguments.side} images, batch {arguments.batch}, best of {arguments.rounds} rounds of "
          f"{arguments.steps} steps; a matrix product does {peak / 1e9:.0f} GFLOP/s")  # fmt: skip
    for name in names:
        compare_loops(name, split, arguments, peak)


if __name__ == "__main__":
    main()
