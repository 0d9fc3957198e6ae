"""What every journal does, wherever it is: in files, in a database."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nodes.journal.errors import Reason
from nodes.journal.format import JournalId
from nodes.journal.interface import AnyJournal
from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Entry, Members, Recovered, Snapshot, Vote
from tests.unit.journal.model import ID, NODES, SMALL
from tests.unit.journal.places import GROUP, Place, reason_of
from tests.unit.journal.test_files import entries
from tests.unit.journal.test_writer import Shell


def filled(place: Place, count: int) -> None:
    """Has entries 1 to `count`, one a commit."""
    journal = place.open()
    for index in range(1, count + 1):
        assert not journal.commit([entries(index, 1, 4000)])
    journal.close()


def recovered(place: Place) -> Recovered:
    journal = place.open()
    try:
        return journal.take_recovered()[GROUP]
    finally:
        journal.close()


def test_all_comes_back(place: Place) -> None:
    journal = place.open()
    snapshot = Snapshot(3, 2, Members.of(NODES[:2], NODES[2:]), b"state")
    journal.commit(
        [Write(GROUP, Vote(2, None), None, False, False, 1, [Entry(1, 0, b""), Entry(2, 1, b"x"), Entry(2, 2, b"")])]
    )
    journal.commit([
        Write(GROUP, None, snapshot, False, False, 4, [Entry(2, 1, b"four")]),
        Write(b"h", Vote(9, NODES[1]), None, False, False, 0, ()),
    ])  # fmt: skip
    expected = {
        GROUP: Recovered(Vote(2, None), snapshot, (Entry(2, 1, b"four"),)),
        b"h": Recovered(Vote(9, NODES[1])),
    }
    assert journal.read(GROUP) == expected[GROUP] and journal.groups == sorted(expected)
    journal.close()
    journal = place.open()
    found = journal.take_recovered()
    assert found == expected and type(found[GROUP].entries[0]) is Entry
    assert journal.take_recovered() == {} and not journal.damaged_at_start
    journal.close()


def test_what_was_overwritten_does_not_come_back(place: Place) -> None:
    """A record of which a part was overwritten, and what overwrote it was compacted away: no part of it shows again."""
    journal = place.open()

    def write(first: int, *data: bytes, snapshot: Snapshot | None = None, reset: bool = False) -> None:
        assert not journal.commit(
            [Write(GROUP, None, snapshot, reset, False, first, [Entry(1, 1, each) for each in data])]
        )

    write(1, *(b"%d" % index for index in range(1, 11)))
    write(5, b"e", b"f", b"g")
    write(6, b"F")
    assert [entry.data for entry in journal.read(GROUP).entries] == [b"1", b"2", b"3", b"4", b"e", b"F"]
    write(0, snapshot=Snapshot(5, 1, Members(), b"s"))
    write(7, b"h", b"i")
    write(8, b"I")
    journal.close()
    assert [entry.data for entry in recovered(place).entries] == [b"F", b"h", b"I"]
    journal = place.open()
    write(3, b"c", snapshot=Snapshot(2, 1, Members(), b"anew"), reset=True)
    journal.close()
    found = recovered(place)
    assert (found.snapshot.index, [entry.data for entry in found.entries]) == (2, [b"c"]) and not found.damaged


def test_writes_of_one_commit_stand_in_their_order(place: Place) -> None:
    journal = place.open()
    journal.commit([
        entries(1, 3), Write(b"h", Vote(1, None), None, False, False, 1, [Entry(1, 1, b"h")]), entries(4, 2), entries(6, 1),
        Write(GROUP, None, None, False, False, 5, [Entry(2, 1, b"over")]), entries(6, 2),
        Write(GROUP, Vote(2, None), None, False, False, 8, [Entry(2, 1, b"gone at once")]),
        Write(GROUP, Vote(3, None), Snapshot(2, 1, Members(), b"s"), False, False, 8, [Entry(3, 1, b"last")]),
    ])  # fmt: skip
    journal.close()
    found = recovered(place)
    assert found.vote == Vote(3, None) and found.snapshot.index == 2 and not found.damaged
    assert [entry.data[:8] for entry in found.entries] == [
        b"00000003", b"00000004", b"over", b"00000006", b"00000007", b"last"
    ]  # fmt: skip


def test_it_is_small_again_when_nothing_is_needed(place: Place) -> None:
    journal = place.open()
    slow = b"slow"
    journal.commit([Write(slow, Vote(3, NODES[0]), None, False, False, 1, [Entry(1, 1, b"kept")])])
    for index in range(1, 250):
        snapshot = Snapshot(index - 5, 1, Members(), b"s") if index % 10 == 0 else None
        write = entries(index, 1, 4000)
        assert not journal.commit([Write(GROUP, write.vote, snapshot, False, False, index, write.entries)])
        assert journal.bytes <= SMALL.bytes_max
    assert journal.bytes < 250 * 4000 * 0.8
    journal.compact()
    journal.close()
    journal = place.open()
    found = journal.take_recovered()
    assert found[slow] == Recovered(Vote(3, NODES[0]), Snapshot(), (Entry(1, 1, b"kept"),))
    assert found[GROUP].snapshot.index == 235 and len(found[GROUP].entries) == 14
    journal.close()


def test_one_process_at_a_time(place: Place) -> None:
    journal = place.open()
    patience_s, place.patience_s = place.patience_s, 0.3
    assert reason_of(place).reason is Reason.LOCKED
    place.patience_s = patience_s
    journal.close()
    place.open().close()


def test_of_another_fleet_or_node(place: Place) -> None:
    filled(place, 3)
    assert reason_of(place, JournalId(b"another", ID.node)).reason is Reason.FOREIGN
    assert reason_of(place, JournalId(ID.fleet, b"m" * 16)).reason is Reason.OTHER_NODE
    assert len(recovered(place).entries) == 3


def test_none_and_none_is_to_be_made(place: Place) -> None:
    assert reason_of(place, create=False).reason is Reason.MISSING


def test_of_a_later_version(place: Place) -> None:
    filled(place, 3)
    place.later()
    assert reason_of(place).reason is Reason.NEWER


def test_where_a_log_ended_that_was_given_up(place: Place) -> None:
    journal = place.open()
    journal.commit([Write(GROUP, Vote(2, NODES[0]), None, False, False, 1, [Entry(2, 1, b"x")])])
    left = Vote(2, NODES[0], (2, 1))
    journal.commit([Write(GROUP, left, Snapshot(), True, True, 0, ())])
    journal.close()
    journal = place.open()
    assert journal.take_recovered() == {GROUP: Recovered(left)}
    again = Vote(3, None, (2, 1))
    journal.commit([Write(GROUP, again, None, False, False, 1, [Entry(2, 1, b"y")])])
    journal.close()
    assert recovered(place) == Recovered(again, Snapshot(), (Entry(2, 1, b"y"),))


def test_a_bit_that_flips_is_damage_until_it_is_repaired(place: Place) -> None:
    filled(place, 6)
    place.rot()
    journal = place.open()
    found = journal.take_recovered()[GROUP]
    assert journal.damaged_at_start == (GROUP,)
    assert found.damaged and 0 < len(found.entries) < 6 and found.vote == Vote(1, NODES[0])
    at = len(found.entries) + 1
    journal.commit([entries(at, 3)])
    journal.close()
    journal = place.open()
    assert journal.take_recovered()[GROUP].damaged and not journal.damaged_at_start, "the mark stays"
    journal.commit([Write(GROUP, None, None, False, True, at + 3, [Entry(2, 1, b"last")])])
    journal.close()
    found = recovered(place)
    assert not found.damaged and len(found.entries) == at + 3


def test_the_last_of_what_was_synced_is_gone(place: Place) -> None:
    filled(place, 6)
    place.cut()
    found = recovered(place)
    assert found.damaged and len(found.entries) < 6 and found.vote == Vote(1, NODES[0])


def test_votes_that_are_gone_end_an_identity(place: Place) -> None:
    filled(place, 3)
    place.lose_votes()
    error = reason_of(place)
    assert error.reason is Reason.LOST and "new identity" in error.hint


def test_a_full_disk_refuses_entries_and_takes_votes(place: Place) -> None:
    journal = place.open()
    last = 3
    journal.commit([entries(1, last, 100)])
    place.fill(True)
    while True:  # what the journal has of its own is used up first, where it has some
        again = journal.commit(
            [entries(last + 1, 1, 4000), Write(b"other", Vote(last, None), None, False, False, 0, ())]
        )
        if again:
            break
        last += 1
    assert set(again) == {GROUP} and len(again[GROUP].entries) == last and journal.full
    assert not journal.commit([Write(GROUP, Vote(7, NODES[1]), None, False, False, 0, ())])
    assert not journal.try_again() and journal.promise(100_000) == 0
    place.fill(False)
    assert journal.try_again() and not journal.full
    assert not journal.commit([entries(last + 1, 1, 4000)])
    journal.close()
    journal = place.open()
    found = journal.take_recovered()
    assert found[GROUP].vote == Vote(7, NODES[1]) and len(found[GROUP].entries) == last + 1
    assert found[b"other"].vote == Vote(last, None) and not found[GROUP].damaged
    journal.close()


def test_the_bound_refuses_entries_until_a_snapshot_makes_room(place: Place) -> None:
    journal = place.open()
    last = 0
    while not (again := journal.commit([entries(last + 1, 1, 20_000)])):
        last += 1
        assert last * 20_000 < 2 * SMALL.bytes_max
    assert len(again[GROUP].entries) == last and journal.full and journal.bytes <= SMALL.bytes_max
    assert not journal.commit([Write(GROUP, None, Snapshot(last, 1, Members(), b"s"), False, False, 0, ())])
    assert journal.try_again()
    assert not journal.commit([entries(last + 1, 1, 20_000)])
    journal.close()
    found = recovered(place)
    assert found.snapshot.index == last and len(found.entries) == 1


def test_reservations_end_at_the_bound(place: Place) -> None:
    journal = place.open()
    rooms = []
    while cost := journal.promise(10_000):
        rooms.append(cost)
        assert len(rooms) * 10_000 < 2 * SMALL.bytes_max
    assert rooms
    journal.give_back(rooms.pop())
    assert journal.promise(9_000)
    journal.close()


_WRITER = """
import sys
from tests.unit.journal.test_files import entries
{opens}
found = journal.take_recovered().get(b"g" * 16)
at = len(found.entries) + 1 if found else 1
while True:
    if journal.commit([entries(at, 3, 700)]):
        break
    at += 3
    print(at - 1, flush=True)
"""


def test_kill_9_while_it_writes(place: Place) -> None:
    root = Path(__file__).resolve().parents[3]
    told = 0
    for turn in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER.format(opens=place.opens)], stdout=subprocess.PIPE, text=True, cwd=root,
            env=os.environ | {"PYTHONPATH": str(root)},
        )  # fmt: skip
        assert process.stdout is not None
        for _ in range(5 + 7 * turn):
            told = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        told = max([told, *map(int, process.stdout.read().split())])
        process.wait(30)
        found = recovered(place)
        assert told <= len(found.entries) <= told + 3 and not found.damaged
        assert all(entry.data.startswith(b"%08d" % index) for index, entry in enumerate(found.entries, 1))


# Through the journal's thread.


def test_writes_are_told_in_order_and_found_again(place: Place) -> None:
    async def go() -> None:
        shell = Shell(place.open())
        for number in range(1, 101):
            shell.writer.submit(number, [entries(number, 1)])
        await shell.writer.close()
        assert shell.numbers == sorted(shell.numbers) and shell.numbers[-1] == 100
        assert shell.writer.waiting_bytes == 0 and shell.writer.commits == len(shell.numbers)

    asyncio.run(go())
    assert len(recovered(place).entries) == 100


def test_one_commit_is_for_all_that_wait(place: Place) -> None:
    async def go() -> None:
        journal = place.open()
        held, seen = threading.Event(), threading.Event()
        commit = journal.commit

        def slow(writes: list[Write]) -> dict[bytes, Recovered]:
            seen.set()
            assert held.wait(30)
            return commit(writes)

        journal.commit = slow  # type: ignore[method-assign, assignment]
        shell = Shell(journal)
        shell.writer.submit(1, [entries(1, 1)])
        await asyncio.to_thread(seen.wait, 30)
        for number in range(2, 50):
            shell.writer.submit(number, [entries(number, 1)])
        held.set()
        await shell.until(lambda: shell.numbers[-1:] == [49])
        assert shell.numbers == [1, 49]
        await shell.writer.close()

    asyncio.run(go())
    assert len(recovered(place).entries) == 49


def test_a_full_disk_is_told_to_the_loop_and_its_end_too(place: Place) -> None:
    async def go() -> int:
        journal: AnyJournal = place.open()
        look, room = journal.try_again, False
        # What is tidied up may make room at once, before the loop has its turn: here nothing does.
        journal.try_again = lambda: room and look()  # type: ignore[method-assign]
        shell = Shell(journal)
        place.fill(True)
        number = 0
        while not shell.again:
            number += 1
            assert number < 1000
            shell.writer.submit(number, [entries(number, 1, 4000)])
            await shell.until(lambda: shell.numbers[-1:] == [number])  # noqa: B023
        assert shell.full[-1] and shell.writer.reserve(100_000) is None
        place.fill(False)
        room = True
        await shell.until(lambda: not shell.full[-1])
        last = len(shell.again[0][GROUP].entries)
        shell.writer.submit(number + 1, [entries(last + 1, 1, 4000)])
        await shell.until(lambda: shell.numbers[-1:] == [number + 1])
        assert not shell.errors
        await shell.writer.close()
        return last + 1

    count = asyncio.run(go())
    assert len(recovered(place).entries) == count


@pytest.mark.parametrize("count", [0, 1])
def test_closing_at_once_loses_nothing(place: Place, count: int) -> None:
    async def go() -> None:
        shell = Shell(place.open())
        for number in range(1, count + 1):
            shell.writer.submit(number, [entries(number, 1)])
        await shell.writer.close()
        shell.writer.submit(count + 1, [entries(count + 1, 1)])
        await asyncio.sleep(0.02)
        assert shell.numbers[-1:] == ([count] if count else [])

    asyncio.run(go())
