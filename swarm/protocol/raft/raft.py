"""One member of one group: Raft as a pure state machine.

Sources: Ongaro, Consensus: Bridging Theory and Practice (2014), by whose sections the parts are numbered; Ongaro, bug in
single-server membership changes (raft-dev, 10 July 2015); Ongaro and Ousterhout (USENIX ATC 2014). Flow control and
the states of a member's progress are those of etcd's raft.
"""

from __future__ import annotations

from collections.abc import Sequence

from swarm.protocol.member import Rng
from swarm.protocol.raft import wire
from swarm.protocol.raft.config import (
    CONTEXT_BYTES_MAX,
    DEFAULT,
    ENTRY_BYTES_MAX,
    FORCED_TERMS,
    MEMBERS_MAX,
    SNAPSHOT_BYTES_MAX,
    TERM_JUMP_MAX,
    RaftConfig,
)
from swarm.protocol.raft.effects import Following as FollowingEvent
from swarm.protocol.raft.effects import Leading as LeadingEvent
from swarm.protocol.raft.effects import Proposed, Refusal, Removed, Write
from swarm.protocol.raft.election import Ballot, Election
from swarm.protocol.raft.entries import Entry, EntryKind, Members, Recovered, Vote
from swarm.protocol.raft.following import Following
from swarm.protocol.raft.leading import Leading
from swarm.protocol.raft.replica import Event, Replica
from swarm.protocol.raft.wire import Kind, Message


class Raft:
    """A member of a group. Every method that is told something takes `now`; a turn ends with `flush`."""

    __slots__ = ("_election", "_following", "_leading", "_replica", "_resting")

    def __init__(
        self,
        now: float,
        id: bytes,
        group: bytes,
        recovered: Recovered,
        rng: Rng,
        config: RaftConfig = DEFAULT,
        preferred: bytes | None = None,
        applied: int = 0,
    ) -> None:
        self._replica = Replica(id, group, recovered, rng, config, preferred, applied)
        self._replica.now = now
        self._election = Election(self._replica)
        self._following = Following(self._replica)
        self._leading: Leading | None = None
        self._resting = False
        """A follower whose leader has said that there is nothing to do: no timer runs."""
        self._election.postpone()

    # What the shell asks.

    @property
    def term(self) -> int:
        """The latest term seen."""
        return self._replica.term

    @property
    def leader(self) -> bytes | None:
        """Who leads, as far as is known."""
        return self._replica.leader

    @property
    def leads(self) -> bool:
        """Whether this member leads."""
        return self._leading is not None

    @property
    def rests(self) -> bool:
        """Whether there is nothing to do: no message, no timer."""
        return self._leading.rests if self._leading is not None else self._resting

    @property
    def damaged(self) -> bool:
        """Whether its log is damaged."""
        return self._replica.damaged

    @property
    def commit(self) -> int:
        """Entries up to here are committed."""
        return self._replica.commit

    @property
    def last(self) -> int:
        """The index of the last entry."""
        return self._replica.log.last

    @property
    def stable(self) -> int:
        """Entries up to here are on this member's disk."""
        return self._replica.log.stable

    @property
    def vote(self) -> Vote:
        """Its term and vote."""
        return self._replica.vote

    @property
    def parting(self) -> Vote:
        """What must be kept of a member that gives up its log."""
        vote, log = self._replica.vote, self._replica.log
        return Vote(vote.term, vote.candidate, max(vote.left, (log.last_term, log.last)))

    @property
    def log_bytes(self) -> int:
        """Of all entries in memory: what a snapshot would free."""
        return self._replica.log.bytes

    @property
    def first(self) -> int:
        """The index of the first entry that no snapshot stands for."""
        return self._replica.log.base.index + 1

    @property
    def members(self) -> Members:
        """The members, those of a change that is not committed yet included."""
        return self._replica.members

    @property
    def absent(self) -> Sequence[bytes]:
        """Members that did not answer of late, if this one leads."""
        return [] if self._leading is None else [peer.id for peer in self._leading.peers.values() if peer.absent]

    @property
    def established(self) -> bool:
        """Whether this member leads, and all that was committed before it did is known here."""
        return self._leading is not None and self._leading.established

    @property
    def handing_over(self) -> bool:
        """Whether this member leads, and somebody else is about to."""
        return self._leading is not None and self._leading.transfer_to is not None

    @property
    def busy(self) -> bool:
        """Whether too much of what was proposed here is not committed yet."""
        return self._leading is not None and self._leading.busy

    @property
    def full(self) -> bool:
        """Whether this node's disk has no space for entries."""
        return self._replica.full

    def unapplied(self) -> Sequence[Entry]:
        """Entries of which it is not known here whether they are committed."""
        replica = self._replica
        first = max(replica.applied + 1, self.first)
        return replica.log.slice(first, max(0, self.last + 1 - first), 1 << 62)

    def caught_up(self, id: bytes) -> bool:
        """Whether a member lacks so little that it can be a voter, as far as this one, who leads, knows."""
        return self._leading is not None and self._leading.caught_up(id)

    def copies(self, index: int) -> list[bytes]:
        """Members on whose disk an entry is known to be; sorted. Nobody, if this member does not lead."""
        return [] if self._leading is None else self._leading.copies(index)

    @property
    def written(self) -> int:
        """The number of the last write."""
        return self._replica.written

    def propose(self, now: float, data: bytes) -> Proposed | Refusal:
        """Appends an entry, if this member leads. It is committed when it is applied, and not before."""
        self._enter(now)
        if self._leading is None:
            return Refusal.NOT_LEADER
        if len(data) > ENTRY_BYTES_MAX:
            return Refusal.TOO_LARGE
        return self._leading.propose(data)

    def read(self, now: float, context: bytes) -> Refusal | None:
        """Asks for a linearizable read; `ReadReady` or `ReadLost` with `context` follows."""
        assert len(context) <= CONTEXT_BYTES_MAX, len(context)
        self._enter(now)
        if self._leading is None:
            return Refusal.NOT_LEADER
        self._leading.read(context)
        return None

    def transfer(self, now: float, to: bytes) -> Refusal | None:
        """Hands leadership to another voter."""
        self._enter(now)
        return Refusal.NOT_LEADER if self._leading is None else self._leading.transfer(to)

    def campaign(self, now: float) -> None:
        """Stands for election now, without waiting: for a group that was just made. Who hears a leader says no, as ever."""
        self._enter(now)
        if self._leading is None:
            self._resting = False
            self._replica.leader = None
            self._election.stand(Ballot.PRE_VOTE)
            self._poll()

    def prefer(self, now: float, id: bytes | None) -> None:
        """Who is to lead from here on, if anybody in particular."""
        self._enter(now)
        if self._replica.preferred != id:
            self._replica.preferred = id
            if self._leading is not None:
                self._leading.wake()

    def force(self, now: float) -> Members:
        """Makes this member the group's only voter, in a term far above all that it has seen, with all that its log has as
        committed: when the majority is lost for good. On nobody's authority but the operator's, who answers for it that
        the others do not run; what they alone had is given up. The members that there were."""
        self._enter(now)
        replica = self._replica
        members = replica.members
        self._follow(replica.term + FORCED_TERMS, None)
        if replica.damaged:
            replica.repaired()
        replica.append((Entry(replica.term, EntryKind.MEMBERS, Members.of([replica.id]).pack()),))
        self._election.stand(Ballot.VOTE)
        self._poll()
        return members

    def add_learner(self, now: float, id: bytes) -> Proposed | Refusal:
        """Adds a member without a vote."""
        members = self._replica.members
        if id in members.all:
            return Refusal.NO_CHANGE
        if len(members.all) >= MEMBERS_MAX:
            return Refusal.TOO_MANY
        return self._change(now, Members.of(members.voters, (*members.learners, id)))

    def promote(self, now: float, id: bytes) -> Proposed | Refusal:
        """Gives a learner that has caught up a vote."""
        members = self._replica.members
        if id in members.voters:
            return Refusal.NO_CHANGE
        if id not in members.learners:
            return Refusal.UNKNOWN_MEMBER
        if self._leading is not None and not self._leading.caught_up(id):
            return Refusal.BEHIND
        return self._change(now, Members.of((*members.voters, id), members.learners))

    def remove(self, now: float, id: bytes) -> Proposed | Refusal:
        """Removes a member. Its storage must keep its vote, in case that it is added again."""
        members = self._replica.members
        if id not in members.all:
            return Refusal.UNKNOWN_MEMBER
        if members.voters == (id,):
            return Refusal.LAST_VOTER
        return self._change(
            now, Members.of((v for v in members.voters if v != id), (v for v in members.learners if v != id))
        )

    def compact(self, now: float, index: int, data: bytes) -> bool:
        """The shell has the state after entry `index` as `data`, or a reference to it: the log before it can go. Whether it
        could: `index` is applied, and on this member's disk."""
        assert len(data) <= SNAPSHOT_BYTES_MAX, len(data)
        self._enter(now)
        return self._replica.compact(index, data)

    def space(self, now: float, full: bool) -> None:
        """The disk has no space for entries, or has some again."""
        self._enter(now)
        self._replica.full = full

    # What comes.

    def step(self, now: float, sender: bytes, message: Message, heard_at: float | None = None) -> None:
        """A message came from a node whose id is authenticated. `heard_at` is when the node of the leader was heard last,
        for a group at rest."""
        self._enter(now)
        kind = message.kind
        if message.term > self._replica.term + TERM_JUMP_MAX and self._replica.term:
            self._replica.fact("raft.violation", reason="term-jump")
            return
        if kind == Kind.PRE_VOTE and sender not in self._replica.members.all and self._dismiss(sender):
            return
        if self.rests and not self._leaves_at_rest(sender, message):
            self.wake(now, heard_at)
        if kind == Kind.PRE_VOTE:
            self._election.asked_before(sender, message)
            return
        replica = self._replica
        if message.term > replica.term:
            if kind == Kind.VOTE and not self._election.heeds(sender, message):
                return
            if kind != Kind.PRE_VOTE_REPLY or message.flags & wire.REJECTED:
                self._follow(message.term, sender if kind in wire.FROM_LEADER else None)
        elif message.term < replica.term:
            self._answer_stale(sender, message)
            return
        if kind in wire.FROM_LEADER:
            self._from_leader(sender, message)
        elif kind == Kind.VOTE:
            self._election.asked(sender, message)
        elif kind in (Kind.PRE_VOTE_REPLY, Kind.VOTE_REPLY):
            self._election.count(sender, message)
            self._poll()
        elif self._leading is not None:
            peer = self._leading.peers.get(sender)
            if peer is None:
                return
            if kind == Kind.APPEND_REPLY:
                self._leading.appended(peer, message)
            elif kind == Kind.HEARTBEAT_REPLY:
                self._leading.beaten(peer, message)
            elif kind == Kind.SNAPSHOT_REPLY:
                self._leading.chunk_taken(peer, message)
            elif kind == Kind.REPAIR:
                self._leading.repair(peer, message)

    def tick(self, now: float) -> None:
        """The instant of `next_deadline` has come, or has passed."""
        self._enter(now)
        if self._leading is not None:
            if not self._leading.rests and not self._leading.tick():
                knows = self._leading.established
                self._follow(self._replica.term, None)
                if knows:
                    self._replica.step_back()
        elif not self._resting and self._replica.now >= self._election.at:
            self._replica.leader = None
            self._election.stand(Ballot.PRE_VOTE)
            self._poll()

    def next_deadline(self) -> float | None:
        """When `tick` wants to be called; None while the group rests."""
        if self._leading is not None:
            return self._leading.next_deadline()
        return None if self._resting else self._election.at

    def wake(self, now: float, heard_at: float | None) -> None:
        """The group does not rest any more: the node that leads it, or one that it leads, is silent or was restarted, or a
        message came. `heard_at` is when the leader's node was heard last."""
        self._enter(now)
        if self._leading is not None:
            self._leading.wake()
        elif self._resting:
            self._resting = False
            if heard_at is not None:
                self._replica.heard_at = min(heard_at, self._replica.now)
            self._election.postpone(self._replica.heard_at)

    def synced(self, now: float, number: int) -> None:
        """The storage has done write `number` of this group, and all before it."""
        self._enter(now)
        self._replica.synced(number)
        self._following.check_repair()
        self._poll()

    # The end of a turn.

    def flush(self) -> tuple[Write | None, list[tuple[bytes, Message]], list[Event]]:
        """What the storage has to write, what is to be sent, and what has happened."""
        if self._leading is not None:
            self._leading.flush()
            if self._leading.removed:
                self._follow(self._replica.term, None)
        replica = self._replica
        write = replica.take_write()
        events, replica.events = replica.events, []
        return write, replica.take_messages(), events

    # Inside.

    def _enter(self, now: float) -> None:
        # A clock that was set back stands still here until it has caught up.
        if now > self._replica.now:
            self._replica.now = now

    def _change(self, now: float, members: Members) -> Proposed | Refusal:
        self._enter(now)
        return Refusal.NOT_LEADER if self._leading is None else self._leading.change(members)

    def _from_leader(self, sender: bytes, message: Message) -> None:
        replica = self._replica
        if self._leading is not None or replica.leader not in (None, sender):
            replica.fact("raft.violation", reason="two-leaders")
            return
        if replica.leader is None:
            self._follow(replica.term, sender)
        replica.heard_at = replica.now
        self._election.postpone()
        if message.kind == Kind.TRANSFER:
            self._election.stand(Ballot.VOTE, by_transfer=True)
            replica.leader = None
            self._poll()
            return
        if message.kind == Kind.REMOVED:
            if message.index and message.index < replica.members_index:
                return  # of before: it was added again, and knows it
            self._election.refrain()
            replica.events.append(Removed(replica.group))
            return
        if replica.damaged:
            if message.kind == Kind.REPAIR_REPLY:
                self._following.repair_goal(message)
            else:
                self._following.ask_repair()
        if message.kind == Kind.APPEND:
            self._following.append(sender, message)
        elif message.kind == Kind.HEARTBEAT:
            self._resting = self._following.heartbeat(sender, message)
        elif message.kind == Kind.SNAPSHOT:
            self._following.snapshot(sender, message)

    def _leaves_at_rest(self, sender: bytes, message: Message) -> bool:
        if message.kind == Kind.PRE_VOTE:
            return sender not in self._replica.members.all
        return message.kind == Kind.HEARTBEAT_REPLY or (
            message.kind == Kind.HEARTBEAT and bool(message.flags & wire.REST)
        )

    def _dismiss(self, sender: bytes) -> bool:
        """Somebody that is no member asks for votes: whoever leads knows whether that is committed, and says so."""
        replica = self._replica
        if self._leading is None or replica.members_index > replica.commit:
            return False
        replica.send(sender, Message(replica.group, Kind.REMOVED, replica.term, index=replica.members_index))
        return True

    def _answer_stale(self, sender: bytes, message: Message) -> None:
        """Somebody is behind: it learns the term from the answer."""
        replica = self._replica
        if message.kind == Kind.VOTE:
            reply = Message(replica.group, Kind.VOTE_REPLY, replica.term, flags=wire.REJECTED)
        elif message.kind in wire.FROM_LEADER:
            reply = Message(replica.group, Kind.STALE, replica.term)
        else:
            return
        replica.send(sender, reply)

    def _follow(self, term: int, leader: bytes | None) -> None:
        """Follows a leader, or nobody, in this term or a later one."""
        replica = self._replica
        if term > replica.term:
            replica.set_vote(term, None)
        replica.leader = leader
        self._resting = False
        self._election.withdraw()
        self._election.postpone()
        if self._leading is not None:
            self._leading.end()
            self._leading = None
        replica.events.append(FollowingEvent(replica.group, term, leader))

    def _poll(self) -> None:
        """Looks at the votes."""
        election, replica = self._election, self._replica
        while (won := election.outcome()) is not None:
            if not won:
                election.withdraw()
                return
            if election.ballot is Ballot.PRE_VOTE:
                election.stand(Ballot.VOTE)
                continue
            election.withdraw()
            replica.leader = replica.id
            self._leading = Leading(replica)
            replica.events.append(LeadingEvent(replica.group, replica.term))
