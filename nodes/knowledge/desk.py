"""The thread in which a node's knowledge is: jobs in, one after the other; what came of them is on disk before it is told.

Jobs that wait are done together and written in one transaction. Then answers are given and messages go out, so nobody hears
of something that a crash could take back. While the disk takes nothing, nothing is said and nothing new is taken: what could not be
written is tried again, and until then this node's part is read-only.
"""

from __future__ import annotations

import queue
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nodes.knowledge.authors import Authors
from nodes.knowledge.store import NotWritten, Store, author_of
from swarm.errors import SwarmError
from swarm.protocol.effects import Fact
from swarm.protocol.knowledge.bounds import FUTURE_MS
from swarm.protocol.knowledge.entries import read
from swarm.protocol.knowledge.keeper import Keeper, KeeperConfig, Violation
from swarm.protocol.knowledge.knowledge import Knowledge
from swarm.protocol.knowledge.replicas import Replication
from swarm.protocol.knowledge.rules import STRIKE, Outcome
from swarm.protocol.knowledge.shard import Shard
from swarm.protocol.knowledge.stamps import HybridClock, ms_of
from swarm.units import format_bytes

JOBS_MAX: Final = 256
"""Done together, before what they said is written."""
IDLE_S: Final = 3600.0
RETRY_S: Final = 2.0
"""How often a disk that took nothing is tried again."""
HEARD_BYTES_MAX: Final = 16 << 20
"""Messages of peers that wait for the thread; more are left out, and what was in them is compared later."""
WHOLE_NODES_MAX: Final = 1 << 16
"""Unless another replication is given, every node holds everything."""

Job = Callable[[Keeper], Any]


@dataclass(slots=True)
class Settled:
    """What came of some jobs, for the node's loop."""

    messages: list[tuple[bytes, bytes]] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    answers: list[tuple[Future[Any], Any, BaseException | None]] = field(default_factory=list)
    unknown: list[bytes] = field(default_factory=list)
    certificates: list[bytes] = field(default_factory=list)
    news: bool = False
    """Something is known now that was not, or is known no more."""


class Full(SwarmError):
    """This node's part of the knowledge has no room."""


class Desk:
    """Keeper and store of one node, in one thread. All its methods may be called from any thread."""

    def __init__(
        self,
        directory: Path,
        author: bytes,
        sign: Callable[[bytes], bytes],
        authors: Authors,
        shards: int,
        bytes_max: int,
        now: Callable[[], float],
        settled: Callable[[Settled], None],
        config: KeeperConfig | None = None,
        store: Callable[[Path], Store] = Store,
        retry_s: float = RETRY_S,
        replication: Replication | None = None,
    ) -> None:
        """`settled` is called in the thread."""
        self._directory = directory
        self._author = author
        self._sign = sign
        self._authors = authors
        self._shards = shards
        self._bytes_max = bytes_max
        self._now = now
        self._settled = settled
        self._config = config
        self._open_store = store
        self._retry_s = retry_s
        self._replication = replication or Replication(whole_nodes_max=WHOLE_NODES_MAX)
        self._jobs: queue.SimpleQueue[tuple[Job | None, Future[Any] | None, bool]] = queue.SimpleQueue()
        self._heard_bytes = 0
        self._heard_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="knowledge", daemon=True)
        self._unsaved: list[tuple[int, bytes]] = []
        self._saved_authors: dict[bytes, bytes] = {}
        self._retry_at = 0.0
        self._full = False
        self._ahead = False
        """Whether this node's stamps are so far ahead of its clock that the others take nothing from it yet."""
        self._counted: Counter[str] = Counter()
        self._loading = False
        self.store: Store | None = None
        """For jobs alone: it is used in the thread."""
        self.entries = 0
        self.segments = 0
        self.bytes = 0
        """What is held, for metrics."""

    # --- from the loop --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; what is on disk is read first."""
        self._thread.start()

    def ask(self, job: Job, says: bool = False) -> Future[Any]:
        """Has something done; its value when it is, and, if it `says` something, when that is on disk."""
        answer: Future[Any] = Future()
        self._jobs.put((job, answer, says))
        return answer

    def post(self, job: Job) -> None:
        """Has something done of which nobody waits for the end."""
        self._jobs.put((job, None, False))

    def heard(self, source: bytes, payload: bytes) -> bool:
        """Hands over a message of a peer; False if too much waits, and it is left out."""
        with self._heard_lock:
            if self._heard_bytes + len(payload) > HEARD_BYTES_MAX:
                return False
            self._heard_bytes += len(payload)
        self._jobs.put((lambda keeper: self._hear(keeper, source, payload), None, False))
        return True

    def close(self) -> None:
        """Ends after what was handed over is done. Waits."""
        if self._thread.ident is not None:
            self._jobs.put((None, None, False))
            self._thread.join()

    # --- in the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            store, keeper = self._opened()
            self.store = store
        except BaseException as error:
            self._refuse_all(error)
            return
        try:
            while self._some(store, keeper):
                pass
        except Exception as error:
            # A mistake of ours: what was said is on disk, and the next start has it.
            self._settled(Settled(facts=[_crashed(error)]))
            store.close()
            self._refuse_all(error)
        else:
            store.close(in_order=not self._unsaved)

    def _refuse_all(self, error: BaseException) -> None:
        hint = getattr(error, "hint", "") or "see the node's log"
        self._settled(Settled(facts=[Fact("knowledge.refused", {}, {"error": f"{type(error).__name__}: {error}"})]))
        while True:
            job, answer, _ = self._jobs.get()
            if job is None:
                return
            if answer is not None:
                refusal = SwarmError(f"this node has no knowledge: {error}", hint=hint)
                self._settled(Settled(answers=[(answer, None, refusal)]))

    def _some(self, store: Store, keeper: Keeper) -> bool:
        """Does what waits, and settles it; False at the end."""
        at = min(keeper.next_deadline(), self._retry_at if self._unsaved else float("inf"))
        done, jobs = Settled(), []
        try:
            jobs.append(self._jobs.get(timeout=min(IDLE_S, max(0.0, at - self._now()))))
            while len(jobs) < JOBS_MAX:
                jobs.append(self._jobs.get_nowait())
        except queue.Empty:
            pass
        going_on, waiting = True, list[tuple[Future[Any], Any]]()
        for job, answer, says in jobs:
            if job is None:
                going_on = False
                continue
            value, error = None, None  # type: Any, Exception | None
            try:
                if says:
                    self._refuse_when_full(store)
                value = job(keeper)
            except SwarmError as refusal:
                error = refusal
            except Exception as mistake:
                error = mistake
                if answer is None:
                    done.facts.append(_crashed(mistake))
            if answer is None:
                continue
            if error is None and says:
                waiting.append((answer, value))
            else:
                done.answers.append((answer, value, error))
        now = self._now()
        if now >= keeper.next_deadline():
            keeper.tick(now)
        self._settle(store, keeper, now, done, waiting)
        return going_on

    def _refuse_when_full(self, store: Store) -> None:
        if self._unsaved:
            raise Full(
                "the disk of this node is full: nothing new is known here until there is room",
                hint="free some space; other nodes of the fleet take it",
            )
        if store.bytes >= self._bytes_max:
            raise Full(
                f"this node's part of the knowledge has {format_bytes(self._bytes_max)}, and no room for more",
                hint="drop what is not needed, or raise knowledge.bytes on every node",
            )

    def _hear(self, keeper: Keeper, source: bytes, payload: bytes) -> None:
        with self._heard_lock:
            self._heard_bytes -= len(payload)
        if not self._unsaved and not self._full:
            keeper.receive(self._now(), source, payload)

    def _settle(
        self, store: Store, keeper: Keeper, now: float, done: Settled, waiting: list[tuple[Future[Any], Any]]
    ) -> None:
        """Writes what is news; only then answers and messages count."""
        failed = self._said(keeper, now)
        kept = keeper.take_kept()
        messages = keeper.take()
        if kept or self._unsaved:
            failed = self._write(store, keeper, now, kept, done) or failed
            done.news = True
        if keeper.withdrawn:
            keeper.withdrawn, done.news = False, True
        if not self._unsaved:
            done.messages = messages
            self._forget(store, keeper, done)
        done.answers += [(answer, value, failed) for answer, value in waiting]
        self._full = store.bytes >= self._bytes_max + self._bytes_max // 8
        self._look_at_clock(keeper, done)
        done.violations, keeper.violations = keeper.violations, []
        done.unknown = self._authors.take_unknown()
        for outcome, count in (keeper.counts - self._counted).items():
            done.facts.append(Fact("knowledge.segment", {"outcome": outcome}, {}, float(count)))
        self._counted = Counter(keeper.counts)
        shards = keeper.knowledge.shards.values()
        self.entries, self.segments = sum(shard.entries for shard in shards), sum(map(len, shards))
        self.bytes = store.bytes
        if done != Settled():
            self._settled(done)

    def _look_at_clock(self, keeper: Keeper, done: Settled) -> None:
        """The clock was ahead, and was set right: stamps go on from what it was, and others believe them when that has come."""
        ahead_ms = ms_of(keeper.knowledge.clock.last) - _wall_ms()
        was, self._ahead = self._ahead, ahead_ms > FUTURE_MS
        if self._ahead and not was:
            done.facts.append(Fact("knowledge.ahead", {}, {"ahead_s": ahead_ms // 1000}))

    def _said(self, keeper: Keeper, now: float) -> SwarmError | None:
        """Has what was said sealed: a segment for each shard."""
        failed = None
        while True:
            try:
                keeper.said(now)
                return failed
            except SwarmError as error:  # of one shard; it is said no more
                failed = error

    def _write(
        self, store: Store, keeper: Keeper, now: float, kept: list[tuple[int, bytes]], done: Settled
    ) -> SwarmError | None:
        was_full = bool(self._unsaved)
        self._unsaved += kept
        if was_full and now < self._retry_at:
            return None
        certificates = self._authors.certificates({author_of(payload) for _, payload in self._unsaved})
        new = {id: one for id, one in certificates.items() if self._saved_authors.get(id) != one}
        try:
            store.add(self._unsaved, new, keeper.knowledge.clock.last)
        except NotWritten as error:
            self._retry_at = now + self._retry_s
            if not was_full:
                done.facts.append(Fact("knowledge.full", {}, {"error": str(error)}))
            return NotWritten(
                f"{error}. It is known here until this node stops, and is kept and told to others once there is room",
                hint=error.hint,
            )
        self._saved_authors |= new
        self._unsaved = []
        if was_full:
            done.facts.append(Fact("knowledge.space"))
        return None

    def _forget(self, store: Store, keeper: Keeper, done: Settled) -> None:
        """What shards hold no more need not be on disk."""
        for number, shard in keeper.knowledge.shards.items():
            if len(shard) != store.counts.get(number, 0):
                try:
                    store.keep_only(number, set(shard.tree.places()), _wall_ms())
                    store.trim_past(_wall_ms(), self._bytes_max)
                except NotWritten as error:
                    done.facts.append(Fact("knowledge.full", {}, {"error": str(error)}))
                    return

    # --- at the start ---------------------------------------------------------------------------------------------------

    def _opened(self) -> tuple[Store, Keeper]:
        """What is on disk, as shards. What was written is not checked again by its signatures, but by its checksums."""
        store, facts = self._open_store(self._directory), list[Fact]()
        try:
            shards, damaged, last = self._load(store)
        except sqlite3.DatabaseError as error:
            store.why = str(error)
            store.set_aside()
            shards, damaged, last = {}, 0, 0
        if store.aside is not None:
            facts.append(Fact("knowledge.damaged", {}, {"error": store.why, "aside": str(store.aside)}))
        elif damaged:
            facts.append(Fact("knowledge.damaged", {}, {"error": f"{damaged} segments are not what was written"}))
        store.since_ms(_wall_ms())
        clean = store.begin() and not damaged
        knowledge = Knowledge(
            self._author, self._sign, shards, self._shards, HybridClock(last), self._shard, clean=clean
        )
        keeper = Keeper(
            self._now(), knowledge, random.Random(), lambda now: _wall_ms(), self._config,
            self._replication,
        )  # fmt: skip
        self._settled(Settled(facts=facts, certificates=sorted(self._saved_authors.values())))
        return store, keeper

    def _load(self, store: Store) -> tuple[dict[int, Shard], int, int]:
        self._saved_authors = store.authors()
        shards: dict[int, Shard] = {}
        damaged, last = 0, store.clock()
        self._loading = True
        for number, _, payload in store.rows():
            if payload is None or number >= self._shards:
                damaged += payload is None
                continue
            shard = shards.setdefault(number, self._shard(number))
            if payload[0] == STRIKE:
                shard.take(payload, _wall_ms())
                continue
            segment = read(payload)
            # What was taken in once is believed, wherever the clock is now.
            outcome = shard.apply(segment, max(_wall_ms(), ms_of(segment.last_time)))
            if outcome is Outcome.NEW:
                last = max(last, segment.last_time)
        self._loading = False
        return shards, damaged, last

    def _shard(self, number: int) -> Shard:
        return Shard(number, self._shards, self._verify)

    def _verify(self, author: bytes, message: bytes, signature: bytes) -> Outcome | None:
        if self._loading:
            revoked = self._authors.revoked(author, self._saved_authors.get(author))
            return Outcome.REVOKED if revoked else None
        return self._authors.verify(author, message, signature)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _crashed(error: Exception) -> Fact:
    return Fact("knowledge.crashed", {}, {"error": f"{type(error).__name__}: {error}"})
