"""Running a .tflite file with LiteRT, with nothing else than numpy around it."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from dlmo.data.preprocessing import to_input
from dlmo.errors import UserError

_STDERR = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what native libraries print to stderr by themselves (delegate notices, converter logs)."""
    # stderr belongs to the whole process: of several threads only one may exchange it at a time.
    with _STDERR:
        sys.stderr.flush()
        saved = os.dup(2)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(null)
            os.close(saved)


class Runner:
    """One interpreter over one file, batch 1.

    Raises UserError when the file is not one that maps an image to one vector of class scores.
    """

    def __init__(self, content: bytes, threads: int = 1) -> None:
        try:
            with quiet():
                self.interpreter = Interpreter(model_content=content, num_threads=threads)
                self.interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise UserError(f"LiteRT cannot load this model: {str(error).splitlines()[0]}") from None
        inputs, outputs = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        if len(inputs) != 1 or len(inputs[0]["shape"]) != 4 or inputs[0]["shape"][0] != 1:
            shapes = [entry["shape"].tolist() for entry in inputs]
            raise UserError(f"the model takes {shapes}, not one image of shape [1, height, width, channels]")
        self.input, self.output = inputs[0], outputs[0]
        if np.dtype(self.input["dtype"]) not in (np.dtype(np.float32), np.dtype(np.int8), np.dtype(np.uint8)):
            raise UserError(f"the model takes {np.dtype(self.input['dtype']).name}; dlmo feeds float32, int8 and uint8")
        if len(outputs) != 1 or self.output["shape"].size < 1 or np.prod(self.output["shape"][:-1]) != 1:
            shapes = [entry["shape"].tolist() for entry in outputs]
            raise UserError(f"the model gives {shapes}, not one score per class")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return tuple(int(side) for side in self.input["shape"][1:])

    @property
    def classes(self) -> int:
        return int(self.output["shape"][-1])

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """uint8 N x H x W x C to the model's own input type."""
        scale, zero_point = self.input["quantization"]
        return to_input(images, self.input["dtype"], scale, zero_point)

    def run(self, prepared: np.ndarray) -> np.ndarray:
        """Prepared inputs, N x H x W x C, to scores, float32 N x classes (dequantized)."""
        interpreter, source, sink = self.interpreter, self.input["index"], self.output["index"]
        scores = np.empty((len(prepared), self.classes), self.output["dtype"])
        for row, image in zip(scores, prepared):
            interpreter.set_tensor(source, image[None])
            interpreter.invoke()
            row[:] = interpreter.get_tensor(sink).reshape(-1)
        if scores.dtype == np.float32:
            return scores
        scale, zero_point = self.output["quantization"]
        # A scale of 0 means that the file gives none; the order of the scores is the same without it.
        return (scores.astype(np.float32) - zero_point) * (scale or 1.0)

    def delegation(self) -> tuple[int, float]:
        """How many delegated partitions the graph runs in, and the share of its nodes inside them, 0 to 1."""
        nodes = self.interpreter._get_ops_details()
        delegates = [node for node in nodes if node["op_name"] == "DELEGATE"]
        plain = [node for node in nodes if node["op_name"] != "DELEGATE"]
        inside = {int(tensor) for node in delegates for tensor in node["outputs"]}
        maker = {int(tensor): index for index, node in enumerate(plain) for tensor in node["outputs"]}
        # The interpreter lists delegated nodes too. One runs by itself exactly when its output is wanted by a
        # partition, by the caller or by another such node, and no partition delivers it.
        wanted = [self.output["index"], *(int(tensor) for node in delegates for tensor in node["inputs"])]
        outside: set[int] = set()
        while wanted:
            tensor = wanted.pop()
            index = maker.get(tensor)
            if index is None or tensor in inside or index in outside:
                continue
            outside.add(index)
            wanted.extend(int(tensor) for tensor in plain[index]["inputs"])
        return len(delegates), 1 - len(outside) / max(1, len(plain))


def predict(content: bytes, images: np.ndarray, workers: int | None = None) -> np.ndarray:
    """Scores of all images, float32 N x classes, on all cores (one single-threaded interpreter each).

    Every image runs by itself at batch 1, as on a device, so results do not depend on `workers`.
    """
    workers = max(1, min(workers or os.cpu_count() or 1, len(images) // 64 + 1))
    parts = np.array_split(np.arange(len(images)), workers)

    def run(part: np.ndarray) -> np.ndarray:
        runner = Runner(content)
        pieces = [images[chunk] for chunk in np.array_split(part, len(part) // 1024 + 1)]
        return np.concatenate([runner.run(runner.prepare(piece)) for piece in pieces])

    if workers == 1:
        return run(parts[0])
    with ThreadPoolExecutor(workers) as pool:
        return np.concatenate(list(pool.map(run, parts)))
