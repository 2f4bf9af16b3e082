"""Is everything there that measuring on a device needs? What is missing comes with the command that installs it."""

import re
import shlex
from dataclasses import asdict, dataclass

from dlmo.errors import UserError
from dlmo.measure.device.openssh import Address, ask, parse_address

# The folder in the home of the device's user, made where pip may not touch the system's Python.
_VENV = "dlmo-venv"
_LAST_OLD_PYTHON = (3, 11)  # of which there are wheels of tflite-runtime
_FREE_DISK_BYTES = 50_000_000  # a few files of a study; more is asked for by the files themselves


@dataclass(frozen=True)
class Readiness:
    """What a device says of itself (see runner.facts), what it lacks, in words, and what to do about that.

    install: a command for this machine, empty where none helps. python: the address's `?python=` after that command,
    empty where it stays.
    """

    target: str
    facts: dict
    missing: tuple[str, ...]
    install: str
    python: str

    @property
    def usable(self) -> bool:
        return not self.missing

    def to_json(self) -> dict:
        return asdict(self) | {"usable": self.usable}

    def advice(self) -> str:
        """The line for an error: what is missing, and what to do."""
        line = f"device {self.target.removeprefix('ssh:')} lacks {' and '.join(self.missing)}"
        if self.install:
            line += f"; install it with: {self.install}"
        if self.python:
            line += f"; then name the target {self.target.partition('?')[0]}?python={self.python}"
        return line


def check_device(target: str) -> Readiness:
    """Ask a device what is there. target: ssh:ADDRESS. Raises UserError where it cannot be reached or has no Python."""
    kind, _, rest = target.partition(":")
    if kind != "ssh" or not rest:
        raise UserError(f'"{target}" is no device that can be checked: write ssh:USER@HOST')
    return readiness(target, parse_address(rest))


def readiness(target: str, address: Address) -> Readiness:
    facts = ask(address, ["facts"])
    missing = []
    if facts["numpy"] is None:
        missing.append("numpy")
    if facts["runtime"] is None:
        broken = f" ({'; '.join(facts['broken'])})" if facts["broken"] else ""
        missing.append(f"a runtime that can be loaded{broken}")
    packages = _packages(facts)
    if missing and not packages:
        missing[-1] += (
            f", and none is published for {facts['architecture']}, {facts['bits']} bit"
            f"{', musl' if facts['musl'] else ''}, Python {facts['python']}; use a 64-bit system with glibc"
        )
    install, python = _install(address, facts, packages) if missing and packages else ("", "")
    if facts["free_disk_bytes"] < _FREE_DISK_BYTES:
        missing.append(f"space in {facts['folder']} ({facts['free_disk_bytes'] / 1e6:.0f} MB are free)")
    return Readiness(target, facts, tuple(missing), install, python)


def _packages(facts: dict) -> list[str]:
    """What pip has to install; nothing where there are no wheels for the processor, C library and Python."""
    if facts["musl"]:
        return []
    if facts["bits"] == 64 and re.fullmatch("x86_64|aarch64|arm64", facts["architecture"]):
        return ["ai-edge-litert"]  # brings numpy
    old = tuple(map(int, facts["python"].split(".")[:2])) <= _LAST_OLD_PYTHON
    if facts["bits"] == 32 and old and re.fullmatch("armv7l|armv8l|aarch64", facts["architecture"]):
        return ["tflite-runtime", "numpy<2"]
    return []


def _install(address: Address, facts: dict, packages: list[str]) -> tuple[str, str]:
    wanted = " ".join(map(shlex.quote, packages))
    if facts["in_venv"] or not facts["externally_managed"]:
        return _over_ssh(address, f"{shlex.quote(facts['executable'])} -m pip install {wanted}"), ""
    steps = [f"{shlex.quote(facts['executable'])} -m venv {_VENV}", f"{_VENV}/bin/pip install {wanted}"]
    if not facts["can_make_venv"] and facts["has_apt"]:
        steps.insert(0, "sudo apt-get install -y python3-venv")
    return _over_ssh(address, " && ".join(steps)), f"{_VENV}/bin/python"


def _over_ssh(address: Address, command: str) -> str:
    # -t, so that sudo can ask for its password.
    return f"{address.by_hand.replace('ssh', 'ssh -t', 1)} {shlex.quote(command)}"
