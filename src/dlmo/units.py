"""Sizes and durations as people write them."""

import re

from dlmo.errors import UserError

_SIZE_UNITS = {"b": 1, "kb": 1000, "mb": 1_000_000, "kib": 1024, "mib": 1024**2}
_TIME_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_size(option: str, text: str) -> int:
    """Bytes of "100KB" (1000), "96KiB" (1024), "250000"."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = _SIZE_UNITS.get(match[2].lower() or "b") if match else None
    size = round(float(match[1]) * unit) if match and unit else 0
    if size <= 0:
        raise UserError(f'{option} "{text}" is no size: write it like 100KB, 1.5MB or 98304')
    return size


def parse_duration(option: str, text: str, default: str = "s") -> float:
    """Seconds of "2ms", "90s", "10m", "1.5h"; a bare number is in `default` units."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = _TIME_UNITS.get(match[2].lower() or default) if match else None
    seconds = float(match[1]) * unit if match and unit else 0.0
    if seconds <= 0:
        raise UserError(f'{option} "{text}" is no duration: write it like 2ms, 90s, 10m or 1h')
    return seconds
