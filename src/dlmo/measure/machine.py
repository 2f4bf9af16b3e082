"""The machine that measures: needs nothing but Python, so that devices get this very file (see targets/ssh.py)."""

from __future__ import annotations

import os
import platform

# More threads than any processor this is for has.
MOST_THREADS = 256


def machine() -> dict[str, str | int]:
    """What latencies are measured on."""
    model = platform.processor() or platform.machine()
    flags: set[str] = set()
    try:
        with open("/proc/cpuinfo") as file:
            lines = dict(line.split(":", 1) for line in file.read().split("\n\n")[0].splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in lines.items()}
        model = _board() or fields.get("model name", model)
        flags = set(fields.get("flags", fields.get("Features", "")).split())
    except OSError:
        pass
    # int8 kernels differ by an order of magnitude between these, so a latency without them says little.
    known = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
    return {
        "cpu": model,
        "cores": os.cpu_count() or 1,
        "instructions": " ".join(name for name in known if name in flags),
        "system": platform.system(),
        "architecture": platform.machine(),
    }


def _board() -> str:
    """The name that small boards give themselves, such as Raspberry Pi 4 Model B Rev 1.4; empty on others."""
    try:
        with open("/proc/device-tree/model") as file:
            return file.read().strip("\0 \n")
    except OSError:
        return ""
