"""Packing and lookup: the same bytes and the same answers as their twins, and nothing out of bounds whatever a chunk holds."""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import lookup, packing
from kernels.reference import lookup as lookup_reference
from kernels.reference import packing as packing_reference

SALT = bytes(range(16))


def records_of(seed: int, count: int, value_bytes_max: int) -> list[tuple[bytes, bytes]]:
    draw = random.Random(seed)
    keys = {draw.randbytes(draw.randrange(12)) for _ in range(count)}
    return [(key, draw.randbytes(draw.randrange(value_bytes_max + 1))) for key in sorted(keys)]


def packed(module, items, salt=SALT):
    packer = module.Packer(items, salt)
    chunks = []
    while (chunk := packer.next_chunk()) is not None:
        chunks.append(chunk)
    return chunks, packer


def test_siphash_is_that_of_its_paper():
    # Appendix A: key 00 … 0f, message 00 … 0e
    assert packing.hash_of(SALT, bytes(range(15))) == 0xA129CA6149BE45E5
    for size in range(70):
        message = random.Random(size).randbytes(size)
        assert packing.hash_of(SALT, message) == packing_reference.hash_of(SALT, message)


@pytest.mark.parametrize("seed", range(4))
def test_both_write_the_same_chunks_and_tables(seed):
    items = records_of(seed, 3000, (0, 40, 400, 3000)[seed])
    chunks, packer = packed(packing, items)
    others, other = packed(packing_reference, items)
    assert chunks == others and packer.records == other.records == len(items)
    assert packer.entries == len(items)
    entries = packer.take_entries()
    assert entries == other.take_entries() and packer.entries == 0
    for slots in (len(items), len(items) * 10 // 7 + 1, 20_000):
        ours, theirs = packing.Layout(slots), packing_reference.Layout(slots)
        assert ours.put(entries) + ours.finish() == theirs.put(entries) + theirs.finish()
        assert ours.probes == theirs.probes


def test_a_changed_record_changes_its_chunk_and_no_other():
    items = records_of(1, 20_000, 200)
    before = [chunk for chunk, _, _ in packed(packing, items)[0]]
    assert len(before) > 10
    for at in (0, 7_000, len(items) - 1):
        changed = [*items[:at], (items[at][0], b"another"), *items[at + 1 :]]
        after = [chunk for chunk, _, _ in packed(packing, changed)[0]]
        assert len(set(after) - set(before)) <= 2
        without = [chunk for chunk, _, _ in packed(packing, [*items[:at], *items[at + 1 :]])[0]]
        assert len(set(without) - set(before)) <= 2


def test_chunks_are_no_larger_than_they_may_be():
    large = [(b"%04d" % i, bytes(20_000)) for i in range(200)] + [(b"z", bytes(3_000_000))]
    chunks, _ = packed(packing, large)
    assert max(len(chunk) for chunk, count, _ in chunks if count > 1) <= 8 + 524_288 + 4 * 30
    assert [count for _, count, _ in chunks][-1] == 1
    assert [record for chunk, _, _ in chunks for record in lookup.records(chunk)] == large


@pytest.mark.parametrize("module", [packing, packing_reference])
@pytest.mark.parametrize(
    "items",
    [
        [(b"b", b""), (b"a", b"")],
        [(b"a", b""), (b"a", b"")],
        [(b"a", "b")],
        [(b"a",)],
        [[b"a", b"b"]],
        [(bytes(65536), b"")],
    ],
)
def test_what_is_no_record_or_does_not_ascend_is_refused(module, items):
    packer = module.Packer(items, SALT)
    with pytest.raises(ValueError):
        while packer.next_chunk():
            pass


@pytest.mark.parametrize("module", [packing, packing_reference])
def test_a_table_where_too_many_keys_meet_is_refused(module):
    layout = module.Layout(1 << 20)
    with pytest.raises(OverflowError):
        layout.put(struct.pack("<QII", 5, 0, 0) * 5000)
    with pytest.raises(ValueError):
        module.Layout(4).put(struct.pack("<QIIQII", 5, 0, 0, 4, 0, 0))
    with pytest.raises(ValueError):
        module.sort_entries(b"123")


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 9)), max_size=300))
def test_entries_are_sorted_and_stay_in_the_order_of_chunks(entries):
    raw = b"".join(struct.pack("<QII", hash, chunk, 0) for hash, chunk in entries)
    assert packing.sort_entries(raw) == packing_reference.sort_entries(raw)


def finders(items):
    chunks, packer = packed(packing, items)
    layout = packing.Layout(len(items) * 10 // 7 + 1)
    tables = layout.put(packer.take_entries()) + layout.finish()
    shape = (SALT, len(chunks), len(tables), len(items) * 10 // 7 + 1, layout.probes)
    return lookup.Finder(*shape), lookup_reference.Finder(*shape), [chunk for chunk, _, _ in chunks] + tables


def test_every_key_is_found_and_no_other():
    items = records_of(3, 2000, 300)
    ours, theirs, chunks = finders(items)
    needed = set()
    for key, value in [*items[::7], *((b"absent %d" % i, None) for i in range(200))]:
        while isinstance(found := ours.find(key), int):
            assert theirs.find(key) == found and not ours.has(found)
            needed.add(found)
            ours.put(found, chunks[found])
            theirs.put(found, chunks[found])
        assert found == value == theirs.find(key)
    assert needed <= set(range(len(chunks)))
    keys = [key for key, _ in items[::3]] + [b"absent", b""]
    assert ours.find_many(keys) == [ours.find(key) for key in keys]
    assert ours.find_many([]) == [] and lookup.Finder(SALT, 0, 0, 0, 1).find_many(keys) == [None] * len(keys)
    for module in (ours, theirs):
        for wrong in (["a"], [None], [b"a", 1]):
            with pytest.raises(TypeError):
                module.find_many(wrong)
    for number in needed:
        ours.drop(number)
    assert isinstance(ours.find(items[0][0]), int)


def test_numbers_that_make_no_sense_are_refused():
    for module in (lookup, lookup_reference):
        for shape in [(1, 1, 8193, 1), (1, 1, 10, 0), (1, 1, 10, 4097), (1, 1, 0, 1)]:
            with pytest.raises(ValueError):
                module.Finder(SALT, *shape)
        finder = module.Finder(SALT, 1, 1, 10, 1)
        for call in (
            lambda: finder.put(2, b""),
            lambda: finder.drop(9),
            lambda: finder.has(2),
            lambda: finder.find_in(0, b""),
        ):
            with pytest.raises(IndexError):
                call()
        with pytest.raises(ValueError):
            finder.put(1, bytes(7))


def outcome(call, *arguments):
    try:
        return call(*arguments)
    except ValueError:
        return ValueError


@settings(max_examples=300)
@given(
    st.integers(0, 2**32),
    st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from([0, 1, 5, 127, 255])), max_size=12),
    st.integers(0, 400),
)
def test_chunks_of_any_content_are_read_as_the_twin_reads_them(seed, changes, cut):
    items = records_of(seed % 50, 30, 20)
    ours, theirs, chunks = finders(items)
    for number, chunk in enumerate(chunks):
        data = bytearray(chunk)
        for at, value in changes:
            data[at % len(data)] = value
        if number == 0 and cut:
            del data[-cut:]
        ours.put(number, bytes(data))
        theirs.put(number, bytes(data))
        if number == 0:
            assert outcome(lookup.records, data) == outcome(lookup_reference.records, data)
    assert outcome(ours.find_many, [key for key, _ in items]) == outcome(theirs.find_many, [key for key, _ in items])
    for key, _ in items:
        assert outcome(ours.find, key) == outcome(theirs.find, key)
        assert outcome(ours.find_in, 0, key) == outcome(theirs.find_in, 0, key)


@given(st.binary(max_size=200), st.binary(max_size=10))
def test_any_bytes_are_no_chunk_or_one(data, key):
    assert outcome(lookup.records, data) == outcome(lookup_reference.records, data)
    for module in (lookup, lookup_reference):
        module.Finder(SALT, 1, 1, 4, 1).put(0, data)
    ours, theirs = lookup.Finder(SALT, 1, 1, 4, 1), lookup_reference.Finder(SALT, 1, 1, 4, 1)
    ours.put(0, data)
    theirs.put(0, data)
    assert outcome(ours.find_in, 0, key) == outcome(theirs.find_in, 0, key)


def test_nothing_is_read_behind_a_chunk_of_any_content():
    ran = subprocess.run(
        [sys.executable, "-m", "tests.unit.kernels.fenced", os.environ.get("FENCED_CHUNKS", "1500")],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr or f"ended by signal {-ran.returncode}"
    assert int(ran.stdout) > 10_000


def test_the_fence_bites():
    script = "from tests.unit.kernels.fenced import fenced; area, end = fenced(); print(area[end - 1], flush=True); area[end]"
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[3], capture_output=True, timeout=60, check=False
    )
    assert ran.returncode == -signal.SIGSEGV and ran.stdout == b"0\n"
