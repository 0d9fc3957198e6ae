"""Approvals: the owner's part in stealing (`swarm.protocol.stealing`).

An idle node asks for tasks that wait at another. The owner approves each lot once, by its nonce, and recalls it. What the busy node
gives back as never begun is handed to the idle one under a new dispatch number, the fencing token; what began meanwhile stays, and
what comes back too late, or when the idle node is not there any more, is placed as anything that comes back.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from kernels.batch import Outcomes
from swarm.protocol.effects import Fact
from swarm.protocol.owner.batches import Dispatch, Holdings
from swarm.protocol.owner.placing import WINDOW_SAVED, Placing
from swarm.protocol.owner.words import ranges
from swarm.protocol.placement import Executor
from swarm.protocol.states import Status

APPROVED_S = 1.0
"""What does not come back within so long is not the idle node's any more."""
NONCES_MAX = 65536


@dataclass(frozen=True, slots=True)
class Approval:
    """A lot that an idle node may have, if it comes back unbegun in time."""

    thief: bytes
    start: int
    stop: int
    until: float
    wait_s: float


class Approvals:
    """Lots that were approved and are on their way back, by dispatch number."""

    def __init__(self, holdings: Holdings, placing: Placing) -> None:
        self._holdings = holdings
        self._placing = placing
        self._open: dict[int, list[Approval]] = {}
        self._nonces: OrderedDict[tuple[bytes, int], None] = OrderedDict()
        """(busy node, nonce) of every lot that was approved or refused lately: none counts twice."""

    def approve(
        self, now: float, thief: bytes, nonce: int, victim: bytes, number: int, start: int, stop: int, wait_s: float
    ) -> str:
        """Why an idle node may not have a lot that waits at another, or "": then it is recalled from there."""
        why = self._judge(now, thief, nonce, victim, number, start, stop)
        if why:
            self._holdings.emit(Fact("steal.refused", {"by": "owner"}, {"why": why}))
            return why
        self._nonces[victim, nonce] = None
        if len(self._nonces) > NONCES_MAX:
            self._nonces.popitem(last=False)
        dispatch = self._placing.dispatches[number]
        self._open.setdefault(number, []).append(Approval(thief, start, stop, now + APPROVED_S, wait_s))
        self._placing.recall(dispatch, [(start, stop)], False)
        return ""

    def _judge(self, now: float, thief: bytes, nonce: int, victim: bytes, number: int, start: int, stop: int) -> str:
        self._expire(now)
        if (victim, nonce) in self._nonces:
            return "the lot was asked for before"
        dispatch = self._placing.out(number, victim)
        if dispatch is None or not dispatch.sent or not dispatch.start <= start < stop <= dispatch.stop:
            return "the tasks are not there any more"
        if any(one.start < stop and start < one.stop for one in self._open.get(number, ())):
            return "another node has asked first"
        it = self._placing.executors.get(thief)
        if it is None or thief == victim or not _takes(it):
            return "the node that asks takes no work"
        return it.fit(dispatch.batch.queued)[0]

    def redirect(self, now: float, dispatch: Dispatch, report: Outcomes) -> None:
        """A report in which something may be given back: what of it was approved goes to who asked, under a new token."""
        approved = self._open.get(dispatch.number)
        if approved is None:
            return
        self._expire(now)
        batch, columns, number = dispatch.batch, dispatch.batch.columns, dispatch.number
        back: dict[int, list[int]] = {}
        for row in range(report.count):
            index = report.index(row)
            if report.status(row) != Status.RETURNED or not columns.holds(index, number) or batch.is_cancelled(index):
                continue
            for at, one in enumerate(approved):
                if one.start <= index < one.stop and now < one.until:
                    back.setdefault(at, []).append(index)
                    break
        for at, indices in sorted(back.items()):
            it = self._placing.executors.get(approved[at].thief)
            if it is not None and _takes(it):
                self._move(now, dispatch, it, sorted(set(indices)), approved[at].wait_s)
        for at in sorted(back, reverse=True):
            del approved[at]
        if not approved:
            self._open.pop(number, None)

    def _move(self, now: float, dispatch: Dispatch, it: Executor, indices: list[int], wait_s: float) -> None:
        batch, source = dispatch.batch, dispatch.executor.name
        self._placing.returned(dispatch, len(indices))
        for start, stop in ranges(indices):
            why = f"it waited on {source} and would have begun there in about {wait_s:.3g} s; {it.name} had a free slot"
            batch.log(now, "stolen", start, stop, it.name, why)
            step = WINDOW_SAVED if batch.saved else stop - start
            for first in range(start, stop, step):
                self._placing.pass_on(now, dispatch, it, first, min(stop, first + step))
        self._holdings.emit(
            Fact("steal.moved", {}, {"batch": batch.key.hex(), "from": source, "to": it.name}, len(indices))
        )

    def _expire(self, now: float) -> None:
        for number in [number for number, each in self._open.items() if all(one.until <= now for one in each)]:
            del self._open[number]


def _takes(it: Executor) -> bool:
    return it.linked and not it.draining and not it.suspect
