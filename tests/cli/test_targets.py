"""Targets through the command line: what is refused before training, what a run tells about a device."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("tflite_micro")
pytest.importorskip("ethosu")

ARGUMENTS = ["optimize", "digits", "--service", "low", "--network", "resnet8@0.25", "--epochs", "4"]


def dlmo(*arguments, store, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "dlmo", *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, "DLMO_STORE": str(store), "COLUMNS": "80"}, timeout=600,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("targets")


@pytest.fixture(scope="module")
def on_mcu(store):
    """What one run for a microcontroller printed, and its folder."""
    out = store.parent / "out-mcu"
    return dlmo(*ARGUMENTS, "--target", "mcu", "--max-ram", "60KB", "--out", out, store=store), out


def test_a_microcontroller_run_is_measured_by_its_own_runtime(on_mcu):
    from dlmo.runtimes.tflm.interpreter import arena

    done, out = on_mcu
    document = json.loads((out / "results.json").read_text())
    assert document["target"] == "mcu"
    assert [result["setup"] for result in document["results"]] == ["NQ", "FIQ", "QAT"]
    for result in document["results"]:
        found = arena((out / "artifacts" / result["artifact"]).read_bytes())
        assert (result["arena_head"], result["arena_persistent"]) == (found.head, found.persistent)
        assert result["ram_bytes"] == found.total < 60_000
        assert result["latency_ms"] is None and result["accuracy"] > 0.5
    assert any("left out: BLQ" in note for note in document["notes"])
    assert document["choice"]["setup"] in ("FIQ", "QAT")


def test_the_reports_show_the_arena(on_mcu, store):
    done, out = on_mcu
    assert "arena" in done.stdout and "KB head" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "KB persistent" in (out / "report.html").read_text()
    assert "KB persistent" in (out / "model_card.md").read_text()
    assert "arena" in dlmo("report", out, store=store).stdout


def test_too_little_ram_ends_with_3_and_names_what_is_needed(on_mcu, store):
    done = dlmo(*ARGUMENTS, "--target", "mcu", "--max-ram", "3KB", "--json", store=store, code=3)
    assert "bytes of RAM (allowed 3,000)" in json.loads(done.stdout)["nearest"][0]
    assert "train resnet8" not in done.stderr, "another limit trains nothing anew"


@pytest.mark.parametrize(
    "target, setup, said", [("mcu", "PRQ", "DENSIFY"), ("mcu", "BLQ", "hybrid"), ("npu", "NQ", "integers")]
)
def test_what_a_target_cannot_run_is_refused_before_training(store, target, setup, said):
    done = dlmo(
        "study", "digits", "--network", "resnet8@0.25", "--setup", setup, "--target", target, store=store, code=2
    )
    (line,) = done.stderr.splitlines()
    assert said in line and 'nearest: "resnet8@0.25 > int8"' in line


def test_an_npu_run_is_estimated_and_says_so(on_mcu, store):
    done = dlmo(*ARGUMENTS, "--target", "npu", "--max-latency", "5ms", "--json", store=store)
    assert "train resnet8" not in done.stderr, "the target changes nothing about the training"
    chosen = json.loads(done.stdout)["choice"]
    assert chosen["cycles"] > 0 and 0 < chosen["latency_ms"] < 5 and chosen["delegated"] == 1.0
    assert chosen["latency_source"].startswith("estimated by Vela")
