"""Archives: the same data set as the folder they hold; nothing outside is ever touched."""

import gzip
import io
import struct
import tarfile
import zipfile

import pytest

from dlmo.data import files, load
from dlmo.errors import UserError


@pytest.fixture
def root(make_folder):
    return make_folder({"train/a": 8, "train/b": 8, "test/a": 3, "test/b": 3})


def error(source) -> str:
    with pytest.raises(UserError) as caught:
        load(str(source))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **fields) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        (".tar", "w"),
        (".tar.gz", "w:gz"),
        (".tgz", "w:gz"),
        (".tar.xz", "w:xz"),
        (".tar.bz2", "w:bz2"),
        (".tar.gz", "w"),
    ],
)
def test_tar_equals_its_folder(root, tmp_path, suffix, mode):
    path = tmp_path / f"My.Set{suffix}"
    with tarfile.open(path, mode) as archive:
        archive.add(root, arcname="./wrapped")
    dataset, folder = load(str(path)), load(str(root))
    assert dataset.fingerprint == folder.fingerprint
    assert dataset.name == "My.Set"
    assert dataset.train.names == tuple("wrapped/" + name for name in folder.train.names)


def test_zip_with_backslashes_equals_its_folder(root, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, "wrapped\\" + str(file.relative_to(root)).replace("/", "\\"))
        archive.writestr("wrapped/train/empty/", b"")
        archive.writestr("__MACOSX/wrapped/train/a/._000.png", b"x")
    assert "class 'empty' has 0" in error(tmp_path / "set.zip")
    (root / "train" / "empty").mkdir()
    assert "class 'empty' has 0" in error(root)
    with zipfile.ZipFile(tmp_path / "good.zip", "w") as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, "wrapped\\" + str(file.relative_to(root)).replace("/", "\\"))
    (root / "train" / "empty").rmdir()
    assert load(str(tmp_path / "good.zip")).fingerprint == load(str(root)).fingerprint


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/tmp/evil.png", "C:\\evil.png"])
def test_members_that_point_outside_are_refused(tmp_path, name):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        add(archive, name, b"x")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(name, b"x")
    before = set(tmp_path.parent.rglob("*"))
    for path in (tmp_path / "x.tar", tmp_path / "x.zip"):
        message = error(path)
        assert "points outside the archive" in message
        assert "evil.png" in message
    assert set(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        add(archive, "a/passwords.png", type=kind, linkname="/etc/passwd")
    assert "member 'a/passwords.png' is a link or special file" in error(tmp_path / "x.tar")


def test_links_and_encrypted_members_in_a_zip_are_refused(tmp_path):
    link = zipfile.ZipInfo("a/link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "member 'a/link.png' is a link" in error(tmp_path / "link.zip")
    with zipfile.ZipFile(tmp_path / "secret.zip", "w") as archive:
        archive.writestr("a/x.png", b"x")
    data = bytearray((tmp_path / "secret.zip").read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    (tmp_path / "secret.zip").write_bytes(data)
    assert "is encrypted" in error(tmp_path / "secret.zip")


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "pax"])
def test_bombs_are_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(files, "MAX_UNPACKED_BYTES", 2**20)
    zeros = bytes(2**20 + 1)
    path = tmp_path / ("x.zip" if kind == "zip" else "x.tar.gz")
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/.hidden", zeros)
    else:
        with tarfile.open(path, "w:gz") as archive:
            if kind == "pax":
                add(archive, "a/x.png", pax_headers={"comment": "x" * (2**20 + 1)})
            else:
                add(archive, "a/.hidden", zeros)
    assert path.stat().st_size < 20_000
    assert "unpacks to more than" in error(path)


def test_damaged_archives(root, tmp_path):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.add(root, arcname="set")
    whole = (tmp_path / "x.tar.gz").read_bytes()
    for name, data in {
        "cut.tar.gz": whole[: len(whole) // 2],
        "end.tar.gz": whole[:-6],
        "text.tar": b"this is text" * 100,
        "text.zip": b"this is text" * 100,
        "empty.tar.xz": b"",
        "flipped.tar.gz": whole[:2000] + struct.pack("B", whole[2000] ^ 255) + whole[2001:],
    }.items():
        (tmp_path / name).write_bytes(data)
        message = error(tmp_path / name)
        assert name in message
        assert "cannot be read as an archive" in message, name


def test_a_tar_cut_between_its_members(root, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(root, arcname="set")
    with tarfile.open(tmp_path / "x.tar") as archive:
        headers = [member.offset for member in archive.getmembers()]
    whole = (tmp_path / "x.tar").read_bytes()
    for end in (headers[20], headers[20] + 100):
        (tmp_path / "cut.tar").write_bytes(whole[:end])
        assert "cannot be read as an archive (its end is missing)" in error(tmp_path / "cut.tar")
    (tmp_path / "least.tar").write_bytes(whole.rstrip(b"\0") + bytes(1024))  # without padding to a whole record
    assert len(load(str(tmp_path / "least.tar")).test) == len(load(str(tmp_path / "x.tar")).test)


def test_archive_without_files(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        add(archive, "a", type=tarfile.DIRTYPE)
    assert "no files in it" in error(tmp_path / "x.tar")


def test_name_that_is_no_utf8_stays_printable(root, tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(root, arcname=".")
        add(archive, "train/a/caf\udce9.png", (root / "train/a/000.png").read_bytes())
        add(archive, "\udcc4pfel/note.txt", b"the first byte of the name is none of UTF-8, and no backslash")
    names = load(str(path)).train.names + load(str(path)).validation.names
    assert "train/a/caf\\xe9.png" in names
    assert all(name.isprintable() for name in names)


def test_a_full_disk_is_not_called_a_damaged_archive(tmp_path, monkeypatch):
    import shutil

    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("cat/1.png", b"x")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with (
        pytest.raises(UserError, match="photos.zip: No space left on device; it is unpacked into"),
        files.open_files(tmp_path / "photos.zip"),
    ):
        pass


def test_class_folders_packed_from_inside_their_folder(make_folder, tmp_path):
    root = make_folder({"a": 8, "b": 8})
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.add(root, arcname=".")  # as `tar -C photos -czf x.tar.gz .` does
    dataset = load(str(tmp_path / "x.tar.gz"))
    assert dataset.classes == ("a", "b") and dataset.fingerprint == load(str(root)).fingerprint


def test_a_header_without_end_is_refused_before_it_fills_the_memory(tmp_path):
    path = tmp_path / "bomb.tar.gz"
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 64 * 2**20
    with gzip.open(path, "wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(64):
            file.write(bytes(2**20))
    assert "a header of more than 4 MiB" in error(path)
