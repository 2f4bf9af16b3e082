"""A package as it is found: a folder or a .zip, with every part that is read checked against the manifest."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dlmo.errors import UserError
from dlmo.package.run import Model
from dlmo.runtimes.litert.interpreter import quiet

MAX_PACKAGE_BYTES = 2**30  # all members of a zip, unpacked
_NEEDED = ("model.tflite", "labels.txt", "preprocessing.json")


@dataclass(frozen=True)
class Package:
    """digests: SHA-256 by part, empty where there is no manifest (folders written by hand or by older versions)."""

    path: Path
    names: frozenset[str]
    digests: dict[str, str]
    _open: Callable[[str], BinaryIO]

    def read(self, name: str) -> bytes:
        """A part's content. Raises UserError where it is missing or is not what the manifest says."""
        if name not in self.names:
            raise UserError(f"{self.path}: {name} is missing; make the package again")
        try:
            with self._open(name) as file:
                content = file.read()
        except OSError as error:
            raise UserError(f"{self.path}: cannot read {name}: {error.strerror or error}") from None
        if name in self.digests and hashlib.sha256(content).hexdigest() != self.digests[name]:
            raise UserError(f"{self.path}: {name} is damaged, its SHA-256 differs from the manifest's; get it again")
        return content

    def labels(self) -> list[str]:
        return _decoded(self, "labels.txt", lambda text: text.splitlines())

    def preprocessing(self) -> dict:
        return _decoded(self, "preprocessing.json", json.loads)

    def model(self) -> Model:
        """The model, ready to run."""
        content, labels, document = self.read("model.tflite"), self.labels(), self.preprocessing()
        try:
            with quiet():
                return Model(content, labels, document)
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).split("\n")[0]
            raise UserError(f"{self.path}: the model cannot be run with the files beside it: {reason}") from None

    def golden(self, name: str) -> np.ndarray:
        """The array golden/NAME.npy."""
        try:
            return np.load(io.BytesIO(self.read(f"golden/{name}.npy")), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise UserError(f"{self.path}: golden/{name}.npy is no array: {error}") from None


@contextmanager
def open_package(path: Path) -> Iterator[Package]:
    """A package folder or .zip, usable inside the `with`.

    Raises UserError where it is neither, and for archives with links, with members that point outside, or that
    unpack to more than MAX_PACKAGE_BYTES.
    """
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if is_folder:
        names = frozenset(str(file.relative_to(path).as_posix()) for file in path.rglob("*") if file.is_file())
        yield _package(path, names, lambda name: (path / name).open("rb"))
        return
    if path.suffix.lower() != ".zip" or not is_file:
        what = "no folder or .zip" if path.exists() else "does not exist"
        raise UserError(f"{path}: {what}; name a folder that `dlmo optimize --out` or `dlmo package` wrote")
    from dlmo.data.files import open_files

    with open_files(path, MAX_PACKAGE_BYTES) as files:
        root = _root(files.names)
        names = frozenset(name.removeprefix(root) for name in files.names if name.startswith(root))
        yield _package(path, names, lambda name: files.open(root + name))


def _root(names: tuple[str, ...]) -> str:
    """The folder around a package inside its zip, with `/` at the end; empty where it is not wrapped."""
    found = [name.removesuffix("model.tflite") for name in names if f"/{name}".endswith("/model.tflite")]
    return min(found, key=len, default="")


def _package(path: Path, names: frozenset[str], open_part: Callable[[str], BinaryIO]) -> Package:
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise UserError(f"{path} is no package: {', '.join(missing)} missing")
    bare = Package(path, names, {}, open_part)
    if "manifest.json" not in names:
        return bare
    digests = _decoded(bare, "manifest.json", lambda text: dict(json.loads(text)["files"]))
    return Package(path, names, digests, open_part)


def _decoded(package: Package, name: str, decode: Callable[[str], object]):
    """A text part's meaning. Raises UserError where it has none."""
    try:
        return decode(package.read(name).decode())
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{package.path}: {name} is damaged ({error}); make the package again") from None
