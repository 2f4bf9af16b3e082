"""What a study costs on a cluster: overhead per stage, speed of two workers, a simulated study of 10,000 recipes.

    python benchmarks/cluster.py [--part NAME]... [--recipes 10000] [--epochs 10]

Prints the figures that docs/scale.md cites, but for the numbers of requests to a store. Ray runs on this machine
(`local:CORES`); starting it, and its workers' imports, are measured with one empty stage and taken off. Stub stages
write one small file each into the store.

overhead:   stub stages one after the other on a cluster of one core, against the same in this process
speed:      the trainings of a grid on digits, on a cluster of one and of two cores in turns, one thread each
simulation: the tasks of so many real recipes with stubs for stages: 25 networks, 8 setups, as many seeds as it takes
store:      one stage to and from S3, as moto serves it on this machine, and what the stages of networks weigh
database:   what a search writes for each trial to Optuna's journal
device:     memory and latency of files on this machine, one after the other
"""

import argparse
import itertools
import logging
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from evaluation import int8_file

from dlmo import networks
from dlmo.data import load
from dlmo.measure.machine import machine
from dlmo.measure.targets.host import Host
from dlmo.progress import SilentProgress
from dlmo.strategy.plan import augmentation_for, schedules
from dlmo.study.cluster import make_on
from dlmo.study.graph import Task, make_here, tasks_of
from dlmo.study.recipe import SETUPS, for_setup
from dlmo.study.store import Store, open_store
from dlmo.study.workspace import Workspace

FAMILIES = ("resnet8", "resnet20", "mobilenet_v2", "mobilenet_v3_small", "wide_resnet_16_1")
WIDTHS = ("0.25", "0.5", "0.75", "1.25", "1.5")
GRID = ("resnet8@0.5", "resnet8")
GRID_SETUPS = ("NQ", "QAT", "PRN")
WEIGHED = ("resnet20", "mobilenet_v2")


def workspace_in(folder: Path) -> Workspace:
    """Digits, with a fresh store."""
    data = load("digits")
    return Workspace(data, Store(folder), augmentation_for(data), None, "auto", SilentProgress())


def write_stub(workspace: Workspace, key: str) -> None:
    workspace.store.stage("stub", key.replace("/", "-"), lambda folder: (folder / "file").write_bytes(bytes(1000)))


def stub(task: Task) -> Task:
    return replace(task, make=partial(write_stub, key=task.key), trains=False)


def chain(count: int) -> list[Task]:
    """Stub stages that need one another, so that nothing overlaps."""
    keys = [f"stage {number}" for number in range(count)]
    return [
        Task(key, (before,) if before else (), 1.0, False, partial(write_stub, key=key))
        for key, before in zip(keys, (None, *keys))
    ]


def seconds(work: Callable[[Workspace, Sequence[Task]], dict], tasks: Sequence[Task]) -> float:
    """The time to make tasks in a fresh store."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = workspace_in(Path(folder))
        started = time.perf_counter()
        errors = work(workspace, tasks)
        elapsed = time.perf_counter() - started
        assert not errors, errors
        return elapsed


def overhead(stages: int = 200) -> None:
    on_one = partial(make_on, "local:1")
    start = seconds(on_one, chain(1))
    there = (seconds(on_one, chain(stages + 1)) - start) / stages
    here = seconds(make_here, chain(stages)) / stages
    print(f"overhead: start of Ray and its first worker {start:.1f} s")
    print(
        f"overhead: a stub stage takes {1000 * there:.1f} ms on the cluster, {1000 * here:.1f} ms here, "
        f"n = {stages} in a row each: {1000 * (there - here):.1f} ms more"
    )


def speed(epochs: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        workspace = workspace_in(Path(folder))
        plan = schedules(len(workspace.dataset.train), 8, epochs)
        recipes = [(for_setup(network, code), seed) for network in GRID for code in GRID_SETUPS for seed in (0, 1, 2)]
        tasks = [task for task in tasks_of(workspace, recipes, dict.fromkeys(GRID, plan)) if task.trains]
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for cores, found in times.items():
            address = partial(make_on, f"local:{cores}")
            found.append(seconds(address, tasks) - seconds(address, chain(1)))
    for cores, found in times.items():
        print(f"speed: {len(tasks)} trainings on {cores} cores: " + ", ".join(f"{each:.1f} s" for each in found))
    ratios = [one / two for one, two in zip(times[1], times[2])]
    print(f"speed: two workers against one: {', '.join(f'{ratio:.2f}x' for ratio in ratios)} ({rounds} rounds)")


def simulation(recipes: int, cores: int) -> None:
    names = [f"{family}@{width}" for family in FAMILIES for width in WIDTHS]
    seeds = -(-recipes // (len(names) * len(SETUPS)))
    wanted = [(for_setup(n, code), seed) for seed, n, code in itertools.product(range(seeds), names, SETUPS)][:recipes]
    with tempfile.TemporaryDirectory() as folder:
        workspace = workspace_in(Path(folder))
        plan = schedules(len(workspace.dataset.train), 8, 30)
        started = time.perf_counter()
        tasks = tasks_of(workspace, wanted, dict.fromkeys(names, plan))
        built = time.perf_counter() - started
    trainings = sum(task.trains for task in tasks)
    tasks = [stub(task) for task in tasks]
    address = partial(make_on, f"local:{cores}")
    start = seconds(address, chain(1))
    busy = time.process_time()
    took = seconds(address, tasks) - start
    busy = time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"simulation: {recipes:,} recipes are {len(tasks):,} tasks ({trainings:,} trainings); keys in {built:.1f} s")
    print(
        f"simulation: made in {took:.0f} s on {cores} cores, {len(tasks) / took:.0f} tasks/s; the driver computed "
        f"{1000 * busy / len(tasks):.2f} ms for each, its memory peaked at {peak:.2f} GB"
    )


def store(stages: int = 50, size: int = 1_000_000) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    boto3.client("s3").create_bucket(Bucket="bucket")
    times = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("put", "get"):
            os.environ["XDG_CACHE_HOME"] = f"{folder}/{name}"
            shared = open_store("s3://bucket/store")
            started = time.perf_counter()
            for number in range(stages):
                shared.stage("stub", str(number), lambda made: (made / "file").write_bytes(bytes(size)))
            times[name] = (time.perf_counter() - started) / stages
    server.stop()
    print(
        f"store: a stage of {size / 1e6:.0f} MB over S3 (moto, this machine): made and put in "
        f"{1000 * times['put']:.0f} ms, found and got in {1000 * times['get']:.0f} ms, n = {stages} each"
    )
    for name in WEIGHED:
        count = networks.count(name, classes=10, input_shape=(32, 32, 3), stem="auto")
        scores = 4 * 10 * (5_000 + 10_000)
        print(
            f"store: {name} on CIFAR-10: weights {4 * count.parameters / 1e6:.2f} MB per training, the file 0.25 to 1 "
            f"times that, scores {scores / 1e6:.2f} MB per file"
        )


def database(trials: int = 100, parameters: int = 6) -> None:
    """What a search writes: Optuna's journal, as dlmo.strategy.search keeps it, one trial after the other."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal.log"
        storage = JournalStorage(JournalFileBackend(str(journal)))
        study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler())
        before, started = len(journal.read_bytes().splitlines()), time.perf_counter()
        for _ in range(trials):
            trial = study.ask()
            study.tell(trial, sum(trial.suggest_float(f"x{number}", 0, 1) for number in range(parameters)))
        took = (time.perf_counter() - started) / trials
        content = journal.read_bytes()
    lines = (len(content.splitlines()) - before) / trials
    print(
        f"database: an Optuna trial of {parameters} parameters appends {lines:.1f} lines to its journal in "
        f"{1000 * took:.1f} ms, {len(content) / trials:.0f} bytes, n = {trials}"
    )


def device(files: int = 20) -> None:
    images = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), np.uint8)
    contents = [int8_file("resnet20", images)] * files
    started = time.perf_counter()
    Host().measure(contents, 1, SilentProgress(), images[:8])
    took = (time.perf_counter() - started) / files
    print(
        f"device: memory and latency of an int8 ResNet-20: {took:.2f} s a file, n = {files}, {len(contents[0]):,} bytes"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("overhead", "speed", "simulation", "store", "database", "device")
    parser.add_argument("--part", action="append", choices=parts)
    parser.add_argument("--recipes", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cores", type=int, default=2, help="of the cluster that is simulated on")
    arguments = parser.parse_args()
    print(f"machine: {machine()}, load {os.getloadavg()[0]:.1f} at the start, OMP_NUM_THREADS=1")
    chosen = arguments.part or parts
    if "overhead" in chosen:
        overhead()
    if "speed" in chosen:
        speed(arguments.epochs, arguments.rounds)
    if "simulation" in chosen:
        simulation(arguments.recipes, arguments.cores)
    if "store" in chosen:
        store()
    if "database" in chosen:
        database()
    if "device" in chosen:
        device()


if __name__ == "__main__":
    main()
