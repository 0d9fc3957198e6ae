"""A node that has nothing yet joins those who know: shards come from several peers at once, each chunk checked, and count as they come.

One peer's snapshot says what there is; its chunks are taken from all peers that have them. Segments are taken in as always, with their
authors' signatures checked: a snapshot only makes it quick. Until a shard is complete, questions about it go to a peer. What was said since the
snapshot comes by anti-entropy, which waits until then, so that nothing comes twice.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from nodes.knowledge import snapshot_files
from nodes.knowledge.blob_files import NoRoom
from nodes.knowledge.desk import Desk
from nodes.knowledge.elsewhere import NOT_HELD
from nodes.knowledge.large import LargeValues
from nodes.knowledge.peer_copies import PeerCopy, in_loop
from nodes.knowledge.shelf import AUTOMATIC
from nodes.knowledge.shell import KnowledgeShell
from nodes.knowledge.snapshot_files import About
from nodes.queries import AskFailed, Switchboard
from nodes.snapshots import signer_of
from swarm.errors import SwarmError
from swarm.protocol.effects import Fact
from swarm.protocol.knowledge.entries import FormatError, read, shard_of, signature_of, signed
from swarm.protocol.knowledge.keeper import Keeper
from swarm.protocol.knowledge.rules import STRIKE, VIOLATIONS, WAITS, Outcome
from swarm.snapshots.errors import SnapshotExists, SnapshotUntrusted
from swarm.snapshots.fetching import Arriving, Progress, fetching
from swarm.snapshots.manifest import Manifest, decode
from transport.fleet import Fleet
from transport.links import Link

PEERS_MAX: Final = 4
LEAST_BYTES: Final = 256 * 1024
"""Of less than so much a snapshot would take longer than the log itself."""
WAIT_S: Final = 10.0
"""So long a node that has nothing waits for somebody who has something."""
GATHER_S: Final = 0.1
"""More peers that are linked within this time are asked, too."""
NEWEST_S: Final = 120.0
HOLD_S: Final = 2.0
"""So long anti-entropy waits for what peers say of their snapshots."""
CATCH_UP_S: Final = 15.0
FRESH_S: Final = 30.0
"""A snapshot that is older is taken anew, as far as peers do so."""
BATCH: Final = 500
BATCH_BYTES: Final = 256 * 1024
FORWARD_S: Final = 30.0
LACKING: Final = frozenset(outcome.value for outcome in VIOLATIONS | WAITS | {Outcome.QUOTA})
"""A shard of which something was not taken so is not complete."""


class Joining:
    """The beginning of one node's knowledge. For its loop."""

    def __init__(
        self,
        shell: KnowledgeShell,
        switchboard: Switchboard,
        links: Mapping[bytes, Link],
        fleet: Fleet,
        folder: Path,
        copy_of: Callable[[Link], PeerCopy],
        key: Callable[[], bytes],
        fact: Callable[[Fact], None],
        large: LargeValues,
        least_bytes: int = LEAST_BYTES,
    ) -> None:
        self._shell = shell
        self._switchboard = switchboard
        self._links = links
        self._fleet = fleet
        self._folder = folder
        self._copy_of = copy_of
        self._key = key
        self._fact = fact
        self._large = large
        self._least_bytes = least_bytes
        self._task: asyncio.Task[None] | None = None
        self._stocked: set[int] = set()
        self._complete: set[int] = set()
        self._closing = False
        self.over = True
        """All that there was to fetch is here, or there was nothing."""
        self.bytes = self.bytes_total = 0
        """How far it is."""

    def start(self) -> None:
        """See whether there is anything to fetch."""
        self._shell.holding = True
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """What has come is kept."""
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- what is asked meanwhile ------------------------------------------------------------------------------------------

    def has(self, kind: str, key: str) -> bool:
        """Whether all that is known under a key is here."""
        number = shard_of(kind, key, self._shell.shards)
        return self.over or number in self._complete or bool(self._shell.holders(number))

    async def forward(self, method: str, args: Mapping[str, Any]) -> tuple[Any, bytes] | None:
        """Have a peer answer; None where all of them have joined just now, too. SwarmError when none does."""
        why, peers, newcomers = "no other node is reached", self._peers(), 0
        for link in peers:
            try:
                return await self._switchboard.asked(link, method, args, timeout_s=FORWARD_S)
            except AskFailed as error:
                why = str(error)
                newcomers += error.facts.get("kind") == NOT_HELD
        if 0 < newcomers == len(peers):
            return None
        raise SwarmError(
            f"this node has joined just now, and has not all that the fleet knows yet ({why})",
            hint="ask again in a moment",
        )

    def _peers(self) -> list[Link]:
        found = [link for node, link in self._links.items() if link.up and self._shell.is_partner(node)]
        return sorted(found, key=lambda link: link.identity.id)[:PEERS_MAX]

    # --- fetching ---------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            if not await self._shell.ask(_has_any):
                self._shell.joins = True
                await self._join()
        except (SwarmError, OSError) as error:
            # What did not come this way comes by anti-entropy.
            self._fact(Fact("snapshot.join_failed", {}, {"error": str(error)}))
        finally:
            self.over, self._large.holding, self._shell.joins = True, False, False
            self._shell.release()

    async def _join(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + WAIT_S
        while not self._peers():
            if loop.time() > deadline:
                return
            await asyncio.sleep(0.05)
        await asyncio.sleep(GATHER_S)
        links = self._peers()
        asking = asyncio.ensure_future(asyncio.gather(*(self._newest(link) for link in links)))
        try:
            if not (await asyncio.wait({asking}, timeout=HOLD_S))[0]:
                self._shell.release()  # a snapshot that takes long, or an answer that went with its link: the log goes on meanwhile
            answers = await asking
        finally:
            asking.cancel()
        found = [(link, *answer) for link, answer in zip(links, answers, strict=True) if answer is not None]
        if not found:
            return  # a fleet that has begun just now, or knows so little that it is told at once
        self._shell.holding = self._large.holding = True
        self.over = False
        began = time.monotonic()
        # Whose snapshot reaches furthest says what there is; the others have most of its chunks.
        found.sort(key=lambda each: each[1], reverse=True)
        _, _, name, raw = found[0]
        copies = [self._copy_of(link) for link, *_ in found]
        facts = {"snapshot": name, "peers": ", ".join(link.identity.name for link, *_ in found)}
        self._fact(Fact("snapshot.joining", {}, facts))
        try:
            became = await _finished(partial(self._fetch, raw, copies))
        finally:
            for copy in copies:
                await asyncio.to_thread(copy.close)
        await self._catch_up()
        took_s = time.monotonic() - began
        ways = {
            "bulk_bytes": sum(copy.bulk_bytes for copy in copies),
            "control_bytes": sum(copy.control_bytes for copy in copies),
        }
        gave = sum(1 for copy in copies if copy.bulk_bytes or copy.control_bytes)
        self._fact(
            Fact(
                "snapshot.joined",
                {},
                {**facts, **ways, "gave": gave, "segments": sum(became.values()), "took_s": took_s},
                took_s,
            )
        )

    async def _newest(self, link: Link) -> tuple[int, str, bytes] | None:
        """(stamp, name, manifest) of the newest snapshot of a peer; None where there is none to be had."""
        try:
            answer, raw = await self._switchboard.asked(
                link, "snapshot.newest", {"least_bytes": self._least_bytes, "fresh_s": FRESH_S}, timeout_s=NEWEST_S
            )
            if answer.get("small") or not raw:
                return None
            manifest = decode(raw, f"the snapshot of {link.identity.name}")
            said = snapshot_files.about(manifest)
            if said is None or said.shards != self._shell.shards:
                return None
            self._believed(manifest, link)
            return said.stamp, str(answer["name"]), raw
        except (SwarmError, KeyError, AttributeError) as error:
            self._fact(Fact("snapshot.join_failed", {}, {"peer": link.identity.name, "error": str(error)}))
            return None

    def _believed(self, manifest: Manifest, link: Link) -> None:
        member = signer_of(manifest, self._fleet)
        if member is None or member.role != "node" or self._fleet.trust.revoked(member.id, member.serial):
            raise SnapshotUntrusted(
                f"the snapshot of {link.identity.name} is signed by no node of this fleet", hint="see who it is"
            )

    def _fetch(self, raw: bytes, copies: list[PeerCopy]) -> Counter[str]:
        """In a thread."""
        manifest = decode(raw, "the snapshot of a peer")
        target = self._folder / f"{AUTOMATIC}joined-{manifest.id.hex()[:12]}"
        said = snapshot_files.about(manifest)
        assert said is not None
        became: Counter[str] = Counter()
        try:
            with fetching(target, raw, copies, key=self._key(), told=self._told) as arriving:
                arriving.expect()
                self.bytes_total = arriving.progress.bytes_total
                certificates = [
                    found
                    for _, value in arriving.shard(snapshot_files.AUTHORS)
                    if (found := snapshot_files.certificate_of(value))
                ]
                in_loop(self._shell.loop, partial(self._learn, certificates))
                with ThreadPoolExecutor(2 * len(copies), "knowledge-join") as pool:
                    numbers = sorted(set(range(said.shards)) - said.lacking)
                    for one in pool.map(partial(self._take_shard, arriving), numbers):
                        became += one
                    in_loop(self._shell.loop, self._released)
                    list(pool.map(partial(self._take_past, arriving), range(said.shards)))
                self._take_blobs(arriving)
                if not self._closing:
                    self._shell.desk.ask(partial(_since, self._shell.desk, said)).result(FORWARD_S)
                arriving.fetch_all()
        except SnapshotExists:
            pass  # it was here
        return became

    async def _released(self) -> None:
        self._shell.release()

    async def _learn(self, certificates: list[bytes]) -> None:
        self._shell.learn(certificates)

    def _take_shard(self, arriving: Arriving, number: int) -> Counter[str]:
        became: Counter[str] = Counter()
        for batch in _batches(self._segments(arriving, number)):
            became += self._wait(partial(_stock, batch), says=True)
        if not any(became[outcome] for outcome in LACKING):
            self._stocked.add(number)
            in_loop(self._shell.loop, self._compare)
        return became

    async def _compare(self) -> None:
        """Shards that are as those of a peer are complete: what was said since the snapshot is here, too."""
        for link in self._peers():
            try:
                theirs, _ = await self._switchboard.asked(link, "snapshot.digests", {}, timeout_s=FORWARD_S)
            except AskFailed:
                continue
            if not isinstance(theirs, list) or len(theirs) != self._shell.shards:
                continue
            own = await self._shell.ask(digests)
            self._complete |= {number for number in self._stocked if own[number] == theirs[number]}
            return

    async def _catch_up(self) -> None:
        """Until anti-entropy has brought what was said since the snapshot, or for so long that nothing but what is being said lacks."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CATCH_UP_S
        own = {number for number in range(self._shell.shards) if not self._shell.holders(number)}
        while own - self._complete and loop.time() < deadline and self._peers():
            await asyncio.sleep(0.1)
            await self._compare()

    def _segments(self, arriving: Arriving, number: int) -> Iterator[bytes]:
        for place, value in arriving.shard(snapshot_files.shard_name(number)):
            yield snapshot_files.segment_of(place, value)

    def _take_past(self, arriving: Arriving, number: int) -> None:
        shard = arriving.shard(snapshot_files.past_name(number))
        rows = [
            (number, payload, gone_ms)
            for payload, gone_ms in snapshot_files.past_of(iter(shard))
            if payload[0] != STRIKE and self._is_authentic(payload)
        ]
        for at in range(0, len(rows), BATCH):
            self._wait(partial(_add_past, self._shell.desk, rows[at : at + BATCH]), says=True)

    def _take_blobs(self, arriving: Arriving) -> None:
        """Large values that entries name of which this node is to keep them."""
        if all(line.name != snapshot_files.BLOBS for line in arriving.manifest.shards):
            return  # of an earlier release, or there are none
        shard = arriving.shard(snapshot_files.BLOBS)
        for id in sorted(self._wait(self._large.wanted, says=False)):
            value = shard.get(id)
            if value is None or id in self._large.files:
                continue
            try:
                self._large.files.put(snapshot_files.blob_of(id, value))
            except NoRoom as error:
                in_loop(self._shell.loop, partial(self._no_room, str(error)))
                return

    async def _no_room(self, error: str) -> None:
        self._fact(Fact("knowledge.blob_lacking", {}, {"error": error}))

    def _is_authentic(self, payload: bytes) -> bool:
        """What is read out of the past later is not checked again."""
        try:
            segment = read(payload)
        except FormatError:
            return False
        return self._shell.authors.verify(segment.author, signed(segment.raw), signature_of(segment.raw)) is None

    def _told(self, progress: Progress) -> None:
        """In threads of who fetches."""
        self.bytes = progress.bytes
        if self._closing:
            raise SwarmError("this node is closing", hint="what has come is kept")

    def _wait(self, job: Callable[[Keeper], Any], says: bool) -> Any:
        if self._closing:
            raise SwarmError("this node is closing")
        return self._shell.desk.ask(job, says).result(NEWEST_S)


def _batches(payloads: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch, size = list[bytes](), 0
    for payload in payloads:
        batch.append(payload)
        size += len(payload)
        if len(batch) >= BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def digests(keeper: Keeper) -> list[bytes]:
    """Of all shards; for the desk's thread."""
    shards = keeper.knowledge.shards
    return [
        shards[number].digest if number in shards and len(shards[number]) else b""
        for number in range(keeper.knowledge.shards_count)
    ]


def _has_any(keeper: Keeper) -> bool:
    return any(map(len, keeper.knowledge.shards.values()))


def _stock(batch: list[bytes], keeper: Keeper) -> Counter[str]:
    return keeper.stock(time.monotonic(), batch)


def _add_past(desk: Desk, rows: list[tuple[int, bytes, int]], keeper: Keeper) -> None:
    assert desk.store is not None
    desk.store.add_past(rows)


def _since(desk: Desk, said: About, keeper: Keeper) -> None:
    assert desk.store is not None
    for number in set(range(said.shards)) - said.lacking:
        desk.store.set_since(said.since_ms, number)


async def _finished(work: Callable[[], Counter[str]]) -> Counter[str]:
    """In a thread, to its end also where who waits is cancelled."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise
