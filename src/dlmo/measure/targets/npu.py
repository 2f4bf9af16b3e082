"""Target `npu[:ACCELERATOR]`: an Arm Ethos-U, as its compiler Vela estimates it."""

from collections.abc import Sequence

import numpy as np

from dlmo.errors import UserError
from dlmo.measure.targets import CannotRun, Measured
from dlmo.measure.targets.host import Host
from dlmo.progress import Progress

DEFAULT_ACCELERATOR = "ethos-u55-128"


class Npu(Host):
    """Scores are those of the same int8 file under LiteRT: an Ethos-U computes what the file's operators define."""

    tells_flash = True

    def __init__(self, rest: str = "") -> None:
        super().__init__()
        self._accelerator = rest or DEFAULT_ACCELERATOR
        self.name = f"npu:{self._accelerator}"

    def check(self) -> None:
        from dlmo.runtimes.vela import compiler

        compiler.require(self._accelerator)

    def measure(
        self, contents: Sequence[bytes], threads: int, progress: Progress, golden: np.ndarray
    ) -> list[Measured | CannotRun]:
        from dlmo.runtimes.vela import compiler

        found = []
        with progress.stage(f"compile for {self._accelerator}") as update:
            for index, content in enumerate(contents):
                try:
                    made = compiler.estimate(content, self._accelerator)
                except UserError as error:
                    found.append(CannotRun(str(error)))
                    continue
                source = f"estimated by Vela {compiler.version()} for {self._accelerator}, system {made.system}"
                # Vela counts no cycles for what is left to the CPU, so the whole is only known without such operators.
                latency = made.milliseconds if made.delegated == 1 else None
                clock = f"{source}, {made.clock_hz / 1e6:.0f} MHz"
                found.append(
                    Measured(
                        ram_bytes=made.sram,
                        ram_source=source,
                        latency_ms=latency,
                        latency_p90_ms=None,
                        latency_source="not known: operators are left to the CPU" if latency is None else clock,
                        delegated=made.delegated,
                        partitions=made.partitions,
                        flash_bytes=made.flash,
                        flash_source=f"{source}: weights and commands, without the interpreter",
                        cycles=made.cycles,
                    )
                )
                update((index + 1) / len(contents))
        return found
