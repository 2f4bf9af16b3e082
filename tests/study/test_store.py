import multiprocessing
import os
import signal
import time

import pytest

from dlmo.errors import UserError
from dlmo.study.store import Store, key_of


def test_a_stage_is_made_once(tmp_path):
    store, calls = Store(tmp_path), []

    def make(folder):
        calls.append(folder)
        (folder / "out").write_text("x")

    for _ in range(2):
        assert (store.stage("train", "k", make) / "out").read_text() == "x"
    assert len(calls) == 1


def test_a_failed_stage_is_not_finished_and_its_leftovers_are_found_again(tmp_path):
    store = Store(tmp_path)

    def die(folder):
        (folder / "checkpoint").write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.stage("train", "k", die)
    assert store.finished("train", "k") is None
    seen = []
    store.stage("train", "k", lambda folder: seen.append((folder / "checkpoint").read_text()))
    assert seen == ["half"]


def _slow(root, marks):
    def make(folder):
        with open(marks, "a") as file:
            file.write("made\n")
        (folder / "half").write_text("half")
        time.sleep(1.0)

    Store(root).stage("train", "k", make)


def test_killed_in_the_middle_nothing_looks_finished(tmp_path):
    worker = multiprocessing.get_context("spawn").Process(target=_slow, args=(tmp_path, tmp_path / "marks"))
    worker.start()
    while not (tmp_path / "unfinished" / "train-k" / "half").exists():
        time.sleep(0.01)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    store = Store(tmp_path)
    assert store.finished("train", "k") is None
    store.stage("train", "k", lambda folder: None)
    assert store.finished("train", "k") is not None


def test_two_processes_share_one_making(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_slow, args=(tmp_path, tmp_path / "marks")) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert (tmp_path / "marks").read_text() == "made\n"


def test_keys_depend_on_everything():
    base = key_of("train", 1, {"a": 1})
    assert base == key_of("train", 1, {"a": 1})
    assert len({base, key_of("train", 2, {"a": 1}), key_of("prune", 1, {"a": 1}), key_of("train", 1, {"a": 2})}) == 4


def test_an_unwritable_store_is_the_users_to_fix(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="DLMO_STORE"):
        Store(tmp_path / "file")
