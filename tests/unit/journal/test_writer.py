"""The journal's thread: order, group commit, refusals, reservations, failures."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping

from nodes.journal.interface import AnyJournal
from nodes.journal.journal import Journal
from nodes.journal.writer import JournalWriter
from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Entry, Recovered, Vote
from tests.unit.journal.disk import Disk, SimFiles
from tests.unit.journal.model import ID, SMALL

GROUP, OTHER = b"group", b"other"


def entries(first: int, count: int, size: int = 10, group: bytes = GROUP) -> Write:
    return Write(
        group, Vote(1, None) if first == 1 else None, None, False, False, first, [Entry(1, 1, bytes(size))] * count
    )


class Shell:
    """What a node does with what the writer tells it."""

    def __init__(self, journal: AnyJournal, fatal: Callable[[BaseException], None] | None = None) -> None:
        self.numbers: list[int] = []
        self.again: list[Mapping[bytes, Recovered]] = []
        self.full: list[bool] = []
        self.errors: list[BaseException] = []
        self.writer = JournalWriter(
            journal, asyncio.get_running_loop(), self.synced, self.full.append, fatal=fatal or self.errors.append,
            idle_after_s=0.01, try_again_s=0.01,
        )  # fmt: skip

    def synced(self, number: int, again: Mapping[bytes, Recovered]) -> None:
        self.numbers.append(number)
        if again:
            self.again.append(again)

    async def until(self, done: Callable[[], bool]) -> None:
        for _ in range(2000):
            if done():
                return
            await asyncio.sleep(0.005)
        raise AssertionError((self.numbers, self.again, self.full, self.errors))


def test_one_sync_is_for_all_that_wait() -> None:
    """While the first is being synced the others come."""
    disk = Disk()

    async def go() -> None:
        shell = Shell(Journal.open(SimFiles(disk), ID, SMALL))
        held, seen = threading.Event(), threading.Event()

        def slow() -> None:
            seen.set()
            assert held.wait(20)

        disk.synced = slow
        shell.writer.submit(1, [Write(GROUP, None, None, False, False, 1, [Entry(1, 1, b"1")])])
        await asyncio.to_thread(seen.wait, 20)
        for number in range(2, 50):
            shell.writer.submit(number, [Write(GROUP, None, None, False, False, number, [Entry(1, 1, b"1")])])
        assert not shell.numbers and shell.writer.waiting_bytes
        disk.synced = None
        held.set()
        await shell.until(lambda: shell.numbers[-1:] == [49])
        assert shell.numbers == [1, 49]
        await shell.writer.close()

    asyncio.run(go())


def test_a_full_disk_refuses_entries_and_takes_votes() -> None:
    disk = Disk()

    async def go() -> None:
        journal = Journal.open(SimFiles(disk), ID, SMALL)
        look = journal.try_again
        # What is tidied up may make room at once, before the loop has its turn: here nothing does.
        journal.try_again = lambda: disk.bytes_max is None and look()  # type: ignore[method-assign]
        shell = Shell(journal)
        disk.bytes_max = disk.used
        number, first = 0, 1
        while not shell.again:
            number += 1
            shell.writer.submit(number, [entries(first, 1, 3000)])
            first += 1
            if number % 5 == 0:
                await shell.until(lambda: shell.numbers[-1:] == [number])
        assert shell.full[-1] and shell.writer.full
        found = shell.again[0][GROUP]
        assert found.vote == Vote(1, None) and 1 < len(found.entries) < first
        # What it had handed over before is not done; it begins anew from what is there.
        last = len(found.entries)
        shell.writer.submit(number + 1, [Write(GROUP, Vote(2, None), None, False, False, 0, ())])
        shell.writer.submit(number + 2, [Write(OTHER, Vote(7, None), None, False, False, 0, ())])
        await shell.until(lambda: shell.numbers[-1:] == [number + 2])
        assert len(shell.again) == 1
        disk.bytes_max = None
        await shell.until(lambda: not shell.full[-1])
        shell.writer.submit(number + 3, [entries(last + 1, 1, 3000)])
        await shell.until(lambda: shell.numbers[-1:] == [number + 3])
        await shell.writer.close()
        journal = Journal.open(SimFiles(disk), ID, SMALL)
        recovered = journal.take_recovered()
        assert recovered[GROUP].vote == Vote(2, None) and recovered[OTHER].vote == Vote(7, None)
        assert len(recovered[GROUP].entries) == last + 1
        journal.close()

    asyncio.run(go())


def test_what_was_handed_over_before_a_group_begins_anew_is_struck_out() -> None:
    disk = Disk()

    async def go() -> None:
        shell = Shell(Journal.open(SimFiles(disk), ID, SMALL))
        shell.writer._commit_bytes = 20_000
        held, seen = threading.Event(), threading.Event()
        shell.writer.submit(1, [entries(1, 1)])
        await shell.until(lambda: shell.numbers == [1])
        disk.bytes_max = disk.used

        def slow() -> None:
            seen.set()
            assert held.wait(20)

        disk.synced = slow
        shell.writer.submit(2, [entries(2, 1)])
        await asyncio.to_thread(seen.wait, 20)
        shell.writer.submit(3, [entries(3, 1, 100_000)])
        for number in range(4, 100):
            shell.writer.submit(number, [entries(number, 1)])
        disk.synced = None
        held.set()
        await shell.until(lambda: shell.numbers[-1:] == [99])
        # What came after the refused write would fit, and is not written: there would be a gap.
        assert [len(again[GROUP].entries) for again in shell.again] == [2]
        shell.writer.submit(100, [entries(3, 1)])
        await shell.until(lambda: shell.numbers[-1:] == [100])
        disk.bytes_max = None
        await shell.writer.close()
        journal = Journal.open(SimFiles(disk), ID, SMALL)
        recovered = journal.take_recovered()[GROUP]
        assert not recovered.damaged and len(recovered.entries) == 3
        journal.close()

    asyncio.run(go())


def test_room_that_was_promised_is_there_when_others_fill_the_disk() -> None:
    disk = Disk()

    async def go() -> None:
        shell = Shell(Journal.open(SimFiles(disk), ID, SMALL))
        room = shell.writer.reserve(100_000)
        assert room is not None
        disk.bytes_max = disk.used  # somebody else takes all the rest
        assert shell.writer.reserve(100_000) is None
        for number in range(1, 26):
            shell.writer.submit(number, [entries(number, 1, 4000)])
        await shell.until(lambda: shell.numbers[-1:] == [25])
        assert not shell.again
        room.release()
        room.release()  # once is enough, and twice does no harm
        disk.bytes_max = None
        await shell.writer.close()

    asyncio.run(go())


def test_reservations_end_at_the_bound() -> None:
    disk = Disk()

    async def go() -> None:
        shell = Shell(Journal.open(SimFiles(disk), ID, SMALL))
        rooms = []
        while (room := shell.writer.reserve(10_000)) is not None:
            rooms.append(room)
        assert rooms and disk.used <= SMALL.bytes_max + 2**20
        rooms.pop().release()
        assert shell.writer.reserve(10_000) is not None
        await shell.writer.close()

    asyncio.run(go())


def test_a_failed_sync_ends_it() -> None:
    disk = Disk()

    async def go() -> None:
        shell = Shell(Journal.open(SimFiles(disk), ID, SMALL))
        shell.writer.submit(1, [entries(1, 1)])
        await shell.until(lambda: shell.numbers == [1])
        disk.sync_fails = True
        shell.writer.submit(2, [entries(2, 1)])
        await shell.writer.close()
        assert shell.numbers == [1] and len(shell.errors) == 1 and isinstance(shell.errors[0], OSError)

    asyncio.run(go())


def test_too_much_that_waits_is_congestion() -> None:
    disk = Disk()

    async def go() -> None:
        shell = Shell(Journal.open(SimFiles(disk), ID, SMALL))
        shell.writer._queue_bytes = 50_000
        held = threading.Event()
        disk.synced = lambda: held.wait(20) and None
        for number in range(1, 12):
            shell.writer.submit(number, [entries(number, 1, 5000)])
        assert shell.writer.congested
        held.set()
        await shell.until(lambda: shell.numbers[-1:] == [11])
        assert not shell.writer.congested
        await shell.writer.close()

    asyncio.run(go())
