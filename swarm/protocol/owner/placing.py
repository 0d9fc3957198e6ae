"""Placing: who could run what is ready, and what is out at whom."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from kernels.tasks import TaskColumns
from swarm.protocol.ledger.records import Token
from swarm.protocol.messages import Kind
from swarm.protocol.outbound import Tell
from swarm.protocol.owner.batches import Batch, Connect, Dispatch, Holdings, ToExecutor
from swarm.protocol.placement import Executor, Verdict, judge, rank
from swarm.protocol.resources import Capacity, ReadyShapes, Shape
from swarm.protocol.runtimes import Runtimes

WINDOW_STEP = 1024
"""Tasks in one dispatch at most, so that a recall or a loss concerns few."""

MayStart = Callable[[Batch], bool]
"""Asks for the start of a batch's ready tasks that may not be repeated. False: none of them may begin now."""
Hand = Callable[[Dispatch], None]
"""Hands a dispatch of a durable batch over, as soon as that may be."""
Lost = Callable[[float, Dispatch, list[int], str], None]
"""(now, dispatch, indices, why): tasks were lost with their executor."""


class Placing:
    """Executors, the ready tasks, and the dispatches. Every dispatch has a number, which is its fencing token."""

    def __init__(self, holdings: Holdings, me: bytes, name: str, capacity: Capacity, epoch: int) -> None:
        self._holdings = holdings
        self._me = me
        self.runtimes = Runtimes()
        local = Executor(me, name, capacity, local=True, linked=True, free=capacity.totals.get("cpu", 0.0))
        self.executors: dict[bytes, Executor] = {me: local}
        self.dispatches: dict[int, Dispatch] = {}
        self.ready = ReadyShapes()
        # Dispatch numbers of a later life of this node are above those of an earlier one: 2^40 dispatches a life.
        self._number = epoch << 40
        self.may_start: MayStart
        self.hand: Hand
        self.lost: Lost

    # --- executors ----------------------------------------------------------------------------------------------------

    def seen(self, node: bytes, name: str, capacity: Capacity, load: Mapping[str, Any]) -> None:
        """A member said what it has and how busy it is."""
        it = self.executors.get(node)
        if it is None:
            it = self.executors[node] = Executor(node, name, capacity, free=capacity.totals.get("cpu", 0.0))
        if it.capacity != capacity:
            it.capacity = capacity
            it.fits.clear()
        it.name = name
        it.suspect = False
        it.heard(load)

    def gone(self, now: float, node: bytes, why: str) -> bool:
        """An executor is gone (dead, left, or its link is down). False when it was none, or is this very node."""
        it = self.executors.get(node)
        if it is None or it.local:
            return False
        if why == "link":
            it.linked = False
        else:
            del self.executors[node]
        for number in sorted(it.dispatches):
            dispatch = it.dispatches[number]
            self.dispatches.pop(number, None)
            indices = [index for start, stop in dispatch.batch.outstanding(number) for index in range(start, stop)]
            self.lost(now, dispatch, indices, f"the node is gone ({why})")
        it.dispatches.clear()
        it.inflight.clear()
        it.ours = it.urgent = 0
        return True

    def relinked(
        self, now: float, node: bytes, held: Mapping[int, list[tuple[int, int]]], asked: Collection[int] | None
    ) -> bool:
        """A link is back, and `held` is what its executor still has. False when it is no executor."""
        it = self.executors.get(node)
        if it is None:
            return False
        for number in sorted(it.dispatches):
            dispatch = it.dispatches[number]
            if (asked is not None and number not in asked) or not dispatch.sent:
                continue
            here = held.get(number, [])
            lost = [
                index
                for start, stop in dispatch.batch.outstanding(number)
                for index in range(start, stop)
                if not any(begin <= index < end for begin, end in here)
            ]
            if lost:
                self.lost(now, dispatch, lost, "a report was lost on the way")
                self.returned(dispatch, len(lost))
            given_up = dispatch.batch.killed
            if given_up and number in it.dispatches:
                # That the client wants them ended may have been lost as well.
                self.recall(dispatch, given_up, True)
        return True

    # --- starting -----------------------------------------------------------------------------------------------------

    def push(self, batch: Batch, since: float, count: int) -> None:
        """So many tasks of a batch are ready."""
        spec = batch.spec
        self.ready.push(batch.shape, batch.number, spec.priority, spec.nice, int(since * 1e9), count)

    def pump(self, now: float) -> None:
        """Place ready tasks until they or the executors' windows run out."""
        if not self.ready.tasks:
            return
        now_ns = int(now * 1e9)
        for shape in self.ready.shapes(now_ns):
            while (head := self.ready.head(shape, now_ns)) is not None:
                batch = self._holdings.by_number[head[0]]
                if not batch.spec.rerun and batch.durable is None and not self.may_start(batch):
                    continue
                if not self._place(now, batch, shape, head[1]):
                    break

    def _place(self, now: float, batch: Batch, shape: Shape, waiting: int) -> bool:
        """Hand some of a batch to the best executor. False when none has room."""
        mean = self.runtimes.mean_s(batch.raw)
        if len(self.executors) == 1:
            verdicts = [judge(self.executors[self._me], shape, mean, batch.spec.priority)]
        else:
            executors = list(self.executors.values())
            verdicts = rank(
                [executors[0], *sorted(executors[1:], key=lambda one: one.id)], shape, mean, batch.spec.priority
            )
        chosen = next((verdict for verdict in verdicts if verdict.room and self._reachable(verdict)), None)
        if chosen is None:
            self._explain_wait(now, batch, verdicts)
            return False
        it = self.executors[chosen.executor]
        room = sum(verdict.room for verdict in verdicts)
        # Several executors with room share what is left, so that all of them end at about the same time.
        share = -(-waiting * chosen.room // room) if room > chosen.room else waiting
        limit = max(1, min(chosen.room, share, WINDOW_STEP))
        dispatch = self.take(now, batch, it, limit)
        assert dispatch is not None, (batch.number, waiting)
        start, stop = dispatch.start, dispatch.stop
        if chosen.displaces:
            it.displaced(shape, batch.spec.priority, stop - start)
        self.ready.take(shape, batch.number, stop - start)
        if len(verdicts) > 1:
            detail = [(verdict.name, verdict.room, round(verdict.wait_s, 3), verdict.why) for verdict in verdicts[:16]]
        else:
            detail = None
        batch.log(now, "placed", start, stop, it.name, detail)
        if batch.durable is None:
            self._holdings.emit(handed(dispatch))
        else:
            self.hand(dispatch)
        return True

    def take(self, now: float, batch: Batch, it: Executor, limit: int) -> Dispatch | None:
        """Put the next ready range of a batch down as being out at an executor, under a new number."""
        self._number += 1
        number = self._number
        taken = batch.columns.take(limit, number)
        if taken is None:
            return None
        start, count = taken
        dispatch = Dispatch(number, batch, it, start, start + count, count, now)
        self.dispatches[number] = dispatch
        it.dispatches[number] = dispatch
        it.sent(batch.shape, count, batch.spec.priority)
        return dispatch

    def adopt(
        self, now: float, batch: Batch, it: Executor, rows: list[tuple[int, int]], token: Token | None
    ) -> Dispatch:
        """Put held ranges of a batch down as being out at an executor already, under a new number and their old token."""
        self._number += 1
        number, count, columns = self._number, 0, batch.columns
        # What was adopted before and is lost again may be ready by now: that is not here, and waits on.
        others = [
            index for start, stop in (batch.pending() if columns.ready else ()) for index in range(start, stop)
            if columns.state(index) == TaskColumns.READY
        ]  # fmt: skip
        for index in others:
            columns.hold(index)
        for start, stop in rows:
            for index in range(start, stop):
                columns.release(index)
            while (taken := columns.take(stop - start, number)) is not None:
                count += taken[1]
        for index in others:
            columns.release(index)
        dispatch = Dispatch(number, batch, it, rows[0][0], rows[-1][1], count, now, token)
        self.dispatches[number] = it.dispatches[number] = dispatch
        it.sent(batch.shape, count, batch.spec.priority)
        return dispatch

    def next_number(self) -> int:
        """A number for what is only to be given up."""
        self._number += 1
        return self._number

    def give_up(self, batch: Batch) -> list[Dispatch]:
        """Nothing of a batch is out or ready any more, as far as this owner is concerned; its dispatches."""
        self.ready.remove(batch.shape, batch.number)
        mine = [dispatch for dispatch in self.dispatches.values() if dispatch.batch is batch]
        for dispatch in mine:
            self.returned(dispatch, dispatch.left)
        return mine

    def _reachable(self, verdict: Verdict) -> bool:
        executor = self.executors[verdict.executor]
        if not executor.linked:
            self._holdings.emit(Connect(executor.id))
        return executor.linked

    @staticmethod
    def _explain_wait(now: float, batch: Batch, verdicts: list[Verdict]) -> None:
        detail = [(verdict.name, verdict.room, round(verdict.wait_s, 3), verdict.why) for verdict in verdicts[:16]]
        if batch.trace and batch.trace[-1][1] == "waits":
            batch.trace.pop()
        batch.log(now, "waits", 0, batch.calls.count, "", detail)

    # --- coming back --------------------------------------------------------------------------------------------------

    def out(self, number: int, executor: bytes) -> Dispatch | None:
        """A dispatch, if it is out at this executor."""
        dispatch = self.dispatches.get(number)
        return dispatch if dispatch is not None and dispatch.executor.id == executor else None

    def returned(self, dispatch: Dispatch, count: int) -> None:
        """`count` tasks of a dispatch are out no more."""
        dispatch.left -= count
        it = dispatch.executor
        it.back(dispatch.batch.shape, count, dispatch.batch.spec.priority)
        if dispatch.left <= 0:
            self.dispatches.pop(dispatch.number, None)
            it.dispatches.pop(dispatch.number, None)

    def recall(self, dispatch: Dispatch, wanted: list[tuple[int, int]], kill: bool) -> None:
        """Ask for tasks of a dispatch to be given back; with `kill` those that run are ended."""
        header = {"d": dispatch.number, "r": [list(pair) for pair in wanted], "k": kill}
        self._holdings.emit(Tell(dispatch.executor.id, Kind.RECALL, header))


def handed(dispatch: Dispatch) -> ToExecutor:
    """The effect that hands a dispatch over."""
    batch, start, stop = dispatch.batch, dispatch.start, dispatch.stop
    lengths, payloads = batch.calls.slice(start, stop)
    extra: dict[str, Any] = {}
    if batch.dep_order:
        extra["deps"] = [batch.deps[dep] for dep in batch.dep_order]
    if dispatch.token is not None:
        extra["token"] = list(dispatch.token)
    attempts = batch.columns.attempts(start) - 1 + batch.attempt
    return ToExecutor(
        dispatch.executor.id, dispatch.number, batch.key, batch.spec, batch.raw, batch.granted, start, stop - start,
        attempts, extra, lengths, payloads,
    )  # fmt: skip
