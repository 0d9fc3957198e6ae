"""Elections: pre-vote (Ongaro 2014, 9.6), votes (3.4), and the refusal to disturb a leader that is heard (4.2.3)."""

from __future__ import annotations

from enum import Enum

from swarm.protocol.raft import wire
from swarm.protocol.raft.config import NUMBER_MAX
from swarm.protocol.raft.replica import Replica
from swarm.protocol.raft.wire import Kind, Message


class Ballot(Enum):
    """What a candidate asks for."""

    PRE_VOTE = "pre-vote"
    """Would you vote for me? No term is used up by asking."""
    VOTE = "vote"


class Election:
    """A member's part in elections: when it stands, whom it votes for."""

    __slots__ = ("_replica", "_votes", "at", "ballot")

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._votes: dict[bytes, bool] = {}
        self.ballot: Ballot | None = None
        """What is being asked for, if this member stands."""
        self.at = float("inf")
        """When it stands next, if it has heard from no leader by then."""

    def postpone(self, since: float | None = None) -> None:
        """A leader was heard, or somebody got this member's vote: begin to wait anew."""
        replica, config = self._replica, self._replica.config
        wait_s = config.election_timeout_s * (1.0 + replica.rng.random())
        if replica.preferred != replica.id:
            wait_s += config.preferred_delay_s
        self.at = (replica.now if since is None else since) + wait_s

    def refrain(self) -> None:
        """Does not stand until a leader is heard again."""
        self.withdraw()
        self.at = float("inf")

    @property
    def eligible(self) -> bool:
        """Whether this member may stand: it votes, its log is whole, and it can write what it would have to."""
        replica = self._replica
        log = replica.log
        whole = not replica.damaged and not replica.has_more(log.last, log.last_term)
        return replica.id in replica.members.voters and whole and not replica.full

    def stand(self, ballot: Ballot, by_transfer: bool = False) -> None:
        """Asks the others for their votes."""
        replica = self._replica
        self.postpone()
        if not self.eligible or replica.term >= NUMBER_MAX:
            self.ballot = None
            if replica.id not in replica.members.voters:
                self._ask_whether_removed()
            return
        self.ballot = ballot
        self._votes.clear()
        if ballot is Ballot.PRE_VOTE:
            self._votes[replica.id] = True
            kind, term = Kind.PRE_VOTE, replica.term + 1
        else:
            replica.set_vote(replica.term + 1, replica.id)
            kind, term = Kind.VOTE, replica.term
        flags = wire.BY_TRANSFER if by_transfer else 0
        log = replica.log
        for peer in replica.members.voters:
            if peer != replica.id:
                replica.send(
                    peer, Message(replica.group, kind, term, index=log.last, log_term=log.last_term, flags=flags)
                )

    def _ask_whether_removed(self) -> None:
        """A learner that hears no leader may be none any more: who leads answers a pre-vote with that. Votes do it no good."""
        replica = self._replica
        for peer in replica.members.voters:
            replica.send(peer, Message(replica.group, Kind.PRE_VOTE, replica.term + 1))

    def withdraw(self) -> None:
        """There is a leader, or a later term."""
        self.ballot = None
        self._votes.clear()

    def outcome(self) -> bool | None:
        """Whether this member has won what it asks for; None while that is open."""
        replica = self._replica
        if self.ballot is None:
            return None
        if self.ballot is Ballot.VOTE and replica.vote_synced and replica.vote.candidate == replica.id:
            self._votes[replica.id] = True
        members = replica.members
        ayes = sum(self._votes.get(voter, False) for voter in members.voters)
        noes = sum(not self._votes.get(voter, True) for voter in members.voters)
        if ayes >= members.majority:
            return True
        return False if noes > len(members.voters) - members.majority else None

    def count(self, sender: bytes, message: Message) -> None:
        """A vote came, of this member's term, or a pre-vote."""
        replica = self._replica
        granted = not message.flags & wire.REJECTED
        if message.kind == Kind.PRE_VOTE_REPLY:
            if self.ballot is not Ballot.PRE_VOTE or (granted and message.term != replica.term + 1):
                return
        elif self.ballot is not Ballot.VOTE or message.term != replica.term:
            return
        self._votes.setdefault(sender, granted)

    def asked_before(self, sender: bytes, message: Message) -> None:
        """Answers a pre-vote."""
        replica = self._replica
        granted = (
            not replica.damaged
            and message.term > replica.term
            and not replica.has_more(message.index, message.log_term)
            and not (replica.hears_leader() and replica.leader != sender)
        )
        term = message.term if granted else replica.term
        if term == 0:
            return
        flags = 0 if granted else wire.REJECTED
        replica.send(sender, Message(replica.group, Kind.PRE_VOTE_REPLY, term, flags=flags))

    def asked(self, sender: bytes, message: Message) -> None:
        """Answers a request for a vote in this member's term."""
        replica = self._replica
        granted = (
            not replica.damaged
            and replica.vote.candidate in (None, sender)
            and replica.leader in (None, sender)
            and not replica.has_more(message.index, message.log_term)
        )
        if granted and replica.vote.candidate is None:
            replica.set_vote(replica.term, sender)
            self.postpone()
        flags = 0 if granted else wire.REJECTED
        replica.send(sender, Message(replica.group, Kind.VOTE_REPLY, replica.term, flags=flags))

    def heeds(self, sender: bytes, message: Message) -> bool:
        """Whether a request for a vote in a later term is heard at all, or kept from disturbing a leader."""
        replica = self._replica
        return bool(message.flags & wire.BY_TRANSFER) or not replica.hears_leader() or replica.leader == sender
