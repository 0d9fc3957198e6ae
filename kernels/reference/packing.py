"""Twin of :mod:`kernels.packing`: chunks of records, and the table of their keys."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

ENTRY_BYTES = 16
SLOT_BYTES = 8
TABLE_CHUNK_BYTES = 65536
PROBES_MAX = 4096
KEY_BYTES_MAX = 65535
VALUE_BYTES_MAX = 1 << 26
CHUNK_BYTES_MIN = 32768
CHUNK_BYTES_MEAN = 98304
CHUNK_BYTES_MAX = 524288
_64 = (1 << 64) - 1


def _round(v: list[int]) -> None:
    v[0] = v[0] + v[1] & _64
    v[2] = v[2] + v[3] & _64
    v[1] = (v[1] << 13 | v[1] >> 51) & _64 ^ v[0]
    v[3] = (v[3] << 16 | v[3] >> 48) & _64 ^ v[2]
    v[0] = (v[0] << 32 | v[0] >> 32) & _64
    v[2] = v[2] + v[1] & _64
    v[0] = v[0] + v[3] & _64
    v[1] = (v[1] << 17 | v[1] >> 47) & _64 ^ v[2]
    v[3] = (v[3] << 21 | v[3] >> 43) & _64 ^ v[0]
    v[2] = (v[2] << 32 | v[2] >> 32) & _64


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def hash_of(salt: bytes, key: bytes) -> int:
    """SipHash-2-4."""
    if len(salt) != 16:
        raise ValueError(f"a salt of {len(salt)} bytes, not 16")
    words = _word(salt, 0), _word(salt, 8)
    v = [
        words[i & 1] ^ int.from_bytes(text, "big")
        for i, text in enumerate((b"somepseu", b"dorandom", b"lygenera", b"tedbytes"))
    ]
    padded = key + bytes(7 - len(key) % 8) + bytes([len(key) & 255])
    for word in (_word(padded, at) for at in range(0, len(padded), 8)):
        v[3] ^= word
        _round(v)
        _round(v)
        v[0] ^= word
    v[2] ^= 255
    for _ in range(4):
        _round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


class Packer:
    """Chunks of records."""

    def __init__(self, items: Iterable[tuple[bytes, bytes]], salt: bytes) -> None:
        hash_of(salt, b"")
        self._salt = salt
        self._items = self._checked(items)
        self._ahead: tuple[bytes, bytes] | None = None
        self._entries: list[tuple[int, int]] = []
        self._chunk = 0
        self.records = 0

    @property
    def entries(self) -> int:
        """Keys since the last `take_entries`."""
        return len(self._entries)

    def next_chunk(self) -> tuple[bytes, int, bytes] | None:
        """(bytes, records, first key) of the next one."""
        body = b""
        taken: list[tuple[bytes, int, int]] = []
        for key, value in self._rest():
            record = struct.pack("<HI", len(key), len(value)) + key + value
            if taken and len(body) + len(record) > CHUNK_BYTES_MAX:
                self._ahead = (key, value)
                break
            hash = hash_of(self._salt, key)
            taken.append((key, hash, 8 + len(body)))
            self._entries.append((hash, self._chunk))
            body += record
            if len(body) >= CHUNK_BYTES_MIN and (hash >> 16 & 0xFFFFFFFF) * CHUNK_BYTES_MEAN < len(record) << 32:
                break
        if not taken:
            return None
        slots = [0] * (len(taken) + len(taken) // 3 + 1)
        for _, hash, offset in taken:
            at = (hash & 0xFFFFFFFF) * len(slots) >> 32
            while slots[at]:
                at = (at + 1) % len(slots)
            slots[at] = offset | (hash >> 32 & 0xFFF) << 20
        self._chunk += 1
        self.records += len(taken)
        return (
            struct.pack("<II", len(taken), len(slots)) + body + struct.pack(f"<{len(slots)}I", *slots),
            len(taken),
            taken[0][0],
        )

    def take_entries(self) -> bytes:
        """Sorted entries."""
        out = b"".join(struct.pack("<QII", hash, chunk, 0) for hash, chunk in sorted(self._entries))
        self._entries = []
        return out

    def _rest(self) -> Iterator[tuple[bytes, bytes]]:
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            yield ahead
        for item in iter(lambda: next(self._items, None), None):  # not `yield from`: leaving would end them
            yield item

    @staticmethod
    def _checked(items: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        last = None
        for item in items:
            if type(item) is not tuple or len(item) != 2 or type(item[0]) is not bytes or type(item[1]) is not bytes:
                raise ValueError("a record is a tuple of key and value, both bytes")
            if len(item[0]) > KEY_BYTES_MAX or len(item[1]) > VALUE_BYTES_MAX or (last is not None and item[0] <= last):
                raise ValueError("a key or value that is too long, or a key that does not ascend")
            last = item[0]
            yield item


def sort_entries(entries: bytes) -> bytes:
    """As one sorted run; equal hashes keep their order."""
    if len(entries) % ENTRY_BYTES:
        raise ValueError(f"{len(entries)} bytes are no whole number of entries")
    each = [entries[at : at + ENTRY_BYTES] for at in range(0, len(entries), ENTRY_BYTES)]
    each.sort(key=lambda entry: _word(entry, 0))
    return b"".join(each)


class Layout:
    """The table of keys."""

    def __init__(self, slots: int) -> None:
        if not 1 <= slots < 1 << 40:
            raise ValueError(f"a table of {slots} slots")
        self._slots = slots
        self._table: list[bytes] = []
        self._last = 0
        self.probes = 1

    def put(self, entries: bytes) -> list[bytes]:
        """Put sorted entries. All chunks come in the end: memory is no concern here."""
        if len(entries) % ENTRY_BYTES:
            raise ValueError(f"{len(entries)} bytes are no whole number of entries")
        for hash, chunk, _ in struct.iter_unpack("<QII", entries):
            if hash < self._last:
                raise ValueError("entries that are not sorted")
            self._last = hash
            home = hash * self._slots >> 64
            self._table += [bytes(SLOT_BYTES)] * (home - len(self._table))
            if len(self._table) - home >= PROBES_MAX:
                raise OverflowError(f"a key is {len(self._table) - home} slots from its home")
            self.probes = max(self.probes, len(self._table) - home + 1)
            self._table.append(struct.pack("<II", hash & 0xFFFFFFFF, chunk + 1))
        return []

    def finish(self) -> list[bytes]:
        """All chunks."""
        self._table += [bytes(SLOT_BYTES)] * (self._slots - len(self._table))
        whole = b"".join(self._table)
        return [whole[at : at + TABLE_CHUNK_BYTES] for at in range(0, len(whole), TABLE_CHUNK_BYTES)]
