"""Copying: having a majority of a log's voters keep blobs beside it, before the log names them. A pure state machine.

This node, which leads the log, takes them in first; then it asks the other voters, who fetch them and say so when they are
on their disks. Who does not answer, or could not, is asked again after a pause that grows. Nobody's word counts for longer
than `WORD_S`: a voter gives up what no log names after a while.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from swarm.protocol.ledger.effects import Reason, Refusal
from swarm.protocol.ledger.records import KeptBlob

PAUSE_S, PAUSE_S_MAX = 0.2, 5.0
WORD_S = 300.0
UNNAMED_S = 3 * WORD_S
"""What no log names (yet) stays on a disk for so long."""


class Answer(Enum):
    """What a voter says."""

    KEPT = "kept"
    COMING = "coming"
    """It is fetching: ask again."""
    FAILED = "failed"
    """It could not fetch it, or does not answer."""
    FULL = "full"
    """Its disk has no room, or it keeps as much as it may."""
    UNABLE = "unable"
    """It is of a version that keeps nothing beside its log."""


@dataclass(slots=True)
class TakeIn:
    """Have blobs on this node's own disk: `Copying.taken` or `refused` is to be told."""

    ticket: int
    ids: tuple[bytes, ...]
    source: bytes | None


@dataclass(slots=True)
class AskVoter:
    """Ask a voter to keep blobs: `Copying.answered` is to be told."""

    ticket: int
    group: bytes
    voter: bytes
    blobs: tuple[KeptBlob, ...]


@dataclass(slots=True)
class Copied:
    """These voters have them."""

    ticket: int
    blobs: tuple[KeptBlob, ...]
    holders: tuple[bytes, ...]


@dataclass(slots=True)
class NotCopied:
    """They will not have them."""

    ticket: int
    refusal: Refusal


Effect = TakeIn | AskVoter | Copied | NotCopied


@dataclass(slots=True)
class _Asked:
    answer: Answer | None = None
    """None while one is waited for."""
    heard_at: float = 0.0
    again_at: float = 0.0
    pause_s: float = PAUSE_S


@dataclass(slots=True)
class _Job:
    group: bytes
    ids: tuple[bytes, ...]
    source: bytes | None
    blobs: tuple[KeptBlob, ...] | None = None
    """None until this node has them itself."""
    take_at: float | None = None
    """When to try again to take them in."""
    pause_s: float = PAUSE_S
    asked: dict[bytes, _Asked] = field(default_factory=dict)


class Copying:
    """What is being copied, by ticket. `voters` gives those of a log, as they are at the moment."""

    def __init__(self, me: bytes, voters: Callable[[bytes], tuple[bytes, ...]]) -> None:
        self._me = me
        self._voters = voters
        self._jobs: dict[int, _Job] = {}
        self._effects: list[Effect] = []

    @property
    def tickets(self) -> int:
        """How much is under way."""
        return len(self._jobs)

    def want(self, now: float, ticket: int, group: bytes, ids: tuple[bytes, ...], source: bytes | None) -> None:
        """Begin. With a `source`, an executor that has them, it is tried for ever: somebody has been promised an outcome."""
        self._jobs[ticket] = _Job(group, ids, source)
        self._effects.append(TakeIn(ticket, ids, source))

    def drop(self, ticket: int) -> None:
        """Nobody waits for it any more."""
        self._jobs.pop(ticket, None)

    # --- what comes ---------------------------------------------------------------------------------------------------

    def taken(self, now: float, ticket: int, blobs: tuple[KeptBlob, ...]) -> None:
        """They are on this node's own disk."""
        job = self._jobs.get(ticket)
        if job is not None and job.blobs is None:
            job.blobs = blobs
            self._go_on(now, ticket, job)

    def refused(self, now: float, ticket: int, refusal: Refusal) -> None:
        """They are not. `Reason.DISK_FULL` may pass; all else is for good."""
        job = self._jobs.get(ticket)
        if job is None or job.blobs is not None:
            return
        if refusal.reason is Reason.DISK_FULL and job.source is not None:
            job.take_at = now + job.pause_s
            job.pause_s = min(PAUSE_S_MAX, 2 * job.pause_s)
            return
        self._end(ticket, NotCopied(ticket, refusal))

    def answered(self, now: float, ticket: int, voter: bytes, answer: Answer) -> None:
        """What a voter says."""
        job = self._jobs.get(ticket)
        asked = None if job is None else job.asked.get(voter)
        if job is None or asked is None:
            return
        asked.answer, asked.heard_at = answer, now
        if answer is Answer.COMING:
            asked.again_at, asked.pause_s = now, PAUSE_S
        else:
            asked.again_at = now + asked.pause_s
            asked.pause_s = min(PAUSE_S_MAX, 2 * asked.pause_s)
        self._go_on(now, ticket, job)

    def tick(self, now: float) -> None:
        """The instant of `next_deadline` has come, or has passed."""
        for ticket, job in list(self._jobs.items()):
            if job.take_at is not None and job.take_at <= now:
                job.take_at = None
                self._effects.append(TakeIn(ticket, job.ids, job.source))
            elif job.blobs is not None:
                self._go_on(now, ticket, job)

    def next_deadline(self) -> float | None:
        """When `tick` wants to be called."""
        times = [job.take_at for job in self._jobs.values() if job.take_at is not None]
        for job in self._jobs.values():
            times += [one.again_at for one in job.asked.values() if one.answer not in (None, Answer.KEPT)]
        return min(times, default=None)

    def take(self) -> list[Effect]:
        """What is to be done, in order."""
        effects, self._effects = self._effects, []
        return effects

    # --- inside -------------------------------------------------------------------------------------------------------

    def _go_on(self, now: float, ticket: int, job: _Job) -> None:
        assert job.blobs is not None
        voters = self._voters(job.group)
        others = [id for id in voters if id != self._me]
        for left in job.asked.keys() - set(others):
            del job.asked[left]
        for voter in others:
            asked = job.asked.get(voter)
            stale = asked is not None and asked.answer is Answer.KEPT and now - asked.heard_at > WORD_S
            again = asked is not None and asked.answer not in (None, Answer.KEPT) and asked.again_at <= now
            if asked is None or stale or again:
                asked = job.asked.setdefault(voter, _Asked())
                asked.answer = None
                self._effects.append(AskVoter(ticket, job.group, voter, job.blobs))
        said = {voter: job.asked[voter].answer for voter in others}
        holders = tuple(id for id in voters if id == self._me or said[id] is Answer.KEPT)
        majority = len(voters) // 2 + 1
        if voters and len(holders) >= majority:
            self._end(ticket, Copied(ticket, job.blobs, holders))
            return
        full = sum(answer is Answer.FULL for answer in said.values())
        unable = sum(answer is Answer.UNABLE for answer in said.values())
        if not voters or len(voters) - full - unable >= majority:
            return
        if job.source is not None:
            # Somebody waits for an outcome. In the middle of an upgrade it is kept as far as there are who keep it; the
            # others will have it when they know how. On full disks there will be room.
            if len(voters) - unable < majority:
                self._end(ticket, Copied(ticket, job.blobs, holders))
            return
        size = sum(blob.size for blob in job.blobs)
        if full:
            hint = f"{full} of the {len(voters)} hosts of its log have no room on their disks for {size} bytes that it needs"
            self._end(ticket, NotCopied(ticket, Refusal(Reason.DISK_FULL, hint)))
        else:
            hint = (
                f"it needs {size} bytes that are too large for a log, and most hosts of its log are of an older version"
            )
            self._end(ticket, NotCopied(ticket, Refusal(Reason.TOO_LARGE, hint)))

    def _end(self, ticket: int, how: Effect) -> None:
        del self._jobs[ticket]
        self._effects.append(how)
