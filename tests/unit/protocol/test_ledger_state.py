"""The ledger's records and state: against a readable model, and the same from any point on."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.batch import CallBuilder, OutcomeBuilder
from swarm.protocol.ledger import records
from swarm.protocol.ledger.records import (
    Cancelled,
    Counted,
    Ended,
    Forgotten,
    Granted,
    Record,
    RecordError,
    Reprioritized,
    Saved,
    Submitted,
    Token,
    Unknown,
    digest_of,
    pack,
    pack_entry,
    unpack,
    unpack_entry,
)
from swarm.protocol.ledger.state import LedgerState, Verdict
from swarm.protocol.raft.entries import Entry, EntryKind
from swarm.protocol.states import Status
from tests.sim.ledger.history import Model

KEYS = [b"session%d" % number + number.to_bytes(4, "big") for number in range(3)]


def submitted(key: bytes = KEYS[0], count: int = 4, text: str = "x") -> Submitted:
    builder = CallBuilder()
    for row in range(count):
        builder.add_plain((text, row), None)
    columns = builder.take()
    digest = digest_of(b"\x80", count, columns)
    return Submitted(key, "somebody", True, b"\x80", count, columns, 100.0, 60.0, 2, digest)


def ended(
    key: bytes, token: Token | None, rows: list[int], text: str = "", status: int = 0, wall: float = 200.0
) -> Ended:
    builder = OutcomeBuilder()
    for row in rows:
        builder.add(row, status, 7, f"{text}{row}".encode())
    return Ended(key, token, len(rows), builder.take(), wall)


def applied(state: LedgerState, term: int, *what: Record) -> list[Verdict]:
    entry = pack_entry(pack(record) for record in what)
    return [one.verdict for one in state.apply(state.applied + 1, term, entry)]


def outcomes(state: LedgerState, key: bytes) -> dict[int, bytes]:
    batch = state.batches[key]
    return {row: bytes(found[2]) for row in range(batch.count) if (found := batch.outcome(row)) is not None}


# --- records


@pytest.mark.parametrize(
    "record",
    [
        submitted(),
        replace(submitted(), deps=(b"d" * 16,), refs=(b"r" * 32, b"s" * 32), granted=False),
        Granted(KEYS[0], ((0, 2), (3, 4)), Token(7, 9)),
        ended(KEYS[0], Token(1, 2), [2, 0]),
        ended(KEYS[0], None, [1]),
        Counted(KEYS[0], ((1, 2, 3), (4, 0, 1))),
        Cancelled(KEYS[0], ((0, 4),), True),
        Reprioritized(KEYS[0], ((0, 4), (7, 9)), 3, -20),
        Saved(KEYS[0], 3, 2, Token(1, 2), b"Mstate"),
        Forgotten((KEYS[0], KEYS[1])),
    ],
)
def test_records_come_back_as_they_were(record: Record) -> None:
    found = unpack_entry(pack_entry([pack(record), pack(record)]))
    assert found == [record, record]


def test_what_is_cut_short_or_turned_round_is_no_record() -> None:
    raw = pack(ended(KEYS[0], Token(1, 2), [2, 0]))
    for size in range(len(raw)):
        with pytest.raises(RecordError):
            unpack(raw[:size])
    with pytest.raises(RecordError, match="format"):
        unpack_entry(b"\x09" + raw)
    with pytest.raises(RecordError):
        unpack_entry(pack_entry([raw])[:-1])
    with pytest.raises(RecordError, match="ranges"):
        unpack(pack(Granted(KEYS[0], ((3, 4), (0, 2)), Token(1, 1))))
    with pytest.raises(RecordError, match="key"):
        unpack(pack(Granted(b"short", ((3, 4),), Token(1, 1))))
    with pytest.raises(RecordError, match="seconds"):
        unpack(pack(replace(submitted(), retention_s=float("nan"))))


@given(st.binary(max_size=80))
@settings(max_examples=200, deadline=None)
def test_anything_is_a_record_or_none(data: bytes) -> None:
    state = LedgerState()
    state.apply(1, 1, data)
    state.apply(2, 1, b"\x01" + data)
    assert not state.batches and LedgerState.restore(state.snapshot()).snapshot() == state.snapshot()
    try:
        unpack(data)
    except RecordError:
        pass


def test_a_kind_of_a_later_version_is_kept_and_means_nothing() -> None:
    later = records._PREFIX.pack(200, 1, 0, 1, 3) + b"\x80abc"
    newer = bytearray(pack(submitted()))
    newer[1] = 9
    state = LedgerState()
    found = state.apply(1, 5, pack_entry([later, pack(submitted()), bytes(newer)]))
    assert [one.verdict for one in found] == [Verdict.KEPT, Verdict.DONE, Verdict.KEPT]
    assert state.foreign == [(1, 5, later), (1, 5, bytes(newer))]
    again = LedgerState.restore(state.snapshot())
    assert again.foreign == state.foreign and again.nbytes == state.nbytes
    assert isinstance(unpack(later), Unknown)


# --- rules


def test_first_attempts_need_no_grant_in_the_epoch_of_the_submission() -> None:
    state = LedgerState()
    assert applied(state, 3, submitted()) == [Verdict.DONE]
    assert applied(state, 3, ended(KEYS[0], Token(3, 1), [0]), ended(KEYS[0], Token(3, 2), [1])) == [Verdict.DONE] * 2
    assert applied(state, 4, ended(KEYS[0], Token(4, 1), [2])) == [Verdict.STALE]
    assert applied(state, 4, ended(KEYS[0], Token(3, 1), [2])) == [Verdict.DONE]
    assert outcomes(state, KEYS[0]) == {0: b"0", 1: b"1", 2: b"2"}


def test_a_granted_row_takes_no_other_token() -> None:
    state = LedgerState()
    applied(state, 3, submitted())
    assert applied(state, 4, Granted(KEYS[0], ((1, 3),), Token(4, 1))) == [Verdict.DONE]
    assert applied(state, 4, ended(KEYS[0], Token(3, 1), [0, 1, 2, 3])) == [Verdict.PARTLY]
    assert outcomes(state, KEYS[0]) == {0: b"0", 3: b"3"}
    assert applied(state, 4, ended(KEYS[0], Token(4, 2), [1])) == [Verdict.STALE]
    assert applied(state, 4, Granted(KEYS[0], ((0, 2),), Token(4, 2))) == [Verdict.DONE]
    assert state.batches[KEYS[0]].grants() == [(1, 2, Token(4, 2)), (2, 3, Token(4, 1))]
    assert applied(state, 5, ended(KEYS[0], Token(4, 1), [1, 2], "b")) == [Verdict.PARTLY]
    assert applied(state, 5, ended(KEYS[0], Token(4, 2), [1], "c")) == [Verdict.DONE]
    assert outcomes(state, KEYS[0]) == {0: b"0", 1: b"c1", 2: b"b2", 3: b"3"}
    assert state.batches[KEYS[0]].finished_wall == 200.0 and state.unfinished == 0


def test_a_token_is_of_its_leaders_term_and_greater_than_all_before() -> None:
    state = LedgerState()
    applied(state, 3, submitted())
    grant = Granted(KEYS[0], ((0, 4),), Token(4, 5))
    assert applied(state, 5, grant) == [Verdict.STALE]
    assert applied(state, 4, grant, grant) == [Verdict.DONE, Verdict.STALE]
    assert applied(state, 4, replace(grant, token=Token(4, 4))) == [Verdict.STALE]
    assert applied(state, 4, replace(grant, ranges=((0, 5),), token=Token(4, 6))) == [Verdict.STALE]
    assert state.batches[KEYS[0]].token(0) == Token(4, 5)


def test_the_leaders_own_verdicts_need_no_token_and_come_second_to_none() -> None:
    state = LedgerState()
    applied(state, 3, submitted())
    assert applied(state, 3, ended(KEYS[0], None, [0], "v", Status.EXPIRED)) == [Verdict.DONE]
    assert applied(state, 3, ended(KEYS[0], Token(3, 1), [0, 1], "a")) == [Verdict.PARTLY]
    assert applied(state, 3, ended(KEYS[0], None, [0, 1], "w")) == [Verdict.STALE]
    assert outcomes(state, KEYS[0]) == {0: b"v0", 1: b"a1"}
    assert state.batches[KEYS[0]].outcome(0) == (Status.EXPIRED, 7, memoryview(b"v0"))


def test_a_row_twice_in_one_record_has_its_first_outcome_and_what_is_not_final_is_none() -> None:
    state = LedgerState()
    applied(state, 3, submitted())
    builder = OutcomeBuilder()
    for row, status, text in ((1, 0, b"first"), (1, 0, b"second"), (2, Status.RETRY, b"again"), (9, 0, b"beyond")):
        builder.add(row, status, 1, text)
    assert applied(state, 3, Ended(KEYS[0], Token(3, 1), 4, builder.take(), 1.0)) == [Verdict.PARTLY]
    assert outcomes(state, KEYS[0]) == {1: b"first"} and state.unfinished == 3


def test_the_same_key_is_the_same_batch_or_refused() -> None:
    state = LedgerState()
    assert applied(state, 3, submitted(), submitted(), submitted(text="y")) == [
        Verdict.DONE,
        Verdict.KNOWN,
        Verdict.CONFLICT,
    ]
    assert state.unfinished == 4 and state.batches[KEYS[0]].submitted.digest == submitted().digest


def test_what_has_no_outcome_is_never_forgotten() -> None:
    state = LedgerState()
    applied(state, 3, submitted(), submitted(KEYS[1]))
    applied(state, 3, ended(KEYS[0], Token(3, 1), [0, 1, 2, 3]), Forgotten((KEYS[0], KEYS[1])))
    assert list(state.batches) == [KEYS[1]] and state.unfinished == 4
    held = state.nbytes
    applied(state, 3, ended(KEYS[1], Token(3, 1), [0, 1, 2, 3]), Forgotten((KEYS[1],)))
    assert not state.batches and 0 == state.nbytes < held and state.reserved == 0
    assert applied(state, 3, ended(KEYS[1], Token(3, 1), [0])) == [Verdict.NO_BATCH]


def test_counts_grow_and_cancelled_ranges_are_merged() -> None:
    state = LedgerState()
    applied(state, 3, submitted(count=10))
    applied(state, 3, Counted(KEYS[0], ((1, 2, 1), (11, 1, 1))), Counted(KEYS[0], ((1, 1, 5),)))
    applied(state, 3, Cancelled(KEYS[0], ((0, 2), (4, 6)), False), Cancelled(KEYS[0], ((2, 4), (8, 99)), True))
    batch = state.batches[KEYS[0]]
    assert batch.counts == {1: (2, 5)}
    assert batch.cancelled == [(0, 6), (8, 10)] and batch.killed == [(2, 4), (8, 10)]
    assert [batch.is_cancelled(row) for row in (0, 5, 6, 9)] == [True, True, False, True]


def test_a_state_is_of_the_attempt_that_counts_and_goes_with_the_outcome() -> None:
    state = LedgerState()
    first, second = Token(5, 1), Token(5, 2)
    assert applied(state, 5, submitted(), Granted(KEYS[0], ((0, 1),), first)) == [Verdict.DONE] * 2
    empty = state.nbytes
    assert applied(state, 5, Saved(KEYS[0], 0, 1, Token(4, 9), b"a")) == [Verdict.STALE]
    assert applied(state, 5, Saved(KEYS[0], 0, 1, first, b"abc")) == [Verdict.DONE]
    batch = state.batches[KEYS[0]]
    assert batch.saved == {0: (1, first, b"abc")} and batch.left(0) and not batch.left(1)
    assert applied(state, 5, Granted(KEYS[0], ((0, 1),), second)) == [Verdict.DONE]
    assert not batch.left(0), "somebody may run it"
    again = LedgerState.restore(state.snapshot())
    assert again.batches[KEYS[0]].saved == batch.saved and again.nbytes == state.nbytes > empty
    assert applied(state, 5, Saved(KEYS[0], 0, 1, first, b"late")) == [Verdict.STALE], "a zombie's"
    before = state.nbytes - batch.saved_bytes
    assert applied(state, 5, ended(KEYS[0], second, [0])) == [Verdict.DONE]
    assert not batch.saved and state.nbytes == before + batch.outcome_bytes


def test_columns_that_do_not_fit_change_nothing() -> None:
    state = LedgerState()
    assert applied(state, 3, replace(submitted(), count=5)) == [Verdict.MALFORMED]
    assert applied(state, 3, submitted(), replace(ended(KEYS[0], None, [0]), rows=2)) == [
        Verdict.DONE,
        Verdict.MALFORMED,
    ]
    assert state.unfinished == 4 and not outcomes(state, KEYS[0])


def test_a_damaged_snapshot_is_refused() -> None:
    state = LedgerState()
    applied(state, 3, submitted(), ended(KEYS[0], Token(3, 1), [0]))
    data = state.snapshot()
    for damaged in (data[:-1], data + b"x", b"\x07" + data[1:], data[:40], data[:4] + b"\xff\xff\xff\x7f" + data[8:]):
        with pytest.raises(RecordError):
            LedgerState.restore(damaged)


def test_ten_thousand_tasks_are_columns() -> None:
    """No object a task: what a batch costs beside its bytes does not grow with it. The figure is in the benchmarks."""
    state = LedgerState()
    applied(state, 3, submitted(count=10_000), ended(KEYS[0], Token(3, 1), list(range(10_000))))
    batch = state.batches[KEYS[0]]
    assert len(batch.outcomes) == 1 and not batch.counts and not batch.grants()
    began = time.process_time()
    assert state.unfinished == 0 and batch.outcome(9_999) is not None
    assert time.process_time() - began < 5.0


# --- against the model

rows = st.integers(0, 5)
ranges = st.lists(st.tuples(rows, rows).map(lambda pair: (min(pair), max(pair) + 1)), min_size=1, max_size=1).map(tuple)
tokens = st.tuples(st.integers(1, 4), st.integers(1, 4)).map(lambda pair: Token(*pair))
keys = st.sampled_from(KEYS)
histories = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.one_of(
            st.builds(submitted, keys, st.just(6), st.sampled_from("xy")),
            st.builds(Granted, keys, ranges, tokens),
            st.builds(
                ended,
                keys,
                st.one_of(st.none(), tokens, tokens, tokens),
                st.lists(rows, min_size=1, max_size=6),
                st.sampled_from("abc"),
                st.sampled_from([0, 0, 0, 1, 16]),
            ),
            st.builds(Cancelled, keys, ranges, st.booleans()),
            st.builds(Reprioritized, keys, ranges, st.integers(0, 3), st.integers(-20, 19)),
            st.builds(Saved, keys, rows, st.integers(1, 3), tokens, st.binary(max_size=4)),
            st.builds(Counted, keys, st.lists(st.tuples(rows, rows, rows), max_size=3).map(tuple)),
            st.builds(Forgotten, st.lists(keys, max_size=2).map(tuple)),
        ),
    ),
    max_size=25,
)


def entries(history: list[tuple[int, Record]]) -> list[Entry]:
    """Terms that grow now and then; a submission and a grant are of the term that they say if that is possible."""
    found, term = [], 1
    for grows, record in history:
        term += grows
        if isinstance(record, Granted) and record.token.epoch >= term:
            term = record.token.epoch
        found.append(Entry(term, EntryKind.DATA, pack_entry([pack(record)])))
    return found


def final(model: Model) -> dict[bytes, dict[int, bytes]]:
    return {key: batch.outcomes for key, batch in model.batches.items()}


@given(histories, st.integers(0, 25))
@settings(max_examples=100, deadline=None)
def test_the_state_is_what_the_rules_say_and_the_same_from_any_snapshot_on(
    history: list[tuple[int, Record]], cut: int
) -> None:
    model, state, other = Model(), LedgerState(), LedgerState()
    for index, entry in enumerate(entries(history), 1):
        if index == cut:
            other = LedgerState.restore(other.snapshot())
        before = {key: dict(batch.outcomes) for key, batch in model.batches.items()}
        model.apply(index, entry)
        (one,), (two,) = state.apply(index, entry.term, entry.data), other.apply(index, entry.term, entry.data)
        assert (one.verdict, one.key, one.rows) == (two.verdict, two.key, two.rows)
        found = one.outcomes
        taken = {(one.key, found.index(at)): bytes(found.payload(at)) for at in range(found.count)} if found else {}
        assert taken == model.taken.get(index, {})
        assert {key: outcomes(state, key) for key in state.batches} == final(model)
        for key, said in before.items():
            assert key not in model.batches or said.items() <= model.batches[key].outcomes.items()
        for key, batch in model.batches.items():
            there = state.batches[key]
            for row in range(batch.count):
                for token in (None, Token(1, 1), Token(2, 3), batch.tokens.get(row)):
                    assert there.accepts(row, token) == model.valid(batch, row, token)
            open_rows = {row: urgency for row, urgency in batch.urgencies.items() if row not in batch.outcomes}
            assert there.saved == {row: saved for row, saved in batch.saved.items() if row not in batch.outcomes}
            for row, (_, token, _) in there.saved.items():
                assert there.left(row) == (batch.tokens.get(row, token) == token)
            given, apart = there.urgency((1, 0))
            assert {row: apart.get(row, given) for row in range(batch.count) if row not in batch.outcomes} == {
                row: open_rows.get(row, (1, 0)) for row in range(batch.count) if row not in batch.outcomes
            }
    assert state.snapshot() == other.snapshot()
    assert (state.unfinished, state.nbytes, state.wall) == (other.unfinished, other.nbytes, other.wall)
