"""What is noted of single ticks and calls: for critics, and for who looks at a trace."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

from kernels.passes import Passes
from swarm.nano.cohorts import Cohort
from swarm.nano.errors import NanoError

SPAN: Final = struct.Struct("=QQQQII")


def ticks_per_ns(passes: Passes) -> float:
    """Ticks of the clock that calls are measured by, a ns."""
    return passes.clock.hz * 1e-9


class Tracing:
    """How many ticks and calls are kept; none until somebody wants them."""

    def __init__(self, passes: Passes) -> None:
        self._passes = passes
        self._traced = self._spanned = 0

    @property
    def ticks(self) -> int:
        """How many ticks are kept at least."""
        return self._traced

    def keep_ticks(self, ticks: int) -> None:
        """Keep the last so many ticks at least."""
        self._traced = max(self._traced, ticks)
        self._follow()

    def keep_spans(self, calls: int = 100_000) -> None:
        """Note when the last so many calls of cohorts began and how long they took; 0 ends that."""
        if not isinstance(calls, int) or calls < 0:
            raise NanoError(f"{calls!r} calls", hint="a whole number, not negative")
        self._spanned = calls
        self._follow()

    def events(self, cohorts: Sequence[Cohort]) -> list[dict[str, Any]]:
        """The calls since the last time in Chrome's Trace Event Format, which Perfetto opens: a track a cohort, in µs."""
        raw, lost = self._passes.take_spans()
        us = 1e-3 / ticks_per_ns(self._passes)
        found: list[dict[str, Any]] = [
            {"ph": "M", "name": "thread_name", "pid": 1, "tid": n, "args": {"name": f"{each.state.kind.__name__} ({each.form.name})"}}
            for n, each in enumerate(cohorts)
        ]  # fmt: skip
        first = None
        for began, spent, now_ns, made, cohort, agents in SPAN.iter_unpack(raw):
            first = began if first is None else min(first, began)
            found.append({
                "ph": "X", "name": cohorts[cohort].state.kind.__name__, "cat": cohorts[cohort].form.name, "pid": 1,
                "tid": cohort, "ts": (began - first) * us, "dur": spent * us,
                "args": {"pass": made, "instant_ns": now_ns, "agents": agents},
            })  # fmt: skip
        if lost:
            found.append(
                {"ph": "I", "name": f"{lost} calls before are not kept", "pid": 1, "tid": 0, "ts": 0, "s": "g"}
            )
        return found

    def _follow(self) -> None:
        self._passes.trace(self._traced, self._spanned, 1.0 / ticks_per_ns(self._passes))
