"""Target ssh: what a device measures, how its answers are compared, and runs on several targets."""

import csv
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from rich.console import Console

from dlmo import networks
from dlmo.errors import UserError
from dlmo.measure.targets import CannotRun, find, ssh
from dlmo.progress import SilentProgress
from dlmo.report.document import run_of
from dlmo.report.terminal import print_run
from dlmo.runtimes.litert import flatbuffer, quantize
from dlmo.runtimes.litert.convert import convert
from dlmo.strategy.options import Options
from dlmo.strategy.study import study
from dlmo.techniques.fake_quantization import fold_batch_norm

SHAPE = (16, 16, 1)
RECIPES = ["resnet8@0.25 > float32", "resnet8@0.25 > int8"]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (20, *SHAPE), np.uint8)


@pytest.fixture(scope="module")
def files(images):
    """The same network in float and in int8."""
    torch.manual_seed(0)
    network = networks.build("resnet8@0.25", classes=3, input_shape=SHAPE).eval()
    content = convert(fold_batch_norm(network), SHAPE)
    return [flatbuffer.shorten_names(file) for file in (content, quantize.static_int8(content, images))]


def test_a_device_measures_as_this_machine_does(device, files, images):
    target = find(device.target())
    assert target.name == device.target() and target.tells_latency
    assert target.identity() == find("cpu").identity(), "scores are this machine's"
    found = target.measure(files, 2, SilentProgress(), images)
    here = find("cpu").measure(files, 1, SilentProgress(), images)
    for there, own in zip(found, here, strict=True):
        assert (there.partitions, there.delegated) == (own.partitions, own.delegated)
        assert 0 < there.latency_ms <= there.latency_p90_ms
        assert there.latency_by_threads["2"] == there.latency_ms and "1" in there.latency_by_threads
        assert 0 < there.ram_bytes < 3 * own.ram_bytes, "without the library that runs the file"
        assert there.latency_source == there.ram_source == "measured"
        assert there.accuracy_source == (
            "measured on this machine; 20 golden images answered by the device as here, within the tolerance"
        )
        assert "ai-edge-litert" in there.device and "cores" in there.device


def test_other_answers_and_throttling_are_told(device, files, images, monkeypatch):
    real = ssh.ask

    def lying(*arguments):
        answer = real(*arguments)
        answer["files"][1]["scores"] = [scores[::-1] for scores in answer["files"][1]["scores"]]
        answer["slowed"] = ["vcgencmd: under-voltage"]
        return answer

    target = find(device.target())
    monkeypatch.setattr(ssh, "ask", lying)
    honest, other = target.measure(files, 1, SilentProgress(), images)
    (slow,) = honest.doubts
    assert "under-voltage" in slow
    assert other.doubts[0] == slow and "golden images the same, scores differ" in other.doubts[1]
    assert "the device answers" in other.accuracy_source


def test_an_answer_that_makes_no_sense_is_one_line(device, files, images, monkeypatch):
    target = find(device.target())
    for answer in ({}, [], {"facts": 1}):
        monkeypatch.setattr(ssh, "ask", lambda *arguments, answer=answer: answer)
        with pytest.raises(UserError, match="no sensible answer"):
            target.measure(files, 1, SilentProgress(), images)


def test_a_file_that_the_device_cannot_run_leaves_the_others(device, files, images):
    refused, measured = find(device.target()).measure([b"nonsense", files[0]], 1, SilentProgress(), images)
    assert isinstance(refused, CannotRun) and "\n" not in refused.reason and device.target() in refused.reason
    assert measured.latency_ms > 0 and measured.doubts == ()


def test_runs_on_two_targets_and_on_a_device_alone(device, shared_store, tmp_path):
    out, name = tmp_path / "out", device.target()
    both = Options(time=None, epochs=1, target="cpu", more_targets=(name,), out=out, store=shared_store)
    run = study("digits", recipe=RECIPES, options=both)
    assert run.target == "cpu" and run.further_targets == (name,)
    for result in run.results:
        assert result.elsewhere[name].latency_ms > 0 and result.device == ""
    there = run.on(name)
    assert there.results[0].latency_ms == run.results[0].elsewhere[name].latency_ms
    assert f"--target cpu --target '{name}'" in run.title

    document = json.loads((out / "results.json").read_text())
    assert document["results"][0]["elsewhere"][name]["latency_ms"] == there.results[0].latency_ms
    assert run_of(document).results == run.results
    rows = list(csv.DictReader(io.StringIO((out / "results.csv").read_text())))
    assert float(rows[0][f"latency_ms on {name}"]) == there.results[0].latency_ms
    page = (out / "report.html").read_text()
    assert 'id="chart-latency-2"' in page and f"p50 ms on {name}" in page
    terminal = io.StringIO()
    print_run(run, Console(file=terminal, width=80))
    assert "on 2" in terminal.getvalue() and "ai-edge-litert" in terminal.getvalue()

    alone = study("digits", recipe=RECIPES, options=Options(time=None, epochs=1, target=name, store=shared_store))
    for before, result in zip(run.results, alone.results, strict=True):
        assert (result.accuracy, result.seconds) == (before.accuracy, before.seconds), "nothing was trained anew"
        assert result.latency_ms > 0 and "ai-edge-litert" in result.device and result.elsewhere == {}


def test_devices_check_prints_what_is_there_and_what_is_missing(device, tmp_path):
    done = dlmo("devices", "check", device.target())
    for word in ("processor", "ai-edge-litert", "memory", "temperature", "ready: --target"):
        assert word in done.stdout
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    done = dlmo("devices", "check", device.target(tmp_path / "bare/bin/python"), "--json", code=2)
    found = json.loads(done.stdout)
    (line,) = done.stderr.splitlines()
    assert found["usable"] is False and found["install"] in line and "pip install ai-edge-litert" in line


def test_a_device_that_cannot_be_reached_is_told_before_any_work(device, shared_store):
    device.authorized_keys.write_text("")
    done = dlmo(
        "study", "digits", "--network", "resnet8@0.25", "--target", "cpu", "--target", device.target(),
        store=shared_store, code=2,
    )  # fmt: skip
    (line,) = done.stderr.splitlines()
    assert "refuses your key" in line


def dlmo(*arguments, store="unused", code=0):
    done = subprocess.run(
        [sys.executable, "-m", "dlmo", *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, "DLMO_STORE": str(store)}, timeout=300,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done
