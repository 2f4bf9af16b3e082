"""Compiling an int8 .tflite file for an Ethos-U, for what Vela estimates about running it."""

import csv
import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dlmo.errors import UserError, missing_extra
from dlmo.runtimes.litert import flatbuffer

# Accelerator: system (clock and memories, from Vela's own vela.ini). Both keep activations in SRAM, weights in flash.
_SYSTEMS = {"ethos-u55": "Ethos_U55_High_End_Embedded", "ethos-u65": "Ethos_U65_Embedded"}
ACCELERATORS = (
    "ethos-u55-32", "ethos-u55-64", "ethos-u55-128", "ethos-u55-256", "ethos-u65-256", "ethos-u65-512",
)  # fmt: skip
_MEMORY_MODE = "Shared_Sram"
_NPU_OPERATOR = "ethos-u"
_TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class Estimate:
    """What Vela expects of one inference.

    cycles at `clock_hz`; sram, flash: bytes; delegated: share of the file's operators the NPU computes, 0 to 1, in
    `partitions` calls; model: the compiled file.
    """

    cycles: int
    clock_hz: float
    sram: int
    flash: int
    delegated: float
    partitions: int
    system: str
    model: bytes

    @property
    def milliseconds(self) -> float:
        return 1000 * self.cycles / self.clock_hz


def require(accelerator: str) -> None:
    """Raise UserError for an unknown accelerator, or without the extra."""
    if accelerator not in ACCELERATORS:
        raise UserError(f'unknown accelerator "{accelerator}"; known: {", ".join(ACCELERATORS)}')
    if importlib.util.find_spec("ethosu") is None:
        raise missing_extra("the target npu needs Arm's compiler Vela", "npu")


def version() -> str:
    return importlib.metadata.version("ethos-u-vela")


def estimate(content: bytes, accelerator: str) -> Estimate:
    """Compile in a child process. Raises UserError where Vela refuses the file."""
    require(accelerator)
    system = _SYSTEMS[accelerator.rpartition("-")[0]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(content)
        options = ["--accelerator-config", accelerator, "--config", "Arm/vela.ini", "--system-config", system]
        options += ["--memory-mode", _MEMORY_MODE, "--output-dir", name]
        try:
            done = subprocess.run(
                # -P: nothing that lies in the current folder is taken for a module.
                [sys.executable, "-P", "-m", "ethosu.vela", str(folder / "model.tflite"), *options],
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"Vela did not compile this model within {_TIMEOUT_SECONDS} s") from None
        tables = list(folder.glob("*_summary_*.csv"))
        if done.returncode != 0 or not tables:
            said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            raise UserError(f"Vela cannot compile this model: {said[-1].strip() if said else 'it gave no reason'}")
        with open(tables[0]) as file:
            row = next(csv.DictReader(file))
        compiled = (folder / "model_vela.tflite").read_bytes()
    left = flatbuffer.facts(compiled).operators
    partitions = left.pop(_NPU_OPERATOR, 0)
    operators = sum(flatbuffer.facts(content).operators.values())
    return Estimate(
        cycles=int(float(row["cycles_total"])),
        clock_hz=float(row["core_clock"]),
        sram=round(float(row["sram_memory_used"]) * 1024),
        flash=round(float(row["off_chip_flash_memory_used"]) * 1024),
        delegated=1 - sum(left.values()) / operators,
        partitions=partitions,
        system=system,
        model=compiled,
    )
