"""Moving: a task that offers checkpoints leaves one executor while it runs, and goes on at another.

The executor that has it is asked to end it at its next safe point; what it reports then is its state (`Status.SAVED`), with
which this attempt is over and its dispatch number counts no more. Only then is it handed out again, under a greater number,
so that there are never two valid tokens. The state stays here until the task has its outcome: whoever runs it after a death
goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from math import inf

from kernels.tasks import TaskColumns
from swarm.protocol.effects import Fact
from swarm.protocol.ledger.records import Token
from swarm.protocol.owner.batches import Batch, Dispatch, Holdings, MoveOver
from swarm.protocol.owner.placing import Placing
from swarm.protocol.placement import Executor, judge

MOVE = 21
"""The timer of a task that was asked to move."""
MOVES_MAX = 4096
"""Moves that are under way."""

NOT_RUNNING, NO_CHECKPOINT, THERE, UNFIT = "not-running", "no-checkpoint", "there", "unfit"
BUSY, MOVING, LATE, ENDED, UNSAVED, GONE = "busy", "moving", "late", "ended", "unsaved", "gone"

ASKED, DRAIN = "asked", "drain"
"""Why a task is moved: somebody asked for it, or its node drains. See `swarm.protocol.owner.relief` for the others."""


@dataclass(slots=True, eq=False)
class Move:
    """A task that was asked to end at its next safe point."""

    ticket: int
    """No two have the same."""
    batch: Batch
    index: int
    dispatch: Dispatch
    target: Executor | None
    """Where a slot is kept for it; None: wherever there is room then."""
    asked_at: float
    until: float
    where: str
    """Name of the target."""
    why: str = ASKED
    words: str = ""
    """The same for people."""
    saved: bool = False
    nbytes: int = 0
    """Of its state, as it was reported."""


class Moving:
    """Tasks that are asked to move, and the executors that are being emptied."""

    def __init__(self, holdings: Holdings, placing: Placing) -> None:
        self._holdings = holdings
        self._placing = placing
        self._moves: dict[tuple[bytes, int], Move] = {}
        self._tickets = 0
        self._emptied: set[bytes] = set()
        """Executors that drain."""
        self.ended: Callable[[float, Move, str], None] = lambda now, it, reason: None
        """Told what came of a move: "" when the task goes on elsewhere."""
        self.write: Callable[[Batch, int, Token, Callable[[float], None]], None]
        """Writes a state into the log of its batch."""

    def __len__(self) -> int:
        return len(self._moves)

    # --- one task -----------------------------------------------------------------------------------------------------

    def under_way(self) -> Iterable[Move]:
        """Those that are under way."""
        return self._moves.values()

    def is_moving(self, batch: Batch, index: int) -> bool:
        """Whether a task was asked to move."""
        return (batch.key, index) in self._moves

    def move(self, now: float, key: bytes, index: int, node: bytes, within_s: float, by: str = "") -> int:
        """Have a task go on at another node. `MoveOver` says under this ticket what came of it, at once or later; `by` is who
        asks."""
        self._tickets += 1
        ticket = self._tickets
        batch, target = self._holdings.batches.get(key), self._placing.executors.get(node)
        why = self._why_not(batch, index, target)
        if why is not None:
            self._holdings.emit(MoveOver(ticket, *why, target.name if target is not None else "", 0.0))
            return ticket
        assert batch is not None and target is not None
        dispatch = self._placing.dispatches[batch.columns.token(index)]
        words = f"asked for by {by}" if by else "asked for"
        self._begin(Move(ticket, batch, index, dispatch, target, now, now + within_s, target.name, ASKED, words))
        return ticket

    def relieve(
        self, now: float, dispatch: Dispatch, index: int, target: Executor, within_s: float, why: str, words: str
    ) -> None:
        """Have a task that runs go on at another node where there is room for it, without being asked."""
        self._tickets += 1
        batch = dispatch.batch
        assert not self.is_moving(batch, index) and target is not dispatch.executor, (batch.number, index)
        batch.log(now, "leaves", index, index + 1, dispatch.executor.name, f"for {target.name}: {words}")
        self._begin(Move(self._tickets, batch, index, dispatch, target, now, now + within_s, target.name, why, words))

    def _begin(self, it: Move) -> None:
        assert it.target is not None
        it.target.sent(it.batch.shape, 1, it.batch.spec.priority)  # the slot is its from here on
        self._ask(it)
        if it.until < inf:
            self._holdings.timers.at(it.until, MOVE, (it.batch.key, it.index, it.ticket))

    def _why_not(self, batch: Batch | None, index: int, target: Executor | None) -> tuple[str, str] | None:
        if batch is None or not 0 <= index < batch.calls.count:
            return GONE, "its batch is not known here any more"
        name = batch.spec.name or "the task"
        state = batch.columns.state(index)
        if state == TaskColumns.DONE:
            return NOT_RUNNING, f"{name} has ended"
        dispatch = self._placing.dispatches.get(batch.columns.token(index))
        if state != TaskColumns.DISPATCHED or dispatch is None or not dispatch.sent:
            return NOT_RUNNING, f"{name} waits, and does not run"
        if not batch.spec.checkpoint:
            return NO_CHECKPOINT, f"{name} offers no checkpoint, so it cannot be moved while it runs"
        if (batch.key, index) in self._moves or len(self._moves) >= MOVES_MAX:
            return MOVING, f"{name} is being moved already"
        if target is None:
            return GONE, "no node of that name takes tasks"
        if target is dispatch.executor:
            return THERE, f"{name} runs on {target.name} already"
        misfit, _ = target.fit(batch.shape)
        if misfit:
            return UNFIT, f"{name} cannot run on {target.name}: {misfit}"
        verdict = judge(target, batch.shape, None)
        if not target.linked or not verdict.room:
            why = verdict.why if not verdict.room else "is not reached at the moment"
            return BUSY, f"{target.name} cannot take {name} now: it {why}"
        return None

    def _ask(self, move: Move) -> None:
        self._moves[move.batch.key, move.index] = move
        self._placing.recall(move.dispatch, [(move.index, move.index + 1)], False, save=True)

    def saved(
        self, now: float, batch: Batch, index: int, state: memoryview, node: str, token: Token | None = None
    ) -> bool:
        """A task ended itself at a safe point. False when it waits until its state is in the log."""
        moved = batch.saved[index][0] + 1 if index in batch.saved else 1
        batch.saved[index] = (moved, bytes(state))
        it = self._moves.get((batch.key, index))
        if it is not None:
            it.saved, it.nbytes = True, len(state)
        fields = {"batch": batch.key.hex(), "index": index, "node": node, "bytes": len(state)}
        self._holdings.emit(Fact("task.saved", {}, fields))
        if token is None:
            return True
        batch.columns.hold(index)
        batch.unwritten.add(index)
        self.write(batch, index, token, partial(self._written, batch, index))
        return False

    def _written(self, batch: Batch, index: int, now: float) -> None:
        """The log has a task's state, so that whoever leads it goes on from there: it may be handed out again."""
        batch.unwritten.discard(index)
        here = self._holdings.batches.get(batch.key) is batch
        if here and batch.columns.state(index) == TaskColumns.HELD and not batch.waits_apart(index):
            batch.columns.release(index)
            self._placing.push(batch, batch.submitted_at, 1)

    def unsaved(self, now: float, batch: Batch, index: int, why: str) -> None:
        """A task came to a safe point, but its state cannot be sent: it goes on where it is."""
        it = self._moves.get((batch.key, index))
        if it is not None:
            self._placing.recall(it.dispatch, [(index, index + 1)], False, save=False)
            self._over(now, it, UNSAVED, f"its state cannot be sent: {why}")

    def look(self, now: float) -> None:
        """Something came back: hand on what may go on elsewhere now."""
        for it in list(self._moves.values()):
            batch, columns = it.batch, it.batch.columns
            name = batch.spec.name or "the task"
            if self._holdings.batches.get(batch.key) is not batch:
                self._over(now, it, GONE, f"another node answers for {name} now")
            elif columns.state(it.index) == TaskColumns.DONE:
                self._over(now, it, ENDED, f"{name} ended before it was moved")
            elif columns.holds(it.index, it.dispatch.number) or it.index in batch.unwritten:
                continue
            elif columns.state(it.index) == TaskColumns.READY or batch.waits_apart(it.index):
                self._go_on(now, it)
            else:
                self._over(now, it, ENDED, f"this attempt of {name} ended before it was moved")

    def _go_on(self, now: float, it: Move) -> None:
        batch, target = it.batch, it.target
        source = it.dispatch.executor.name
        self._give_back(it)
        if target is None or not target.linked or target.draining or target.suspect:
            self._over(now, it, GONE if it.why != DRAIN else "", "the node is gone; it goes on wherever there is room")
            return
        what = f"from {source}, after {now - it.asked_at:.3f} s" + ("" if it.saved else "; it begins there")
        what += f"; {it.words}" if it.words else ""
        batch.log(now, "moved", it.index, it.index + 1, target.name, what)
        self._placing.send(now, batch, it.index, target)
        self._over(now, it, "", what)

    def _give_back(self, it: Move) -> None:
        if it.target is not None:
            it.target.back(it.batch.shape, 1, it.batch.spec.priority)
            it.target = None

    def _over(self, now: float, it: Move, reason: str, message: str) -> None:
        self._give_back(it)
        self._moves.pop((it.batch.key, it.index), None)
        if it.why == ASKED:
            self._holdings.emit(MoveOver(it.ticket, reason, message, it.where, now - it.asked_at))
        labels = {"why": it.why, "result": reason or "moved"}
        self._holdings.emit(Fact("move.over", labels, {"batch": it.batch.key.hex(), "index": it.index, "to": it.where}))
        self.ended(now, it, reason)

    def late(self, now: float, key: bytes, index: int, ticket: int) -> None:
        """The time of a move is over: it stays where it is."""
        it = self._moves.get((key, index))
        if it is None or it.ticket != ticket:
            return
        self._placing.recall(it.dispatch, [(index, index + 1)], False, save=False)
        name = it.batch.spec.name or "the task"
        it.batch.log(now, "stays", index, index + 1, it.dispatch.executor.name, "it came to no safe point in time")
        self._over(
            now, it, LATE, f"{name} came to no safe point within {it.until - it.asked_at:g} s; it goes on where it is"
        )

    def executor_gone(self, node: bytes) -> None:
        """An executor is about to be forgotten: no slot is kept there."""
        self._emptied.discard(node)
        for it in self._moves.values():
            if it.target is not None and it.target.id == node:
                self._give_back(it)

    # --- an executor that drains --------------------------------------------------------------------------------------

    def heard(self, now: float, it: Executor) -> None:
        """An executor said how busy it is: whether it drains, and whether there is room for what has to leave another."""
        if it.draining and it.dispatches:
            self._emptied.add(it.id)
        elif it.id in self._emptied:
            self._emptied.discard(it.id)
        if self._emptied:
            self._empty(now)

    def _empty(self, now: float) -> None:
        for node in sorted(self._emptied):
            source = self._placing.executors.get(node)
            if source is None or not source.dispatches:
                self._emptied.discard(node)
                continue
            for number in sorted(source.dispatches):
                dispatch = source.dispatches[number]
                if not dispatch.batch.spec.checkpoint or not dispatch.sent or len(self._moves) >= MOVES_MAX:
                    continue
                for start, stop in dispatch.batch.outstanding(number):
                    for index in range(start, stop):
                        self._ask_off(now, dispatch, index, source)

    def _ask_off(self, now: float, dispatch: Dispatch, index: int, source: Executor) -> None:
        batch = dispatch.batch
        if (batch.key, index) in self._moves:
            return
        for node in sorted(self._placing.executors):
            target = self._placing.executors[node]
            if target is source or not target.linked or target.draining:
                continue
            if judge(target, batch.shape, None).room > 0:
                self._tickets += 1
                words = f"{source.name} drains"
                self._begin(Move(self._tickets, batch, index, dispatch, target, now, inf, target.name, DRAIN, words))
                return
