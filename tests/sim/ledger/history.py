"""What must hold of tasks: a readable model of the ledger's rules, and the history of what clients were told."""

from __future__ import annotations

from dataclasses import dataclass, field

from kernels.batch import Outcomes
from swarm.protocol.ledger.records import (
    Cancelled,
    Ended,
    Forgotten,
    Granted,
    RecordError,
    Reprioritized,
    Saved,
    Submitted,
    Token,
    unpack_entry,
)
from swarm.protocol.raft.entries import Entry, EntryKind
from swarm.protocol.states import FINAL_BELOW
from tests.sim.raft.truth import Broken

Row = tuple[bytes, bytes, int]
"""(group, key, index)."""


@dataclass
class ModelBatch:
    """A batch, task by task."""

    digest: bytes
    epoch: int
    index: int
    count: int
    tokens: dict[int, Token] = field(default_factory=dict)
    last: Token | None = None
    outcomes: dict[int, bytes] = field(default_factory=dict)
    cancelled: set[int] = field(default_factory=set)
    urgencies: dict[int, tuple[int, int]] = field(default_factory=dict)
    saved: dict[int, tuple[int, Token, bytes]] = field(default_factory=dict)


class Model:
    """One log's meaning, entry by entry, as plainly as it can be said."""

    def __init__(self) -> None:
        self.applied = 0
        self.batches: dict[bytes, ModelBatch] = {}
        self.taken: dict[int, dict[tuple[bytes, int], bytes]] = {}
        """entry -> {(key, row): outcome} that came with it."""

    def apply(self, index: int, entry: Entry) -> None:
        """The next entry."""
        assert index == self.applied + 1, (index, self.applied)
        self.applied = index
        if entry.kind != EntryKind.DATA:
            return
        try:
            records = unpack_entry(entry.data)
        except RecordError:
            return
        for record in records:
            match record:
                case Submitted():
                    if record.key not in self.batches:
                        self.batches[record.key] = ModelBatch(record.digest, entry.term, index, record.count)
                case Granted(key=key) if key in self.batches:
                    self._grant(self.batches[key], record, entry.term)
                case Ended(key=key) if key in self.batches:
                    self._end(self.batches[key], record, self.taken.setdefault(index, {}))
                case Reprioritized(key=key) if key in self.batches:
                    for start, stop in record.ranges:
                        for row in range(start, min(stop, self.batches[key].count)):
                            self.batches[key].urgencies[row] = (record.priority, record.nice)
                case Saved(key=key) if key in self.batches:
                    if self.valid(self.batches[key], record.index, record.token):
                        self.batches[key].saved[record.index] = (record.moved, record.token, bytes(record.state))
                case Cancelled(key=key) if key in self.batches:
                    for start, stop in record.ranges:
                        self.batches[key].cancelled |= set(range(start, min(stop, self.batches[key].count)))
                case Forgotten():
                    for key in record.keys:
                        found = self.batches.get(key)
                        if found is not None and len(found.outcomes) == found.count:
                            del self.batches[key]
                case _:
                    pass

    def _grant(self, batch: ModelBatch, record: Granted, term: int) -> None:
        if record.token.epoch != term or (batch.last is not None and record.token <= batch.last):
            return
        if record.ranges[-1][1] > batch.count:
            return
        batch.last = record.token
        for start, stop in record.ranges:
            for row in range(start, stop):
                if row not in batch.outcomes:
                    batch.tokens[row] = record.token

    def valid(self, batch: ModelBatch, row: int, token: Token | None) -> bool:
        """Whether an outcome under this token counts."""
        if row >= batch.count or row in batch.outcomes:
            return False
        if token is None or batch.tokens.get(row) == token:
            return True
        return row not in batch.tokens and token.epoch == batch.epoch

    def _end(self, batch: ModelBatch, record: Ended, taken: dict[tuple[bytes, int], bytes]) -> None:
        outcomes = Outcomes(record.columns, record.rows)
        for at in range(outcomes.count):
            row = outcomes.index(at)
            if outcomes.status(at) < FINAL_BELOW and self.valid(batch, row, record.token):
                batch.outcomes[row] = taken[record.key, row] = bytes(outcomes.payload(at))


class History:
    """All that clients were told, and what the logs say."""

    def __init__(self) -> None:
        self.models: dict[bytes, Model] = {}
        self.states: dict[tuple[bytes, int], bytes] = {}
        """(group, index) -> digest of the state there, as the first node has it."""
        self.receipts: dict[tuple[bytes, bytes], bytes] = {}
        """(group, key) -> digest of what was accepted."""
        self.told_at: dict[tuple[bytes, bytes], int | None] = {}
        """The entry of a batch that its first receipt told of, or a read before that."""
        self.revealed: dict[Row, bytes] = {}
        self.recorded: dict[Row, bytes] = {}
        """Every outcome that any log ever had."""
        self.kept: dict[tuple[bytes, bytes], bool] = {}
        """Batches of which clients want something, and whether that is so long that no run sees its end."""
        self.dropped: set[tuple[bytes, bytes]] = set()
        """Batches that were forgotten: when they are submitted again they are new."""

    def committed(self, group: bytes, index: int, entry: Entry) -> None:
        """An entry is committed, the first time that anybody knows."""
        model = self.models.setdefault(group, Model())
        if index != model.applied + 1:
            return
        model.apply(index, entry)
        if entry.kind != EntryKind.DATA:
            return
        for record in unpack_entry(entry.data):
            if isinstance(record, Forgotten):
                for key in record.keys:
                    if key not in model.batches:
                        self._drop(group, key)
        for (key, row), payload in model.taken.get(index, {}).items():
            known = self.recorded.setdefault((group, key, row), payload)
            if known != payload:
                raise Broken(f"one-outcome: task {key.hex()}/{row} has {payload!r} after {known!r}")

    def _drop(self, group: bytes, key: bytes) -> None:
        if self.kept.get((group, key), False):
            raise Broken(f"forgotten: {key.hex()}, before its time")
        self.dropped.add((group, key))
        self.receipts.pop((group, key), None)
        for told in (self.recorded, self.revealed):
            for row in [row for row in told if row[:2] == (group, key)]:
                del told[row]

    def compare(self, node: int, group: bytes, index: int, taken: dict[tuple[bytes, int], bytes]) -> None:
        """What a node took from an entry that it has just applied: what the rules say."""
        known = self.models[group].taken.get(index, {})
        if taken != known:
            raise Broken(f"stale-outcome: node {node} takes {taken} from entry {index}, the rules say {known}")

    def same_state(self, node: int, group: bytes, index: int, digest: bytes) -> None:
        """All replicas have the same state after the same entry."""
        if self.states.setdefault((group, index), digest) != digest:
            raise Broken(f"determinism: node {node} has another state of {group.decode()} after {index}")

    def receipt(self, group: bytes, key: bytes, digest: bytes) -> None:
        """A client has a receipt."""
        if (group, key) in self.dropped:
            return
        if (group, key) not in self.receipts:
            self.told_at[group, key] = self.accepted_at(group, key)
        known = self.receipts.setdefault((group, key), digest)
        if known != digest:
            raise Broken(f"content: {key.hex()} was accepted twice, with different content")

    def accepted_at(self, group: bytes, key: bytes) -> int | None:
        """The entry by which a batch was accepted, by the rules."""
        batch = self.models[group].batches.get(key) if group in self.models else None
        return None if batch is None else batch.index

    def reveal(self, group: bytes, key: bytes, row: int, payload: bytes) -> None:
        """A client is told an outcome."""
        if (group, key) in self.dropped:
            return
        known = self.revealed.setdefault((group, key, row), payload)
        if known != payload:
            raise Broken(f"outcome-changed: task {key.hex()}/{row} was {known!r} and is {payload!r}")
        if self.recorded.get((group, key, row)) != payload:
            raise Broken(f"revealed-early: task {key.hex()}/{row} is said to be {payload!r} and that is not committed")

    def sent(self, group: bytes, key: bytes, rows: tuple[int, int], token: Token) -> None:
        """An attempt goes out: it is a first one, in the epoch of the submission, or its grant is committed. Then it is the
        only one that counts."""
        model = self.models.get(group)
        batch = model.batches.get(key) if model is not None else None
        if batch is None:
            return  # of an entry that is not committed yet
        for row in range(*rows):
            granted = batch.tokens.get(row)
            if row in batch.outcomes or granted == token or (granted is None and token.epoch == batch.epoch):
                continue
            if granted is not None and granted > token:
                continue  # it was valid, and something later is by now: nothing of this one will count
            if granted is None and token.epoch < batch.epoch:
                continue  # by who led before, stood still, and does not know that the batch went to another: nor will anything of this one
            raise Broken(f"two-tokens: {key.hex()}/{row} goes out under {token} while {granted} is valid")
