"""Plans: where tasks would go if they came now, who would make way for them, and what to do if nobody does.

The asked node ranks the nodes as it would for a submit, and asks each that tasks would be handed to, or that they would fit on,
how they would begin there. Nothing is submitted, and no slot is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from nodes.fabric import Fabric, boottime_s
from nodes.queries import AskFailed, Switchboard
from swarm.errors import UsageError
from swarm.protocol import ids
from swarm.protocol.placement import Verdict
from swarm.protocol.planning import Spread, begin, runs_there, spread
from swarm.protocol.resources import Shape, shape_of
from swarm.protocol.spec import Spec, SpecError, parse_spec
from swarm.protocol.states import Priority
from transport.links import Link

PEER_TIMEOUT_S = 2.0
TASKS_MAX = 10_000
DISPLACED_SHOWN_MAX = 64
_AMOUNTS = "for example --needs cpu=2 --needs memory=4GB"


class Asked(Protocol):
    """What these answers need of a node."""

    name: str
    fabric: Fabric
    switchboard: Switchboard


class Plans:
    """Answers "plan", and "plan.here" of other nodes."""

    def __init__(self, node: Asked) -> None:
        self._node = node
        node.switchboard.serve("plan", self._plan)
        node.switchboard.serve("plan.here", lambda link, args, body: self._here(args))

    async def _plan(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        shape, priority, count = _wish(args)
        ownership = self._node.fabric.ownership
        executors = list(ownership.executors.values())
        found = spread(executors, shape, priority, count)
        rows = await asyncio.gather(*(self._row(verdict, found, dict(args)) for verdict in found.verdicts))
        at_once = sum(row["tasks"] for row in rows)
        waits = [row["next_s"] for row in rows if row["next_s"] is not None]
        fits = any(verdict.fits for verdict in found.verdicts)
        answer = {
            "node": self._node.name,
            "priority": Priority(priority).name.lower(),
            "needs": dict(shape.needs),
            "labels": list(shape.labels),
            "count": count,
            "at_once": at_once,
            "ahead": sum(ownership.waiting_of(each) for each in range(priority, Priority.CRITICAL + 1)),
            "begins": "at once" if at_once >= count else "later" if fits else "never",
            "begins_s": 0.0 if at_once else min(waits, default=None),
            "nodes": rows,
        }
        sooner = next(
            (
                each for each in range(priority + 1, Priority.CRITICAL + 1)
                if not spread(executors, shape, each, count).left
            ),
            None,
        )  # fmt: skip
        return answer | {"hint": _hint(answer["begins"], sooner)}

    async def _row(self, verdict: Verdict, found: Spread, args: dict[str, Any]) -> dict[str, Any]:
        """What is told of one node."""
        sent = found.tasks.get(verdict.executor, 0)
        row: dict[str, Any] = {
            "name": verdict.name, "fits": verdict.fits, "room": verdict.room, "tasks": sent, "why": verdict.why,
            "next_s": None, "displaced": [],
        }  # fmt: skip
        if not verdict.fits:
            return row
        said: Mapping[str, Any] | None = None
        if verdict.executor == self._node.fabric.ownership.me:
            said = self._here(args | {"count": sent})
        else:
            link = self._node.fabric.node_links.get(verdict.executor)
            if link is not None and link.up:
                try:
                    value, _ = await self._node.switchboard.asked(
                        link, "plan.here", args | {"count": sent}, timeout_s=PEER_TIMEOUT_S
                    )
                except AskFailed as error:
                    row["silent"] = str(error)
                else:
                    said = value if isinstance(value, Mapping) else None
        if said is not None:
            row["tasks"] = min(sent, int(said["at_once"]))
            row["next_s"] = said["next_s"]
            row["displaced"] = list(said["displaced"])
        return row

    def _here(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """How so many would begin on this node."""
        shape, priority, count = _wish(args, least=0)
        now = boottime_s()
        found = begin(self._node.fabric.execution, shape, priority, count, now)
        displaced = []
        for worker in found.displaced[:DISPLACED_SHOWN_MAX]:
            runs = runs_there(worker, now)
            if runs is not None:
                batch, index, name, klass, ran_s = runs
                displaced.append({
                    "id": ids.text(ids.task_id(batch, index)), "name": name,
                    "priority": Priority(klass).name.lower(), "run_s": ran_s,
                })  # fmt: skip
        return {"at_once": found.at_once, "next_s": found.next_s, "displaced": displaced}


def _wish(args: Mapping[str, Any], least: int = 1) -> tuple[Shape, int, int]:
    """The shape, class and number of the tasks that somebody asks for. UsageError for what there is not."""
    priority, count = args.get("priority", Priority.STANDARD), args.get("count", 1)
    if type(priority) is not int or not 0 <= priority <= Priority.CRITICAL:
        raise UsageError(f"there is no priority {priority!r}", hint="there are LOW, STANDARD, HIGH and CRITICAL")
    if type(count) is not int or not least <= count <= TASKS_MAX:
        raise UsageError(f"a plan is for {least} to {TASKS_MAX} tasks, not for {count!r}")
    python = args.get("python")
    if python is not None and not isinstance(python, str):
        raise UsageError(f"there is no interpreter {python!r}", hint="name one that nodes have: --executor name=path")
    spec = Spec(
        "call", ("name", "plan:plan", "plan"), "plan", needs=args.get("needs") or {}, labels=tuple(args.get("labels") or ()),
        python=python,
    )  # fmt: skip
    try:
        return shape_of(parse_spec(spec.encode())), priority, count
    except SpecError as error:
        raise UsageError(str(error), hint=_AMOUNTS) from None


def _hint(begins: str, sooner: int | None) -> str:
    """What to do about it."""
    if begins == "at once":
        return ""
    if begins == "never":
        return "no node takes such tasks: ask for less, or start a node that has what they need"
    if sooner is not None:
        return f"with --priority {Priority(sooner).name.lower()} it would begin at once"
    return "nothing makes way for it: wait, start another node, or have what runs make way (swarm task nice, swarm task move)"
