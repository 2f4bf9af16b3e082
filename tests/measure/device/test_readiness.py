"""What a device lacks, and the command that installs it."""

import os
import subprocess
import sys

import pytest

from dlmo.errors import UserError
from dlmo.measure.device import readiness
from dlmo.measure.device.openssh import Address
from dlmo.measure.device.readiness import check_device

PI = {
    "architecture": "aarch64", "bits": 64, "numpy": None, "runtime": None, "broken": [], "free_disk_bytes": 10**9,
    "executable": "/usr/bin/python3", "folder": "/tmp", "in_venv": False, "externally_managed": True,
    "can_make_venv": True, "python": "3.11.2", "musl": False, "has_apt": True,
}  # fmt: skip


@pytest.fixture
def found(monkeypatch):
    """What is said of a Raspberry Pi whose facts differ from PI in some."""

    def make(**changed):
        monkeypatch.setattr(readiness, "ask", lambda address, request: PI | changed)
        return readiness.readiness("ssh:pi@pi4", Address("pi", "pi4", None))

    return make


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """A Python without numpy and without any runtime."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


def test_a_ready_device(device):
    found = check_device(device.target())
    assert found.usable and found.missing == () and found.install == found.python == ""
    assert found.to_json()["usable"] is True
    assert found.facts["runtime"] == "ai-edge-litert" and found.facts["memory_bytes"] > 0


def test_a_device_without_the_runtime(device, bare_python):
    found = check_device(device.target(bare_python))
    assert not found.usable and "numpy" in found.missing
    assert f"{bare_python} -m pip install ai-edge-litert" in found.install
    assert "lacks numpy and a runtime" in found.advice() and found.install in found.advice()


def test_a_runtime_for_another_processor(device, bare_python, tmp_path):
    site = tmp_path / "site" / "ai_edge_litert"
    site.mkdir(parents=True)
    (site / "__init__.py").write_text("")
    (site / "interpreter.py").write_text("raise ImportError('_pywrap.so: wrong ELF class: ELFCLASS32')")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={site.parent} exec {bare_python} "$@"\n')
    python.chmod(0o755)
    assert "wrong ELF class" in check_device(device.target(python)).advice()


def test_where_pip_may_not_touch_the_systems_python_a_venv_is_made(found):
    ready = found()
    assert ready.install == (
        "ssh -t pi@pi4 '/usr/bin/python3 -m venv dlmo-venv && dlmo-venv/bin/pip install ai-edge-litert'"
    )
    assert ready.python == "dlmo-venv/bin/python"
    assert ready.advice().endswith("name the target ssh:pi@pi4?python=dlmo-venv/bin/python")
    assert "apt-get install -y python3-venv && /usr/bin/python3 -m venv" in found(can_make_venv=False).install


def test_elsewhere_pip_is_enough(found):
    ready = found(externally_managed=False)
    assert ready.install == "ssh -t pi@pi4 '/usr/bin/python3 -m pip install ai-edge-litert'" and ready.python == ""


def test_32_bit_systems_get_the_runtime_that_exists_for_them(found):
    assert "tflite-runtime" in found(bits=32).install
    ready = found(architecture="armv6l", bits=32)
    assert ready.install == "" and "none is published for armv6l" in ready.advice()


def test_what_was_never_published_is_not_to_be_installed(found):
    new, alpine = found(bits=32, python="3.13.1"), found(musl=True)
    assert new.install == alpine.install == ""
    assert "aarch64, 32 bit, Python 3.13.1" in new.advice() and "64 bit, musl, Python" in alpine.advice()
    assert "apt-get" not in found(can_make_venv=False, has_apt=False).install


def test_a_full_disk_is_told(found):
    ready = found(numpy="2.0", runtime="ai-edge-litert", free_disk_bytes=3_000_000)
    assert not ready.usable and ready.install == "" and "3 MB are free" in ready.advice()


@pytest.mark.parametrize("target", ["cpu", "ssh", "ssh:", "pi@pi4"])
def test_only_devices_can_be_checked(target):
    with pytest.raises(UserError, match="ssh:USER@HOST"):
        check_device(target)


def test_the_install_command_works(device, bare_python):
    """Its part for the device is one that a shell there understands; pip itself is left out of this Python."""
    install = check_device(device.target(bare_python)).install
    words = install.replace("ssh -t", f"{os.environ['DLMO_SSH']} -T", 1)
    done = subprocess.run(words, shell=True, capture_output=True, text=True)
    assert done.returncode == 1 and "No module named pip" in done.stderr
