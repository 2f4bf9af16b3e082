"""Making a study's tasks on a Ray cluster: `--cluster ADDRESS`.

Each task is one Ray task, what it needs are Ray's object references, and its output goes to the store, which all
machines must share: a shared folder or a URL. So a lost machine costs the stages that ran on it, and Ray makes them
again elsewhere. Nothing is measured here: the caller measures when the cluster's work is done.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace

from dlmo import __version__
from dlmo.errors import UserError, missing_extra, one_line
from dlmo.measure.targets import Target
from dlmo.measure.targets.host import Host
from dlmo.progress import SilentProgress
from dlmo.runtimes.litert.interpreter import quiet
from dlmo.study.graph import Task
from dlmo.study.store import Store
from dlmo.study.workspace import Workspace

_RAY_CLIENT_PORT = 10001
# The first answer must come within so many seconds.
_ANSWERS_WITHIN = 10
# A worker that starts imports torch, perhaps from a slow disk.
_GREETS_WITHIN = 300
# How often a stage is begun anew after its worker or machine was lost: a stage that kills its worker each time must
# end some time.
_RETRIES = 3
# How often the driver looks what is done, in seconds.
_LOOKS_EVERY = 1.0
# What a task takes at least; a training that came with the user's model is expected to take nothing.
_LEAST_SECONDS = 0.1


def check(address: str) -> None:
    """Raise UserError where `address` is none, nothing answers there, or Ray is not installed."""
    if not re.fullmatch(r"local(:[1-9]\d*)?|auto|(?!local:)[\w.-]+:\d+|ray://[\w.-]+(:\d+)?", address):
        raise UserError(f"--cluster {address}: give HOST:PORT, ray://HOST:PORT, auto, or local[:CORES]")
    try:
        import grpc
        import ray  # noqa: F401
    except ImportError:
        raise missing_extra("--cluster needs Ray", "cluster") from None
    if _is_local(address):
        return
    place = _found_here() if address == "auto" else address
    host, _, port = place.removeprefix("ray://").partition(":")
    # ray.init waits for most of a minute at a wrong address, and then ends the process. Both of Ray's servers answer
    # gRPC's standard health check, be it by saying that they do not know it.
    try:
        with grpc.insecure_channel(f"{host}:{port or _RAY_CLIENT_PORT}") as channel:
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=_ANSWERS_WITHIN)
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise UserError(f"--cluster {address}: no Ray cluster answers there ({error.details()})") from None


def _is_local(address: str) -> bool:
    """Whether it means Ray on this machine alone, started for this job; not a host whose name begins like that."""
    return re.fullmatch(r"local(:\d+)?", address) is not None


def _found_here() -> str:
    """The address of the cluster that this machine belongs to."""
    from ray._private.services import canonicalize_bootstrap_address

    try:
        return canonicalize_bootstrap_address("auto")
    except ConnectionError:
        raise UserError("--cluster auto: no Ray cluster runs here; start one with `ray start --head`") from None


def make_on(address: str, workspace: Workspace, tasks: Sequence[Task]) -> dict[str, Exception]:
    """Make the tasks on the cluster at `address`; returns those that failed, and why. Leaves nothing running."""
    import ray

    errors: dict[str, Exception] = {}
    with _connected(address):
        nodes = _greet(address, workspace)
        cores, gpus = sum(_cores(node) for node in nodes), sum(node["Resources"].get("GPU", 0) for node in nodes)
        workspace.progress.note(f"cluster {address}: {len(nodes)} nodes, {cores} cores, {gpus:g} GPUs")
        running = _submit(workspace, tasks, nodes)
        work = sum(map(_seconds, tasks))
        expected = max(work / cores, *_chains(tasks).values())
        done = 0.0
        with workspace.progress.stage(f"{len(tasks):,} stages on the cluster", expected) as update:
            while running:
                ready, _ = ray.wait(list(running), num_returns=len(running), timeout=_LOOKS_EVERY)
                for reference in ready:
                    task = running.pop(reference)
                    error = _error_of(reference)
                    if error is not None:
                        errors[task.key] = error
                    done += _seconds(task)
                update(done / work)  # once per look: the pace of what ends at one moment says nothing
    return errors


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Connected to the cluster; afterwards nothing of it that was started here runs any more."""
    import ray

    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its own words about lost machines
    options: dict[str, object] = {"address": address}
    if _is_local(address):
        cores = address.partition(":")[2]
        options = {"address": "local", "num_cpus": int(cores) if cores else None, "include_dashboard": False}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody asked to send any
    try:
        with quiet():  # it tells that it was told to be quiet
            ray.init(**options, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # another version of Ray or Python there, this machine is no part of the cluster, ...
        raise UserError(f"--cluster {address}: {one_line(error)}") from None
    try:
        with redirect_stdout(sys.stderr):  # Ray prints what it has to say of lost machines; stdout is the document's
            yield
    finally:
        ray.shutdown()


def _greet(address: str, workspace: Workspace) -> list[dict]:
    """The cluster's nodes with processors, after each has shown that it can make stages for this store."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"] and _cores(node)]
    if not nodes:
        raise UserError(f"--cluster {address}: it has no processors")
    greeting = ray.remote(num_cpus=0, max_retries=0)(_greeting)
    here = (__version__, workspace.store.identity())
    answers = [
        greeting.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            workspace.store, workspace.target
        )
        for node in nodes
    ]
    for node, answer in zip(nodes, answers):
        name = f"--cluster {address}: {node['NodeManagerAddress']}"
        try:
            version, store = ray.get(answer, timeout=_GREETS_WITHIN)
        except ray.exceptions.RayError as error:
            raise UserError(f"{name} cannot make stages: {one_line(getattr(error, 'cause', None) or error)}") from None
        if version != here[0]:
            raise UserError(f"{name} has dlmo {version}, this machine {here[0]}; install the same there")
        if store != here[1]:
            raise UserError(f"{name} has another store; set DLMO_STORE to a URL, or a folder that all machines share")
    return nodes


def _greeting(store: Store, target: Target) -> tuple[str, str]:
    """What a node answers: its version of dlmo and its store's identity. Raises UserError where the target fails."""
    if type(target).predict is not Host.predict:  # else a worker runs files as target cpu does
        target.check()
    return __version__, store.identity()


def _submit(workspace: Workspace, tasks: Sequence[Task], nodes: list[dict]) -> dict:
    """Hand all tasks to Ray; the task of each reference.

    Those with the longest chain of work behind them come first: Ray starts tasks of one kind in the order in which
    they became possible. Trainings share the processors out among them and take a GPU each where there is one.
    """
    import ray

    shared = ray.put(replace(workspace, progress=SilentProgress()))
    first_trainings = sum(task.trains and not task.needs and task.seconds > 0 for task in tasks)
    cores = max(1, min(sum(map(_cores, nodes)) // max(1, first_trainings), *map(_cores, nodes)))
    gpus = min(1, max(node["Resources"].get("GPU", 0) for node in nodes))
    make = ray.remote(num_cpus=1, max_retries=_RETRIES, scheduling_strategy="SPREAD")(_make)
    training = make.options(num_cpus=cores, num_gpus=gpus)
    references: dict[str, object] = {}
    chains = _chains(tasks)
    for task in sorted(tasks, key=lambda task: -chains[task.key]):
        kind, threads = (training, cores) if task.trains else (make, 1)
        references[task.key] = kind.remote(shared, task, threads, *(references[need] for need in task.needs))
    by_key = {task.key: task for task in tasks}
    return {reference: by_key[key] for key, reference in references.items()}


def _make(workspace: Workspace, task: Task, threads: int, *needed: None) -> None:
    """One task, in a worker. needed: what the tasks it needs returned; Ray waits for them."""
    if task.trains:
        import torch

        torch.set_num_threads(threads)
    task.make(workspace)


def _error_of(reference) -> Exception | None:
    """Why a finished task failed; for a task that was not begun, why one that it needs failed."""
    import ray

    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return error.cause or error
    except ray.exceptions.RayError as error:  # its worker or machine was lost too often
        return error
    return None


def _chains(tasks: Sequence[Task]) -> dict[str, float]:
    """The seconds from the start of each task to the end of the longest chain that it begins.

    tasks: each after those it needs. A task's chain is longer than that of any task that needs it.
    """
    after: dict[str, float] = {}  # the longest chain behind each task
    chains = {}
    for task in reversed(tasks):
        chains[task.key] = _seconds(task) + after.get(task.key, 0.0)
        for need in task.needs:
            after[need] = max(after.get(need, 0.0), chains[task.key])
    return chains


def _seconds(task: Task) -> float:
    return max(_LEAST_SECONDS, task.seconds)


def _cores(node: dict) -> int:
    return int(node["Resources"].get("CPU", 0))
