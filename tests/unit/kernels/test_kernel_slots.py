"""The page between node and worker: every index is claimed or recalled, once, whoever is faster."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import slots
from kernels.reference import slots as reference
from kernels.slots import SlotPage

OPERATIONS = st.one_of(
    st.tuples(st.just("offer"), st.integers(0, 15), st.integers(0, 6) | st.just(2**32 - 1)),
    st.tuples(st.just("recall"), st.integers(0, 15), st.integers(0, 4) | st.just(2**32 - 1)),
    st.tuples(st.sampled_from(["claim", "progress"]), st.integers(0, 15)),
    st.tuples(st.just("begin"), st.integers(0, 15), st.integers(0, 2**32 - 1), st.integers(0, 2**63)),
    st.tuples(st.just("end")),
)


@pytest.fixture
def page():
    page, fd = SlotPage.create()
    yield page, fd
    page.close()
    os.close(fd)


@settings(max_examples=100, deadline=None)
@given(st.lists(OPERATIONS, max_size=40))
def test_a_page_does_what_the_reference_does(operations):
    node, fd = SlotPage.create()
    worker = SlotPage(fd)
    os.close(fd)
    twin = reference.SlotPage()
    for name, *args in operations:
        side = worker if name in ("claim", "begin", "end") else node
        assert getattr(side, name)(*args) == getattr(twin, name)(*args)
        assert node.current() == twin.current()
    node.close()
    worker.close()


WORKER = """
import sys
from kernels.slots import SlotPage
page = SlotPage(int(sys.argv[1]))
print("up", flush=True)
for line in sys.stdin:
    claimed = []
    while (index := page.claim(3)) >= 0:
        page.begin(3, index, index * 1000)
        claimed.append(index)
        page.end()
    print(*claimed, flush=True)
"""


def test_two_processes_racing_claim_or_recall_each_index_exactly_once(page):
    node, fd = page
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(fd)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[fd], text=True
    )
    count, both = 20_000, 0
    try:
        assert worker.stdout.readline() == "up\n"
        for turn in range(40):
            node.offer(3, count)
            worker.stdin.write("go\n")
            worker.stdin.flush()
            recalled: list[int] = []
            while node.progress(3)[0] < 50 * turn:  # let it get going, a little further each time
                pass
            keep = 64
            while True:
                now = node.current()
                assert now is None or (now[0] == 3 and now[2] == now[1] * 1000)  # never half of one, half of another
                new_end, old_end = node.recall(3, keep)
                recalled[:0] = range(new_end, old_end)
                if keep == 0:
                    break
                keep //= 2
            claimed = [int(index) for index in worker.stdout.readline().split()]
            assert claimed + recalled == list(range(count))
            both += bool(claimed) and bool(recalled)
        assert both  # or the race was none
    finally:
        worker.kill()
        worker.communicate()


def test_a_recall_keeps_what_it_is_asked_to(page):
    node, _ = page
    node.offer(0, 10)
    assert [node.claim(0), node.claim(0)] == [0, 1]
    assert node.recall(0, 3) == (5, 10)
    assert node.recall(0, 2**32 - 1) == (5, 5)
    assert [node.claim(0) for _ in range(5)] == [2, 3, 4, -1, -1]
    assert node.progress(0) == (5, 5)


def test_a_writer_that_died_inside_does_not_hold_the_reader_up(page):
    node, fd = page
    node.begin(1, 2, 3)
    sequence = int.from_bytes(os.pread(fd, 8, 64), "little")
    os.pwrite(fd, (sequence + 1).to_bytes(8, "little"), 64)
    assert node.current() is None
    node.begin(4, 5, 6)
    assert node.current() == (4, 5, 6)


def test_numbers_that_a_hostile_worker_left_are_read_as_they_are(page):
    node, fd = page
    os.pwrite(fd, b"\xff" * (16 * 64), 128)
    assert node.progress(15) == (2**32 - 1, 2**32 - 1)
    assert node.recall(15, 1) == (2**32 - 1, 2**32 - 1)
    assert node.claim(15) == -1


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no memfd here")
def test_the_page_cannot_be_made_smaller_under_the_node(page):
    with pytest.raises(PermissionError):
        os.ftruncate(page[1], 0)


def test_an_unlinked_file_serves_where_there_is_no_memfd(monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    node, fd = SlotPage.create()
    worker = SlotPage(fd)
    os.close(fd)
    node.offer(0, 1)
    assert [worker.claim(0), worker.claim(0)] == [0, -1]


def test_what_is_no_page_is_refused():
    with tempfile.TemporaryFile() as file:
        with pytest.raises(ValueError, match="too small"):
            SlotPage(file.fileno())
        file.truncate(4096)
        with pytest.raises(ValueError, match="not marked"):
            SlotPage(file.fileno())
    with pytest.raises(OSError):
        SlotPage(-1)


def test_a_closed_page_says_so(page):
    node, _ = page
    node.close()
    node.close()
    for name, args in (("offer", (0, 1)), ("claim", (0,)), ("current", ()), ("end", ()), ("begin", (0, 0, 0))):
        with pytest.raises(ValueError, match="closed"):
            getattr(node, name)(*args)


@pytest.mark.parametrize("slot", [-1, 16, 2**40])
def test_a_slice_that_does_not_exist(page, slot):
    for name, args in (("offer", (1,)), ("recall", ()), ("progress", ()), ("claim", ()), ("begin", (0, 0))):
        with pytest.raises(IndexError):
            getattr(page[0], name)(slot, *args)


def test_sixteen_slices_do_not_touch_each_other(page):
    node, _ = page
    for slot in range(slots.SlotPage.SLICES):
        node.offer(slot, slot)
    assert [node.progress(slot) for slot in range(16)] == [(0, slot) for slot in range(16)]
