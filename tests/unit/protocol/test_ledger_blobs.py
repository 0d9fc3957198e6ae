"""What batches need beside their arguments is in the log with them, once, as long as one of them is there."""

from __future__ import annotations

import pytest

from kernels.batch import CallBuilder, OutcomeBuilder
from swarm.protocol.ids import batch_key
from swarm.protocol.ledger.records import (
    Blob,
    Durability,
    Ended,
    Forgotten,
    RecordError,
    Submitted,
    digest_of,
    pack,
    pack_entry,
    unpack,
)
from swarm.protocol.ledger.state import BLOBS_UNNAMED_MAX, LedgerState, Verdict

RAW = b"\x81\xa1f\xc0"


def code(number: int) -> Blob:
    return Blob(number.to_bytes(32, "big"), b"code %d" % number)


def batch(number: int, *refs: int) -> Submitted:
    builder = CallBuilder()
    builder.add(b"M\x01")
    columns, key = builder.take(), batch_key(b"session!", number)
    ids = tuple(code(ref).id for ref in refs)
    return Submitted(
        key, "ada", True, RAW, 1, columns, 5.0, 60.0, Durability.FLEET, digest_of(RAW, 1, columns), (), ids
    )  # fmt: skip


def ended(number: int) -> Ended:
    builder = OutcomeBuilder()
    builder.add(0, 0, 1, b"M\x02")
    return Ended(batch_key(b"session!", number), None, 1, builder.take(), 6.0)


class Log:
    def __init__(self) -> None:
        self.state = LedgerState()

    def write(self, *records: object) -> list[Verdict]:
        data = pack_entry(pack(each) for each in records)  # type: ignore[arg-type]
        return [one.verdict for one in self.state.apply(self.state.applied + 1, 1, data)]


def test_a_record_of_a_blob_is_what_it_was() -> None:
    found = unpack(pack(code(3)))
    assert isinstance(found, Blob)
    assert (found.id, bytes(found.content)) == (code(3).id, b"code 3")
    with pytest.raises(RecordError):
        unpack(pack(Blob(b"short", b"")))


def test_a_blob_goes_with_the_last_batch_that_names_it() -> None:
    log = Log()
    empty = log.state.nbytes
    assert log.write(code(1), batch(1, 1), batch(2, 1)) == [Verdict.DONE] * 3
    assert log.write(code(1)) == [Verdict.KNOWN]
    assert log.write(ended(1), ended(2)) == [Verdict.DONE] * 2
    log.write(Forgotten((batch_key(b"session!", 1),)))
    assert log.state.blobs == {code(1).id: b"code 1"}
    log.write(Forgotten((batch_key(b"session!", 2),)))
    assert log.state.blobs == {} and log.state.nbytes == empty


def test_what_no_batch_names_is_bounded() -> None:
    log = Log()
    log.write(code(0), batch(1, 0))
    for number in range(1, 3 * BLOBS_UNNAMED_MAX):
        log.write(code(number))
    assert len(log.state.blobs) == BLOBS_UNNAMED_MAX + 1 and code(0).id in log.state.blobs


def test_a_snapshot_has_them() -> None:
    log = Log()
    log.write(code(1), code(2), batch(1, 1, 2), batch(2, 2), ended(1), ended(2))
    other = LedgerState.restore(log.state.snapshot())
    assert other.blobs == log.state.blobs and other.nbytes == log.state.nbytes
    assert other.snapshot() == log.state.snapshot()
    gone = pack_entry([pack(Forgotten((batch_key(b"session!", 1),)))])
    for state in (other, log.state):
        state.apply(state.applied + 1, 1, gone)
    assert list(other.blobs) == list(log.state.blobs) == [code(2).id]
