"""Classifying many image files with a package: with numpy, Pillow and LiteRT alone, on all cores."""

import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

from dlmo.data.decode import available_cpus
from dlmo.data.image import ImageError
from dlmo.errors import UserError
from dlmo.package.opened import open_package
from dlmo.package.run import Model, shown
from dlmo.runtimes.litert.interpreter import quiet

_FEW = 64  # files up to which other processes would cost more than they save
_CHUNK = 16  # files per task
_Parts = tuple[bytes, list[str], dict]  # of a Model


@dataclass(frozen=True)
class Prediction:
    """The best classes of one image, best first, with their shares, 0 to 1."""

    image: str
    classes: tuple[str, ...]
    shares: tuple[float, ...]

    def to_json(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Unreadable:
    """A file that could not be classified, and why."""

    image: str
    reason: str

    def to_json(self) -> dict:
        return {"image": self.image, "error": self.reason}


def predict(package: str | Path, images: Sequence[str | Path], top: int = 3) -> list[Prediction]:
    """Classify image files, and those in folders, with a package (folder or .zip); all files must be readable."""
    found = list(predictions(package, images, top))
    for entry in found:
        if isinstance(entry, Unreadable):
            raise UserError(f"{entry.image}: {entry.reason}")
    return found


def predictions(
    package: str | Path, images: Sequence[str | Path], top: int = 3, workers: int | None = None
) -> Iterator[Prediction | Unreadable]:
    """One answer after the other, in the order of the files; a folder stands for the images in it, by name.

    workers: processes or threads, by default one per CPU that this process may use.
    """
    with open_package(Path(package).expanduser()) as found:
        model = found.model()
        parts = found.read("model.tflite"), found.labels(), found.preprocessing()
    files = [file for image in images for file in _files(Path(image))]
    workers = workers or available_cpus()
    if workers == 1 or len(files) <= _FEW:
        for file in files:
            yield _classify(model, file, top)
        return
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    for answers in (_in_processes if _may_fork() else _in_threads)(chunks, parts, top, workers):
        yield from answers


def _may_fork() -> bool:
    """A fork copies no thread: not beside libraries that wait for theirs. (Processes that do not begin as a fork run
    the user's script again.)"""
    return sys.platform == "linux" and not {"torch", "jax"} & sys.modules.keys()


def _in_processes(
    chunks: list[list[Path | Unreadable]], parts: _Parts, top: int, workers: int
) -> Iterator[list[Prediction | Unreadable]]:
    """Forked ones start in milliseconds."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _begin, (parts, top)) as pool:
        try:
            yield from pool.map(_work, chunks)
        except BrokenProcessPool:
            raise UserError("a process that read images was killed (out of memory?); give fewer images") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _in_threads(
    chunks: list[list[Path | Unreadable]], parts: _Parts, top: int, workers: int
) -> Iterator[list[Prediction | Unreadable]]:
    """Slower: they wait for each other, as Pillow holds the interpreter lock for most of a small image."""
    models: SimpleQueue[Model] = SimpleQueue()
    with quiet():
        for _ in range(workers):
            models.put(Model(*parts))

    def work(files: list[Path | Unreadable]) -> list[Prediction | Unreadable]:
        model = models.get()
        try:
            return [_classify(model, file, top) for file in files]
        finally:
            models.put(model)

    with ThreadPoolExecutor(workers) as pool:
        try:
            yield from pool.map(work, chunks)
        finally:
            pool.shutdown(cancel_futures=True)


def _files(path: Path) -> list[Path | Unreadable]:
    """The file itself, or those in a folder and in all folders inside it, whatever they are called, but for what people
    and tools leave beside images."""
    # Shells have written out what ~ stands for: a path that begins with it here may be a file's name.
    path = path if path.exists() else path.expanduser()
    if not path.is_dir():
        return [path]
    from dlmo.data.files import BESIDE_IMAGES, files_below

    try:
        return [file for file in files_below(path) if file.suffix.lower() not in BESIDE_IMAGES]
    except UserError as error:
        return [Unreadable(shown(path), str(error))]


def _classify(model: Model, file: Path | Unreadable, top: int) -> Prediction | Unreadable:
    if isinstance(file, Unreadable):
        return file
    try:
        with open(file, "rb") as stream:
            best = model.best(model.shares(stream), top)
    except OSError as error:
        return Unreadable(shown(file), f"cannot be read: {error.strerror or error}")
    except ImageError as error:
        return Unreadable(shown(file), str(error))
    return Prediction(shown(file), tuple(name for name, _ in best), tuple(share for _, share in best))


def _begin(parts: _Parts, top: int) -> None:
    """In a worker: its own interpreter. Ctrl-C is the parent's to handle."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with quiet():
        _worker = Model(*parts), top


def _work(files: list[Path | Unreadable]) -> list[Prediction | Unreadable]:
    model, top = _worker
    return [_classify(model, file, top) for file in files]
