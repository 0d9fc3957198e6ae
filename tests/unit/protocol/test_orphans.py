"""Runs of durable batches outlive their owner, and are adopted by who leads their log next."""

from __future__ import annotations

from kernels.batch import Outcomes
from swarm.protocol.executor.orphans import ADOPTED_WITHIN_S
from swarm.protocol.messages import Kind
from swarm.protocol.states import Status
from tests.unit.protocol.executor import ELM, OAK, Executor, key_of


def durable(number: int = 7, count: int = 3, slots: int = 1) -> Executor:
    node = Executor(slots=slots)
    node.dispatch(number, count, extra={"token": [3, number]})
    return node


def outcomes_to(node: Executor, owner: bytes) -> list[tuple[int, int]]:
    return [(one.header["d"], one.header["n"]) for one in node.told if one.to == owner and one.kind == Kind.OUTCOMES]


def test_what_runs_goes_on_without_its_owner_and_its_outcomes_wait_for_the_next_one() -> None:
    node = durable()
    (part,) = node.slices()
    node.run(part)
    assert outcomes_to(node, OAK) == [(7, 1)]
    node.it.owner_lost(node.now, OAK)
    (part,) = node.slices()
    node.run(part)
    assert outcomes_to(node, OAK) == [(7, 1)], "nobody is told"
    assert node.it.held_of([key_of(7)]) == [(key_of(7), OAK, 7, [3, 7], [(1, 3)])]
    assert node.it.held_of([key_of(8)]) == []
    assert node.it.adopt(OAK, 7, ELM, 99) == [(2, 3)], "the second one's outcome is told before"
    node.take()
    assert outcomes_to(node, ELM) == [(99, 1)]
    (part,) = node.slices()
    node.run(part)
    assert outcomes_to(node, ELM) == [(99, 1), (99, 1)]
    node.at_rest()
    assert node.it.others(ELM) == node.it.others(OAK) == 0


def test_a_run_that_ended_without_an_owner_is_held_until_it_is_adopted() -> None:
    node = durable(count=1)
    node.it.owner_lost(node.now, OAK)
    node.run(node.slices()[0])
    assert node.it.held_of([key_of(7)])[0][4] == [(0, 1)]
    assert node.it.adopt(OAK, 7, ELM, 5) == []
    node.take()
    assert outcomes_to(node, ELM) == [(5, 1)]
    assert node.it.held_of([key_of(7)]) == [] and node.it.adopt(OAK, 7, ELM, 6) == []
    node.at_rest()


def test_the_same_owner_comes_back() -> None:
    node = durable(count=2)
    node.it.owner_lost(node.now, OAK)
    node.run(node.slices()[0])
    node.it.owner_back(OAK)
    node.take()
    assert outcomes_to(node, OAK) == [(7, 1)]
    node.run(node.slices()[0])
    assert outcomes_to(node, OAK) == [(7, 1), (7, 1)]
    node.at_rest()


def test_an_owner_that_leads_no_more_has_its_runs_taken_over_while_it_lives() -> None:
    node = durable(count=2)
    node.it.disown(node.now, OAK, [key_of(7)])
    node.run(node.slices()[0])
    assert outcomes_to(node, OAK) == []
    assert node.it.held_of([key_of(7)])[0][4] == [(0, 2)]
    assert node.it.adopt(OAK, 7, ELM, 7) == [(1, 2)]
    node.it.recall(node.now, OAK, 7, None, True)
    node.take()
    assert node.stopped == [], "who had it has no say in it any more"
    node.it.recall(node.now, ELM, 7, None, False)
    node.take()
    assert sum(n for _, n in outcomes_to(node, ELM)) == 2


def test_a_run_that_is_handed_on_with_its_owner_alive_is_adopted_at_once() -> None:
    node = durable(count=1)
    assert node.it.held_of([key_of(7)]) == [(key_of(7), OAK, 7, [3, 7], [(0, 1)])]
    assert node.it.adopt(OAK, 7, ELM, 1) == [(0, 1)]
    node.it.owner_lost(node.now, OAK)
    node.run(node.slices()[0])
    assert outcomes_to(node, ELM) == [(1, 1)] and not outcomes_to(node, OAK)


def test_what_nobody_adopts_is_ended() -> None:
    node = durable(count=3)
    (part,) = node.slices()
    node.claim(part)
    node.it.owner_lost(node.now, OAK)
    deadline = node.it.next_deadline()
    assert deadline is not None and deadline <= node.now + ADOPTED_WITHIN_S
    node.now += ADOPTED_WITHIN_S - 1
    node.it.on_timer(node.now)
    node.take()
    assert node.stopped == []
    node.now += 2
    node.it.on_timer(node.now)
    node.take()
    assert [one.reason for one in node.stopped] == ["the owner of its task is gone"]
    assert node.it.held_of([key_of(7)]) == [] and "orphan.given_up" in [one.name for one in node.facts]


def test_what_is_not_durable_ends_with_its_owner() -> None:
    node = Executor(slots=1)
    node.dispatch(7, 2)
    node.it.owner_lost(node.now, OAK)
    node.take()
    assert node.it.held_of([key_of(7)]) == [] and node.it.held(OAK) == {}
    assert node.it.adopt(OAK, 7, ELM, 1) == []


def test_failures_and_deaths_are_told_to_the_next_owner_too() -> None:
    node = durable(count=2)
    (part,) = node.slices()
    node.it.owner_lost(node.now, OAK)
    node.run(part, Status.FAILED)
    assert node.it.adopt(OAK, 7, ELM, 9) == [(1, 2)]
    node.take()
    (told,) = [one for one in node.told if one.to == ELM]
    outcomes = Outcomes(told.parts[0], 1)
    assert (told.header["d"], outcomes.index(0), outcomes.status(0)) == (9, 0, Status.FAILED)
