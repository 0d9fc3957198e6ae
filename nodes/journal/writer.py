"""The journal's thread: what waits is written and synced together, and the loop is told when it is on the disk."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from nodes.journal.interface import AnyJournal
from swarm.exit_codes import ExitCode
from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Recovered

COMMIT_BYTES: Final = 8 << 20
"""What is written and synced at once, if more waits."""
QUEUE_BYTES: Final = 64 << 20
"""Above it the journal is congested."""
IDLE_AFTER_S: Final = 0.05
TRY_AGAIN_S: Final = 1.0

Synced = Callable[[int, Mapping[bytes, Recovered]], None]
"""All writes up to this number are on the disk; but these groups have to begin anew, from what is on disk of them
(`RaftNode.restart`): what they wrote, and had handed over up to now, was not done, since there was no space or rot was found."""
Fatal = Callable[[BaseException], None]


def end_process(error: BaseException) -> NoReturn:
    """A write or a sync has failed: what is on the disk is not known, and only a new process finds out."""
    reason = getattr(error, "strerror", None) or error
    sys.stderr.write(
        f"error: the journal can not be written: {reason}. This process ends, so that nothing is acknowledged that no disk has.\n"
    )
    sys.stderr.flush()
    os._exit(ExitCode.SYSTEM)


class Reservation:
    """Room that was promised. It is given back once, by `release`."""

    def __init__(self, journal: AnyJournal, cost: int) -> None:
        self._journal = journal
        self._cost = cost

    def release(self) -> None:
        """It is not needed any more: what it was for is on the disk, or will not come."""
        cost, self._cost = self._cost, 0
        if cost:
            self._journal.give_back(cost)


@dataclass(slots=True)
class Waiting:
    """Writes that were handed over together."""

    number: int
    writes: Sequence[Write]
    size: int


def size_of(writes: Sequence[Write]) -> int:
    """About how much is to be written."""
    size = 0
    for write in writes:
        size += 128
        if write.snapshot is not None:
            size += len(write.snapshot.data)
        for entry in write.entries:
            size += 16 + len(entry.data)
    return size


class JournalWriter:
    """Made, and called, in the loop; its callbacks run there, too."""

    def __init__(
        self,
        journal: AnyJournal,
        loop: asyncio.AbstractEventLoop,
        synced: Synced,
        space: Callable[[bool], None],
        *,
        fatal: Fatal = end_process,
        commit_bytes: int = COMMIT_BYTES,
        queue_bytes: int = QUEUE_BYTES,
        idle_after_s: float = IDLE_AFTER_S,
        try_again_s: float = TRY_AGAIN_S,
    ) -> None:
        self._journal = journal
        self._loop = loop
        self._synced = synced
        self._space = space
        self._fatal = fatal
        self._commit_bytes = commit_bytes
        self._queue_bytes = queue_bytes
        self._idle_after_s = idle_after_s
        self._try_again_s = try_again_s
        self._queue: deque[Waiting] = deque()
        self._bytes = 0
        self._wake = threading.Condition()
        self._stopping = False
        self._failed = False
        self._refused: set[bytes] = set()
        """Groups of which nothing is written until the loop has begun them anew."""
        self._last = 0
        self.commits = 0
        """Commits that were synced."""
        self._ended: asyncio.Future[None] = loop.create_future()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    # In the loop.

    def submit(self, number: int, writes: Sequence[Write]) -> None:
        """Writes all this; then `synced(number, …)`. Numbers rise. After `close` nothing is written, and nothing is said."""
        assert number > self._last, number
        if self._stopping:
            return
        self._last = number
        size = size_of(writes)
        with self._wake:
            self._queue.append(Waiting(number, writes, size))
            self._bytes += size
            self._wake.notify()

    @property
    def waiting_bytes(self) -> int:
        """Handed over and not on the disk."""
        return self._bytes

    @property
    def congested(self) -> bool:
        """More waits than should: nothing new is to be taken until it is less."""
        return self._bytes > self._queue_bytes

    @property
    def full(self) -> bool:
        """There was no space for entries, and there is none yet."""
        return self._journal.full

    def reserve(self, size: int) -> Reservation | None:
        """Room on the disk for so many bytes, taken from the file system now. None: there is none, and what needs it is not to be
        accepted. OSError only for a disk that fails."""
        cost = self._journal.promise(size)
        return Reservation(self._journal, cost) if cost else None

    async def close(self) -> None:
        """Writes what waits, and closes the journal. Callbacks for what was written have run when it returns."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        await self._ended
        self._thread.join()
        await asyncio.sleep(0)

    # In the thread.

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._failed = True
            self._fatal(error)
            self._journal.abandon()
        finally:
            self._call(self._end)

    def _work(self) -> None:
        journal = self._journal
        idle = False
        while True:
            with self._wake:
                if not self._queue and not self._stopping:
                    self._wake.wait(self._try_again_s if idle else self._idle_after_s)
                batch = self._take()
                stopping = self._stopping and not batch and not self._queue
            if batch:
                idle = False
                self._commit(batch)
            elif stopping:
                journal.close()
                return
            else:
                if not idle:
                    self._tell(0, journal.idle())
                idle = True
            if journal.full and not batch and journal.try_again():
                self._call(self._space, False)

    def _take(self) -> list[Waiting]:
        """What is written together: all that waits, up to a size. The lock is held: what the loop strikes out is not under way."""
        batch: list[Waiting] = []
        size = 0
        while self._queue and (not batch or size + self._queue[0].size <= self._commit_bytes):
            waiting = self._queue.popleft()
            size += waiting.size
            if self._refused:
                waiting.writes = [write for write in waiting.writes if write.group not in self._refused]
            batch.append(waiting)
        return batch

    def _commit(self, batch: list[Waiting]) -> None:
        writes = [write for waiting in batch for write in waiting.writes]
        again = self._journal.commit(writes) if writes else {}
        self.commits += 1
        with self._wake:
            self._bytes -= sum(waiting.size for waiting in batch)
        self._tell(batch[-1].number, again)
        self._tell(0, self._journal.settle())

    def _tell(self, number: int, again: Mapping[bytes, Recovered]) -> None:
        with self._wake:
            self._refused |= again.keys()
        if number or again:
            self._call(self._done, number, again)

    def _call(self, what: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(what, *arguments)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    # In the loop again.

    def _done(self, number: int, again: Mapping[bytes, Recovered]) -> None:
        if again:
            with self._wake:
                # What these groups handed over before they begin anew does not count any more.
                for waiting in self._queue:
                    waiting.writes = [write for write in waiting.writes if write.group not in again]
                self._refused -= again.keys()
        self._synced(number, again)
        if again:
            self._space(self._journal.full)

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
