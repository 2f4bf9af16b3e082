"""Prediction speed: a folder of 10,000 PNG files through `dlmo predict` against 10,000 bare invokes of the interpreter.

    python benchmarks/predict.py [--network resnet20] [--images 10000] [--rounds 3]

The package holds an int8 network with random weights (weights do not change the time), the images are 32x32 RGB.
`dlmo predict` is run as a user runs it, start-up included; the bare invokes run in one thread on an array that is
ready. Both take turns; the ratio is of the best round of each. One image alone is timed as well.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from evaluation import SHAPE, bare_seconds, int8_file
from PIL import Image

from dlmo.data import Preprocessing
from dlmo.measure.machine import machine
from dlmo.package.parts import package_parts, write_parts


def write_images(folder: Path, images: np.ndarray) -> None:
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:06}.png")


def predict_seconds(package: Path, images: Path) -> float:
    started = time.perf_counter()
    command = [sys.executable, "-m", "dlmo", "predict", package, images]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    elapsed = time.perf_counter() - started
    assert len(done.stdout.splitlines()) == (len(list(images.iterdir())) if images.is_dir() else 1)
    return elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    images = np.random.default_rng(0).integers(0, 256, (arguments.images, *SHAPE), np.uint8)
    content = int8_file(arguments.network, images[:100])
    labels = [str(index) for index in range(10)]
    with tempfile.TemporaryDirectory() as root:
        package, folder = Path(root) / "package", Path(root) / "images"
        package.mkdir()
        write_parts(package, package_parts(content, labels, Preprocessing(*SHAPE).to_json(), images[:8], "", {}))
        write_images(folder, images)
        rounds = [
            (
                bare_seconds(content, len(images)),
                predict_seconds(package, folder),
                predict_seconds(package, folder / "000000.png"),
            )
            for _ in range(arguments.rounds)
        ]
    bare, all_files, one = (min(column) for column in zip(*rounds))
    facts = machine()
    print(f"{facts['cpu']}, {facts['cores']} cores, {facts['instructions']}")
    print(f"{arguments.network} int8, {len(images):,} PNG files, best of {arguments.rounds} rounds")
    print(f"bare invokes, one thread: {bare:.2f} s, {len(images) / bare:,.0f} images/s")
    rate = f"{len(images) / all_files:,.0f} images/s"
    print(f"dlmo predict: {all_files:.2f} s, {rate}, {bare / all_files:.0%} of the bare rate")
    print(f"one image, start-up included: {one:.2f} s")


if __name__ == "__main__":
    main()
