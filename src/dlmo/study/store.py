"""The store: outputs of stages, under the hash of everything that made them."""

import contextlib
import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from dlmo.errors import UserError


def open_store(place: str | Path | None = None) -> "Store":
    """The store at a folder or URL; None: at DLMO_STORE, else in the user's cache folder. Raises UserError."""
    place = str(place or os.environ.get("DLMO_STORE", ""))
    if "://" in place:
        from dlmo.study.remote_store import open_remote

        return open_remote(place)
    return Store(Path(place).expanduser().absolute() if place else cache_folder())


def cache_folder() -> Path:
    """dlmo's part of the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlmo"


def key_of(stage: str, version: int, inputs: dict) -> str:
    """Hash of a stage's name, the version of its code and its inputs (JSON-serializable)."""
    text = json.dumps([stage, version, inputs], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class Store:
    """A folder of finished stages: `STAGE/KEY/`, and of unfinished ones: `unfinished/STAGE-KEY/`.

    A stage's folder appears under its key by one rename, complete; killed at any point, the next run finds either
    a finished stage or its unfinished folder with the last checkpoint. Pickled, it is opened anew where it arrives.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            for folder in ("unfinished", "locks"):
                (root / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write the store {root}: {error.strerror}; set DLMO_STORE to a folder") from None
        if not os.access(root / "unfinished", os.W_OK):
            raise UserError(f"cannot write the store {root}; set DLMO_STORE to a folder you can write")

    def __reduce__(self) -> tuple:
        return Store, (self.root,)

    def identity(self) -> str:
        """What tells this store from any other, so that two machines can find out whether they share it."""
        made = self.stage("identity", "store", lambda folder: (folder / "text").write_text(uuid.uuid4().hex))
        return (made / "text").read_text()

    def has(self, stage: str, key: str) -> bool:
        """Whether a stage is finished."""
        return self.finished(stage, key) is not None

    def finished(self, stage: str, key: str) -> Path | None:
        """The folder of a finished stage."""
        path = self.root / stage / key
        return path if path.exists() else None

    def unfinished(self, stage: str, key: str) -> Path:
        """The folder of a stage that is being made, which may not be there."""
        return self.root / "unfinished" / f"{stage}-{key}"

    def stage(self, stage: str, key: str, make: Callable[[Path], None]) -> Path:
        """The stage's folder, made by `make(folder)` if it is not there yet.

        `make` finds in the folder what a killed predecessor left, and must write every file atomically.
        Two processes wanting the same stage: one makes it, the other waits and takes it.
        """
        done = self.finished(stage, key)
        if done is not None:
            return done
        with self._lock(f"{stage}-{key}"):
            done = self.finished(stage, key)
            if done is not None:
                return done
            work = self.unfinished(stage, key)
            work.mkdir(exist_ok=True)
            make(work)
            _flush(work)
            target = self.root / stage / key
            target.parent.mkdir(exist_ok=True)
            os.replace(work, target)
            return target

    def growing(self, stage: str, key: str) -> Path:
        """A folder that is never finished, for what several runs add to and guard by locks of their own."""
        path = self.root / stage / key
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        path = self.root / "locks" / name
        with open(path, "w") as file:
            # Waits for another process that makes the same stage; released when closed, also by a kill.
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _flush(folder: Path) -> None:
    """Bring a folder's files to the disk: after a power loss a finished stage must not hold empty ones."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
