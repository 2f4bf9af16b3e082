"""Classify images with the model in this folder, or check that it answers here as it did where it was made.

    python run.py cat.jpg dog.png --top 3
    python run.py --self-test

Needs ai-edge-litert, numpy and Pillow. Exit codes: 0 done; 1 the self-test found other answers; 2 nothing to
classify could be read, or the folder is damaged.
"""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from dlmo.data.image import ImageError, read_input
from dlmo.data.preprocessing import Preprocessing, to_input
from dlmo.measure.agreement import TOLERANCE, agreement


class Model:
    """A .tflite file, its class names and its preprocessing.json, on one thread.

    Raises ValueError or RuntimeError for a file that cannot be run, KeyError for an incomplete document.
    """

    def __init__(self, content: bytes, labels: list[str], document: dict) -> None:
        self.labels = labels
        self.preprocessing = Preprocessing.from_json(document)
        self.gives_logits = document.get("output_tensor", {}).get("holds", "logits") == "logits"
        self.interpreter = Interpreter(model_content=content, num_threads=1)
        self.interpreter.allocate_tensors()
        (self.input,), (self.output,) = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        shape, classes = tuple(self.input["shape"][1:].tolist()), int(np.prod(self.output["shape"]))
        wanted = self.preprocessing.height, self.preprocessing.width, self.preprocessing.channels
        if shape != wanted:
            raise ValueError(f"the model takes images of {shape}, preprocessing.json says {wanted}")
        if classes != len(labels):
            raise ValueError(f"the model has {classes} outputs, labels.txt {len(labels)} names")

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """uint8 images, N x H x W x C, to the model's own input type."""
        return to_input(images, self.input["dtype"], *self.input["quantization"])

    def outputs(self, inputs: np.ndarray) -> np.ndarray:
        """Prepared inputs, N x H x W x C, to raw outputs, N x classes, in the model's own output type."""
        outputs = np.empty((len(inputs), len(self.labels)), self.output["dtype"])
        for row, image in zip(outputs, inputs):
            self.interpreter.set_tensor(self.input["index"], image[None])
            self.interpreter.invoke()
            row[:] = self.interpreter.get_tensor(self.output["index"]).reshape(-1)
        return outputs

    def scores(self, outputs: np.ndarray) -> np.ndarray:
        """Raw outputs as float32: logits, or shares where the model ends with a softmax."""
        scale, zero_point = self.output["quantization"]
        return (outputs.astype(np.float32) - zero_point) * np.float32(scale or 1.0)

    def shares(self, stream: BinaryIO) -> np.ndarray:
        """An image file to one share per class, float32, 0 to 1. Raises ImageError."""
        return self.shares_of(read_input(stream, self.preprocessing)[0])

    def shares_of(self, image: np.ndarray) -> np.ndarray:
        """The same of pixels of the model's input size, uint8 H x W x C."""
        scores = self.scores(self.outputs(self.prepare(image[None])))[0]
        if not self.gives_logits:
            return scores
        exponentials = np.exp(scores - scores.max())
        return exponentials / exponentials.sum()

    def best(self, shares: np.ndarray, top: int) -> list[tuple[str, float]]:
        """The `top` classes with the largest shares, best first."""
        return [(self.labels[index], float(shares[index])) for index in np.argsort(-shares, kind="stable")[:top]]


@dataclass(frozen=True)
class Replay:
    """Golden images run again.

    vectors: how many. same_inputs, same_answers: on how many the prepared input is the same to the bit, and the
    best class the same (or another one that was expected to score as much, within the tolerance).
    largest_difference: of a score, in units of the scores; share: the same over the largest expected score.
    """

    vectors: int
    same_inputs: int
    same_answers: int
    largest_difference: float
    share: float

    @property
    def passed(self) -> bool:
        return self.same_inputs == self.same_answers == self.vectors and self.share <= TOLERANCE


def replay(model: Model, images: np.ndarray, inputs: np.ndarray, outputs: np.ndarray) -> Replay:
    """images: uint8 N x H x W x C; inputs and outputs: what the model took and gave for them where it was made."""
    same_inputs = sum(map(np.array_equal, model.prepare(images), inputs))
    compared = agreement(model.scores(outputs), model.scores(model.outputs(inputs)))
    return Replay(len(images), int(same_inputs), compared.same_answers, compared.largest_difference, compared.share)


def describe(result: Replay) -> str:
    return (
        f"{result.same_inputs} of {result.vectors} golden images prepared the same to the bit, "
        f"{result.same_answers} of {result.vectors} answered the same; largest difference of a score "
        f"{result.largest_difference:.4g}, {result.share:.2%} of the largest score (allowed: {TOLERANCE:.0%}): "
        + ("passed" if result.passed else "FAILED")
    )


def shown(path: Path) -> str:
    """A file's name as text that can be printed: bytes that are no UTF-8 become `\\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", type=Path)
    parser.add_argument("--top", type=int, default=3, help="how many classes to print")
    parser.add_argument("--self-test", action="store_true", help="run the golden images and compare")
    arguments = parser.parse_args()
    if not arguments.images and not arguments.self_test:
        parser.error("name image files, or --self-test")
    if arguments.top < 1:
        parser.error("--top: give 1 or more")
    sys.stdout.reconfigure(errors="backslashreplace")  # names of classes and files in any terminal
    folder = Path(__file__).resolve().parent
    try:
        labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
        document = json.loads((folder / "preprocessing.json").read_text(encoding="utf-8"))
        model = Model((folder / "model.tflite").read_bytes(), labels, document)
        if arguments.self_test:
            golden = (np.load(folder / "golden" / f"{name}.npy") for name in ("images", "inputs", "outputs"))
            result = replay(model, *golden)
            print(describe(result))
            return 0 if result.passed else 1
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, EOFError) as error:
        print(f"{folder} cannot be used: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    try:
        code = classify(model, arguments.images, arguments.top)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def classify(model: Model, images: list[Path], top: int) -> int:
    """Print the best classes of each file; returns the exit code."""
    read = 0
    for path in images:
        try:
            with open(path, "rb") as stream:
                shares = model.shares(stream)
        except (OSError, ImageError) as error:
            print(f"{shown(path)} left out: {error}", file=sys.stderr)
            continue
        read += 1
        print(f"{shown(path)}: " + ", ".join(f"{name} {share:.1%}" for name, share in model.best(shares, top)))
    return 0 if read else 2


if __name__ == "__main__":
    sys.exit(main())
