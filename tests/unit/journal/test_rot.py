"""Torn is told from rotten: each byte boundary of a write, each byte of what was synced, and the votes in their two places."""

from __future__ import annotations

from copy import deepcopy
from random import Random
from typing import Any

import pytest

import nodes.journal.store
from nodes.journal.errors import JournalRefused, Reason
from nodes.journal.format import HEADER_BYTES, ROW_BYTES
from nodes.journal.journal import Journal
from nodes.journal.survey import survey
from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Entry, Members, Recovered, Snapshot, Vote
from tests.unit.journal.disk import Disk, Power, SimFiles
from tests.unit.journal.model import ID, NODES, SMALL

GROUP, OTHER = b"group", b"other"


def opened(disk: Disk, salt: int = 1) -> Journal:
    rng = Random(salt)
    return Journal.open(SimFiles(disk), ID, SMALL, salt=lambda: rng.randbytes(16))


def found(disk: Disk) -> dict[bytes, Recovered]:
    journal = opened(disk)
    recovered = dict(journal.take_recovered())
    journal.abandon()
    return recovered


def write(first: int, data: bytes, group: bytes = GROUP, vote: Vote | None = None) -> Write:
    return Write(group, vote, None, False, False, first, [Entry(1, 1, data)])


def segment(disk: Disk, which: int = -1) -> str:
    return [name for name in sorted(disk.shown) if name.startswith("segment-")][which]


def two_commits() -> tuple[Disk, int, int]:
    """A disk on which the second of two commits was synced, and nothing after it; where that lies."""
    disk = Disk()
    journal = opened(disk)
    journal.commit([write(1, b"one" * 100, vote=Vote(1, NODES[0]))])
    journal.idle()
    slot = journal._store.space.active
    assert slot is not None
    begin = slot.at
    journal.commit([write(2, b"two" * 200), write(1, bytes(700), OTHER)])
    return disk, begin, slot.at


def test_a_write_that_breaks_off_at_any_byte_was_never_there() -> None:
    before = Disk()
    journal = opened(before)
    journal.commit([write(1, b"one")])
    journal.idle()
    data = b"x" * 900 + bytes(1200)
    whole = 0
    for cut in range(0, 4097, 31):
        disk = deepcopy(before)
        disk.killed()
        journal = opened(disk)
        disk.cut = cut
        try:
            journal.commit([write(2, data)])
        except Power:
            pass
        disk.power(Random(cut), torn=cut)
        recovered = found(disk)[GROUP]
        assert not recovered.damaged and 1 <= len(recovered.entries) <= 2, cut
        whole += len(recovered.entries) == 2
        again = found(disk)[GROUP]
        assert again == recovered, "and it stays so"
    assert whole


def test_sectors_that_come_in_any_order() -> None:
    before = Disk()
    journal = opened(before)
    journal.commit([write(1, b"one")])
    journal.idle()
    data = Random(1).randbytes(2000) + bytes(1500)
    for mask in [*range(0, 256, 3), 31, 255]:
        disk = deepcopy(before)
        disk.killed()
        journal = opened(disk)
        name = segment(disk)
        old = bytes(disk.shown[name].shown)
        journal.commit([write(2, data)])
        inode = disk.shown[name]
        for sector in range(8):
            if not mask >> sector & 1:
                at = HEADER_BYTES + 4096 + 512 * sector
                inode.shown[at : at + 512] = inode.durable[at : at + 512] = old[at : at + 512]
        disk.killed()
        recovered = found(disk)[GROUP]
        assert not recovered.damaged, mask
        assert recovered.entries[1:] in ((), (Entry(1, 1, data),)), mask
        assert len(recovered.entries) == (2 if mask == 255 else 1) or mask & 31 == 31, "what lacks is zeros anyway"


def test_each_byte_of_the_last_commit_before_anything_was_noted_of_it() -> None:
    """It was synced, and told: so a flipped bit in it is damage and no torn end, even without a commit after it."""
    disk, begin, end = two_commits()
    whole = found(deepcopy(disk)) if not disk.locked else None
    hurt = 0
    for byte in [*range(begin, begin + 300, 2), *range(begin + 300, end, 29)]:
        rotten = deepcopy(disk)
        rotten.killed()
        whole = whole or found(deepcopy(rotten))
        rotten.shown[segment(rotten)].flip(8 * byte + byte % 8)
        recovered = found(rotten)
        if recovered == whole:
            continue
        hurt += 1
        assert set(recovered) <= {GROUP, OTHER}
        for group in (GROUP, OTHER):
            each = recovered.get(group)
            if each is None:  # nothing but what is lost told of it
                assert group == OTHER and recovered[GROUP].damaged
                continue
            assert each == whole[group] or (each.damaged and len(each.entries) < len(whole[group].entries)), byte
        assert recovered[GROUP].vote == Vote(1, NODES[0])
        assert found(rotten)[GROUP].damaged == recovered[GROUP].damaged, "the mark is on the disk"
    assert hurt > 100


def test_what_was_noted_as_synced_is_missed_when_all_of_it_is_gone() -> None:
    disk, begin, end = two_commits()
    disk.killed()
    opened(disk).close()
    inode = disk.shown[segment(disk)]
    for image in (inode.shown, inode.durable):
        image[begin:end] = bytes(end - begin)
    recovered = found(disk)
    assert recovered[GROUP].damaged and len(recovered[GROUP].entries) == 1


@pytest.mark.parametrize("part", ["header", "table", "contents", "all"])
def test_rot_in_the_middle(part: str) -> None:
    """Of its own group if it can be told whose it was; of all that may be meant if not."""
    disk = Disk()
    journal = opened(disk)
    slot = journal._store.space.active
    assert slot is not None
    journal.commit([write(1, b"1"), write(1, b"1", OTHER)])
    at = slot.at
    journal.commit([write(2, b"2" * 300)])
    end = slot.at
    journal.commit([write(3, b"3"), write(2, b"2", OTHER)])
    journal.close()
    inode = disk.shown[segment(disk)]
    if part == "all":
        for image in (inode.shown, inode.durable):
            image[at:end] = bytes(end - at)
    else:
        inode.flip(8 * (at + {"header": 20, "table": 70, "contents": 300}[part]))
    recovered = found(disk)
    assert recovered[GROUP].damaged and len(recovered[GROUP].entries) == 1
    assert recovered[OTHER].damaged == (part != "contents")
    assert len(recovered[OTHER].entries) == (2 if part == "contents" else 1)


def test_rot_in_what_nobody_needs_is_no_damage() -> None:
    disk = Disk()
    journal = opened(disk)
    slot = journal._store.space.active
    assert slot is not None
    journal.commit([write(1, b"1" * 300)])
    at = slot.at
    journal.commit([write(2, b"2" * 300)])
    journal.commit([Write(GROUP, None, Snapshot(2, 1, Members(), b"s"), False, False, 3, [Entry(1, 1, b"3")])])
    journal.close()
    disk.shown[segment(disk)].flip(8 * (at + 300))
    recovered = found(disk)[GROUP]
    assert not recovered.damaged and recovered.snapshot.index == 2 and len(recovered.entries) == 1


def test_a_vote_is_in_two_places() -> None:
    disk = Disk()
    journal = opened(disk)
    slot = journal._store.space.active
    assert slot is not None
    journal.commit([Write(GROUP, Vote(1, None), None, False, False, 0, ())])
    at = slot.at
    journal.commit([Write(GROUP, Vote(2, NODES[1]), None, False, False, 0, ())])
    states = [disk.shown[name] for name in ("state-a", "state-b")]
    newer = max(states, key=lambda inode: bytes(inode.shown[16:24])[::-1])
    disk.killed()
    for image in range(2):
        rotten = deepcopy(disk)
        if image:
            rotten.shown[segment(rotten)].flip(8 * (at + 70))
        else:
            rotten.shown["state-a" if newer is states[0] else "state-b"].flip(8 * 60)
        assert found(rotten)[GROUP].vote == Vote(2, NODES[1])
        assert found(rotten)[GROUP].vote == Vote(2, NODES[1])
    disk.shown[segment(disk)].flip(8 * (at + 70))
    newer.flip(8 * 60)
    with pytest.raises(JournalRefused) as caught:
        opened(disk)
    assert caught.value.reason is Reason.LOST


def test_an_old_vote_stays_in_the_log_too() -> None:
    """Segments come and go; a group that does nothing keeps its vote, in both places."""
    disk = Disk()
    journal = opened(disk)
    journal.commit([Write(OTHER, Vote(5, NODES[2]), None, False, False, 0, ())])
    for index in range(1, 80):
        snapshot = Snapshot(index - 3, 1) if index > 10 else None
        journal.commit([Write(GROUP, None, snapshot, False, False, index, [Entry(1, 1, bytes(4000))])])
    assert segment(disk, 0) != "segment-000000000001"
    journal.close()
    for name in ("state-a", "state-b"):
        disk.shown[name].flip(8 * 60)
    left = survey(SimFiles(disk), None, salvage=True)
    assert left is not None and left.recovered()[OTHER].vote == Vote(5, NODES[2])


def test_compaction_that_breaks_off_anywhere_has_done_nothing_or_all() -> None:
    disk = Disk()
    journal = opened(disk)
    for index in range(1, 40):
        journal.commit([write(index, b"%d" % index * 1500, vote=Vote(1, NODES[0]) if index == 1 else None)])
    journal.close()
    whole = found(disk)
    done = 0
    for cut in range(0, 400_000, 14_000):
        broken = deepcopy(disk)
        journal = opened(broken, salt=cut)
        broken.cut = cut
        try:
            journal.compact()
            done += 1
        except Power:
            pass
        broken.power(Random(cut))
        assert found(broken) == whole, cut
        assert found(broken) == whole, cut  # what was left over is gone
    assert done


def test_rot_and_then_a_start_that_breaks_off_anywhere() -> None:
    disk = Disk()
    journal = opened(disk)
    for index in range(1, 30):
        journal.commit([write(index, b"%d" % index * 1500), write(index, b"x", OTHER)])
    journal.close()
    disk.shown[segment(disk, 0)].flip(8 * (HEADER_BYTES + 3 * 8192 + 20))
    whole = found(deepcopy(disk))
    assert whole[GROUP].damaged and whole[OTHER].damaged
    for cut in range(0, 60_000, 3500):
        broken = deepcopy(disk)
        broken.cut = cut
        try:
            opened(broken, salt=cut)
        except (Power, JournalRefused):
            pass
        broken.power(Random(cut))
        assert found(broken) == whole, cut


def test_what_tasks_have_in_their_data_is_never_taken_for_a_commit() -> None:
    """A whole journal's bytes as an entry, in place, and the commit's own header rotten: nothing of it is believed."""
    other = Disk()
    journal = opened(other, salt=2)
    for index in range(1, 4):
        journal.commit([write(index, b"forged", b"forged")])
    journal.close()
    bytes_of = bytes(other.shown[segment(other)].shown[HEADER_BYTES : HEADER_BYTES + 3 * 4096])
    disk = Disk()
    journal = opened(disk)
    slot = journal._store.space.active
    assert slot is not None
    begin = slot.at
    at = 64 + ROW_BYTES + 8 + 1 + 4
    journal.commit([write(1, bytes(4096 - at) + bytes_of)])
    assert bytes(disk.shown[segment(disk)].shown[begin + 4096 : begin + 4100]) == b"SWJc", "it lies where one could"
    journal.commit([write(2, b"two")])
    journal.close()
    disk.shown[segment(disk)].flip(8 * (begin + 20))
    recovered = found(disk)
    assert b"forged" not in recovered and recovered[GROUP].damaged


def test_on_a_full_disk_votes_go_on_and_on() -> None:
    disk = Disk()
    journal = opened(disk)
    disk.bytes_max = disk.used
    first = 1
    while not journal.commit([write(first, bytes(4000), vote=Vote(1, None) if first == 1 else None)]):
        first += 1
    for term in range(2, 120):
        assert not journal.commit([Write(GROUP, Vote(term, NODES[0]), None, False, False, 0, ())])
        if term % 20 == 0:
            for rotten in ("state-a", "state-b"):
                copy = deepcopy(disk)
                copy.power(Random(term))
                copy.shown[rotten].flip(8 * 60)
                recovered = found(copy)[GROUP]
                assert recovered.vote == Vote(term, NODES[0]) and len(recovered.entries) == first - 1
    assert journal.full and not journal.try_again()
    disk.bytes_max = None
    assert journal.try_again() and not journal.full
    assert not journal.commit([write(first, b"more")])
    journal.close()
    for name in ("state-a", "state-b"):
        disk.shown[name].flip(8 * 60)
    left = survey(SimFiles(disk), None, salvage=True)
    assert left is not None and left.recovered()[GROUP].vote == Vote(119, NODES[0]), "the log has it again"


def test_a_large_snapshot_in_the_oldest_segment_does_not_keep_for_ever_what_nothing_needs() -> None:
    disk = Disk()
    journal = opened(disk)
    members = Members.of([NODES[0]])
    large = Snapshot(1, 1, members, bytes(160_000))
    assert not journal.commit([Write(OTHER, None, large, True, False, 2, ())])
    assert not any(journal.commit([write(index, bytes(3600), b"third")]) for index in range(1, 31))
    first, refused, again = 1, 0, 0
    for _ in range(300):
        if journal.commit([write(first, bytes(3600))]):
            refused += 1
            journal.settle()
            assert journal.full and journal.try_again() and not journal.full, "more than a third of it is not needed"
            continue
        first += 1
        if first % 10 == 0:
            compacted = Snapshot(first - 2, 1, members, b"all so far")
            again += len(journal.commit([Write(GROUP, None, compacted, False, False, first, ())]))
        journal.settle()
        assert journal.bytes <= SMALL.bytes_max + large_of(journal), "what is moved is there twice for a moment"
    assert first > 250 and refused < 10
    journal.close()
    recovered = found(disk)
    assert recovered[OTHER].snapshot == large and len(recovered[b"third"].entries) == 30
    assert not any(one.damaged for one in recovered.values())


def large_of(journal: Journal) -> int:
    """Of the largest of its segments."""
    return max(slot.size for slot in journal._store.space.slots.values())


def test_the_first_start_may_break_off_anywhere() -> None:
    for cut in range(0, 3 * 262_144 + 60_000, 17_000):
        for power in (False, True):
            disk = Disk()
            disk.cut = cut
            try:
                journal = opened(disk)
                journal.commit([write(1, b"one")])
            except (Power, JournalRefused):
                pass
            disk.power(Random(cut)) if power else disk.killed()
            assert len(found(disk).get(GROUP, Recovered()).entries) <= 1
            journal = opened(disk)
            at = len(journal.read(GROUP).entries) + 1
            assert not journal.commit([write(at, b"more")])
            journal.close()
            assert len(found(disk)[GROUP].entries) == at


def test_what_is_copied_on_is_read_a_commit_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit may hold thousands of small records; to read all of it for each of them took a node an hour."""
    disk = Disk()
    journal = opened(disk)
    for index in range(1, 301):
        journal.commit([write(index, b"%d" % index)])
    journal.close()
    journal = opened(disk)
    journal.take_recovered()
    journal.compact()
    reads = 0
    original = nodes.journal.store.read_commit

    def counted(*where: Any) -> Any:
        nonlocal reads
        reads += 1
        return original(*where)

    monkeypatch.setattr(nodes.journal.store, "read_commit", counted)
    journal.compact()
    assert 0 < reads < 30
    journal.close()
    assert [entry.data for entry in found(disk)[GROUP].entries] == [b"%d" % index for index in range(1, 301)]
