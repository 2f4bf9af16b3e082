"""A store at a URL that fsspec knows, such as s3://bucket/prefix or file:///shared: for workers on many machines.

Each machine works in a folder of its own, as with a store that is a folder. A finished stage is put to the URL as one
uncompressed archive, `STAGE/KEY.tar`, and taken from there where the folder lacks it. Checkpoints stay in the folder.
"""

import io
import os
import tarfile
import tempfile
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path, PurePosixPath
from typing import TypeVar

from dlmo.errors import StoreError, UserError, one_line
from dlmo.study.store import Store, cache_folder, key_of

# The first answer of a URL must come within so many seconds. Later requests have the time their library gives them.
_REACHED_WITHIN = 10
# Where an object is there whole or not at all. Elsewhere it is written under another name and moved.
_PUT_WHOLE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"}

Answer = TypeVar("Answer")


def open_remote(url: str) -> "RemoteStore":
    """The store at a URL. Raises UserError where it cannot be reached or written."""
    store = RemoteStore(url)
    try:
        _within(_REACHED_WITHIN, store.identity)
    except TimeoutError:
        raise UserError(
            f"store {url}: no answer within {_REACHED_WITHIN} s; check DLMO_STORE and the network"
        ) from None
    return store


class RemoteStore(Store):
    """See the module. `unsent/` marks finished stages that are not at the URL yet: the next who wants one sends it."""

    def __init__(self, url: str) -> None:
        super().__init__(cache_folder() / "remote" / key_of("url", 1, {"url": url}))
        (self.root / "unsent").mkdir(exist_ok=True)
        self.url = url
        try:
            from fsspec.core import url_to_fs

            self._files, self._base = url_to_fs(url)
        except ImportError as error:
            raise UserError(f"store {url}: {one_line(error)}; s3:// needs the extra remote") from None
        except Exception as error:  # an unknown protocol, a malformed URL, ...: each library raises its own
            raise UserError(f"store {url}: {one_line(error)}") from None

    def __reduce__(self) -> tuple:
        return RemoteStore, (self.url,)

    def identity(self) -> str:
        found = self._get("identity")
        if found is None:
            self._put("identity", uuid.uuid4().hex.encode())
            found = self._get("identity")  # of two who write it at once, one wins
        return (found or b"").decode()

    def has(self, stage: str, key: str) -> bool:
        here = super().finished(stage, key) is not None
        return here or self._ask("look for", self._files.exists, self._path(f"{stage}/{key}.tar"))

    def finished(self, stage: str, key: str) -> Path | None:
        return super().finished(stage, key) or self._fetch(stage, key)

    def stage(self, stage: str, key: str, make: Callable[[Path], None]) -> Path:
        unsent = self.root / "unsent" / f"{stage}-{key}"

        def make_unsent(folder: Path) -> None:
            make(folder)
            unsent.touch()

        path = super().stage(stage, key, make_unsent)
        if unsent.exists():
            self._put(f"{stage}/{key}.tar", _packed(path))
            unsent.unlink(missing_ok=True)
        return path

    def _fetch(self, stage: str, key: str) -> Path | None:
        name = f"{stage}/{key}.tar"
        archive = self._get(name)
        if archive is None:
            return None
        target = self.root / stage / key
        target.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fetched-", dir=self.root / "unfinished") as temporary:
            whole = Path(temporary) / key
            try:
                _unpack(archive, whole)
            except (tarfile.TarError, EOFError) as error:
                raise UserError(f"store {self.url}: {name} is damaged ({one_line(error)}); remove it") from None
            try:
                os.rename(whole, target)
            except OSError:
                if not target.exists():  # another process did not fetch it meanwhile either
                    raise
        return target

    def _get(self, name: str) -> bytes | None:
        """An object's bytes; None where there is none."""
        try:
            return self._ask(f"read {name}", self._files.cat_file, self._path(name))
        except FileNotFoundError:
            return None

    def _put(self, name: str, content: bytes) -> None:
        """Write an object, whole or not at all."""
        try:
            self._ask(f"write {name}", self._put_whole, self._path(name), content)
        except FileNotFoundError as error:  # no such bucket
            raise UserError(f"store {self.url}: cannot write {name}: {one_line(error)}") from None

    def _put_whole(self, path: str, content: bytes) -> None:
        protocols = self._files.protocol
        if _PUT_WHOLE & {*([protocols] if isinstance(protocols, str) else protocols)}:
            self._files.pipe_file(path, content)
            return
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        part = f"{path}.{uuid.uuid4().hex}.part"
        self._files.pipe_file(part, content)
        self._files.mv(part, path)

    def _path(self, name: str) -> str:
        return f"{self._base.rstrip('/')}/{name}"

    def _ask(self, what: str, request: Callable[..., Answer], *arguments: object) -> Answer:
        """Do a request; FileNotFoundError passes, every other failure becomes the user's line."""
        try:
            return request(*arguments)
        except FileNotFoundError:
            raise
        except Exception as error:  # each library raises its own
            raise StoreError(f"store {self.url}: cannot {what}: {one_line(error)}") from error


def _packed(folder: Path) -> bytes:
    """A folder's files as an uncompressed tar archive, without owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.add(path, str(path.relative_to(folder)), recursive=False, filter=_ownerless)
    return buffer.getvalue()


def _ownerless(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _unpack(content: bytes, folder: Path) -> None:
    """Write an archive's files below `folder`. Raises TarError for anything but plain files, and for a cut archive."""
    if not content.endswith(bytes(2 * tarfile.BLOCKSIZE)):  # what every archive ends with
        raise tarfile.ReadError("it has no end")
    folder.mkdir()
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for member in archive:
            if not (member.isdir() or (member.isreg() and not member.issparse())):
                raise tarfile.TarError(f"{member.name} is no plain file")
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise tarfile.TarError(f"{member.name} points elsewhere")
            target = folder / path
            (target if member.isdir() else target.parent).mkdir(parents=True, exist_ok=True)
            if member.isreg():
                target.write_bytes(archive.extractfile(member).read())


def _within(seconds: float, work: Callable[[], Answer]) -> Answer:
    """What `work` answers; TimeoutError where it takes longer. The thread that still waits ends with the process."""
    answer: Future = Future()

    def run() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return answer.result(timeout=seconds)
