"""Moves that people ask for: a task that runs goes on at another node."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from nodes.fabric import Fabric, boottime_s
from nodes.leaders import Logs, sought
from nodes.queries import AskFailed, Switchboard
from swarm.errors import NotFound, UsageError
from swarm.protocol import ids
from swarm.protocol.owner import moving
from swarm.protocol.owner.batches import Batch, MoveOver
from transport.links import Link

WITHIN_S = 30.0
WITHIN_S_MAX = 3600.0
PEER_SLACK_S = 2.0
LINK_S = 5.0
"""So long a link to the node that a task is to go to may take."""
LOOK_EVERY_S = 0.02
NO_NODE = "no-node"
BY_CHARACTERS_MAX = 256


class Asked(Protocol):
    """What these answers need of a node."""

    name: str
    fabric: Fabric
    switchboard: Switchboard

    @property
    def ledger(self) -> Logs | None: ...


_HINTS = {
    moving.NOT_RUNNING: "what waits is placed where there is room first; swarm task explain says why it waits",
    moving.NO_CHECKPOINT: "tasks offer one with @swarm.task(checkpoint=True) and swarm.checkpoint(state)",
    moving.THERE: "",
    moving.UNFIT: "swarm fleet members shows what each node has",
    moving.BUSY: "ask again later, or name another node",
    moving.MOVING: "swarm task explain tells where it goes",
    moving.LATE: "it comes to none while it waits for something else; --within waits longer",
    moving.ENDED: "swarm task show says how",
    moving.UNSAVED: "give swarm.checkpoint() what can be pickled",
    moving.GONE: "swarm task explain tells where it is",
}


class Moves:
    """Answers "move", wherever in the fleet the task is known."""

    def __init__(self, node: Asked) -> None:
        self._node = node
        self._waiting: dict[int, asyncio.Future[MoveOver]] = {}
        self._over: dict[int, MoveOver] = {}
        node.fabric.move_over = self._is_over
        node.switchboard.serve("move", self._move)

    def _is_over(self, it: MoveOver) -> None:
        waiting = self._waiting.pop(it.ticket, None)
        if waiting is None:
            self._over[it.ticket] = it  # before its ticket was known
        elif not waiting.done():
            waiting.set_result(it)

    async def _move(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        prefix, name = str(args["task"]).lower(), str(args["node"])
        within_s = float(args.get("within_s", WITHIN_S))
        if not 0 < within_s <= WITHIN_S_MAX:
            raise UsageError(f"a task is given more than 0 and at most {WITHIN_S_MAX:g} s to come to a safe point")
        by = str(args.get("by") or "")[:BY_CHARACTERS_MAX] if link.identity.role == "node" else link.identity.name

        async def look() -> dict[str, Any] | None:
            found = self._node.fabric.ownership.find(prefix)
            if len(found) > 1:
                raise NotFound(f"{prefix!r} begins more than one task id", hint="give more characters")
            if found:
                return await self._moved(*found[0], name, within_s, by)
            return None if args.get("here") else await self._elsewhere({**args, "by": by}, within_s)

        missing = NotFound(f"no task {prefix!r} is known", hint="swarm task list shows what is there")
        return await sought(None if args.get("here") else self._node.ledger, look, missing)

    async def _moved(self, batch: Batch, index: int, name: str, within_s: float, by: str) -> dict[str, Any]:
        fabric = self._node.fabric
        executors = fabric.ownership.executors
        target = next((id for id in sorted(executors) if executors[id].name == name), None)
        task = ids.text(ids.task_id(batch.key, index))
        shown = {"id": task, "name": batch.spec.name, "node": name}
        if target is None:
            text, hint = f"no node {name!r} takes tasks", "swarm fleet members lists them"
            return shown | {"moved": False, "reason": NO_NODE, "message": text, "hint": hint, "took_s": 0.0}
        within_s -= await self._reached(target, min(within_s / 2, LINK_S))
        ticket = fabric.ownership.move(boottime_s(), batch.key, index, target, within_s, by)
        fabric.turn()
        over = self._over.pop(ticket, None)
        if over is None:
            over = await self._waiting.setdefault(ticket, asyncio.get_running_loop().create_future())
        # A refusal is an answer, too: asked on by another node, the error would lose its reason.
        return shown | {
            "moved": not over.reason, "reason": over.reason, "message": over.message, "took_s": over.took_s,
            "hint": _HINTS.get(over.reason, ""),
        }  # fmt: skip

    async def _reached(self, node: bytes, within_s: float) -> float:
        """Have a link to a member, which are opened when they are wanted; for how many seconds that was waited for."""
        fabric, began = self._node.fabric, boottime_s()
        executors, me = fabric.ownership.executors, fabric.me
        if node != me and not executors[node].linked:
            fabric.connect(node)
        while node != me and node in executors and not executors[node].linked and boottime_s() - began < within_s:
            await asyncio.sleep(LOOK_EVERY_S)
        return boottime_s() - began

    async def _elsewhere(self, args: Mapping[str, Any], within_s: float) -> dict[str, Any] | None:
        links = [link for _, link in sorted(self._node.fabric.node_links.items()) if link.up]

        async def one(link: Link) -> dict[str, Any] | None:
            try:
                asked = dict(args) | {"here": True}
                value, _ = await self._node.switchboard.asked(link, "move", asked, timeout_s=within_s + PEER_SLACK_S)
            except AskFailed:
                return None
            return value if isinstance(value, dict) else None

        answers = await asyncio.gather(*(one(link) for link in links))
        return next((value for value in answers if value is not None), None)
