"""A lane between processes survives the death of either side at any moment, and is not led out of its bounds by the other."""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from kernels.lanes import SpscLane
from transport import bounds
from transport.mapped_lanes import MappedLane, lane_file

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no memfd here")
TAIL, HEAD = 128, 256
KILLS = 12


@pytest.fixture
def file() -> Iterator[int]:
    fd = lane_file(1024)
    yield fd
    os.close(fd)


def line(generation: int, number: int) -> bytes:
    return struct.pack("<II", generation, number) * 8


PRODUCER = """
import os, struct, sys
from transport.mapped_lanes import MappedLane
lane = MappedLane(int(sys.argv[1]), "put")
os.write(1, b"!")
generation, number = int(sys.argv[2]), 0
while True:
    lines = b"".join(struct.pack("<II", generation, number + i) * 8 for i in range(200))
    done = 0
    while done < len(lines):
        taken = lane.put_many(memoryview(lines)[done:])
        done += 64 * taken
        if not taken:
            os.sched_yield()
    number += 200
"""

CONSUMER = """
import mmap, os, struct, sys
from transport.mapped_lanes import MappedLane
lane = MappedLane(int(sys.argv[1]), "get")
told = mmap.mmap(int(sys.argv[2]), 4096)
os.write(1, b"!")
into, first = bytearray(64 * 300), None
while True:
    taken = lane.get_many(into)
    for i in range(taken):
        zero, number = struct.unpack_from("<II", into, 64 * i)
        assert into[64 * i : 64 * i + 64] == struct.pack("<II", 0, number) * 8, "torn"
        if first is None:
            first = seen = number
            told[0:8] = struct.pack("<II", 1, first)
        else:
            assert number == seen + 1, (seen, number)
            seen = number
    if taken:
        told[8:16] = struct.pack("<II", 1, seen)
    else:
        os.sched_yield()
"""


def started(code: str, *fds: int, arguments: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, fds), *arguments], pass_fds=fds, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.read(1) == b"!", "it did not start"
    return process


def killed(process: subprocess.Popen[bytes]) -> None:
    assert process.poll() is None, "it ended by itself"
    process.kill()
    assert process.wait(20) == -signal.SIGKILL
    assert process.stdout is not None
    process.stdout.close()


def test_producers_killed_at_any_moment_lose_only_what_they_had_not_published(file):
    """Their lines come out whole and in order, up to where each was killed, and the successor's follow."""
    chance = random.Random(5)
    with MappedLane(file, "get") as lane:
        for generation in range(KILLS):
            process = started(PRODUCER, file, arguments=(str(generation),))
            expected, enough = 0, chance.randrange(1, 20_000)
            deadline = time.monotonic() + 60
            while expected < enough:
                assert time.monotonic() < deadline, "the ring stands still"
                expected = taken_in_order(lane, generation, expected)
            assert lane.peer_alive
            killed(process)
            assert not lane.peer_alive
            while lane.waiting:
                expected = taken_in_order(lane, generation, expected)


def taken_in_order(lane: MappedLane, generation: int, expected: int) -> int:
    into = bytearray(64 * 100)
    taken = lane.get_many(into)
    assert into[: 64 * taken] == b"".join(line(generation, expected + i) for i in range(taken))
    if not taken:
        os.sched_yield()
    return expected + taken


def test_consumers_killed_at_any_moment_lose_only_what_they_had_taken(file):
    """The successor begins with the first line that the one before had not released, and none is left out or torn."""
    chance = random.Random(6)
    page = os.memfd_create("told")
    os.ftruncate(page, 4096)
    sent = 0
    with MappedLane(file, "put") as lane, mmap.mmap(page, 4096) as told, mmap.mmap(file, 0) as memory:
        for _ in range(KILLS):
            told[:16] = bytes(16)
            released = int.from_bytes(memory[HEAD : HEAD + 8], "little")  # of the lines, which are numbered from 0
            process = started(CONSUMER, file, page)
            enough, deadline = sent + chance.randrange(1, 20_000), time.monotonic() + 60
            while sent < enough or not told[8]:
                assert process.poll() is None, "a line was torn or left out"
                assert time.monotonic() < deadline, "the ring stands still"
                taken = lane.put_many(b"".join(line(0, sent + i) for i in range(100)))
                sent += taken
                if not taken:
                    os.sched_yield()
            assert lane.peer_alive
            killed(process)
            assert not lane.peer_alive
            first, seen = struct.unpack_from("<4xI4xI", told)
            assert first == released
            assert seen < int.from_bytes(memory[HEAD : HEAD + 8], "little") <= seen + 1 + 300
        released = int.from_bytes(memory[HEAD : HEAD + 8], "little")
    with MappedLane(file, "get") as reader:
        assert list(iter(reader.get, None)) == [line(0, number) for number in range(released, sent)]
    os.close(page)


def test_what_was_written_and_not_published_is_never_seen(file):
    """As a producer leaves it that is killed just before it publishes."""
    with MappedLane(file, "put") as lane:
        assert lane.put(line(1, 1))
    with mmap.mmap(file, 0) as memory:
        memory[384 + 64 : 384 + 64 * 9] = line(6, 6) * 8
    with MappedLane(file, "put") as successor, MappedLane(file, "get") as reader:
        assert successor.put(line(1, 2))
        assert list(iter(reader.get, None)) == [line(1, 1), line(1, 2)]


IN_PLACE = """
import os, struct, sys
from transport.mapped_lanes import MappedLane
lane = MappedLane(int(sys.argv[1]), "put")
os.write(1, b"!")
generation, number = int(sys.argv[2]), 0
span = lane.claim(200)
while True:
    with span as rows:
        view = memoryview(rows)
        for i in range(len(rows)):
            view[64 * i : 64 * i + 64] = struct.pack("<II", generation, number + i) * 8
        number += len(rows)
        if not rows:
            os.sched_yield()
"""


def test_producers_killed_while_they_write_in_place_leave_nothing_half_written(file):
    chance = random.Random(7)
    with MappedLane(file, "get") as lane:
        for generation in range(KILLS // 2):
            process = started(IN_PLACE, file, arguments=(str(generation),))
            expected, enough = 0, chance.randrange(1, 20_000)
            deadline = time.monotonic() + 60
            while expected < enough or lane.waiting:
                assert time.monotonic() < deadline, "the ring stands still"
                with lane.peek(100) as rows:
                    wanted = b"".join(line(generation, expected + i) for i in range(len(rows)))
                    assert bytes(rows) == wanted
                    expected += len(rows)
                if expected >= enough and process.returncode is None:
                    killed(process)
            assert not lane.peer_alive


def test_an_end_is_held_by_one(file):
    with MappedLane(file, "put") as lane, MappedLane(file, "get") as reader:
        for end in ("put", "get"):
            with pytest.raises(BlockingIOError, match=f"the {end} end of this lane is held"):
                MappedLane(file, end)
        assert lane.peer_alive and reader.peer_alive
        with pytest.raises(ValueError, match="this is the put end"):
            lane.get()
        with pytest.raises(ValueError, match="this is the put end"):
            lane.get_many(bytearray(64))
        with pytest.raises(ValueError, match="this is the put end"):
            lane.peek(1)
        with pytest.raises(ValueError, match="this is the get end"):
            reader.claim(1)
        with pytest.raises(ValueError, match="this is the get end"):
            reader.put(line(0, 0))
        with pytest.raises(ValueError, match="this is the get end"):
            reader.put_many(line(0, 0))
        lane.close()
        assert not reader.peer_alive
        with MappedLane(file, "put") as again:
            assert again.put(line(0, 0)) and reader.get() == line(0, 0)


def test_a_closed_descriptor_does_not_give_the_end_up():
    fd = lane_file(8)
    lane = MappedLane(fd, "put")
    second = os.dup(fd)
    os.close(fd)
    with pytest.raises(BlockingIOError):
        MappedLane(second, "put")
    os.close(second)
    assert lane.put_many(line(0, 0) * 9) == 8
    lane.close()


def test_a_descriptor_can_be_passed_over_a_socket(file):
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        socket.send_fds(ours, [b"lane"], [file])
        _, (received,), _, _ = socket.recv_fds(theirs, 16, 1)
    with MappedLane(file, "put") as lane, MappedLane(received, "get") as reader:
        os.close(received)
        assert lane.put_many(line(0, 0) + line(0, 1)) == 2
        into = bytearray(64 * 3)
        assert reader.get_many(into) == 2
        assert into == line(0, 0) + line(0, 1) + bytes(64)


@pytest.mark.parametrize("waiting", [1025, 2**32, 2**63, 2**64 - 1])
def test_counters_damaged_by_the_other_side_are_noticed(file, waiting):
    with MappedLane(file, "put") as lane, MappedLane(file, "get") as reader, mmap.mmap(file, 0) as memory:
        memory[TAIL : TAIL + 8] = waiting.to_bytes(8, "little")
        with pytest.raises(ValueError, match=f"its counters say that {waiting} lines wait in a ring of 1024"):
            reader.get_many(bytearray(640))
        with pytest.raises(ValueError, match="damaged"):
            lane.put_many(bytes(64 * 1024))
        reader.close()
        with pytest.raises(ValueError, match="counters are damaged"):
            MappedLane(file, "get")
        memory[TAIL : TAIL + 8] = bytes(8)
        with MappedLane(file, "get") as again:
            assert again.get() is None


@pytest.mark.parametrize("lines", [0, -1, 3, 1000, 2 * bounds.LANE_LINES_MAX])
def test_a_number_of_lines_that_no_lane_has(lines):
    with pytest.raises(ValueError, match="a power of two of lines"):
        lane_file(lines)


def test_the_file_cannot_be_made_smaller(file):
    with pytest.raises(PermissionError):
        os.ftruncate(file, 4096)


def _memory(size: int, seals: int = getattr(fcntl, "F_SEAL_SHRINK", 0), ring: bool = False) -> int:
    fd = os.memfd_create("other", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    if ring:
        with mmap.mmap(fd, size) as memory:
            SpscLane.create(memory)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: _memory(0), "a file of 0 bytes holds no lane"),
        (lambda: _memory(4096), "not marked"),
        (lambda: _memory(4096, seals=0, ring=True), "could be shrunk"),
        (lambda: _memory(2**30), "lines at most"),
        (lambda: os.open(__file__, os.O_RDWR), "could be shrunk"),
    ],
)
def test_a_file_that_holds_no_lane(made, why):
    fd = made()
    with pytest.raises(ValueError, match=why):
        MappedLane(fd, "get")
    os.close(fd)


def test_what_is_closed_says_so(file):
    lane = MappedLane(file, "put")
    lane.close()
    lane.close()
    for use in (lambda: lane.put(line(0, 0)), lambda: lane.capacity, lambda: lane.waiting, lambda: lane.peer_alive):
        with pytest.raises(ValueError, match="the lane is closed"):
            use()
    with pytest.raises(ValueError, match='"put" or "get"'):
        MappedLane(file, "both")
