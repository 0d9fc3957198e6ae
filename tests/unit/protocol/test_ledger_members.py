"""Who is in a group: as a policy of values, and as ledgers carry it out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.protocol.ledger.config import LedgerConfig
from swarm.protocol.ledger.effects import Close, Drained, Follow
from swarm.protocol.ledger.members import Change, Node, Presence, View, What, next_change, rank, wanted
from swarm.protocol.raft.entries import Members
from tests.sim.ledger.cluster import CONFIG, Ledgers, batch
from tests.sim.raft.cluster import id_of

IDS = [id_of(number) for number in range(8)]


def view(voters: list[int], learners: list[int], nodes: dict[int, Node], **fields: object) -> View:
    members = Members.of([IDS[n] for n in voters], [IDS[n] for n in learners])
    known = {IDS[n]: node for n, node in nodes.items()}
    plain = View(IDS[0], IDS[0], members, known, 1000.0, LedgerConfig(), (), lambda id: True, {})
    return replace(plain, **fields)  # type: ignore[arg-type]


def alive(*numbers: int) -> dict[int, Node]:
    return {number: Node(b"host%d" % number, Presence.ALIVE, 0.0) for number in numbers}


def away(since: float, presence: Presence = Presence.AWAY, host: int = 9) -> Node:
    return Node(b"host%d" % host, presence, since)


def test_one_voter_grows_to_three_when_both_others_have_caught_up() -> None:
    nodes = alive(0, 1, 2)
    first, second = sorted((1, 2), key=lambda n: rank(IDS[0], IDS[n]))
    assert next_change(view([0], [], nodes)) == Change(What.ADD, IDS[first])
    assert next_change(view([0], [first], nodes)) == Change(What.ADD, IDS[second])
    behind = view([0], [1, 2], nodes, caught_up=lambda id: id == IDS[first])
    assert next_change(behind) is None
    assert next_change(view([0], [1, 2], nodes)) == Change(What.PROMOTE, IDS[1])
    assert next_change(view([0, 1], [2], nodes)) == Change(What.PROMOTE, IDS[2])
    assert next_change(view([0, 1, 2], [], nodes)) is None


def test_with_two_hosts_one_votes_and_one_learns() -> None:
    assert next_change(view([0], [], alive(0))) is None
    assert next_change(view([0], [], alive(0, 1))) == Change(What.ADD, IDS[1])
    assert next_change(view([0], [1], alive(0, 1))) is None
    same = {0: Node(b"h", Presence.ALIVE, 0.0), 1: Node(b"h", Presence.ALIVE, 0.0), 2: Node(b"i", Presence.ALIVE, 0.0)}
    assert wanted(view([0], [], same)) == [IDS[0], IDS[2]]


def test_a_member_that_is_away_is_replaced_when_that_lasts() -> None:
    short, long = alive(0, 1, 3) | {2: away(500.0)}, alive(0, 1, 3) | {2: away(399.0)}
    assert next_change(view([0, 1, 2], [], short)) is None
    assert next_change(view([0, 1, 2], [], long)) == Change(What.ADD, IDS[3])
    assert next_change(view([0, 1, 2], [3], long, caught_up=lambda id: False)) is None
    assert next_change(view([0, 1, 2], [3], long)) == Change(What.REMOVE, IDS[2])
    assert next_change(view([0, 1], [3], long)) == Change(What.PROMOTE, IDS[3])
    gone = alive(0, 1, 3) | {2: away(999.0, Presence.GONE)}
    assert next_change(view([0, 1, 2], [], gone)) == Change(What.ADD, IDS[3])


def test_who_has_just_started_removes_nobody_whom_it_does_not_know_yet() -> None:
    """A leader was killed and came back where some of the others could not be heard: it went on alone, and receipts told of one copy."""
    assert next_change(view([0, 1, 2], [], alive(0, 1), began=990.0)) is None
    assert next_change(view([0, 1, 2], [], alive(0, 1, 3), began=990.0)) is None
    assert next_change(view([0, 1, 2], [], alive(0), began=990.0)) is None
    assert next_change(view([0], [1, 2], alive(0, 1, 2), began=990.0)) == Change(What.PROMOTE, IDS[1])
    assert next_change(view([0, 1, 2], [], alive(0, 1, 3), began=399.0)) == Change(What.ADD, IDS[3])
    assert next_change(view([0, 1, 2], [], alive(0, 1), began=399.0)) == Change(What.REMOVE, IDS[2])


def test_one_that_leaves_is_replaced_before_it_goes() -> None:
    nodes = alive(0, 1, 3) | {2: away(999.0, Presence.LEAVING)}
    assert next_change(view([0, 1, 2], [3], nodes)) == Change(What.PROMOTE, IDS[3])
    assert next_change(view([0, 1, 2, 3], [], nodes)) == Change(What.REMOVE, IDS[2])
    own = alive(1, 2, 3) | {0: away(999.0, Presence.LEAVING)}
    assert next_change(view([0, 1, 2, 3], [], own)) in [Change(What.TRANSFER, IDS[n]) for n in (1, 2, 3)]


def test_nobody_is_removed_where_the_rest_would_be_no_majority() -> None:
    nodes = alive(0, 3) | {1: away(999.0), 2: away(0.0, Presence.GONE)}
    assert next_change(view([0, 1, 2], [3], nodes)) is None


def test_a_home_that_is_back_is_a_member_again_and_one_too_many_goes() -> None:
    nodes = alive(0, 1, 2, 3)
    led = {"me": IDS[1]}
    assert next_change(view([1, 2, 3], [], nodes, **led)) == Change(What.ADD, IDS[0])
    assert next_change(view([1, 2, 3], [0], nodes, **led)) == Change(What.PROMOTE, IDS[0])
    last = max((1, 2, 3), key=lambda n: rank(IDS[0], IDS[n]))
    what = What.REMOVE if last != 1 else What.TRANSFER
    change = next_change(view([0, 1, 2, 3], [], nodes, **led))
    assert change is not None and change.what is what and (what is What.TRANSFER or change.id == IDS[last])


def test_who_was_just_removed_is_not_added_at_once() -> None:
    assert next_change(view([0], [], alive(0, 1), removed_at={IDS[1]: 980.0})) is None
    assert next_change(view([0], [], alive(0, 1), removed_at={IDS[1]: 969.0})) == Change(What.ADD, IDS[1])


presences = st.sampled_from(
    [Presence.ALIVE, Presence.ALIVE, Presence.ALIVE, Presence.AWAY, Presence.LEAVING, Presence.GONE]
)
nodes_of = st.dictionaries(st.integers(1, 7), st.tuples(st.integers(0, 4), presences, st.floats(0, 1000)), max_size=7)


@given(nodes_of, st.integers(0, 4))
@settings(max_examples=300, deadline=None)
def test_changes_come_to_an_end_and_leave_the_members_that_are_wanted(
    drawn: dict[int, tuple[int, Presence, float]], own_host: int
) -> None:
    """Whatever the fleet is like, as long as it stays like that and everybody who is alive catches up."""
    nodes = {0: Node(b"host%d" % own_host, Presence.ALIVE, 0.0)}
    nodes |= {n: Node(b"host%d" % host, presence, since) for n, (host, presence, since) in drawn.items()}
    voters, learners = {0}, set[int]()
    for _ in range(40):
        it = view(sorted(voters), sorted(learners), nodes)
        change = next_change(it)
        if change is None:
            break
        number = IDS.index(change.id)
        before = set(voters)
        if change.what is What.ADD:
            assert nodes[number].presence is Presence.ALIVE
            learners.add(number)
        elif change.what is What.PROMOTE:
            learners.discard(number)
            voters.add(number)
        elif change.what is What.REMOVE:
            learners.discard(number)
            voters.discard(number)
        else:
            raise AssertionError("the home leads, and stays")
        assert len(before ^ voters) <= 1 and 0 in voters
    else:
        raise AssertionError("no end")
    hosts = {node.host for n, node in nodes.items() if node.presence is Presence.ALIVE}
    chosen = [nodes[n].host for n in sorted(voters | learners)]
    assert len(set(chosen)) == len(chosen)
    assert len(voters) == (3 if len(hosts) >= 3 else 1) and len(chosen) == min(3, len(hosts))


# --- carried out


def test_a_fleet_of_three_forms_groups_of_three() -> None:
    ledgers = Ledgers(1)
    ledgers.run(2.0)
    assert ledgers.voters(0) == [0]
    ledgers.start(1)
    ledgers.see()
    ledgers.run(3.0)
    assert ledgers.voters(0) == [0] and ledgers.nodes[0].copies_to_expect(ledgers.group(0)) == (1, 1)
    ledgers.start(2)
    ledgers.see()
    ledgers.run(4.0)
    assert [ledgers.voters(home) for home in range(3)] == [[0, 1, 2]] * 3
    assert [ledgers.leader(ledgers.group(home)) for home in range(3)] == [0, 1, 2]


def test_one_that_is_gone_is_replaced_and_gives_up_when_it_is_back() -> None:
    ledgers = Ledgers(4)
    ledgers.run(5.0)
    group = ledgers.group(0)
    other = next(number for number in ledgers.voters(0) if number)
    ledgers.propose(0, group, batch(0, 1))
    ledgers.turn()
    ledgers.stop(other)
    ledgers.run(3.0)
    assert other in ledgers.voters(0)  # a verdict of death moves nothing
    ledgers.run(8.0)
    assert len(ledgers.voters(0)) == 3 and other not in ledgers.voters(0)
    ledgers.start(other)
    ledgers.see()
    ledgers.run(6.0)
    assert any(one.group == group for one in ledgers.of(other, Close))
    assert group not in ledgers.nodes[other].groups
    # Its vote is kept, and with it nothing else.
    shelf = ledgers.disks[other][group]
    assert shelf.vote.term > 0 and not shelf.entries and not shelf.snapshot.index


def test_a_log_that_could_not_be_dropped_for_want_of_space_is_not_begun_anew_before_it_is() -> None:
    ledgers = Ledgers(4)
    ledgers.run(5.0)
    other = next(number for number in ledgers.voters(0) if number)
    ledgers.stop(other)
    ledgers.run(9.0)
    ledger = ledgers.start(other)
    ledgers.see()
    ledgers.hold = {other}
    for _ in range(200):
        ledgers.run(0.02)
        if ledgers.of(other, Close):
            break
        ledgers.sync(other)
    group = ledgers.of(other, Close)[0].group
    number = ledgers.held[other][-1].number
    ledgers.held[other].clear()
    kept = ledgers.disks[other][group]
    assert kept.entries or kept.snapshot.index
    ledger.restart(ledgers.now, group, kept.recover())  # as the storage says: there was no space
    ledger.synced(ledgers.now, number)
    ledgers.hold = set()
    assert group not in ledger.groups
    ledger.space(ledgers.now, full=False)
    ledgers.turn()
    assert not kept.entries and not kept.snapshot.index and kept.vote.term > 0


def test_a_home_that_was_replaced_learns_it_and_is_taken_back() -> None:
    ledgers = Ledgers(4)
    ledgers.run(5.0)
    group, first = ledgers.group(0), batch(0, 1)
    ledgers.propose(0, group, first)
    ledgers.turn()
    ledgers.stop(0)
    ledgers.run(12.0)
    assert ledgers.voters(0) == [1, 2, 3]
    ledgers.start(0)
    ledgers.see()
    ledgers.turn()
    assert ledgers.nodes[0].leads(group) is None
    ledgers.run(9.0)
    assert ledgers.leader(group) == 0 and 0 in ledgers.voters(0) and len(ledgers.voters(0)) == 3
    assert list(ledgers.nodes[0].state(group).batches) == [first.key]  # type: ignore[union-attr]


def test_a_drained_node_leads_nothing_that_others_can_lead() -> None:
    ledgers = Ledgers(3)
    ledgers.run(4.0)
    group = ledgers.group(1)
    ledgers.propose(1, group, batch(1, 1))
    ledgers.nodes[1].drain(ledgers.now)
    ledgers.run(0.5)  # the others have not heard, and may give it back
    ledgers.presence[1] = Presence.DRAINING
    ledgers.see()
    ledgers.run(3.0)
    assert ledgers.of(1, Drained)[-1].left == ()
    assert ledgers.leader(group) in (0, 2) and ledgers.voters(1) == [0, 1, 2]
    assert any(one.group == group for one in ledgers.of(1, Follow))
    ledgers.stop(1)
    del ledgers.presence[1]
    ledgers.start(1)
    ledgers.see()
    ledgers.run(5.0)
    assert ledgers.leader(group) == 1


def test_a_node_that_leaves_for_good_is_in_no_group_in_the_end() -> None:
    ledgers = Ledgers(4)
    ledgers.run(5.0)
    group = ledgers.group(1)
    ledgers.propose(1, group, batch(1, 1))
    ledgers.turn()
    ledgers.nodes[1].drain(ledgers.now, for_good=True)
    ledgers.presence[1] = Presence.LEAVING
    ledgers.see()
    ledgers.run(6.0)
    assert ledgers.of(1, Drained)[-1].left == ()
    for home in range(4):
        assert 1 not in ledgers.voters(home) and len(ledgers.voters(home)) == 3
    assert list(ledgers.nodes[0].state(group).batches)  # type: ignore[union-attr]


@pytest.mark.parametrize("count", [1, 2])
def test_a_node_whose_tasks_nobody_can_take_says_so(count: int) -> None:
    ledgers = Ledgers(count)
    ledgers.run(3.0)
    if count == 2:
        ledgers.cut = lambda source, to: True
        ledgers.run(2.0)
    ledgers.nodes[0].drain(ledgers.now)
    ledgers.run(2.0)
    assert ledgers.of(0, Drained)[-1].left == (ledgers.group(0),)


def test_what_was_left_is_handed_over_when_somebody_is_back() -> None:
    ledgers = Ledgers(2)
    ledgers.run(3.0)
    ledgers.stop(1)
    ledgers.nodes[0].drain(ledgers.now, for_good=True)
    ledgers.run(2.0)
    assert [one.left for one in ledgers.of(0, Drained)] == [(ledgers.group(0),)]
    ledgers.start(1)
    ledgers.presence[0] = Presence.LEAVING
    ledgers.see()
    ledgers.run(6.0)
    assert [one.left for one in ledgers.of(0, Drained)] == [(ledgers.group(0),), ()]
    assert ledgers.leader(ledgers.group(0)) == 1


def test_the_last_two_hand_over_through_a_learner() -> None:
    ledgers = Ledgers(2)
    ledgers.run(3.0)
    group = ledgers.group(0)
    ledgers.propose(0, group, batch(0, 1))
    ledgers.turn()
    ledgers.nodes[0].drain(ledgers.now, for_good=True)
    ledgers.presence[0] = Presence.LEAVING
    ledgers.see()
    ledgers.run(5.0)
    assert ledgers.of(0, Drained)[-1].left == ()
    assert ledgers.leader(group) == 1 and ledgers.voters(0) == [1]
    assert list(ledgers.nodes[1].state(group).batches)  # type: ignore[union-attr]
    assert CONFIG.replace_after_s > 0
