"""One log of the ledger on this node: its state, what is proposed to it, and what became of that."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from swarm.protocol.ledger import homes
from swarm.protocol.ledger.batch import ROW_OVERHEAD_BYTES
from swarm.protocol.ledger.config import RECORD_BYTES_MAX, LedgerConfig
from swarm.protocol.ledger.effects import Dropped, Reason, Refusal
from swarm.protocol.ledger.records import Ended, Record, RecordError, Submitted, Unknown, pack, pack_entry, unpack
from swarm.protocol.ledger.retention import Retention
from swarm.protocol.ledger.state import BATCH_OVERHEAD_BYTES, OUTCOME_RESERVE_BYTES, Applied, LedgerState
from swarm.protocol.raft.effects import Proposed
from swarm.protocol.raft.effects import Refusal as RaftRefusal
from swarm.protocol.raft.entries import Entry, EntryKind, Snapshot
from swarm.protocol.raft.node import RaftNode

ROW_RESERVE_BYTES = OUTCOME_RESERVE_BYTES + ROW_OVERHEAD_BYTES
_REASONS = {
    RaftRefusal.NOT_LEADER: Reason.NOT_LEADER,
    RaftRefusal.BUSY: Reason.BUSY,
    RaftRefusal.HANDING_OVER: Reason.HANDING_OVER,
    RaftRefusal.FULL: Reason.DISK_FULL,
    RaftRefusal.TOO_LARGE: Reason.TOO_LARGE,
    RaftRefusal.UNKNOWN_GROUP: Reason.UNKNOWN_GROUP,
}


@dataclass(slots=True)
class Ticket:
    """A record that was proposed and is not applied yet."""

    number: int
    raw: bytes
    weight: int
    """Bytes that it will take of the state, or keep free."""
    submits: tuple[bytes, bytes] | None
    """(key, digest) of a batch."""


class Group:
    """A log, as a member of its group has it."""

    def __init__(self, name: bytes, state: LedgerState, config: LedgerConfig) -> None:
        self.name = name
        self.home = homes.home_of(name)
        self.local = homes.is_local(name)
        self.state = state
        self.config = config
        self.epoch: int | None = None
        """The term in which this node leads, once it knows all that was committed before."""
        self.told_leader: bytes | None = None
        self.retention: Retention | None = None
        self.removed_at: dict[bytes, float] = {}
        self.removed = False
        """The leader said that this node is no member any more."""
        self.compact_above = config.log_bytes_min
        """The log is not compacted as long as its entries take no more."""
        self.settled = False
        """There is nothing to change in its members, as things are."""
        self._queue: list[Ticket] = []
        self._waiting: deque[tuple[int, int, list[Ticket]]] = deque()
        """(index, term, tickets) of entries whose fate is not known."""
        self._weight = 0
        """Of all of these."""
        self._digests: dict[bytes, bytes] = {}
        """Of batches among these."""

    # Proposals.

    def admit(self, record: Record | bytes, number: int) -> Refusal | None:
        """Takes a record, which goes out with the next entry, or says why not."""
        try:
            known = unpack(record) if isinstance(record, bytes) else record
        except RecordError as error:
            return Refusal(Reason.MALFORMED, f"the record is malformed ({error})")
        raw = record if isinstance(record, bytes) else pack(record)
        if isinstance(known, Unknown):
            return Refusal(
                Reason.MALFORMED, f"records of kind {known.kind}, version {known.version} are not written here"
            )
        if len(raw) > RECORD_BYTES_MAX:
            hint = (
                f"one record takes at most {RECORD_BYTES_MAX} bytes, this one {len(raw)}; large payloads go into blobs"
            )
            return Refusal(Reason.TOO_LARGE, hint)
        weight, submits = len(raw), None
        room = self.config.hard_bytes_max - self.state.nbytes - self.state.reserved - self._weight
        if isinstance(known, Submitted):
            weight += known.count * ROW_RESERVE_BYTES + BATCH_OVERHEAD_BYTES
            refusal = self._known(known) or self._full(weight)
            if refusal is not None:
                return refusal
            submits = (known.key, known.digest)
            self._digests[known.key] = known.digest
        elif isinstance(known, Ended) and len(raw) - known.rows * ROW_RESERVE_BYTES > room:
            hint = f"the log of {self.home.hex()[:8]} has no room for outcomes beyond what was reserved: use a blob"
            return Refusal(Reason.TOO_LARGE, hint, facts={"room": max(0, room)})
        self._weight += weight
        self._queue.append(Ticket(number, raw, weight, submits))
        return None

    def _known(self, record: Submitted) -> Refusal | None:
        batch = self.state.batches.get(record.key)
        digest = self._digests.get(record.key) if batch is None else batch.submitted.digest
        if digest is None:
            return None
        if digest != record.digest:
            hint = "a batch with this key was submitted with other content; a new batch needs a new key"
            return Refusal(Reason.CONFLICT, hint, facts={"known": digest.hex(), "given": record.digest.hex()})
        if batch is None:
            return Refusal(Reason.BUSY, "the same batch is being written", retry_after_s=self.config.refuse_after_s)
        return Refusal(Reason.KNOWN, "the same batch is there already")

    def _full(self, weight: int) -> Refusal | None:
        state, most = self.state, self.config.state_bytes_max
        held = state.nbytes + state.reserved + self._weight
        if held + weight <= most:
            return None
        hint = (
            f"the log of {self.home.hex()[:8]} holds {held >> 10} KiB of at most {most >> 10} KiB, with {state.unfinished} "
            f"unfinished tasks; this batch needs {weight >> 10} KiB. Outcomes that are fetched and forgotten make room"
        )
        facts = {"bytes": held, "bytes_max": most, "needed": weight, "unfinished": state.unfinished}
        return Refusal(Reason.FULL, hint, retry_after_s=10 * self.config.refuse_after_s, facts=facts)

    @property
    def queued(self) -> bool:
        """Whether anything waits to be written."""
        return bool(self._queue)

    def flush(self, now: float, node: RaftNode) -> list[Dropped]:
        """Writes what waits, in few entries."""
        dropped: list[Dropped] = []
        queue, self._queue = self._queue, []
        first = 0
        while first < len(queue):
            size, last = len(queue[first].raw), first + 1
            while last < len(queue) and size + len(queue[last].raw) <= self.config.pack_bytes:
                size += len(queue[last].raw)
                last += 1
            tickets = queue[first:last]
            proposed = node.propose(now, self.name, pack_entry(ticket.raw for ticket in tickets))
            if isinstance(proposed, Proposed):
                self._waiting.append((proposed.index, proposed.term, tickets))
            else:
                why = _REASONS.get(proposed, Reason.BUSY).value
                dropped += self._drop(tickets, why, unknown=False)
            first = last
        return dropped

    def _drop(self, tickets: Sequence[Ticket], why: str, unknown: bool) -> list[Dropped]:
        for ticket in tickets:
            self._done(ticket)
        return [Dropped(ticket.number, why, unknown) for ticket in tickets if ticket.number]

    def _done(self, ticket: Ticket) -> None:
        self._weight -= ticket.weight
        if ticket.submits is not None:
            self._digests.pop(ticket.submits[0], None)

    def drop_all(self, why: str) -> list[Dropped]:
        """This node does not lead: what was proposed may be committed or not, what was not yet written is not."""
        waiting, self._waiting = self._waiting, deque()
        queue, self._queue = self._queue, []
        dropped = [lost for _, _, tickets in waiting for lost in self._drop(tickets, why, unknown=True)]
        return dropped + self._drop(queue, why, unknown=False)

    # What is committed.

    def install(self, snapshot: Snapshot) -> None:
        """Another member's snapshot takes the place of all."""
        self.state = LedgerState.restore(snapshot.data)
        self.state.applied = snapshot.index

    def apply(self, index: int, entry: Entry) -> list[tuple[Ticket | None, Applied]]:
        """An entry is committed: what its records came to, with the tickets of those that were proposed here."""
        state = self.state
        if index <= state.applied:
            return []
        if entry.kind != EntryKind.DATA:
            state.skip(index)
            return []
        applied = state.apply(index, entry.term, entry.data)
        waiting = self._waiting
        if not waiting or waiting[0][0] != index or waiting[0][1] != entry.term:
            assert not waiting or waiting[0][0] > index, (index, waiting[0][:2])
            return [(None, one) for one in applied]
        tickets = waiting.popleft()[2]
        for ticket in tickets:
            self._done(ticket)
        return list(zip(tickets, applied, strict=True))
