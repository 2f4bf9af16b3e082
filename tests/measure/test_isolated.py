"""A child process that crashes, hangs, overeats or talks nonsense is one line for the user."""

import numpy as np
import pytest

from dlmo.errors import UserError
from dlmo.measure.isolated import Child

TASKS = """
import ctypes, os, sys, time
from dataclasses import dataclass
import numpy as np
from dlmo.errors import UserError

@dataclass
class Answer:
    number: int
    array: np.ndarray

def double(values, content, report):
    report(0.5)
    return {"values": values * 2, "content": content, "nested": [Answer(3, values[:1])]}

def crash(report):
    ctypes.string_at(0)

def hang(report):
    time.sleep(60)

def plod(report):
    for step in range(8):
        time.sleep(0.3)
        report(step / 8)
    return "done"

def overeat(report):
    return len(np.ones(1 << 30))

def refuse(report):
    raise UserError("no")

def stumble(report):
    return {}["absent"]

def leave(report):
    print("last words", file=sys.stderr)
    os._exit(3)

def chatter(report):
    os.write(1, b"printed by native code")
    return 1

def nonsense(report):
    report._outbox.write(b"not json\\n")
    report._outbox.flush()
    time.sleep(60)
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    (tmp_path / "child_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    import child_tasks

    yield child_tasks
    import sys

    del sys.modules["child_tasks"]


def test_arrays_bytes_and_dataclasses_go_both_ways(tasks):
    values, shares = np.arange(6, dtype=np.int16).reshape(2, 3), []
    with Child("file") as child:
        answer = child.call(tasks.double, values, b"\x00\n{}", update=shares.append)
        again = child.call(tasks.double, np.zeros((0, 3), np.float32), b"")
    assert np.array_equal(answer["values"], values * 2) and answer["values"].dtype == np.int16
    assert answer["content"] == b"\x00\n{}"
    assert answer["nested"][0]["number"] == 3 and answer["nested"][0]["array"].tolist() == [[0, 1, 2]]
    assert shares == [0.5]
    assert again["values"].shape == (0, 3) and again["content"] == b""


def test_more_than_a_pipe_holds(tasks):
    values = np.random.default_rng(0).integers(0, 99, 1 << 20)
    with Child("file") as child:
        assert np.array_equal(child.call(tasks.double, values, b"")["values"], values * 2)


@pytest.mark.parametrize(
    "task, words",
    [
        ("crash", r"crashed the interpreter \(signal 11"),
        ("overeat", "more than the 1 GiB"),
        ("refuse", "x.tflite: no$"),
        ("stumble", "damaged .*KeyError: 'absent'"),
        ("leave", r"gave up \(last words\)"),
        ("nonsense", "no sensible answer"),
    ],
)
def test_each_bad_end_is_one_line(tasks, task, words):
    with Child("x.tflite", memory=1 << 30) as child, pytest.raises(UserError, match=words) as caught:
        child.call(getattr(tasks, task))
    assert str(caught.value).startswith("x.tflite: ") and "\n" not in str(caught.value)


def test_a_hanging_child_is_ended_and_a_slow_one_is_not(tasks):
    with Child("x.tflite", patience=1.5) as child:
        assert child.call(tasks.plod) == "done"
        with pytest.raises(UserError, match="hangs: no sign of progress in 2 s"):
            child.call(tasks.hang)
        assert child._process.poll() is not None


def test_a_refusal_leaves_the_child_alive(tasks):
    with Child("x.tflite") as child:
        with pytest.raises(UserError):
            child.call(tasks.refuse)
        assert child.call(tasks.chatter) == 1
