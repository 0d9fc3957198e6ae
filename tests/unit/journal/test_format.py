"""The journal's bytes: there and back, and as each version has them for good."""

from __future__ import annotations

import hashlib
from struct import Struct

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.journal.format import (
    VERSION,
    CommitHeader,
    Flag,
    FormatError,
    NewerError,
    Record,
    SegmentHeader,
    check,
    pack_commit,
    pack_entries,
    pack_snapshot,
    slice_entries,
    unpack_entries,
    unpack_snapshot,
    unpack_table,
)
from nodes.journal.scan import Commit, Scan
from nodes.journal.stamps import BLOCK, SECTOR, STAMP, extent, put_stamps, torn, unstamped
from nodes.journal.state import State
from nodes.journal.store import batches, record_of
from nodes.journal.track import Track, Where
from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Entry, Members, Recovered, Snapshot, Vote
from tests.sim.raft.disk import Shelf
from tests.unit.journal.model import ID, NODES

SALT = b"s" * 16
ENTRIES = st.lists(
    st.builds(Entry, st.integers(0, 2**63), st.integers(0, 255), st.binary(max_size=40)), min_size=1, max_size=30
)
quick = settings(max_examples=60, deadline=None)


@quick
@given(ENTRIES, st.data())
def test_entries(entries: list[Entry], data: st.DataObject) -> None:
    pieces, size, form = pack_entries(entries)
    packed = b"".join(pieces)
    assert len(packed) == size
    back = unpack_entries(packed, len(entries), form)
    assert back == entries and all(type(entry) is Entry for entry in back)
    skip = data.draw(st.integers(0, len(entries) - 1))
    keep = data.draw(st.integers(1, len(entries) - skip))
    pieces, size, form = slice_entries(packed, len(entries), form, skip, keep)
    assert unpack_entries(b"".join(pieces), keep, form) == entries[skip : skip + keep]


@quick
@given(st.binary(max_size=3000), st.integers(0, 300_000))
def test_stamps(data: bytes, more: int) -> None:
    data += bytes(more)
    written = bytearray(data + bytes(extent(len(data)) - len(data)))
    put_stamps(written, len(data))
    assert len(written) % BLOCK == 0 and not torn(written)
    assert all(value == STAMP for value in written[SECTOR - 1 :: SECTOR])
    assert unstamped(written, len(data)) == data
    if written:
        written[-SECTOR:] = bytes(SECTOR)
        assert torn(written)


def records_of(entries: list[Entry]) -> list[Record]:
    snapshot = pack_snapshot(Snapshot(7, 3, Members.of(NODES[:1], NODES[1:]), b"state"))
    return [
        Record(b"g" * 32, Vote(5, NODES[0]), Flag.REPAIRED, 0, b"", 9, len(entries), *pack_entries(entries)),
        Record(b"h", Vote(2, None, (2, 9)), Flag.SNAPSHOT | Flag.RESET, 7, snapshot),
        Record(b"i"),
    ]


@quick
@given(ENTRIES)
def test_commits(entries: list[Entry]) -> None:
    records = records_of(entries)
    written, checksum = pack_commit(3, SALT, 12, b"previous", records)
    header = CommitHeader.unpack(written, SALT)
    assert (header.segment, header.number, header.rows, header.previous) == (3, 12, 3, b"previous")
    assert header.check == checksum and header.extent == len(written)
    whole = unstamped(written, header.size)
    rows = unpack_table(whole, header)
    assert [row.group for row in rows] == [record.group for record in records]
    assert [row.vote for row in rows] == [Vote(5, NODES[0]), Vote(2, None, (2, 9)), None]
    assert rows[1].flags & Flag.RESET and rows[1].flags & Flag.SNAPSHOT and rows[0].flags & Flag.REPAIRED
    at = 64 + 3 * 112
    contents = bytes(whole[at : at + rows[0].size])
    assert check(contents) == rows[0].check
    assert unpack_entries(contents, rows[0].entry_count, rows[0].form) == entries
    snapshot = bytes(whole[at + rows[0].size : at + rows[0].size + rows[1].size])
    assert unpack_snapshot(snapshot) == Snapshot(7, 3, Members.of(NODES[:1], NODES[1:]), b"state")
    with pytest.raises(FormatError):
        CommitHeader.unpack(written, b"t" * 16)


@quick
@given(ENTRIES, st.integers(0, 2**16))
def test_a_flipped_bit_is_never_believed(entries: list[Entry], where: int) -> None:
    """Of a commit with one after it: all that is read is as it was, or is not read."""
    one, first = pack_commit(1, SALT, 1, bytes(8), records_of(entries))
    two, _ = pack_commit(1, SALT, 2, first, [Record(b"later")])
    data = bytearray(8192) + one + two + bytes(BLOCK)
    clean = {
        (each.header.number, row.group): contents
        for each in Scan(bytes(data), 1, SALT, 1, None, 0)
        if isinstance(each, Commit)
        for row, contents in zip(each.rows, each.contents, strict=True)
    }
    bit = where % (8 * len(one))
    data[8192 + bit // 8] ^= 1 << bit % 8
    found = list(Scan(bytes(data), 1, SALT, 1, None, 0))
    numbers = [each.header.number if isinstance(each, Commit) else each.first for each in found]
    assert numbers == [1, 2], "what is lost is said to be lost"
    for each in found:
        if isinstance(each, Commit):
            for row, contents in zip(each.rows, each.contents, strict=True):
                assert contents is None or contents == clean[each.header.number, row.group]


@quick
@given(st.dictionaries(st.binary(min_size=1, max_size=32), st.integers(0, 2**62), max_size=40), st.integers(0, 2**40))
def test_states(terms: dict[bytes, int], where: int) -> None:
    fleet, node = ID.key
    votes = {
        group: Vote(term, NODES[term % 3] if term % 2 else None, (term // 2, term // 3))
        for group, term in terms.items()
    }
    state = State(fleet, node, 5, 6, 7, 8, votes)
    packed = bytearray(state.pack())
    assert len(packed) % BLOCK == 0 and State.unpack(bytes(packed)) == state
    used = len(bytes(packed).rstrip(b"\0"))
    bit = where % (8 * used)
    packed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(FormatError):
        State.unpack(bytes(packed))


def test_headers_of_segments() -> None:
    fleet, node = ID.key
    header = SegmentHeader(fleet, node, 9, SALT, 77, True)
    packed = bytearray(header.pack())
    assert SegmentHeader.unpack(bytes(packed)) == header
    packed[20] ^= 1
    assert SegmentHeader.unpack(bytes(packed)) == header, "there are two"
    packed[BLOCK + 20] ^= 1
    with pytest.raises(FormatError):
        SegmentHeader.unpack(bytes(packed))
    later = bytearray(header.pack()[:120])
    size = len(header.pack()[:BLOCK].rstrip(b"\0"))
    later = bytearray(header.pack())
    for at in (0, BLOCK):
        later[at + 8] = VERSION + 1
        later[at + size - 8 : at + size] = check(later[at : at + size - 8])
    with pytest.raises(NewerError):
        SegmentHeader.unpack(bytes(later))


def test_version_1_is_read() -> None:
    """It had nothing of the log that was given up."""
    records = records_of([Entry(3, 1, b"first"), Entry(4, 2, bytes(600))])
    written, _ = pack_commit(1, SALT, 2, b"previous", records)
    header = CommitHeader.unpack(written, SALT)
    whole = unstamped(written, header.size)
    table = b"".join(bytes(whole[at : at + 56]) + bytes(whole[at + 72 : at + 112]) for at in range(64, 400, 112))
    body = table + bytes(whole[400:])
    head = Struct("<4sIIIQQQ8s8s").pack(b"SWJc", 3, 0, 0, 1, 2, 64 + len(body), b"previous", check(table))
    older = bytearray(head + check(head + SALT) + body)
    older += bytes(extent(len(older)) - len(older))
    put_stamps(older, 64 + len(body))
    scan = list(Scan(bytes(8192) + bytes(older) + written, 1, SALT, 2, None, 0))
    assert isinstance(scan[0], Commit) and None not in scan[0].contents
    found = scan[0].rows
    assert [row.vote for row in found] == [Vote(5, NODES[0]), Vote(2, None), None]
    assert [row[2:] for row in found] == [row[2:] for row in unpack_table(whole, header)]
    fleet, node = ID.key
    votes = [(b"g", 1, NODES[1]), (b"h", 2, None)]
    packed = msgpack.packb((fleet, node, 6, 7, 8, votes))
    head = Struct("<8sIIQ").pack(b"SWARMJST", 1, len(packed), 5)
    assert State.unpack(head + check(head + packed) + packed).votes == {b"g": Vote(1, NODES[1]), b"h": Vote(2, None)}


def test_version_2_stays_as_it_is() -> None:
    """What an earlier version wrote must be read for ever: a change here needs a new version."""
    fleet, node = ID.key
    entries = [Entry(3, 1, b"first"), Entry(4, 2, bytes(600)), Entry(4, 1, b"")]
    commit, _ = pack_commit(1, SALT, 2, b"previous", records_of(entries))
    state = State(fleet, node, 5, 6, 7, 8, {b"g": Vote(1, NODES[1]), b"h": Vote(2, None, (1, 8))})
    digests = [
        hashlib.sha256(data).hexdigest()[:16]
        for data in (SegmentHeader(fleet, node, 9, SALT, 77, True).pack(), bytes(commit), state.pack())
    ]
    assert digests == ["708d9af01fb0366d", "3e54f55a3218e1c0", "6314d6254449cf1d"]


@st.composite
def histories(draw: st.DrawFn) -> list[Write]:
    """Writes that a group could have, one after the other."""
    base = last = term = 0
    writes = []
    for _ in range(draw(st.integers(1, 12))):
        vote = snapshot = None
        reset = False
        if draw(st.booleans()):
            term += 1
            vote = Vote(term, draw(st.sampled_from((None, *NODES))))
        if draw(st.integers(0, 2)) == 0:
            reset = draw(st.booleans())
            base = draw(st.integers(last + 1, last + 4)) if reset else draw(st.integers(base, last))
            last = max(last, base) if not reset else base
            snapshot = Snapshot(base, term, Members.of(NODES), b"%d" % base)
        count = draw(st.integers(0, 6))
        first = draw(st.integers(base + 1, last + 1)) if count else 0
        entries = [Entry(term, 1, b"%d of %d" % (first + n, term)) for n in range(count)]
        last = first + count - 1 if count else last
        writes.append(Write(b"g", vote, snapshot, reset, False, first, entries))
    return writes


@settings(max_examples=80, deadline=None)
@given(histories(), st.integers(150, 400), st.data())
def test_bookkeeping_is_as_the_modelled_disk_has_it(writes: list[Write], size_max: int, data: st.DataObject) -> None:
    """In parts of any size; and with one record lost, what is found is whole or said to be damaged."""
    shelf, track, broken = Shelf(), Track(b"g"), Track(b"g")
    records = [record for write in writes for batch in batches([record_of(write)], size_max) for record in batch]
    lost = data.draw(st.integers(0, len(records) - 1))
    for write in writes:
        shelf.write(write)
    for number, record in enumerate(records):
        contents = record.snapshot + b"".join(record.entries)
        track.apply(record.row, Where(1, number, 0), contents)
        broken.apply(record.row, Where(1, number, 0), None if number == lost else contents, number == lost)
    assert track.whole and track.recovered() == shelf.recover()
    broken.cut()
    found = broken.recovered()
    assert found.vote == shelf.vote
    if found.damaged:
        assert found.entries == tuple(shelf.entries[: len(found.entries)])
        assert found.snapshot in (shelf.snapshot, Snapshot())
    else:
        assert found == Recovered(shelf.vote, shelf.snapshot, tuple(shelf.entries))
