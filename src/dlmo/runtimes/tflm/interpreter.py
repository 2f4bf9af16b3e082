"""Running a .tflite file under TensorFlow Lite Micro, in child processes, and its account of memory."""

import importlib.metadata
import importlib.util
import json
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from dlmo.errors import UserError, missing_extra
from dlmo.runtimes import cores

# The slowest network here takes seconds for an image; a child silent for longer than this hangs.
_PATIENCE_SECONDS = 120
_ARENA_LINE = re.compile(r"Arena allocation (head|tail) (\d+) bytes")


@dataclass(frozen=True)
class Arena:
    """Bytes of the arena a model needs, as the runtime's own recorder counts them.

    head: activations and scratch, used again by every layer. persistent: what lives as long as the interpreter
    (the recorder's "tail"). Counted on a 64-bit machine: pointers make the persistent part larger than on a
    32-bit device. Counted with the reference kernels: optimized ones (CMSIS-NN) may want scratch beyond it.
    """

    head: int
    persistent: int

    @property
    def total(self) -> int:
        return self.head + self.persistent


def version() -> str:
    """The installed wheel's version. Raises UserError without the extra."""
    if importlib.util.find_spec("tflite_micro") is None:
        raise missing_extra("the target mcu needs TensorFlow Lite Micro", "mcu")
    return importlib.metadata.version("tflite_micro")


def predict(
    content: bytes,
    images: np.ndarray,
    workers: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """Scores of all images as the device computes them, float32 N x classes.

    images: uint8 N x H x W x C. The images are shared among `workers` child processes (default: `runtimes.cores`).
    The kernels are the reference ones, some 1.3 ns per multiply-accumulate. Raises UserError where the runtime
    cannot run the file.
    """
    version()
    workers = max(1, min(workers or cores(), len(images) // 16 + 1))
    lock = threading.Lock()
    done = 0
    stop = threading.Event()

    def run(part: np.ndarray) -> np.ndarray:
        nonlocal done
        with _Child(content) as child:
            scores = np.empty((len(part), child.classes), np.float32)
            for row, image in zip(scores, part):
                if stop.is_set():
                    break
                row[:] = child.run(image)
                with lock:
                    done += 1
                    if progress is not None and (done % 32 == 0 or done == len(images)):
                        progress(done / len(images))
            return scores

    with ThreadPoolExecutor(workers) as pool:
        try:
            return np.concatenate(list(pool.map(run, np.array_split(images, workers))))
        except BaseException:  # of one part, or Ctrl-C: the others need not go on
            stop.set()
            raise


def arena(content: bytes) -> Arena:
    """What the model needs, after one run. Raises UserError where the runtime cannot run the file."""
    version()
    with _Child(content) as child:
        child.run(np.full(child.shape, 128, np.uint8))
        return child.finish()


class _Child:
    """One child process with one interpreter; see child.py for what is said between them."""

    def __init__(self, content: bytes) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, closed by __exit__
        self._process = subprocess.Popen(
            # -P: nothing that lies in the current folder is taken for a module.
            [sys.executable, "-P", "-m", "dlmo.runtimes.tflm.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
        )
        try:
            self._write(struct.pack("<Q", len(content)) + content)
            header = json.loads(self._read_line())
            if "error" in header:
                raise self._failed(header["error"])
        except BaseException:
            self.__exit__()
            raise
        self.shape = tuple(header["shape"])
        self.classes = header["classes"]

    def __enter__(self) -> "_Child":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._errors.close()

    def run(self, image: np.ndarray) -> np.ndarray:
        """One image, uint8 H x W x C, to its scores."""
        if image.shape != self.shape:
            raise UserError(f"the model takes images of {self.shape}, not {image.shape}")
        self._write(np.ascontiguousarray(image).tobytes())
        return np.frombuffer(self._read(4 * self.classes), np.float32)

    def finish(self) -> Arena:
        """End the child and read its account of memory."""
        self._process.stdin.close()
        self._process.wait(_PATIENCE_SECONDS)
        sizes = dict(_ARENA_LINE.findall(self._said()))
        if not sizes:
            raise self._failed("")
        return Arena(head=int(sizes["head"]), persistent=int(sizes["tail"]))

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._process.stdin.write(view) :]
        except BrokenPipeError:
            raise self._failed("") from None

    def _read_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            line += self._read(1)
        return line

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            if not select.select([self._process.stdout], [], [], _PATIENCE_SECONDS)[0]:
                raise self._failed(f"no answer for {_PATIENCE_SECONDS} s")
            piece = self._process.stdout.read(length - len(data))
            if not piece:
                raise self._failed("")
            data += piece
        return data

    def _failed(self, reason: str) -> UserError:
        """The error to raise; without a reason, what the native side said, or how it ended."""
        if not reason:
            self._process.stdin.close()
            code = self._process.wait(_PATIENCE_SECONDS)
            said = [line for line in self._said().splitlines() if line.strip()]
            reason = said[0].strip() if said else "it gave no reason"
            if code < 0:
                reason = f"its interpreter ended by {signal.Signals(-code).name}"
        return UserError(f"TensorFlow Lite Micro cannot run this model: {reason}")

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")
