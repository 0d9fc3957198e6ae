"""Many groups on one node: what goes together, and what rests."""

from __future__ import annotations

from swarm.protocol.raft.config import RaftConfig
from swarm.protocol.raft.effects import Proposed, Refusal, Stranger
from swarm.protocol.raft.entries import Recovered, Snapshot
from tests.sim.raft.cluster import GROUP, Cluster, id_of

GROUPS = [b"g%04d" % number for number in range(60)]
CONFIG = RaftConfig()


def rested(groups: list[bytes] = GROUPS) -> Cluster:
    cluster = Cluster(groups=groups)
    for group in groups:
        cluster.node(0).campaign(cluster.now, group)
    cluster.run(3.0)
    assert [node.resting for node in cluster.nodes.values()] == [len(groups)] * 3
    return cluster


def test_groups_at_rest_cost_one_heartbeat_a_node_and_no_turn() -> None:
    few, many = rested(GROUPS[:2]), rested()
    frames = [few.frames, many.frames]
    few.run(10.0)
    many.run(10.0)
    spent = [few.frames - frames[0], many.frames - frames[1]]
    # The node that leads asks two others, which answer.
    assert spent[0] == spent[1] <= 4 * (10.0 / CONFIG.heartbeat_s + 1)


def test_messages_and_writes_of_all_groups_go_together() -> None:
    cluster = rested()
    frames, syncs = cluster.frames, len(cluster.writes[id_of(0)])
    for group in GROUPS:
        assert isinstance(cluster.node(0).propose(cluster.now, group, b"x"), Proposed)
    cluster.turn()
    assert len(cluster.writes[id_of(0)]) == syncs + 1
    assert len(cluster.writes[id_of(0)][-1].writes) == len(GROUPS)
    assert cluster.frames - frames <= 8


def test_a_group_at_rest_wakes_for_a_proposal_alone() -> None:
    cluster = rested()
    assert isinstance(cluster.node(0).propose(cluster.now, GROUPS[7], b"x"), Proposed)
    cluster.turn()
    assert [node.resting for node in cluster.nodes.values()] == [len(GROUPS) - 1] * 3
    cluster.run(0.5)
    assert [cluster.raft(number, GROUPS[7]).commit for number in range(3)] == [2] * 3
    cluster.run(2.0)
    assert [node.resting for node in cluster.nodes.values()] == [len(GROUPS)] * 3


def test_a_silent_node_wakes_its_groups_and_others_take_over() -> None:
    cluster = rested(GROUPS[:20])
    cluster.cut = lambda source, to: id_of(0) in (source, to)
    cluster.run(3.0)
    assert all(cluster.leader(group) in (1, 2) for group in GROUPS[:20])
    assert not any(cluster.raft(0, group).leads for group in GROUPS[:20])
    cluster.cut = lambda source, to: False
    cluster.run(8.0)
    assert all(cluster.leader(group) == 0 for group in GROUPS[:20])


def test_two_that_lead_at_rest_and_miss_each_other_find_each_other() -> None:
    cluster = rested(GROUPS[:1])
    apart = {id_of(0), id_of(1)}
    cluster.cut = lambda source, to: {source, to} == apart
    cluster.run(5.0)
    assert cluster.raft(0, GROUPS[0]).rests and cluster.raft(0, GROUPS[0]).absent == [id_of(1)]
    stopped = cluster.nodes.pop(id_of(0))  # as by SIGSTOP
    cluster.run(8.0)
    assert cluster.leader(GROUPS[0]) == 1 and cluster.raft(1, GROUPS[0]).absent == [id_of(0)]
    assert cluster.raft(1, GROUPS[0]).rests
    cluster.nodes[id_of(0)] = stopped
    cluster.run(3.0)
    assert cluster.raft(0, GROUPS[0]).leads and cluster.raft(1, GROUPS[0]).leads, "each hears the third, which is well"
    cluster.cut = lambda source, to: False
    cluster.run(8.0)
    assert cluster.leader(GROUPS[0]) == 0
    assert len({cluster.raft(number, GROUPS[0]).term for number in range(3)}) == 1


def test_a_node_that_was_restarted_wakes_the_groups_that_it_led() -> None:
    cluster = rested(GROUPS[:5])
    found = {}
    for group in GROUPS[:5]:
        writes = [write for sync in cluster.writes[id_of(0)] for write in sync.writes if write.group == group]
        entries = tuple(entry for write in writes for entry in write.entries)
        vote = next(write.vote for write in reversed(writes) if write.vote is not None)
        found[group] = Recovered(vote, Snapshot(members=cluster.members), entries)
    cluster.add(0, found)
    cluster.run(CONFIG.heartbeat_s * 3)
    assert cluster.node(1).resting == 5  # nobody has heard of it yet
    cluster.run(8.0)
    assert all(cluster.leader(group) == 0 for group in GROUPS[:5])
    assert all(cluster.raft(0, group).commit == cluster.raft(1, group).commit for group in GROUPS[:5])


def test_a_clock_that_jumps_takes_no_group_from_its_leader() -> None:
    cluster = rested(GROUPS[:5])
    terms = [cluster.raft(0, group).term for group in GROUPS[:5]]
    cluster.now += 3600.0
    cluster.run(5.0)
    assert [cluster.raft(0, group).term for group in GROUPS[:5]] == terms
    assert all(cluster.leader(group) == 0 for group in GROUPS[:5])


def test_a_full_disk_begins_anew_from_what_it_has_and_takes_part_without_taking_entries() -> None:
    cluster = Cluster()
    cluster.elect()
    cluster.hold = {id_of(2)}
    proposed = cluster.node(0).propose(cluster.now, GROUP, b"too much")
    assert isinstance(proposed, Proposed)
    cluster.turn()
    held = cluster.held[id_of(2)].pop()
    term = cluster.raft(2).term
    vote = [write.vote for sync in cluster.writes[id_of(2)] for write in sync.writes if write.vote is not None][-1]
    entries = tuple(entry for sync in cluster.writes[id_of(2)][:-1] for write in sync.writes for entry in write.entries)
    found = Recovered(vote, Snapshot(members=cluster.members), entries)
    cluster.hold = set()
    cluster.node(2).restart(cluster.now, GROUP, found, id_of(0))
    cluster.node(2).synced(cluster.now, held)  # of what was before: it does not count
    cluster.run(1.0)
    assert cluster.raft(2).last == proposed.index - 1
    assert cluster.raft(0).commit == cluster.raft(1).commit == proposed.index
    assert cluster.raft(2).leader == id_of(0) and cluster.raft(2).term == term
    cluster.node(2).space(cluster.now, full=False)
    cluster.run(1.0)
    assert cluster.raft(2).commit == proposed.index


def test_a_leader_whose_disk_is_full_refuses() -> None:
    cluster = Cluster()
    cluster.elect()
    cluster.node(0).space(cluster.now, full=True)
    last = cluster.raft(0).last
    assert cluster.node(0).propose(cluster.now, GROUP, b"x") is Refusal.FULL
    assert cluster.raft(0).last == last


def test_frames_are_closed_in_time_and_nothing_of_them_is_lost() -> None:
    cluster = Cluster(groups=GROUPS, config=RaftConfig(frame_bytes=2000))
    sizes: list[int] = []
    cluster.cut = lambda source, to: False
    original = cluster._carry

    def carry(source: bytes, effect: object) -> None:
        sizes.append(len(effect.payload))  # type: ignore[attr-defined]
        original(source, effect)  # type: ignore[arg-type]

    cluster._carry = carry  # type: ignore[method-assign]
    for group in GROUPS:
        cluster.node(0).campaign(cluster.now, group)
    cluster.run(1.0)
    assert all(cluster.raft(0, group).leads for group in GROUPS)
    assert max(sizes) <= 2000


def test_what_is_not_known_is_refused_and_what_is_closed_says_nothing() -> None:
    cluster = rested(GROUPS[:2])
    node = cluster.node(1)
    assert node.propose(cluster.now, b"nothing", b"") is Refusal.UNKNOWN_GROUP
    node.close(cluster.now, GROUPS[0])
    count = len(cluster.events[id_of(1)])
    assert node.groups == [GROUPS[1]] and node.resting == 1
    cluster.node(0).propose(cluster.now, GROUPS[0], b"x")
    cluster.run(3.0)
    assert cluster.raft(0, GROUPS[0]).leads  # two of three are there
    later = cluster.events[id_of(1)][count:]
    assert {type(event) for event in later if getattr(event, "group", None) == GROUPS[0]} == {Stranger}
