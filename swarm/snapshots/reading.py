"""One shard of a snapshot, open for reading: by key in constant time, by range, and all of it."""

from __future__ import annotations

import bisect
import mmap
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol, Self

from blake3 import blake3

from kernels import lookup
from swarm.snapshots.errors import SnapshotDamaged
from swarm.snapshots.format import (
    ENTRY_BYTES,
    FILES_MAX,
    HASH_BYTES,
    KEYS,
    Entry,
    Header,
    malformed,
    root_of,
    unpack_entry,
)
from swarm.snapshots.mapping import Mapped, MappedChunks, damaged, read_table
from swarm.snapshots.ordering import Record
from swarm.snapshots.sealing import Sealer, check_key

CACHE_BYTES_MAX: Final = 256 << 20
"""Opened chunks that are kept beside the mapped ones: those that were compressed or encrypted."""
KEPT_LEAST: Final = 4
Repair = Callable[[bytes], bytes | None]
"""What gives a chunk by its hash, from a peer's copy; None when it has none."""


class Chunks(Protocol):
    """Where stored chunks come from."""

    def stored(self, number: int, entry: Entry) -> Any: ...
    def close(self) -> None: ...


class Shard:
    """A shard, open. For one thread at a time.

    Every chunk is checked against its hash when it is first touched, and what is damaged is asked for from ``repair``, checked, and
    used from memory; ``damaged`` has the numbers of those chunks. Where nobody has it, SnapshotDamaged is raised, and all other keys
    can still be read. SnapshotMalformed is raised where content with the right hash makes no sense.
    """

    def __init__(
        self,
        header: Header,
        table: memoryview,
        chunks: Chunks,
        *,
        where: str,
        key: bytes | None = None,
        repair: Repair | None = None,
        cache_bytes_max: int = CACHE_BYTES_MAX,
    ) -> None:
        self.header = header
        self.where = where
        self.damaged: list[int] = []
        self._table = table
        self._chunks = chunks
        self._repair = repair
        self._sealer = Sealer(header.shard, key if header.encrypted else None)
        self._key_given = key
        self._cache: OrderedDict[int, int] = OrderedDict()
        self._cache_bytes = 0
        self._cache_bytes_max = cache_bytes_max
        self._keys: Any = None
        self._finder = lookup.Finder(header.salt, header.data_chunks, header.table_chunks, header.slots, header.probes)
        self._find = self._finder.find

    @classmethod
    def open(cls, path: Path, *, root: bytes | None = None, **options: Any) -> Self:
        """Map a shard's file, and check its header (against ``root`` where it is given) and table: not its chunks.

        ``options`` are ``key`` (32 bytes), ``repair`` and ``cache_bytes_max``. OSError, SnapshotMalformed, SnapshotDamaged.
        """
        own = Mapped(path)
        try:
            header, table = read_table(own, root)
            return cls(
                header, table, MappedChunks(path.parent, header.shard, own, header, table), where=str(path), **options
            )
        except BaseException:
            own.close()
            raise

    def close(self) -> None:
        """Give all memory back."""
        self._finder = lookup.Finder(self.header.salt, 0, 0, 0, 1)
        self._find = self._finder.find
        self._keys = None
        self._table.release()
        self._chunks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.header.records

    def __contains__(self, key: bytes) -> bool:
        return self.get(key) is not None

    @property
    def salt(self) -> bytes:
        """Of the hashes of keys."""
        return self.header.salt

    @property
    def name(self) -> str:
        """What the shard is called."""
        return self.header.shard

    @property
    def chunks(self) -> Chunks:
        """Where the stored chunks are."""
        return self._chunks

    @property
    def roots(self) -> list[bytes]:
        """Of the other files that chunks of this shard stand in."""
        start = self.header.chunks * ENTRY_BYTES
        return [
            bytes(self._table[at : at + HASH_BYTES])
            for at in range(start, start + self.header.files * HASH_BYTES, HASH_BYTES)
        ]

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        try:
            found = self._find(key)
            while isinstance(found, int):
                self._load(found)
                found = self._find(key)
        except ValueError as error:
            raise self._senseless(error) from None
        except SnapshotDamaged as error:
            if error.facts.get("chunk") is None or error.facts["chunk"] < self.header.data_chunks:
                raise
            return self._in_order(key)
        return found

    def get_many(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """The values of many keys, in their order, None for those that are not there. Quicker than one by one in large shards."""
        wanted = list(keys)
        try:
            found = self._finder.find_many(wanted)
        except ValueError as error:
            raise self._senseless(error) from None
        return [self.get(key) if isinstance(each, int) else each for key, each in zip(wanted, found, strict=True)]

    def _in_order(self, key: bytes) -> bytes | None:
        """The value of a key without the table of keys, part of which is damaged: by the first keys of the chunks."""
        number = bisect.bisect_right(range(self.header.data_chunks), key, key=self.first_key) - 1
        if number < 0:
            return None
        if not self._finder.has(number):
            self._load(number)
        try:
            return self._finder.find_in(number, key)
        except ValueError as error:
            raise self._senseless(error) from None

    def entry(self, number: int) -> Entry:
        """What the table says of a chunk. SnapshotMalformed."""
        return unpack_entry(self._table, number, self.header, self.where)

    def entries(self) -> Iterator[Entry]:
        """Of all chunks: first those of records, in the order of keys, then those of the table."""
        for number in range(self.header.chunks):
            yield self.entry(number)

    def first_key(self, number: int) -> bytes:
        """The least key of a chunk of records."""
        entry = self.entry(number)
        if self._keys is None:
            check_key(self._sealer, self.header.encrypted, self.header.key_check, self.where)
            stored = self._table[self.header.chunks * ENTRY_BYTES + self.header.files * HASH_BYTES :]
            form = 1 if self.header.encrypted else 0
            self._keys = self._sealer.open(stored, form, KEYS, self.header.keys_raw_bytes, self.where)
        return bytes(self._keys[entry.key_offset : entry.key_offset + entry.key_bytes])

    def range(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[Record]:
        """(key, value) by ascending key, from ``start`` on and before ``stop``."""
        if not self.header.data_chunks:
            return
        begin = max(0, bisect.bisect_right(range(self.header.data_chunks), start, key=self.first_key) - 1)
        last = None
        for number in range(begin, self.header.data_chunks):
            if stop is not None and self.first_key(number) >= stop:
                return
            for key, value in self.records(number):
                if last is not None and key <= last:
                    raise malformed(self.where, f"has keys in chunk {number} that do not ascend", chunk=number)
                last = key
                if stop is not None and key >= stop:
                    return
                if key >= start:
                    yield key, value

    def __iter__(self) -> Iterator[Record]:
        return self.range()

    def records(self, number: int) -> list[Record]:
        """All records of one chunk, in the order of their keys. IndexError."""
        if not 0 <= number < self.header.data_chunks:
            raise IndexError(f"chunk {number} of {self.header.data_chunks}")
        chunk = self._finder.chunk(number)
        try:
            return lookup.records(self._opened(number) if chunk is None else chunk)
        except ValueError as error:
            raise self._senseless(error) from None

    def stored(self, number: int) -> Any:
        """A chunk as it stands in its file, checked against its hash, with the help of ``repair`` where it is damaged."""
        entry = self.entry(number)
        try:
            stored = self._chunks.stored(number, entry)
            if blake3(stored).digest() == entry.stored_hash:
                return stored
            path = self._path(entry)
            error = damaged(
                path, f"chunk {number} of {self.name} is damaged: {entry.stored_bytes} bytes at {entry.offset}",
                shard=self.name, chunk=number, offset=entry.offset, bytes=entry.stored_bytes, hash=entry.stored_hash,
            )  # fmt: skip
        except SnapshotDamaged as missing:
            error = missing
        if number not in self.damaged:
            self.damaged.append(number)
        found = self._repair(entry.stored_hash) if self._repair is not None else None
        if found is None or len(found) != entry.stored_bytes or blake3(found).digest() != entry.stored_hash:
            raise error
        return found

    def shareable(self, check: bytes) -> dict[bytes, tuple[bytes, Entry]]:
        """Chunks that a new snapshot may name instead of writing them: content hash -> (root of their file, entry).

        Those of another key are not, and not those in files of which less than half is in use: so what nobody needs goes in time.
        """
        if check != self.header.key_check:
            return {}
        roots = [self.root, *self.roots]
        used = [0] * len(roots)
        entries = list(self.entries())
        for entry in entries:
            used[entry.file] += entry.stored_bytes
        sizes = [self._file_bytes(file) for file in range(len(roots))]
        good = {file for file in range(len(roots)) if used[file] * 2 >= sizes[file]}
        if len(good) >= FILES_MAX - 1:  # the fullest are the ones to keep
            good = set(sorted(good, key=lambda file: -used[file])[: FILES_MAX // 2])
        return {entry.content_hash: (roots[entry.file], entry) for entry in entries if entry.file in good}

    def whole(self, entry: Entry) -> bool:
        """Whether the chunk that an entry of this shard names is there, and what it was. In any thread."""
        try:
            return blake3(self._chunks.stored(-1, entry)).digest() == entry.stored_hash
        except SnapshotDamaged:
            return False

    @property
    def root(self) -> bytes:
        """The hash of the header, by which all of it is known."""
        return root_of(self.header.pack())

    def _file_bytes(self, file: int) -> int:
        path = getattr(self._chunks, "path", None)
        if path is None or not path(file).exists():
            return 1 << 62  # nothing of it is to be used
        return int(path(file).stat().st_size) - len(self._table) * (file == 0)

    def _path(self, entry: Entry) -> str:
        path = getattr(self._chunks, "path", None)
        return str(path(entry.file)) if path is not None else self.where

    def _opened(self, number: int) -> Any:
        check_key(self._sealer, self.header.encrypted, self.header.key_check, self.where)
        entry = self.entry(number)
        stored = self.stored(number)
        if not entry.form and isinstance(self._chunks, MappedChunks) and number not in self.damaged:
            return self._chunks.view(entry)
        return self._sealer.open(stored, entry.form, entry.kind, entry.raw_bytes, self.where)

    def _load(self, number: int) -> None:
        chunk = self._opened(number)
        try:
            self._finder.put(number, chunk)
        except ValueError as error:
            raise self._senseless(error) from None
        if isinstance(chunk, memoryview) and isinstance(chunk.obj, mmap.mmap):
            return  # stands in the mapped file: costs nothing to keep
        self._cache[number] = len(chunk)
        self._cache_bytes += len(chunk)
        while self._cache_bytes > self._cache_bytes_max and len(self._cache) > KEPT_LEAST:
            oldest, size = self._cache.popitem(last=False)
            self._finder.drop(oldest)
            self._cache_bytes -= size

    def _senseless(self, error: ValueError) -> Exception:
        # errors of our own are values, too: they say more than we could
        return (
            error
            if isinstance(error, Exception) and hasattr(error, "hint")
            else malformed(self.where, f"makes no sense: {error}")
        )
