"""Real Ray clusters of two nodes on this machine."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from dlmo.errors import UserError
from dlmo.study.graph import Task, make_here
from dlmo.study.store import Store, open_store

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("grpc", reason="Ray's client is not installed")

from dlmo.study.cluster import _chains, check, make_on  # noqa: E402


def start_cluster(folder):
    """Two nodes of one core, each with a cache folder of its own, as two machines have."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    started = Cluster()
    for name in ("first", "second"):
        # Without what a test does not need, so that it starts on a busy machine.
        started.add_node(
            num_cpus=1, include_dashboard=False, no_monitor=True, include_log_monitor=False,
            env_vars={"XDG_CACHE_HOME": str(folder / name), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    return started


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    started = start_cluster(tmp_path_factory.mktemp("caches"))
    yield started.address
    started.shutdown()


@pytest.fixture
def here(workspace, tmp_path, monkeypatch):
    """A workspace with a store of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return replace(workspace, store=Store(tmp_path / "store"))


def stub(key, *needs, before=lambda: None, seconds=1.0):
    """A task whose stage holds the node that made it, and what it read of the stages it needs."""

    def make(workspace):
        def write(folder):
            before()
            seen = [(workspace.store.finished("stub", need) / "key").read_text() for need in needs]
            (folder / "key").write_text(key)
            (folder / "made").write_text(json.dumps([os.environ.get("XDG_CACHE_HOME"), seen]))

        workspace.store.stage("stub", key, write)

    return Task(key, needs, seconds, False, make)


def made_by(workspace, key):
    return json.loads((workspace.store.finished("stub", key) / "made").read_text())


def test_the_longest_chain_goes_first():
    tasks = [stub("a", seconds=1), stub("b", seconds=5), stub("c", "a", seconds=3), stub("d", "a", "b", seconds=4)]
    assert _chains(tasks) == {"a": 5, "b": 9, "c": 3, "d": 4}


def test_stages_are_made_after_those_they_need_on_both_nodes(cluster, here):
    grid = [stub(f"a{n}", before=lambda: time.sleep(0.3)) for n in range(6)]
    grid += [stub(f"b{n}", f"a{n}") for n in range(6)]
    assert make_on(cluster, here, grid) == {}
    assert all(made_by(here, f"b{n}")[1] == [f"a{n}"] for n in range(6))
    assert len({made_by(here, f"a{n}")[0] for n in range(6)}) == 2
    assert not ray.is_initialized()


def test_failures_are_those_of_the_process_here(cluster, here, tmp_path):
    def fail():
        raise UserError("this recipe is not to be")

    tasks = [stub("a"), stub("b", "a", before=fail), stub("c", "b"), stub("d", "a")]
    there = make_on(cluster, here, tasks)
    assert here.store.has("stub", "d") and not here.store.has("stub", "c")
    alone = make_here(replace(here, store=Store(tmp_path / "alone")), tasks)
    for errors in (there, alone):
        assert {key: (type(error), str(error)) for key, error in errors.items()} == dict.fromkeys(
            "bc", (UserError, "this recipe is not to be")
        )


def test_a_lost_worker_costs_its_stage_only(cluster, here, tmp_path):
    tried = tmp_path / "tried"

    def die_once():
        if not tried.exists():
            tried.touch()
            os.kill(os.getpid(), 9)

    counts = tmp_path / "counts"
    counts.mkdir()

    def count():
        (counts / str(time.time_ns())).touch()

    assert make_on(cluster, here, [stub("a", before=count), stub("b", "a", before=die_once), stub("c", "b")]) == {}
    assert tried.exists() and len(list(counts.iterdir())) == 1
    assert made_by(here, "c")[1] == ["b"]


def test_a_stage_that_always_kills_its_worker_fails_in_one_line(cluster, here):
    errors = make_on(cluster, here, [stub("a", before=lambda: os.kill(os.getpid(), 9)), stub("b")])
    assert list(errors) == ["a"] and here.store.has("stub", "b")


def test_nodes_share_stages_through_a_url(cluster, here, tmp_path):
    shared = replace(here, store=open_store(f"file://{tmp_path}/shared"))
    grid = [stub(f"a{n}", before=lambda: time.sleep(0.3)) for n in range(4)]
    grid += [stub("b", *(f"a{n}" for n in range(4)))]
    assert make_on(cluster, shared, grid) == {}
    assert len({made_by(shared, f"a{n}")[0] for n in range(4)}) == 2
    assert made_by(shared, "b")[1] == ["a0", "a1", "a2", "a3"]


def test_a_store_that_the_nodes_do_not_share_is_refused(cluster, here):
    with pytest.raises(UserError, match="has another store; set DLMO_STORE to a URL"):
        make_on(cluster, replace(here, store=open_store("memory://private")), [stub("a")])
    assert not ray.is_initialized()


@pytest.mark.parametrize("address", ["", "host", "http://host:1", "local:0", "ray://", "host:port"])
def test_addresses_that_are_none_are_refused(address):
    with pytest.raises(UserError, match="give HOST:PORT"):
        check(address)


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "localhost:{}"])
@pytest.mark.parametrize("listens", [False, True])
def test_an_unreachable_cluster_is_refused_within_15_seconds(form, listens, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = form.format(server.getsockname()[1])
        if not listens:
            server.close()
        start = time.monotonic()
        with pytest.raises(UserError, match="no Ray cluster answers"):
            check(address)
        assert time.monotonic() - start < 15


def test_the_command_line_refuses_an_unreachable_cluster_with_exit_code_2(tmp_path):
    done = dlmo("--cluster", "127.0.0.1:1", store=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("dlmo: --cluster 127.0.0.1:1: no Ray cluster answers there")
    assert len(done.stderr.splitlines()) == 1


def dlmo(*arguments, store, check=True):
    done = subprocess.run(study(*arguments), capture_output=True, text=True, env=environment(store), timeout=550)
    assert not check or done.returncode == 0, done.stderr
    return done


def study(*arguments):
    grid = ["study", "digits", "--network", "resnet8@0.25", "--network", "resnet8@0.5", "--epochs", "2", "--json"]
    grid += ["--setup", "NQ,BLQ,FIQ,F16,QAT,PRN"]
    return [sys.executable, "-m", "dlmo", *grid, *arguments]


def environment(store):
    return {**os.environ, "DLMO_STORE": str(store), "OMP_NUM_THREADS": "1"}


def table(document):
    """What must not depend on where a recipe was trained and converted."""
    names = ("recipe", "accuracy", "validation_accuracy", "size_bytes", "compressed_bytes", "epochs", "sparsity")
    assert not document["failures"]
    assert all(result["latency_ms"] > 0 for result in document["results"])
    return [[result[name] for name in names] for result in document["results"]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The table of the study in one process."""
    return table(json.loads(dlmo(store=tmp_path_factory.mktemp("alone")).stdout))


@pytest.mark.slow
def test_twelve_recipes_have_the_table_of_the_process_here(cluster, undisturbed, tmp_path):
    done = dlmo("--cluster", cluster, store=tmp_path)
    assert table(json.loads(done.stdout)) == undisturbed
    assert len(undisturbed) == 12
    made_here = [line for line in done.stderr.splitlines() if line.startswith(("train", "prune", "qat", "convert"))]
    assert not made_here
    assert done.stderr.index("stages on the cluster: done") < done.stderr.index("measure latency")


@pytest.mark.slow
def test_a_lost_node_costs_its_running_stages_only(undisturbed, tmp_path):
    own = start_cluster(tmp_path)
    store = tmp_path / "store"
    try:
        running = subprocess.Popen(
            study("--cluster", own.address),
            env=environment(store), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while len(finished := stages_of(store)) < 4:
            assert running.poll() is None, running.stderr.read()
            time.sleep(0.1)
        own.remove_node(next(iter(own.worker_nodes)), allow_graceful=False)
        output, errors = running.communicate(timeout=550)
    finally:
        own.shutdown()
    assert running.returncode == 0, errors
    assert table(json.loads(output)) == undisturbed
    assert {path: stages_of(store).get(path) for path in finished} == finished, "no finished stage was made again"


def stages_of(store):
    """Folders of finished stages, and when each one's files were written."""
    kinds = ("train", "technique", "float", "artifact", "scores")
    folders = [folder for kind in kinds for folder in store.glob(f"{kind}/*")]
    return {folder: max(file.stat().st_mtime_ns for file in folder.iterdir()) for folder in folders}
