"""Blobs beside the log: named by what needs them, as long as it does, on every replica and in every snapshot."""

from __future__ import annotations

import pytest

from kernels.batch import CallBuilder, OutcomeBuilder
from swarm.protocol.ids import batch_key
from swarm.protocol.ledger.pins import NAME_BYTES
from swarm.protocol.ledger.records import (
    Durability,
    Ended,
    Forgotten,
    Kept,
    KeptBlob,
    Record,
    RecordError,
    Submitted,
    Unknown,
    digest_of,
    pack,
    pack_entry,
    unpack,
)
from swarm.protocol.ledger.state import LedgerState, Verdict

RAW = b"\x81\xa1f\xc0"


def blob(number: int) -> KeptBlob:
    return KeptBlob(number.to_bytes(32, "big"), 5_000_000 + number, bytes((number,)) * 32)


def key(number: int) -> bytes:
    return batch_key(b"session!", number)


def batch(number: int, *kept: int, count: int = 1) -> Submitted:
    builder = CallBuilder()
    for _ in range(count):
        builder.add(b"M\x01")
    columns = builder.take()
    blobs = tuple(blob(each) for each in kept)
    return Submitted(
        key(number), "ada", True, RAW, count, columns, 5.0, 60.0, Durability.FLEET, digest_of(RAW, count, columns), (),
        tuple(each.id for each in blobs), blobs,
    )  # fmt: skip


def ended(number: int, *rows: int) -> Ended:
    builder = OutcomeBuilder()
    for row in rows or (0,):
        builder.add(row, 0, 1, b"M\x02")
    return Ended(key(number), None, max(1, len(rows)), builder.take(), 6.0)


class Log:
    def __init__(self) -> None:
        self.state = LedgerState()

    def write(self, *records: Record) -> list[Verdict]:
        data = pack_entry(pack(each) for each in records)
        return [one.verdict for one in self.state.apply(self.state.applied + 1, 1, data)]

    @property
    def named(self) -> set[int]:
        return {int.from_bytes(id, "big") for id in self.state.pins.blobs}


def test_records_that_name_blobs_are_what_they_were() -> None:
    said = unpack(pack(batch(1, 1, 2)))
    assert isinstance(said, Submitted) and said.kept == (blob(1), blob(2))
    assert unpack(pack(Kept(key(1), (blob(3),)))) == Kept(key(1), (blob(3),))
    for wrong in (KeptBlob(b"short", 1, bytes(32)), KeptBlob(bytes(32), -1, bytes(32)), KeptBlob(bytes(32), 1, b"")):
        with pytest.raises(RecordError):
            unpack(pack(Kept(key(1), (wrong,))))


def test_what_tasks_need_is_named_until_the_last_of_them_has_an_outcome() -> None:
    log = Log()
    log.write(batch(1, 1, 2, count=2), batch(2, 2))
    assert log.named == {1, 2}
    log.write(ended(1, 0))
    assert log.named == {1, 2}
    log.write(ended(1, 1))
    assert log.named == {2}
    log.write(ended(2))
    assert log.named == set()
    assert log.write(batch(1, 7), batch(2, 7)) == [Verdict.CONFLICT, Verdict.KNOWN]
    assert log.named == set(), "a batch that is there already, or another one, names nothing more"


def test_what_outcomes_refer_to_is_named_until_the_batch_is_forgotten() -> None:
    log = Log()
    empty = log.state.nbytes
    log.write(batch(1, 1), batch(2))
    assert log.write(Kept(key(1), (blob(1), blob(5))), Kept(key(2), (blob(5),))) == [Verdict.DONE] * 2
    assert log.write(Kept(key(1), (blob(5),)), Kept(key(3), (blob(6),))) == [Verdict.DONE, Verdict.NO_BATCH]
    log.write(ended(1), ended(2))
    assert log.named == {1, 5}
    log.write(Forgotten((key(1),)))
    assert log.named == {5}
    log.write(Forgotten((key(2),)))
    assert log.named == set() and log.state.nbytes == empty


def test_a_snapshot_has_the_names() -> None:
    log = Log()
    log.write(batch(1, 1, 2), batch(2, 2, 3), Kept(key(2), (blob(9),)), ended(2))
    other = LedgerState.restore(log.state.snapshot())
    assert other.pins.blobs == log.state.pins.blobs and set(other.pins.blobs) == {blob(each).id for each in (1, 2, 9)}
    assert other.nbytes == log.state.nbytes and other.snapshot() == log.state.snapshot()
    both = pack_entry([pack(Forgotten((key(2),))), pack(ended(1))])
    for state in (other, log.state):
        state.apply(state.applied + 1, 1, both)
        assert not state.pins.blobs
    assert other.nbytes == log.state.nbytes


def test_names_that_an_older_version_kept_without_knowing_them_count_again() -> None:
    log = Log()
    log.write(batch(1, 1), ended(1))
    whole = log.state.nbytes
    # What a version that knows no such record makes of one: bytes that it keeps.
    raw = pack(Kept(key(1), (blob(4),)))
    for kept in (raw, pack(Kept(key(8), (blob(6),)))):
        log.state.foreign.append((log.state.applied, 1, kept))
        log.state.nbytes += len(kept)
    later = pack_entry([bytes((99,)) + raw[1:]])
    (applied,) = log.state.apply(log.state.applied + 1, 1, later)
    assert isinstance(applied.record, Unknown)
    other = LedgerState.restore(log.state.snapshot())
    assert set(other.pins.blobs) == {blob(4).id}, "of a batch that is gone nothing is named"
    assert [raw[0] for _, _, raw in other.foreign] == [99]
    assert other.nbytes == whole + NAME_BYTES + len(raw)
