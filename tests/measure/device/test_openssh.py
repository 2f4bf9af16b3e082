"""Asking a device through OpenSSH: every way in which that ends badly is one line, and nothing stays behind."""

import getpass
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dlmo.errors import UserError
from dlmo.measure.device import openssh
from dlmo.measure.device.openssh import Address, ask, parse_address

# A runner that does nothing but live; it stands in for the real one where only the connection is tried.
SLEEPER = b"import json, time\nprint(json.dumps({'done': 0.5}), flush=True)\ntime.sleep(100)\n"


def address(device, python=sys.executable) -> Address:
    return parse_address(device.target(python).partition(":")[2])


def refusal(*arguments, **more) -> str:
    """The line that asking ends with."""
    with pytest.raises(UserError) as caught:
        ask(*arguments, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def script(tmp_path):
    """Makes an executable file that stands for a device's Python."""

    def make(text: str | bytes) -> Path:
        path = tmp_path / "python"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(0o755)
        return path

    return make


@pytest.mark.parametrize(
    "text, expected",
    [
        ("pi@raspberrypi.local", Address("pi", "raspberrypi.local", None)),
        ("pi4", Address(None, "pi4", None)),
        ("pi@192.168.1.5:2222", Address("pi", "192.168.1.5", 2222)),
        ("pi@[fe80::1%eth0]:22", Address("pi", "fe80::1%eth0", 22)),
        ("a@b?python=/opt/my venv/bin/python", Address("a", "b", None, "/opt/my venv/bin/python")),
        ("a@b:9?python=~/v/bin/python", Address("a", "b", 9, "~/v/bin/python")),
    ],
)
def test_addresses(text, expected):
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "-oProxyCommand=x", "a@-oProxyCommand=x", "a@b:", "a@b:0", "a@b:70000", "a b", "a@b?pyton=x", "a@b?python=",
     "a@b?x", "a@b;ls", "@b", "a@"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text):
    with pytest.raises(UserError, match="ssh:"):
        parse_address(text)


def test_a_device_answers(device):
    facts = ask(address(device), ["facts"])
    assert facts["executable"] and facts["cores"] == os.cpu_count() and facts["bits"] in (32, 64)
    assert Path(facts["folder"]) == device.temporary


def test_a_shell_that_talks_at_login_does_no_harm(device):
    key = device.authorized_keys.read_text()
    device.authorized_keys.write_text(f'command="echo Welcome; eval \\"$SSH_ORIGINAL_COMMAND\\"" {key}')
    assert ask(address(device), ["facts"])["python"]


def test_host_keys_are_checked_whatever_the_configuration_says(device):
    config = device.folder / "ssh_config"
    before = config.read_text()
    config.write_text(f"StrictHostKeyChecking no\n{before}")
    device.known_hosts.write_text("")
    try:
        assert "host key is not known" in refusal(address(device), ["facts"])
    finally:
        config.write_text(before)


def test_an_unknown_host_key_is_not_accepted(device):
    device.known_hosts.write_text("")
    said = refusal(address(device), ["facts"])
    assert f"connect once with ssh -p {device.port} {getpass.getuser()}@127.0.0.1" in said
    assert device.known_hosts.read_text() == ""


def test_a_changed_host_key(device):
    other = Path(f"{device.folder}/user_key.pub").read_text().split()
    device.known_hosts.write_text(f"[127.0.0.1]:{device.port} {' '.join(other[:2])}\n")
    said = refusal(address(device), ["facts"])
    assert "not the one you know" in said and f"ssh-keygen -R '[127.0.0.1]:{device.port}'" in said


def test_a_refused_key(device):
    device.authorized_keys.write_text("")
    said = refusal(address(device), ["facts"])
    assert "refuses your key" in said and f"ssh-copy-id -p {device.port}" in said


def test_an_unknown_host(device):
    assert "no host of that name" in refusal(Address("a", "there-is-no-such-host.invalid", None), ["facts"])


def test_a_refused_connection(device):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        said = refusal(Address("a", "127.0.0.1", closed.getsockname()[1]), ["facts"])
    assert "refuses connections" in said


def test_without_an_ssh_client(monkeypatch):
    monkeypatch.setenv("DLMO_SSH", 'ssh -F "x')
    assert "No closing quotation" in refusal(Address("a", "b", None), ["facts"])
    monkeypatch.setenv("DLMO_SSH", "no-such-program -F x")
    assert "openssh-client" in refusal(Address("a", "b", None), ["facts"])


def test_a_device_without_python(device):
    assert "install Python" in refusal(address(device, "python-that-is-not-there"), ["facts"])


def test_a_python_of_another_architecture(device, script):
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\x28\x00" + bytes(44)  # for 32-bit Arm, and cut off
    assert "made for another processor" in refusal(address(device, script(header)), ["facts"])


def test_a_python_that_gives_up(device, script):
    said = refusal(address(device, script("#!/bin/sh\necho 'SyntaxError: too old' >&2\nexit 1\n")), ["facts"])
    assert "SyntaxError: too old" in said and "3.9" in said


@pytest.mark.parametrize(
    "runner, words",
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "want of memory"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "another processor"),
        ("import os; os.abort()", "crashed"),
        ("x = bytearray(1 << 60)", "too little memory"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_runner_that_ends_badly(device, runner, words):
    assert words in refusal(address(device), ["facts"], {"runner.py": runner.encode()})


def test_a_full_disk(device, tmp_path, script):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    try:
        python = script(f'#!/bin/sh\nTMPDIR={small} exec {sys.executable} "$@"\n')
        said = refusal(address(device, python), ["facts"], {"large": bytes(4_000_000)})
        assert "No space left on device" in said
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_a_device_that_vanishes_in_the_middle(device):
    def vanish(share: float) -> None:
        if share:
            assert device.left_behind()
            device.cut_connections()

    said = refusal(address(device), ["facts"], {"runner.py": SLEEPER}, vanish)
    assert "cut in the middle" in said
    assert device.left_behind_after(10) == []


def test_a_device_that_hangs(device, monkeypatch):
    monkeypatch.setattr(openssh, "_PATIENCE_SECONDS", 3.0)
    assert "hangs" in refusal(address(device), ["facts"], {"runner.py": SLEEPER})


def test_ctrl_c_leaves_nothing_behind(device):
    def interrupt(share: float) -> None:
        if share:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(address(device), ["facts"], {"runner.py": SLEEPER}, interrupt)
    assert device.left_behind() == []


def test_a_killed_dlmo_leaves_nothing_behind(device):
    host, port = "127.0.0.1", device.port
    code = (
        "import os; from dlmo.measure.device.openssh import Address, ask; "
        f"ask(Address({getpass.getuser()!r}, {host!r}, {port}, {sys.executable!r}), ['facts'], "
        f"{{'runner.py': {SLEEPER!r}}}, lambda share: share and os.kill(os.getpid(), 9))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert device.left_behind_after(10) == []


def test_what_is_sent_runs_without_dlmo(device):
    """Only names that lie in the folder, the standard library, numpy and runtimes."""
    listing = ask(
        address(device),
        ["facts"],
        {"runner.py": b"import json, pathlib; print(json.dumps({'answer': {p.name: p.read_text() for p in "
                      b"pathlib.Path().glob('*.py')}}))"},
    )  # fmt: skip
    assert {"conditions.py", "machine.py", "latency.py", "memory.py", "preprocessing.py"} <= set(listing)
    for name, source in listing.items():
        assert not re.search(r"^\s*from dlmo|^import dlmo", source, re.MULTILINE), name
