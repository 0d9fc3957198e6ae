"""Leading: taking over the batches of a log, adopting what of them runs, and giving them up to the next leader.

A new leader knows from the log what was submitted, granted and ended, but not what runs. So it asks the executors first.
An attempt that is there under the token that its tasks have in the log is adopted: it goes on, under its token. Tasks that
nobody has when all have answered, or when `adopt_s` is over, are placed again under greater tokens. Attempts with other
tokens are ended; their outcomes would not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kernels.tasks import TaskColumns
from swarm.protocol.effects import Fact
from swarm.protocol.ledger.batch import BatchState
from swarm.protocol.ledger.homes import TAG_BYTES, home_of, home_tag, is_local
from swarm.protocol.ledger.records import Durability, Token
from swarm.protocol.messages import Kind
from swarm.protocol.outbound import Tell
from swarm.protocol.owner.batches import Adopt, AskHeld, Batch, Durable, Holdings
from swarm.protocol.owner.clients import Clients
from swarm.protocol.owner.dependencies import Dependencies
from swarm.protocol.owner.ending import EXPIRE, RETENTION, Ending, Said
from swarm.protocol.owner.placing import Placing
from swarm.protocol.owner.recording import Recording
from swarm.protocol.owner.words import ranges, said
from swarm.protocol.resources import shape_of
from swarm.protocol.spec import parse_spec
from swarm.protocol.states import Status

ADOPT = 7
"""The timer of what executors are waited for."""
LOOK_AGAIN_S = 30.0
"""How often it is looked whether the log has forgotten a batch."""

Held = tuple[bytes, bytes, int, Token, list[tuple[int, int]]]
"""(batch key, owner that handed it over, its dispatch, token, ranges that are not reported) of a run at an executor."""


@dataclass(slots=True)
class Adopting:
    """A take-over that is under way."""

    epoch: int
    states: dict[bytes, BatchState]
    """Of the batches that are not finished."""
    answered: set[bytes] = field(default_factory=set)


class Leading:
    """The groups that this node leads, and how it came to do so."""

    def __init__(
        self,
        holdings: Holdings,
        placing: Placing,
        ending: Ending,
        clients: Clients,
        recording: Recording,
        dependencies: Dependencies,
    ) -> None:
        self._holdings = holdings
        self._placing = placing
        self._ending = ending
        self._clients = clients
        self._recording = recording
        self._dependencies = dependencies
        self.led: dict[bytes, int] = {}
        """Groups led -> epoch."""
        self._logs: dict[bytes, Mapping[bytes, BatchState]] = {}
        """What is in the logs of these, as they go on."""
        self._adopting: dict[bytes, Adopting] = {}

    def group_of(self, key: bytes, level: int) -> bytes | None:
        """The group led here that a batch belongs to, or None."""
        for group in sorted(self.led):
            if home_tag(home_of(group)) == key[:TAG_BYTES] and is_local(group) == (level == Durability.NODE):
                return group
        return None

    # --- taking over --------------------------------------------------------------------------------------------------

    def lead(
        self,
        now: float,
        now_wall: float,
        group: bytes,
        epoch: int,
        states: Mapping[bytes, BatchState],
        copies: int,
        hosts: int,
    ) -> None:
        """This node leads a group: its log's batches are this owner's from here on."""
        clients = {batch.key: batch.clients for batch in self._give_up(now, group)}
        self.led[group] = epoch
        self._logs[group] = states
        adopting = Adopting(epoch, {})
        batches: list[tuple[Batch, BatchState]] = []
        for key, state in states.items():
            batch = self._taken_over(now, now_wall, group, epoch, state)
            assert batch.durable is not None
            batch.durable.copies, batch.durable.hosts = copies, hosts
            self._holdings.batches[key] = batch
            if state.unfinished:
                adopting.states[key] = state
                batches.append((batch, state))
        for key, client in [(key, client) for key, told in clients.items() for client in reversed(told)]:
            # It hears what it has not heard yet; of what the log does not have, that nobody knows it.
            if key in states:
                self._clients.attach(now, self._holdings.batches[key], client)
            else:
                self._clients.unknown(client, key)
        self._holdings.emit(Fact("ledger.taken_over", {}, {"group": group.hex(), "epoch": epoch}, len(batches)))
        if not batches:
            return
        self._adopting[group] = adopting
        for batch, state in batches:
            if batch.spec.deadline is not None:
                batch.expires_at = now + max(0.0, batch.spec.deadline - batch.wall(now))
                self._holdings.timers.at(batch.expires_at, EXPIRE, batch)
            if state.submitted.deps:
                self._dependencies.wait_for(now, batch, list(state.submitted.deps))
        self._holdings.timers.at(now + self._holdings.config.adopt_s, ADOPT, (group, epoch))
        for node in sorted(self._placing.executors):
            self._ask(group, adopting, node)

    def _taken_over(self, now: float, now_wall: float, group: bytes, epoch: int, state: BatchState) -> Batch:
        submitted, holdings = state.submitted, self._holdings
        spec = parse_spec(submitted.raw)
        batch = Batch(
            next(holdings.numbers), state.key, None, submitted.author, spec, submitted.raw, submitted.granted, shape_of(spec),
            state.calls, TaskColumns(state.count), now - max(0.0, now_wall - submitted.wall), submitted.wall, now,
        )  # fmt: skip
        batch.durable = Durable(
            group, submitted.durability, submitted.digest, state.epoch, epoch, state.unfinished, submitted.retention_s,
            True,
        )  # fmt: skip
        batch.durable.kept.update(blob.id for blob in state.kept)
        # Attempts of another epoch are others: what they submit themselves is not to be taken for the same.
        batch.attempt = epoch - state.epoch
        batch.log(now, "taken over", 0, state.count, "", f"epoch {epoch}")
        batch.cancelled, batch.killed = list(state.cancelled), list(state.killed)
        batch.own, batch.own_apart = state.urgency((batch.spec.priority, batch.spec.nice))
        batch.priority, batch.nice = batch.own
        batch.apart = dict(batch.own_apart) if state.count > 1 else {}
        if state.count == 1:
            batch.priority, batch.nice = batch.own = batch.own_apart.get(0, batch.own)
        batch.retries = {index: retries for index, (_, retries) in state.counts.items() if retries}
        batch.saved = {index: (moved, content) for index, (moved, _, content) in state.saved.items()}
        columns = batch.columns
        for index, (crashes, _) in state.counts.items():
            for _ in range(crashes):
                columns.crashed(index)
        for _, report, body in state.outcomes:
            batch.outcomes.append((report, body))
            batch.outcome_bytes += report.nbytes
            for row in range(report.count):
                columns.finish(report.index(row))
                status = report.status(row)
                batch.counts[status] = batch.counts.get(status, 0) + 1
        if not state.unfinished:
            batch.finished_at = now - max(0.0, now_wall - (state.finished_wall or submitted.wall))
            holdings.timers.at(batch.finished_at + submitted.retention_s, RETENTION, batch)
            return batch
        for start, stop in state.pending():
            for index in range(start, stop):
                columns.hold(index)
        holdings.by_number[batch.number] = batch
        holdings.tasks += state.unfinished
        holdings.bytes += state.calls.nbytes
        holdings.outcome_bytes += batch.outcome_bytes
        return batch

    # --- adopting -----------------------------------------------------------------------------------------------------

    def _ask(self, group: bytes, adopting: Adopting, node: bytes) -> None:
        if self._placing.executors[node].linked and node not in adopting.answered:
            self._holdings.emit(AskHeld(node, group, adopting.epoch, sorted(adopting.states)))

    def linked(self, node: bytes) -> None:
        """There is a link to an executor: it may have something."""
        for group, adopting in sorted(self._adopting.items()):
            self._ask(group, adopting, node)

    def is_adopting(self, batch: Batch) -> bool:
        """Whether executors are still waited for: nothing of the batch begins before."""
        return batch.durable is not None and batch.key in getattr(self._adopting.get(batch.durable.group), "states", ())

    def held(self, now: float, group: bytes, epoch: int, node: bytes, runs: Iterable[Held]) -> None:
        """What an executor has of the batches that it was asked for."""
        adopting, it = self._adopting.get(group), self._placing.executors.get(node)
        if adopting is None or adopting.epoch != epoch or it is None:
            return
        adopting.answered.add(node)
        for key, owner, dispatch, token, parts in runs:
            state, batch = adopting.states.get(key), self._holdings.batches.get(key)
            if state is None or batch is None:
                continue
            count, columns = state.count, batch.columns
            rows = [index for start, stop in parts for index in range(start, min(stop, count))]
            mine = [row for row in rows if columns.state(row) == TaskColumns.HELD and state.accepts(row, token)]
            if mine:
                adopted = self._placing.adopt(now, batch, it, ranges(mine), token)
                number = adopted.number
                batch.log(now, "adopted", adopted.start, adopted.stop, it.name, list(token))
            else:
                number = self._placing.next_number()
            self._holdings.emit(Adopt(node, owner, dispatch, number))
            if mine:
                self._placing.adopted(adopted)
            kept = set(mine)
            stale = [row for row in rows if row not in kept]
            for wanted, kill in ((ranges(stale), True), (batch.cancelled, False), (batch.killed, True)):
                if wanted:
                    header = {"d": number, "r": [list(pair) for pair in wanted], "k": kill}
                    self._holdings.emit(Tell(node, Kind.RECALL, header))
        if all(one in adopting.answered for one in self._placing.executors):
            self.adopted(now, group, epoch)

    def adopted(self, now: float, group: bytes, epoch: int) -> None:
        """Executors are waited for no longer: what nobody has is placed again, or is lost."""
        adopting = self._adopting.get(group)
        if adopting is None or adopting.epoch != epoch:
            return
        del self._adopting[group]
        for key in sorted(adopting.states):
            batch, state = self._holdings.batches.get(key), adopting.states[key]
            if batch is not None and batch.finished_at is None:
                self._go_on(now, batch, state)

    def _go_on(self, now: float, batch: Batch, state: BatchState) -> None:
        columns, ready = batch.columns, 0
        waits = any(value is None for value in batch.deps.values())
        verdicts: Said = []
        cancelled = said("the task was cancelled", "", batch.spec)
        lost = said(
            f"{batch.spec.name or 'the task'} may have begun at a node that is gone",
            "it may have run; whether it did is not known", batch.spec,
        )  # fmt: skip
        for start, stop in batch.pending():
            for index in range(start, stop):
                if columns.state(index) != TaskColumns.HELD:
                    continue
                if batch.is_cancelled(index):
                    verdicts.append((index, Status.CANCELLED, cancelled))
                elif not batch.spec.rerun and state.token(index) is not None and not state.left(index):
                    verdicts.append((index, Status.LOST, lost))
                elif not waits:
                    columns.release(index)
                    ready += 1
        if ready:
            self._placing.push(batch, batch.submitted_at, ready)
        self._ending.finish(now, batch, verdicts)

    def forget(self, now: float, batch: Batch) -> None:
        """A batch has been kept for its time. The log says when it is forgotten."""
        if batch.durable is None or self._holdings.batches.get(batch.key) is not batch:
            return
        if batch.key in self._logs.get(batch.durable.group, ()):
            self._holdings.timers.at(now + LOOK_AGAIN_S, RETENTION, batch)
        else:
            self._recording.forget(batch)

    # --- giving up ----------------------------------------------------------------------------------------------------

    def follow(self, now: float, group: bytes) -> None:
        """Another node leads a group, or nobody that is known: its batches are not this owner's."""
        self.led.pop(group, None)
        self._logs.pop(group, None)
        for batch in self._give_up(now, group):
            for client in batch.clients if batch.finished_at is None else ():
                self._clients.unknown(client, batch.key)

    def _give_up(self, now: float, group: bytes) -> list[Batch]:
        self._adopting.pop(group, None)
        self._recording.new_epoch(group)
        mine = [it for it in self._holdings.batches.values() if it.durable is not None and it.durable.group == group]
        for batch in mine:
            # Nothing is recalled: the next leader adopts it.
            self._recording.withdraw(batch, recall=False)
            del self._holdings.batches[batch.key]
        for batch in mine:
            self._dependencies.give_up(now, batch)
        return mine
