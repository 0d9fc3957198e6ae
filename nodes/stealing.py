"""Stealing between nodes: carries the questions and answers of `swarm.protocol.stealing` over the links."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from kernels.batch import Calls
from nodes.queries import Switchboard
from swarm.errors import UsageError
from swarm.protocol.effects import Fact
from swarm.protocol.placement import Executor
from swarm.protocol.spec import Spec
from swarm.protocol.stealing import LOTS_MAX, Dice, Lot, Promises, Thief, lots, pays, read_lot, transfer_s
from transport.links import Link

if TYPE_CHECKING:
    from nodes.fabric import Fabric

ASK_S = 1.0
"""An answer is waited for so long."""
SLOTS_MAX = 65536


class Stealing:
    """One node's part in stealing: it asks while it has free slots, answers while work waits here, and approves as an owner."""

    def __init__(self, fabric: Fabric, switchboard: Switchboard, loop: asyncio.AbstractEventLoop, dice: Dice) -> None:
        self._fabric = fabric
        self._switchboard = switchboard
        self._loop = loop
        self._thief = Thief(dice)
        self._promises = Promises(dice)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.is_here: Callable[[bytes], bool] = lambda blob: False
        """Whether a blob is on this node."""
        self.blobs_of: Callable[[Spec, Calls], Mapping[bytes, int]] = lambda spec, calls: {}
        """The blobs that tasks refer to, with their sizes."""
        switchboard.serve("steal.lots", self._lots)
        switchboard.serve("steal.take", self._take)
        fabric.stealing = self

    def close(self) -> None:
        """Ask no more."""
        if self._timer is not None:
            self._timer.cancel()

    # --- the idle node ------------------------------------------------------------------------------------------------

    def turn(self, now: float) -> None:
        """Something happened on this node."""
        thief = self._thief
        thief.turn(now, self._idle())
        at = thief.next_deadline()
        if at is not None and (self._timer is None or at < self._timer_at):
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = self._loop.call_later(max(0.0, at - now), self._due)

    def _idle(self) -> bool:
        execution = self._fabric.execution
        return execution.account.free_cpu >= 1.0 and not execution.waiting and not execution.draining

    def _due(self) -> None:
        self._timer = None
        fabric = self._fabric
        if fabric.closed:
            return
        now = fabric.now()
        it = self._thief.ask(now, fabric.ownership.executors.values()) if self._idle() else None
        if it is not None:
            self._ask(it)
        elif self._thief.next_deadline() is not None:
            self.turn(now)

    def _ask(self, it: Executor) -> None:
        fabric = self._fabric
        link = fabric.node_links.get(it.id)
        if link is None or not link.up:
            fabric.connect(it.id)
            self._through(0)
            return
        fabric.happened(Fact("steal.asked"))
        slots = fabric.execution.account.free_cpu
        self._switchboard.ask(
            link, "steal.lots", {"slots": slots}, lambda value, error, body: self._offered(it.id, value, error),
            timeout_s=ASK_S,
        )  # fmt: skip

    def _offered(self, victim: bytes, value: Any, error: Any) -> None:
        """A busy node said what could go: what pays is asked for, of each lot's owner."""
        told = value.get("lots") if error is None and isinstance(value, dict) else None
        found: list[Lot] = []
        try:
            found = [read_lot(lot) for lot in told[:LOTS_MAX]] if isinstance(told, list) else []
        except ValueError as wrong:
            self._fabric.happened(Fact("steal.refused", {"by": "thief"}, {"why": str(wrong)}))
        is_here = self.is_here
        wanted = sorted((lot for lot in found if pays(lot, is_here)), key=lambda lot: transfer_s(lot, is_here))
        if len(wanted) < len(found):
            self._fabric.happened(Fact("steal.refused", {"by": "thief"}, {"why": "the wait is shorter than the way"}))
        if not wanted or not self._idle():
            self._through(0)
            return
        left = {"lots": len(wanted), "tasks": 0}

        def answered(lot: Lot, value: Any, error: Any, body: Any = b"") -> None:
            if error is None and isinstance(value, dict) and value.get("why") == "":
                left["tasks"] += lot.stop - lot.start
                self._fabric.happened(Fact("steal.approved", {}, {}, lot.stop - lot.start))
            left["lots"] -= 1
            if not left["lots"]:
                self._through(left["tasks"])

        for lot in wanted:
            self._claim(victim, lot, partial(answered, lot))

    def _claim(self, victim: bytes, lot: Lot, answered: Callable[..., None]) -> None:
        fabric = self._fabric
        if lot.owner == fabric.me:
            why = fabric.ownership.approve(
                fabric.now(), fabric.me, lot.nonce, victim, lot.dispatch, lot.start, lot.stop, lot.wait_s
            )
            fabric.turn()
            answered({"why": why}, None)
            return
        link = fabric.node_links.get(lot.owner)
        if link is None or not link.up:
            fabric.connect(lot.owner)
            answered(None, ["link", "its owner is not linked", "", {}])
            return
        args = {"n": lot.nonce, "from": victim, "d": lot.dispatch, "r": [lot.start, lot.stop], "wait": lot.wait_s}
        self._switchboard.ask(link, "steal.take", args, answered, timeout_s=ASK_S)

    def _through(self, tasks: int) -> None:
        now = self._fabric.now()
        self._thief.answered(now, tasks)
        self.turn(now)

    # --- the busy node ------------------------------------------------------------------------------------------------

    def _lots(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        """What waits here that the asking node could have."""
        slots = args.get("slots")
        it = self._fabric.ownership.executors.get(_node(link))
        if not isinstance(slots, int | float) or not 0 < slots <= SLOTS_MAX:
            raise UsageError("free slots are a number")
        if it is None:
            return {"lots": []}
        found = lots(
            self._fabric.execution, self._promises, self._fabric.now(), float(slots),
            lambda shape: not it.fit(shape)[0], self.blobs_of,
        )  # fmt: skip
        return {"lots": [lot.encode() for lot in found]}

    # --- the owner ----------------------------------------------------------------------------------------------------

    def _take(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        """The asking node wants a lot that another one told it of."""
        thief = _node(link)
        match args:
            case {
                "n": int(nonce),
                "from": bytes(victim),
                "d": int(number),
                "r": [int(start), int(stop)],
                "wait": wait_s,
            }:
                pass
            case _:
                raise UsageError("a lot is named by its nonce, its node, its dispatch and its tasks")
        if not isinstance(wait_s, int | float):
            raise UsageError("a wait is a number of seconds")
        fabric = self._fabric
        why = fabric.ownership.approve(fabric.now(), thief, nonce, victim, number, start, stop, float(wait_s))
        fabric.turn()
        return {"why": why}


def _node(link: Link) -> bytes:
    if link.identity.role != "node":
        raise UsageError(f"{link.identity.name} is no node", hint="what waits is handed on between nodes only")
    return link.identity.id
