"""Sizes and durations as people write them."""

import math
import re

from dlmo.errors import UserError

_SIZE_UNITS = {"b": 1, "kb": 1000, "mb": 1_000_000, "kib": 1024, "mib": 1024**2}
_TIME_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_size(option: str, text: str | float) -> int:
    """Bytes of "100KB" (1000), "96KiB" (1024), "250000", 250000."""
    size = _amount(text, _SIZE_UNITS, "b")
    if round(size) <= 0:
        raise UserError(f'{option} "{text}" is no size: write it like 100KB, 1.5MB or 98304')
    return round(size)


def parse_duration(option: str, text: str | float, default: str = "s") -> float:
    """Seconds of "2ms", "90s", "10m", "1.5h"; a bare number is in `default` units."""
    seconds = _amount(text, _TIME_UNITS, default)
    if seconds <= 0:
        raise UserError(f'{option} "{text}" is no duration: write it like 2ms, 90s, 10m or 1h')
    return seconds


def _amount(text: str | float, units: dict[str, float], default: str) -> float:
    """A number times its unit; 0 for what is none, or too large for any computer."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    unit = units.get(match[2].lower() or default) if match else None
    amount = float(match[1]) * unit if unit else 0.0
    return amount if math.isfinite(amount) else 0.0
