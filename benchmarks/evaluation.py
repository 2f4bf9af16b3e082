"""Evaluation speed: 10,000 images through dlmo against 10,000 bare invokes of the interpreter in one thread.

    python benchmarks/evaluation.py [--network resnet20] [--images 10000] [--rounds 3]

The file is an int8 network with random weights (weights do not change the time). Both take turns in one process;
the ratio is of the best round of each.
"""

import argparse
import time

import numpy as np
import torch

from dlmo import networks
from dlmo.measure.machine import machine
from dlmo.runtimes.litert import flatbuffer, quantize
from dlmo.runtimes.litert.convert import convert
from dlmo.runtimes.litert.interpreter import Runner, predict
from dlmo.techniques.fake_quantization import fold_batch_norm

SHAPE = (32, 32, 3)


def int8_file(name: str, images: np.ndarray) -> bytes:
    torch.manual_seed(0)
    network = networks.build(name, classes=10, input_shape=SHAPE).eval()
    content = convert(fold_batch_norm(network), SHAPE)
    return flatbuffer.shorten_names(quantize.static_int8(content, images))


def bare_seconds(content: bytes, count: int) -> float:
    runner = Runner(content)
    invoke = runner.interpreter.invoke
    started = time.perf_counter()
    for _ in range(count):
        invoke()
    return time.perf_counter() - started


def predict_seconds(content: bytes, images: np.ndarray, workers: int | None) -> float:
    started = time.perf_counter()
    predict(content, images, workers)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    images = np.random.default_rng(0).integers(0, 256, (arguments.images, *SHAPE), np.uint8)
    content = int8_file(arguments.network, images[:100])
    rounds = [
        (
            bare_seconds(content, len(images)),
            predict_seconds(content, images, 1),
            predict_seconds(content, images, None),
        )
        for _ in range(arguments.rounds)
    ]
    bare, single, all_cores = (min(column) for column in zip(*rounds))
    facts = machine()
    print(f"{facts['cpu']}, {facts['cores']} cores, {facts['instructions']}")
    print(f"{arguments.network} int8, {len(images):,} images, best of {arguments.rounds} rounds")
    print(f"bare invokes, one thread: {bare:.2f} s")
    print(f"dlmo on one core: {single:.2f} s, {single / bare:.2f}x; on all cores: {all_cores:.2f} s, "
          f"{all_cores / bare:.2f}x")  # fmt: skip


if __name__ == "__main__":
    main()
