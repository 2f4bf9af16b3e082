"""Stores at URLs: a folder's, and the real client of S3 against moto's server."""

import io
import os
import socket
import subprocess
import sys
import tarfile
import time
import uuid

import pytest

from dlmo.errors import UserError
from dlmo.study.store import Store, open_store


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes this process use the cache folder of the named machine."""

    def use(name: str) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches" / name))

    use("first")
    return use


@pytest.fixture(scope="module")
def s3_server():
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """A fresh bucket's URL; s3fs and boto3 find server and keys in the environment, as users give them."""
    import boto3
    import s3fs

    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}/deep/prefix"


@pytest.fixture(params=["file", "s3"])
def url(request, tmp_path):
    return f"file://{tmp_path}/shared" if request.param == "file" else request.getfixturevalue("bucket")


def make(folder):
    (folder / "teacher").mkdir()
    (folder / "teacher" / "weights").write_bytes(bytes(range(256)) * 100)
    (folder / "record.json").write_text("{}")


def must_not_be_made(folder):
    raise AssertionError


def test_a_stage_of_one_machine_is_found_by_another(url, machine):
    first = open_store(url)
    assert not first.has("train", "k") and first.finished("train", "k") is None
    first.stage("train", "k", make)
    machine("second")
    second = open_store(url)
    assert second.has("train", "k")
    assert second.root != first.root and second.identity() == first.identity()
    found = second.stage("train", "k", must_not_be_made)
    assert found.is_relative_to(second.root)
    assert (found / "teacher" / "weights").read_bytes() == bytes(range(256)) * 100
    assert not list((second.root / "unfinished").iterdir())


def test_nothing_but_whole_archives_appears_at_the_url(tmp_path, machine):
    store = open_store(f"file://{tmp_path}/shared")
    store.stage("train", "k", make)
    with pytest.raises(RuntimeError):
        store.stage("train", "broken", lambda folder: (_ for _ in ()).throw(RuntimeError))
    files = {str(path.relative_to(tmp_path / "shared")) for path in (tmp_path / "shared").rglob("*") if path.is_file()}
    assert files == {"identity", "train/k.tar"}


def test_a_stage_that_could_not_be_sent_is_sent_by_the_next_run(tmp_path, machine):
    shared = tmp_path / "shared"
    store = open_store(f"file://{shared}")

    def make_and_block(folder):
        make(folder)
        (shared / "train").write_text("where a folder should be")

    with pytest.raises(UserError, match="cannot write train/k.tar"):
        store.stage("train", "k", make_and_block)
    (shared / "train").unlink()
    open_store(f"file://{shared}").stage("train", "k", must_not_be_made)
    assert (shared / "train" / "k.tar").exists()


def test_a_pickled_store_opens_the_same_url_elsewhere(url, machine):
    import pickle

    store = open_store(url)
    store.stage("train", "k", make)
    sent = pickle.dumps(store)
    machine("second")
    assert pickle.loads(sent).stage("train", "k", must_not_be_made)


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for member, content in members:
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def link(kind: bytes, name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


FOREIGN = {
    "outside": archive((tarfile.TarInfo("../../stolen"), b"x")),
    "link": archive((link(tarfile.SYMTYPE, "record.json", "/etc/hostname"), b"")),
    "hard-link": archive((link(tarfile.LNKTYPE, "record.json", "../../identity"), b"")),
    "device": archive((link(tarfile.CHRTYPE, "record.json", ""), b"")),
    "cut": archive((tarfile.TarInfo("record.json"), b"{}" * 1000))[:1536],
    "text": b"no archive",
    "empty": b"",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_and_damaged_archives_are_refused(kind, tmp_path, machine):
    shared = tmp_path / "shared"
    store = open_store(f"file://{shared}")
    (shared / "train").mkdir()
    (shared / "train" / "k.tar").write_bytes(FOREIGN[kind])
    with pytest.raises(UserError, match="train/k.tar is damaged .*; remove it"):
        store.finished("train", "k")
    assert Store.finished(store, "train", "k") is None
    assert not list((store.root / "unfinished").iterdir())
    assert not list(tmp_path.rglob("stolen"))


def refused(url: str, **environment: str) -> str:
    """What is said about a store, within 15 seconds."""
    probe = (
        "import sys, time, s3fs; from dlmo.study.store import open_store; from dlmo.errors import UserError\n"
        "start = time.monotonic()\n"
        "try: open_store(sys.argv[1])\n"
        "except UserError as error: print(time.monotonic() - start, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, url],
        capture_output=True, text=True, env={**os.environ, **environment}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seconds, message = done.stdout.strip().split(" ", 1)
    assert float(seconds) < 15 and "\n" not in message
    return message


def test_unknown_protocols_are_refused(machine):
    assert "nonsense" in refused("nonsense://host/path")


def test_a_missing_bucket_is_refused(bucket, machine):
    assert "cannot write identity" in refused("s3://no-such-bucket-here/prefix")


def test_a_closed_port_is_refused(bucket, machine):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "store s3://" in refused(bucket, AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")


def test_a_server_that_never_answers_is_refused(bucket, machine):
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        start = time.monotonic()
        assert "no answer within 10 s" in refused(bucket, AWS_ENDPOINT_URL=endpoint)
        assert time.monotonic() - start < 40


def test_a_folder_stays_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DLMO_STORE", str(tmp_path / "store"))
    assert type(open_store()) is Store and open_store().root == tmp_path / "store"
    assert open_store(tmp_path / "other").root == tmp_path / "other"
    assert open_store().identity() == open_store().identity() != open_store(tmp_path / "other").identity()
