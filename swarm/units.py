"""Quantities as people write and read them: sizes in bytes, durations in seconds.

SI prefixes are powers of 1000, IEC prefixes (``KiB``) powers of 1024 (IEC 80000-13).
"""

from __future__ import annotations

import math
import re
from typing import Final

_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i)?)?b?\s*", re.IGNORECASE)
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", re.IGNORECASE)
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_POWERS: Final = "kmgt"


def parse_bytes(text: str) -> int:
    """Bytes of ``"64 MiB"``, ``"2GB"``, ``"512"``. A single letter means SI (``"2G"`` = 2 * 10**9).

    Raises:
        ValueError: it is not a size.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size; write for example 512MiB, 2GB or 4096")
    number, prefix, binary = match.groups()
    factor = (1024 if binary else 1000) ** (_POWERS.index(prefix.lower()) + 1) if prefix else 1
    return round(float(number) * factor) if "." in number else int(number) * factor


def parse_duration_s(text: str) -> float:
    """Seconds of ``"90"``, ``"1.5s"``, ``"10m"``, ``"1h30m"``, ``"7d"``.

    Raises:
        ValueError: it is not a duration.
    """
    stripped = text.strip()
    try:
        plain = float(stripped)
    except ValueError:
        plain = math.nan
    if math.isfinite(plain) and plain >= 0:
        return plain
    parts = _DURATION.findall(stripped)
    if not parts or _DURATION.sub("", stripped).strip():
        raise ValueError(f"{text!r} is not a duration; write for example 30s, 10m, 1h30m or 7d")
    return math.fsum(float(number) * _SECONDS[unit.lower()] for number, unit in parts)


def format_bytes(size: float) -> str:
    """``"1.5 MiB"``; three significant digits at most."""
    magnitude = abs(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if magnitude < 1000 or unit == "TiB":
            break
        magnitude /= 1024
    sign = "-" if size < 0 else ""
    if unit == "B":
        return f"{sign}{magnitude:.0f} B"
    return f"{sign}{magnitude:.{0 if magnitude >= 99.95 else 1}f} {unit}"


def format_duration(seconds: float) -> str:
    """``"12 ms"``, ``"3.4 s"``, ``"41 s"``, ``"5 min 2 s"``, ``"3 h 12 min"``, ``"4 d 2 h"``."""
    if seconds < 0.0005:
        return f"{seconds * 1e6:.0f} µs" if seconds > 0 else "0 s"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for outer, outer_s, inner, inner_s in (("min", 60, "s", 1), ("h", 3600, "min", 60), ("d", 86400, "h", 3600)):
        if whole < outer_s * (60 if outer == "min" else 24) or outer == "d":
            rest = whole % outer_s // inner_s
            return f"{whole // outer_s} {outer} {rest} {inner}" if rest else f"{whole // outer_s} {outer}"
    raise AssertionError(seconds)
