"""Where a search keeps what it tried: Optuna's journal in the store, and its best for searches of other lengths."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dlmo.atomic import write_atomically
from dlmo.strategy.plan import VERSION as PLAN_VERSION
from dlmo.strategy.space import Space
from dlmo.study.keys import VERSIONS
from dlmo.study.store import key_of
from dlmo.study.workspace import Workspace

if TYPE_CHECKING:
    import optuna

# Raise it when the proposals, or what is noted of them, would be others.
_VERSION = 12
# Parameters of proposals, by recipe.
Winners = dict[str, dict[str, object]]


def question(workspace: Workspace, space: Space, threads: int, seed: int) -> dict[str, object]:
    """What is searched, whatever the time."""
    return {
        "dataset": workspace.dataset.fingerprint,
        "own": workspace.own.fingerprint if workspace.own else None,
        "stem": workspace.stem,
        "target": workspace.target.name,
        "machine": workspace.target.identity(),  # latencies decide what is refused
        "threads": threads,
        "space": asdict(space),
        "seed": seed,
        "augmentation": asdict(workspace.augmentation),
        "class_weights": workspace.class_weights,
        "stages": VERSIONS,  # what was found is of their code
        "plans": PLAN_VERSION,  # and of schedules that these epochs stand for
    }


def open_study(workspace: Workspace, asked: dict[str, object], epochs: int, first: list[dict]) -> "optuna.Study":
    """Optuna's study of a question in the store. epochs: of its short trainings. first: parameters to begin with,
    before the winners of searches of other lengths."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = workspace.store.growing("search", key_of("search", _VERSION, asked | {"epochs": epochs}))
    journal = folder / "journal.log"
    _mend(journal)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        study_name="recipes",
        directions=("maximize", "minimize", "minimize"),
        load_if_exists=True,
    )
    for parameters in (*first, *winners(workspace, asked).values()):
        study.enqueue_trial(parameters, skip_if_exists=True)
    return study


def winners(workspace: Workspace, asked: dict[str, object]) -> Winners:
    """What an earlier search of a question, as a rule a shorter one, found best."""
    try:
        return json.loads(_winners_file(workspace, asked).read_bytes() or "{}")
    except FileNotFoundError:
        return {}


def keep_winners(workspace: Workspace, asked: dict[str, object], found: Winners) -> None:
    """Leave what was best to searches of other lengths: who gives more time begins with it."""
    path = _winners_file(workspace, asked)
    path.touch()  # Optuna's lock of a file that is not there would never be taken off after a kill
    with _alone_with(path):
        write_atomically(path, json.dumps(found).encode())


def _winners_file(workspace: Workspace, asked: dict[str, object]) -> Path:
    return workspace.store.growing("search", key_of("search", _VERSION, asked | {"what": "winners"})) / "winners.json"


def _mend(journal: Path) -> None:
    """Take off a last line that a full disk cut short: Optuna would read no further than to it, whatever follows."""
    if not journal.exists() or _whole(journal) == journal.stat().st_size:
        return
    with _alone_with(journal):  # else it may be a line that another process is writing just now
        os.truncate(journal, _whole(journal))


@contextlib.contextmanager
def _alone_with(path: Path) -> Iterator[None]:
    """Holds Optuna's lock of a file."""
    from optuna.storages.journal import JournalFileSymlinkLock

    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _whole(journal: Path) -> int:
    """Bytes of a journal's finished lines."""
    return journal.read_bytes().rfind(b"\n") + 1
