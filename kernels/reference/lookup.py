"""Twin of :mod:`kernels.lookup`: keys found in chunks that lie in memory."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kernels.reference.packing import PROBES_MAX, SLOT_BYTES, TABLE_CHUNK_BYTES, hash_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

SLOTS_A_CHUNK = TABLE_CHUNK_BYTES // SLOT_BYTES


def records(chunk: Buffer) -> list[tuple[bytes, bytes]]:
    """All records of a chunk."""
    data = bytes(chunk)
    if len(data) < 8:
        raise ValueError(f"a chunk of {len(data)} bytes")
    count, slots = struct.unpack_from("<II", data)
    table = len(data) - 4 * slots
    if table < 8:
        raise ValueError(f"a chunk of {len(data)} bytes with {slots} slots")
    found = []
    at = 8
    for _ in range(count):
        if table - at < 6:
            raise ValueError("a record begins behind the last")
        key_bytes, value_bytes = struct.unpack_from("<HI", data, at)
        at += 6
        if table - at < key_bytes + value_bytes:
            raise ValueError("a record is longer than its chunk")
        found.append((data[at : at + key_bytes], data[at + key_bytes : at + key_bytes + value_bytes]))
        at += key_bytes + value_bytes
    if at != table:
        raise ValueError("bytes between the last record of a chunk and its slots")
    return found


def _find(data: bytes, hash: int, key: bytes) -> bytes | None:
    slots = struct.unpack_from("<I", data, 4)[0] if len(data) >= 8 else 0
    if not slots or slots > (len(data) - 8) // 4:
        raise ValueError("a chunk is malformed")
    table = len(data) - 4 * slots
    home = (hash & 0xFFFFFFFF) * slots >> 32
    for tried in range(slots):
        (slot,) = struct.unpack_from("<I", data, table + (home + tried) % slots * 4)
        if not slot:
            return None
        if slot >> 20 != hash >> 32 & 0xFFF:
            continue
        offset = slot & 0xFFFFF
        if offset < 8 or offset + 6 > table:
            raise ValueError("a chunk is malformed")
        key_bytes, value_bytes = struct.unpack_from("<HI", data, offset)
        if key_bytes == len(key):
            start = offset + 6 + key_bytes
            if start + value_bytes > table:
                raise ValueError("a chunk is malformed")
            if data[offset + 6 : start] == key:
                return data[start : start + value_bytes]
    return None


class Finder:
    """Keys of one shard."""

    def __init__(self, salt: bytes, data: int, tables: int, slots: int, probes: int) -> None:
        hash_of(salt, b"")
        if not 1 <= probes <= PROBES_MAX or slots > tables * SLOTS_A_CHUNK or (tables and not slots):
            raise ValueError(f"a table of {slots} slots in {tables} chunks, {probes} of them to be looked at")
        self._salt, self._data, self._tables, self._slots, self._probes = salt, data, tables, slots, probes
        self._held: list[memoryview | None] = [None] * (data + tables)

    def _checked(self, number: int) -> int:
        if not 0 <= number < len(self._held):
            raise IndexError(f"chunk {number} of {len(self._held)}")
        return number

    def put(self, number: int, chunk: Buffer) -> None:
        """Have a chunk."""
        view = memoryview(chunk)
        if self._checked(number) >= self._data and (view.nbytes > TABLE_CHUNK_BYTES or view.nbytes % SLOT_BYTES):
            raise ValueError(f"chunk {number} of the table has {view.nbytes} bytes")
        self._held[number] = view

    def drop(self, number: int) -> None:
        """Have it no longer."""
        self._held[self._checked(number)] = None

    def has(self, number: int) -> bool:
        """Whether the chunk is here."""
        return self._held[self._checked(number)] is not None

    def chunk(self, number: int) -> memoryview | None:
        """A view of it."""
        return self._held[self._checked(number)]

    def find(self, key: bytes) -> bytes | int | None:
        """The value, None, or the number of the chunk that is needed."""
        if not self._tables:
            return None
        hash = hash_of(self._salt, key)
        for at in range(hash * self._slots >> 64, (hash * self._slots >> 64) + self._probes):
            number = self._data + at // SLOTS_A_CHUNK
            if number >= len(self._held):
                return None
            table = self._held[number]
            if table is None:
                return number
            place = at % SLOTS_A_CHUNK * SLOT_BYTES
            if place >= table.nbytes:
                return None
            half, chunk = struct.unpack_from("<II", table, place)
            if not chunk:
                return None
            if half == hash & 0xFFFFFFFF:
                if chunk > self._data:
                    raise ValueError(f"the table names chunk {chunk - 1} of {self._data}")
                found = self._held[chunk - 1]
                if found is None:
                    return int(chunk - 1)
                value = _find(bytes(found), hash, key)
                if value is not None:
                    return value
        return None

    def find_many(self, keys: list[bytes]) -> list[bytes | int | None]:
        """What `find` gives for each."""
        if not all(type(key) is bytes for key in keys):
            raise TypeError("a key is bytes")
        return [self.find(key) for key in keys]

    def find_in(self, number: int, key: bytes) -> bytes | None:
        """The value of a key in this chunk."""
        found = self._held[number] if 0 <= number < self._data else None
        if found is None:
            raise IndexError(f"chunk {number} of {self._data} is not here")
        return _find(bytes(found), hash_of(self._salt, key), key)
