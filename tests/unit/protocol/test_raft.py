"""Consensus of one group, one thing at a time: three nodes side by side, messages and syncs by hand."""

from __future__ import annotations

from random import Random

import pytest

from swarm.protocol.raft import wire
from swarm.protocol.raft.config import ENTRY_BYTES_MAX, RaftConfig
from swarm.protocol.raft.effects import (
    Apply,
    Changed,
    Install,
    Proposed,
    ReadLost,
    ReadReady,
    Refusal,
    Removed,
    Repaired,
)
from swarm.protocol.raft.entries import Entry, EntryKind, Members, Recovered, Snapshot, Vote
from swarm.protocol.raft.raft import Raft
from swarm.protocol.raft.wire import Kind, Message
from tests.sim.raft.cluster import GROUP, Cluster, id_of

CONFIG = RaftConfig()


def propose(cluster: Cluster, number: int, data: bytes = b"x") -> Proposed:
    proposed = cluster.node(number).propose(cluster.now, GROUP, data)
    assert isinstance(proposed, Proposed), proposed
    return proposed


def applied(cluster: Cluster, number: int) -> list[bytes]:
    return [
        entry.data
        for effect in cluster.events[id_of(number)]
        if isinstance(effect, Apply)
        for entry in effect.entries
        if entry.kind == EntryKind.DATA
    ]


def of(cluster: Cluster, number: int, kind: type) -> list:
    return [effect for effect in cluster.events[id_of(number)] if isinstance(effect, kind)]


def test_the_home_leads_and_what_it_commits_is_applied_everywhere_in_order() -> None:
    cluster = Cluster()
    assert cluster.elect() == 0
    for number in range(20):
        propose(cluster, 0, b"%d" % number)
    cluster.run(0.3)
    for number in range(3):
        assert applied(cluster, number) == [b"%d" % value for value in range(20)]


def test_nothing_is_committed_before_a_majority_has_synced_it_and_the_leader_is_not_first_among_them() -> None:
    cluster = Cluster()
    cluster.elect()
    cluster.hold = {id_of(0), id_of(1), id_of(2)}
    proposed = propose(cluster, 0)
    cluster.turn()
    assert cluster.raft(0).last == cluster.raft(1).last == proposed.index
    assert cluster.raft(0).commit < proposed.index
    cluster.hold = {id_of(0), id_of(2)}
    cluster.turn()
    assert cluster.raft(0).commit < proposed.index
    cluster.hold = {id_of(0)}
    cluster.turn()
    assert cluster.raft(0).commit == proposed.index  # two followers have it, the leader's own disk is still writing
    assert applied(cluster, 0) == [b"x"]


def test_a_vote_is_not_answered_before_it_is_on_disk() -> None:
    cluster = Cluster(preferred=None)
    cluster.hold = {id_of(1), id_of(2)}
    cluster.node(0).campaign(cluster.now, GROUP)
    cluster.turn()
    assert cluster.raft(1).term == 1 and cluster.leader() is None
    cluster.hold = set()
    cluster.turn()
    assert cluster.leader() == 0


def test_entries_of_one_turn_travel_in_one_message_and_one_sync() -> None:
    cluster = Cluster()
    cluster.elect()
    frames, syncs = cluster.frames, [len(cluster.writes[id_of(number)]) for number in range(3)]
    for _ in range(100):
        propose(cluster, 0)
    cluster.turn()
    assert cluster.frames - frames == 4
    assert [len(cluster.writes[id_of(number)]) for number in range(3)] == [count + 1 for count in syncs]


def test_a_member_that_hears_its_leader_neither_votes_nor_wakes_up_terms() -> None:
    cluster = Cluster()
    cluster.elect()
    term = cluster.raft(0).term
    lonely = id_of(2)
    cluster.cut = lambda source, to: lonely in (source, to)
    cluster.run(10.0)
    assert cluster.raft(2).term == term  # it asked in vain, and no term was used up
    cluster.cut = lambda source, to: False
    cluster.node(2).campaign(cluster.now, GROUP)
    cluster.turn()
    assert cluster.leader() == 0 and cluster.raft(0).term == term


def test_a_leader_that_hears_no_majority_resigns_and_one_that_does_stays() -> None:
    cluster = Cluster(preferred=None)
    leader = cluster.elect()
    others = [number for number in range(3) if number != leader]
    cluster.cut = lambda source, to: id_of(others[0]) in (source, to)
    cluster.run(5.0)
    assert cluster.raft(leader).leads
    cluster.cut = lambda source, to: id_of(leader) in (source, to)
    cluster.run(2 * CONFIG.election_timeout_s + CONFIG.heartbeat_s)
    assert not cluster.raft(leader).leads
    assert cluster.node(leader).propose(cluster.now, GROUP, b"") is Refusal.NOT_LEADER


def test_leadership_goes_home_when_home_is_back_and_has_caught_up() -> None:
    cluster = Cluster()
    cluster.elect()
    cluster.cut = lambda source, to: id_of(0) in (source, to)
    cluster.run(5.0)
    away = max(1, 2, key=lambda number: cluster.raft(number).leads)
    assert cluster.raft(away).leads
    for number in range(50):
        propose(cluster, away, b"%d" % number)
    cluster.turn()
    cluster.cut = lambda source, to: False
    assert cluster.elect() == 0
    assert applied(cluster, 0)[-50:] == [b"%d" % number for number in range(50)]
    assert len(cluster.led_terms()) == len(set(cluster.led_terms()))


def test_a_hand_over_takes_no_proposals_and_ends_by_itself_if_it_fails() -> None:
    cluster = Cluster(preferred=None)
    leader = cluster.elect()
    other = (leader + 1) % 3
    cluster.drop = lambda source, to, message: message.kind == Kind.TRANSFER
    assert cluster.node(leader).transfer(cluster.now, GROUP, id_of(other)) is None
    assert cluster.node(leader).propose(cluster.now, GROUP, b"") is Refusal.HANDING_OVER
    cluster.run(CONFIG.transfer_timeout_s + CONFIG.heartbeat_s)
    propose(cluster, leader)
    cluster.drop = None
    assert cluster.node(leader).transfer(cluster.now, GROUP, id_of(other)) is None
    cluster.turn()
    assert cluster.leader() == other
    assert cluster.node(other).transfer(cluster.now, GROUP, b"%016d" % 9) is Refusal.UNKNOWN_MEMBER


def test_a_read_waits_for_a_majority_and_a_leader_cut_off_answers_none() -> None:
    cluster = Cluster()
    cluster.elect()
    index = propose(cluster, 0).index
    cluster.turn()
    assert cluster.node(0).read(cluster.now, GROUP, b"one") is None
    cluster.turn()
    assert [(read.context, read.index) for read in of(cluster, 0, ReadReady)] == [(b"one", index)]
    cluster.cut = lambda source, to: id_of(0) in (source, to)
    assert cluster.node(0).read(cluster.now, GROUP, b"two") is None
    cluster.run(3.0)
    assert [read.context for read in of(cluster, 0, ReadReady)] == [b"one"]
    assert [read.context for read in of(cluster, 0, ReadLost)] == [b"two"]
    assert cluster.node(0).read(cluster.now, GROUP, b"three") is Refusal.NOT_LEADER


def test_a_member_is_added_as_learner_caught_up_by_snapshot_and_given_a_vote() -> None:
    cluster = Cluster(config=RaftConfig(snapshot_chunk_bytes=10, catch_up_entries=2))
    cluster.elect()
    for number in range(30):
        propose(cluster, 0, b"%d" % number)
    cluster.turn()
    state = b"all that was before"
    assert cluster.node(0).compact(cluster.now, GROUP, cluster.raft(0).commit - 3, state)
    assert isinstance(cluster.node(0).add_learner(cluster.now, GROUP, id_of(3)), Proposed)
    assert cluster.node(0).promote(cluster.now, GROUP, id_of(3)) is Refusal.BEHIND
    assert cluster.node(0).remove(cluster.now, GROUP, id_of(2)) is Refusal.PENDING
    cluster.turn()
    cluster.add(3, {GROUP: Recovered()})
    cluster.run(1.0)
    assert [install.snapshot.data for install in of(cluster, 3, Install)] == [state]
    assert isinstance(cluster.node(0).promote(cluster.now, GROUP, id_of(3)), Proposed)
    cluster.run(0.3)
    assert cluster.raft(3).members == Members.of(id_of(number) for number in range(4))
    assert of(cluster, 3, Changed)[-1].members == cluster.raft(0).members
    assert applied(cluster, 3) == [b"27", b"28", b"29"]


def test_a_leader_that_removes_itself_leads_until_that_is_committed() -> None:
    cluster = Cluster(preferred=None)
    leader = cluster.elect()
    cluster.hold = {id_of(number) for number in range(3)}
    cluster.node(leader).remove(cluster.now, GROUP, id_of(leader))
    cluster.turn()
    assert cluster.raft(leader).leads
    cluster.hold = set()
    cluster.turn()
    assert not cluster.raft(leader).leads
    cluster.run(4.0)
    assert cluster.leader() in {0, 1, 2} - {leader}


def test_the_last_voter_stays_and_members_have_a_bound() -> None:
    cluster = Cluster(1)
    cluster.elect()
    node = cluster.node(0)
    assert node.remove(cluster.now, GROUP, id_of(0)) is Refusal.LAST_VOTER
    assert node.remove(cluster.now, GROUP, id_of(5)) is Refusal.UNKNOWN_MEMBER
    assert node.add_learner(cluster.now, GROUP, id_of(0)) is Refusal.NO_CHANGE
    refused = None
    for number in range(1, 40):
        refused = node.add_learner(cluster.now, GROUP, id_of(number))
        cluster.turn()
    assert refused is Refusal.TOO_MANY


def test_no_change_of_members_before_something_of_the_own_term_is_committed() -> None:
    cluster = Cluster(preferred=None)
    cluster.drop = lambda source, to, message: message.kind == Kind.APPEND
    cluster.node(0).campaign(cluster.now, GROUP)
    cluster.turn()
    assert cluster.leader() == 0
    assert cluster.node(0).add_learner(cluster.now, GROUP, id_of(7)) is Refusal.NOT_YET
    assert cluster.node(0).remove(cluster.now, GROUP, id_of(1)) is Refusal.NOT_YET


def test_only_what_is_applied_and_on_disk_gives_way_to_a_snapshot() -> None:
    cluster = Cluster()
    cluster.elect()
    for _ in range(5):
        propose(cluster, 0)
    cluster.hold = {id_of(0)}
    cluster.turn()
    stable, commit = cluster.raft(0).last - 5, cluster.raft(0).commit
    assert commit == cluster.raft(0).last  # by the others' disks
    assert not cluster.node(0).compact(cluster.now, GROUP, commit, b"")
    assert cluster.node(0).compact(cluster.now, GROUP, stable, b"")
    assert cluster.raft(0).first == stable + 1
    assert not cluster.node(0).compact(cluster.now, GROUP, stable, b"")
    cluster.hold = set()
    cluster.turn()
    assert not cluster.node(0).compact(cluster.now, GROUP, commit + 1, b"")
    assert cluster.node(0).compact(cluster.now, GROUP, commit, b"")
    assert cluster.raft(0).log_bytes == 0


def test_too_much_or_too_large_is_refused_and_leaves_nothing() -> None:
    cluster = Cluster(config=RaftConfig(uncommitted_bytes=1000))
    cluster.elect()
    cluster.cut = lambda source, to: True
    last = cluster.raft(0).last
    assert cluster.node(0).propose(cluster.now, GROUP, bytes(ENTRY_BYTES_MAX + 1)) is Refusal.TOO_LARGE
    for _ in range(3):
        propose(cluster, 0, bytes(500))
    assert cluster.node(0).propose(cluster.now, GROUP, b"") is Refusal.BUSY
    assert cluster.raft(0).last == last + 3


def test_a_window_bounds_what_is_under_way_to_a_member() -> None:
    cluster = Cluster(config=RaftConfig(append_entries=1, inflight_messages=4, inflight_bytes=10_000))
    cluster.elect()
    sent: list[Message] = []

    def drop(source: bytes, to: bytes, message: Message) -> bool:
        if message.kind == Kind.APPEND and to == id_of(1):
            sent.append(message)
        return message.kind == Kind.APPEND_REPLY and source == id_of(1)

    cluster.drop = drop
    for _ in range(100):
        propose(cluster, 0)
    cluster.turn()
    assert len(sent) == 4
    cluster.drop = None
    cluster.run(1.0)
    assert cluster.raft(1).commit == cluster.raft(0).commit == cluster.raft(0).last


# --- what the simulator has found


def test_a_newer_and_shorter_snapshot_takes_the_place_of_one_that_is_being_sent() -> None:
    cluster = Cluster(config=RaftConfig(snapshot_chunk_bytes=10))
    cluster.elect()
    for _ in range(20):
        propose(cluster, 0)
    cluster.turn()
    commit = cluster.raft(0).commit
    assert cluster.node(0).compact(cluster.now, GROUP, commit - 2, bytes(100))
    cluster.node(0).add_learner(cluster.now, GROUP, id_of(3))
    cluster.turn()
    cluster.drop = lambda source, to, message: message.kind == Kind.SNAPSHOT and message.offset >= 50
    cluster.add(3, {GROUP: Recovered()})
    cluster.run(0.5)
    assert cluster.raft(3).commit == 0
    assert cluster.node(0).compact(cluster.now, GROUP, commit, b"short")
    cluster.drop = None
    cluster.run(0.5)
    assert [install.snapshot.data for install in of(cluster, 3, Install)] == [b"short"]
    assert cluster.raft(3).commit == cluster.raft(0).commit


def test_who_has_something_else_where_the_leaders_snapshot_ends_gets_the_snapshot() -> None:
    cluster = Cluster(2)
    whole = Recovered(Vote(2), Snapshot(2, 2, cluster.members, b"state"))
    other = Recovered(Vote(1), Snapshot(members=cluster.members), (Entry(1, 1, b"a"), Entry(1, 1, b"b")))
    cluster.add(0, {GROUP: whole})
    cluster.add(1, {GROUP: other})
    frames = cluster.frames
    cluster.node(0).campaign(cluster.now, GROUP)
    cluster.turn()
    assert cluster.raft(1).commit in (2, 3) and cluster.raft(1).last == 3
    assert [install.snapshot.data for install in of(cluster, 1, Install)] == [b"state"]
    assert cluster.frames - frames < 30


def test_who_was_removed_is_told_and_keeps_nobody_awake() -> None:
    cluster = Cluster(4)
    cluster.elect()
    cluster.cut = lambda source, to: id_of(3) in (source, to)
    assert isinstance(cluster.node(0).remove(cluster.now, GROUP, id_of(3)), Proposed)
    cluster.run(3.0)
    assert not of(cluster, 3, Removed)
    cluster.cut = lambda source, to: False
    cluster.run(3.0)
    assert len(of(cluster, 3, Removed)) == 1
    assert [cluster.node(number).resting for number in range(3)] == [1, 1, 1]
    assert cluster.raft(0).leads and cluster.node(3).next_deadline() is None


def lone(recovered: Recovered, number: int = 0) -> Raft:
    return Raft(0.0, id_of(number), GROUP, recovered, Random(1))


def vote_request(term: int, index: int, log_term: int) -> Message:
    return Message(GROUP, Kind.VOTE, term, index=index, log_term=log_term)


def answers(raft: Raft) -> list[Message]:
    write, messages, _ = raft.flush()
    if write is not None:
        raft.synced(0.0, raft.written)
        messages = raft.flush()[1]
    return [message for _, message in messages]


LOG = Recovered(
    vote=Vote(3),
    snapshot=Snapshot(members=Members.of(id_of(number) for number in range(3))),
    entries=(Entry(1, 1, b"a"), Entry(3, 1, b"b")),
)


@pytest.mark.parametrize(
    ("index", "log_term", "granted"), [(2, 3, True), (1, 4, True), (5, 2, False), (1, 3, False), (9, 1, False)]
)
def test_who_lacks_something_gets_no_vote(index: int, log_term: int, granted: bool) -> None:
    raft = lone(LOG)
    raft.step(5.0, id_of(1), vote_request(4, index, log_term))
    assert [not message.flags & wire.REJECTED for message in answers(raft)] == [granted]


def test_a_vote_survives_a_restart_and_is_given_once() -> None:
    raft = lone(Recovered(Vote(4, id_of(1)), LOG.snapshot, LOG.entries))
    raft.step(5.0, id_of(2), vote_request(4, 2, 3))
    assert answers(raft)[0].flags & wire.REJECTED
    raft.step(5.0, id_of(1), vote_request(4, 2, 3))
    assert not answers(raft)[0].flags & wire.REJECTED


def test_who_gave_up_a_log_votes_for_nobody_that_lacks_it_and_stands_only_when_it_has_it_again() -> None:
    cluster = Cluster()
    assert cluster.elect() == 0
    cluster.cut = lambda source, to: id_of(2) in (source, to)
    for number in range(3):
        propose(cluster, 0, b"%d" % number)
    cluster.run(0.3)  # the third is behind, and knows nothing of what comes
    assert isinstance(cluster.node(0).remove(cluster.now, GROUP, id_of(2)), Proposed)
    cluster.run(0.3)
    last, term = cluster.raft(1).last, cluster.raft(1).term
    assert isinstance(cluster.node(0).remove(cluster.now, GROUP, id_of(1)), Proposed)
    cluster.run(0.3)
    vote = cluster.node(1).leave(cluster.now, GROUP)
    assert vote.left == (term, last) and cluster.raft(0).members.voters == (id_of(0),)
    cluster.turn()
    assert [write.vote for write in cluster.writes[id_of(1)][-1].writes] == [vote], "it is on the disk"
    # Added again, with nothing of the log; of the first three members two would be a majority.
    empty = Recovered(vote, Snapshot(members=cluster.members))
    cluster.node(1).create(cluster.now, GROUP, empty, id_of(0))
    cluster.cut = lambda source, to: id_of(0) in (source, to)
    behind = cluster.raft(2).last
    assert 0 < behind < last
    cluster.run(20.0)
    assert cluster.leader() == 0 and cluster.raft(2).leader is None and cluster.raft(1).leader is None
    assert cluster.raft(2).commit <= behind
    cluster.cut = lambda source, to: id_of(2) in (source, to)
    assert isinstance(cluster.node(0).add_learner(cluster.now, GROUP, id_of(1)), Proposed)
    cluster.run(3.0)
    assert isinstance(cluster.node(0).promote(cluster.now, GROUP, id_of(1)), Proposed)
    cluster.run(3.0)
    assert cluster.raft(1).members.voters == (id_of(0), id_of(1)) and cluster.raft(1).vote.left == (term, last)
    assert cluster.node(0).transfer(cluster.now, GROUP, id_of(1)) is None
    cluster.run(0.2)
    assert id_of(1) in {cluster.raft(0).leader, cluster.raft(1).leader}, "it has all that it had, and more"


@pytest.mark.parametrize(
    ("index", "log_term", "granted"), [(7, 2, True), (8, 2, True), (3, 3, True), (6, 2, False), (9, 1, False)]
)
def test_a_log_that_was_given_up_counts_in_votes(index: int, log_term: int, granted: bool) -> None:
    raft = lone(Recovered(Vote(3, None, (2, 7)), LOG.snapshot, (Entry(1, 1, b"a"),)))
    for request in (Message(GROUP, Kind.PRE_VOTE, 4, index=index, log_term=log_term), vote_request(4, index, log_term)):
        raft.step(5.0, id_of(1), request)
        assert [not message.flags & wire.REJECTED for message in answers(raft)] == [granted]
    assert raft.vote.left == (2, 7)


def test_a_leader_that_does_not_know_yet_what_is_committed_gives_up_nothing() -> None:
    """After a restart, in a log that goes back to the time when it was alone: what came after that is not its to judge."""
    alone = Recovered(snapshot=Snapshot(members=Members.of([id_of(0)])))
    cluster = Cluster(1, recovered=alone)
    assert cluster.elect() == 0
    for number in (1, 2):
        cluster.add(number, {GROUP: Recovered()})
        assert isinstance(cluster.node(0).add_learner(cluster.now, GROUP, id_of(number)), Proposed)
        cluster.run(1.0)
        assert isinstance(cluster.node(0).promote(cluster.now, GROUP, id_of(number)), Proposed)
        cluster.run(1.0)
    acknowledged = propose(cluster, 0, b"acknowledged")
    cluster.run(1.0)
    assert cluster.raft(2).commit == acknowledged.index
    writes = [write for sync in cluster.writes[id_of(0)] for write in sync.writes]
    entries = tuple(entry for write in writes for entry in write.entries)
    vote = next(write.vote for write in reversed(writes) if write.vote is not None)
    cluster.add(0, {GROUP: Recovered(vote, alone.snapshot, entries)})
    votes = {Kind.PRE_VOTE, Kind.PRE_VOTE_REPLY, Kind.VOTE, Kind.VOTE_REPLY}
    cluster.drop = lambda source, to, message: id_of(0) in (source, to) and message.kind not in votes
    cluster.node(0).campaign(cluster.now, GROUP)
    cluster.run(1.5 * CONFIG.election_timeout_s)
    led = False
    for _ in range(40):
        cluster.node(0).campaign(cluster.now, GROUP)
        cluster.turn()
        led = led or cluster.raft(0).leads
        cluster.run(0.5 * CONFIG.election_timeout_s)
    assert led, "it was elected, and heard nobody after that"
    assert cluster.raft(0).last >= acknowledged.index
    cluster.drop = None
    cluster.run(8.0)
    assert [applied(cluster, number)[-1] for number in (1, 2)] == [b"acknowledged"] * 2
    assert all(cluster.raft(number).commit >= acknowledged.index for number in range(3))


def test_who_dies_while_it_becomes_the_second_voter_does_not_take_the_first_with_it() -> None:
    alone = Recovered(snapshot=Snapshot(members=Members.of([id_of(0)])))
    cluster = Cluster(1, recovered=alone)
    assert cluster.elect() == 0
    cluster.add(1, {GROUP: Recovered()})
    assert isinstance(cluster.node(0).add_learner(cluster.now, GROUP, id_of(1)), Proposed)
    cluster.run(1.0)
    cluster.cut = lambda source, to: id_of(1) in (source, to)
    assert isinstance(cluster.node(0).promote(cluster.now, GROUP, id_of(1)), Proposed)
    lost = propose(cluster, 0, b"never acknowledged")
    cluster.run(6.0)
    assert cluster.leader() == 0 and cluster.raft(0).members.voters == (id_of(0),)
    assert lost.term < cluster.raft(0).term and b"never acknowledged" not in applied(cluster, 0)
    propose(cluster, 0, b"later")
    cluster.run(0.1)
    assert applied(cluster, 0)[-1] == b"later"
    cluster.cut = lambda source, to: False
    cluster.run(2.0)
    assert isinstance(cluster.node(0).promote(cluster.now, GROUP, id_of(1)), Proposed)
    cluster.run(1.0)
    assert applied(cluster, 1) == applied(cluster, 0)


def test_a_late_snapshot_takes_nothing_away_that_was_acknowledged() -> None:
    raft = lone(LOG)
    members = LOG.snapshot.members
    late = Message(GROUP, Kind.SNAPSHOT, 3, index=1, log_term=1, members=members, total=1, chunk=b"s")
    raft.step(0.1, id_of(1), late)
    assert raft.last == 2 and raft.commit == 1
    assert [(message.kind, message.index) for message in answers(raft)] == [(Kind.APPEND_REPLY, 1)]


def test_two_leaders_of_one_term_are_a_violation_and_nothing_more() -> None:
    raft = lone(LOG)
    raft.step(0.1, id_of(1), Message(GROUP, Kind.HEARTBEAT, 3))
    raft.step(0.2, id_of(2), Message(GROUP, Kind.HEARTBEAT, 3))
    _, messages, events = raft.flush()
    assert [to for to, _ in messages] == [id_of(1)]
    assert "raft.violation" in [getattr(event, "name", "") for event in events]


def test_a_damaged_log_neither_votes_nor_counts_until_it_has_what_it_had() -> None:
    cluster = Cluster()
    cluster.elect()
    for number in range(10):
        propose(cluster, 0, b"%d" % number)
    cluster.run(0.3)
    last, term = cluster.raft(0).last, cluster.raft(0).term
    entries = tuple(entry for sync in cluster.writes[id_of(2)] for write in sync.writes for entry in write.entries)
    found = Recovered(Vote(term, id_of(0)), Snapshot(members=cluster.members), entries[:4], damaged=True)
    cluster.add(2, {GROUP: found})
    cluster.cut = lambda source, to: id_of(1) in (source, to)
    cluster.drop = lambda source, to, message: message.kind == Kind.REPAIR_REPLY
    index = propose(cluster, 0, b"new").index
    cluster.run(CONFIG.heartbeat_s)
    assert cluster.raft(2).last == index  # it has been sent all
    assert cluster.raft(2).damaged and cluster.raft(0).commit == last  # and counts for nothing
    cluster.node(2).campaign(cluster.now, GROUP)
    cluster.turn()
    assert cluster.raft(0).leads
    cluster.drop = None
    cluster.run(2 * CONFIG.heartbeat_s)
    assert of(cluster, 2, Repaired) and not cluster.raft(2).damaged
    assert [write.repaired for sync in cluster.writes[id_of(2)] for write in sync.writes].count(True) == 1
    cluster.run(CONFIG.heartbeat_s)
    assert cluster.raft(0).commit == index


def test_an_old_answer_to_another_question_repairs_nothing() -> None:
    raft = lone(Recovered(LOG.vote, LOG.snapshot, LOG.entries[:1], damaged=True))
    raft.step(0.1, id_of(1), Message(GROUP, Kind.HEARTBEAT, 3))
    asked = [message for message in answers(raft) if message.kind == Kind.REPAIR]
    assert len(asked) == 1
    raft.step(0.2, id_of(1), Message(GROUP, Kind.APPEND, 3, index=1, log_term=1))
    raft.step(0.3, id_of(1), Message(GROUP, Kind.REPAIR_REPLY, 3, index=1, round=asked[0].round + 1))
    assert raft.damaged
    raft.step(0.4, id_of(1), Message(GROUP, Kind.REPAIR_REPLY, 3, index=1, round=asked[0].round))
    assert not raft.damaged


def test_who_dies_in_the_instant_in_which_a_third_one_is_removed_does_not_take_the_others_with_it() -> None:
    cluster = Cluster(3)
    leader = cluster.elect()
    assert leader is not None
    away, dies = (number for number in range(3) if number != leader)
    propose(cluster, leader, b"before")
    cluster.run(1.0)
    cluster.cut = lambda source, to: id_of(dies) in (source, to)
    # Nobody has noticed yet that this majority is none.
    assert isinstance(cluster.node(leader).remove(cluster.now, GROUP, id_of(away)), Proposed)
    assert cluster.raft(leader).members.voters == tuple(sorted((id_of(leader), id_of(dies))))
    cluster.run(10.0)
    now = cluster.leader()
    assert now in (leader, away)
    later = propose(cluster, now, b"after")
    cluster.run(1.0)
    assert cluster.raft(leader).commit == cluster.raft(away).commit >= later.index
    cluster.cut = lambda source, to: False
    cluster.run(5.0)
    assert len({cluster.raft(number).commit for number in range(3)}) == 1
    assert [applied(cluster, number) for number in range(3)] == [[b"before", b"after"]] * 3


def test_a_learner_that_has_all_is_ready_though_nobody_talks_any_more() -> None:
    """A leader looks who answered just before its group goes to rest: in there nobody answers any more."""
    cluster = Cluster(3)
    leader = cluster.elect()
    assert leader is not None
    cluster.run(30.0)
    raft = cluster.raft(leader)
    assert raft.rests
    others = [id_of(number) for number in range(3) if number != leader]
    for id in others:
        raft._leading.peers[id].active = False
    assert [raft.caught_up(id) for id in others] == [True, True]
    raft._leading.peers[others[0]].absent = True
    assert [raft.caught_up(id) for id in others] == [False, True]
    cluster.turn()
    propose(cluster, leader, b"something to do")
    assert not raft.rests and not raft.caught_up(others[0]), "awake it has to answer"
