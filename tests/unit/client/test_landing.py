"""Memory that results land in: used again, and never under somebody's feet."""

from __future__ import annotations

import gc
import os

import pytest

from swarm.client.landing import KEPT_COUNT_MAX, Landing

SIZE = 100_000


def landed(landing: Landing, fill: bytes, size: int = SIZE) -> memoryview:
    """A result of so many bytes, all the same."""
    place, made = landing.take(size)
    scratch = memoryview(bytearray(1))
    room = place.room(0, size, scratch)
    room[:] = fill * size
    del room
    view = made()
    assert view.nbytes == size and view.readonly
    return view


def test_a_buffer_is_used_again_when_nobody_looks_into_it() -> None:
    landing = Landing()
    first = landed(landing, b"a")
    part = first[10:20]
    second = landed(landing, b"b")
    assert bytes(part) == b"a" * 10 and landing.kept_bytes == 0
    del first
    gc.collect()
    assert landing.kept_bytes == 0, "a part of it is still looked into"
    del part
    kept = landing.kept_bytes
    assert kept >= SIZE
    third = landed(landing, b"c")
    assert landing.kept_bytes == 0
    assert bytes(second) == b"b" * SIZE and bytes(third) == b"c" * SIZE
    shorter = landed(landing, b"d", SIZE // 10)  # of a buffer of its own, rather than one ten times as large
    del third
    assert landing.kept_bytes == kept
    assert bytes(shorter) == b"d" * (SIZE // 10)
    landing.close()
    assert landing.kept_bytes == 0
    assert bytes(second) == b"b" * SIZE


def test_a_place_that_was_given_up_is_not_used_again() -> None:
    landing = Landing()
    place, made = landing.take(SIZE)
    del made
    gc.collect()
    assert landing.kept_bytes == 0
    place.room(0, SIZE, memoryview(b""))[:] = bytes(SIZE)  # the thread that was writing writes a little more
    landing.close()


def test_it_keeps_a_bounded_number_of_bytes_and_buffers() -> None:
    landing = Landing(4 * SIZE)
    views = [landed(landing, b"x") for _ in range(6)]
    views.clear()
    assert landing.kept_bytes <= 4 * SIZE
    many = Landing()
    views = [landed(many, b"x") for _ in range(KEPT_COUNT_MAX + 3)]
    views.clear()
    assert len(many._free) == KEPT_COUNT_MAX
    large = landed(landing, b"y", 5 * SIZE)
    assert bytes(large) == b"y" * (5 * SIZE)
    del large
    assert landing.kept_bytes <= 4 * SIZE
    for one in (landing, many):
        one.close()


def test_it_keeps_nothing_while_nothing_comes() -> None:
    landing = Landing()
    early, late = landed(landing, b"a"), landed(landing, b"b")
    del early
    assert landing.kept_bytes >= SIZE
    landing.rest()
    assert landing.kept_bytes == 0
    del late
    assert landing.kept_bytes == 0
    again = landed(landing, b"c")
    del again
    assert landing.kept_bytes >= SIZE
    landing.close()


def test_it_leaves_no_descriptor_behind() -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    landing = Landing(3 * SIZE)
    views = [landed(landing, b"x") for _ in range(20)]
    views.clear()
    landing.close()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_a_forked_child_may_look_into_is_not_written_again() -> None:
    landing = Landing()
    view = landed(landing, b"p")
    there, here = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.read(there[0], 1)  # until the parent has let go, and had another result
        os.write(here[1], bytes(view[:4]))
        os._exit(0)
    del view
    later = landed(landing, b"q")
    os.write(there[1], b"x")
    assert os.read(here[0], 4) == b"pppp"
    assert os.waitpid(child, 0)[1] == 0
    assert bytes(later[:4]) == b"qqqq"
    for end in (*there, *here):
        os.close(end)
    landing.close()


def test_without_files_in_memory_each_result_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    landing = Landing()
    place, made = landing.take(SIZE)
    place.room(0, SIZE, memoryview(b""))[:] = b"z" * SIZE
    view = made()
    assert bytes(view) == b"z" * SIZE
    del view
    assert landing.kept_bytes == 0
    landing.close()
