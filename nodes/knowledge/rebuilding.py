"""A damaged snapshot of knowledge made again from the log it was taken of: where no other node has a chunk, since each has said more since.

The log still has what the chunk held, or the past has it. Of the same records the same chunks are written, so what is made is looked up by
its hash, as in any other copy; where something came later that belongs in between, no hash fits, and nothing is repaired by it.
"""

from __future__ import annotations

import bisect
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from blake3 import blake3

from swarm.errors import NotFound
from swarm.snapshots.checking import Report
from swarm.snapshots.errors import SnapshotError
from swarm.snapshots.format import file_name, unpack_entry
from swarm.snapshots.manifest import ShardLine
from swarm.snapshots.mapping import Mapped, head_of, read_table
from swarm.snapshots.ordering import Record
from swarm.snapshots.reading import Shard
from swarm.snapshots.sealing import Sealer
from swarm.snapshots.writing import write_shard


class Rebuilt:
    """What could be made again, as a copy. `known` are the records that there are now, by name of their shard, in order. Close it."""

    def __init__(
        self, folder: Path, suffix: str, report: Report, known: Mapping[str, Sequence[Record]], key: bytes
    ) -> None:
        """Shards that are damaged are written into a folder beside, whose name ends with `suffix`. OSError."""
        self._folder = Path(tempfile.mkdtemp(prefix=".", suffix=suffix, dir=folder.parent))
        self._chunks: dict[bytes, tuple[Path, int, int]] = {}
        self.chunks = 0
        """How many were asked for and found."""
        names = {each.shard for each in report.damage}
        try:
            for line in report.manifest.shards if report.manifest is not None else ():
                if line.name in names and line.name in known:
                    self._write(folder, line, known[line.name], key)
        except BaseException:
            self.close()
            raise

    def _write(self, folder: Path, line: ShardLine, known: Sequence[Record], key: bytes) -> None:
        try:
            with Shard.open(folder / file_name(line.name, line.root), root=line.root, key=key) as shard:
                encrypted = shard.header.encrypted
                written = write_shard(
                    self._folder, line.name, records_of(shard, known), sealer=Sealer(line.name, key if encrypted else None),
                    salt=shard.salt, threads=1,
                )  # fmt: skip
        except (SnapshotError, NotFound, FileNotFoundError, ValueError):
            # Header or table are damaged: all that is known now may be all that was in it.
            written = write_shard(self._folder, line.name, known[: line.records], threads=1)
        mapped = Mapped(written.path)
        try:
            header, table = read_table(mapped, written.root)
            for number in range(header.chunks):
                entry = unpack_entry(table, number, header, str(written.path))
                self._chunks.setdefault(entry.stored_hash, (written.path, entry.offset, entry.stored_bytes))
        finally:
            mapped.close()

    def manifest(self) -> bytes | None:
        """Nobody but its signer can make it."""
        return None

    def head(self, shard: str, root: bytes) -> bytes | None:
        """Header and table, where the whole file came out the same."""
        return head_of(self._folder / file_name(shard, root), root)

    def chunk(self, hash: bytes) -> bytes | None:
        """A chunk as it is stored."""
        place = self._chunks.get(hash)
        if place is None:
            return None
        path, offset, size = place
        with open(path, "rb") as file:
            file.seek(offset)
            found = file.read(size)
        if blake3(found).digest() != hash:
            return None
        self.chunks += 1
        return found

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self._folder, ignore_errors=True)


def records_of(shard: Shard, known: Sequence[Record]) -> Iterator[Record]:
    """All records of a shard: what is damaged is taken from what is known, as many from its first key on as there were."""
    keys = [key for key, _ in known]
    for number in range(shard.header.data_chunks):
        try:
            yield from shard.records(number)
        except SnapshotError:
            first = bisect.bisect_left(keys, shard.first_key(number))
            end = len(keys)
            if number + 1 < shard.header.data_chunks:
                end = bisect.bisect_left(keys, shard.first_key(number + 1))
            yield from known[first : min(end, first + shard.entry(number).records)]
