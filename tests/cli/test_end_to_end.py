"""The real pipeline on digits, through the command line: train, convert, run, measure, choose, write."""

import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ARGUMENTS = ["optimize", "digits", "--service", "low", "--network", "resnet8@0.5", "--epochs", "12"]


def dlmo(*arguments, store, check=True, timeout=600):
    environment = {**os.environ, "DLMO_STORE": str(store), "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-m", "dlmo", *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=timeout,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder, printed text and store of one optimize."""
    root = tmp_path_factory.mktemp("run")
    done = dlmo(*ARGUMENTS, "--out", root / "out", store=root / "store")
    return root / "out", done, root / "store"


@pytest.fixture(scope="module")
def document(run):
    return json.loads((run[0] / "results.json").read_text())


def test_all_setups_are_tried_and_learn(document):
    assert [r["setup"] for r in document["results"]] == ["NQ", "BLQ", "FIQ", "F16", "QAT", "PRN", "PRQ", "PRN+FIQ"]
    for result in document["results"]:
        assert result["accuracy"] > 0.9, result["recipe"]
        assert result["accuracy_low"] < result["accuracy"] <= result["accuracy_high"]
        assert result["test_images"] == 359
        assert result["partitions"] == 1 and result["delegated"] == 1.0
        assert 0 < result["latency_ms"] <= result["latency_p90_ms"]
        assert result["compressed_bytes"] < result["size_bytes"]


def test_sizes_order_as_the_formats_promise(document):
    size = {r["setup"]: r["size_bytes"] for r in document["results"]}
    assert size["F16"] < 0.62 * size["NQ"]
    assert size["FIQ"] < 0.42 * size["NQ"]
    assert size["PRN"] < 0.45 * size["NQ"]
    assert size["PRQ"] < size["BLQ"]


def test_the_folder_holds_the_contract(run, document):
    out = run[0]
    names = {path.name for path in out.iterdir()}
    assert names - {"c"} == {
        "model.tflite", "labels.txt", "preprocessing.json", "golden", "model_card.md", "report.html",
        "results.json", "results.csv", "artifacts", "README.md", "manifest.json", "run.py", "image.py", "agreement.py",
        "preprocessing.py",
    }  # fmt: skip
    choice = document["choice"]
    assert (out / "model.tflite").read_bytes() == (out / "artifacts" / choice["artifact"]).read_bytes()
    assert (out / "model.tflite").stat().st_size == choice["size_bytes"]
    assert choice["reasons"]
    assert (out / "labels.txt").read_text().split() == [str(digit) for digit in range(10)]
    with open(out / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["recipe"] for row in rows] == [r["recipe"] for r in document["results"]]
    assert float(rows[0]["accuracy"]) == document["results"][0]["accuracy"]
    assert "Layer by layer" in (out / "report.html").read_text()
    assert '"$schema":"https://vega.github.io/schema' in (out / "report.html").read_text().replace(": ", ":")


def test_golden_outputs_are_what_the_model_computes(run):
    from dlmo.runtimes.litert.interpreter import Runner

    out = run[0]
    runner = Runner((out / "model.tflite").read_bytes())
    images, inputs, outputs = (np.load(out / "golden" / f"{name}.npy") for name in ("images", "inputs", "outputs"))
    assert np.array_equal(runner.prepare(images), inputs)
    for given, wanted in zip(inputs, outputs):
        runner.run(given[None])
        assert np.array_equal(runner.interpreter.get_tensor(runner.output["index"])[0], wanted)


def test_the_low_choice_is_the_smallest_within_a_point(document):
    results, choice = document["results"], document["choice"]
    reference = max(r["validation_accuracy"] for r in results if r["setup"] == "NQ")
    legal = [r for r in results if reference - r["validation_accuracy"] <= 0.01 + 1e-9]
    assert choice["size_bytes"] == min(r["size_bytes"] for r in legal)


def test_the_table_is_printed_in_80_columns(run):
    text = run[1].stdout
    assert "PRN+FIQ" in text and "359" in text
    assert max(map(len, text.splitlines())) <= 80


def test_evaluate_reproduces_the_table(run, document):
    for result in document["results"]:
        done = dlmo("evaluate", run[0] / "artifacts" / result["artifact"], "digits", "--json", store=run[2])
        evaluation = json.loads(done.stdout)
        for name in ("accuracy", "accuracy_low", "accuracy_high", "size_bytes", "compressed_bytes", "macs"):
            assert evaluation[name] == result[name]
        assert evaluation["latency_ms"] < 5 * result["latency_ms"]


def test_another_budget_trains_nothing(run):
    done = dlmo(
        *ARGUMENTS[:3], "high", *ARGUMENTS[4:], "--max-size", "1MB", "--out", run[0].parent / "second", "--json",
        store=run[2],
    )  # fmt: skip
    assert json.loads(done.stdout)["budget"]["service"] == "high"
    assert "train" not in done.stderr.replace("training images", "") and "convert" not in done.stderr


def test_an_impossible_budget_ends_with_3_and_the_nearest(run):
    done = dlmo(*ARGUMENTS, "--max-size", "1KB", "--json", store=run[2], check=False)
    document = json.loads(done.stdout)
    assert done.returncode == 3
    assert document["choice"] is None
    assert "allowed 1,000" in document["nearest"][0]


def test_predict_names_the_digit_without_loading_torch(run, digits, tmp_path):
    from PIL import Image

    paths = []
    for index in range(5):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(digits.test.images[index, ..., 0]).save(paths[-1])
    done = dlmo("predict", run[0], *paths, "--json", store=run[2])
    answers = json.loads(done.stdout)
    right = sum(a["classes"][0] == str(digits.test.labels[i]) for i, a in enumerate(answers))
    assert right >= 4
    assert all(abs(sum(a["shares"])) <= 1.000001 and len(a["classes"]) == 3 for a in answers)
    probe = "import sys, dlmo.package.predict; print('torch' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert loaded.stdout.strip() == "False"


def test_report_prints_the_run_again(run):
    done = dlmo("report", run[0], store=run[2])
    assert "PRN+FIQ" in done.stdout and "report.html" in done.stdout


def test_study_measures_recipes_without_choosing(run):
    done = dlmo(
        "study", "digits", "--recipe", "resnet8@0.5 > prune(0.6, epochs=2) > qat(epochs=1) > int8",
        "--network", "resnet8@0.5", "--setup", "NQ", "--epochs", "12", "--json", store=run[2],
    )  # fmt: skip
    document = json.loads(done.stdout)
    assert document["choice"] is None
    assert [r["setup"] for r in document["results"]] == ["NQ", "PRN+QAT+FIQ"]
    both = document["results"][1]
    assert both["sparsity"] == pytest.approx(0.6, abs=0.01) and both["epochs"] == 15
    assert both["accuracy"] > 0.9
    assert "train resnet8@0.5" not in done.stderr, "the float training is shared"


def test_killed_while_training_it_goes_on_and_ends_the_same(run, document, tmp_path):
    """SIGKILL in the middle of the first training; the second run ends with the table of the undisturbed one."""
    store = tmp_path / "store"
    environment = {**os.environ, "DLMO_STORE": str(store)}
    victim = subprocess.Popen(
        [sys.executable, "-m", "dlmo", *ARGUMENTS], env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    for line in victim.stderr:
        if b"train resnet8" in line:
            break
    victim.kill()
    victim.wait()
    assert not (store / "train").exists()
    again = json.loads(dlmo(*ARGUMENTS, "--json", store=store).stdout)
    exact = ("recipe", "accuracy", "validation_accuracy", "size_bytes", "epochs", "sparsity")
    assert [[r[name] for name in exact] for r in again["results"]] == [
        [r[name] for name in exact] for r in document["results"]
    ]


def test_a_grid_killed_at_three_random_moments_ends_the_same(tmp_path):
    """SIGKILL wherever it happens to be: in a training, a conversion, while files run; each time it is run again."""
    grid = ["study", "digits", "--network", "resnet8@0.25", "--network", "resnet8@0.375", "--epochs", "3"]
    grid += ["--setup", "NQ,QAT,PRN", "--seeds", "2"]
    begun = time.monotonic()
    undisturbed = json.loads(dlmo(*grid, "--json", store=tmp_path / "undisturbed").stdout)
    lasting = time.monotonic() - begun
    seed = random.randrange(10**6)
    moments = random.Random(seed)
    store, kills = tmp_path / "killed", 0
    while kills < 3:
        environment = {**os.environ, "DLMO_STORE": str(store)}
        victim = subprocess.Popen(
            [sys.executable, "-m", "dlmo", *grid], env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        with contextlib.suppress(subprocess.TimeoutExpired):  # it was finished before: another moment
            victim.wait(moments.uniform(0.1, 0.6) * lasting)
            lasting *= 0.8
            continue
        victim.kill()
        victim.wait()
        kills += 1
    again = json.loads(dlmo(*grid, "--json", store=store).stdout)
    exact = ("recipe", "seed", "accuracy", "validation_accuracy", "size_bytes", "epochs", "sparsity", "artifact")
    tables = [[[r[name] for name in exact] for r in document["results"]] for document in (undisturbed, again)]
    assert len(tables[0]) == 12 and tables[0] == tables[1], f"moments of seed {seed}"


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(tmp_path):
    environment = {**os.environ, "DLMO_STORE": str(tmp_path / "store")}
    # Tests started in the background of a shell ignore Ctrl-C, and their children inherit that.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{heeding}; from dlmo.cli import main; main()"]
    command += [*ARGUMENTS, "--out", str(tmp_path / "out")]
    victim = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    seen = b""
    for line in victim.stderr:
        seen += line
        if b"train resnet8" in line:
            break
    victim.send_signal(signal.SIGINT)
    seen += victim.stderr.read()
    assert victim.wait() == 130
    assert seen.decode().splitlines()[-1].startswith("dlmo: stopped; a job goes on where it stopped if")
    assert b"Traceback" not in seen
    assert not (tmp_path / "out").exists()


def test_ctrl_c_while_the_command_line_loads_is_as_quiet(tmp_path):
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")  # the first thing that it loads from elsewhere
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-m", "dlmo", "networks"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "dlmo: stopped before it began\n")


def test_nothing_is_written_outside_the_named_folders(run):
    assert {path.name for path in Path(run[0]).parent.iterdir()} <= {"out", "store", "second"}
    assert not list(run[0].rglob("*.part"))
