"""The rings hand every line on once, whole and in order, at their wrap-around too, and are not led out of their bounds."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.lanes import Lane, MpmcLane, Span, SpscLane
from kernels.reference import lanes as reference

KERNELS = Path(__file__).resolve().parents[3] / "kernels"
HARNESS = Path(__file__).with_name("lanes_tsan.c")
TAIL, HEAD, SLOTS = 128, 256, 384
BOTH = pytest.mark.parametrize("kind", [SpscLane, MpmcLane])
STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "get"]), st.none())
    | st.tuples(st.sampled_from(["put_many", "get_many"]), st.integers(0, 40)),
    max_size=60,
)
STARTS = st.integers(0, 200) | st.integers(2**64 - 200, 2**64 - 1)


def page(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size)


def made(kind: type[SpscLane | MpmcLane], capacity: int, start: int = 0) -> tuple[mmap.mmap, SpscLane | MpmcLane]:
    """An empty ring whose counters stand at `start`."""
    memory = page(kind.nbytes(capacity))
    assert kind.create(memory).capacity == capacity
    for at in (TAIL, HEAD):
        memory[at : at + 8] = start.to_bytes(8, "little")
    if kind is MpmcLane:
        for number in range(start, start + capacity):
            at = SLOTS + 72 * (number % capacity)
            memory[at : at + 8] = (number % 2**64).to_bytes(8, "little")
    return memory, kind(memory)


def numbered(first: int, count: int) -> bytes:
    return b"".join(number.to_bytes(64, "little") for number in range(first, first + count))


@BOTH
@settings(max_examples=200, deadline=None)
@given(capacity=st.sampled_from([8, 16, 32]), start=STARTS, steps=STEPS)
def test_a_lane_does_what_the_reference_does(kind, capacity, start, steps):
    memory, producer = made(kind, capacity, start)
    consumer, twin = kind(memory), reference.Lane(capacity)
    sent = 0
    for name, count in steps:
        if name == "get":
            assert consumer.get() == twin.get()
        elif name == "get_many":
            ours, theirs = bytearray(64 * count), bytearray(64 * count)
            assert consumer.get_many(ours) == twin.get_many(theirs)
            assert ours == theirs
        else:
            lines = numbered(sent, 1 if count is None else count)
            sent += len(lines) // 64
            assert getattr(producer, name)(lines) == getattr(twin, name)(lines)
        assert producer.waiting == consumer.waiting == twin.waiting


SPANS = st.lists(
    st.tuples(st.sampled_from(["claim", "peek"]), st.integers(0, 40), st.integers(0, 40), st.booleans())
    | st.tuples(st.sampled_from(["put", "get"]), st.none(), st.none(), st.just(False)),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(capacity=st.sampled_from([8, 16, 32]), start=STARTS, steps=SPANS)
def test_spans_do_what_the_reference_does(capacity, start, steps):
    """What a span does not use, or leaves by an exception, is as if it had never been taken."""
    memory, producer = made(SpscLane, capacity, start)
    consumer, twin = SpscLane(memory), reference.Lane(capacity, start)
    sent = 0
    for name, count, used, fails in steps:
        if name == "put":
            assert producer.put(numbered(sent, 1)) == twin.put(numbered(sent, 1))
            sent += 1
        elif name == "get":
            assert consumer.get() == twin.get()
        else:
            span = producer.claim(count) if name == "claim" else consumer.peek(count)
            lines = numbered(sent, twin.claimable(count)) if name == "claim" else b"".join(twin.peekable(count))
            with contextlib.suppress(ZeroDivisionError), span as rows:
                assert len(rows) == rows.used == len(lines) // 64
                used = min(used, len(rows))
                view = memoryview(rows)
                if name == "claim":
                    view[:] = lines
                assert view == lines
                rows.used = used
                if fails:
                    raise ZeroDivisionError
            if not fails and name == "claim":
                assert twin.put_many(lines[: 64 * used]) == used
            elif not fails:
                assert twin.get_many(bytearray(64 * used)) == used
            sent += used
        assert producer.waiting == consumer.waiting == twin.waiting
    into, theirs = bytearray(64 * capacity), bytearray(64 * capacity)
    assert consumer.get_many(into) == twin.get_many(theirs)
    assert into == theirs


def test_threads_pass_lines_in_place():
    memory, producer = made(SpscLane, 64)
    consumer, count, found = SpscLane(memory), 20_000, []

    def produce() -> None:
        sent, span = 0, producer.claim(10)
        while sent < count:
            with span as rows:
                rows.used = min(len(rows), count - sent)
                memoryview(rows)[: 64 * rows.used] = numbered(sent, rows.used)
                sent += rows.used
            if not len(span):
                os.sched_yield()

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    while len(found) < count:
        with consumer.peek(16) as rows:
            if not rows:
                os.sched_yield()
            found += [int.from_bytes(memoryview(rows)[64 * at : 64 * at + 64], "little") for at in range(len(rows))]
    thread.join(60)
    assert found == list(range(count))


def test_one_span_of_an_end_at_a_time():
    memory, lane = made(SpscLane, 8)
    other = SpscLane(memory)
    assert lane.put(numbered(1, 1))
    claim, peek = lane.claim(3), lane.peek(3)
    with claim as rows, peek as seen:
        assert (len(rows), len(seen)) == (3, 1)
        for use in (lane.claim(1).__enter__, lambda: lane.put(bytes(64)), lambda: lane.put_many(bytes(64))):
            with pytest.raises(RuntimeError, match="are claimed"):
                use()
        for use in (lane.peek(1).__enter__, lane.get, lambda: lane.get_many(bytearray(64))):
            with pytest.raises(RuntimeError, match="being read in place"):
                use()
        with pytest.raises(BufferError, match="read-only"):
            other.get_many(seen)
        with pytest.raises(TypeError):
            memoryview(seen)[0] = 1
        for wrong in (-1, 4):
            with pytest.raises(ValueError, match=f"{wrong} of 3 lines"):
                rows.used = wrong
        assert other.waiting == 1
    assert other.waiting == 3
    assert len(claim) == claim.used == 0
    with pytest.raises(BufferError, match="inside its `with`"):
        memoryview(claim)
    with pytest.raises(RuntimeError, match="not open"):
        claim.__exit__(None, None, None)
    with pytest.raises(ValueError, match="1 of 0 lines"):
        claim.used = 1
    dropped = lane.claim(1).__enter__()
    del dropped
    assert lane.put(bytes(64))


def test_spans_of_what_is_none():
    with pytest.raises(ValueError, match="no lane was opened"):
        SpscLane.__new__(SpscLane).claim(1)
    with pytest.raises(ValueError, match="no lane was opened"):
        Span(SpscLane.__new__(SpscLane), 1, True).__enter__()
    with pytest.raises(TypeError):
        Span()
    memory, lane = made(SpscLane, 8)
    with pytest.raises(OverflowError):
        lane.peek(-1)
    with lane.peek(8) as rows:
        assert not rows
        assert bytes(rows) == b""
    memory[TAIL : TAIL + 8] = (9).to_bytes(8, "little")
    for span in (lane.claim(1), lane.peek(1)):
        with pytest.raises(ValueError, match="damaged"):
            span.__enter__()
    memory[TAIL : TAIL + 8] = bytes(8)
    with lane.claim(1) as rows:
        assert len(rows) == 1


@BOTH
def test_threads_pass_every_line_once_and_in_order(kind):
    memory, producer = made(kind, 64)
    consumer, count = kind(memory), 20_000
    wrong = []

    def produce() -> None:
        sent = 0
        while sent < count:
            taken = producer.put_many(numbered(sent, min(10, count - sent)))
            sent += taken
            if not taken:
                os.sched_yield()

    def consume() -> None:
        seen, into = 0, bytearray(64 * 16)
        while seen < count and not wrong:
            taken = consumer.get_many(into)
            if into[: 64 * taken] != numbered(seen, taken):
                wrong.append(seen)
            seen += taken
            if not taken:
                os.sched_yield()

    threads = [threading.Thread(target=run, daemon=True) for run in (produce, consume)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)
    assert consumer.get() is None


@BOTH
def test_long_arrays_go_through_whole(kind):
    capacity = 8192  # beyond what is copied under the GIL
    memory, producer = made(kind, capacity, 5000)
    lines, into = numbered(0, capacity + 3), bytearray(64 * (capacity + 3))
    assert producer.put_many(lines) == capacity
    assert kind(memory).get_many(into) == capacity
    assert into[: 64 * capacity] == lines[: 64 * capacity]


def test_the_batch_of_a_producer_lies_side_by_side():
    _, lane = made(MpmcLane, 1024)
    threads = [
        threading.Thread(target=lambda i=i: [lane.put_many(bytes([i]) * 640) for _ in range(20)]) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    into = bytearray(64 * 800)
    assert lane.get_many(into) == 800
    batches = [bytes(into[at : at + 640]) for at in range(0, len(into), 640)]
    assert sorted(batches) == sorted([bytes([i]) * 640 for i in range(4)] * 20)


@pytest.fixture(scope="module")
def compiler() -> str:
    """A C compiler with ThreadSanitizer."""
    found = shutil.which("gcc") or shutil.which("cc")
    if found is not None:
        probe = [found, "-fsanitize=thread", "-x", "c", "-", "-o", os.devnull]
        if subprocess.run(probe, input="int main(void){return 0;}", text=True, capture_output=True).returncode == 0:
            return found
    assert "CI" not in os.environ, "no C compiler with ThreadSanitizer"
    pytest.skip("no C compiler with ThreadSanitizer")


def sanitized(compiler: str, headers: Path, program: Path, lines: int) -> subprocess.CompletedProcess[str]:
    # A copy that the compiler unrolls is not seen by the sanitizer; a call of memcpy() is.
    seen = ["-fsanitize=thread", "-fno-builtin-memcpy"]
    options = ["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", *seen, "-pthread", f"-I{headers}"]
    subprocess.run([compiler, *options, str(HARNESS), "-o", str(program)], check=True, timeout=120)
    # Where the kernel spreads addresses wider than the sanitizer's map of them, it must not.
    fixed = ["setarch", "-R"] if shutil.which("setarch") else []
    if fixed and subprocess.run([*fixed, "true"], capture_output=True).returncode != 0:
        fixed = []
    return subprocess.run([*fixed, str(program), str(lines)], capture_output=True, text=True, timeout=200)


def test_the_thread_sanitizer_finds_no_race(compiler, tmp_path):
    ran = sanitized(compiler, KERNELS, tmp_path / "lanes", 10_000)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("lines\n") == 8


@pytest.mark.parametrize(
    ("header", "right", "wrong"),
    [
        (
            "atomics.h",
            "((shared_u64 *)at, value, memory_order_release)",
            "((shared_u64 *)at, value, memory_order_relaxed)",
        ),
        ("lanes.h", "number + turn, memory_order_release)", "number + turn, memory_order_relaxed)"),
        ("lanes.h", "sequence, memory_order_acquire)", "sequence, memory_order_relaxed)"),
        ("atomics.h", "((shared_u64 *)at, memory_order_acquire)", "((shared_u64 *)at, memory_order_relaxed)"),
    ],
)
def test_the_thread_sanitizer_would_find_one(compiler, tmp_path, header, right, wrong):
    for name in ("atomics.h", "lanes.h", "nano.h", "soon.h"):
        text = (KERNELS / name).read_text()
        if name == header:
            assert right in text
            text = text.replace(right, wrong)
        (tmp_path / name).write_text(text)
    ran = sanitized(compiler, tmp_path, tmp_path / "lanes", 10_000)
    assert ran.returncode != 0
    assert "data race" in ran.stderr


@BOTH
def test_a_buffer_that_is_too_small(kind):
    least = kind.nbytes(1 if kind is SpscLane else 8)
    for size in (0, 1, 64, 383, least - 127):
        for make in (kind.create, kind):
            with pytest.raises(ValueError, match="too small|no lane"):
                make(bytearray(size))
    assert kind.create(bytearray(least)).capacity == (1 if kind is SpscLane else 8)


@BOTH
def test_the_capacity_is_the_largest_power_of_two_that_fits(kind):
    for lines, capacity in [(8, 8), (15, 8), (16, 16), (1000, 512)]:
        assert kind.create(bytearray(kind.nbytes(lines))).capacity == capacity


def test_what_holds_no_lane_is_refused():
    for kind, other in [(SpscLane, MpmcLane), (MpmcLane, SpscLane)]:
        memory = page(4096)
        with pytest.raises(ValueError, match="not marked"):
            kind(memory)
        other.create(memory)
        with pytest.raises(ValueError, match="not marked"):
            kind(memory)
        kind.create(memory)
        with pytest.raises(ValueError, match="of this size"):
            kind(memoryview(memory)[:2048])
        with pytest.raises(BufferError):
            kind.create(bytes(4096))


@BOTH
def test_lines_that_are_none(kind):
    _, lane = made(kind, 8)
    for size in (0, 63, 65):
        with pytest.raises(ValueError, match="a line has 64 bytes"):
            lane.put(bytes(size))
    with pytest.raises(ValueError, match="65 bytes are not lines"):
        lane.put_many(bytes(65))
    with pytest.raises(ValueError, match="65 bytes are not lines"):
        lane.get_many(bytearray(65))
    assert lane.waiting == 0


@pytest.mark.parametrize("waiting", [9, 2**32, 2**63, 2**64 - 1])
@pytest.mark.parametrize("start", [0, 2**64 - 4])
def test_damaged_counters_are_noticed_at_both_ends(waiting, start):
    memory, lane = made(SpscLane, 8, start)
    memory[TAIL : TAIL + 8] = ((start + waiting) % 2**64).to_bytes(8, "little")
    for use in (lane.get, lambda: lane.get_many(bytearray(640)), lambda: lane.put_many(bytes(640))):
        with pytest.raises(ValueError, match=f"damaged: its counters say that {waiting} lines wait in a ring of 8"):
            use()
    with pytest.raises(ValueError, match="counters are damaged"):
        SpscLane(memory)


def test_a_damaged_head_stops_the_producer():
    memory, lane = made(SpscLane, 8)
    for _ in range(8):
        assert lane.put(bytes(64))
    assert not lane.put(bytes(64))
    memory[HEAD : HEAD + 8] = (9).to_bytes(8, "little")
    with pytest.raises(ValueError, match="damaged"):
        lane.put(bytes(64))


def test_a_damaged_sequence_is_noticed_instead_of_spun_on():
    memory, lane = made(MpmcLane, 8)
    memory[SLOTS : SLOTS + 8] = (5).to_bytes(8, "little")
    for use in (lambda: lane.put(bytes(64)), lane.get):
        with pytest.raises(ValueError, match="damaged"):
            use()


def test_whoever_opens_an_end_anew_goes_on_where_the_one_before_stood():
    memory, lane = made(SpscLane, 8, 2**64 - 3)
    assert lane.put_many(numbered(0, 5)) == 5
    assert SpscLane(memory).get() == numbered(0, 1)
    assert SpscLane(memory).put_many(numbered(5, 9)) == 4
    into = bytearray(64 * 9)
    assert SpscLane(memory).get_many(into) == 8
    assert into[: 64 * 8] == numbered(1, 8)


@BOTH
def test_a_lane_that_was_never_opened_says_so(kind):
    lane = kind.__new__(kind)
    for use in (
        lane.get,
        lambda: lane.put(bytes(64)),
        lambda: lane.put_many(b""),
        lambda: lane.get_many(bytearray()),
        lambda: lane.waiting,
    ):
        with pytest.raises(ValueError, match="no lane was opened"):
            use()
    with pytest.raises(TypeError, match="SpscLane or a MpmcLane"):
        Lane()
    _, opened = made(kind, 8)
    with pytest.raises(TypeError, match="opened once"):
        opened.__init__(page(4096))
