"""The past of a node compared with that of others: what they let go before it came here is fetched, and then its past is whole.

What is out of date is held for long, and comes by anti-entropy; what was let go meanwhile does not. A node that was away, that has begun late, or that holds a
shard since others left, so lacks some of the past without knowing. Before an answer about a moment each other holder that can be reached
is asked, unless it was asked later than that moment: what it holds comes by an exchange as always, and of what it let go
the segments that are here neither in the log nor in the past. Signatures are checked as always. This is done for each link that comes up, too, and
now and then, so that most answers need not wait.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NoReturn

from kernels.plain import decode_plain
from nodes.knowledge.desk import Desk
from nodes.knowledge.elsewhere import NoHolder
from nodes.knowledge.joining import digests
from nodes.knowledge.shell import KnowledgeShell
from nodes.knowledge.store import PAST_KEPT_MS, place_of
from nodes.knowledge.telling_past import (
    EPOCH_BYTES,
    GIVE_METHOD,
    LIST_METHOD,
    WANTED_MAX,
    Row,
    unpacked,
)
from nodes.queries import AskFailed, Switchboard
from swarm.errors import SwarmError
from swarm.protocol.effects import Fact
from swarm.protocol.knowledge.bounds import FUTURE_MS
from swarm.protocol.knowledge.entries import FormatError, read, signature_of, signed
from swarm.protocol.knowledge.keeper import DIGEST_BYTES, Keeper
from swarm.protocol.knowledge.rules import STRIKE, Outcome
from transport.links import Link

SETTLED_MS: Final = 1000
"""What clocks of a fleet may differ by: what others say of so long before they were asked may still be on its way."""
LINK_S: Final = 2.0
ASK_S: Final = 5.0
EXCHANGE_S: Final = 8.0
"""So long an exchange may take, that of a certificate that lacks included."""
HOLD_S: Final = 3.0
POLL_S: Final = 0.01
ALONE_S: Final = 20.0
"""After so long without others a node that was among others before is the only one that is left, as far as it can know."""
ASKED_AT_ONCE: Final = 4
ASKED_MAX: Final = 8
"""Of one shard: where more nodes hold it, those that are linked come first."""
LEFT_OVER_S: Final = 2.5
"""So long what waits for a certificate is waited for. Whose word nobody can check does not count, now or then."""
AGAIN_S: Final = 120.0
"""How often a node that is linked is asked while nobody wants to know."""
LOOK_S: Final = 1.0
PAGES_MAX: Final = 1 << 10


@dataclass(slots=True)
class Asked:
    """What is known of another node's past."""

    at_ms: int = -1
    """When it was asked last and told all, by the clock here."""
    shards: frozenset[int] = frozenset()
    """Of these all is here."""
    epoch: bytes = b""
    row: int = 0
    """The last of its rows that was seen."""


class Disagrees(SwarmError):
    """What another node says of its past breaks the rules. Nothing of it counts."""


@dataclass(slots=True)
class Comparing:
    """For a node's loop."""

    shell: KnowledgeShell
    switchboard: Switchboard
    bytes_max: int
    _asked: dict[bytes, Asked] = field(default_factory=dict)
    _under_way: dict[bytes, asyncio.Task[None]] = field(default_factory=dict)
    _free: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(ASKED_AT_ONCE))
    _looking: asyncio.Task[None] | None = None
    _tried_ms: dict[bytes, int] = field(default_factory=dict)
    _began: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    def start(self) -> None:
        """Ask those who are linked, from now on."""
        self._looking = asyncio.get_running_loop().create_task(self._look())

    async def close(self) -> None:
        """Ask nobody any more."""
        tasks = [task for task in (self._looking, *self._under_way.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- before an answer ---------------------------------------------------------------------------------------------------

    async def settle(self, at_ms: int, numbers: Iterable[int]) -> list[str]:
        """Has all that other nodes know of these shards until a moment; the names of those that could not be asked while others could. NoHolder where
        of a shard no other holder could."""
        wanted = list(numbers)
        await self._meet()
        lacking = sorted({node for number in wanted for node in self._to_ask(number, at_ms)})
        results = await asyncio.gather(*(self._compared(node) for node in lacking), return_exceptions=True)
        failed: dict[bytes, str] = {}
        for node, result in zip(lacking, results, strict=True):
            if isinstance(result, SwarmError):
                failed[node] = str(result)
            elif isinstance(result, BaseException):
                raise result
        for number in wanted:
            others = self._others(number)
            if others and all(node in failed for node in others):
                raise NoHolder(
                    f"whether this node knows all that was known then is not known: {failed[others[0]]}",
                    hint="ask again when it is back or known to be dead (`swarm members`); what others said last may lack here",
                )
        return sorted(self.shell.name_of(node) for node in failed)

    async def _meet(self) -> None:
        """Waits for others where there were some: who has begun just now does not know yet who is there, and seems to be alone."""
        loop = asyncio.get_running_loop()
        if self.shell.met or not await self.shell.ask(partial(_was_among_others, self.shell.desk)):
            return
        while not self.shell.met and not self.shell.closing and loop.time() < self._began + ALONE_S:
            await asyncio.sleep(POLL_S)

    def _others(self, number: int) -> list[bytes]:
        others = self.shell.others(number)
        if len(others) > ASKED_MAX:
            others = sorted(others, key=lambda node: (not self.shell.is_linked(node), node))[:ASKED_MAX]
        return others

    def _to_ask(self, number: int, at_ms: int) -> list[bytes]:
        found = []
        for node in self._others(number):
            asked = self._asked.get(node)
            if asked is None or number not in asked.shards or at_ms > asked.at_ms - SETTLED_MS:
                found.append(node)
        return found

    # --- while nobody asks --------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        while not self.shell.closing:
            await asyncio.sleep(LOOK_S)
            if self.shell.holding:
                continue
            now_ms = _wall_ms()
            partners = set(self.shell.partners())
            for known in (self._asked, self._tried_ms):
                for node in [node for node in known if node not in partners]:
                    del known[node]  # it may come back as an older state of itself
            held = frozenset(number for number in range(self.shell.shards) if not self.shell.holders(number))
            for node in sorted(partners):
                is_due = now_ms - self._tried_ms.get(node, 0) > AGAIN_S * 1000
                if is_due and self.shell.is_linked(node) and any(node in self.shell.others(number) for number in held):
                    self._tried_ms[node] = now_ms
                    try:
                        await self._compared(node)
                    except (SwarmError, OSError, sqlite3.Error) as error:
                        self.shell.around.fact(Fact("knowledge.past_lacking", {}, {"error": str(error)}))

    # --- asking one ---------------------------------------------------------------------------------------------------------

    async def _compared(self, node: bytes) -> None:
        """SwarmError where it cannot be asked. Who asks meanwhile waits for a question of its own: one under way may have begun too early."""
        before = self._under_way.get(node)
        if before is not None:
            await asyncio.wait((before,))
        task = self._under_way.get(node)
        if task is None or task is before:
            task = asyncio.get_running_loop().create_task(self._compare(node))
            self._under_way[node] = task
            task.add_done_callback(partial(self._over, node))
        await asyncio.shield(task)

    def _over(self, node: bytes, task: asyncio.Task[None]) -> None:
        if self._under_way.get(node) is task:
            del self._under_way[node]
        if not task.cancelled():
            task.exception()  # who waited was told

    async def _compare(self, node: bytes) -> None:
        async with self._free:
            link = await self._linked(node)
            began_ms = _wall_ms()
            asked = self._asked.get(node) or Asked()
            try:
                header, _ = await self.switchboard.asked(link, LIST_METHOD, {}, timeout_s=ASK_S)
            except AskFailed as error:
                if error.facts.get("kind") != "unknown-method":
                    raise
                # An earlier release: what it holds comes, and what it let go cannot be had.
                shards = frozenset(number for number in range(self.shell.shards) if node in self.shell.others(number))
                await self._exchanged(node, dict.fromkeys(shards, None))
                self._asked[node] = Asked(began_ms, shards)
                return
            theirs, since, epoch = self._said(link, header)
            both = frozenset(
                number for number in theirs if node in self.shell.others(number) and not self.shell.holders(number)
            )
            await self._exchanged(node, {number: theirs[number] for number in both})
            first = 0
            if epoch == asked.epoch and both <= asked.shards:
                first = asked.row
            trims = await self.shell.ask(partial(_trims, self.shell.desk))
            last, whole = await self._fetched(link, epoch, first, both)
            if first == 0 and whole:
                # All that it has is here: the past is whole from where its own is.
                await self.shell.ask(
                    partial(_reaches_back, self.shell.desk, trims, {n: since[n] for n in both if n in since})
                )
            self._asked[node] = Asked(began_ms, both, epoch, last)

    async def _linked(self, node: bytes) -> Link:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LINK_S
        while (link := self.shell.link_to(node)) is None:
            if loop.time() > deadline:
                raise AskFailed(f"{self.shell.name_of(node)} is not reached", hint="is it running? `swarm members`")
            await asyncio.sleep(0.02)
        deadline = loop.time() + HOLD_S
        while self.shell.holding and loop.time() < deadline:
            await asyncio.sleep(0.02)
        return link

    def _said(self, link: Link, header: Any) -> tuple[dict[int, bytes | None], dict[int, int], bytes]:
        """(shard -> digest, shard -> since when, epoch)."""
        try:
            rows, since, epoch = header["digests"], header["since"], header["epoch"]
            most = self.shell.shards
            if len(rows) > most or len(since) > most or type(epoch) is not bytes or len(epoch) != EPOCH_BYTES:
                raise ValueError("more shards than there are, or no epoch")
            theirs: dict[int, bytes | None] = {}
            for number, digest in rows:
                if (
                    type(number) is not int
                    or not 0 <= number < most
                    or type(digest) is not bytes
                    or len(digest) not in (0, DIGEST_BYTES)
                ):
                    raise ValueError("a digest that is none")
                theirs[number] = digest
            whole = {}
            for number, since_ms in since:
                if type(number) is not int or type(since_ms) is not int or since_ms < 0:
                    raise ValueError("a past that begins at no time")
                whole[number] = since_ms
            return theirs, whole, epoch
        except (KeyError, TypeError, ValueError) as error:
            self._breaks(link, error)

    def _breaks(self, link: Link, error: BaseException | str) -> NoReturn:
        why = str(error) or type(error).__name__
        self.shell.around.fact(
            Fact("peer.violation", {"role": link.identity.role}, {"peer": link.identity.name, "error": why})
        )
        raise Disagrees(
            f"what {link.identity.name} says of its past is not to be used: {why}"[:300], hint="see what runs there"
        )

    # --- what it holds ------------------------------------------------------------------------------------------------------

    async def _exchanged(self, node: bytes, theirs: dict[int, bytes | None]) -> None:
        """What the other holds is here. AskFailed."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        own: list[bytes] = await self.shell.ask(digests)
        left = {number for number, digest in theirs.items() if digest not in (b"", own[number][:DIGEST_BYTES])}
        under_way: dict[int, bytes] = {}
        while left:
            passed_s = loop.time() - began
            salts, over = await self.shell.ask(
                partial(_exchange, self.shell.now(), node, sorted(left - under_way.keys()), dict(under_way))
            )
            under_way.update(salts)
            for number, (ended, waits) in over.items():
                del under_way[number]
                if ended and (not waits or passed_s > LEFT_OVER_S):
                    left.discard(number)
            if left and passed_s > EXCHANGE_S:
                raise AskFailed(
                    f"{self.shell.name_of(node)} has not told all in {EXCHANGE_S:g} s", hint="ask again in a moment"
                )
            if left:
                await asyncio.sleep(10 * POLL_S if passed_s > 10 * POLL_S else POLL_S)

    # --- what it let go -----------------------------------------------------------------------------------------------------

    async def _fetched(self, link: Link, epoch: bytes, row: int, both: frozenset[int]) -> tuple[int, bool]:
        """What the other let go is here: (the number of its last row, whether it gave all that it named)."""
        whole = True
        for _ in range(PAGES_MAX):
            header, raw = await self.switchboard.asked(link, LIST_METHOD, {"after": row}, timeout_s=ASK_S)
            try:
                rows, last, more = unpacked(raw), header["last"], header["more"]
                if type(last) is not int or not 0 <= last < 1 << 63 or (more and last <= row):
                    raise ValueError("rows that do not go on")
            except (KeyError, TypeError, ValueError) as error:
                self._breaks(link, error)
            if header.get("epoch") != epoch:
                raise AskFailed(f"{link.identity.name} has begun anew meanwhile", hint="ask again")
            oldest_ms = _wall_ms() - PAST_KEPT_MS
            sought = [each for each in rows if each.shard in both and each.gone_ms >= oldest_ms]
            whole &= await self._have(link, await self.shell.ask(partial(_lacking, self.shell.desk, sought)))
            row = last
            if not more:
                return row, whole
        raise AskFailed(f"{link.identity.name} has let go more than can be told at once", hint="ask again")

    async def _have(self, link: Link, lacking: list[Row]) -> bool:
        """Fetches these; False where the other has some of them no more, or not as they were."""
        whole = True
        while lacking:
            part = lacking[:WANTED_MAX]
            answer, raw = await self.switchboard.asked(
                link, GIVE_METHOD, {}, b"".join(row.name for row in part), timeout_s=2 * ASK_S
            )
            try:
                looked, certificates = answer["looked"], answer["certificates"]
                found: Any = decode_plain(raw)
                if type(looked) is not int or not 0 < looked <= len(part) or not isinstance(certificates, list):
                    raise ValueError("an answer that does not go on")
                if not isinstance(found, list) or len(found) > looked or len(certificates) > len(found):
                    raise ValueError("more than was asked for")
                self.shell.learn(certificates)
                rows = await asyncio.to_thread(self._checked, {row.name: row for row in part[:looked]}, found)
            except (KeyError, TypeError, ValueError, RecursionError, FormatError) as error:
                self._breaks(link, error)
            await self.shell.ask(partial(_add, self.shell.desk, rows, self.bytes_max), says=True)
            if rows:
                facts = {"peer": link.identity.name, "segments": len(rows)}
                self.shell.around.fact(Fact("knowledge.past_fetched", {}, facts, float(len(rows))))
            whole &= len(found) == looked
            lacking = lacking[looked:]
        return whole

    def _checked(self, wanted: dict[bytes, Row], found: list[Any]) -> list[tuple[int, bytes, int]]:
        """In a thread: what counts of what came. FormatError where something came that no correct node gives."""
        rows, now_ms = [], _wall_ms()
        for each in found:
            if not (
                isinstance(each, list)
                and len(each) == 2
                and type(each[0]) is int
                and type(each[1]) is bytes
                and each[1]
            ):
                raise FormatError("a segment that is none")
            gone_ms, payload = each
            if payload[0] == STRIKE:
                continue
            segment = read(payload)
            row = wanted.get(segment.shard.to_bytes(2, "big") + place_of(payload))
            if row is None:
                raise FormatError("a segment that was not asked for")
            segment.rows()
            outcome = self.shell.authors.verify(segment.author, signed(segment.raw), signature_of(segment.raw))
            if outcome is Outcome.SIGNATURE:
                raise FormatError("a segment whose signature does not fit")
            if outcome is None:  # else nobody's word, or that of somebody who was revoked
                rows.append((segment.shard, payload, max(0, min(gone_ms, now_ms + FUTURE_MS))))
        return rows


# --- in the desk's thread -------------------------------------------------------------------------------------------------------


def _exchange(
    now: float, node: bytes, begin: list[int], under_way: dict[int, bytes], keeper: Keeper
) -> tuple[dict[int, bytes], dict[int, tuple[bool, bool]]]:
    """(shard -> salt of what is begun, shard -> (whether it went to its end, whether something waits) of what is over)."""
    salts = {number: keeper.compare(now, node, number) for number in begin}
    over = {}
    for number, salt in under_way.items():
        ended = keeper.compared(now, node, number, salt)
        if ended is not None:
            over[number] = ended, keeper.left_over(node, number, salt)
    return {number: salt for number, salt in salts.items() if salt is not None}, over


def _lacking(desk: Desk, rows: list[Row], keeper: Keeper) -> list[Row]:
    assert desk.store is not None
    shards = keeper.knowledge.shards
    return [
        row
        for row in rows
        if not (row.shard in shards and shards[row.shard].payload(row.place) is not None)
        and not desk.store.has_past(row.shard, row.place)
    ]


def _add(desk: Desk, rows: list[tuple[int, bytes, int]], bytes_max: int, keeper: Keeper) -> None:
    assert desk.store is not None
    if desk.store.past_bytes() + sum(len(payload) for _, payload, _ in rows) > bytes_max:
        raise SwarmError(
            "the past of other nodes has no room here", hint="raise knowledge.bytes, or ask a node that has it"
        )
    if rows:
        desk.store.add_past(rows)


def _was_among_others(desk: Desk, keeper: Keeper) -> bool:
    assert desk.store is not None
    return desk.store.held() is not None


def _trims(desk: Desk, keeper: Keeper) -> int:
    assert desk.store is not None
    return desk.store.trims


def _reaches_back(desk: Desk, trims: int, since: dict[int, int], keeper: Keeper) -> None:
    assert desk.store is not None
    now_ms = _wall_ms()
    for number, since_ms in since.items():
        if desk.store.trims == trims and since_ms < desk.store.since_ms(now_ms, (number,)):
            desk.store.set_since(since_ms, number)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
