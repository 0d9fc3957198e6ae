"""What this node does not hold: asked of, and said to, nodes that do (`replicas`).

In a fleet of many nodes each shard is on some. A question about a key goes to two of its holders at once, and the answer of the one that has heard
the later word counts. What this node says it says itself, and gives it to a holder before it is answered. A query goes to as few holders as have all the shards, side by side, and their rows
are put together in order. Who is asked answers for what it holds itself, and asks nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from heapq import merge
from typing import Any, Final

from kernels.plain import decode_plain, encode_plain
from nodes.knowledge.shell import KnowledgeShell
from nodes.queries import Answer, AskFailed, Switchboard
from swarm.errors import SwarmError
from swarm.protocol.knowledge.bounds import MESSAGE_BYTES_MAX
from swarm.protocol.knowledge.entries import shard_of
from swarm.protocol.knowledge.views import GONE, Change
from transport.links import Link

ASK_S: Final = 5.0
THEN_S: Final = 60.0
"""Of a moment of the past: who is asked may have to compare its own with others first."""
LINK_S: Final = 3.0
"""How long a link to a holder is waited for."""
SECOND_S: Final = 0.25
"""After the first answer the second is waited for so long."""
ASKED_AT_ONCE: Final = 2
AGAIN_S: Final = 1.0
POLL_S: Final = 10.0
"""How long a holder keeps a question for changes when there are none."""
NOT_HELD: Final = "NotHeld"
_UNSURE: Final = frozenset(("timeout", "link", "closing"))
"""Failures after which nobody knows whether it was done."""


class NotHeld(SwarmError):
    """This node does not hold the shard that it was asked about; who asked knows other members."""


class NoHolder(SwarmError):
    """No holder of a shard could be asked."""


class Elsewhere:
    """The way to the holders. For the node's loop."""

    def __init__(self, shell: KnowledgeShell, switchboard: Switchboard) -> None:
        self._shell = shell
        self._switchboard = switchboard

    def holders(self, kind: str, key: str) -> list[bytes]:
        """Who is to be asked about a key; empty if this node holds it."""
        return self._shell.holders(shard_of(kind, key, self._shell.shards))

    def shards(self, kind: str) -> tuple[frozenset[int], list[int]]:
        """The shards that this node holds, and those that it has to ask for."""
        lacking = [number for number in range(self._shell.shards) if self._shell.holders(number)]
        return frozenset(range(self._shell.shards)) - frozenset(lacking), lacking

    # --- one key --------------------------------------------------------------------------------------------------------

    async def get(self, there: list[bytes], args: Mapping[str, Any]) -> Answer:
        """The answer of the holder that has heard the later word. NoHolder."""
        loop = asyncio.get_running_loop()
        waiting: set[asyncio.Task[Answer]] = set()
        found: list[Answer] = []
        links = self._links(there)
        errors: list[str] = []
        deadline = float("inf")
        timeout_s = ASK_S if args.get("at") is None else THEN_S
        try:
            while True:
                while links is not None and len(waiting) + len(found) < ASKED_AT_ONCE:
                    link = await anext(links, None)
                    if link is None:
                        links = None
                        break
                    waiting.add(loop.create_task(self._asked(link, "knowledge.get", args, timeout_s=timeout_s)))
                    args = {**args, "use": False}  # one of them counts it
                if not waiting:
                    break
                done, waiting = await asyncio.wait(
                    waiting,
                    timeout=max(0.0, min(2 * timeout_s, deadline - loop.time())),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    try:
                        found.append(task.result())
                        deadline = min(deadline, loop.time() + SECOND_S)
                    except AskFailed as error:
                        errors.append(str(error))
                if found and (not waiting or not done):
                    break
        finally:
            for task in waiting:
                task.cancel()
        if not found:
            raise self._nobody(there, args, errors)
        return max(found, key=lambda answer: int(answer[0].get("stamp", 0)))

    async def give(self, there: list[bytes], payloads: list[bytes]) -> bool:
        """Gives what this node said of a shard to holders, until one has it on its disk; whether one has. SwarmError if none takes it."""
        body = encode_plain(payloads, MESSAGE_BYTES_MAX)
        assert body is not None
        refused = False
        async for link in self._links(there):
            try:
                answer, _ = await self._asked(link, "knowledge.take", {}, body)
            except AskFailed:
                continue
            if answer.get("held") is True:
                return True
            refused = True
        if refused:
            raise SwarmError(
                "the nodes that are to hold this do not take it: this node has said too much, or is a member no more",
                hint="say less often",
            )
        return False  # they get it when they are back (`Keeper`)

    async def seen(self, there: list[bytes], kind: str, key: str, element: bytes) -> list[list[Any]]:
        """The additions of an element that a holder knows of. NoHolder."""
        errors: list[str] = []
        args = {"kind": kind, "key": key}
        async for link in self._links(there):
            try:
                _, raw = await self._asked(link, "knowledge.seen", args, element)
                found: Any = decode_plain(raw)
                return list(found)
            except AskFailed as error:
                errors.append(str(error))
        raise self._nobody(there, args, errors)

    # --- many keys ------------------------------------------------------------------------------------------------------

    async def query(self, lacking: list[int], args: Mapping[str, Any]) -> list[tuple[bool, list[list[Any]]]]:
        """(whether there is more, rows) of holders that together have all these shards. NoHolder."""
        timeout_s = ASK_S if args.get("at") is None else THEN_S
        found = []
        for header, body in await self.spread("knowledge.query", lacking, args, timeout_s):
            rows: Any = decode_plain(body)
            found.append((bool(header["more"]), rows))
        return found

    async def spread(
        self, method: str, lacking: list[int], args: Mapping[str, Any], timeout_s: float, again: bool = True
    ) -> list[Answer]:
        """The answers of holders that together have all these shards, each for those that it is asked for. NoHolder. Without `again` nobody is
        asked in place of one that may have done it: AskFailed."""
        left, found = set(lacking), list[Answer]()
        failed: set[bytes] = set()
        errors: list[str] = []
        while left:
            groups = await self._groups(left, failed, args, errors)
            asking = {
                node: self._asked(link, method, {**args, "shards": sorted(shards)}, timeout_s=timeout_s)
                for node, (link, shards) in groups.items()
            }
            answers = await asyncio.gather(*asking.values(), return_exceptions=True)
            for (node, (_, shards)), answer in zip(groups.items(), answers, strict=True):
                if isinstance(answer, AskFailed):
                    kind = answer.facts.get("kind")
                    if kind not in (*_UNSURE, NOT_HELD, "busy", "unknown-method") or (kind in _UNSURE and not again):
                        raise answer
                    failed.add(node)
                    errors.append(str(answer))
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    found.append(answer)
                    left -= shards
        return found

    async def _groups(
        self, left: set[int], failed: set[bytes], args: Mapping[str, Any], errors: list[str]
    ) -> dict[bytes, tuple[Link, set[int]]]:
        """Few holders that have all these shards: each takes as many as it can."""
        holding: dict[bytes, set[int]] = {}
        linked: dict[bytes, Link] = {}
        for shard in sorted(left):
            there = [node for node in self._shell.holders(shard) if node not in failed]
            up = [node for node in there if node in linked or self._shell.link_to(node) is not None]
            if not up:
                async for link in self._links(there):
                    up = [link.identity.id]
                    break
            if not up:
                raise self._nobody(self._shell.holders(shard), args, errors)
            for node in up:
                link_there = self._shell.link_to(node)
                if link_there is not None:
                    linked[node] = link_there
                    holding.setdefault(node, set()).add(shard)
        groups: dict[bytes, tuple[Link, set[int]]] = {}
        wanted = set(left)
        while wanted and holding:
            node = max(sorted(holding), key=lambda node: len(holding[node] & wanted))
            shards = holding.pop(node) & wanted
            if shards:
                groups[node] = linked[node], shards
                wanted -= shards
        return groups

    # --- watching -------------------------------------------------------------------------------------------------------

    async def watch(
        self, kind: str, prefix: str, told: Callable[[list[Change], bool], object], begun: asyncio.Future[None]
    ) -> None:
        """Tells what changes in shards that this node does not hold, until it is cancelled; `begun` ends when all of them are watched, or cannot be.
        With `told([], True)` some may have been missed."""
        args = {"kind": kind, "prefix": prefix}
        while True:
            _, lacking = self.shards(kind)
            watched = list[tuple[Link, int]]()
            try:
                if lacking:
                    groups = await self._groups(set(lacking), set(), args, [])
                    for link, shards in groups.values():
                        header, _ = await self._asked(link, "knowledge.watch", {**args, "shards": sorted(shards)})
                        watched.append((link, int(header["watch"])))
                if begun.done():
                    told([], True)
                else:
                    begun.set_result(None)
                await self._follow(kind, lacking, watched, told)
            except (AskFailed, NoHolder):
                pass
            finally:
                for link, number in watched:
                    self._switchboard.ask(link, "knowledge.unwatch", {"watch": number}, lambda *_: None)
            if not begun.done():
                begun.set_result(None)  # what is held here is watched at least; the rest, when holders are back
            await asyncio.sleep(AGAIN_S)

    async def _follow(
        self,
        kind: str,
        lacking: list[int],
        watched: list[tuple[Link, int]],
        told: Callable[[list[Change], bool], object],
    ) -> None:
        """Until shards move or a holder does not answer."""

        async def one(link: Link, number: int) -> None:
            while self.shards(kind)[1] == lacking and link.up:
                args = {"watch": number, "wait_s": POLL_S}
                header, body = await self._switchboard.asked(
                    link, "knowledge.changes", {**args, "here": True}, timeout_s=POLL_S + ASK_S
                )
                rows: Any = decode_plain(body)
                told([Change(kind, key, GONE if gone else value) for key, value, gone in rows], bool(header["lost"]))

        tasks = [asyncio.ensure_future(one(link, number)) for link, number in watched]
        tasks.append(asyncio.ensure_future(self._moved(kind, lacking)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _moved(self, kind: str, lacking: list[int]) -> None:
        while self.shards(kind)[1] == lacking:
            await asyncio.sleep(AGAIN_S)

    # --- links ----------------------------------------------------------------------------------------------------------

    async def _links(self, there: list[bytes]) -> Any:
        """Links to these nodes: those that are up first, then those that come up in time."""
        loop = asyncio.get_running_loop()
        later = []
        for node in there:
            link = self._shell.link_to(node)
            if link is not None:
                yield link
            else:
                later.append(node)
        deadline = loop.time() + LINK_S
        while later and loop.time() < deadline:
            for node in later.copy():
                link = self._shell.link_to(node)
                if link is not None:
                    later.remove(node)
                    yield link
            await asyncio.sleep(0.05)

    async def _asked(
        self, link: Link, method: str, args: Mapping[str, Any], body: bytes = b"", timeout_s: float = ASK_S
    ) -> Answer:
        return await self._switchboard.asked(link, method, {**args, "here": True}, body, timeout_s)

    def _nobody(self, there: list[bytes], args: Mapping[str, Any], errors: list[str]) -> NoHolder:
        what = f"{args['kind']} {args['key']!r}" if "key" in args else f"some of {args.get('kind')}"
        why = f" ({errors[-1]})" if errors else " (no link)"
        return NoHolder(
            f"none of the {len(there)} nodes that hold {what} answered{why}",
            hint="swarm status shows which nodes are there; ask again when some of them are back",
        )


def together(parts: list[tuple[bool, list[list[Any]]]], limit: int, reverse: bool) -> tuple[bool, list[list[Any]]]:
    """Rows of several nodes, each in the order of keys, as one list: up to where all of them have said what they have."""
    bounds = [rows[-1][0] for more, rows in parts if more and rows]
    last = None if not bounds else max(bounds) if reverse else min(bounds)
    found: list[list[Any]] = []
    for row in merge(*(rows for _, rows in parts), key=lambda row: row[0], reverse=reverse):
        if last is not None and (row[0] < last if reverse else row[0] > last):
            return True, found
        if len(found) == limit:
            return True, found
        found.append(row)
    return last is not None, found
