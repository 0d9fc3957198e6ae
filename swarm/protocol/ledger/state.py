"""The state of one log of the ledger: what its committed entries come to. The same on every replica, entry by entry."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

import msgpack

from kernels.batch import Outcomes
from swarm.protocol.ledger.batch import ROW_OVERHEAD_BYTES, BatchState
from swarm.protocol.ledger.pins import Pins
from swarm.protocol.ledger.records import (
    AnyRecord,
    Blob,
    Bytes,
    Cancelled,
    Counted,
    Ended,
    Forgotten,
    Granted,
    Kept,
    RecordError,
    Reprioritized,
    Saved,
    Submitted,
    Token,
    Unknown,
    kept_of,
    split_entry,
    unpack,
)

OUTCOME_RESERVE_BYTES: Final = 128
"""Of payload, kept free for each task without an outcome: enough for a number, a short value or a reference to a blob."""
BATCH_OVERHEAD_BYTES: Final = 256
"""What a batch takes in a snapshot beside its columns, at most as long as nothing of it goes wrong."""
BLOBS_UNNAMED_MAX: Final = 64
"""Blobs that no batch names (yet): their batch comes next, or was refused."""
_HEAD: Final = struct.Struct("<BxxxI")
_FORMAT: Final = 1


class Verdict(Enum):
    """What a record came to."""

    DONE = "done"
    """All that it says holds from here on."""
    PARTLY = "partly"
    """Some rows had an outcome already, or another token: for the others it holds."""
    KNOWN = "known"
    """The batch is there already, with the same content."""
    CONFLICT = "conflict"
    """There is a batch with this key and other content: nothing was changed."""
    STALE = "stale"
    """No row took it: its token is not the row's, or there are outcomes already."""
    NO_BATCH = "no-batch"
    MALFORMED = "malformed"
    KEPT = "kept"
    """Of a kind that is not known in this version."""


class Applied(NamedTuple):
    """One record of an entry, and what it came to."""

    verdict: Verdict
    key: bytes | None
    record: AnyRecord
    rows: int = 0
    """Rows that were granted or ended."""
    outcomes: Outcomes | None = None
    """Of an `Ended` record: those that count."""


class LedgerState:
    """All batches of one log."""

    def __init__(self) -> None:
        self.applied = 0
        """The index of the last entry."""
        self.wall = 0.0
        """The latest time that any record tells: the ledger's time never goes back."""
        self.unfinished = 0
        """Tasks without an outcome."""
        self.nbytes = 0
        """What a snapshot takes, roughly."""
        self._batches: dict[bytes, BatchState] = {}
        self._blobs: dict[bytes, bytes] = {}
        self._named: dict[bytes, int] = {}
        """Blob id -> how many batches name it."""
        self.pins = Pins()
        """What of it is beside the log."""
        self.foreign: list[tuple[int, int, bytes]] = []
        """(index, term, record) of records that are not known here: for a later version of this node."""

    @property
    def batches(self) -> Mapping[bytes, BatchState]:
        """Batches by key, in the order in which they were submitted."""
        return self._batches

    @property
    def blobs(self) -> Mapping[bytes, bytes]:
        """What batches need beside their arguments, by id."""
        return self._blobs

    @property
    def reserved(self) -> int:
        """Bytes that are kept free for outcomes."""
        return self.unfinished * (OUTCOME_RESERVE_BYTES + ROW_OVERHEAD_BYTES)

    def apply(self, index: int, term: int, data: bytes) -> list[Applied]:
        """A committed entry of kind DATA, in order. What its records came to, in order; none if it is no entry at all."""
        assert index > self.applied, (index, self.applied)
        self.applied = index
        try:
            parts = split_entry(data)
        except RecordError:
            return []
        # Columns stay views of the entry where they are most of it; else they would keep the whole of it in memory.
        return [
            self._apply(index, term, part if 2 * len(part) > len(data) else memoryview(bytes(part))) for part in parts
        ]

    def skip(self, index: int) -> None:
        """A committed entry of another kind."""
        assert index > self.applied, (index, self.applied)
        self.applied = index

    def _apply(self, index: int, term: int, raw: memoryview) -> Applied:
        try:
            record = unpack(raw)
        except RecordError:
            return Applied(Verdict.MALFORMED, None, Unknown(raw[0], raw[1], raw))
        try:
            match record:
                case Submitted():
                    return self._submitted(record, raw, index, term)
                case Unknown():
                    self.foreign.append((index, term, bytes(raw)))
                    self.nbytes += len(raw)
                    return Applied(Verdict.KEPT, None, record)
                case Forgotten():
                    return self._forgotten(record)
                case Blob():
                    return self._blob(record)
            batch = self._batches.get(record.key)
            if batch is None:
                return Applied(Verdict.NO_BATCH, record.key, record)
            match record:
                case Ended():
                    return self._ended(batch, record)
                case Granted():
                    rows = batch.grant(record, term)
                    return Applied(Verdict.DONE if rows else Verdict.STALE, record.key, record, rows)
                case Kept():
                    self._kept(batch, record)
                case Counted():
                    batch.count_rows(record.rows)
                case Cancelled():
                    batch.cancel(record.ranges, record.kill)
                case Reprioritized():
                    batch.reprioritize(record.ranges, record.priority, record.nice)
                case Saved():
                    rows = self._saved(batch, record)
                    return Applied(Verdict.DONE if rows else Verdict.STALE, record.key, record, rows)
            return Applied(Verdict.DONE, record.key, record)
        except ValueError:
            return Applied(Verdict.MALFORMED, getattr(record, "key", None), record)

    def _submitted(self, record: Submitted, raw: memoryview, index: int, term: int) -> Applied:
        known = self._batches.get(record.key)
        if known is not None:
            same = known.submitted.digest == record.digest
            return Applied(Verdict.KNOWN if same else Verdict.CONFLICT, record.key, record)
        batch = BatchState(record, raw, index, term)
        self._batches[record.key] = batch
        for id in record.refs:
            self._named[id] = self._named.get(id, 0) + 1
        self.wall = max(self.wall, record.wall)
        if batch.unfinished:
            self.nbytes += self.pins.add(record.kept)
        self.unfinished += batch.count
        self.nbytes += batch.nbytes + BATCH_OVERHEAD_BYTES
        return Applied(Verdict.DONE, record.key, record, batch.count)

    def _ended(self, batch: BatchState, record: Ended) -> Applied:
        before = batch.nbytes
        rows, outcomes = batch.end(record, record.columns)
        self.nbytes += batch.nbytes - before
        self.unfinished -= rows
        self.wall = max(self.wall, record.wall)
        if not rows:
            return Applied(Verdict.STALE, record.key, record)
        if not batch.unfinished:
            self.nbytes -= self.pins.drop(batch.submitted.kept)
        return Applied(Verdict.DONE if rows == record.rows else Verdict.PARTLY, record.key, record, rows, outcomes)

    def _forgotten(self, record: Forgotten) -> Applied:
        rows = 0
        for key in record.keys:
            batch = self._batches.get(key)
            if batch is not None and not batch.unfinished:  # what has no outcome is never forgotten
                del self._batches[key]
                for id in batch.submitted.refs:
                    self._let_go(id)
                self.nbytes -= self.pins.drop(batch.kept)
                self.nbytes -= batch.nbytes + BATCH_OVERHEAD_BYTES
                rows += batch.count
        return Applied(Verdict.DONE, None, record, rows)

    def _blob(self, record: Blob) -> Applied:
        if record.id in self._blobs:
            return Applied(Verdict.KNOWN, None, record)
        unnamed = [id for id in self._blobs if id not in self._named]
        for id in unnamed[: max(0, len(unnamed) - BLOBS_UNNAMED_MAX + 1)]:
            self.nbytes -= len(self._blobs.pop(id))
        self._blobs[record.id] = bytes(record.content)
        self.nbytes += len(record.content)
        return Applied(Verdict.DONE, None, record)

    def _kept(self, batch: BatchState, record: Kept) -> None:
        known = {blob.id for blob in batch.kept}
        fresh = tuple({blob.id: blob for blob in record.blobs if blob.id not in known}.values())
        batch.kept += fresh
        self.nbytes += self.pins.add(fresh)

    def _saved(self, batch: BatchState, record: Saved) -> int:
        before = batch.nbytes
        saved = batch.save(record.index, record.moved, record.token, record.state)
        self.nbytes += batch.nbytes - before
        return int(saved)

    def _let_go(self, id: bytes) -> None:
        left = self._named.get(id, 0) - 1
        if left > 0:
            self._named[id] = left
            return
        self._named.pop(id, None)
        self.nbytes -= len(self._blobs.pop(id, b""))

    # Snapshots.

    def snapshot(self) -> bytes:
        """All of it as bytes; the same bytes for the same entries."""
        bodies: list[Bytes] = []
        for batch in self._batches.values():
            bodies.append(batch.raw_record)
            bodies += [held for _, _, held in batch.outcomes]
        bodies += self._blobs.values()
        header = msgpack.packb(
            {
                "i": self.applied,
                "w": self.wall,
                "b": [batch.fields() for batch in self._batches.values()],
                "f": self.foreign,
                "x": [(id, len(content)) for id, content in self._blobs.items()],
                "k": [(batch.key, batch.kept) for batch in self._batches.values() if batch.kept],
                "u": [(batch.key, batch.urgencies) for batch in self._batches.values() if batch.urgencies],
                "s": [
                    (batch.key, index, *saved)
                    for batch in self._batches.values()
                    for index, saved in sorted(batch.saved.items())
                ],
            }
        )
        return b"".join((_HEAD.pack(_FORMAT, len(header)), header, *bodies))

    @classmethod
    def restore(cls, data: bytes) -> LedgerState:
        """From a snapshot; the empty one is the state before the first entry. RecordError if it is none."""
        state = cls()
        if not data:
            return state
        try:
            state._restore(memoryview(data))
        except RecordError:
            raise
        except Exception:
            raise RecordError("snapshot") from None
        return state

    def _restore(self, view: memoryview) -> None:
        format, length = _HEAD.unpack_from(view)
        if format != _FORMAT:
            raise RecordError("format")
        at = _HEAD.size + length
        header: dict[str, Any] = msgpack.unpackb(
            view[_HEAD.size : at], use_list=False, max_array_len=len(view), max_map_len=64
        )
        self.applied, self.wall = header["i"], header["w"]
        self.foreign = [(index, term, raw) for index, term, raw in header["f"]]
        self.nbytes = sum(len(raw) for _, _, raw in self.foreign)
        for fields in header["b"]:
            raw, at = view[at : at + fields[0]], at + fields[0]
            record = unpack(raw)
            if not isinstance(record, Submitted):
                raise RecordError("snapshot")
            # Of what has ended, the arguments were given up.
            given_up = record.count > 0 and not len(record.columns) and fields[3] is not None
            batch = BatchState(record, raw, fields[1], fields[2], given_up=given_up)
            columns: list[Bytes] = []
            for _, size, _ in fields[-1]:
                columns.append(view[at : at + size])
                at += size
            batch.restore(fields, columns)
            self._batches[batch.key] = batch
            if batch.unfinished:
                self.nbytes += self.pins.add(record.kept)
            self.unfinished += batch.unfinished
            self.nbytes += batch.nbytes + BATCH_OVERHEAD_BYTES
            for id in record.refs:
                self._named[id] = self._named.get(id, 0) + 1
        for id, size in header.get("x", ()):
            self._blobs[id] = bytes(view[at : at + size])
            self.nbytes += size
            at += size
        if at != len(view):
            raise RecordError("snapshot")
        for key, urgencies in header.get("u", ()):
            for start, stop, priority, nice in urgencies:
                self._batches[key].reprioritize(((start, stop),), priority, nice)
        for key, index, moved, token, content in header.get("s", ()):
            batch, before = self._batches[key], self._batches[key].nbytes
            batch.keep_saved(index, moved, Token(*token), content)
            self.nbytes += batch.nbytes - before
        self._restore_kept(header.get("k", ()))

    def _restore_kept(self, rows: tuple[tuple[bytes, Any], ...]) -> None:
        for key, blobs in rows:
            self._kept(self._batches[key], Kept(key, kept_of(blobs)))
        foreign, self.foreign = self.foreign, []
        for index, term, raw in foreign:
            # A version before this one took the snapshot: what it kept without knowing it means something here.
            try:
                record = unpack(raw)
            except RecordError:
                record = Unknown(raw[0], raw[1], raw)
            if not isinstance(record, Kept | Reprioritized | Saved):
                self.foreign.append((index, term, raw))
                continue
            self.nbytes -= len(raw)
            batch = self._batches.get(record.key)
            if batch is not None and isinstance(record, Kept):
                self._kept(batch, record)
            elif batch is not None and isinstance(record, Reprioritized):
                batch.reprioritize(record.ranges, record.priority, record.nice)
            elif batch is not None and isinstance(record, Saved):
                self._saved(batch, record)
