"""The first thing that runs on a device: takes a folder of files from stdin, runs the runner in it, removes it.

Needs Python alone. Its source comes first on stdin, then a tar archive; then stdin stays open for as long as the other
side wants the answer. When that side ends, is interrupted or cannot be reached any more, stdin ends, and the runner
and the folder go. What it and the runner say are lines of JSON, as measure.isolated reads them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))
    folder, runner = None, None
    try:
        folder = tempfile.mkdtemp(prefix="dlmo-")
        with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
            archive.extractall(folder)
        say({"done": 0.0})
        with tempfile.TemporaryFile(dir=folder) as stderr:
            runner = subprocess.Popen(
                [sys.executable, os.path.join(folder, "runner.py"), *sys.argv[1:]],
                stdin=subprocess.DEVNULL,
                stderr=stderr,
                cwd=folder,
                start_new_session=True,
            )
            threading.Thread(target=wait_for_the_end, args=(runner,), daemon=True).start()
            code = runner.wait()
            stderr.seek(0)
            if code:
                say({"refused": cause(code, stderr.read().decode(errors="replace"))})
    except (OSError, tarfile.TarError) as error:
        say({"refused": f"cannot keep the files there: {error}"})
    finally:
        if runner is not None:
            kill(runner)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def wait_for_the_end(runner: subprocess.Popen) -> None:
    while os.read(0, 1024):  # not sys.stdin, whose lock would be held when this process ends
        pass
    kill(runner)


def kill(runner: subprocess.Popen) -> None:
    with contextlib.suppress(OSError):  # it has ended
        os.killpg(runner.pid, signal.SIGKILL)


def cause(code: int, words: str) -> str:
    """Why a runner ended; words: what it wrote to stderr."""
    if code == -signal.SIGKILL:
        return "the system killed the runner, most likely for want of memory"
    if "bad_alloc" in words or "MemoryError" in words:
        return "it has too little memory for the files"
    if code == -signal.SIGILL:
        return "its runtime was built for another processor (illegal instruction)"
    last = (words.strip().splitlines() or ["no reason given"])[-1]
    return f"the runner {f'crashed (signal {-code})' if code < 0 else 'gave up'}: {last}"


def say(message: dict) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


main()
