"""Running a .tflite file with LiteRT, with nothing else than numpy around it."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from dlmo.data.preprocessing import Normalization, to_input
from dlmo.errors import UserError
from dlmo.runtimes import cores

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


LAYOUTS = ("auto", "nhwc", "nchw")
_INPUT_TYPES = (np.float32, np.float16, np.int8, np.uint8, np.int16)
_CHANNELS = (1, 3)
_PIECE_BYTES = 1 << 24  # of prepared inputs that one worker holds


class Runner:
    """One interpreter over one file that maps an image to one vector of class scores.

    layout: nhwc, nchw, or auto: where the input's shape has its 1 or 3 channels. size: height and width of the image
    for a file that leaves them open; None where the file must say. keep_tensors: what every operator computed can be
    read after a run, which is slower. Raises UserError when the file is no such model.
    """

    def __init__(
        self,
        content: bytes,
        threads: int = 1,
        layout: str = "auto",
        size: tuple[int, int] | None = None,
        keep_tensors: bool = False,
    ) -> None:
        try:
            with quiet():
                self.interpreter = Interpreter(
                    model_content=content, num_threads=threads, experimental_preserve_all_tensors=keep_tensors
                )
                self.layout, shape = _input_layout(self.interpreter.get_input_details(), layout, size)
                self._allocate(shape)
                self.input, outputs = self.interpreter.get_input_details()[0], self.interpreter.get_output_details()
        except (ValueError, RuntimeError) as error:
            raise UserError(f"LiteRT cannot load this model: {str(error).strip().splitlines()[0]}") from None
        if np.dtype(self.input["dtype"]) not in map(np.dtype, _INPUT_TYPES):
            known = ", ".join(np.dtype(kind).name for kind in _INPUT_TYPES)
            raise UserError(f"the model takes {np.dtype(self.input['dtype']).name}; dlmo feeds {known}")
        self.output = outputs[0] if len(outputs) == 1 else None
        if self.output is None or not _is_score_vector(self.output, self.batch):
            shapes = [entry["shape"].tolist() for entry in outputs]
            raise UserError(f"the model gives {shapes}, not one score per class")

    def _allocate(self, shape: tuple[int, ...]) -> None:
        """Give the input a shape and allocate; keep the file's own batch where it works with no other."""
        entry = self.interpreter.get_input_details()[0]
        own = tuple(map(int, entry["shape"]))
        if shape == own:
            self.interpreter.allocate_tensors()
            return
        try:
            self._resize_and_run(entry["index"], shape)
        except (ValueError, RuntimeError):
            if shape[1:] != own[1:] or own[0] < 1:
                raise
            self._resize_and_run(entry["index"], own)

    def _resize_and_run(self, index: int, shape: tuple[int, ...]) -> None:
        self.interpreter.resize_tensor_input(index, shape)
        self.interpreter.allocate_tensors()
        self.interpreter.invoke()  # only now the shape of the output is sure

    @property
    def batch(self) -> int:
        """Images in one run: 1 wherever the file allows it."""
        return int(self.input["shape"][0])

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width, channels, whatever the layout."""
        sides = tuple(int(side) for side in self.input["shape"][1:])
        return sides if self.layout == "nhwc" else (*sides[1:], sides[0])

    @property
    def classes(self) -> int:
        return int(np.prod(self.output["shape"])) // self.batch

    def prepare(self, images: np.ndarray, normalization: Normalization | None = None) -> np.ndarray:
        """uint8 N x H x W x C to the model's own input type and layout, N first."""
        scale, zero_point = self.input["quantization"]
        values = to_input(images, self.input["dtype"], scale, zero_point, normalization)
        return values if self.layout == "nhwc" else np.ascontiguousarray(values.transpose(0, 3, 1, 2))

    def run(self, prepared: np.ndarray, ran: Callable[[int], None] | None = None) -> np.ndarray:
        """Prepared inputs, N first, to scores, float32 N x classes (dequantized). ran: told of every image done."""
        interpreter, source, sink = self.interpreter, self.input["index"], self.output["index"]
        batch, count = self.batch, len(prepared)
        if count % batch:  # the last batch is filled with its last image
            prepared = np.concatenate([prepared, prepared[-1:].repeat(batch - count % batch, axis=0)])
        scores = np.empty((len(prepared), self.classes), self.output["dtype"])
        for start in range(0, len(prepared), batch):
            interpreter.set_tensor(source, prepared[start : start + batch])
            interpreter.invoke()
            scores[start : start + batch] = interpreter.get_tensor(sink).reshape(batch, -1)
            if ran is not None:
                ran(min(batch, count - start))
        return dequantized(scores[:count], self.output["quantization"])

    def delegation(self) -> tuple[int, float]:
        """How many delegated partitions the graph runs in, and the share of its nodes inside them, 0 to 1."""
        return delegation_of(self.interpreter._get_ops_details(), self.output["index"])

    def delegated_nodes(self) -> tuple[int, list[bool]]:
        """How many delegated partitions there are, and of every operator, in the file's order, whether it is in one."""
        return _delegated_nodes(self.interpreter._get_ops_details(), self.output["index"])


def delegation_of(nodes: list[dict], output: int) -> tuple[int, float]:
    """Partitions, and the share of nodes inside them, of an interpreter's list of nodes; output: its tensor's index."""
    partitions, delegated = _delegated_nodes(nodes, output)
    return partitions, sum(delegated) / max(1, len(delegated))


def _delegated_nodes(nodes: list[dict], output: int) -> tuple[int, list[bool]]:
    delegates = [node for node in nodes if node["op_name"] == "DELEGATE"]
    plain = [node for node in nodes if node["op_name"] != "DELEGATE"]
    inside = {int(tensor) for node in delegates for tensor in node["outputs"]}
    maker = {int(tensor): index for index, node in enumerate(plain) for tensor in node["outputs"]}
    # The interpreter lists delegated nodes too. One runs by itself exactly when its output is wanted by a
    # partition, by the caller or by another such node, and no partition delivers it.
    wanted = [output, *(int(tensor) for node in delegates for tensor in node["inputs"])]
    outside: set[int] = set()
    while wanted:
        tensor = wanted.pop()
        index = maker.get(tensor)
        if index is None or tensor in inside or index in outside:
            continue
        outside.add(index)
        wanted.extend(int(tensor) for tensor in plain[index]["inputs"])
    return len(delegates), [index not in outside for index in range(len(plain))]


def _input_layout(
    inputs: list[dict], layout: str, size: tuple[int, int] | None
) -> tuple[str, tuple[int, int, int, int]]:
    """The layout, and the shape to run one image at. Raises UserError where the inputs are not one image."""
    if len(inputs) != 1 or len(inputs[0]["shape"]) != 4:
        raise UserError(f"the model takes {[entry['shape'].tolist() for entry in inputs]}, not one image")
    shape = [int(side) for side in inputs[0]["shape"]]
    open_sides = [int(side) == -1 for side in inputs[0]["shape_signature"]] or [False] * 4
    if layout == "auto":
        places = [
            name for name, axis in (("nhwc", 3), ("nchw", 1)) if shape[axis] in _CHANNELS and not open_sides[axis]
        ]
        # A picture of 1 x 28 pixels is rarer than the layout of TensorFlow.
        layout = places[0] if places else "nhwc"
    channel_axis = 3 if layout == "nhwc" else 1
    sides = [axis for axis in (1, 2, 3) if axis != channel_axis]
    if any(open_sides[axis] for axis in sides):
        if size is None:
            raise UserError(f"the model takes {shape} and leaves the image's size open; give --input-size")
        for axis, side in zip(sides, size):
            shape[axis] = side
    elif size is not None and size != tuple(shape[axis] for axis in sides):
        raise UserError(f"the model takes {shape} and no other size; leave out --input-size")
    if shape[channel_axis] not in _CHANNELS or min(shape[1:]) < 1:
        raise UserError(
            f"the model takes {shape}, not one grey (1) or RGB (3) image; --layout says where its channels are"
        )
    return layout, (1, *shape[1:])


def _is_score_vector(output: dict, batch: int) -> bool:
    """Whether a tensor holds one score for each of several classes, per image: a single side is longer than 1."""
    sides = [int(side) for side in output["shape"]]
    if batch > 1 and sides[:1] == [batch]:
        sides[0] = 1
    return min(sides, default=0) > 0 and sum(side > 1 for side in sides) == 1


def dequantized(values: np.ndarray, quantization: tuple[float, int]) -> np.ndarray:
    """A tensor's values as the real numbers they stand for, float32."""
    if values.dtype.kind == "f":
        return values.astype(np.float32, copy=False)
    scale, zero_point = quantization
    # A scale of 0 means that the file gives none; the order of the scores is the same without it.
    return (values.astype(np.float32) - zero_point) * (scale or 1.0)


def predict(
    content: bytes,
    images: np.ndarray,
    workers: int | None = None,
    *,
    open_file: Callable[[bytes], Runner] = Runner,
    normalization: Normalization | None = None,
    ran: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Scores of all images, float32 N x classes, on `workers` cores (one single-threaded interpreter each).

    Every image runs by itself at batch 1, as on a device, so results do not depend on `workers`. normalization:
    None takes the input's natural one. ran: told of every image done, by any thread.
    """
    workers = max(1, min(workers or cores(), len(images) // 64 + 1))
    parts = np.array_split(np.arange(len(images)), workers)

    def run(part: np.ndarray) -> np.ndarray:
        runner = open_file(content)
        largest = max(1, _PIECE_BYTES // max(1, images[0].size * np.dtype(runner.input["dtype"]).itemsize))
        pieces = [images[chunk] for chunk in np.array_split(part, len(part) // largest + 1)]
        return np.concatenate([runner.run(runner.prepare(piece, normalization), told) for piece in pieces])

    stop = threading.Event()

    def told(images: int) -> None:
        if stop.is_set():
            raise InterruptedError
        if ran is not None:
            ran(images)

    if workers == 1:
        return run(parts[0])
    with ThreadPoolExecutor(workers) as pool:
        try:
            return np.concatenate(list(pool.map(run, parts)))
        except BaseException:  # Ctrl-C reaches this thread alone, and leaving waits for the others
            stop.set()
            raise
