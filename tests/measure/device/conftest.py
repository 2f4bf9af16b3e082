"""A device on this machine: a real sshd on loopback, with keys, known hosts and a temporary folder of its own."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Device:
    """folder: of keys and configuration; left_behind: what lies in the folder it keeps temporary files in."""

    folder: Path
    port: int
    process: subprocess.Popen

    @property
    def host_key(self) -> Path:
        return self.folder / "host_key"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def authorized_keys(self) -> Path:
        return self.folder / "authorized_keys"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    def left_behind(self) -> list[Path]:
        return list(self.temporary.iterdir())

    def left_behind_after(self, seconds: float) -> list[Path]:
        """The same as soon as there is nothing any more, or after so many seconds."""
        until = time.monotonic() + seconds
        while self.left_behind() and time.monotonic() < until:
            time.sleep(0.05)
        return self.left_behind()

    def target(self, python: str | Path = sys.executable) -> str:
        return f"ssh:{getpass.getuser()}@127.0.0.1:{self.port}?python={python}"

    def cut_connections(self) -> None:
        """What a device that vanishes looks like from here: the server's processes die, without a word."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), 9)


@pytest.fixture(scope="session")
def _sshd(tmp_path_factory):
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("no OpenSSH server and client here (apt-get install openssh-server)")
    folder = tmp_path_factory.mktemp("sshd")
    (folder / "tmp").mkdir()
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\nStrictModes no\nUsePAM no\n"
        f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nAuthorizedKeysFile {folder}/authorized_keys\n"
        f"SetEnv TMPDIR={folder}/tmp\n"
    )
    (folder / "ssh_config").write_text(
        f"Host *\nIdentityFile {folder}/user_key\nIdentitiesOnly yes\nIdentityAgent none\n"
        f"UserKnownHostsFile {folder}/known_hosts\nGlobalKnownHostsFile /dev/null\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it
    with open(folder / "log", "w") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    device = Device(folder, port, process)
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield device
    process.terminate()
    process.wait()


@pytest.fixture
def device(_sshd, monkeypatch):
    """The device as a user has it who connected once: both know each other's keys."""
    key = " ".join(Path(f"{_sshd.host_key}.pub").read_text().split()[:2])
    _sshd.known_hosts.write_text(f"[127.0.0.1]:{_sshd.port} {key}\n")
    shutil.copy(_sshd.folder / "user_key.pub", _sshd.authorized_keys)
    monkeypatch.setenv("DLMO_SSH", f"ssh -F {_sshd.folder}/ssh_config")
    yield _sshd
    assert _sshd.left_behind_after(10) == []
