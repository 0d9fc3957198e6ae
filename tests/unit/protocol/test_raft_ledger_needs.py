"""What the ledger asks of consensus beside consensus: rest without a member that is down, forced leadership, bounds of terms, copies."""

from __future__ import annotations

import pytest

from swarm.protocol.effects import Fact
from swarm.protocol.raft import wire
from swarm.protocol.raft.config import FORCED_TERMS, TERM_JUMP_MAX, RaftConfig
from swarm.protocol.raft.effects import Proposed, Refusal, Removed
from swarm.protocol.raft.entries import Members, Recovered
from swarm.protocol.raft.wire import Kind, Message
from tests.sim.raft.cluster import GROUP, Cluster, id_of

GROUPS = [b"g%04d" % number for number in range(40)]
CONFIG = RaftConfig()


def without(cluster: Cluster, number: int) -> None:
    cluster.cut = lambda source, to: id_of(number) in (source, to)


def rested() -> Cluster:
    cluster = Cluster(groups=GROUPS)
    for group in GROUPS:
        cluster.node(0).campaign(cluster.now, group)
    cluster.run(3.0)
    return cluster


@pytest.mark.parametrize("down", [0, 2])
def test_groups_rest_without_a_member_that_is_down_and_go_on_with_it_when_it_is_back(down: int) -> None:
    cluster = rested()
    without(cluster, down)
    cluster.run(6.0)
    others = [number for number in range(3) if number != down]
    assert [cluster.node(number).resting for number in others] == [len(GROUPS)] * 2
    leader = others[0] if down == 0 else 0
    leads = [number for number in others if cluster.raft(number, GROUPS[0]).leads]
    assert len(leads) == 1 and (down == 0 or leads == [leader])
    # What those two say to each other does not depend on how many groups there are.
    carried: list[bytes] = []
    original = cluster._carry

    def carry(source: bytes, effect: object) -> None:
        if source != id_of(down):
            carried.append(source)
        original(source, effect)  # type: ignore[arg-type]

    cluster._carry = carry  # type: ignore[method-assign]
    cluster.run(5.0)
    assert len(carried) <= 4 * (5.0 / CONFIG.heartbeat_s + 1)
    for number in others:
        for group in GROUPS[:5]:
            cluster.node(number).propose(cluster.now, group, b"while it was away")
    cluster.run(3.0)
    assert [cluster.node(number).resting for number in others] == [len(GROUPS)] * 2
    cluster.cut = lambda source, to: False
    cluster.run(9.0)
    assert [node.resting for node in cluster.nodes.values()] == [len(GROUPS)] * 3
    assert all(cluster.leader(group) == 0 for group in GROUPS)
    for group in GROUPS:
        assert len({(cluster.raft(number, group).commit, cluster.raft(number, group).last) for number in range(3)}) == 1


def test_a_learner_that_is_restarted_is_heard_by_a_leader_at_rest() -> None:
    cluster = Cluster(1)
    cluster.elect()
    cluster.add(3, {})
    cluster.node(3).create(cluster.now, GROUP, Recovered())
    assert isinstance(cluster.node(0).add_learner(cluster.now, GROUP, id_of(3)), Proposed)
    cluster.run(3.0)
    without(cluster, 3)
    cluster.node(0).propose(cluster.now, GROUP, b"x")
    cluster.run(4.0)
    assert cluster.node(0).resting == 1 and cluster.raft(3).commit < cluster.raft(0).commit
    writes = [write for sync in cluster.writes[id_of(3)] for write in sync.writes]
    entries = tuple(entry for write in writes for entry in write.entries)
    vote = [write.vote for write in writes if write.vote is not None][-1]
    cluster.add(3, {GROUP: Recovered(vote, entries=entries)})
    cluster.cut = lambda source, to: False
    cluster.run(4.0)
    assert cluster.raft(3).commit == cluster.raft(0).commit
    assert cluster.node(0).resting == 1 and cluster.node(3).resting == 1


def test_a_learner_that_has_not_heard_of_it_is_told_however_long_it_is_away() -> None:
    cluster = Cluster(1)
    cluster.elect()
    cluster.add(3, {})
    without(cluster, 3)
    assert isinstance(cluster.node(0).add_learner(cluster.now, GROUP, id_of(3)), Proposed)
    cluster.run(6.0)
    cluster.cut = lambda source, to: False
    cluster.node(3).create(cluster.now, GROUP, Recovered())
    cluster.node(3)._armed.clear()  # it has no part in the group that could ask
    cluster.node(3)._heap.clear()
    cluster.run(2.0)
    assert cluster.raft(3).commit == cluster.raft(0).commit
    assert cluster.node(0).resting == 1


def test_a_term_far_above_is_not_believed() -> None:
    cluster = Cluster()
    cluster.elect()
    term = cluster.raft(1).term
    for kind in (Kind.APPEND, Kind.VOTE, Kind.STALE, Kind.APPEND_REPLY):
        message = Message(GROUP, kind, term + TERM_JUMP_MAX + 1, flags=wire.BY_TRANSFER)
        cluster.node(1).receive(cluster.now, id_of(2), wire.encode(b"%08d" % 77, 0, [message]))
        cluster.turn()
    assert cluster.raft(1).term == term and cluster.leader() == 0
    facts = [event for event in cluster.events[id_of(1)] if isinstance(event, Fact)]
    assert [fact.labels["reason"] for fact in facts] == ["term-jump"] * 4
    vote = Message(GROUP, Kind.VOTE, term + TERM_JUMP_MAX, index=99, log_term=term, flags=wire.BY_TRANSFER)
    cluster.node(1).receive(cluster.now, id_of(2), wire.encode(b"%08d" % 77, 0, [vote]))
    assert cluster.raft(1).term == term + TERM_JUMP_MAX


def test_copies_are_counted_as_disks_have_them() -> None:
    cluster = Cluster()
    cluster.elect()
    cluster.hold = {id_of(0), id_of(2)}
    proposed = cluster.node(0).propose(cluster.now, GROUP, b"x")
    assert isinstance(proposed, Proposed)
    cluster.turn()
    assert cluster.raft(0).copies(proposed.index) == [id_of(1)]
    cluster.hold = set()
    for number in (0, 2):
        cluster.node(number).synced(cluster.now, cluster.held[id_of(number)][-1])
    cluster.turn()
    assert cluster.raft(0).copies(proposed.index) == [id_of(0), id_of(1), id_of(2)]
    assert cluster.raft(1).copies(proposed.index) == []


def test_a_forced_member_leads_alone_with_all_that_its_log_has() -> None:
    cluster = Cluster()
    cluster.elect()
    cluster.node(0).propose(cluster.now, GROUP, b"kept")
    cluster.run(0.5)
    term, last = cluster.raft(1).term, cluster.raft(1).last
    cluster.cut = lambda source, to: True
    cluster.run(3.0)
    assert cluster.leader() is None
    assert cluster.node(1).force(cluster.now, GROUP) == Members.of(id_of(number) for number in range(3))
    cluster.run(0.5)
    assert cluster.leader() == 1 and cluster.raft(1).term > term + FORCED_TERMS
    assert cluster.raft(1).members == Members.of([id_of(1)]) and cluster.raft(1).commit >= last + 2
    proposed = cluster.node(1).propose(cluster.now, GROUP, b"alone")
    assert isinstance(proposed, Proposed)
    cluster.run(0.1)
    assert cluster.raft(1).commit == proposed.index
    # Those that were lost are added again, should they come back, and have what it has.
    cluster.cut = lambda source, to: id_of(0) in (source, to)
    assert isinstance(cluster.node(1).add_learner(cluster.now, GROUP, id_of(2)), Proposed)
    cluster.run(2.0)
    assert cluster.raft(2).commit == cluster.raft(1).commit and cluster.raft(2).leader == id_of(1)
    assert cluster.node(1).force(cluster.now, b"nothing") is Refusal.UNKNOWN_GROUP


def test_word_of_a_removal_that_was_taken_back_is_not_heeded() -> None:
    cluster = Cluster()
    cluster.elect()
    raft = cluster.raft(2)
    cluster.node(0).remove(cluster.now, GROUP, id_of(2))
    cluster.run(0.5)
    removed_at = cluster.raft(0).commit
    cluster.node(0).add_learner(cluster.now, GROUP, id_of(2))
    cluster.run(0.5)
    cluster.node(0).promote(cluster.now, GROUP, id_of(2))
    cluster.run(0.5)
    assert id_of(2) in raft.members.voters
    late = Message(GROUP, Kind.REMOVED, raft.term, index=removed_at)
    cluster.node(2).receive(cluster.now, id_of(0), wire.encode(b"%08d" % 0, 0, [late]))
    cluster.turn()
    assert not any(isinstance(event, Removed) for event in cluster.events[id_of(2)])
    said = Message(GROUP, Kind.REMOVED, raft.term, index=raft.last + 1)
    cluster.node(2).receive(cluster.now, id_of(0), wire.encode(b"%08d" % 0, 0, [said]))
    cluster.turn()
    assert any(isinstance(event, Removed) for event in cluster.events[id_of(2)])
