"""The ledger of one node: its part in the logs of its own tasks and of other homes', over consensus. A pure state machine.

The shell tells it what came, what time it is, what is on disk, who is in the fleet and what the owner proposes, and carries
out what `take` returns at the end of each turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from swarm.protocol.effects import Fact
from swarm.protocol.ledger import homes
from swarm.protocol.ledger.config import DEFAULT, LedgerConfig
from swarm.protocol.ledger.effects import (
    Announce,
    Close,
    Committed,
    Effect,
    Follow,
    Lead,
    Loss,
    Named,
    Reason,
    Refusal,
)
from swarm.protocol.ledger.group import Group
from swarm.protocol.ledger.homes import Announcement
from swarm.protocol.ledger.members import Presence
from swarm.protocol.ledger.records import Forgotten, Record, RecordError
from swarm.protocol.ledger.retention import Retention
from swarm.protocol.ledger.state import LedgerState
from swarm.protocol.ledger.steward import Steward
from swarm.protocol.member import Rng
from swarm.protocol.raft.config import NODE_ID_BYTES, SNAPSHOT_BYTES_MAX
from swarm.protocol.raft.effects import Apply, Changed, Following, Install, Leading, Removed, Repaired, Stranger
from swarm.protocol.raft.effects import Effect as RaftEffect
from swarm.protocol.raft.entries import Members, Recovered, Snapshot, Vote
from swarm.protocol.raft.node import RaftNode
from swarm.protocol.raft.raft import Raft

_NEVER = float("inf")


class Ledger:
    """All logs of one node. `host` is the id of the machine that it runs on."""

    def __init__(
        self,
        now: float,
        id: bytes,
        boot: bytes,
        rng: Rng,
        config: LedgerConfig = DEFAULT,
        recovered: Mapping[bytes, Recovered] | None = None,
        host: bytes = b"",
        wall: float = 0.0,
    ) -> None:
        self.id = id
        self.config = config
        self._raft = RaftNode(now, id, boot, rng, config.raft)
        self._groups: dict[bytes, Group] = {}
        self._votes: dict[bytes, Vote] = {}
        """Of groups that this node was removed from."""
        self._kept: set[bytes] = set()
        """Those of them whose log is still on the disk."""
        self._steward = Steward(now, id, host, config, self._raft, self._groups)
        self._wall_offset = wall - now
        self._effects: list[Effect] = []
        self._ticket = 0
        self._queued: dict[bytes, None] = {}
        self._announced = Announcement()
        self._changed = True
        """What is announced may not hold any more."""
        self._forget_at = _NEVER
        self._full = False
        self._now = now
        found = dict(recovered or {})
        for own in (homes.fleet_group(id), homes.node_group(id)):
            found.setdefault(own, Recovered())
        for name, what in sorted(found.items()):
            if homes.home_of(name) != id and not what.entries and not what.snapshot.index and not what.damaged:
                self._votes[name] = what.vote
            else:
                self._open(now, name, what)

    # Groups.

    def _open(self, now: float, name: bytes, recovered: Recovered) -> None:
        home = homes.home_of(name)
        if not recovered.snapshot.index and not recovered.snapshot.members.voters:
            # The empty log is its home's alone; that is so on every replica, and needs to be written nowhere.
            first = Snapshot(members=Members.of([home]))
            recovered = Recovered(recovered.vote, first, recovered.entries, recovered.damaged)
        try:
            state = LedgerState.restore(recovered.snapshot.data)
        except RecordError:
            # As good as unreadable: to be had from the others.
            self._effects.append(Fact("ledger.damaged", fields={"group": name}))
            state = LedgerState()
            recovered = Recovered(recovered.vote, Snapshot(members=Members.of([home])), (), damaged=True)
        self._groups[name] = Group(name, state, self.config)
        if state.pins.blobs:
            self._effects.append(Named(name))
        self._raft.create(now, name, recovered, self._steward.preferred(home))
        raft = self._raft.group(name)
        assert raft is not None
        if self._full:
            self._raft.space(now, True)
        if raft.members.voters == (self.id,) and not raft.damaged:
            self._raft.campaign(now, name)

    def restart(self, now: float, name: bytes, recovered: Recovered) -> None:
        """Begins a group anew from what is on disk, as after a crash: a write of it was refused, for want of space. Until
        `space` says otherwise the disk is full."""
        self._enter(now)
        self._full = True
        if name not in self._groups:
            # Left, and the disk has no space for as much as that.
            self._kept.add(name)
            return
        self._lose(self._groups.pop(name), None)
        self._raft.close(now, name)
        self._open(now, name, recovered)

    def space(self, now: float, full: bool) -> None:
        """The disk has no space for entries, or has some again."""
        self._enter(now)
        self._full = full
        self._raft.space(now, full)
        if not full:
            for name in sorted(self._kept):
                self._raft.drop(name, self._votes[name])
            self._kept.clear()

    def state(self, group: bytes) -> LedgerState | None:
        """What is committed of a log, as far as this node knows."""
        found = self._groups.get(group)
        return None if found is None else found.state

    def may_have(self, group: bytes, key: bytes) -> bool:
        """Whether a batch is in a log, or might be: in an entry of which it is not known yet here whether it is committed."""
        found, raft = self._groups.get(group), self._raft.group(group)
        if found is None or raft is None or raft.damaged or key in found.state.batches:
            return True
        # Any bytes like the key's: to wait for nothing is better than to deny what is there.
        return any(key in entry.data for entry in raft.unapplied())

    def leads(self, group: bytes) -> int | None:
        """The epoch in which this node leads a log, knowing all of it; None if it does not."""
        found = self._groups.get(group)
        return None if found is None else found.epoch

    def leader(self, group: bytes) -> bytes | None:
        """Who leads a log, as far as is known here."""
        raft = self._raft.group(group)
        return None if raft is None else raft.leader

    def raft(self, group: bytes) -> Raft | None:
        """The consensus of a log, to be looked at."""
        return self._raft.group(group)

    @property
    def groups(self) -> list[bytes]:
        """Logs of which this node has a part, sorted."""
        return sorted(self._groups)

    def copies_to_expect(self, group: bytes) -> tuple[int, int]:
        """(voters, learners) of a log, as it is now: one voter is one copy for certain, three are two."""
        raft = self._raft.group(group)
        return (0, 0) if raft is None else (len(raft.members.voters), len(raft.members.learners))

    def voters(self, group: bytes) -> tuple[bytes, ...]:
        """Who votes in a log, as far as this node knows."""
        raft = self._raft.group(group)
        return () if raft is None else raft.members.voters

    def wait_for(self, provided: Callable[[bytes, bytes], bool]) -> None:
        """A learner votes when it has caught up, and ``provided(group, id)`` says that it has what lies beside the log, too; asked
        every now and then until it does."""
        self._steward.provided = provided

    def hosts(self, ids: Iterable[bytes]) -> int:
        """On how many machines these nodes are."""
        return len({self._steward.host(id) for id in ids})

    # What people want.

    def propose(self, now: float, group: bytes, record: Record | bytes) -> int | Refusal:
        """Has a record committed. A ticket, of which `Committed` or `Dropped` tells later, or why not."""
        self._enter(now)
        found, raft = self._groups.get(group), self._raft.group(group)
        if found is None or raft is None:
            return Refusal(Reason.UNKNOWN_GROUP, "this node has no part in the log")
        retry_s = self.config.refuse_after_s
        if not raft.leads:
            return Refusal(Reason.NOT_LEADER, "another node leads the log", raft.leader, retry_s)
        if found.epoch is None:
            return Refusal(Reason.NOT_YET, "this node has just begun to lead the log", retry_after_s=retry_s)
        if raft.handing_over:
            return Refusal(Reason.HANDING_OVER, "another node is about to lead the log", retry_after_s=retry_s)
        if raft.busy:
            return Refusal(Reason.BUSY, "much is being written", retry_after_s=retry_s)
        if raft.full:
            return Refusal(Reason.DISK_FULL, "the disk of this node is full", retry_after_s=20 * retry_s)
        refusal = found.admit(record, self._ticket + 1)
        if refusal is not None:
            return refusal
        self._ticket += 1
        self._queued[group] = None
        return self._ticket

    def read(self, now: float, group: bytes, context: bytes) -> Refusal | None:
        """Asks for a linearizable read: `ReadReady` with `context` follows, and then `state(group)` has all that was
        committed anywhere before this call; or `ReadLost`. Where there is no quorum neither comes: that is "unknown"."""
        self._enter(now)
        refused = self._raft.read(now, group, context)
        if refused is None:
            return None
        raft = self._raft.group(group)
        reason = Reason.UNKNOWN_GROUP if raft is None else Reason.NOT_LEADER
        return Refusal(reason, "another node leads the log", raft.leader if raft is not None else None)

    def time(self, now: float) -> float:
        """The wall clock, for records."""
        return now + self._wall_offset

    def tell_wall(self, now: float, wall: float) -> None:
        """What the wall clock shows. Tell it now and then, and when it was set."""
        self._wall_offset = wall - now

    # The fleet.

    def members_seen(self, now: float, rows: Iterable[tuple[bytes, bytes, Presence]]) -> None:
        """All members of the fleet as they are known: (id, host, presence). Whoever is not named any more is away."""
        self._enter(now)
        self._steward.seen(self._now, rows)

    def drain(self, now: float, for_good: bool = False) -> None:
        """Hands over: leadership; and with `for_good` its part in every group too. `Drained` says when that is done, or
        that nobody is there who could take over. The node's own record has to say so too: others give the lead back to a home
        of which they do not know that it is `DRAINING` or `LEAVING`, and it is handed over again."""
        self._enter(now)
        self._steward.drain(self._now, for_good)

    def recover_accept_loss(self, now: float, name: bytes) -> Loss | Refusal:
        """Makes this node the only voter of a group whose majority is lost for good. What that gives up is in the answer,
        and stays given up. The others must not run, or come back as new nodes."""
        self._enter(now)
        group, raft = self._groups.get(name), self._raft.group(name)
        if group is None or raft is None:
            return Refusal(Reason.UNKNOWN_GROUP, "this node has no copy of the log: recover on one that has")
        if raft.leads:
            return Refusal(Reason.KNOWN, "this node leads the log, with a majority: nothing is lost")
        state, damaged, last = group.state, raft.damaged, raft.last
        gone = tuple(id for id in raft.members.voters if id != self.id)
        loss = Loss(name, gone, last, raft.commit, damaged, state.wall, len(state.batches), state.unfinished)
        self._raft.force(now, name)
        fields = {"group": name, "gone": gone, "last": last, "committed": loss.committed, "damaged": damaged}
        self._effects.append(Fact("ledger.forced", fields=fields))
        return loss

    # What comes.

    def receive(self, now: float, sender: bytes, payload: bytes | memoryview) -> None:
        """A frame came from a node whose id is authenticated."""
        self._enter(now)
        self._raft.receive(now, sender, payload)

    def synced(self, now: float, number: int) -> None:
        """The storage has done the sync `number`, and all before it."""
        self._enter(now)
        self._raft.synced(now, number)

    def tick(self, now: float) -> None:
        """The instant of `next_deadline` has come, or has passed."""
        self._enter(now)
        self._raft.tick(now)
        if now >= self._steward.at:
            self._effects += self._steward.look(self._now)
        if now >= self._forget_at:
            self._forget()

    def next_deadline(self) -> float | None:
        """When `tick` wants to be called."""
        nearest = min(self._steward.at, self._forget_at, self._raft.next_deadline() or _NEVER)
        return None if nearest == _NEVER else nearest

    # The end of a turn.

    def take(self) -> list[Effect]:
        """What is to be done, in order."""
        for name in self._queued:
            group = self._groups.get(name)
            if group is not None and group.queued:
                self._effects += group.flush(self._now, self._raft)
        self._queued.clear()
        while found := self._raft.take():
            for effect in found:
                self._on(effect)
        if self._changed:
            self._announce()
        effects, self._effects = self._effects, []
        return effects

    def _on(self, effect: RaftEffect) -> None:
        match effect:
            case Apply() | Install() | Leading() | Following() | Changed() | Removed() | Repaired():
                group, raft = self._groups.get(effect.group), self._raft.group(effect.group)
                if group is not None and raft is not None:
                    self._happens(effect, group, raft)
            case Stranger():
                self._meet(effect)
            case _:
                self._effects.append(effect)

    def _happens(
        self,
        effect: Apply | Install | Leading | Following | Changed | Removed | Repaired,
        group: Group,
        raft: Raft,
    ) -> None:
        match effect:
            case Apply():
                self._apply(effect, group, raft)
            case Install():
                pinned = bool(group.state.pins.blobs)
                group.install(effect.snapshot)
                if pinned or group.state.pins.blobs:
                    self._effects.append(Named(group.name))
            case Leading():
                group.told_leader = self.id
                self._look_again(group)
            case Following():
                self._lose(group, effect.leader)
            case Changed():
                self._look_again(group)
            case Removed():
                self._leave(group)
            case Repaired():
                self._effects.append(Fact("ledger.repaired", fields={"group": effect.group}))

    def _look_again(self, group: Group) -> None:
        group.settled = group.removed = False
        self._steward.at = min(self._steward.at, self._now)
        self._changed = True

    def _apply(self, effect: Apply, group: Group, raft: Raft) -> None:
        copies: list[bytes] | None = None
        pinned = group.state.pins.changes
        for index, entry in enumerate(effect.entries, effect.first):
            for ticket, applied in group.apply(index, entry):
                if group.retention is not None and applied.outcomes is not None and applied.key is not None:
                    group.retention.finished(self._now, group.state.batches[applied.key])
                    self._forget_by(group.retention)
                if ticket is not None and ticket.number:
                    if copies is None:
                        copies = raft.copies(effect.first + len(effect.entries) - 1)
                    hosts = {self._steward.host(id) for id in copies}
                    self._effects.append(Committed(ticket.number, len(copies), len(hosts), applied))
        if group.state.pins.changes != pinned:
            self._effects.append(Named(group.name))
        if group.epoch is None and raft.established:
            self._lead(group, raft)
        self._compact(group, raft)

    def _lead(self, group: Group, raft: Raft) -> None:
        """All that was committed before is known here: the owner may begin."""
        group.epoch = raft.term
        group.retention = Retention(self._now, group.state, self.config)
        self._forget_by(group.retention)
        self._changed = True
        self._effects.append(Lead(group.name, raft.term, group.state))

    def _forget_by(self, retention: Retention) -> None:
        deadline = retention.next_deadline()
        if deadline is not None and deadline < self._forget_at:
            self._forget_at = deadline

    def _lose(self, group: Group, leader: bytes | None) -> None:
        led = group.epoch is not None or group.told_leader == self.id
        group.epoch = group.retention = None
        self._changed = True
        self._effects += group.drop_all("leadership-lost")
        if led or (leader is not None and leader != group.told_leader):
            group.told_leader = leader
            self._effects.append(Follow(group.name, leader))

    def _compact(self, group: Group, raft: Raft) -> None:
        if raft.log_bytes <= max(group.compact_above, group.state.nbytes) or raft.stable < group.state.applied:
            return
        data = group.state.snapshot()
        if len(data) > SNAPSHOT_BYTES_MAX:
            # What is accepted has bounds far below; what came from a log that had none waits until there is less of it.
            group.compact_above = 2 * raft.log_bytes
            self._effects.append(Fact("ledger.too_large", fields={"group": group.name, "bytes": len(data)}))
            return
        group.compact_above = self.config.log_bytes_min
        self._raft.compact(self._now, group.name, group.state.applied, data)

    def _meet(self, stranger: Stranger) -> None:
        """A node speaks of a group that is not known here: it wants to add this one, if it is a member of the fleet."""
        name = stranger.group
        if name in self._groups:
            return  # two frames of one turn spoke of it
        others = sum(group.home != self.id for group in self._groups.values())
        reason = None
        if not self._steward.knows(stranger.sender):
            reason = "no-member"
        elif len(name) != NODE_ID_BYTES:
            reason = "no-home"
        elif others >= self.config.groups_max:
            reason = "too-many"
        elif name in self._kept:
            reason = "disk-full"
        if reason is not None:
            facts = {"group": name, "sender": stranger.sender}
            self._effects.append(Fact("ledger.stranger", {"reason": reason}, facts))
            return
        self._open(self._now, name, Recovered(self._votes.pop(name, Vote())))

    def _leave(self, group: Group) -> None:
        """This node is no member of a group any more. Of another home's it gives up all that it has, but for its vote. Its
        own it keeps, asleep: with an empty log it would take itself for the only member, as it was at its first start."""
        self._lose(group, None)
        group.removed = True
        if group.home == self.id:
            return
        self._groups.pop(group.name)
        self._votes[group.name] = self._raft.leave(self._now, group.name)
        self._effects.append(Close(group.name))

    def _announce(self) -> None:
        self._changed = False
        voting, leading = [], []
        for name, group in self._groups.items():
            raft = self._raft.group(name)
            if raft is not None and not group.local:
                if self.id in raft.members.voters:
                    voting.append(group.home)
                if group.epoch is not None:
                    leading.append(group.home)
        announcement = Announcement(tuple(sorted(voting)), tuple(sorted(leading)))
        if announcement != self._announced:
            self._announced = announcement
            self._effects.append(Announce(announcement))

    # Time.

    def _enter(self, now: float) -> None:
        self._now = max(self._now, now)

    def _forget(self) -> None:
        self._forget_at = _NEVER
        wall = self.time(self._now)
        for name, group in sorted(self._groups.items()):
            if group.retention is None:
                continue
            keys = group.retention.due(self._now, wall)
            if keys and group.admit(Forgotten(keys), 0) is None:
                self._queued[name] = None
            self._forget_by(group.retention)
