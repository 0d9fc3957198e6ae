"""A snapshot on disk: a folder with one file a shard, those of earlier snapshots that it shares, and a signed manifest.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     _ = create(Path(folder) / "first", {"facts": [(b"a", b"1"), (b"b", b"2")]}, created_ms=0)
...     with Snapshot.open(Path(folder) / "first") as snapshot:
...         snapshot.shard("facts").get(b"b"), snapshot.names
(b'2', ['facts'])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from swarm.errors import NotFound
from swarm.snapshots.errors import SnapshotMalformed
from swarm.snapshots.format import file_name
from swarm.snapshots.manifest import MANIFEST, MANIFEST_BYTES_MAX, Manifest, ShardLine, Sign, decode, encode
from swarm.snapshots.mapping import damaged
from swarm.snapshots.ordering import RUN_BYTES, Record, ordered
from swarm.snapshots.publishing import link_or_copy, publishing, write_file
from swarm.snapshots.reading import Shard
from swarm.snapshots.sealing import Sealer
from swarm.snapshots.writing import Written, write_shard

Trusted = Callable[[bytes], bool]


class Snapshot:
    """An open snapshot. Its shards are opened when they are first asked for. For one thread at a time."""

    def __init__(self, folder: Path, manifest: Manifest, **options: Any) -> None:
        self.folder = folder
        self.manifest = manifest
        self._options = options
        self._open: dict[str, Shard] = {}

    @classmethod
    def open(cls, folder: Path, *, trusted: Trusted | None = None, **options: Any) -> Self:
        """Read and check the manifest, nothing else. ``options`` are those of `Shard.open`: ``key``, ``repair``, ``cache_bytes_max``.

        Raises NotFound when there is no snapshot, SnapshotMalformed, SnapshotDamaged, SnapshotUntrusted, OSError.
        """
        return cls(folder, read_manifest(folder, trusted=trusted), **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give all memory back."""
        for shard in self._open.values():
            shard.close()
        self._open = {}

    @property
    def names(self) -> list[str]:
        """Of the shards, in the order of the manifest."""
        return [line.name for line in self.manifest.shards]

    def shard(self, name: str) -> Shard:
        """A shard, open. NotFound, SnapshotDamaged, SnapshotMalformed."""
        if name not in self._open:
            try:
                line = self.manifest.shard(name)
            except KeyError:
                raise NotFound(
                    f"{self.folder} has no shard {name!r}", hint=f"it has: {', '.join(self.names) or 'none'}"
                ) from None
            self._open[name] = self._opened(line)
        return self._open[name]

    def __iter__(self) -> Iterator[Shard]:
        return map(self.shard, self.names)

    def _opened(self, line: ShardLine) -> Shard:
        path = self.folder / file_name(line.name, line.root)
        try:
            shard = Shard.open(path, root=line.root, **self._options)
        except FileNotFoundError:
            raise damaged(str(path), "it is not there", shard=line.name, offset=0, bytes=line.file_bytes) from None
        if (
            shard.header.shard != line.name
            or shard.header.records != line.records
            or shard.roots != [r for r, _ in line.files]
        ):
            shard.close()
            raise SnapshotMalformed(
                f"{path} is not what the manifest says of {line.name}", hint="use another copy", path=str(path)
            )
        return shard


def read_manifest(folder: Path, *, trusted: Trusted | None = None) -> Manifest:
    """The manifest of a snapshot's folder. NotFound when there is none; SnapshotMalformed, SnapshotDamaged, SnapshotUntrusted, OSError."""
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            data = file.read(MANIFEST_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(
            f"{folder} is no snapshot: there is no manifest in it", hint="`swarm snapshot list` shows what there is"
        ) from None
    return decode(data, str(path), trusted)


@dataclass(frozen=True, slots=True)
class Created:
    """A snapshot that is on the disk."""

    folder: Path
    manifest: Manifest
    written: tuple[Written, ...]

    @property
    def new_bytes(self) -> int:
        """What the disk holds more than before."""
        return sum(each.file_bytes for each in self.written)


def create(
    target: Path,
    shards: Mapping[str, Iterable[Record]],
    *,
    created_ms: int,
    base: Path | None = None,
    key: bytes | None = None,
    signer: tuple[bytes, Sign] | None = None,
    about: Mapping[str, Any] | None = None,
    compress: bool = True,
    in_order: bool = False,
    salts: Mapping[str, bytes] | None = None,
    threads: int | None = None,
    run_bytes: int = RUN_BYTES,
) -> Created:
    """Write a snapshot to the folder ``target``, which appears whole or not at all.

    ``shards`` are names and their records (key, value), in any order, the last of several with one key counting; ``in_order`` says that
    keys ascend strictly, which saves sorting. ``base`` is the folder of an earlier snapshot: chunks that are the same are not written
    again, its files that hold them are linked. ``key`` (32 bytes) encrypts; ``signer`` is (public key, sign).

    Raises SnapshotExists, ValueError for what is no record, OSError, and what is wrong with ``base``. Nothing is left behind then.
    """
    before = Snapshot.open(base, key=key) if base is not None else None
    lines, done = [], []
    try:
        with publishing(target) as folder:
            for name, records in shards.items():
                shard = before.shard(name) if before is not None and name in before.names else None
                written = write_shard(
                    folder,
                    name,
                    records if in_order else ordered(records, folder, run_bytes=run_bytes),
                    sealer=Sealer(name, key, compress=compress),
                    salt=(salts or {}).get(name),
                    base=shard,
                    threads=threads,
                )
                files = []
                for root in written.files:
                    assert base is not None
                    there = folder / file_name(name, root)
                    if not there.exists():  # all chunks the same makes the same file: then it is its own
                        link_or_copy(base / file_name(name, root), there)
                    files.append((root, there.stat().st_size))
                lines.append(
                    ShardLine(name, written.root, written.file_bytes, written.records, written.raw_bytes, tuple(files))
                )
                done.append(written)
            parent = before.manifest.id if before is not None else b""
            data = encode(Manifest(created_ms, tuple(lines), parent, about or {}), signer)
            write_file(folder / MANIFEST, data)
    finally:
        if before is not None:
            before.close()
    return Created(target, decode(data, str(target)), tuple(done))
