"""The C files of a package, compiled for Cortex-M4 and run on an emulated board. Opt-in: needs the tools."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

BOARD = Path(__file__).parent / "cortex_m"
GXX = shutil.which("arm-none-eabi-g++")
QEMU = shutil.which("qemu-system-arm")
TFLM = Path(os.environ.get("DLMO_TFLM", "build/tflm")).absolute()
FLAGS = [
    *("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=soft", "-Os", "-std=c++17", "-DTF_LITE_STATIC_MEMORY"),
    *("-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics", "-ffunction-sections", "-fdata-sections"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"),
]
LINK = ["--specs=nano.specs", "--specs=rdimon.specs", "-T", BOARD / "board.ld", "-Wl,--gc-sections"]

pytestmark = [
    pytest.mark.cortex_m,
    pytest.mark.skipif(GXX is None, reason="no arm-none-eabi-g++: install gcc-arm-none-eabi and its newlib"),
]
needs_board = pytest.mark.skipif(QEMU is None, reason="no qemu-system-arm: install it")


def build(folder: Path, sources: list[Path], *more: object) -> tuple[Path, int]:
    """The program and the bytes it takes in flash (code, constants and initial values)."""
    program = folder / "program.elf"
    command = [GXX, *FLAGS, *LINK, "-o", program, *sources, BOARD / "startup.cc", *more]
    subprocess.run(list(map(str, command)), check=True, timeout=120)
    sizes = subprocess.run(["arm-none-eabi-size", program], capture_output=True, text=True, check=True).stdout
    text, data = sizes.splitlines()[1].split()[:2]
    return program, int(text) + int(data)


def run(program: Path) -> str:
    board = [QEMU, "-M", "mps2-an386", "-nographic", "-semihosting-config", "enable=on,target=native"]
    done = subprocess.run([*board, "-kernel", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_board
def test_the_arrays_hold_the_model_and_the_golden_vectors(int8_package, tmp_path):
    sources = [int8_package / "c" / "model_data.cc", int8_package / "c" / "golden_data.cc", BOARD / "arrays.cc"]
    program, flash = build(tmp_path, sources, "-I", int8_package / "c")
    content = np.fromfile(int8_package / "model.tflite", np.uint8)
    golden = sum(int(np.load(int8_package / "golden" / f"{name}.npy")[:2].sum()) for name in ("inputs", "outputs"))
    assert run(program).split() == [str(len(content)), str(int(content.sum())), str(golden), "1", "9"]
    print(f"model {len(content):,} bytes; program without TensorFlow Lite Micro {flash:,} bytes of flash")
    assert len(content) < flash < len(content) + 60_000


@needs_board
@pytest.mark.skipif(not (TFLM / "libtflm.a").exists(), reason=f"no {TFLM}/libtflm.a: tests/package/tflm.sh builds it")
def test_the_example_replays_the_golden_vectors_under_tensorflow_lite_micro(int8_package, tmp_path):
    folders = ["tflite-micro", "flatbuffers/include", "gemmlowp", "ruy"]
    sources = [int8_package / "c" / f"{name}.cc" for name in ("main", "model_data", "golden_data")]
    program, flash = build(tmp_path, sources, *(f"-isystem{TFLM / name}" for name in folders), TFLM / "libtflm.a")
    out = run(program)
    print(f"{flash:,} bytes of flash; {out}")
    assert "self-test passed" in out
