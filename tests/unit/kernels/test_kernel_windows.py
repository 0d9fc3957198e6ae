"""Windows: read-only, within their buffer, and heard of when the last view is gone."""

from __future__ import annotations

import gc
import os
import pickle

import numpy as np
import pytest

from kernels import windows
from kernels.reference import windows as reference


def test_the_end_of_the_last_view_is_told() -> None:
    ended: list[str] = []
    window = windows.Window(bytearray(range(100)), 10, 50, ended.append, "w")
    assert len(window) == 50 and bytes(window) == bytes(range(10, 60))
    array = np.frombuffer(memoryview(window)[5:20], dtype=np.uint8)
    rest = array[3:]
    del window, array
    gc.collect()
    assert not ended and rest.tolist() == list(range(18, 30))
    del rest
    assert ended == ["w"]


def test_what_a_pickle_finds_in_a_window_keeps_it() -> None:
    ended: list[int] = []
    array = np.arange(1000.0)
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps([array, b"x"], protocol=5, buffer_callback=buffers.append)
    loaded = pickle.loads(body, buffers=[windows.Window(buffers[0].raw(), 0, 8000, ended.append, 1)])
    assert np.array_equal(loaded[0], array) and not loaded[0].flags.writeable and not ended
    del loaded
    assert ended == [1]


def test_it_cannot_be_written_through() -> None:
    window = windows.Window(bytearray(10), 0, 10, None, None)
    with pytest.raises(TypeError):
        memoryview(window)[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        np.frombuffer(window, dtype=np.uint8)[0] = 1


@pytest.mark.parametrize(("offset", "size"), [(-1, 2), (0, 11), (11, 0), (5, 6), (0, -1), (2**62, 2**62)])
def test_what_is_not_within_the_buffer_is_refused(offset: int, size: int) -> None:
    ended: list[int] = []
    with pytest.raises(ValueError):
        windows.Window(bytearray(10), offset, size, ended.append, 1)
    with pytest.raises(ValueError):
        windows.copy_into(bytearray(10), offset, bytes(max(size, 11) if size < 2**40 else 11))
    assert not ended


def test_copies_are_as_the_twins() -> None:
    for size in (0, 1, 5000, 4 << 20, (4 << 20) + 12345):
        data = os.urandom(size)
        assert windows.copied(memoryview(data)) == reference.copied(memoryview(data)) == data
        ours, theirs = bytearray(size + 20), bytearray(size + 20)
        windows.copy_into(ours, 7, data)
        reference.copy_into(theirs, 7, data)
        assert ours == theirs
    with pytest.raises(BufferError):
        windows.copy_into(b"fixed", 0, b"x")


def test_an_address_is_that_of_the_bytes() -> None:
    data = bytearray(100)
    assert windows.address_of(memoryview(data)[7:]) == windows.address_of(data) + 7
    assert windows.Window(data, 9, 1, None, None).address == windows.address_of(data) + 9
