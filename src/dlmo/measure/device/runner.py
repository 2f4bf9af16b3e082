"""What a device is asked to do, run by the keeper in the folder that was sent.

    runner.py facts              what is there
    runner.py measure THREADS    every N.tflite: memory, scores of golden.npy, latency
    runner.py memory FILE        memory of one file, in a process of its own

Needs Python; to measure also numpy and a runtime: ai-edge-litert, tflite-runtime or tensorflow. The method is dlmo's
own: latency.py and memory.py are the files that measure on dlmo's machine too.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import sysconfig
from dataclasses import asdict
from functools import cache, partial
from importlib import import_module, metadata
from pathlib import Path

from dlmo.measure.device.conditions import conditions, slowed
from dlmo.measure.machine import machine

# Distribution and module; the first that can be loaded is taken.
RUNTIMES = {
    "ai-edge-litert": "ai_edge_litert.interpreter",
    "tflite-runtime": "tflite_runtime.interpreter",
    "tensorflow": "tensorflow",
}


def main() -> None:
    outbox = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what native code prints must not end up among the answers

    def say(message: dict) -> None:
        outbox.write(json.dumps(message) + "\n")
        outbox.flush()

    try:
        mode = sys.argv[1]
        if mode == "facts":
            say({"answer": facts()})
        elif mode == "measure":
            say({"answer": measure(int(sys.argv[2]), lambda share: say({"done": share}))})
        else:
            say({"answer": memory(Path(sys.argv[2]))})
    except MemoryError:
        say({"refused": "it has too little memory for the files"})
    except (OSError, ValueError, RuntimeError) as error:
        say({"refused": f"{type(error).__name__}: {first_line(error)}"})


def facts() -> dict:
    """What is there, and what `dlmo devices check` needs to say what is missing."""
    runtime, _, broken = find_runtime()
    return {
        **machine(),
        "bits": 8 * struct.calcsize("P"),
        "system": system(),
        "libc": " ".join(platform.libc_ver()).strip(),
        "musl": "musl" in (sysconfig.get_config_var("SOABI") or ""),
        "python": platform.python_version(),
        "executable": sys.executable,
        "numpy": version("numpy"),
        "runtime": runtime,
        "runtime_version": version(runtime) if runtime else None,
        "broken": broken,
        "memory_bytes": memory_bytes("MemTotal"),
        "memory_available_bytes": memory_bytes("MemAvailable"),
        "free_disk_bytes": shutil.disk_usage(".").free,
        "folder": str(Path.cwd().parent),
        "load": os.getloadavg()[0],
        **asdict(conditions()),
        "in_venv": sys.prefix != sys.base_prefix,
        "externally_managed": Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists(),
        "has_apt": shutil.which("apt-get") is not None,
        "can_make_venv": importlib.util.find_spec("ensurepip") is not None,
    }


def measure(threads: int, report) -> dict:
    """Measure the files 0.tflite, 1.tflite, ... that lie here. report: told the share done, 0 to 1."""
    import numpy as np

    from dlmo.measure.latency import measure_latency

    images = np.load("golden.npy")
    paths = [Path(f"{index}.tflite") for index in range(len(list(Path().glob("*.tflite"))))]
    contents = [path.read_bytes() for path in paths]
    counts = thread_counts(threads, os.cpu_count() or 1)
    steps = len(paths) * (2 + len(counts))  # of progress: memory, scores, and a latency per number of threads
    found = []
    for index, path in enumerate(paths):
        try:
            ram_bytes = memory_in_child(path)
            report((2 * index + 1) / steps)
            model = Model(contents[index])
            scores = model.scores(images, partial(report, (2 * index + 1) / steps)).tolist()
        except (ValueError, RuntimeError) as error:  # the others are measured all the same
            found.append({"refused": first_line(error)})
            continue
        nodes, output = model.nodes(), int(model.output["index"])
        found.append({"ram_bytes": ram_bytes, "scores": scores, "nodes": nodes, "output": output, "latency": {}})
    running = [index for index, entry in enumerate(found) if "refused" not in entry]
    before, moments, signs = conditions(), [], set()
    for position, count in enumerate(counts):

        def told(share: float, position: int = position) -> None:
            report((2 + position + share) * len(paths) / steps)

        turns = []
        latencies = measure_latency(
            [contents[index] for index in running],
            count,
            told,
            open_file=Model,
            after_turn=lambda turns=turns: turns.append(conditions()),
        )
        moments += turns
        signs.update(slowed(turns))  # with other numbers of threads a healthy processor may have another clock
        for index, latency in zip(running, latencies):
            found[index]["latency"][count] = [latency.p50_ms, latency.p90_ms]
    return {
        "facts": facts(),
        "files": found,
        "before": asdict(before),
        "temperature_c": max((m.temperature_c for m in moments if m.temperature_c is not None), default=None),
        "clock_mhz": max((m.clock_mhz for m in moments if m.clock_mhz is not None), default=None),
        "slowed": sorted(signs),
    }


def thread_counts(threads: int, cores: int) -> list[int]:
    """What was asked for first; then 1, 2, 4, ... as far as there are cores."""
    powers = [1 << bit for bit in range(4) if 1 << bit <= cores]
    return [threads, *(count for count in powers if count != threads)]


class Model:
    """A .tflite file in whatever runtime there is: one image in, one vector of scores out."""

    batch = 1

    def __init__(self, content: bytes, threads: int = 1) -> None:
        self.interpreter = find_runtime()[1](model_content=content, num_threads=threads)
        self.interpreter.allocate_tensors()
        self.input, self.output = self.interpreter.get_input_details()[0], self.interpreter.get_output_details()[0]
        self.input_shape = tuple(map(int, self.input["shape"][1:]))

    def prepare(self, images):
        """uint8 images, N x H x W x C, to the model's own input type."""
        from dlmo.data.preprocessing import to_input

        return to_input(images, self.input["dtype"], *self.input["quantization"])

    def scores(self, images, ran):
        """Raw outputs, N x classes, in the model's own output type. ran: called after every image."""
        import numpy as np

        outputs = []
        for image in self.prepare(images):
            self.interpreter.set_tensor(self.input["index"], image[None])
            self.interpreter.invoke()
            outputs.append(self.interpreter.get_tensor(self.output["index"]).reshape(-1))
            ran()
        return np.stack(outputs)

    def nodes(self) -> list[dict]:
        """The graph as it really runs, delegated parts included."""
        return [
            {"op_name": node["op_name"], **{side: list(map(int, node[side])) for side in ("inputs", "outputs")}}
            for node in self.interpreter._get_ops_details()
        ]


@cache
def find_runtime() -> tuple:
    """Name and interpreter class of the first runtime that can be loaded (None, None), and why others could not."""
    broken = []
    for name, module in RUNTIMES.items():
        try:
            loaded = import_module(module)
            return name, (loaded.lite.Interpreter if name == "tensorflow" else loaded.Interpreter), broken
        except Exception as error:  # one that was built for something else fails in every way there is
            if getattr(error, "name", None) != module.split(".")[0]:  # it is installed, then
                broken.append(f"{name}: {first_line(error)}")
    return None, None, broken


def first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def memory_in_child(path: Path) -> int | None:
    done = subprocess.run([sys.executable, __file__, "memory", str(path)], stdout=subprocess.PIPE)
    try:
        return json.loads(done.stdout)["answer"]
    except (ValueError, KeyError):
        return None


def memory(path: Path) -> int | None:
    from dlmo.measure.memory import run_three_times

    content = path.read_bytes()
    find_runtime()  # the library that it imports is no memory of the file's
    return run_three_times(lambda: Model(content), lambda share: None)[1]


def version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def memory_bytes(name: str) -> int | None:
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(name + ":")) * 1024
    except (OSError, StopIteration):
        return None


def system() -> str:
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
        return next(line.partition("=")[2].strip('"') for line in lines if line.startswith("PRETTY_NAME="))
    except (OSError, StopIteration):
        return platform.platform()


if __name__ == "__main__":
    main()
