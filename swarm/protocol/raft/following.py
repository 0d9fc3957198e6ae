"""What a member does with what its leader sends: entries, heartbeats, snapshots, and how it repairs a damaged log."""

from __future__ import annotations

from typing import Any

from swarm.protocol.raft import wire
from swarm.protocol.raft.config import SNAPSHOT_BYTES_MAX
from swarm.protocol.raft.entries import Snapshot
from swarm.protocol.raft.replica import Replica
from swarm.protocol.raft.wire import Kind, Message

_NONCE_MAX = 1 << 52


class Following:
    """The follower's part of replication (Ongaro 2014, 3.5, 5.1). Messages are of this member's term, from its leader.

    A damaged member has lost entries that it acknowledged, and others may have committed these on its word. It takes
    part again when it has all that the leader of a term not below its own had when it was asked, after the damage:

    * no leader was elected with its vote since the damage, so the majority that elected the leader and the majority that
      committed an entry in an earlier term share a member whose log is whole: the leader has the entry;
    * an entry of the leader's own term that this member acknowledged was sent by this leader before it was asked.

    The vote is not damaged (`Recovered`), so no term that this member voted or acknowledged in is above its own.
    """

    __slots__ = ("_buffer", "_goal", "_incoming", "_matched", "_nonce", "_replica", "_term")

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._incoming: tuple[int, int, int] | None = None
        """The snapshot that is coming: (index, term, length)."""
        self._buffer = bytearray()
        self._term = 0
        """The term to which the fields below belong."""
        self._matched = 0
        """Up to here the log is the leader's."""
        self._nonce = 0
        self._goal: int | None = None
        """What a damaged log must have to be whole."""

    def flags(self) -> int:
        """What every answer says of this member."""
        replica = self._replica
        return (wire.DAMAGED if replica.damaged else 0) | (wire.FULL if replica.full else 0)

    def append(self, sender: bytes, message: Message) -> None:
        """Entries."""
        replica, log = self._replica, self._replica.log
        before, entries = message.index, message.entries
        if before < replica.commit:
            # What is committed is as the leader has it: go on after it.
            known = replica.commit - before
            if known >= len(entries):
                self._accept(sender, replica.commit)
                return
            before, entries = replica.commit, entries[known:]
        elif log.term(before) != message.log_term:
            index, term = log.hint(before, message.log_term)
            flags = self.flags() | wire.REJECTED
            self._reply(sender, Kind.APPEND_REPLY, index=index, log_term=term, round=before, flags=flags)
            return
        conflict = log.conflict(before + 1, entries)
        if conflict is not None:
            if replica.full:
                flags = self.flags() | wire.REJECTED
                index = conflict - 1
                self._reply(
                    sender, Kind.APPEND_REPLY, index=index, log_term=log.term(index) or 0, round=before, flags=flags
                )
                return
            if conflict <= log.last:
                replica.truncate(conflict)
            replica.append(entries[conflict - before - 1 :])
        match = before + len(entries)
        replica.commit_to(min(message.commit, match))
        self._accept(sender, match)

    def heartbeat(self, sender: bytes, message: Message) -> bool:
        """A heartbeat. Whether the group goes to rest."""
        replica = self._replica
        replica.commit_to(min(message.commit, replica.log.last))
        rests = (
            bool(message.flags & wire.REST)
            and not replica.damaged
            and replica.commit == message.index == replica.log.last == replica.log.stable
        )
        self._reply(
            sender,
            Kind.HEARTBEAT_REPLY,
            index=replica.log.last,
            commit=replica.commit,
            round=message.round,
            flags=self.flags(),
        )
        return rests

    def snapshot(self, sender: bytes, message: Message) -> None:
        """A chunk of a snapshot."""
        replica = self._replica
        if message.index <= replica.commit:
            self._accept(sender, replica.commit)
            return
        if replica.log.term(message.index) == message.log_term:
            # All of it is here, and what comes after it may have been acknowledged: that stays.
            replica.commit_to(message.index)
            self._accept(sender, message.index)
            return
        key = (message.index, message.log_term, message.total)
        if self._incoming != key:
            self._incoming = key
            self._buffer.clear()
        if message.offset == len(self._buffer):
            self._buffer += message.chunk
        if len(self._buffer) < message.total or replica.full:
            self._reply(sender, Kind.SNAPSHOT_REPLY, index=message.index, offset=len(self._buffer), flags=self.flags())
            return
        assert message.members is not None and len(self._buffer) <= SNAPSHOT_BYTES_MAX
        replica.install(Snapshot(message.index, message.log_term, message.members, bytes(self._buffer)))
        self._incoming = None
        self._buffer.clear()
        self._accept(sender, message.index)

    def ask_repair(self) -> None:
        """Asks the leader what this damaged log must have, at most once a heartbeat."""
        replica = self._replica
        self._enter()
        if self._goal is None and replica.leader is not None:
            if not self._nonce:
                self._nonce = 1 + int(replica.rng.random() * _NONCE_MAX)
            self._reply(replica.leader, Kind.REPAIR, round=self._nonce)

    def repair_goal(self, message: Message) -> None:
        """The leader's answer."""
        self._enter()
        if self._replica.damaged and self._nonce and message.round == self._nonce:
            self._goal = message.index
            self.check_repair()

    def check_repair(self) -> None:
        """Ends the repair if all is there, and on disk."""
        replica = self._replica
        if not replica.damaged or self._goal is None or self._term != replica.term:
            return
        if min(self._matched, replica.log.stable) >= self._goal:
            replica.repaired()

    def _accept(self, sender: bytes, match: int) -> None:
        self._enter()
        self._matched = max(self._matched, match)
        self.check_repair()
        self._reply(sender, Kind.APPEND_REPLY, index=match, flags=self.flags(), durable=match)

    def _enter(self) -> None:
        """What was known of the leader of an earlier term says nothing of this one."""
        if self._term != self._replica.term:
            self._term = self._replica.term
            self._matched = self._nonce = 0
            self._goal = None

    def _reply(self, to: bytes, kind: Kind, *, durable: int = 0, **fields: Any) -> None:
        replica = self._replica
        replica.send(to, Message(replica.group, kind, replica.term, **fields), durable)
