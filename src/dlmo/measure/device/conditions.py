"""Temperature, clock and throttling of the machine this runs on, as far as its system tells. Needs Python alone."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

# Zones of /sys/class/thermal that are about the processor; a board has others for its radio, battery and so on.
_PROCESSOR_ZONE = re.compile(r"cpu|soc|pkg|core", re.IGNORECASE)
# Bits of `vcgencmd get_throttled` (Raspberry Pi documentation); those of now, not of some time since the start.
_RASPBERRY_PI = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}
# A clock that varies by less while the processor is busy is usual.
_LOWEST_SHARE = 0.8


@dataclass(frozen=True)
class Conditions:
    """One moment. temperature_c: hottest processor zone; clock_mhz: fastest core; None where the system does not tell.

    limits: what the system says it slows the processor for, in words.
    """

    temperature_c: float | None
    clock_mhz: float | None
    limits: tuple[str, ...]


def conditions(root: Path = Path("/")) -> Conditions:
    """The conditions now. root: of the file system; only tests have another."""
    return Conditions(_temperature(root), _clock(root), (*_raspberry_pi(), *_cooling(root)))


def slowed(moments: list[Conditions]) -> list[str]:
    """Signs that a device was slowed down over a measurement, in words; moments: taken when it was busy."""
    signs = sorted({limit for moment in moments for limit in moment.limits})
    clocks = [moment.clock_mhz for moment in moments if moment.clock_mhz is not None]
    if clocks and min(clocks) < _LOWEST_SHARE * max(clocks):
        signs.append(f"clock between {min(clocks):.0f} and {max(clocks):.0f} MHz")
    return signs


def _temperature(root: Path) -> float | None:
    found = []
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        value = _number(zone / "temp")
        if value is not None and -40_000 < value < 150_000:  # millidegrees; others are broken sensors
            found.append((_text(zone / "type"), value / 1000))
    own = [value for name, value in found if _PROCESSOR_ZONE.search(name)]
    return max(own or [value for _, value in found], default=None)


def _clock(root: Path) -> float | None:
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    clocks = [value / 1000 for value in map(_number, files) if value]  # kHz
    return max(clocks, default=None)


def _cooling(root: Path) -> list[str]:
    """Cooling devices that slow the processor: Linux counts up their state as it does."""
    active = []
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        name = _text(device / "type")
        if ("cpufreq" in name.lower() or name == "Processor") and (_number(device / "cur_state") or 0) > 0:
            active.append(f"Linux slows the processor to cool it ({name})")
    return active


def _raspberry_pi() -> list[str]:
    tool = shutil.which("vcgencmd")
    if tool is None:
        return []
    try:
        said = subprocess.run([tool, "get_throttled"], capture_output=True, text=True, timeout=5).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    match = re.search(r"throttled=0x([0-9a-fA-F]+)", said)
    bits = int(match.group(1), 16) if match else 0
    return [f"vcgencmd: {words}" for bit, words in _RASPBERRY_PI.items() if bits >> bit & 1]


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
