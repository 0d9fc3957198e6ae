"""Reading the past of a running node's knowledge, and setting the fleet back to it.

A moment is read from the log and what was let go from it, as long as these reach back to it and were compared with those of others since
(`comparing`); else from a snapshot here that was made after
it and reaches back to it, or from one that was made before it together with the log. What no such source covers in full is
refused: a wrong answer about the past is never given.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from kernels.plain import encode_plain
from nodes.knowledge import snapshot_files
from nodes.knowledge.authors import Authors
from nodes.knowledge.comparing import Comparing
from nodes.knowledge.desk import Desk
from nodes.knowledge.elsewhere import NotHeld
from nodes.knowledge.history import Difference, OutOfRetention, State, differences, set_back, shard_at, shown
from nodes.knowledge.shelf import Shelf
from nodes.knowledge.shell import KnowledgeShell
from nodes.knowledge.snapshot_files import PastFile
from swarm.protocol.knowledge.bounds import FUTURE_MS, RETENTION_MS
from swarm.protocol.knowledge.entries import shard_of
from swarm.protocol.knowledge.fading import FACTS, POLICY
from swarm.protocol.knowledge.keeper import Keeper
from swarm.protocol.knowledge.kinds import WHOLE
from swarm.protocol.knowledge.rules import STRIKE, Outcome
from swarm.protocol.knowledge.stamps import ms_of
from swarm.protocol.knowledge.views import GONE
from swarm.snapshots.snapshot import Snapshot

KEPT_S: Final = 60.0
"""How long a state that was asked for in parts is kept for the next part."""
SHOWN_MAX: Final = 1000
"""Differences that are listed; all are counted."""


class Past:
    """One node's past. For its loop."""

    def __init__(
        self, directory: Path, shell: KnowledgeShell, shelf: Shelf, own_key: bytes, comparing: Comparing
    ) -> None:
        self._directory = directory
        self._shell = shell
        self._shelf = shelf
        self._own_key = own_key
        self._comparing = comparing
        self._kept: tuple[int, State, bytes] | None = None
        """(moment, what was known then, by what is known now)."""
        self._reading = asyncio.Lock()
        """One at a time: each takes the memory of what it reads."""

    async def get(self, kind: str, key: str, until: int) -> tuple[Any, list[str]]:
        """What was known under a key; GONE if nothing was; and who could not be asked that may know more. OutOfRetention, NoHolder, BadEntry."""
        number = shard_of(kind, key, self._shell.shards)
        async with self._reading:
            if kind == FACTS:  # by the policy of then, a fact may have been pruned
                state = await self._read(until, sorted({number, WHOLE}), (key, POLICY))
            else:
                state = await self._read(until, [number], (key,))
            return state.get(kind, key, number), state.unasked

    async def state(self, until: int, goes_on: bool = False) -> State:
        """All that was known of what this node holds; with `goes_on` as it was read for the part of the answer before. OutOfRetention, NoHolder."""
        loop = asyncio.get_running_loop()
        async with self._reading:
            kept = self._kept
            if kept is None or kept[0] != until or not (goes_on or kept[2] == await self._version()):
                self._kept = None
                # What is heard while it is read is in it or not: it is read again for the next question, then.
                version = await self._version()
                state = await self._read(until, self.held(), None)
                kept = self._kept = until, state, version
                loop.call_later(KEPT_S, self._forget, kept)
        return kept[1]

    def held(self) -> list[int]:
        """The shards that this node holds."""
        return [number for number in range(self._shell.shards) if not self._shell.holders(number)]

    async def _version(self) -> bytes:
        """Another one as soon as something is known that was not: of a moment of the past, too."""
        found: bytes = await self._shell.ask(partial(_version, self._shell.desk))
        return found + repr(self.held()).encode()

    def _forget(self, kept: tuple[int, State, bytes]) -> None:
        if self._kept is kept:
            self._kept = None

    async def back(self, until: int, kinds: Iterable[str], apply: bool, numbers: Iterable[int]) -> dict[str, Any]:
        """What differs in these shards, which this node holds, between now and the moment; with `apply` it is set back, by new entries of this node.

        What is said meanwhile elsewhere and later than these entries counts after them, as always. Raises what `state` does, and
        SwarmError where the log takes no more: what was set back until then is, and doing it again goes on.
        """
        state = await self.state(until)
        found: dict[str, Any] = await self._shell.ask(
            partial(_back, state, frozenset(kinds), apply, list(numbers)), says=apply
        )
        return {**found, "unasked": state.unasked}

    async def _read(self, until: int, numbers: Iterable[int], keys: tuple[str, ...] | None) -> State:
        desk = self._shell.desk
        wanted = list(numbers)
        if any(self._shell.holders(number) for number in wanted):
            raise NotHeld("this node does not hold all of that")
        unasked = await self._comparing.settle(ms_of(until), wanted)
        log, since_ms = await self._shell.ask(partial(_collected, desk, wanted))
        state = await asyncio.to_thread(self._built, until, wanted, keys, log, since_ms)
        state.unasked = unasked
        return state

    def _built(
        self,
        until: int,
        numbers: list[int],
        keys: tuple[str, ...] | None,
        log: Mapping[int, list[bytes]],
        since_ms: int,
    ) -> State:
        """In a thread."""
        now_ms = time.time_ns() // 1_000_000
        at_ms, window_ms = ms_of(until), now_ms - RETENTION_MS
        if at_ms > now_ms + FUTURE_MS:
            raise OutOfRetention(f"{shown(until)} has not come yet", hint="take a moment that has", earliest=since_ms)
        authors = self._shell.authors
        if at_ms >= max(since_ms, window_ms):
            past = PastFile(self._directory)
            try:
                gone = {number: [payload for _, payload, _ in past.rows(number)] for number in numbers}
            finally:
                past.close()
            return self._of(until, numbers, keys, [log, gone], authors)
        earliest = max(since_ms, window_ms)
        before: Path | None = None
        for path, manifest in self._shelf.all():
            said = snapshot_files.about(manifest)
            if said is None or said.shards != self._shell.shards or manifest.signer != self._own_key:
                continue
            if said.lacking & set(numbers):
                continue
            reaches_ms = max(said.since_ms, manifest.created_ms - RETENTION_MS)
            if until <= said.stamp and (at_ms >= reaches_ms or until == said.stamp or at_ms == ms_of(said.stamp)):
                return self._of(until, numbers, keys, [self._in_snapshot(path, numbers)], authors)
            if said.stamp <= until and manifest.created_ms >= window_ms:
                before = path
            earliest = min(earliest, reaches_ms)
        if before is not None:
            return self._of(until, numbers, keys, [log, self._in_snapshot(before, numbers)], authors)
        raise OutOfRetention(
            f"what was known at {shown(until)} is not kept here: this node's past begins at {shown(earliest << 16)}",
            hint="ask a node that is older, or restore a snapshot: `swarm snapshot list`", earliest=earliest,
        )  # fmt: skip

    def _in_snapshot(self, path: Path, numbers: list[int]) -> dict[int, list[bytes]]:
        with Snapshot.open(path, key=self._shelf.key()) as snapshot:
            return {
                number: [
                    *snapshot_files.payloads(snapshot, number),
                    *(payload for payload, _ in snapshot_files.past_rows(snapshot, number)),
                ]
                for number in numbers
            }

    def _of(
        self,
        until: int,
        numbers: list[int],
        keys: tuple[str, ...] | None,
        sources: list[Mapping[int, list[bytes]]],
        authors: Authors,
    ) -> State:
        certificates = authors.all()

        def believed(author: bytes, message: bytes, signature: bytes) -> Outcome | None:
            # What was taken in once was checked then; who was revoked since does not count.
            return Outcome.REVOKED if authors.revoked(author, certificates.get(author)) else None

        sought = None if keys is None else [key.encode() for key in keys]
        shards = {}
        for number in numbers:
            payloads = (payload for source in sources for payload in source.get(number, ()))
            if sought is not None:  # a key stands in a segment as it is
                payloads = (
                    payload for payload in payloads if payload[0] == STRIKE or any(raw in payload for raw in sought)
                )
            shards[number] = shard_at(number, self._shell.shards, payloads, until, believed)
        return State(until, shards)


def _collected(desk: Desk, numbers: list[int], keeper: Keeper) -> tuple[dict[int, list[bytes]], int]:
    """In the desk's thread: references alone, the rest is done elsewhere."""
    shards = keeper.knowledge.shards
    assert desk.store is not None
    found = {number: list(shards[number].segments()) if number in shards else [] for number in numbers}
    return found, desk.store.since_ms(time.time_ns() // 1_000_000, numbers)


def _version(desk: Desk, keeper: Keeper) -> bytes:
    """In the desk's thread."""
    assert desk.store is not None
    shards = keeper.knowledge.shards
    return b"".join([desk.store.past_changes.to_bytes(8, "big"), *(shards[number].digest for number in sorted(shards))])


def _back(state: State, kinds: frozenset[str], apply: bool, numbers: list[int], keeper: Keeper) -> dict[str, Any]:
    """In the desk's thread."""
    then = State(state.until, {number: state.shards[number] for number in numbers if number in state.shards})
    shards = keeper.knowledge.shards
    now = {number: shards[number] for number in numbers if number in shards}
    found = [each for each in differences(then, now) if not kinds or each.kind in kinds]
    partly = 0
    if apply:
        wall_ms = time.time_ns() // 1_000_000
        partly = sum(not set_back(keeper.knowledge, each, wall_ms) for each in found)
    return {"count": len(found), "partly": partly, "rows": [_row(each) for each in found[:SHOWN_MAX]]}


def _row(each: Difference) -> list[Any]:
    return [each.kind, each.key, *(None if value is GONE else [value] for value in (each.then, each.now))]


def packed(value: Any) -> bytes:
    """A value as it travels."""
    raw = encode_plain(value, 1 << 30)
    assert raw is not None, "what was read is plain"
    return raw
