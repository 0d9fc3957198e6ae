"""What is looked for while a log has no leader: again until it has one, and what nobody can tell is not said to be nowhere."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from nodes import leaders
from nodes.leaders import sought
from nodes.ledger import LedgerShell
from swarm.errors import NoQuorum, NotFound


class Logs:
    """What is counted, one after the other: the logs without a leader, before and after each look; the last for ever."""

    def __init__(self, *counts: int) -> None:
        self.counts = list(counts)

    def unled(self) -> int:
        return self.counts.pop(0) if len(self.counts) > 1 else self.counts[0]


def asked(logs: Logs | None, found_at: int) -> tuple[Any, int]:
    """What comes of it when it is there at that look, and how many there were."""
    looks = 0

    async def look() -> str | None:
        nonlocal looks
        looks += 1
        return "here" if looks == found_at else None

    try:
        return asyncio.run(sought(logs, look, NotFound("no task 'x' is known"))), looks
    except (NotFound, NoQuorum) as error:
        return error, looks


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaders, "LOOK_EVERY_S", 0.001)


def test_it_is_looked_for_until_there_is_a_leader_who_has_it() -> None:
    assert asked(None, 1) == ("here", 1)
    assert asked(Logs(1, 1, 1, 0), 4) == ("here", 4), (
        "once more after the last one was elected: it may not have been asked"
    )
    assert asked(Logs(0, 1, 0), 2) == ("here", 2), "it ended while it was asked"


def test_what_every_leader_does_not_know_is_nowhere() -> None:
    for logs, looks in ((None, 1), (Logs(0), 1), (Logs(1, 1, 0), 3), (Logs(0, 2, 0), 2)):
        error, made = asked(logs, 99)
        assert isinstance(error, NotFound) and made == looks


def test_what_nobody_can_tell_is_not_known_at_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaders, "WAIT_S", 0.01)
    error, _ = asked(Logs(1), 10**9)
    assert isinstance(error, NoQuorum) and "who leads 1 of the logs" in str(error) and error.hint


def test_a_log_is_led_by_this_node_or_by_one_that_it_is_linked_to() -> None:
    shell: Any = object.__new__(LedgerShell)
    up, down = SimpleNamespace(up=True), SimpleNamespace(up=False)
    rafts = {
        b"own": SimpleNamespace(leads=True, leader=b"me"),
        b"led": SimpleNamespace(leads=False, leader=b"linked"),
        b"gone": SimpleNamespace(leads=False, leader=b"gone"),
        b"down": SimpleNamespace(leads=False, leader=b"down"),
        b"elects": SimpleNamespace(leads=False, leader=None),
        b"left": None,
    }
    rafts = {(name * 8)[:32]: raft for name, raft in rafts.items()}
    shell._links = {b"linked": up, b"down": down}
    shell.ledger = SimpleNamespace(groups=list(rafts), raft=rafts.get)
    assert shell.unled() == 3
