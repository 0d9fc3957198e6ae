"""What a node says of a batch that it does not have: that there is none only when that is certain, else that it does not know."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from nodes.batch_answers import Asked, BatchAnswers
from swarm.errors import NoQuorum, NotFound
from swarm.protocol.ledger.records import Durability

KEY = bytes(range(12))
FLEET, NODE = int(Durability.FLEET), int(Durability.NODE)


class Ledger:
    """Confirms that a log is still led here, or not, or never answers; `before` happens before it does."""

    def __init__(self, confirms: Mapping[bytes, bool | None]) -> None:
        self.confirms = confirms
        self.before: Callable[[], None] = lambda: None

    def read(self, group: bytes, done: Callable[[bool], object]) -> object:
        said = self.confirms[group]
        self.before()
        if said is not None:
            done(said)
        return None


class Ownership:
    def __init__(self, led: Mapping[int, bytes]) -> None:
        self.led = led
        self.batches: dict[bytes, Any] = {}

    def log_of(self, key: bytes, level: int) -> bytes | None:
        return self.led.get(level)


class Link:
    up = True


class Fabric:
    def __init__(self, led: Mapping[int, bytes], confirms: Mapping[bytes, bool | None], others: int) -> None:
        self.ownership = Ownership(led)
        self.ledger = Ledger(confirms)
        self.node_links = {bytes((number,)): Link() for number in range(others)}
        self.around: list[bytes] = [*self.node_links, b"me"]

    def where(self, key: bytes) -> list[bytes]:
        return self.around

    def turn(self) -> None:
        pass


class Switchboard:
    """The other nodes, each with its answer."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers
        self.methods: dict[str, Callable[..., Any]] = {}

    def serve(self, name: str, method: Callable[..., Any]) -> None:
        self.methods[name] = method

    async def asked(self, link: Any, method: str, args: Any, timeout_s: float = 0.0) -> Any:
        return self.answers.pop(0), b""


@dataclass
class Log:
    group: bytes = b"all"


@dataclass
class Kept:
    """A durable batch of one task."""

    ended: bool = False
    key: bytes = KEY
    durable: Log | None = field(default_factory=Log)
    outcomes: list[Any] = field(default_factory=list)

    @property
    def calls(self) -> Kept:
        return self

    @property
    def count(self) -> int:
        return 1

    @property
    def finished_at(self) -> float | None:
        return 1.0 if self.ended else None

    def outcome(self, index: int) -> Any:
        return (0, b"value") if self.ended else None


class World:
    """A node that is asked."""

    def __init__(
        self,
        led: Mapping[int, bytes] | None = None,
        confirms: Mapping[bytes, bool | None] | None = None,
        others: list[Any] | None = None,
    ) -> None:
        self.name = "oak"
        self.fabric = Fabric(led or {}, confirms or {}, len(others or []))
        self.switchboard = Switchboard(others or [])
        self.away = False
        self.connected: list[bytes] = []
        BatchAnswers(cast(Asked, self))

    def unheard(self) -> bool:
        return self.away

    def connect(self, node: bytes) -> None:
        self.connected.append(node)

    def ask(self, method: str = "batch", **args: Any) -> Any:
        return asyncio.run(self.switchboard.methods[method](None, {"batch": KEY, **args}, b""))


def absent(*levels: int) -> dict[str, Any]:
    return {"known": False, "absent": list(levels)}


def test_the_log_of_the_home_alone_says_nothing_of_the_one_that_others_keep_too() -> None:
    # A home that was away leads its own log again at once, while another node leads the one of three hosts.
    world = World({NODE: b"own"}, {b"own": True}, [absent()])
    with pytest.raises(NoQuorum):
        world.ask()
    assert world.ask(here=True) == absent(NODE)


def test_who_leads_both_logs_says_that_there_is_none() -> None:
    with pytest.raises(NotFound):
        World({NODE: b"own", FLEET: b"all"}, {b"own": True, b"all": True}).ask()


def test_the_two_logs_may_be_led_by_two_nodes() -> None:
    with pytest.raises(NotFound):
        World({FLEET: b"all"}, {b"all": True}, [absent(NODE), absent()]).ask()


@pytest.mark.parametrize("confirms", [False, None])
def test_who_led_a_log_and_cannot_tell_whether_it_still_does_does_not_know(
    confirms: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodes.batch_answers.CONFIRM_TIMEOUT_S", 0.01)
    world = World({NODE: b"own", FLEET: b"all"}, {b"own": True, b"all": confirms})
    with pytest.raises(NoQuorum):
        world.ask()
    assert world.ask(here=True) == absent(NODE)


def test_what_comes_while_that_is_found_out_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World({FLEET: b"all"}, {b"all": True})
    there = Kept(ended=True)
    world.fabric.ledger.before = lambda: world.fabric.ownership.batches.update({KEY: there})
    monkeypatch.setattr(BatchAnswers, "_shown", lambda self, batch: {"is": batch})
    assert world.ask() == {"is": there}


def test_what_names_no_log_of_this_fleet_is_not_there() -> None:
    world = World(others=[absent()])
    world.fabric.around = []
    with pytest.raises(NotFound):
        world.ask()


@pytest.mark.parametrize(("away", "answer"), [(True, absent()), (False, None)])
def test_what_those_may_have_who_are_away_or_do_not_answer_is_not_known(away: bool, answer: Any) -> None:
    # After all nodes of a fleet were killed, the first one that was there again had denied what two others kept.
    world = World(others=[answer])
    world.fabric.around, world.away = [], away
    with pytest.raises(NoQuorum):
        world.ask()


def test_a_link_that_is_down_answers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Link, "up", False)
    world = World(others=[absent()])
    world.fabric.around = []
    with pytest.raises(NoQuorum):
        world.ask()


def test_who_may_have_it_and_is_not_linked_is_linked_for_the_next_question() -> None:
    # Two nodes that keep no log together had no link after a cut, and each said "unknown" of the other's batches for ever.
    world = World()
    world.fabric.around = [b"elm"]
    with pytest.raises(NoQuorum):
        world.ask()
    assert world.connected == [b"elm"]


@pytest.mark.parametrize(("method", "more"), [("batch", {}), ("batch.outcomes", {"index": 0}), ("batch.outcomes", {})])
def test_that_a_task_has_not_ended_is_said_by_who_leads_its_log_still(
    method: str, more: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A node that stood still had another lead its log meanwhile, and told of the outcome; it says first what was, before it knows.
    monkeypatch.setattr(BatchAnswers, "_shown", lambda self, batch: {"is": batch})
    monkeypatch.setattr("nodes.batch_answers.boottime_s", lambda: 0.0)
    for confirms, ended in ((True, False), (False, True)):
        world = World({FLEET: b"all"}, {b"all": confirms})
        world.fabric.ownership.batches[KEY] = kept = Kept(ended)
        answer = world.ask(method, **more)
        assert (answer[0] if isinstance(answer, tuple) else answer)["is"] is kept, "it leads, or it has ended"
    world = World({FLEET: b"all"}, {b"all": False})
    world.fabric.ownership.batches[KEY] = Kept()
    assert world.ask(method, **more) == absent()


def test_what_is_not_durable_needs_no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchAnswers, "_shown", lambda self, batch: {"is": batch})
    world = World()
    world.fabric.ownership.batches[KEY] = kept = Kept(durable=None)
    assert world.ask() == {"is": kept}
