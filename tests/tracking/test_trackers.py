"""MLflow's and TensorBoard's logs of a real study, read back by their own libraries."""

import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from dlmo import tracking
from dlmo.errors import UserError
from dlmo.progress import SilentProgress
from dlmo.study.store import Store
from dlmo.tracking import mlflow as module
from dlmo.tracking.follow import Tracked

pytest.importorskip("mlflow")
pytest.importorskip("tensorboard")

TEXTS = ("resnet8@0.25 > prune(0.5, epochs=1) > float32", "resnet8@0.25 > prune(0.5, epochs=1) > float16")


def dlmo(folder, *arguments):
    environment = {**os.environ, "DLMO_STORE": str(folder / "store")} | {"MLFLOW_TRACKING_URI": ""}
    return subprocess.run(
        [sys.executable, "-m", "dlmo", *arguments],
        capture_output=True, text=True, env=environment, cwd=folder, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Folder and document of a study that was told to both."""
    folder = tmp_path_factory.mktemp("tracked")
    recipes = [word for text in TEXTS for word in ("--recipe", text)]
    done = dlmo(folder, "study", "digits", *recipes, "--epochs", "2", "--json",
                "--track", "mlflow", "--track", "tensorboard:curves")  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def client(logged):
    import mlflow

    return mlflow.MlflowClient(f"sqlite:///{logged[0]}/mlflow.db")


@pytest.fixture(scope="module")
def runs(client):
    """The job's run, and the nested ones by recipe."""
    experiment = client.get_experiment_by_name("dlmo")
    found = client.search_runs([experiment.experiment_id])
    nested = {run.data.params["recipe"]: run for run in found if "mlflow.parentRunId" in run.data.tags}
    (job,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    assert {run.data.tags["mlflow.parentRunId"] for run in nested.values()} == {job.info.run_id}
    assert {run.info.status for run in found} == {"FINISHED"}
    return job, nested


def test_mlflow_holds_settings_and_results_of_every_recipe(logged, runs):
    job, nested = runs
    _, document, _ = logged
    assert set(nested) == {result["recipe"] for result in document["results"]} == set(TEXTS)
    for result in document["results"]:
        data = nested[result["recipe"]].data
        for name in ("accuracy", "accuracy_low", "accuracy_high", "size_bytes", "compressed_bytes", "latency_ms",
                     "latency_p90_ms", "ram_bytes", "macs", "epochs", "validation_accuracy"):  # fmt: skip
            assert data.metrics[name] == pytest.approx(result[name]), name
        for name in ("setup", "network", "seed", "threads"):
            assert data.params[name] == str(result[name])
        assert data.params["data_fingerprint"] == document["dataset"]["fingerprint"]
        assert (data.params["target"], data.params["train.epochs"]) == ("cpu", "2")
        assert data.params["prune.epochs"] == "1"
    assert job.data.params["dataset"] == "digits"
    assert job.data.tags["mlflow.note.content"] == document["dataset"]["command"]


def test_mlflow_holds_the_curves_epoch_by_epoch(client, runs):
    def steps(recipe, name):
        return [metric.step for metric in client.get_metric_history(runs[1][recipe].info.run_id, f"training/{name}")]

    for name in ("loss", "train_accuracy", "validation_accuracy", "seconds"):
        for recipe in TEXTS:
            assert steps(recipe, name) == [1, 2, 3], "from scratch, then while pruned; both recipes share that"


def test_mlflow_holds_the_files(logged, client, runs, tmp_path):
    job, nested = runs
    for result in logged[1]["results"]:
        path = client.download_artifacts(nested[result["recipe"]].info.run_id, result["artifact"], str(tmp_path))
        assert os.path.getsize(path) == result["size_bytes"]
    page = client.download_artifacts(job.info.run_id, "report.html", str(tmp_path))
    with open(page) as file:
        assert TEXTS[0].split(" > ")[0] in file.read()
    assert {entry.path for entry in client.list_artifacts(job.info.run_id)} >= {"report.html", "model_card.md"}
    assert {path.name for path in logged[0].iterdir()} == {"mlflow.db", "mlartifacts", "curves", "store"}


def test_nothing_but_our_own_lines_is_said(logged):
    folder, _, said = logged
    assert f"tracking: MLflow at sqlite:///{folder}/mlflow.db; to look: mlflow ui" in said
    assert "alembic" not in said.lower() and "INFO" not in said and "Warning" not in said


def test_tensorboard_holds_the_curves(logged):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (job,) = (logged[0] / "curves").iterdir()
    assert job.name.endswith("-digits")
    expected = {"resnet8@0.25-seed0": [1, 2], "resnet8@0.25-prune_0.5__epochs=1-seed0": [3]}
    assert {path.name for path in job.iterdir()} == set(expected)
    for name, steps in expected.items():
        log = EventAccumulator(str(job / name)).Reload()
        assert set(log.Tags()["tensors"]) == {
            f"training/{value}" for value in ("loss", "train_accuracy", "validation_accuracy", "seconds")
        }
        assert [event.step for event in log.Tensors("training/loss")] == steps


@pytest.mark.parametrize(
    "tracker, words",
    [
        ("mlflow:http://127.0.0.1:1", "Connection refused"),
        ("wandb", "known: mlflow, tensorboard"),
        ("tensorboard", "name a folder"),
    ],
)
def test_what_cannot_log_is_one_line_before_any_training(tracker, words, tmp_path):
    done = dlmo(tmp_path, "study", "digits", "--network", "resnet8@0.25", "--track", tracker)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"dlmo: --track {tracker}") and words in line
    assert not (tmp_path / "store").exists()


def test_a_server_that_never_answers_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(UserError, match=f"mlflow:http://127.0.0.1:{port}: no answer within"):
            tracking.find([f"mlflow:http://someone:secret@127.0.0.1:{port}"])


def test_places_that_cannot_hold_a_log(tmp_path):
    text = tmp_path / "text"
    text.write_text("not a database, but long enough to be taken for one" * 40)
    with pytest.raises(UserError, match="file is not a database"):
        tracking.find([f"mlflow:sqlite:///{text}"])
    with pytest.raises(UserError, match="--track tensorboard:.*text.*name another folder"):
        tracking.find([f"tensorboard:{text}"])


@pytest.mark.parametrize("kind", ["mlflow", "tensorboard:curves"])
def test_a_missing_extra_names_what_to_install(kind, monkeypatch):
    name = kind.partition(":")[0]
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"pip install -c constraints.txt '.\[{name}\]'"):
        tracking.find([kind])


def test_a_recipe_that_failed_is_no_finished_run(monkeypatch):
    ends = {}
    nothing = lambda *_: None  # noqa: E731
    tracker = module.Mlflow("sqlite:///log.db")
    tracker._client = SimpleNamespace(
        set_terminated=lambda run, status: ends.update({run: status}), log_text=nothing, log_artifact=nothing
    )
    tracker._job, tracker._runs = "job", {("good", 0): "first", ("bad", 0): "second"}
    monkeypatch.setattr(tracker, "_measured", nothing)
    monkeypatch.setattr("dlmo.report.html.render", lambda run: "")
    monkeypatch.setattr("dlmo.report.model_card.model_card", lambda run: "")
    made = SimpleNamespace(result=SimpleNamespace(recipe="good", seed=0, artifact="a.tflite"), content=b"")
    tracker.results(SimpleNamespace(choice=None, to_csv=lambda: ""), [made])
    tracker.close("FINISHED")
    assert ends == {"first": "FINISHED", "second": "FAILED", "job": "FINISHED"}
    tracker._failed = set()  # a job that only trains has no results
    tracker.close("FINISHED", [SimpleNamespace(recipe="good", seed=0)])
    assert ends == {"first": "FAILED", "second": "FINISHED", "job": "FINISHED"}


def test_a_tracker_that_fails_is_closed_as_failed(tmp_path):
    class Fails:
        place, closed = "a server", []

        def begin(self, work):
            raise ConnectionError("gone")

        def close(self, status, failures=()):
            self.closed.append(status)

    tracked = Tracked([Fails()], SimpleNamespace(trainings=list), Store(tmp_path), SilentProgress())
    with tracked.following():
        pass
    assert Fails.closed == ["FAILED"]
