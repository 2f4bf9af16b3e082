"""The committed examples are what examples/README.md says; their accuracy where $DLMO_DATA has the official files."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from dlmo.measure.evaluate import evaluate
from dlmo.runtimes.litert import flatbuffer
from dlmo.runtimes.litert.interpreter import Runner

EXAMPLES = Path(__file__).parents[1] / "examples"
FOLDERS = sorted(path.parent for path in EXAMPLES.glob("*/model.tflite"))


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def example(request) -> tuple[Path, dict]:
    return request.param, json.loads((request.param / "example.json").read_text())


def test_there_are_examples():
    assert FOLDERS


def test_size_and_kernels(example):
    folder, said = example
    content = (folder / "model.tflite").read_bytes()
    assert len(content) == said["size_bytes"] <= said["limit_bytes"]
    runner = Runner(content)
    assert runner.input["dtype"] is np.int8 and runner.output["dtype"] is np.int8
    assert runner.delegation() == (1, 1.0)
    assert flatbuffer.facts(content).float_operators == ()


@pytest.mark.skipif("DLMO_DATA" not in os.environ, reason="needs the official files at $DLMO_DATA")
def test_accuracy(example):
    folder, said = example
    found = evaluate(folder / "model.tflite", said["source"])
    assert found.images == said["images"] == 10_000
    assert found.accuracy == pytest.approx(said["accuracy"], abs=5e-4)
