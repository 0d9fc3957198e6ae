"""A leader's part: replication, commitment, heartbeats, check-quorum, reads, and the hand-over of leadership.

One object is one leadership: it is made when a term is won and dropped when it ends, and nothing of it outlives that.
"""

from __future__ import annotations

from collections import deque

from swarm.protocol.raft import wire
from swarm.protocol.raft.effects import Proposed, ReadLost, ReadReady, Refusal
from swarm.protocol.raft.entries import Entry, EntryKind, Members
from swarm.protocol.raft.progress import Flow, Progress
from swarm.protocol.raft.replica import Replica
from swarm.protocol.raft.wire import Kind, Message


class Leading:
    """The leader of a group in one term."""

    __slots__ = (
        "_beat", "_busy_at", "_check_at", "_heartbeat_at", "_new_reads", "_prefer_at", "_reads", "_replica", "_round",
        "_term_start", "_transfer_until", "_uncommitted_bytes", "peers", "rests", "transfer_to",
    )  # fmt: skip

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        config, now = replica.config, replica.now
        self._heartbeat_at = now
        self._check_at = now + config.election_timeout_s
        self._prefer_at = now + config.election_timeout_s
        self._busy_at = now
        """When there was something to do for the last time."""
        self.rests = False
        """Nothing is sent and no timer runs: all is everywhere, and everybody knows."""
        self._beat = True
        """A heartbeat to all is due at the end of this turn."""
        self._round = 0
        self._new_reads: list[bytes] = []
        self._reads: deque[tuple[int, int, bytes]] = deque()
        """(round of heartbeats that confirms it, index to be read, context), oldest first."""
        self.transfer_to: bytes | None = None
        self._transfer_until = 0.0
        log = replica.log
        tail = log.slice(replica.commit + 1, log.last, 1 << 62) if log.last > replica.commit else []
        self._uncommitted_bytes = sum(len(entry.data) for entry in tail)
        self.peers: dict[bytes, Progress] = {}
        self._follow_members(log.last + 1)
        for peer in self.peers.values():
            peer.active = False
        replica.append((Entry(replica.term, EntryKind.NOTHING, b""),))
        self._term_start = log.last

    # What the shell asks.

    def propose(self, data: bytes) -> Proposed | Refusal:
        """Appends an entry."""
        replica = self._replica
        if self.transfer_to is not None:
            return Refusal.HANDING_OVER
        if replica.full:
            return Refusal.FULL
        if self.busy:
            return Refusal.BUSY
        return self._append(EntryKind.DATA, data)

    @property
    def busy(self) -> bool:
        """Whether too much is not committed yet."""
        return self._uncommitted_bytes > self._replica.config.uncommitted_bytes

    def change(self, members: Members) -> Proposed | Refusal:
        """Appends other members, of which at most one voter is another one than now (Ongaro 2014, 4.1)."""
        replica = self._replica
        if self.transfer_to is not None:
            return Refusal.HANDING_OVER
        if replica.commit < self._term_start:
            return Refusal.NOT_YET
        if replica.members_index > replica.commit:
            return Refusal.PENDING
        assert len(set(members.voters) ^ set(replica.members.voters)) <= 1, (members, replica.members)
        proposed = self._append(EntryKind.MEMBERS, members.pack())
        self._follow_members(proposed.index)
        return proposed

    def read(self, context: bytes) -> None:
        """Asks for a read that sees all that is committed now: it is ready once a majority has confirmed, after this,
        that there is no later leader (read index, Ongaro 2014, 6.4)."""
        self.wake()
        self._new_reads.append(context)

    def transfer(self, to: bytes) -> Refusal | None:
        """Hands leadership to a voter, once that has the whole log (3.10)."""
        replica = self._replica
        peer = self.peers.get(to)
        if peer is None or to not in replica.members.voters:
            return Refusal.UNKNOWN_MEMBER
        if self.transfer_to is not None:
            return Refusal.HANDING_OVER
        if peer.damaged or peer.full:
            return Refusal.BEHIND
        self.wake()
        self.transfer_to = to
        self._transfer_until = replica.now + replica.config.transfer_timeout_s
        self._hand_over(peer)
        return None

    def caught_up(self, id: bytes) -> bool:
        """Whether a member lacks so little that it can be a voter."""
        peer = self.peers.get(id)
        if peer is None or peer.damaged or peer.full or peer.flow is not Flow.STREAM:
            return False
        if not peer.active and (peer.absent or not self.rests):
            return False  # at rest nobody answers; who goes silent then wakes the group
        return peer.match + self._replica.config.catch_up_entries >= self._replica.log.last

    def copies(self, index: int) -> list[bytes]:
        """Members on whose disk an entry is known to be."""
        replica = self._replica
        found = [peer.id for peer in self.peers.values() if peer.counted >= index]
        return sorted([*found, replica.id] if replica.log.stable >= index else found)

    @property
    def established(self) -> bool:
        """Whether an entry of this term is committed, so that all that was committed before is known to be."""
        return self._replica.commit >= self._term_start

    # Time.

    def next_deadline(self) -> float | None:
        """When `tick` wants to be called."""
        return None if self.rests else min(self._heartbeat_at, self._check_at)

    def wake(self) -> None:
        """There is something to do."""
        self._busy_at = self._replica.now
        if self.rests:
            self.rests = False
            self._beat = True
            self._check_at = self._replica.now + self._replica.config.election_timeout_s
            for peer in self.peers.values():
                peer.active = False

    def tick(self) -> bool:
        """Whether this node still leads: a majority answered since the last look (check-quorum, 6.2)."""
        replica, now = self._replica, self._replica.now
        if self.transfer_to is not None and now >= self._transfer_until:
            self.transfer_to = None
        if now >= self._check_at:
            self._check_at = now + replica.config.election_timeout_s
            members = replica.members
            heard = sum(self._answers(voter) for voter in members.voters)
            if heard < members.majority:
                return False
            for peer in self.peers.values():
                peer.absent = not peer.active
                peer.active = False
        if now >= self._heartbeat_at:
            self._beat = True
            self._prefer()
        return True

    def _answers(self, voter: bytes) -> bool:
        if voter == self._replica.id:
            return True
        peer = self.peers[voter]
        return peer.active and not peer.damaged

    def _prefer(self) -> None:
        """The home of the group is to lead it, as soon as it can."""
        replica = self._replica
        home = replica.preferred
        if home is None or home == replica.id or replica.now < self._prefer_at or home not in replica.members.voters:
            return
        peer = self.peers[home]
        if peer.active and peer.match >= replica.commit >= self._term_start and self.transfer(home) is None:
            self._prefer_at = replica.now + replica.config.prefer_interval_s

    # What the others answer.

    def appended(self, peer: Progress, message: Message) -> None:
        """An answer to entries or a snapshot."""
        log = self._replica.log
        self._heard(peer, message)
        if message.flags & wire.REJECTED:
            if peer.damaged:
                peer.lost()
            if peer.flow is not Flow.STREAM and message.round != peer.next - 1 and not peer.full:
                return  # not of the probe that is under way
            if message.round <= peer.match and not peer.full:
                return  # of before: it is known better
            meet, term = log.hint(message.index, message.log_term)
            if message.index < meet or message.log_term < term:
                meet = log.base.index - 1  # before all that is still here: it takes the snapshot
            peer.rejected(meet + 1)
            peer.paused = peer.full
        elif message.index <= log.last:
            peer.accepted(message.index)
            if peer.id == self.transfer_to:
                self._hand_over(peer)

    def beaten(self, peer: Progress, message: Message) -> None:
        """An answer to a heartbeat."""
        replica = self._replica
        if self.rests:
            same = message.index == replica.log.last and message.commit == replica.commit
            if same and not message.flags and not peer.absent:
                peer.active = True
                return
            self.wake()
        self._heard(peer, message)
        peer.answered_heartbeat()
        peer.round = max(peer.round, min(message.round, self._round))
        peer.commit = max(peer.commit, min(message.commit, replica.commit))
        last = replica.log.last
        if peer.match < last < peer.next and peer.flow is not Flow.SNAPSHOT and peer.ready:
            self._send_entries(peer)  # all was sent and not all has come: this asks where it stands
        self._confirm_reads()

    def chunk_taken(self, peer: Progress, message: Message) -> None:
        """An answer to a chunk of a snapshot."""
        self._heard(peer, message)
        if peer.flow is not Flow.SNAPSHOT or message.index != peer.snapshot_index:
            return
        if message.offset != peer.snapshot_offset and message.offset <= len(self._replica.log.base.data):
            peer.snapshot_offset = message.offset
            peer.paused = peer.full

    def repair(self, peer: Progress, message: Message) -> None:
        """A member's log is damaged: it must have all that is here now."""
        replica = self._replica
        peer.lost()
        if peer.flow is Flow.STREAM:
            peer.probe(replica.log.last + 1)
        replica.send(
            peer.id,
            Message(replica.group, Kind.REPAIR_REPLY, replica.term, index=replica.log.last, round=message.round),
        )

    def _heard(self, peer: Progress, message: Message) -> None:
        peer.active = True
        peer.absent = False
        peer.damaged = bool(message.flags & wire.DAMAGED)
        peer.full = bool(message.flags & wire.FULL)

    # What is committed.

    def advance(self) -> None:
        """Commits what a majority has on disk, if it is of this term (5.4.2 of the paper, 3.6.2), then what follows."""
        replica, members = self._replica, self._replica.members
        matches = sorted(self._counted(voter) for voter in members.voters)
        index = matches[len(matches) - members.majority]
        if index <= replica.commit or replica.log.term(index) != replica.term:
            return
        for entry in replica.log.slice(replica.commit + 1, index - replica.commit, 1 << 62):
            self._uncommitted_bytes -= len(entry.data)
        replica.commit_to(index)

    @property
    def removed(self) -> bool:
        """The group has committed that this node is no voter of it: it leads no longer (4.2.2)."""
        replica = self._replica
        return replica.members_index <= replica.commit and replica.id not in replica.members.voters

    def _counted(self, voter: bytes) -> int:
        return self._replica.log.stable if voter == self._replica.id else self.peers[voter].counted

    def _confirm_reads(self) -> None:
        if not self._reads:
            return
        replica, members = self._replica, self._replica.members
        rounds = sorted(self._confirmed(voter) for voter in members.voters)
        confirmed = rounds[len(rounds) - members.majority]
        while self._reads and self._reads[0][0] <= confirmed:
            _, index, context = self._reads.popleft()
            replica.events.append(ReadReady(replica.group, context, index))

    def _confirmed(self, voter: bytes) -> int:
        if voter == self._replica.id:
            return self._round
        peer = self.peers[voter]
        return 0 if peer.damaged else peer.round

    # The end of a turn.

    def flush(self) -> None:
        """Sends what this turn gave reason to send."""
        replica = self._replica
        self.advance()
        if self._new_reads and replica.commit >= self._term_start:
            self._round += 1
            self._reads.extend((self._round, replica.commit, context) for context in self._new_reads)
            self._new_reads.clear()
            self._beat = True
            self._confirm_reads()
        for peer in self.peers.values():
            if peer.flow is Flow.SNAPSHOT:
                self._send_chunk(peer)
            else:
                while peer.next <= replica.log.last and peer.ready:
                    self._send_entries(peer)
                    if peer.flow is not Flow.STREAM:
                        break
        if self._beat:
            self._send_heartbeats()

    def end(self) -> None:
        """The leadership is over: what was asked of it is not answered."""
        replica = self._replica
        for context in [context for _, _, context in self._reads] + self._new_reads:
            replica.events.append(ReadLost(replica.group, context, replica.leader))

    def _append(self, kind: EntryKind, data: bytes) -> Proposed:
        replica = self._replica
        self.wake()
        self._uncommitted_bytes += len(data)
        replica.append((Entry(replica.term, kind, data),))
        return Proposed(replica.log.last, replica.term)

    def _follow_members(self, next: int) -> None:
        replica = self._replica
        wanted = [id for id in replica.members.all if id != replica.id]
        self.peers = {id: self.peers.get(id) or Progress(id, next, replica.config) for id in wanted}

    def _hand_over(self, peer: Progress) -> None:
        if peer.match == self._replica.log.last:
            self._replica.send(peer.id, Message(self._replica.group, Kind.TRANSFER, self._replica.term))

    def _send_entries(self, peer: Progress) -> None:
        replica, log, config = self._replica, self._replica.log, self._replica.config
        before = peer.next - 1
        term = log.term(before)
        if term is None:
            peer.send_snapshot()
            self._send_chunk(peer)
            return
        entries = log.slice(peer.next, 1 if peer.full else config.append_entries, config.append_bytes)
        message = Message(
            replica.group,
            Kind.APPEND,
            replica.term,
            index=before,
            log_term=term,
            commit=replica.commit,
            entries=entries,
        )
        peer.sent(before + len(entries), message.size)
        replica.send(peer.id, message)

    def _send_chunk(self, peer: Progress) -> None:
        if not peer.ready:
            return
        replica, snapshot = self._replica, self._replica.log.base
        if peer.snapshot_index != snapshot.index:
            peer.snapshot_index, peer.snapshot_offset = snapshot.index, 0
        start = peer.snapshot_offset
        message = Message(
            replica.group,
            Kind.SNAPSHOT,
            replica.term,
            index=snapshot.index,
            log_term=snapshot.term,
            members=snapshot.members,
            offset=start,
            total=len(snapshot.data),
            chunk=snapshot.data[start : start + replica.config.snapshot_chunk_bytes],
        )
        peer.paused = True
        replica.send(peer.id, message)

    def _send_heartbeats(self) -> None:
        replica = self._replica
        self._beat = False
        self._heartbeat_at = replica.now + replica.config.heartbeat_s
        self.rests = self._may_rest()
        for peer in self.peers.values():
            replica.send(
                peer.id,
                Message(
                    replica.group,
                    Kind.HEARTBEAT,
                    replica.term,
                    index=replica.log.last if self.rests else 0,
                    commit=min(peer.match, replica.commit),
                    round=self._round,
                    flags=wire.REST if self.rests else 0,
                ),
            )

    def _may_rest(self) -> bool:
        replica = self._replica
        last = replica.log.last
        if (
            replica.now - self._busy_at < replica.config.rest_after_s
            or not replica.commit == replica.log.stable == last
            or self._reads
            or self._new_reads
            or self.transfer_to is not None
            or self._awaits_home()
        ):
            return False
        present = [peer for peer in self.peers.values() if not peer.absent]
        voters = 1 + sum(peer.id in replica.members.voters for peer in present)
        if any(peer.absent and not peer.match and peer.id in replica.members.learners for peer in self.peers.values()):
            return False  # it may not have heard yet that it is one, and would never ask
        return voters >= replica.members.majority and all(
            peer.match == last and peer.commit == last and not peer.damaged and not peer.full for peer in present
        )

    def _awaits_home(self) -> bool:
        """Whether somebody else, who is there, should lead."""
        home = self._replica.preferred
        if home is None or home == self._replica.id or home not in self._replica.members.voters:
            return False
        return not self.peers[home].absent
