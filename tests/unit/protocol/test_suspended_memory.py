"""What stands still keeps its memory within a budget, and goes on only for an owner that still counts on it."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.protocol.executor.effects import HandInput, HandSlice, ResumeWorker
from swarm.protocol.executor.leases import LOOKED_S_MAX, OWNER_LEASE_S, Leases
from swarm.protocol.executor.memory import LEAVE_S
from swarm.protocol.messages import Kind
from swarm.protocol.states import Priority, Status
from tests.unit.protocol.executor import ELM, ME, OAK, Executor

SAVED: dict[str, Any] = {"extra": {"saved": []}, "checkpoint": True}


def displaced(*given: dict[str, Any], owner: bytes = OAK, budget: int = 100) -> tuple[Executor, list[HandSlice]]:
    """An executor on which each of these tasks stands still, for urgent work; the last began last."""
    node = Executor(float(len(given)), suspended_bytes_max=budget, spare_workers=len(given))
    for number, options in enumerate(given, 1):
        node.dispatch(number, owner=owner, priority=Priority.LOW, **options)
    parts = node.slices()
    for part in parts:
        node.claim(part)
        node.now += 1.0
    node.wait(1.0)
    for number in range(len(given)):
        node.dispatch(100 + number, owner=ELM, priority=Priority.CRITICAL)
    assert node.it.suspended == len(given)
    node.others.clear()
    return node, parts


def measured(node: Executor, *rss: int) -> None:
    node.it.suspended_memory(node.now, dict(enumerate(rss, 1)))
    node.take()


def asked(node: Executor) -> list[tuple[int, int]]:
    found = [(one.worker, one.value) for one in node.others if isinstance(one, HandInput)]
    node.others.clear()
    return found


def killed(node: Executor) -> list[int]:
    found = [one.worker for one in node.stopped if one.how == "kill"]
    node.stopped.clear()
    return found


def test_within_the_budget_everything_stays() -> None:
    node, _ = displaced({}, {})
    measured(node, 50, 50)
    assert node.it.suspended == 2 and not killed(node)
    boundless, _ = displaced({}, {}, budget=0)
    measured(boundless, 10**12, 10**12)
    assert boundless.it.suspended == 2 and not killed(boundless), "nothing was said of a budget"


def test_what_offers_checkpoints_goes_first_and_only_as_much_as_is_needed() -> None:
    node, parts = displaced({}, SAVED, {})
    measured(node, 60, 60, 30)
    assert asked(node) == [(parts[1].worker, 1)] and not killed(node)
    assert node.it.suspended == 2
    node.report(parts[1], {parts[1].start: Status.SAVED})
    node.done(parts[1])
    assert node.ended(2) == {0: Status.SAVED}


def test_then_what_has_run_least_is_run_again_without_blame() -> None:
    node, parts = displaced({}, {})
    measured(node, 60, 60)
    assert killed(node) == [parts[1].worker], "the other one has run longer"
    node.exited(parts[1].worker, "signal 9")
    assert node.ended(2) == {0: Status.RETURNED} and node.it.suspended == 1
    outcome = next(one for one in node.told if one.kind == Kind.OUTCOMES and one.header["d"] == 2)
    assert b"stood still and is run again" in bytes(outcome.parts[0])


@pytest.mark.parametrize("options", [{"rerun": False}, {"stream": True}])
def test_what_may_not_be_repeated_stays_whatever_it_takes(options: dict[str, Any]) -> None:
    node, _ = displaced(options)
    measured(node, 10**9)
    assert node.it.suspended == 1 and not killed(node) and not asked(node)


def test_an_owner_that_knows_nothing_of_states_is_sent_none() -> None:
    node, parts = displaced({"checkpoint": True})
    measured(node, 1000)
    assert not asked(node) and killed(node) == [parts[0].worker]


def test_one_that_comes_to_no_safe_point_is_run_again_if_it_may() -> None:
    node, parts = displaced(SAVED, {**SAVED, "rerun": False})
    measured(node, 1000, 1000)
    assert sorted(asked(node)) == [(parts[0].worker, 1), (parts[1].worker, 1)] and node.it.suspended == 0
    node.wait(LEAVE_S / 2)
    assert not killed(node)
    node.wait(LEAVE_S)
    assert killed(node) == [parts[0].worker] and asked(node) == [(parts[1].worker, 0)]
    node.exited(parts[0].worker, "signal 9")
    assert node.ended(1) == {0: Status.RETURNED} and node.ended(2) == {}


# --- leases -----------------------------------------------------------------------------------------------------------


def urgent_ends(node: Executor) -> None:
    for part in node.slices():
        node.run(part)


def resumed(node: Executor) -> list[int]:
    return [one.worker for one in node.others if isinstance(one, ResumeWorker)]


def test_it_goes_on_while_its_owner_is_linked() -> None:
    node, parts = displaced({})
    urgent_ends(node)
    assert resumed(node) == [parts[0].worker]


@pytest.mark.parametrize("away_s", [0.5, OWNER_LEASE_S + 0.1])
def test_before_it_goes_on_its_lease_is_looked_at(away_s: float) -> None:
    node, parts = displaced({})
    node.it.leases.away(node.now, OAK)
    node.now += away_s  # and no timer came meanwhile: this node stood still
    urgent_ends(node)
    if away_s < OWNER_LEASE_S:
        assert resumed(node) == [parts[0].worker] and not killed(node)
    else:
        assert not resumed(node) and killed(node) == [parts[0].worker], "somebody else runs it by now"


def test_an_owner_that_is_back_has_its_lease_renewed() -> None:
    node, parts = displaced({})
    node.it.leases.away(node.now, OAK)
    node.now += OWNER_LEASE_S - 0.1
    node.it.owner_back(OAK)
    node.now += OWNER_LEASE_S
    urgent_ends(node)
    assert resumed(node) == [parts[0].worker]


@pytest.mark.parametrize("owner", [OAK, ME])
def test_after_this_node_stood_still_its_owner_is_asked_first(owner: bytes) -> None:
    node, parts = displaced({}, owner=owner)
    leases = node.it.leases
    assert not leases.looked(node.now) and node.it.standing() == {parts[0].worker: [owner]}
    node.now += 1.0
    assert not leases.looked(node.now)
    node.now += LOOKED_S_MAX + 1.0
    urgent_ends(node)  # before anybody has looked
    if owner == ME:
        assert resumed(node) == [parts[0].worker], "it is here itself"
        return
    assert not resumed(node)
    assert leases.looked(node.now)
    leases.unsure(OAK)
    node.it.go_on(node.now)
    node.take()
    assert not resumed(node) and leases.doubted() == [OAK]
    leases.renewed(OAK)
    node.it.go_on(node.now)
    node.take()
    assert resumed(node) == [parts[0].worker]


def test_when_nothing_stands_still_nobody_has_to_look() -> None:
    leases = Leases()
    leases.looked(0.0)
    assert not leases.may_go_on(100.0, OAK)
    leases.rest()
    assert leases.may_go_on(100.0, OAK) and not leases.looked(200.0)
