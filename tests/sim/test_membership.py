"""Membership in the simulator: the promises of joining, death, healing, and of burying nobody alive."""

from __future__ import annotations

from random import Random

import pytest

from swarm.protocol.effects import Joined
from swarm.protocol.member import State
from swarm.protocol.membership_config import DEATH_KNOWN_S, DEFAULT, NOTICE_DATAGRAMS_MAX
from tests.sim import checkers
from tests.sim.fleet import Fleet, id_of
from tests.sim.scenarios import HEAL_S, JOIN_S, SCENARIOS, run


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", sorted(SCENARIOS))
def test_a_handful_of_each_fault_schedule(kind: str, seed: int) -> None:
    outcome = run(kind, seed)
    assert outcome.events > 0


def grown(count: int, seed: int = 0) -> Fleet:
    fleet = Fleet(seed)
    fleet.grow(count)
    fleet.run_until_agreed(JOIN_S)
    return fleet


@pytest.mark.parametrize("seed", range(20))
def test_a_death_among_five_is_known_to_all_in_three_seconds(seed: int) -> None:
    fleet = grown(5, seed)
    fleet.run(2.0 + fleet.rng.random())
    victim = seed % 5
    fleet.kill(victim)
    checkers.death_known(fleet, victim, DEATH_KNOWN_S[5])
    checkers.all_quiet(fleet, 3.0)


@pytest.mark.slow
def test_a_death_among_two_hundred_is_known_to_all_in_twelve_seconds() -> None:
    fleet = Fleet(0)
    fleet.grow(200)
    fleet.run_until_agreed(JOIN_S)
    fleet.disturb(77, 1e9)
    fleet.kill(77)
    checkers.death_known(fleet, 77, DEATH_KNOWN_S[200])
    checkers.nobody_buried_alive(fleet)


@pytest.mark.parametrize("seed", range(5))
def test_a_new_node_knows_all_and_is_known_to_all_in_a_second(seed: int) -> None:
    fleet = grown(30, seed)
    fleet.run(1.0)
    fleet.start(30, [int(fleet.rng.random() * 30)])
    fleet.run_until_agreed(JOIN_S)


def test_nodes_started_at_once_that_hint_at_each_other_find_together() -> None:
    fleet = Fleet(0)
    for number in range(3):
        fleet.start(number, [other for other in range(3) if other != number])
    fleet.run_until_agreed(0.5)


def test_a_connection_reset_is_probed_at_once() -> None:
    slow, quick = grown(5), grown(5)
    for fleet in (slow, quick):
        fleet.kill(4)
    for number in range(4):
        quick.call(number, "peer_reset", id_of(4))
    period = DEFAULT.period(5)
    known_s = checkers.death_known(quick, 4, 3.0)
    assert known_s <= period + DEFAULT.suspicion_min_s(5) + DEFAULT.spread_s(5)
    assert known_s <= checkers.death_known(slow, 4, 3.0)


def test_a_node_that_comes_back_has_a_higher_incarnation_and_is_joined_again() -> None:
    fleet = grown(4)
    before = fleet.nodes[0].membership.state(id_of(3))
    assert before is State.ALIVE
    [old] = [member for member in fleet.nodes[0].membership.live() if member.id == id_of(3)]
    fleet.kill(3)
    fleet.run(0.05)
    events = len(fleet.events)
    fleet.start(3, [1])
    fleet.run_until_agreed(JOIN_S)
    [new] = [member for member in fleet.nodes[0].membership.live() if member.id == id_of(3)]
    assert new.incarnation > old.incarnation
    assert new.boot != old.boot
    joined = {(e.observer, e.subject) for e in fleet.events[events:] if e.kind is Joined}
    assert {(observer, 3) for observer in range(3)} <= joined


def test_a_node_whose_disk_lost_its_incarnation_learns_it_from_the_fleet() -> None:
    fleet = grown(4)
    fleet.kill(3)
    fleet.run(5.0)
    fleet.disk[3] = 0
    fleet.start(3, [1])
    fleet.run_until_agreed(JOIN_S)


def test_info_reaches_all_and_the_newest_wins() -> None:
    fleet = grown(6)
    for free in range(5):
        fleet.call(2, "update_self", {"slots": 2, "free": free})
        fleet.run(0.2)
    fleet.run(3.0)
    for number in range(6):
        if number != 2:
            [member] = [m for m in fleet.nodes[number].membership.live() if m.id == id_of(2)]
            assert member.info == {"slots": 2, "free": 4}


def test_new_addresses_are_told_to_all() -> None:
    fleet = grown(4)
    new = (("10.9.9.9", 7001), fleet.address(2))
    fleet.call(2, "update_self", None, new)
    fleet.run(1.0)
    for number in (0, 1, 3):
        [member] = [m for m in fleet.nodes[number].membership.live() if m.id == id_of(2)]
        assert member.addresses == new
    checkers.all_quiet(fleet, 5.0)
    checkers.nobody_buried_alive(fleet)


def test_a_notice_reaches_all_and_whoever_joins_later_and_a_bad_one_nobody() -> None:
    fleet = grown(5)
    fleet.call(1, "publish", b"notice: key 7 is revoked")
    fleet.call(1, "publish", b"forged")
    fleet.run(1.0)
    assert fleet.notices == {number: [b"notice: key 7 is revoked"] for number in range(5)}
    fleet.start(5, [0])
    fleet.run_until_agreed(JOIN_S)
    fleet.run(1.0)
    assert fleet.notices[5] == [b"notice: key 7 is revoked"]


def test_a_thousand_notices_reach_whoever_joins_later_a_bounded_number_of_datagrams_at_a_time() -> None:
    fleet = grown(2)
    blobs = [b"notice %d " % number + bytes(300) for number in range(1000)]
    for blob in blobs:
        fleet.call(0, "publish", blob)
    fleet.run(30.0)
    fleet.start(5, [0])
    sent = fleet.network.sent
    fleet.run(1.0)
    assert fleet.notices[5]
    assert fleet.network.sent - sent < 6 * NOTICE_DATAGRAMS_MAX
    fleet.run(120.0)
    assert {number: set(got) for number, got in fleet.notices.items()} == dict.fromkeys((0, 1, 5), set(blobs))


def test_a_fleet_cut_in_two_for_long_buries_the_other_half_and_merges_again() -> None:
    fleet = grown(8)
    sides = [fleet.address(n) for n in range(4)], [fleet.address(n) for n in range(4, 8)]
    fleet.network.part(*sides)
    fleet.run(30.0)
    assert fleet.nodes[0].membership.count == 4
    assert fleet.nodes[7].membership.count == 4
    fleet.network.heal()
    fleet.run_until_agreed(HEAL_S)


def test_a_node_that_stood_still_for_long_buries_nobody() -> None:
    for seed in range(5):
        fleet = grown(5, seed)
        rng = Random(seed)
        fleet.excuse(1, 30.0)
        fleet.pause(1, 3.0 + 10 * rng.random())
        fleet.run(15.0)
        fleet.run_until_agreed(HEAL_S)
        checkers.nobody_buried_alive(fleet)
