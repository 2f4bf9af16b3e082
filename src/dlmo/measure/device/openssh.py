"""Asking a device something through the user's own OpenSSH: one connection, one answer, nothing left behind.

Keys, agent, configuration and known hosts are the user's; host keys are checked, whatever the configuration says. One
command runs on the device, the keeper, which gets everything over its stdin and answers on its stdout.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from dlmo.errors import DeviceError, UserError
from dlmo.measure.isolated import receive
from dlmo.shipping import shipped_source
from dlmo.watchdog import Watchdog

# In place of `ssh`, such as "ssh -F FILE"; as Git has GIT_SSH_COMMAND.
SSH_VARIABLE = "DLMO_SSH"
_OPTIONS = {
    "BatchMode": "yes",  # nobody is there to type a password
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "5",  # a device that vanished is noticed after three of them
    "ServerAliveCountMax": "3",
    "ClearAllForwardings": "yes",
    "RemoteCommand": "none",
}
# A device that reports nothing for so long hangs; loading TensorFlow takes a small board half a minute.
_PATIENCE_SECONDS = 120.0
_SECONDS_TO_CLEAN_UP = 15.0
_PIECE_BYTES = 1 << 18  # sent at once; slow networks take their time for a study's files
_ADDRESS = re.compile(
    r"(?:(?P<user>[\w.][\w.+-]*)@)?(?P<host>\[[0-9a-fA-F:.]+(?:%\w+)?\]|[\w.][\w.-]*)(?::(?P<port>\d{1,5}))?", re.ASCII
)
# The runner and the modules of dlmo that it imports.
_SENT = {
    "runner.py": "dlmo.measure.device",
    "conditions.py": "dlmo.measure.device",
    "machine.py": "dlmo.measure",
    "latency.py": "dlmo.measure",
    "memory.py": "dlmo.measure",
    "preprocessing.py": "dlmo.data",
}


@dataclass(frozen=True)
class Address:
    """USER@HOST[:PORT][?python=PATH]; user and port as OpenSSH's configuration has them where they are left out.

    host: a name, an alias of ~/.ssh/config or an IP address. python: a command or a path there, from the home folder
    where it does not begin with /.
    """

    user: str | None
    host: str
    port: int | None
    python: str = "python3"

    @property
    def login(self) -> list[str]:
        """The arguments of ssh that lead there."""
        return [*(["-p", str(self.port)] if self.port else []), f"{self.user}@{self.host}" if self.user else self.host]

    @property
    def words(self) -> str:
        return self.login[-1] + (f", port {self.port}" if self.port else "")

    @property
    def by_hand(self) -> str:
        return shlex.join(["ssh", *self.login])

    @property
    def known_as(self) -> str:
        """What known_hosts calls it."""
        return f"[{self.host}]:{self.port}" if self.port and self.port != 22 else self.host


def parse_address(text: str) -> Address:
    """The address in a target's name. Raises UserError."""
    place, question, query = text.partition("?")
    match = _ADDRESS.fullmatch(place)
    option, _, python = query.partition("=")
    if match is None or (question and (option != "python" or not python)):
        raise UserError(f'target "ssh:{text}" is no address: write ssh:USER@HOST, ssh:USER@HOST:PORT?python=PATH')
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port < 65536:
        raise UserError(f'target "ssh:{text}": there is no port {port}')
    return Address(match["user"], match["host"].strip("[]"), port, python or Address.python)


def ask(
    address: Address,
    request: list[str],
    files: dict[str, bytes] | None = None,
    update: Callable[[float], None] = lambda share: None,
) -> dict:
    """The runner's answer to `request` (its arguments), with `files` beside it. Raises UserError, one line.

    Whatever happens, the device removes what it was sent; also when this process is killed or the network fails, as
    soon as its sshd notices.
    """
    keeper = shipped_source("dlmo.measure.device", "keeper.py").encode()
    archive = _archive({name: shipped_source(module, name).encode() for name, module in _SENT.items()} | (files or {}))
    start = f"import sys; exec(sys.stdin.buffer.read({len(keeper)}))"
    # A relative path counts from the home folder, where commands start; the shell does the same for ~.
    home, python = ("~/", address.python[2:]) if address.python.startswith("~/") else ("", address.python)
    # -I: nothing that lies in the home folder is taken for a module of Python's.
    remote = f"{home}{shlex.quote(python)} -I -c {shlex.quote(start)} {shlex.join(request)}"
    options = [f"-o{name}={value}" for name, value in _OPTIONS.items()]
    command = [*_client(), "-T", *options, *address.login[:-1]]
    with _Connection(address, [*command, "--", address.login[-1], remote]) as connection:
        connection.send(keeper + archive)
        for message in connection.messages():
            if "done" in message:
                update(message["done"])
            elif "answer" in message:
                return message["answer"]
            else:
                # The runner's own words about the files, unlike a connection that is lost.
                raise UserError(str(connection.error(str(message.get("refused")))))
    raise AssertionError("messages() ends with an error")


def _client() -> list[str]:
    """The command that opens a connection: OpenSSH's, or what the user's variable says."""
    given = os.environ.get(SSH_VARIABLE) or "ssh"
    try:
        return shlex.split(given)
    except ValueError as error:
        raise UserError(f"{SSH_VARIABLE}={given}: {error}") from None


def _archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


class _Connection:
    """A running ssh. When it is left, stdin is closed, which makes the keeper clean up, and its end is awaited."""

    def __init__(self, address: Address, command: list[str]) -> None:
        self._address, self._command = address, command
        self._heard = False

    def __enter__(self) -> _Connection:
        self._stderr = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                start_new_session=True,  # Ctrl-C is for dlmo, which then lets the device clean up
            )
        except OSError as error:
            self._stderr.close()
            program = self._command[0]
            raise UserError(
                f"cannot run {program} ({error.strerror}); install OpenSSH's client (apt install openssh-client)"
            ) from None
        self._watchdog = Watchdog(self._process, _PATIENCE_SECONDS)
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_SECONDS_TO_CLEAN_UP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._stderr.close()

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # an end in the middle has a reason, which comes as a message
            for start in range(0, len(data), _PIECE_BYTES):
                with self._watchdog.watching():
                    self._process.stdin.write(data[start : start + _PIECE_BYTES])
                    self._process.stdin.flush()

    def messages(self) -> Iterator[dict]:
        """What the device says until it ends, and then the error that it ended."""
        while True:
            try:
                with self._watchdog.watching():
                    message = _receive(self._process.stdout)
            except EOFError:
                raise self.error(self._cause()) from None
            self._heard = True
            yield message

    def error(self, words: str) -> DeviceError:
        return DeviceError(f"device {self._address.words}: {words}")

    def _cause(self) -> str:
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        code = self._process.wait()
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip()
        last = " ".join(said.splitlines()[-1:]) or "no reason given"
        if self._watchdog.barked:
            return f"it hangs: no sign of progress in {_PATIENCE_SECONDS:.0f} s"
        if code == 255 and self._heard:
            return f"the connection was cut in the middle ({last}); the work so far is kept, run it again"
        if code == 255:
            return _why_no_connection(said, last, self._address)
        if self._heard:
            return f"the runner ended without an answer ({last})"
        if code == 127:
            return (
                f'no "{self._address.python}" there; install Python (Debian: sudo apt install python3) or name it, as '
                "in ssh:USER@HOST?python=/usr/bin/python3.11"
            )
        if code == 126:
            python = self._address.python
            return f'its system cannot run "{python}": made for another processor, or not executable ({last})'
        return f"Python there gave up ({last}); it has to be 3.9 or newer"


def _receive(stream: BinaryIO) -> dict:
    """The next message; lines that are none come from the start-up files of the shell there."""
    while True:
        try:
            return receive(stream)
        except (ValueError, TypeError, KeyError):
            continue


def _why_no_connection(said: str, last: str, address: Address) -> str:
    """OpenSSH's reason with what to do about it. Its messages are in English, whatever the locale."""
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
        named = re.search(r"Host key for (\S+) has changed", said)  # what a name in the user's configuration stands for
        known_as = named[1] if named else address.known_as
        return (
            "its host key is not the one you know: another machine answers, or it was installed anew; if you know "
            f"that it was, ssh-keygen -R {shlex.quote(known_as)} and connect once with {address.by_hand}"
        )
    if "host key is known for" in said or "Host key verification failed" in said:
        return f"its host key is not known here; connect once with {address.by_hand} and compare the fingerprint"
    if "Permission denied" in said:
        return (
            f"it refuses your key ({last.rpartition(': ')[2]}); ssh-copy-id "
            f"{shlex.join(address.login)} puts it there; passwords cannot be asked for"
        )
    if "Could not resolve hostname" in said:
        return f"no host of that name is known ({last.rpartition(': ')[2]}); check the name, or give the IP address"
    if "Connection refused" in said:
        return "it refuses connections; is its SSH server switched on, and the port right?"
    if re.search(r"timed out|No route to host|Network is unreachable|Host is down", said):
        return f"it does not answer ({last.rpartition(': ')[2]}); is it switched on and in this network?"
    return f"ssh cannot connect: {last}"
