"""What a node tells others that hold the same shards of what it let go: ``knowledge.past`` says what that is, ``knowledge.past_of`` gives it.

A row is named by (shard, 2 bytes; place in the tree, 24 bytes; when it was let go, milliseconds, 8 bytes). Rows are numbered as they are written,
so who asked before asks for those after the last that it was told; the numbers hold while ``epoch`` is the same.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from kernels.plain import encode_plain
from nodes.knowledge.desk import Desk
from nodes.knowledge.shell import KnowledgeShell
from nodes.knowledge.snapshot_files import PastFile
from nodes.knowledge.store import author_of
from nodes.queries import Switchboard
from swarm.errors import SwarmError
from swarm.protocol.knowledge.keeper import DIGEST_BYTES, Keeper
from transport.links import Link

LIST_METHOD: Final = "knowledge.past"
GIVE_METHOD: Final = "knowledge.past_of"
PLACE_BYTES: Final = 24
NAME_BYTES: Final = 2 + PLACE_BYTES
ROW_BYTES: Final = NAME_BYTES + 8
ROWS_MAX: Final = 8192
"""Told at once."""
WANTED_MAX: Final = 2048
"""Asked for at once."""
GIVEN_BYTES: Final = 1 << 20
"""After so many bytes an answer ends; one segment may go over it."""
EPOCH_BYTES: Final = 8
BEGUN_S: Final = 4.0
"""So long it is waited for that a node has read its disk."""


class Row(NamedTuple):
    """Something that was let go."""

    shard: int
    place: bytes
    gone_ms: int

    @property
    def name(self) -> bytes:
        """As it is asked for."""
        return self.shard.to_bytes(2, "big") + self.place


def packed(rows: list[Row]) -> bytes:
    """Rows as they travel."""
    return b"".join(row.name + row.gone_ms.to_bytes(8, "big") for row in rows)


def unpacked(raw: bytes) -> list[Row]:
    """ValueError where these are no rows, or too many."""
    if len(raw) % ROW_BYTES or len(raw) > ROWS_MAX * ROW_BYTES:
        raise ValueError(f"{len(raw)} bytes are no rows of {ROW_BYTES}, at most {ROWS_MAX} of them")
    return [
        Row(
            int.from_bytes(raw[at : at + 2], "big"),
            raw[at + 2 : at + NAME_BYTES],
            int.from_bytes(raw[at + NAME_BYTES : at + ROW_BYTES], "big"),
        )
        for at in range(0, len(raw), ROW_BYTES)
    ]


class TellingPast:
    """Registers the methods on a node's switchboard. For its loop."""

    def __init__(self, directory: Path, shell: KnowledgeShell, switchboard: Switchboard) -> None:
        self._directory = directory
        self._shell = shell
        self._epoch = os.urandom(EPOCH_BYTES)
        switchboard.serve(LIST_METHOD, self._list)
        switchboard.serve(GIVE_METHOD, self._give)

    async def _list(self, link: Link, args: Mapping[str, Any], body: memoryview) -> tuple[dict[str, Any], bytes]:
        """Without ``after`` what is held; with it the rows after that one."""
        _of_node(link)
        after = args.get("after")
        if after is None:
            held = [number for number in range(self._shell.shards) if not self._shell.holders(number)]
            deadline = self._shell.now() + BEGUN_S
            while self._shell.holding and not self._shell.joins:  # it reads its disk
                if self._shell.now() > deadline:
                    raise SwarmError("this node has begun just now", hint="ask again in a moment")
                await asyncio.sleep(0.01)
            if self._shell.joins:
                held = []  # others know what it will know
            digests, since = await self._shell.ask(partial(_held, self._shell.desk, held))
            return {"digests": digests, "since": since, "epoch": self._epoch}, b""
        if type(after) is not int or not 0 <= after < 1 << 63:
            raise ValueError("rows are asked for by the number of the last one")
        found: tuple[dict[str, Any], bytes] = await self._read_by(partial(self._rows, after))
        return found

    async def _read_by(self, work: Callable[[], Any]) -> Any:
        await self._shell.ask(lambda keeper: None)  # the file is open from then on
        try:
            return await asyncio.to_thread(work)
        except sqlite3.DatabaseError as error:
            raise SwarmError(f"the past of this node can not be read: {error}", hint="ask another one") from error

    def _rows(self, after: int) -> tuple[dict[str, Any], bytes]:
        """In a thread."""
        file = PastFile(self._directory)
        try:
            found = file.after(after, ROWS_MAX)
            last = found[-1][0] if found else file.last_row()
        finally:
            file.close()
        rows = [Row(shard, place, gone_ms) for _, shard, place, gone_ms in found if len(place) == PLACE_BYTES]
        return {"last": last, "more": len(found) == ROWS_MAX, "epoch": self._epoch}, packed(rows)

    async def _give(self, link: Link, args: Mapping[str, Any], body: memoryview) -> tuple[dict[str, Any], bytes]:
        """Segments by their names, in the order of these, as many as go into one answer: (how many names were looked at, segments)."""
        _of_node(link)
        names = bytes(body)
        if len(names) % NAME_BYTES or len(names) > WANTED_MAX * NAME_BYTES:
            raise ValueError(f"names of {NAME_BYTES} bytes each, at most {WANTED_MAX}")
        looked, found = await self._read_by(partial(self._read, names))
        authors = {author_of(payload) for _, payload in found}
        raw = encode_plain(found, 1 << 30)
        assert raw is not None
        certificates = sorted(self._shell.authors.certificates(authors).values())
        return {"looked": looked, "certificates": certificates}, raw

    def _read(self, names: bytes) -> tuple[int, list[list[Any]]]:
        """In a thread: [when, payload] of each that is here."""
        file, found, size, looked = PastFile(self._directory), list[list[Any]](), 0, 0
        try:
            for at in range(0, len(names), NAME_BYTES):
                row = file.payload(int.from_bytes(names[at : at + 2], "big"), names[at + 2 : at + NAME_BYTES])
                if row is not None:
                    if found and size + len(row[0]) > GIVEN_BYTES:
                        break
                    found.append([row[1], row[0]])
                    size += len(row[0])
                looked += 1
        finally:
            file.close()
        return looked, found


def _held(desk: Desk, held: list[int], keeper: Keeper) -> tuple[list[list[Any]], list[list[int]]]:
    """In the desk's thread: [shard, digest] and [shard, since when its past is whole], of these."""
    assert desk.store is not None
    now_ms = time.time_ns() // 1_000_000
    shards = keeper.knowledge.shards
    digests = [
        [number, shards[number].digest[:DIGEST_BYTES] if number in shards and len(shards[number]) else b""]
        for number in held
    ]
    return digests, [[number, desk.store.since_ms(now_ms, (number,))] for number in held]


def _of_node(link: Link) -> None:
    if link.identity.role != "node":
        raise ValueError("nodes ask one another for this")
