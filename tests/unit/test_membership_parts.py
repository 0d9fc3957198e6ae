"""The parts of the membership machine: rumours, suspicion, health, timers, parameters."""

from __future__ import annotations

from random import Random

import pytest

from swarm.protocol.gossip import Rumours
from swarm.protocol.member import Peer, State, Table
from swarm.protocol.membership_config import DEATH_KNOWN_S, DEFAULT, MembershipConfig
from swarm.protocol.outbox import sample
from swarm.protocol.suspicion import LocalHealth, Suspicion
from swarm.protocol.timers import Timers


def test_rumours_go_out_least_told_first_and_end() -> None:
    rumours = Rumours()
    rumours.add(b"a", b"old")
    assert rumours.take(100, 10, 1, 3) == [b"old"]
    rumours.add(b"b", b"new")
    assert rumours.take(3, 10, 1, 3) == [b"new"]
    assert rumours.take(100, 10, 1, 3) == [b"old", b"new"]
    assert rumours.take(100, 10, 1, 3) == [b"old", b"new"]
    assert rumours.take(100, 10, 1, 3) == []
    assert len(rumours) == 0


def test_a_newer_rumour_takes_the_place_of_the_older_and_routine_waits() -> None:
    rumours = Rumours()
    rumours.add(b"load", b"routine", routine=True)
    assert not rumours.urgent
    rumours.add(b"a", b"suspect")
    rumours.add(b"a", b"alive")
    assert rumours.urgent
    assert rumours.take(100, 10, 1, 9) == [b"alive", b"routine"]
    rumours.drop(b"a")
    assert rumours.take(100, 10, 1, 9) == [b"routine"]


def test_what_does_not_fit_is_passed_over_not_lost() -> None:
    rumours = Rumours()
    rumours.add(b"big", b"x" * 90)
    rumours.add(b"small", b"y" * 10)
    assert rumours.take(50, 10, 1, 2) == [b"y" * 10]
    assert rumours.take(100, 1, 1, 2) == [b"x" * 90]


def test_each_independent_accuser_shortens_a_suspicion_down_to_its_shortest() -> None:
    suspicion = Suspicion(1, 10.0, 3, 1.0, 6.0)
    deadlines = []
    for accuser in (b"a", b"b", b"c", b"d"):
        assert suspicion.accuse(accuser)
        assert not suspicion.accuse(accuser)
        deadlines.append(suspicion.deadline)
    assert deadlines == sorted(deadlines, reverse=True)
    assert deadlines[0] == 16.0
    assert deadlines[-1] == 11.0
    assert not suspicion.accuse(b"e")


def test_with_nobody_to_confirm_a_suspicion_is_at_its_shortest() -> None:
    suspicion = Suspicion(1, 10.0, 0, 1.0, 6.0)
    suspicion.accuse(b"a")
    assert suspicion.deadline == 11.0


def test_health_is_bounded_both_ways() -> None:
    health = LocalHealth(DEFAULT)
    health.better()
    assert health.factor == 1
    health.worse(100)
    assert health.factor == 1 + DEFAULT.health_max
    for _ in range(100):
        health.better()
    assert health.factor == 1


def test_timers_fire_in_order_and_can_be_postponed_by_kind() -> None:
    timers = Timers()
    timers.at(2.0, 1, "b")
    timers.at(1.0, 0, "a")
    timers.at(2.0, 0, "c")
    assert timers.next_deadline() == 1.0
    timers.postpone({0}, 5.0)
    assert timers.pop(2.0) == (1, "b")
    assert timers.pop(2.0) is None
    assert timers.pop(7.0) == (0, "a")
    assert timers.pop(7.0) == (0, "c")
    assert timers.next_deadline() is None


def test_equal_tables_have_equal_digests_whatever_way_they_came_about() -> None:
    ids = [bytes([number]) * 16 for number in range(10)]
    one, other = Table(), Table()
    for id in ids:
        one.add(Peer(id))
    for id in reversed(ids):
        other.add(Peer(id))
    assert one.digest == other.digest
    assert one.live == other.live == ids
    peer = one.at(ids[3])
    one.move(peer, State.SUSPECT, 0.0)
    assert one.digest == other.digest
    one.move(peer, State.DEAD, 0.0)
    assert one.digest != other.digest
    assert one.lost == [ids[3]]
    peer.incarnation = 0
    one.move(peer, State.ALIVE, 0.0)
    assert (one.digest, one.live, one.lost) == (other.digest, ids, [])


def test_samples_are_distinct_and_leave_one_out() -> None:
    ids = [bytes([number]) for number in range(6)]
    rng = Random(0)
    for count in range(8):
        for _ in range(20):
            chosen = sample(rng, ids, count, without=ids[2])
            assert len(set(chosen)) == len(chosen) == min(count, 5)
            assert ids[2] not in chosen


def test_the_parameters_keep_the_promise_and_others_are_refused() -> None:
    for count, promised_s in DEATH_KNOWN_S.items():
        assert DEFAULT.death_bound_s(count) <= promised_s
    with pytest.raises(AssertionError):
        MembershipConfig(probe_timeout_fraction=0.8)
    with pytest.raises(AssertionError):
        MembershipConfig(suspicion_periods=0.5)
