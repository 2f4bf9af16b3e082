"""dlmo's files against those of other tools, of the same trained networks: size, accuracy, latency of one thread.

    python benchmarks/compression.py cifar10:DIR [--network resnet20]... [--epochs 8] [--epochs resnet20=24]...
        [--images 10000] [--onnxruntime PYTHON] [--openvino PYTHON] [--tensorflow PYTHON]
        [--steps "prune_channels(macs=0.5) > int8"]...

PYTHON is the executable of an environment that has the tool: onnxruntime and onnx, openvino and nncf, tensorflow. A
tool without one is skipped. All get the same float weights (BatchNorm folded), calibration and test images; each
quantizes with its own defaults for int8, weights per channel. Networks are trained by dlmo, or taken from its store.
Every tool runs its files in a process of its own; processes take turns, `--rounds` times, and each time is the best
round's: what else a machine does only ever adds. Files by `--steps` are trained further, which no other tool here does.
"""

import argparse
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dlmo import networks
from dlmo.data import load
from dlmo.data.dataset import Dataset
from dlmo.measure.latency import measure_latency
from dlmo.measure.machine import machine
from dlmo.measure.statistics import wilson_interval
from dlmo.progress import SilentProgress
from dlmo.runtimes.litert.interpreter import Runner
from dlmo.strategy.plan import augmentation_for, class_weights_for, schedules
from dlmo.strategy.study import epochs_by_network
from dlmo.study.conversion import calibration_images
from dlmo.study.recipe import parse
from dlmo.study.stages import make_artifact, scores
from dlmo.study.store import open_store
from dlmo.study.trainings import train
from dlmo.study.workspace import Workspace, load_network
from dlmo.techniques.fake_quantization import fold_batch_norm

PEERS = {"onnxruntime": "ort.py", "openvino": "ov.py", "tensorflow": "tf.py"}
STEPS = ("float32", "float16", "dynamic_int8", "int8")
CALIBRATION = 200
EPOCHS = 8
KINDS = {nn.ReLU: "relu", nn.ReLU6: "relu6", nn.AdaptiveAvgPool2d: "pool"}


@dataclass
class Row:
    """A file: right answers on the test images, and its milliseconds of every round."""

    name: str
    size: int
    right: int
    milliseconds: list[float]


def export(network: nn.Module, folder: Path) -> None:
    """Write the network as the peers read it (see peers/common.py)."""
    graph = fold_batch_norm(network)
    modules, known = dict(graph.named_modules()), {}
    layers: list[dict] = []
    weights: dict[str, np.ndarray] = {}
    for node in graph.graph.nodes:
        inputs = [known[argument] for argument in node.args if argument in known]
        if node.op == "placeholder":
            known[node] = "image"
            continue
        if node.op == "output" or node.target is torch.flatten:
            known[node] = inputs[0] if inputs else ""
            continue
        module = modules.get(node.target) if node.op == "call_module" else None
        layer = {"name": node.name, "inputs": inputs}
        if isinstance(module, nn.Conv2d):
            layer |= {"kind": "conv", "stride": module.stride, "padding": module.padding, "groups": module.groups}
        elif isinstance(module, nn.Linear):
            layer["kind"] = "linear"
        elif isinstance(module, nn.Identity):
            known[node] = inputs[0]
            continue
        else:
            layer["kind"] = KINDS[type(module)] if module is not None else {"add": "add"}[node.target.__name__]
        if layer["kind"] in ("conv", "linear"):
            weights[f"{node.name}.weight"] = module.weight.detach().numpy()
            weights[f"{node.name}.bias"] = module.bias.detach().numpy()
        layers.append(layer)
        known[node] = node.name
    (folder / "network.json").write_text(json.dumps(layers))
    np.savez(folder / "weights.npz", **weights)


def ask(python: str, peer: str, verb: str, folder: Path) -> dict:
    """What a peer prints last: sizes after `make`, milliseconds after `time`."""
    script = Path(__file__).parent / "peers" / PEERS[peer]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([python, script, verb, folder], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{peer} failed in {python}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(workspace: Workspace, name: str, arguments: argparse.Namespace) -> list[Row]:
    """All files of one network."""
    data = workspace.dataset
    plan = schedules(len(data.train), min(data.input_shape[:2]), epochs_of(name, arguments.epochs))
    contents, rows = {}, {}
    for steps in (*STEPS, *arguments.steps):
        content = make_artifact(workspace, parse(f"{name} > {steps}"), plan, arguments.seed).content()
        right = int((scores(workspace, content, "test", f"{name} > {steps}").argmax(1) == data.test.labels).sum())
        contents[f"dlmo {steps}"], rows[f"dlmo {steps}"] = content, Row(f"dlmo {steps}", len(content), right, [])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export(load_network(workspace, train(workspace, name, plan, arguments.seed)), folder)
        np.save(folder / "calibration.npy", calibration_images(data, CALIBRATION, arguments.seed))
        np.save(folder / "test.npy", data.test.images)
        peers = {peer: python for peer in PEERS if (python := getattr(arguments, peer))}
        for peer, python in peers.items():
            for file, size in ask(python, peer, "make", folder).items():
                right = int((np.load(folder / f"{file}.npy") == data.test.labels).sum())
                rows[file] = Row(file, size, right, [])
        for _ in range(arguments.rounds):
            for file, latency in zip(contents, measure_latency(list(contents.values()), threads=1, open_file=Runner)):
                rows[file].milliseconds.append(latency.p50_ms)
            for peer, python in peers.items():
                for file, milliseconds in ask(python, peer, "time", folder).items():
                    rows[file].milliseconds.append(milliseconds)
    return list(rows.values())


def epochs_of(name: str, given: list[str]) -> float:
    every, own = epochs_by_network(given)
    return own.get(networks.canonical(name), every or EPOCHS)


def show(name: str, rows: list[Row], test_images: int) -> None:
    times = {row.name: min(row.milliseconds) for row in rows}
    reference = times["dlmo int8"]
    print(f"\n{name}")
    print(f"{'file':44}{'bytes':>11}{'accuracy':>10}{'95 % interval':>16}{'ms':>9}{'x dlmo int8':>13}")
    for row in rows:
        low, high = wilson_interval(row.right, test_images)
        interval = f"{100 * low:.2f}-{100 * high:.2f}"
        print(f"{row.name:44}{row.size:>11,}{100 * row.right / test_images:>10.2f}{interval:>16}"
              f"{times[row.name]:>9.3f}{times[row.name] / reference:>13.2f}")  # fmt: skip


def few(data: Dataset, images: int | None) -> Dataset:
    """The data with so many training images."""
    if images is None or images >= len(data.train):
        return data
    return replace(data, train=data.train.spread(images), fingerprint=f"{data.fingerprint}, {images} images")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", default="digits")
    parser.add_argument("--network", action="append", help="default: resnet20 and mobilenet_v2")
    parser.add_argument("--steps", action="append", default=[], help="further files of dlmo's")
    parser.add_argument("--epochs", action="append", default=[], help="of all networks (8), or NETWORK=N of one")
    parser.add_argument("--images", type=int, help="train on so many images; all without it")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    for peer in PEERS:
        parser.add_argument(f"--{peer}", metavar="PYTHON", help=f"an environment with {peer}")
    arguments = parser.parse_args()
    data = few(load(arguments.source), arguments.images)
    workspace = Workspace(data, open_store(), augmentation_for(data), class_weights_for(data), "auto", SilentProgress())
    facts = machine()
    print(f"{facts['cpu']}, {facts['cores']} cores, {facts['instructions']}; one thread, load {os.getloadavg()[0]:.1f}")
    names = arguments.network or ["resnet20", "mobilenet_v2"]
    epochs = ", ".join(f"{name} {epochs_of(name, arguments.epochs)} epochs" for name in names)
    print(f"{data.name}: {len(data.train):,} training images, {epochs}, seed {arguments.seed}; "
          f"{CALIBRATION} calibration images, {len(data.test):,} test images; {arguments.rounds} rounds")  # fmt: skip
    for peer in PEERS:
        if getattr(arguments, peer) is None:
            print(f"{peer} is skipped: no --{peer} PYTHON")
    for name in names:
        show(name, compare(workspace, name, arguments), len(data.test))


if __name__ == "__main__":
    main()
