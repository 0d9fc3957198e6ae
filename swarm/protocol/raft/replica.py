"""What every member of a group has, whatever its part: term, vote, log, commit index, members, and what it wants sent.

What depends on the disk waits for it here. A message that carries a term or a vote goes out once these are synced, an
acknowledgement of entries once the entries are; so no other part has to think of it. A leader's entries are no promise
and need not wait: they are on their way to the others while its own disk is writing (Ongaro 2014, 10.2.1).
"""

from __future__ import annotations

from collections.abc import Sequence

from swarm.protocol.effects import Fact
from swarm.protocol.member import Rng
from swarm.protocol.raft.config import RaftConfig
from swarm.protocol.raft.effects import (
    Apply,
    Changed,
    Following,
    Install,
    Leading,
    ReadLost,
    ReadReady,
    Removed,
    Repaired,
    Write,
)
from swarm.protocol.raft.entries import Entry, EntryKind, Members, Recovered, Snapshot, Vote
from swarm.protocol.raft.log import Log
from swarm.protocol.raft.wire import Message

Event = Apply | Changed | Following | Install | Leading | ReadLost | ReadReady | Removed | Repaired | Fact


class Replica:
    """The state of one member of one group (figure 2 of Ongaro and Ousterhout 2014, left column)."""

    __slots__ = (
        "_held", "_history", "_next_snapshot", "_outbox", "_repaired", "_reset", "_synced", "_vote_dirty", "_vote_write",
        "applied", "commit", "config", "damaged", "events", "full", "group", "heard_at", "id", "leader", "log", "now",
        "preferred", "rng", "vote", "written",
    )  # fmt: skip

    def __init__(
        self,
        id: bytes,
        group: bytes,
        recovered: Recovered,
        rng: Rng,
        config: RaftConfig,
        preferred: bytes | None,
        applied: int,
    ) -> None:
        self.id = id
        self.group = group
        self.rng = rng
        self.config = config
        self.preferred = preferred
        """The group's home: who should lead."""
        self.vote = recovered.vote
        self.log = Log(recovered.snapshot, recovered.entries)
        self.damaged = recovered.damaged
        """Entries that were acknowledged once may be missing: this member has no say until it is repaired."""
        self.full = False
        """There is no space for entries on this node's disk."""
        self.commit = recovered.snapshot.index
        self.applied = max(applied, self.commit)
        """Entries up to here were given to the state machine above."""
        self.leader: bytes | None = None
        self.now = float("-inf")
        self.heard_at = float("-inf")
        """When the leader was last heard."""
        self.events: list[Event] = []
        self.written = 0
        """The number of the last write that was handed to the storage."""
        self._synced = 0
        self._vote_dirty = False
        self._vote_write = 0
        self._next_snapshot: Snapshot | None = None
        self._reset = False
        self._repaired = False
        self._outbox: list[tuple[bytes, Message]] = []
        self._held: list[tuple[int, bytes, Message]] = []
        self._history: list[tuple[int, Members]] = [(recovered.snapshot.index, recovered.snapshot.members)]
        self._note_members(recovered.snapshot.index + 1, recovered.entries)

    # Members.

    @property
    def members(self) -> Members:
        """The latest in the log, committed or not (Ongaro 2014, 4.1)."""
        return self._history[-1][1]

    @property
    def members_index(self) -> int:
        """The index of the entry that says so."""
        return self._history[-1][0]

    def members_at(self, index: int) -> Members:
        """Those of a prefix of the log."""
        return next(members for first, members in reversed(self._history) if first <= index)

    def _note_members(self, first: int, entries: Sequence[Entry]) -> None:
        for index, entry in enumerate(entries, first):
            if entry.kind == EntryKind.MEMBERS:
                self._history.append((index, Members.unpack(entry.data)))

    # Term and vote.

    @property
    def term(self) -> int:
        """The latest term seen."""
        return self.vote.term

    def set_vote(self, term: int, candidate: bytes | None) -> None:
        """A new term, or a vote in this one."""
        assert (term, self.vote.candidate) == (self.vote.term, None) or term > self.vote.term, (term, self.vote)
        self.vote = Vote(term, candidate, self.vote.left)
        self._vote_dirty = True
        self._vote_write = self.written + 1

    def has_more(self, index: int, term: int) -> bool:
        """Whether this member's log is, or the one that it gave up when it left was, more up to date than one whose last entry
        is (index, term): it votes for no such log, as entries that it acknowledged may be committed by that (Ongaro 2014, 3.6.1)."""
        return self.vote.left > (term, index) or self.log.is_newer(index, term)

    @property
    def vote_synced(self) -> bool:
        """Term and vote are on disk."""
        return self._vote_write <= self._synced

    def hears_leader(self) -> bool:
        """Whether the leader was heard of late: then nobody else gets a vote (Ongaro 2014, 4.2.3)."""
        if self.leader == self.id:
            return True
        return self.leader is not None and self.now - self.heard_at < self.config.election_timeout_s

    # Entries.

    def append(self, entries: Sequence[Entry]) -> None:
        """Adds entries to the log."""
        first = self.log.last + 1
        self.log.append(entries)
        self._note_members(first, entries)

    def truncate(self, first: int) -> None:
        """Drops entries that are not committed."""
        assert first > self.commit, (first, self.commit)
        self.log.truncate(first)
        while self._history[-1][0] >= first:
            self._history.pop()

    def step_back(self) -> None:
        """Gives up a change of the members that is not committed, and what comes after it, where every majority of the members to be
        has this one in it: two voters, or one. So nobody is elected by them without its vote, and in its next term it has never
        proposed the change. Otherwise who dies in the instant in which it becomes the second voter would take the first with it, and
        who dies in that in which a third one is removed, the third with it.

        Only for who knows what is committed: whoever led until now, and has committed an entry of its own term. What it proposed after
        that nobody else has counted its copy of.
        """
        voters = self.members.voters
        if self.members_index > self.commit and len(voters) <= 2 and self.id in voters:
            self.truncate(self.members_index)

    def commit_to(self, index: int) -> None:
        """All entries up to `index` are committed."""
        index = min(index, self.log.last)
        if index <= self.commit:
            return
        before, self.commit = self.commit, index
        first = max(self.applied, before) + 1
        if first <= index:
            count = index - first + 1
            self.events.append(Apply(self.group, first, self.log.slice(first, count, 1 << 62)))
            self.applied = index
        if self.members_index > before:
            for at, members in self._history:
                if before < at <= index:
                    self.events.append(Changed(self.group, at, members))

    def compact(self, index: int, data: bytes) -> bool:
        """A snapshot stands for all entries up to `index`, from here on. Whether that was possible."""
        if not self.log.base.index < index <= min(self.commit, self.applied, self.log.stable):
            return False
        term = self.log.term(index)
        assert term is not None, index
        snapshot = Snapshot(index, term, self.members_at(index), data)
        self.log.compact(snapshot)
        self._history = [(index, snapshot.members)] + [row for row in self._history if row[0] > index]
        self._next_snapshot = snapshot
        return True

    def install(self, snapshot: Snapshot) -> None:
        """Takes over another member's snapshot in place of the whole log."""
        assert snapshot.index > self.commit, (snapshot.index, self.commit)
        self.log.install(snapshot, self.written + 1)
        self._history = [(snapshot.index, snapshot.members)]
        self._next_snapshot, self._reset = snapshot, True
        self.commit = snapshot.index
        if snapshot.index > self.applied:
            self.applied = snapshot.index
            self.events.append(Install(self.group, snapshot))
        self.events.append(Changed(self.group, snapshot.index, snapshot.members))

    def repaired(self) -> None:
        """The log is whole again; the storage forgets that it was damaged."""
        self.damaged = False
        self._repaired = True
        self.events.append(Repaired(self.group))

    # Storage and messages.

    def send(self, to: bytes, message: Message, index: int = 0) -> None:
        """Sends a message once term and vote are on disk, and the entries up to `index`."""
        after = self._vote_write
        if index:
            number = self.log.write_of(index)
            after = max(after, self.written + 1 if number is None else number)
        if after <= self._synced:
            self._outbox.append((to, message))
        else:
            self._held.append((after, to, message))

    def take_messages(self) -> list[tuple[bytes, Message]]:
        """What may be sent now."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def take_write(self) -> Write | None:
        """What the storage has to write, if anything. It counts as the write number `written`."""
        entries: Sequence[Entry] = ()
        first = 0
        if self.log.unwritten <= self.log.last:
            first, entries = self.log.hand_over(self.written + 1)
        elif not (self._vote_dirty or self._next_snapshot is not None or self._repaired):
            return None
        write = Write(
            self.group,
            self.vote if self._vote_dirty else None,
            self._next_snapshot,
            self._reset,
            self._repaired,
            first,
            entries,
        )
        self._vote_dirty = self._reset = self._repaired = False
        self._next_snapshot = None
        self.written += 1
        return write

    def synced(self, number: int) -> None:
        """The storage has done write `number`, and all before it: what waited for them goes out."""
        if number <= self._synced:
            return
        self._synced = number
        self.log.synced(number)
        if self._held:
            held, self._held = self._held, []
            for item in held:
                if item[0] <= number:
                    self._outbox.append(item[1:])
                else:
                    self._held.append(item)

    def fact(self, name: str, **labels: str) -> None:
        """Tells something worth knowing."""
        self.events.append(Fact(name, labels, {"group": self.group}))
