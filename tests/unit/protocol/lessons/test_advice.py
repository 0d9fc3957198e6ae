"""Advice on the wire, records, and the half-open breaker."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.protocol.lessons.advice import (
    ADVICE_BYTES_MAX,
    ADVICE_MAX,
    AMOUNT_MAX,
    DELAY_MS_MAX,
    PARAMETERS,
    TEXT_CHARACTERS_MAX,
    TIES,
    AdviceError,
    Ask,
    Avoid,
    Change,
    Quarantine,
    Require,
    RetryAfter,
    decode,
    encode,
    plain,
    read,
    shown,
)  # fmt: skip
from swarm.protocol.lessons.records import (
    DOUBTED_USES,
    EVIDENCE_MAX,
    PROBE_LEASE_MS,
    PROBE_USES,
    Evidence,
    Record,
    RecordError,
)  # fmt: skip

NAMES = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=30)
ADVICE = st.one_of(
    st.builds(Avoid, st.sampled_from(TIES), NAMES),
    st.builds(Require, NAMES, st.floats(0, AMOUNT_MAX)),
    st.builds(RetryAfter, st.integers(0, DELAY_MS_MAX)),
    st.sampled_from(sorted(PARAMETERS)).flatmap(
        lambda name: st.builds(Change, st.just(name), st.floats(*map(float, PARAMETERS[name])))
    ),
    st.builds(Quarantine, st.integers(0, DELAY_MS_MAX)),
    st.builds(Ask, NAMES),
)
DAY_MS = 86_400_000


@given(st.lists(ADVICE, max_size=ADVICE_MAX))
def test_advice_travels(advice: list[Any]) -> None:
    raw = encode(advice)
    assert decode(raw) == tuple(advice) and read(plain(advice)) == tuple(advice)
    assert msgpack.unpackb(raw) == plain(advice) and all(shown(one) for one in advice)
    for cut in range(len(raw)):
        with pytest.raises(AdviceError):
            decode(raw[:cut])


@given(
    st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-(2**63), 2**63),
            st.floats(),
            st.text(max_size=9),
            st.binary(max_size=9),
        ),
        lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    )
)
def test_anything_else_is_refused(value: Any) -> None:
    try:
        found = read(value)
    except AdviceError:
        return
    assert decode(encode(found)) == found


@given(st.binary(max_size=60))
def test_any_bytes_are_advice_or_refused(raw: bytes) -> None:
    try:
        assert encode(decode(raw)) == raw
    except AdviceError:
        pass


@pytest.mark.parametrize(
    "row",
    [
        [7, "os.system('x')"], [1, "node", ""], [1, "host", "x"], [1, "node", "x" * 201], [1, "node", "a\nb"], [1, "node", "\ud800"], [2, "memory", -1.0],
        [2, "memory", float("nan")], [2, "memory", 2e15], [2, "memory", "2GB"], [3, -1], [3, DELAY_MS_MAX + 1], [3, 1.5], [3, True], [4, "python", 1.0],
        [4, "timeout_s", float("inf")], [4, "timeout_s", 0.0], [4, "retries", 1.0], [5, -5], [6, ""], [6, "x" * (TEXT_CHARACTERS_MAX + 1)], [], None, "x", [1, "node"],
        [1, "node", "x", "y"],
    ],
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused(row: Any) -> None:
    with pytest.raises(AdviceError):
        read([row])


def test_there_is_a_bound_of_all() -> None:
    for many in ([RetryAfter(1)] * (ADVICE_MAX + 1), [Ask("\U00010000" * TEXT_CHARACTERS_MAX)] * 4):
        with pytest.raises(AdviceError):
            encode(many)
    with pytest.raises(AdviceError):
        decode(bytes(ADVICE_BYTES_MAX + 1))
    with pytest.raises(AdviceError, match="one form"):
        decode(b"\xdc\x00\x00")  # an empty list, written longer than need be


# --- records


def test_probes_that_go_well_end_a_lesson_and_those_that_do_not_make_it_stronger() -> None:
    record, now = Record(evidence_ms=0), 0
    digest, probes, uses = b"\x01" * 16, 0, []
    for _ in range(3):  # it is right
        while not record.probe_due(digest, 365 * DAY_MS, now):
            record = record.after(Evidence.USED, now)
        uses.append(record.uses - record.uses_then)
        record = record.after(Evidence.PROBED, now).after(Evidence.CONFIRMED, now)
        probes += 1
    assert uses[0] >= PROBE_USES and uses == sorted(uses) and uses[2] > 3 * uses[0], "it is probed ever more seldom"
    assert record.strength == 4.0 and record.successes == 3 and record.probes == 3
    spent = []
    while not record.dead:  # the fault was mended
        before = record.uses
        while not record.probe_due(digest, 365 * DAY_MS, now):
            record = record.after(Evidence.USED, now)
        spent.append(record.uses - before)
        record = record.after(Evidence.PROBED, now).after(Evidence.REFUTED, now)
    assert len(spent) == 2 and spent[1] <= DOUBTED_USES * 1.25 + 1, "once it is in doubt, it is decided soon"
    assert not record.probe_due(digest, 1, 1 << 50)


@given(
    st.lists(st.sampled_from(list(Evidence)), max_size=60), st.binary(min_size=16, max_size=16), st.integers(1, DAY_MS)
)
def test_records_stay_within_bounds_travel_and_answer_alike(
    events: list[Evidence], digest: bytes, lasting_ms: int
) -> None:
    record = Record(evidence_ms=1)
    for number, event in enumerate(events):
        after = record.after(event, 1 + number)
        assert (after.uses, after.successes, after.failures, after.probes) >= (
            record.uses,
            record.successes,
            record.failures,
            record.probes,
        )
        if event is Evidence.CONFIRMED:
            assert after.strength >= record.strength
        if event is Evidence.REFUTED:
            assert after.strength <= record.strength
        record = after
        assert abs(record.evidence) <= EVIDENCE_MAX and 0 < record.probability < 1
        copy = Record.read(msgpack.unpackb(msgpack.packb(record.plain())))
        assert copy == record and copy.probe_due(digest, lasting_ms, 99) == record.probe_due(digest, lasting_ms, 99)
    assert not record.dead or record.failures, "nothing but evidence ends a lesson"


def test_no_lesson_is_so_certain_that_it_cannot_die() -> None:
    record = Record()
    for _ in range(1000):
        record = record.after(Evidence.CONFIRMED, 0)
    for probes in range(1, 5):
        record = record.after(Evidence.REFUTED, 0)
        if record.dead:
            break
    assert probes == 3


def test_one_probe_at_a_time_and_a_lost_one_is_forgotten() -> None:
    record = Record(evidence_ms=0)
    assert record.probe_due(b"x" * 16, 1000, 5000)
    begun = record.after(Evidence.PROBED, 5000)
    assert not begun.probe_due(b"x" * 16, 1000, 5001)
    assert begun.probe_due(b"x" * 16, 1000, 5000 + PROBE_LEASE_MS)


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        [0] * 9,
        [0, 0, 0, 0, 9.0, 0, 0, 0, False],
        [0, 0, 0, 0, float("nan"), 0, 0, 0, False],
        [-1, 0, 0, 0, 0.0, 0, 0, 0, False],
        [0, 0, 0, 0, 0.0, 0, 5, 0, False],
        [True, 0, 0, 0, 0.0, 0, 0, 0, False],
        ["a"] * 9,
        {},
    ],
)
def test_what_is_no_record_is_refused(bad: Any) -> None:
    with pytest.raises(RecordError):
        Record.read(bad)
