"""What is different between two snapshots, in time that goes with the difference: chunks with the same content are not looked into."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from swarm.snapshots.reading import Shard
from swarm.snapshots.snapshot import Snapshot

ADDED: Final = "added"
REMOVED: Final = "removed"
CHANGED: Final = "changed"


class Difference(NamedTuple):
    """One record that is not in both as it is in the other. The value that is not there is None."""

    kind: str
    shard: str
    key: bytes
    before: bytes | None
    after: bytes | None


def differences(before: Snapshot, after: Snapshot) -> Iterator[Difference]:
    """By shard, and in it by ascending key."""
    for name in sorted({*before.names, *after.names}):
        yield from shard_differences(
            name,
            before.shard(name) if name in before.names else None,
            after.shard(name) if name in after.names else None,
        )


def shard_differences(name: str, before: Shard | None, after: Shard | None) -> Iterator[Difference]:
    """Of one shard, which may be missing on either side."""
    same = _contents(before) & _contents(after) if before is not None and after is not None else set()
    left, right = _records(before, same), _records(after, same)
    old, new = next(left, None), next(right, None)
    while old is not None or new is not None:
        if new is None or (old is not None and old[0] < new[0]):
            assert old is not None
            yield Difference(REMOVED, name, old[0], old[1], None)
            old = next(left, None)
        elif old is None or new[0] < old[0]:
            yield Difference(ADDED, name, new[0], None, new[1])
            new = next(right, None)
        else:
            if old[1] != new[1]:
                yield Difference(CHANGED, name, old[0], old[1], new[1])
            old, new = next(left, None), next(right, None)


def _contents(shard: Shard) -> set[tuple[bytes, bytes]]:
    # the keys of the hashes of encrypted ones differ by the fleet's key: only those of one key say the same
    check = shard.header.key_check
    return {(check, shard.entry(number).content_hash) for number in range(shard.header.data_chunks)}


def _records(shard: Shard | None, without: set[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    if shard is None:
        return
    for number in range(shard.header.data_chunks):
        if (shard.header.key_check, shard.entry(number).content_hash) not in without:
            yield from shard.records(number)
