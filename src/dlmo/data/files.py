"""The files of a folder or an archive behind one interface.

An archive's members are copied one behind the other into a single anonymous temporary file, so no member's
name ever reaches the file system.
"""

import bz2
import errno
import gzip
import io
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dlmo.errors import UserError

# What labelling tools and people leave beside images.
BESIDE_IMAGES = (".txt", ".xml", ".json", ".csv", ".md", ".yaml", ".yml")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
MAX_UNPACKED_BYTES = 8 * 2**30  # all members of one archive together; above it is refused as a bomb

_LARGEST_HEADER = 4 * 2**20  # bytes of an archive's header before a member; names and dates take a few hundred

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".pnm", ".avif", ".jp2", ".j2k", ".jpx",
)  # fmt: skip
IGNORED_NAMES = {"__MACOSX", "Thumbs.db", "desktop.ini"}  # left by file managers; hidden names go as well

_MAGIC: tuple[tuple[bytes, Callable[[Path], BinaryIO]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"\xfd7zXZ\x00", lzma.open),
    (b"BZh", bz2.open),
)
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,
    ValueError,
    struct.error,
)

Member = tuple[str, BinaryIO | None]  # name inside the archive; content, None for a folder


@dataclass(frozen=True)
class Files:
    """names: every file, as path inside the source with `/`, sorted; hidden files are left out.
    folders: every folder, also empty ones, in the same form. hidden: folders left out that hold images.
    open: the content of one name; safe to call from several threads.
    """

    names: tuple[str, ...]
    folders: frozenset[str]
    hidden: frozenset[str]
    open: Callable[[str], BinaryIO]


@contextmanager
def open_files(path: Path, limit: int | None = None) -> Iterator[Files]:
    """The files of a folder or an archive, usable inside the `with`.

    Raises UserError for a file that is no archive, a damaged or encrypted one, and one with links, with
    members that point outside or with more than `limit` bytes in it (default MAX_UNPACKED_BYTES).
    """
    if path.is_dir():
        yield _folder_files(path)
    elif path.name.lower().endswith(ARCHIVE_SUFFIXES):
        with tempfile.TemporaryFile() as spool:
            yield _archive_files(path, spool, limit or MAX_UNPACKED_BYTES)
    else:
        raise UserError(
            f"{path}: neither a folder nor an archive ({' '.join(ARCHIVE_SUFFIXES)}); "
            "give a folder with one folder of images per class"
        )


def files_below(folder: Path) -> list[Path]:
    """All files in a folder and in the folders inside it, as a source's are found. Raises UserError for a folder that
    cannot be read."""
    return [Path(path) for _, path in sorted(_walked(folder)[0].items())]


def _folder_files(root: Path) -> Files:
    paths, folders, hidden = _walked(root)
    return Files(tuple(sorted(paths)), frozenset(folders), frozenset(hidden), lambda name: open(paths[name], "rb"))


def _walked(root: Path) -> tuple[dict[str, str], set[str], set[str]]:
    paths: dict[str, str] = {}
    folders: set[str] = set()
    hidden: set[str] = set()
    try:
        _walk(str(root), "", (), paths, folders, hidden)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error
    return paths, folders, hidden


def _walk(
    folder: str,
    inside: str,
    above: tuple[tuple[int, int], ...],
    paths: dict[str, str],
    folders: set[str],
    hidden: set[str],
) -> None:
    """Adds what is in `folder`, called `inside` in the source, to `paths` (by name), `folders` and `hidden`.

    Links are followed, as people link images rather than copy them; `above` (device and inode of the folders
    on the way) ends a link that leads back up.
    """
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            name = inside + printable(entry.name)
            if _is_ignored(name):
                if entry.name.startswith(".") and entry.is_dir() and any(map(is_image_name, _listed(entry.path))):
                    hidden.add(name)
                continue
            if entry.is_dir():
                folders.add(name)
                _walk(entry.path, name + "/", (*above, here), paths, folders, hidden)
            elif entry.is_file() or entry.is_symlink():  # one that leads nowhere is told as a file that cannot be read
                paths[name] = entry.path


def _archive_files(path: Path, spool: BinaryIO, limit: int) -> Files:
    spans: dict[str, tuple[int, int]] = {}
    folders: set[str] = set()
    hidden: set[str] = set()
    try:
        with closing(_members(path, limit)) as members:
            for raw_name, content in members:
                name = printable(_checked_name(path, raw_name))
                parents = name.split("/")[: None if content is None else -1]
                if not name:  # the folder that was packed as "."
                    continue
                if _is_ignored(name):
                    parent = parents[-1:] if content is not None and is_image_name(name) else []
                    if parent and parent[0].startswith(".") and not _is_ignored("/".join(parents[:-1])):
                        hidden.add("/".join(parents))
                    continue
                folders.update("/".join(parents[:depth]) for depth in range(1, len(parents) + 1))
                if content is not None:
                    start = spool.tell()
                    shutil.copyfileobj(content, spool)
                    spans[name] = (start, spool.tell() - start)
        spool.flush()
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not the archive's
            full = f"; it is unpacked into {tempfile.gettempdir()}" if error.errno == errno.ENOSPC else ""
            raise UserError(f"{path}: {error.strerror}{full}") from None
        raise UserError(
            f"{path}: cannot be read as an archive ({_one_line(error)}); download or pack it again"
        ) from error

    def open_member(name: str) -> BinaryIO:
        start, size = spans[name]
        return io.BytesIO(os.pread(spool.fileno(), size, start))

    return Files(tuple(sorted(spans)), frozenset(folders), frozenset(hidden), open_member)


def _members(path: Path, limit: int) -> Iterator[Member]:
    return _zip_members(path, limit) if path.name.lower().endswith(".zip") else tar_members(path, limit)


def tar_members(path: Path, limit: int | None = None) -> Iterator[Member]:
    """Files and folders of a .tar, packed or not, in one pass; each content is valid until the next member.

    Raises UserError for links, devices and too much content, and tarfile's and the decompressors' errors.
    """
    limit = limit or MAX_UNPACKED_BYTES
    total = 0
    with _open_packed(path) as stream:
        bounded = _Bounded(path, stream)
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            for member in archive:
                total = member.offset_data + member.size  # headers count too
                _check_total(path, total, limit)
                bounded.allowed = total + _LARGEST_HEADER
                if member.isdir():
                    yield member.name, None
                elif member.isreg() and not member.issparse():
                    yield member.name, archive.extractfile(member)
                else:
                    raise UserError(
                        f"{path}: member {member.name!r} is a link or special file, which is not followed; "
                        "pack the files themselves"
                    )
        # Only at its end does a packed stream tell that it is cut short or damaged.
        while chunk := bounded.rest(2**20):
            total += len(chunk)
            _check_total(path, total, limit)
        # tarfile takes a cut between two members, or inside a header, for the end.
        if bounded.last.strip(b"\0"):
            raise tarfile.ReadError("its end is missing")


class _Bounded:
    """A stream of which no more than `allowed` bytes may be read: tarfile takes a header's content into memory,
    however large it says that is, before it tells of the member. last: the block that was read last."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.allowed = _LARGEST_HEADER
        self.last = b""
        self._path, self._stream, self._done = path, stream, 0

    def read(self, size: int) -> bytes:
        content = self.rest(size)
        self._done += len(content)
        if self._done > self.allowed:
            raise UserError(
                f"{self._path}: holds a header of more than {_LARGEST_HEADER / 2**20:.0f} MiB, which is refused; "
                "pack the files again"
            )
        return content

    def rest(self, size: int) -> bytes:
        """Read on, however much that is."""
        content = self._stream.read(size)
        self.last = (self.last + content[-tarfile.BLOCKSIZE :])[-tarfile.BLOCKSIZE :]
        return content


def _open_packed(path: Path) -> BinaryIO:
    """The unpacked bytes; the content decides how, because a .tar.gz is often a plain .tar."""
    with open(path, "rb") as file:
        start = file.read(6)
    for magic, opener in _MAGIC:
        if start.startswith(magic):
            return opener(path)
    return open(path, "rb")


def _zip_members(path: Path, limit: int) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        # A member is never read beyond the size it declares, so the declared sizes are a true bound.
        _check_total(path, sum(info.file_size for info in archive.infolist()), limit)
        for info in archive.infolist():
            name = info.filename.replace("\\", "/")
            if stat.S_ISLNK(info.external_attr >> 16):
                raise UserError(f"{path}: member {name!r} is a link, which is not followed; pack the files themselves")
            if info.flag_bits & 1:
                raise UserError(f"{path}: member {name!r} is encrypted; unpack it and give the folder")
            if info.is_dir() or name.endswith("/"):
                yield name, None
            else:
                with archive.open(info) as content:
                    yield name, content


def _check_total(path: Path, size: int, limit: int) -> None:
    if size > limit:
        raise UserError(
            f"{path}: unpacks to more than {limit / 2**30:.0f} GiB, which is refused; "
            "unpack it yourself and give the folder"
        )


def _checked_name(path: Path, name: str) -> str:
    """A member's name without `.` parts. Raises UserError where it points outside the archive."""
    parts = name.split("/")
    if name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:[/\\]", name):
        raise UserError(f"{path}: member {printable(name)!r} points outside the archive; do not trust this file")
    return "/".join(part for part in parts if part not in ("", "."))


def printable(name: str) -> str:
    """A name as text that can be printed and stored: bytes that are no UTF-8 become `\\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_image_name(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _listed(folder: str) -> list[str]:
    """The names in a folder; none where it may not be read."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _is_ignored(name: str) -> bool:
    return any(part.startswith(".") or part in IGNORED_NAMES for part in name.split("/"))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
