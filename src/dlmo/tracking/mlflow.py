"""MLflow: one run per job and, nested in it, one per recipe and seed, with settings, curves, results and files."""

import importlib.util
import logging
import os
import shlex
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from dlmo.errors import UserError, missing_extra
from dlmo.study.results import Failure, Result, Run
from dlmo.study.run import Outcome
from dlmo.tracking import FAILED
from dlmo.tracking.work import Training, Work, values_of
from dlmo.training.curve import Epoch

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow sends usage data, prints links to stdout, and repeats a failed request for four minutes. A user's own
# setting of these goes first.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
_SQLITE = "sqlite:///"
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_PATIENCE_SECONDS = 10
# The most that MLflow takes in one request, and in one setting.
_METRICS_AT_ONCE, _SETTINGS_AT_ONCE, _LONGEST_SETTING = 1000, 100, 6000
# Fields of a result that are settings, not findings.
_GIVEN = ("recipe", "setup", "network", "seed", "threads")


class Mlflow:
    """URI: as MLflow takes it; without one $MLFLOW_TRACKING_URI, else mlflow.db in the current folder, which is where
    `mlflow ui` looks. The experiment is $MLFLOW_EXPERIMENT_NAME, else `dlmo`."""

    def __init__(self, rest: str) -> None:
        self._uri = rest or os.environ.get("MLFLOW_TRACKING_URI") or _SQLITE + quote(str(Path("mlflow.db").resolve()))
        self._client: MlflowClient | None = None
        self._job = ""
        self._failed: set[str] = set()  # ids of the runs whose models did not come to be
        self._runs: dict[tuple[str, int], str] = {}  # id of each model's run, by recipe and seed
        self._of_training: dict[str, list[str]] = {}  # ids of the runs whose models went through it, by key
        self.place = f"MLflow at {_shown(self._uri)}"
        if _sqlite_path(self._uri):
            self.place += f"; to look: mlflow ui --backend-store-uri {shlex.quote(self._uri)}"

    def check(self) -> None:
        if importlib.util.find_spec("mlflow") is None:
            raise missing_extra("--track mlflow needs MLflow", "mlflow")
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        # Before MLflow is loaded, and before its long patience with a server that is not there.
        _within(_PATIENCE_SECONDS, self._uri, lambda: _probe(self._uri))
        import mlflow

        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.ERROR)

        def connect() -> None:
            self._client = mlflow.MlflowClient(self._uri)
            self._client.search_experiments(max_results=1)

        # A new SQLite file is filled with MLflow's tables first, which takes a slow machine its time.
        _within(None if _sqlite_path(self._uri) else _PATIENCE_SECONDS, self._uri, connect)

    def begin(self, work: Work) -> None:
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or "dlmo")
        self._job = self._start(experiment, work.dataset, work.settings, {"mlflow.note.content": work.command})
        for model in work.models:
            name = f"{model.recipe}, seed {model.seed}"
            run = self._start(experiment, name, model.settings, {"mlflow.parentRunId": self._job})
            self._runs[model.recipe, model.seed] = run
            for training in model.trainings:
                self._of_training.setdefault(training.key, []).append(run)

    def curve(self, training: Training, epochs: Sequence[Epoch], whole: bool) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, training.before + epoch.epoch)
            for epoch in epochs
            for name, value in values_of(epoch).items()
        ]
        for run in self._of_training.get(training.key, ()):
            for start in range(0, len(metrics), _METRICS_AT_ONCE):
                self._client.log_batch(run, metrics=metrics[start : start + _METRICS_AT_ONCE])

    def results(self, run: Run, outcomes: Sequence[Outcome]) -> None:
        from dlmo.report.html import render
        from dlmo.report.model_card import model_card

        for outcome in outcomes:
            result = outcome.result
            nested = self._run_of(result)
            self._measured(nested, result)
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, result.artifact)
                file.write_bytes(outcome.content)
                self._client.log_artifact(nested, str(file))
        made = {self._run_of(outcome.result) for outcome in outcomes}
        self._failed = set(self._runs.values()) - made
        if run.choice is not None:
            self._measured(self._job, run.choice.result)
        self._client.log_text(self._job, render(run), "report.html")
        self._client.log_text(self._job, model_card(run), "model_card.md")
        self._client.log_text(self._job, run.to_csv(), "results.csv")

    def close(self, status: str, failures: Sequence[Failure] = ()) -> None:
        failed = self._failed | {self._runs[failure.recipe, failure.seed] for failure in failures}
        for run in (*self._runs.values(), self._job):
            self._client.set_terminated(run, FAILED if run in failed else status)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        path = _sqlite_path(self._uri)
        # Files belong beside their database, not below whatever folder is the current one.
        place = None if path is None else (path.parent / "mlartifacts").as_uri()
        return self._client.create_experiment(name, artifact_location=place)

    def _start(self, experiment: str, name: str, settings: Mapping[str, object], tags: dict[str, str]) -> str:
        from mlflow.entities import Param

        run = self._client.create_run(experiment, run_name=name, tags=tags).info.run_id
        params = [Param(key, str(value)[:_LONGEST_SETTING]) for key, value in settings.items()]
        for start in range(0, len(params), _SETTINGS_AT_ONCE):
            self._client.log_batch(run, params=params[start : start + _SETTINGS_AT_ONCE])
        return run

    def _run_of(self, result: Result) -> str:
        """The run of a result; a search ends with recipes that nobody knew when the job began."""
        key = result.recipe, result.seed
        if key not in self._runs:
            experiment = self._client.get_run(self._job).info.experiment_id
            settings = {name: getattr(result, name) for name in _GIVEN}
            name = f"{result.recipe}, seed {result.seed}"
            self._runs[key] = self._start(experiment, name, settings, {"mlflow.parentRunId": self._job})
        return self._runs[key]

    def _measured(self, run: str, result: Result) -> None:
        """A result's numbers as metrics, its words as tags."""
        from mlflow.entities import Metric, RunTag

        now = int(time.time() * 1000)
        found = {name: value for name, value in vars(result).items() if name not in _GIVEN and value is not None}
        metrics = [Metric(name, value, now, 0) for name, value in found.items() if isinstance(value, int | float)]
        tags = [RunTag(name, value) for name, value in found.items() if isinstance(value, str) and value]
        self._client.log_batch(run, metrics=metrics, tags=tags)


def _sqlite_path(uri: str) -> Path | None:
    return Path(unquote(uri.removeprefix(_SQLITE))).resolve() if uri.startswith(_SQLITE) else None


def _shown(uri: str) -> str:
    """Without a password."""
    scheme, slashes, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"


def _probe(uri: str) -> None:
    """Raise OSError or sqlite3.Error where nothing that could hold a log is there."""
    path = _sqlite_path(uri)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path)) as database:
            database.execute("BEGIN IMMEDIATE").execute("ROLLBACK")
        return
    parts = urlsplit(uri)
    port = parts.port or _PORTS.get(parts.scheme.partition("+")[0])
    if parts.hostname and port:
        socket.create_connection((parts.hostname, port), _PATIENCE_SECONDS / 2).close()


def _within(seconds: float | None, uri: str, work: Callable[[], object]) -> None:
    """Do it, or raise UserError when it fails or takes longer (None: no limit)."""
    failed: list[Exception] = [TimeoutError(f"no answer within {seconds} s")]

    def attempt() -> None:
        try:
            work()
            failed.clear()
        except Exception as error:
            failed[:] = [error]

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        error = failed[0]
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        line = (reason.strip() or type(error).__name__).splitlines()[0].partition(". ")[0]
        raise UserError(f"--track mlflow:{_shown(uri)}: {line}; give sqlite:///FILE or a server's http://HOST:PORT")
