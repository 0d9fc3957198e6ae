"""All groups of one node: their messages go out together, their writes are synced together, and those at rest cost nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush

from swarm.protocol.effects import Fact
from swarm.protocol.member import Rng
from swarm.protocol.raft import wire
from swarm.protocol.raft.config import BOOT_BYTES, DEFAULT, GROUP_BYTES_MAX, NODE_ID_BYTES, RaftConfig
from swarm.protocol.raft.effects import Effect, Proposed, Refusal, Send, Stranger, Sync, Write
from swarm.protocol.raft.entries import FormatError, Members, Recovered, Snapshot, Vote
from swarm.protocol.raft.neighbours import Neighbours
from swarm.protocol.raft.raft import Raft
from swarm.protocol.raft.wire import BEAT_NONE, Message

_NO_GROUP = b""
_NEVER = float("inf")


class RaftNode:
    """The groups of which a node is a member.

    The shell tells it what came (`receive`), what time it is (`tick`), what is on disk (`synced`) and what people want, and
    carries out what `take` returns at the end of each turn.
    """

    def __init__(self, now: float, id: bytes, boot: bytes, rng: Rng, config: RaftConfig = DEFAULT) -> None:
        assert len(id) == NODE_ID_BYTES and len(boot) == BOOT_BYTES
        self.id = id
        self._boot = boot
        self._rng = rng
        self._config = config
        self._groups: dict[bytes, Raft] = {}
        self._neighbours = Neighbours(config)
        self._heap: list[tuple[float, bytes, bytes]] = []
        """(instant, group or none, node): what is out of date is ignored."""
        self._armed: dict[bytes, float] = {}
        self._dirty: dict[bytes, None] = {}
        self._effects: list[Effect] = []
        self._number = 0
        self._syncs: deque[tuple[int, list[tuple[bytes, Raft, int]]]] = deque()
        self._now = now

    # Groups.

    def create(
        self, now: float, group: bytes, recovered: Recovered, preferred: bytes | None = None, applied: int = 0
    ) -> None:
        """Takes part in a group: with what the disk has of it, or a snapshot at index 0 that has its first members, or
        nothing, if this node is to be added to it. `applied` entries are in the state machine above already."""
        assert 0 < len(group) <= GROUP_BYTES_MAX and group not in self._groups, group
        self._enter(now)
        raft = Raft(self._now, self.id, group, recovered, self._rng, self._config, preferred, applied)
        self._groups[group] = raft
        self._dirty[group] = None

    def close(self, now: float, group: bytes) -> None:
        """Takes no part in a group any more."""
        self._enter(now)
        del self._groups[group]
        self._armed.pop(group, None)
        self._dirty.pop(group, None)
        self._neighbours.unhang(group)

    def leave(self, now: float, group: bytes) -> Vote:
        """Takes no part in a group any more, and has the storage drop what it has of it, but for its vote, which it is to be
        created with should it be added again, and where its log ended."""
        vote = self._groups[group].parting
        self.close(now, group)
        self.drop(group, vote)
        return vote

    def drop(self, group: bytes, vote: Vote) -> None:
        """Has the storage drop what it has of a group that is not open here, but for the vote: once more, should there have
        been no space to write even that."""
        self._number += 1
        self._syncs.append((self._number, []))
        # After all writes of before, and before any of a later life in the group.
        self._effects.append(Sync(self._number, [Write(group, vote, Snapshot(), True, True, 0, ())]))

    def restart(
        self, now: float, group: bytes, recovered: Recovered, preferred: bytes | None = None, applied: int = 0
    ) -> None:
        """Begins anew from what is on disk, as after a crash: a write of the group was not done, for want of space.
        Writes of it that are under way do not count any more. Until `space` says otherwise the disk is full."""
        self.close(now, group)
        self.create(now, group, recovered, preferred, applied)
        self._groups[group].space(now, full=True)

    def group(self, group: bytes) -> Raft | None:
        """A group, to be looked at."""
        return self._groups.get(group)

    @property
    def groups(self) -> Sequence[bytes]:
        """All groups, sorted."""
        return sorted(self._groups)

    @property
    def resting(self) -> int:
        """How many groups are at rest."""
        return self._neighbours.resting

    # What people want.

    def propose(self, now: float, group: bytes, data: bytes) -> Proposed | Refusal:
        """`Raft.propose`."""
        raft = self._touch(now, group)
        return Refusal.UNKNOWN_GROUP if raft is None else raft.propose(self._now, data)

    def read(self, now: float, group: bytes, context: bytes) -> Refusal | None:
        """`Raft.read`."""
        raft = self._touch(now, group)
        return Refusal.UNKNOWN_GROUP if raft is None else raft.read(self._now, context)

    def transfer(self, now: float, group: bytes, to: bytes) -> Refusal | None:
        """`Raft.transfer`."""
        raft = self._touch(now, group)
        return Refusal.UNKNOWN_GROUP if raft is None else raft.transfer(self._now, to)

    def campaign(self, now: float, group: bytes) -> Refusal | None:
        """`Raft.campaign`."""
        raft = self._touch(now, group)
        if raft is None:
            return Refusal.UNKNOWN_GROUP
        raft.campaign(self._now)
        return None

    def add_learner(self, now: float, group: bytes, id: bytes) -> Proposed | Refusal:
        """`Raft.add_learner`."""
        raft = self._touch(now, group)
        return Refusal.UNKNOWN_GROUP if raft is None else raft.add_learner(self._now, id)

    def promote(self, now: float, group: bytes, id: bytes) -> Proposed | Refusal:
        """`Raft.promote`."""
        raft = self._touch(now, group)
        return Refusal.UNKNOWN_GROUP if raft is None else raft.promote(self._now, id)

    def remove(self, now: float, group: bytes, id: bytes) -> Proposed | Refusal:
        """`Raft.remove`."""
        raft = self._touch(now, group)
        return Refusal.UNKNOWN_GROUP if raft is None else raft.remove(self._now, id)

    def prefer(self, now: float, group: bytes, id: bytes | None) -> None:
        """Who is to lead a group from here on, if anybody in particular."""
        raft = self._touch(now, group)
        if raft is not None:
            raft.prefer(self._now, id)

    def force(self, now: float, group: bytes) -> Members | Refusal:
        """`Raft.force`."""
        raft = self._touch(now, group)
        return Refusal.UNKNOWN_GROUP if raft is None else raft.force(self._now)

    def compact(self, now: float, group: bytes, index: int, data: bytes) -> bool:
        """`Raft.compact`."""
        raft = self._touch(now, group)
        return raft is not None and raft.compact(self._now, index, data)

    def space(self, now: float, full: bool) -> None:
        """The disk is full, or is not any more."""
        self._enter(now)
        for raft in self._groups.values():
            raft.space(self._now, full)

    # What comes.

    def receive(self, now: float, sender: bytes, payload: bytes | memoryview) -> None:
        """A frame came from a node whose id is authenticated."""
        self._enter(now)
        try:
            frame = wire.decode(payload)
        except FormatError as error:
            self._effects.append(Fact("raft.rejected", {"reason": str(error)}, {"sender": sender}))
            return
        for group in self._neighbours.heard(self._now, sender, frame.boot, frame.beat):
            self._wake(group, self._now)
        strange = set()
        for message in frame.messages:
            raft = self._groups.get(message.group)
            if raft is None:
                if message.group not in strange and message.kind in wire.FROM_LEADER:
                    strange.add(message.group)
                    self._effects.append(Stranger(message.group, sender))
                continue
            self._dirty[message.group] = None
            # A leader at rest was heard when its node was.
            raft.step(self._now, sender, message, self._heard_at(raft) if raft.rests else None)

    def synced(self, now: float, number: int) -> None:
        """The storage has done the sync `number`, and all before it."""
        self._enter(now)
        syncs = self._syncs
        while syncs and syncs[0][0] <= number:
            for group, raft, written in syncs.popleft()[1]:
                if self._groups.get(group) is raft:
                    raft.synced(self._now, written)
                    self._dirty[group] = None

    def tick(self, now: float) -> None:
        """The instant of `next_deadline` has come, or has passed."""
        self._enter(now)
        heap = self._heap
        while heap and heap[0][0] <= self._now:
            instant, group, id = heappop(heap)
            if group == _NO_GROUP:
                self._tick_neighbour(instant, id)
            elif self._armed.get(group) == instant:
                del self._armed[group]
                raft = self._groups[group]
                deadline = raft.next_deadline()
                if deadline is not None and deadline <= self._now:
                    raft.tick(self._now)
                    if raft.leader is None:
                        # A leader at rest may have no ear for this member; it hears its node.
                        for member in raft.members.all:
                            if member != self.id:
                                self._neighbours.call(member)
                self._dirty[group] = None

    def next_deadline(self) -> float | None:
        """When `tick` wants to be called."""
        return self._heap[0][0] if self._heap else None

    # The end of a turn.

    def take(self) -> list[Effect]:
        """What is to be done, in order."""
        writes: list[Write] = []
        written: list[tuple[bytes, Raft, int]] = []
        outgoing: dict[bytes, list[Message]] = {}
        for group in self._dirty:
            raft = self._groups[group]
            write, messages, events = raft.flush()
            self._effects += events
            if write is not None:
                writes.append(write)
                written.append((group, raft, raft.written))
            for to, message in messages:
                outgoing.setdefault(to, []).append(message)
            self._arm(group, raft)
        self._dirty.clear()
        if writes:
            self._number += 1
            self._syncs.append((self._number, written))
            self._effects.append(Sync(self._number, writes))
        for to in self._neighbours.take_talk():
            outgoing.setdefault(to, [])
        for to, batch in outgoing.items():
            self._send(to, batch)
        effects, self._effects = self._effects, []
        return effects

    # Inside.

    def _enter(self, now: float) -> None:
        # A clock that was set back stands still here until it has caught up.
        self._now = max(self._now, now)

    def _touch(self, now: float, group: bytes) -> Raft | None:
        self._enter(now)
        raft = self._groups.get(group)
        if raft is not None:
            self._dirty[group] = None
        return raft

    def _wake(self, group: bytes, heard_at: float | None) -> None:
        self._groups[group].wake(self._now, heard_at)
        self._neighbours.unhang(group)
        self._dirty[group] = None

    def _heard_at(self, raft: Raft) -> float | None:
        return None if raft.leader is None else self._neighbours.get(raft.leader).heard_at

    def _tick_neighbour(self, instant: float, id: bytes) -> None:
        neighbour = self._neighbours.get(id)
        if neighbour.tick_at != instant:
            return  # it has an earlier one since, or has had it
        for group in self._neighbours.tick(self._now, self._now - instant, id):
            self._wake(group, None if self._groups[group].leads else neighbour.heard_at)
        neighbour.tick_at = None
        if self._neighbours.interval_s(id) is not None:
            self._arm_neighbour(id)

    def _arm_neighbour(self, id: bytes) -> None:
        instant = self._now + (self._neighbours.interval_s(id) or self._config.heartbeat_s)
        self._neighbours.get(id).tick_at = instant
        heappush(self._heap, (instant, _NO_GROUP, id))

    def _arm(self, group: bytes, raft: Raft) -> None:
        if raft.rests:
            leader = raft.leader
            assert leader is not None
            missed = raft.absent
            others = [id for id in raft.members.all if id not in missed] if raft.leads else [leader]
            for id in self._neighbours.hang(
                self._now, group, raft.leads, [id for id in others if id != self.id], missed
            ):
                self._arm_neighbour(id)
            return
        self._neighbours.unhang(group)
        deadline = raft.next_deadline()
        if deadline is not None and deadline < self._armed.get(group, _NEVER):
            self._armed[group] = deadline
            heappush(self._heap, (deadline, group, b""))

    def _send(self, to: bytes, messages: list[Message]) -> None:
        neighbour = self._neighbours.get(to)
        first = 0
        size = 0
        for number, message in enumerate(messages):
            if size and size + message.size > self._config.frame_bytes:
                self._frame(to, BEAT_NONE, messages[first:number])
                first, size = number, 0
            size += message.size
        self._frame(to, neighbour.beat, messages[first:])
        neighbour.beat = BEAT_NONE

    def _frame(self, to: bytes, beat: int, messages: list[Message]) -> None:
        self._effects.append(Send(to, wire.encode(self._boot, beat, messages)))
