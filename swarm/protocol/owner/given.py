"""What lessons give to tasks: more memory, and a longer time limit where whoever submitted them allows it.

A task that is given more goes out under a spec of its own, so that who runs it reserves what it needs, and ends it when its time is over,
without knowing of lessons. What was submitted stays what it was: a batch is told, kept and taken over by that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import msgpack

from swarm.protocol.lessons.advice import Advice, Change, Require
from swarm.protocol.placement import Executor
from swarm.protocol.resources import SLACK
from swarm.protocol.spec import SPEC_BYTES_MAX, Spec, parse_spec

Given = tuple[Spec, bytes]
"""A spec with more than was asked for, and its bytes."""
TIMEOUT: Final = "timeout_s"


def within(needs: Mapping[str, float], executors: Iterable[Executor]) -> dict[str, float]:
    """Of these needs what some executor has: no more of a resource than the one with the most, and nothing of what nobody has."""
    most: dict[str, float] = {}
    for it in executors:
        for name, total in it.capacity.totals.items():
            most[name] = max(most.get(name, 0.0), total)
    return {name: min(amount, most[name]) for name, amount in sorted(needs.items()) if most.get(name, 0.0) > SLACK}


def raised(spec: Spec, raw: bytes, needs: Mapping[str, float], changes: Mapping[str, float]) -> Given | None:
    """A spec with at least these needs, and with these changes as far as it allows them; None when that is what it is anyway."""
    more = tuple((name, amount) for name, amount in sorted(needs.items()) if amount > spec.needs.get(name, 0.0) + SLACK)
    timeout_s = changes.get(TIMEOUT, 0.0)
    if spec.timeout_s is None or spec.timeout_max_s is None:
        timeout_s = 0.0
    else:
        timeout_s = min(timeout_s, spec.timeout_max_s)
        timeout_s = timeout_s if timeout_s > spec.timeout_s else 0.0
    return _raised(raw, more, timeout_s) if more or timeout_s else None


@lru_cache(maxsize=1024)
def _raised(raw: bytes, more: tuple[tuple[str, float], ...], timeout_s: float) -> Given | None:
    fields: dict[str, Any] = msgpack.unpackb(raw)  # with what later versions said in it
    if more:
        fields["needs"] = {**fields.get("needs", {}), **dict(more)}
    if timeout_s:
        fields[TIMEOUT] = timeout_s
    made = bytes(msgpack.packb(fields))
    return (parse_spec(made), made) if len(made) <= SPEC_BYTES_MAX else None


def would_help(advice: Advice, spec: Spec, had: Spec, executors: Iterable[Executor]) -> bool:
    """Whether more of something, or more time, is to be had than an attempt `had`."""
    match advice:
        case Require(resource, amount) if amount:
            return within({resource: amount}, executors).get(resource, 0.0) > had.needs.get(resource, 0.0) + SLACK
        case Change(parameter, value) if parameter == TIMEOUT:
            most = spec.timeout_max_s
            return most is not None and had.timeout_s is not None and min(value, most) > had.timeout_s
    return False
