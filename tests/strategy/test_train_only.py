"""Training on a machine with torch and no runtime, then measuring on another one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dlmo
from dlmo.errors import UserError
from dlmo.strategy.options import Options

# Not there: what converts, runs, measures, reports and tracks.
BLOCKED = ("ai_edge_litert", "ai_edge_quantizer", "litert_torch", "torch_pruning", "flatbuffers", "jax", "scipy",
           "sklearn", "jinja2", "vl_convert", "tflite_micro", "mlflow", "tensorboard")  # fmt: skip
RECIPES = ("resnet8@0.25 > qat(1) > int8", "resnet8@0.25 > kd(resnet8) > prune(0.5, epochs=1) > float32")
TRAININGS = ("train", "technique", "answers")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Two classes of small pictures, dark and light."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        (folder / name).mkdir()
        for index in range(40):
            pixels = random.integers(low, low + 128, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


def command(photos) -> list[str]:
    return ["study", str(photos), *(word for text in RECIPES for word in ("--recipe", text)), "--epochs", "2"]


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """The store that a machine without a runtime filled, and what it printed."""
    store = tmp_path_factory.mktemp("gpu-machine") / "store"
    code = f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None
import torch
torch.set_num_threads(1)
sys.argv = ["dlmo", *{[*command(photos), "--train-only", "--json"]!r}]
from dlmo.cli import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, env={**os.environ, "DLMO_STORE": str(store)}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return store, json.loads(done.stdout)


def stages(store: Path) -> dict[str, set[str]]:
    return {name: {path.name for path in (store / name).glob("*")} for name in TRAININGS}


def test_every_training_is_in_the_store_and_nothing_else(trained):
    store, document = trained
    names = [(entry["name"], entry["epochs"]) for entry in document["trainings"]]
    assert sorted(names) == [
        ("resnet8", 2),
        ("resnet8@0.25", 2),
        ("resnet8@0.25 > kd(resnet8)", 2),
        ("resnet8@0.25 > kd(resnet8) > prune(0.5, epochs=1)", 1),
        ("resnet8@0.25 > qat(1)", 1),
    ]
    for entry in document["trainings"]:
        assert (store / entry["stage"] / entry["key"] / "weights.safetensors").exists()
        assert 0 <= entry["validation_accuracy"] <= 1 and entry["seconds"] > 0
    assert {path.name for path in store.iterdir()} == {*TRAININGS, "plan", "unfinished", "locks"}


def test_the_copied_store_is_measured_without_any_training(trained, photos, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(trained[0], copy)
    for path in copy.glob("*/*/record.json"):  # as if that machine had another processor
        path.write_text(json.dumps(json.loads(path.read_text()) | {"devices": ["cuda (a distant GPU), bfloat16"]}))
    said = []

    class Listening:
        def __getattr__(self, name):
            from dlmo.progress import SilentProgress

            if name in ("stage", "note"):
                return lambda text, *rest: said.append(text) or getattr(SilentProgress(), name)(text, *rest)
            return getattr(SilentProgress(), name)

    run = dlmo.study(
        str(photos), recipe=RECIPES, options=Options(time=None, epochs=2, store=copy), progress=Listening()
    )
    assert [result.recipe for result in run.results] == list(RECIPES)
    assert all(result.latency_ms > 0 for result in run.results)
    assert stages(copy) == stages(trained[0])
    assert not [line for line in said if line.startswith(("train", "qat", "prune", "plan"))], "not even a timed step"
    assert run.machine["training"] == "trained on cuda (a distant GPU), bfloat16"


def test_what_cannot_be_trained_is_refused(photos, tmp_path):
    from dlmo.strategy.study import train_study

    with pytest.raises(UserError, match="--train-only: model.tflite holds no network that could be trained"):
        train_study(str(photos), model="model.tflite")
    for limit, kept in (("size", "30KB"), ("latency", "1ms")):
        with pytest.raises(UserError, match=f"--train-only: .*its {limit} limit is told by files"):
            train_study(str(photos), recipe=[f"resnet8 > prune_channels({limit}={kept}) > int8"])
    with pytest.raises(UserError, match="leave out --cluster"):
        train_study(str(photos), recipe=RECIPES, options=Options(time=None, cluster="local"))
    with pytest.raises(UserError, match="--threads 0"):
        train_study(str(photos), recipe=RECIPES, options=Options(time=None, threads=0, store=tmp_path))


def test_a_recipe_that_fails_is_named_and_the_others_are_trained(photos, tmp_path, monkeypatch):
    from dlmo.strategy.study import train_study
    from dlmo.study import stages

    def broken(workspace, recipe, steps, plan, seed):
        if steps:
            tried.append(str(recipe))
            raise RuntimeError("no such kernel")
        return train_through(workspace, recipe, steps, plan, seed)

    tried: list[str] = []
    train_through = stages.train_through
    monkeypatch.setattr(stages, "train_through", broken)
    options = Options(time=None, epochs=1, store=tmp_path)
    recipes = ["resnet8@0.25 > float32", "resnet8@0.25 > prune(0.5) > int8", "resnet8@0.25 > prune(0.5) > float32"]
    found = train_study(str(photos), recipe=recipes, options=options)
    assert [entry.name for entry in found.trainings] == ["resnet8@0.25"]
    assert [(failure.recipe, failure.error) for failure in found.failures] == [
        (recipe, "RuntimeError: no such kernel") for recipe in recipes[1:]
    ]
    assert len(tried) == 1, "one training of both, which failed once"
    with pytest.raises(UserError, match="nothing could be trained: .*prune.* > int8: RuntimeError"):
        train_study(str(photos), recipe=recipes[1:], options=options)


def test_every_target_is_there_without_a_runtime():
    code = f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None
from dlmo.measure import targets
for name in ("cpu", "mcu", "npu", "ssh:pi@nowhere"):
    print(targets.find(name, ready=False).name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
