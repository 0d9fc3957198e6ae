"""Plans: what would happen if tasks were submitted now, as a question to a node (`swarm plan` on the command line)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarm.client.options import CALL_NAMES, Fn
from swarm.errors import ConfigError
from swarm.protocol.states import Priority
from swarm.tasks import TaskOptions, current_task, options_of

PLAN_NAMES = ("priority", "needs", "labels", "python")
"""Options on which it depends where a task goes."""


def asked(fn: Fn | None, count: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the question. ConfigError for options that there are not; others than `PLAN_NAMES` change nothing."""
    unknown = sorted(set(options) - CALL_NAMES)
    if unknown:
        raise ConfigError(f"there is no option {unknown[0]!r}", hint=f"a plan heeds {', '.join(PLAN_NAMES)}")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigError(f"count={count!r} is not a whole number of at least 1", hint="how many tasks there would be")
    said = TaskOptions.of(**{name: options[name] for name in PLAN_NAMES if options.get(name) is not None}).given()
    given = {**(options_of(fn).given() if callable(fn) else {}), **said}
    parent = current_task()
    usual = int(Priority.STANDARD) if parent is None else parent.priority
    found: dict[str, Any] = {
        "priority": int(given.get("priority", usual)), "needs": dict(given.get("needs", {})),
        "labels": list(given.get("labels", ())), "count": count,
    }  # fmt: skip
    if given.get("python"):
        found["python"] = str(given["python"])
    return found
