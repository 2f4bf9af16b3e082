"""Doing things with a model file in a process of its own.

A malformed file can crash, hang or exhaust whatever reads or runs it. Whatever touches one is therefore a function
that a child process calls; the parent only exchanges JSON, bytes and plain arrays with it, never pickles, so that
even a child that a file has taken over can do no more than answer wrongly.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from importlib import import_module
from typing import Any, BinaryIO

import numpy as np

from dlmo.errors import UserError
from dlmo.watchdog import Watchdog

# A child that reports nothing for so long hangs: far more than one image takes on any device dlmo is for.
PATIENCE_SECONDS = 60.0
# What a child may allocate at least, where the system has such limits (Linux).
MEMORY_LIMIT = 4 << 30
_SECONDS_BETWEEN_REPORTS = 0.1
_START = "import sys; sys.path = {path!r}; from dlmo.measure.isolated import main; main({memory})"


def memory_for(content: bytes) -> int:
    """What a child may allocate to run a file in one interpreter per core: far more than any sound file needs."""
    return MEMORY_LIMIT + (os.cpu_count() or 1) * ((256 << 20) + 2 * len(content))


class Child:
    """A process that calls functions for this one, one at a time: `with Child("model.tflite") as child: ...`.

    what: the file it works on, for messages. Every way in which the work can end badly (refused, crashed, hung, out
    of memory) is one UserError that begins with it.
    """

    def __init__(self, what: str, patience: float = PATIENCE_SECONDS, memory: int = MEMORY_LIMIT) -> None:
        self._what, self._patience, self._memory = what, patience, memory

    def __enter__(self) -> "Child":
        self._stderr = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            # The same search path as here, and nothing imported before it is set.
            [sys.executable, "-c", _START.format(path=sys.path, memory=self._memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
        )
        self._watchdog = Watchdog(self._process, self._patience)
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):  # what a dead child did not read
            self._process.stdin.close()
        self._process.stdout.close()
        self._stderr.close()

    def call(self, function: Callable, *arguments: Any, update: Callable[[float], None] | None = None) -> Any:
        """What the child gets from `function(*arguments, report)`.

        function: from the top level of a module. It calls `report(share done)` at least once in `patience` seconds.
        Arguments and answer: what JSON can say, bytes, arrays, dataclasses (which arrive as dictionaries).
        """
        request = {"call": [function.__module__, function.__name__], "arguments": arguments}
        try:
            with self._watchdog.watching():
                send(self._process.stdin, request)
            while "done" in (message := self._next()):
                if update is not None:
                    update(message["done"])
        except (OSError, EOFError):
            raise UserError(f"{self._what}: {self._cause_of_death()}") from None
        except (ValueError, TypeError, MemoryError):
            raise UserError(
                f"{self._what}: the process that ran it gave no sensible answer; the file is damaged"
            ) from None
        if "answer" not in message:
            raise UserError(f"{self._what}: {message.get('refused')}")
        return message["answer"]

    def _next(self) -> dict:
        with self._watchdog.watching():
            return receive(self._process.stdout)

    def _cause_of_death(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        words = self._stderr.read().decode(errors="replace")
        if self._watchdog.barked:
            return f"running it hangs: no sign of progress in {self._patience:.0f} s"
        if "bad_alloc" in words or "MemoryError" in words:
            return _too_large(self._memory)
        if code == -getattr(signal, "SIGKILL", 0):
            return "the system killed the process that ran it, most likely for want of memory"
        if code < 0:
            return f"it crashed the interpreter (signal {-code}, {signal.strsignal(-code)}); the file is damaged"
        last = words.strip().splitlines()[-1:] or ["without a word"]
        return f"the interpreter gave up ({last[0]}); the file is damaged"


def _too_large(memory: int) -> str:
    return f"running it needs more than the {memory / (1 << 30):g} GiB of memory that a model is given"


def main(memory: int) -> None:
    """The child: call what is asked for until the parent closes the pipe."""
    inbox, outbox = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what native code prints must not end up among the answers
    _limit(memory)
    while True:
        try:
            request = receive(inbox)
        except EOFError:
            return
        module, name = request["call"]
        function = getattr(import_module(module), name)
        reports = _Reports(outbox)
        try:
            answer = {"answer": function(*request["arguments"], reports)}
        except UserError as error:
            answer = {"refused": str(error)}
        except MemoryError:
            answer = {"refused": _too_large(memory)}
        except Exception as error:  # code that reads a damaged file fails in every way there is
            answer = {"refused": f"the file is damaged or no model dlmo can run ({type(error).__name__}: {error})"}
        send(outbox, answer)


class _Reports:
    """Tells the parent the share done, from any thread, no more often than it helps."""

    def __init__(self, outbox: BinaryIO) -> None:
        self._outbox, self._last, self._lock = outbox, 0.0, threading.Lock()

    def __call__(self, share: float) -> None:
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_REPORTS:
            return
        with self._lock:
            self._last = now
            send(self._outbox, {"done": share})


def _limit(memory: int) -> None:
    try:
        import resource
    except ImportError:  # no such limits on this system
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    memory = memory if most == resource.RLIM_INFINITY else min(memory, most)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # should the machine run out of memory, this process goes first


def send(stream: BinaryIO, message: dict) -> None:
    """Write a line of JSON, then the bytes and arrays it mentions, in the order in which it does."""
    blobs = []

    def described(value: Any) -> Any:
        if isinstance(value, bytes | np.ndarray):
            array = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.ascontiguousarray(value)
            blobs.append(array)
            kind = None if isinstance(value, bytes) else array.dtype.str
            return {"blob": array.nbytes, "dtype": kind, "shape": array.shape}
        if isinstance(value, np.generic):
            return value.item()
        if is_dataclass(value):
            return asdict(value)
        raise TypeError(f"cannot send {type(value).__name__}")

    stream.write(json.dumps(message, default=described).encode() + b"\n")
    for blob in blobs:
        stream.write(blob.reshape(-1).view(np.uint8).data)
    stream.flush()


def receive(stream: BinaryIO) -> dict:
    """Read what `send` wrote. Raises EOFError at the end of the stream, ValueError for anything else."""

    def restored(value: dict) -> Any:
        if "blob" not in value:
            return value
        data = stream.read(value["blob"])
        if len(data) < value["blob"]:
            raise EOFError
        return data if value["dtype"] is None else np.frombuffer(data, value["dtype"]).reshape(value["shape"])

    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    message = json.loads(line, object_hook=restored)
    if not isinstance(message, dict):
        raise ValueError("not a message")
    return message
