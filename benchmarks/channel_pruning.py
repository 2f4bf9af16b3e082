"""What steers the cut: channels taken by multiply-accumulates against channels taken by measured latency.

    python benchmarks/channel_pruning.py [digits] [--network resnet20] [--shares 0.6 0.4 0.25] [--precision int8]
        [--epochs 20] [--images N] [--seeds 3]

One network is trained per seed and cut to each share of its MACs; then to the latency that the table foretells for
each result. dlmo cuts to less than that where the file runs slower than its table foretold (study/cutting.py), so read
the curves, not rows side by side. Everything else is the same: criterion, rounds, epochs, teacher. All files are then
measured in turns. Accuracies are on validation images, means over the seeds. The last lines read the
latency of either way at equal accuracy: between the points of a curve, straight lines.
"""

import argparse
import os
from dataclasses import replace

import numpy as np

from dlmo.data import load
from dlmo.measure.accuracy import accuracy
from dlmo.measure.latency import measure_latency
from dlmo.measure.machine import machine
from dlmo.progress import SilentProgress
from dlmo.runtimes.litert import flatbuffer
from dlmo.runtimes.litert.interpreter import Runner
from dlmo.strategy.plan import augmentation_for, class_weights_for, schedules
from dlmo.study.cutting import latency_table
from dlmo.study.recipe import parse
from dlmo.study.stages import make_artifact, scores
from dlmo.study.store import open_store
from dlmo.study.workspace import Workspace, build_network, load_network
from dlmo.techniques.channel_pruning import file_layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", default="digits")
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.6, 0.4, 0.25])
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--images", type=int, help="train on so many images; all without it")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    data = load(arguments.source)
    if arguments.images is not None:
        part = data.train.spread(arguments.images)
        data = replace(data, train=part, fingerprint=f"{data.fingerprint}, {arguments.images} images")
    workspace = Workspace(data, open_store(), augmentation_for(data), class_weights_for(data), "auto", SilentProgress())
    plan = schedules(len(data.train), min(data.input_shape[:2]), arguments.epochs)
    parent = parse(f"{arguments.network} > {arguments.precision}")
    table = latency_table(workspace, parent.network, build_network(workspace, parent.network).eval(), parent.precision)

    def foretold(trained) -> float:
        """Milliseconds of a cut network by the table."""
        layers = file_layers(load_network(workspace, trained), data.input_shape)
        return sum(table(shape) for _, shape in layers) / 1000

    def made(step: str, seed: int):
        return make_artifact(workspace, parse(f"{parent.network} > {step}{parent.precision}"), plan, seed)

    files = {}
    for seed in range(arguments.seeds):
        files["uncut", 1.0, seed] = made("", seed)
        for share in arguments.shares:
            by_macs = files["MACs", share, seed] = made(f"prune_channels(macs={share:g}) > ", seed)
            limit = f"latency={foretold(by_macs.trained):.6f}"
            files["latency", share, seed] = made(f"prune_channels({limit}) > ", seed)
    contents = [artifact.content() for artifact in files.values()]
    measured = [latency.p50_ms for latency in measure_latency(contents, threads=1, open_file=Runner)]
    rows: dict[tuple[str, float], list[np.ndarray]] = {}
    for (way, share, _), artifact, content, milliseconds in zip(files, files.values(), contents, measured):
        right = accuracy(scores(workspace, content, "validation", f"{way} {share:g}"), data.validation.labels).value
        numbers = right, milliseconds, foretold(artifact.trained), flatbuffer.facts(content).macs, len(content)
        rows.setdefault((way, share), []).append(np.array(numbers))
    facts = machine()
    print(f"{facts['cpu']}, {facts['cores']} cores, {facts['instructions']}; one thread, load {os.getloadavg()[0]:.1f}")
    print(f"{data.name}, {arguments.network} {arguments.precision}, {len(data.train):,} training and "
          f"{len(data.validation):,} validation images, {arguments.epochs} epochs, {arguments.seeds} seeds",
          f"\n{'steered by':12}{'budget':>8}{'accuracy':>10}{'(spread)':>10}{'ms':>9}{'foretold':>10}"
          f"{'MACs':>12}{'bytes':>10}")  # fmt: skip
    for (way, share), found in rows.items():
        mean, spread = np.mean(found, 0), np.std(found, 0)
        print(f"{way:12}{share:>8g}{100 * mean[0]:>10.2f}{100 * spread[0]:>10.2f}{mean[1]:>9.4f}{mean[2]:>10.4f}"
              f"{mean[3]:>12,.0f}{mean[4]:>10,.0f}")  # fmt: skip
    curves = {
        way: np.array([np.mean(rows[way, share], 0)[:2] for share in sorted(arguments.shares)])
        for way in ("MACs", "latency")
    }
    low = max(curve[:, 0].min() for curve in curves.values())
    high = min(curve[:, 0].max() for curve in curves.values())
    for level in sorted({low, (low + high) / 2, high}) if low <= high else ():
        by_macs, by_latency = (_at(curve, level) for curve in curves.values())
        print(f"at {100 * level:.2f} %: {by_macs:.4f} ms by MACs, {by_latency:.4f} ms by latency, "
              f"{by_macs / by_latency:.3f}x")  # fmt: skip
    if low > high:
        print("no accuracy is reached both ways")


def _at(curve: np.ndarray, level: float) -> float:
    """The least latency at which a curve of (accuracy, milliseconds) reaches an accuracy."""
    order = curve[np.argsort(curve[:, 1])]
    best = np.maximum.accumulate(order[:, 0])
    first = int(np.argmax(best >= level))
    if first == 0:
        return float(order[0, 1])
    return float(np.interp(level, best[first - 1 : first + 1], order[first - 1 : first + 1, 1]))


if __name__ == "__main__":
    main()
