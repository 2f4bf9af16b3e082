"""The package on 64-bit Arm, under user-mode emulation. Opt-in: `make test-arm` makes the Python for it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PYTHON = Path(os.environ.get("DLMO_ARM", "build/arm")) / "run"
# Without and with the dot product instructions that int8 kernels use.
PROCESSORS = ("cortex-a72", "neoverse-n1")

pytestmark = [
    pytest.mark.arm,
    pytest.mark.skipif(not PYTHON.exists(), reason=f"no {PYTHON}: make test-arm makes it (needs qemu-user-static)"),
]


def run(python, *arguments, **environment):
    done = subprocess.run(
        [python, *map(str, arguments)], capture_output=True, text=True, timeout=300, env=os.environ | environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_self_test_passes(int8_package, small_run, processor):
    for package in (int8_package, small_run):
        out = run(PYTHON.absolute(), package / "run.py", "--self-test", QEMU_CPU=processor)
        assert "8 of 8 answered the same" in out and out.rstrip().endswith("passed")


@pytest.mark.parametrize("processor", PROCESSORS)
def test_predictions_are_those_of_this_machine(int8_package, digit_files, processor):
    arguments = [int8_package / "run.py", "--top", "1", *digit_files]
    here, there = run(sys.executable, *arguments), run(PYTHON.absolute(), *arguments, QEMU_CPU=processor)
    first, second = (re.findall(r"png: (\S+) ([0-9.]+)%", text) for text in (here, there))
    assert len(first) == len(second) == len(digit_files)
    same = sum(a[0] == b[0] for a, b in zip(first, second))
    print(f"{processor}: {same} of {len(first)} answers the same as on this machine")
    assert same >= 0.99 * len(first)
    assert max(abs(float(a[1]) - float(b[1])) for a, b in zip(first, second)) < 2
