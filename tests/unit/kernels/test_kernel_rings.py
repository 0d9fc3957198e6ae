"""The ring hands every message on once and in order, and is not led out of its bounds."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.reference import rings as reference
from kernels.rings import Ring

DATA = 192  # three cache lines lie before the messages


def page(size: int = 4096) -> mmap.mmap:
    return mmap.mmap(-1, size)


@settings(max_examples=200, deadline=None)
@given(st.integers(16, 128).map(lambda n: n * 8), st.lists(st.binary(max_size=70) | st.none(), max_size=80))
def test_a_ring_does_what_the_reference_does(room, steps):
    memory = memoryview(page())[: DATA + room]
    producer, consumer = Ring.create(memory), Ring(memory)
    twin = reference.Ring(producer.capacity)
    for step in steps:
        if step is None:
            assert consumer.get() == twin.get()
        elif len(step) + 12 <= producer.capacity // 2:
            assert producer.put(step) == twin.put(step)
        assert producer.free == consumer.free == twin.free
    while (message := twin.get()) is not None:
        assert consumer.get() == message
    assert consumer.get() is None


PRODUCER = """
import mmap, sys, time
from kernels.rings import Ring
ring = Ring(mmap.mmap(int(sys.argv[1]), 4096))
for i in range(int(sys.argv[2])):
    while not ring.put(i.to_bytes(4, "big") * (i % 50)):
        time.sleep(0)
"""


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no memfd here")
def test_two_processes_pass_every_message_once_and_in_order():
    fd = os.memfd_create("ring-test")
    os.ftruncate(fd, 4096)
    ring = Ring.create(mmap.mmap(fd, 4096))
    count = 20_000
    producer = subprocess.Popen([sys.executable, "-c", PRODUCER, str(fd), str(count)], pass_fds=[fd])
    try:
        for i in range(count):
            while (message := ring.get()) is None:
                assert producer.poll() in (None, 0)
                os.sched_yield()
            assert message == i.to_bytes(4, "big") * (i % 50)
        assert producer.wait(20) == 0
        assert ring.get() is None
    finally:
        producer.kill()
        producer.wait()
        os.close(fd)


def test_a_message_that_could_never_fit_is_refused():
    ring = Ring.create(page())
    with pytest.raises(ValueError, match="a message of"):
        ring.put(bytes(ring.capacity // 2))


@pytest.mark.parametrize("size", [0, 8, 191])
def test_a_buffer_that_is_too_small(size):
    for make in (Ring.create, Ring):
        with pytest.raises(ValueError, match="too small|no ring"):
            make(bytearray(size))


def test_what_holds_no_ring_is_refused():
    with pytest.raises(ValueError, match="not marked"):
        Ring(page())
    with pytest.raises(BufferError):
        Ring.create(bytes(4096))
    memory = page()
    Ring.create(memory)
    with pytest.raises(ValueError, match="of this size"):
        Ring(memoryview(memory)[:2048])


@pytest.mark.parametrize(
    ("at", "value"),
    [(64, 2**63), (64, 4), (64, 8 * 4096), (DATA, 2**31), (DATA, 4000), (DATA, 2**32 - 1)],
)
def test_a_damaged_ring_is_noticed(at, value):
    memory = page()
    ring = Ring.create(memory)
    ring.put(b"abc")
    memory[at : at + (8 if at < DATA else 4)] = value.to_bytes(8 if at < DATA else 4, "little")
    with pytest.raises(ValueError, match="damaged"):
        ring.get()


def test_a_damaged_head_stops_the_producer():
    memory = page()
    ring = Ring.create(memory)
    memory[128:136] = (8).to_bytes(8, "little")
    with pytest.raises(ValueError, match="damaged"):
        ring.put(b"abc")


def test_a_ring_that_was_never_opened_says_so():
    ring = Ring.__new__(Ring)
    for use in (ring.get, lambda: ring.put(b""), lambda: ring.free):
        with pytest.raises(ValueError, match="no ring"):
            use()
