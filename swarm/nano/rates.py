"""How often agents tick: rates as periods."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence, Set
from typing import Any

from swarm.nano.errors import NanoError
from swarm.nano.numbers import real


def periods_of(
    rate_hz: float | Sequence[float] | None, count: int, resolution_ns: int
) -> tuple[int, array[int] | None]:
    """(period of all, ns; 0 for none, periods of each where they differ). NanoError for what is no rate of so many agents."""
    if rate_hz is None:
        return 0, None
    if real(rate_hz):
        return period_of(float(rate_hz), resolution_ns), None  # type: ignore[arg-type]
    given: Any = rate_hz
    hint = "give one rate, or one for each agent"
    try:
        rates = [float(each) for each in given] if not isinstance(given, str | bytes | Mapping | Set) else None
    except (TypeError, ValueError, OverflowError):
        rates = None
    if rates is None:
        raise NanoError(f"rate_hz={rate_hz!r} is no rate", hint=hint)
    if len(rates) != count:
        raise NanoError(f"{len(rates)} rates for {count} agents", hint=hint)
    return 0, array("Q", [period_of(each, resolution_ns) for each in rates])


def period_of(rate_hz: float, resolution_ns: int) -> int:
    """The period of a rate, ns, a multiple of the resolution. NanoError where it has none."""
    most = 1e9 / resolution_ns
    if not math.isfinite(rate_hz) or not 1e-9 <= rate_hz <= most * (1 + 1e-9):
        raise NanoError(
            f"a rate of {rate_hz} Hz",
            hint=f"rates lie above 0 and at most at {most:,.0f} Hz, one tick each resolution_ns={resolution_ns}",
        )
    return max(resolution_ns, round(1e9 / rate_hz / resolution_ns) * resolution_ns)
