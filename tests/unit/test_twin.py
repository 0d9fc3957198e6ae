"""The door of a node and what it says at others': over links that a test holds in its hands."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nodes.door import HELD_BYTES_MAX, TURNED_AWAY, Doorway
from nodes.twin import Twin, when
from swarm.protocol.effects import Fact
from swarm.protocol.messages import Kind, decode, encode
from swarm.protocol.twins import ANSWER_S, Standing

NODE = b"n" * 16


class Wire:
    """A link; what is sent on it is kept."""

    def __init__(self, boot: bytes, id: bytes = NODE) -> None:
        self.boot = boot
        self.identity = SimpleNamespace(id=id, name="oak", text="oak")
        self.up = True
        self.sent: list[tuple[int, dict[str, Any]]] = []
        self.closed = ""

    def send(self, *parts: bytes) -> None:
        kind, header, _ = decode(b"".join(parts))
        self.sent.append((kind, header))

    def flush(self) -> None: ...

    def close(self, reason: str) -> None:
        self.up, self.closed = False, reason


class Loop:
    """A clock that is set forward."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Any, tuple[Any, ...]]] = []

    def call_later(self, after_s: float, function: Any, *args: Any) -> Any:
        entry = (self.now + after_s, function, args)
        self.timers.append(entry)
        return SimpleNamespace(cancel=lambda: self.timers.remove(entry) if entry in self.timers else None)

    def wait(self, for_s: float) -> None:
        self.now += for_s
        for entry in [entry for entry in self.timers if entry[0] <= self.now + 1e-9]:
            if entry in self.timers:
                self.timers.remove(entry)
                entry[1](*entry[2])


class Inside:
    def __init__(self) -> None:
        self.taken: list[Wire] = []
        self.said: list[tuple[Wire, list[bytes]]] = []

    def take_in(self, link: Any) -> None:
        self.taken.append(link)

    def link_messages(self, link: Any, messages: list[bytes]) -> None:
        self.said.append((link, messages))


def standing(boot: bytes, since: float = 5.0, *, counted: bool = False) -> Standing:
    return Standing(boot, since, counted, (("10.0.0.9", 7411),), 77, 7)


def doorway() -> tuple[Doorway, Inside, Loop, list[Fact]]:
    inside, loop, facts = Inside(), Loop(), list[Fact]()
    return Doorway(inside, facts.append, loop, lambda: loop.now), inside, loop, facts  # type: ignore[arg-type]


FIRST, SECOND = b"first---", b"second--"


def test_a_link_of_the_same_process_and_the_first_one_of_all_do_not_wait() -> None:
    door, _, _, _ = doorway()
    known = Wire(FIRST)
    assert not door.stops(Wire(FIRST), None)  # type: ignore[arg-type]
    assert not door.stops(Wire(FIRST), known)  # type: ignore[arg-type]
    known.up = False
    assert not door.stops(Wire(SECOND), known)  # type: ignore[arg-type]


def test_what_waits_is_not_heard_and_is_when_the_first_process_has_not_answered() -> None:
    door, inside, loop, _ = doorway()
    known, new = Wire(FIRST), Wire(SECOND)
    assert door.stops(new, known)  # type: ignore[arg-type]
    assert known.sent == new.sent == [(Kind.TWIN, {"q": True})]
    vote, answer = encode(Kind.LEDGER, {}) + b"a vote", encode(Kind.TWIN, standing(SECOND).header())
    assert door.heard(new, [vote, answer]) == [answer]  # type: ignore[arg-type]
    assert door.heard(known, [vote]) == [vote]  # type: ignore[arg-type]
    door.message(new, standing(SECOND).header())  # type: ignore[arg-type]
    loop.wait(ANSWER_S)
    assert inside.taken == [new] and inside.said == [(new, [vote])]
    assert door.heard(new, [vote]) == [vote]  # type: ignore[arg-type]


def test_both_are_shown_each_other_and_the_one_that_leaves_is_forgotten() -> None:
    door, inside, loop, facts = doorway()
    known, new = Wire(FIRST), Wire(SECOND)
    door.stops(new, known)  # type: ignore[arg-type]
    first, second = standing(FIRST, counted=True), standing(SECOND)
    door.message(new, second.header())  # type: ignore[arg-type]
    door.message(known, first.header())  # type: ignore[arg-type]
    assert known.sent[-1] == (Kind.TWIN, {"you": first.header(), "other": second.header()})
    assert new.sent[-1] == (Kind.TWIN, {"you": second.header(), "other": first.header()})
    assert {fact.name for fact in facts} == {"peer.cloned"}
    new.up = False
    door.down(new)  # type: ignore[arg-type]
    loop.wait(60)
    assert inside.taken == [] and known.up


def test_who_waits_and_says_too_much_is_turned_away() -> None:
    door, _, _, _ = doorway()
    new = Wire(SECOND)
    door.stops(new, Wire(FIRST))  # type: ignore[arg-type]
    assert door.heard(new, [encode(Kind.LEDGER, {}) + bytes(HELD_BYTES_MAX)]) == []  # type: ignore[arg-type]
    assert new.closed == TURNED_AWAY


def test_a_link_that_went_down_at_the_door_is_not_taken_in() -> None:
    door, inside, loop, _ = doorway()
    known, new = Wire(FIRST), Wire(SECOND)
    door.stops(new, known)  # type: ignore[arg-type]
    new.up = False
    known.up = False
    door.down(known)  # type: ignore[arg-type]
    loop.wait(60)
    assert inside.taken == []


class Around:
    """A node."""

    def __init__(self, boot: bytes = FIRST, *, counted: bool = False) -> None:
        self.boot = boot
        self.directory = Path("/data/nodes/oak")
        self.credentials = SimpleNamespace(identity=SimpleNamespace(text="k3x9"))
        self.outlived: list[tuple[int, int]] = []
        self.neighbourhood = SimpleNamespace(numbers=(5, 3), outlive=lambda *numbers: self.outlived.append(numbers))
        self.halted = False
        self.ledger = SimpleNamespace(counted=counted, halt=lambda: setattr(self, "halted", True))
        self.ready = True
        self.facts: list[Fact] = []

    def addresses(self) -> tuple[tuple[str, int], ...]:
        return (("10.0.0.5", 7411),)

    def fact(self, fact: Fact) -> None:
        self.facts.append(fact)


def twin(around: Around, loop: Loop, ends: list[str]) -> Twin:
    return Twin(around, loop, lambda: ends.append("ended"))  # type: ignore[arg-type]


def test_the_one_that_stays_says_so_and_speaks_above_what_the_other_one_said() -> None:
    around, loop, ends = Around(counted=True), Loop(), list[str]()
    it = twin(around, loop, ends)
    mine = it.standing()
    assert mine is not None and mine.counted and mine.number == 5
    it.found(mine, standing(SECOND))
    assert not ends and not around.halted and around.ready
    (fact,) = around.facts
    assert (fact.name, fact.labels["verdict"], fact.fields["at"]) == ("node.cloned", "stays", "10.0.0.9:7411")
    loop.wait(10)
    assert around.outlived == [(77, 7)] * 2
    report = it.report()
    assert report is not None and report["at"] == "10.0.0.9:7411"


@pytest.mark.parametrize(("counted", "both"), [(False, False), (True, True)])
def test_the_one_that_gives_way_says_no_more_and_tells_why(
    counted: bool, both: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    around, loop, ends = Around(counted=counted), Loop(), list[str]()
    it = twin(around, loop, ends)
    mine = it.standing()
    assert mine is not None
    it.found(mine, standing(SECOND, counted=True))
    assert around.halted and not around.ready and ends == ["ended"] and it.refused
    said = capsys.readouterr().err
    assert "another node with this identity (k3x9) is running at 10.0.0.9:7411 since 1970-01-01 00:00:05 UTC" in said
    assert "/data/nodes/oak" in said and "swarm fleet join" in said and ("both end" in said) == both
    it.found(mine, standing(SECOND, counted=True))
    assert ends == ["ended"]


def test_what_is_said_of_this_very_process_or_of_one_before_is_nothing_to_it() -> None:
    around, loop, ends = Around(), Loop(), list[str]()
    it = twin(around, loop, ends)
    mine = it.standing()
    assert mine is not None
    it.found(mine, standing(FIRST, counted=True))
    it.found(standing(b"before--"), standing(SECOND, counted=True))
    assert not ends and not around.facts
    it.closing = True
    assert it.standing() is None
    it.found(mine, standing(SECOND, counted=True))
    assert not ends


def test_two_that_are_linked_to_each_other_come_to_the_same_verdict() -> None:
    loop, ends = Loop(), {FIRST: list[str](), SECOND: list[str]()}
    arounds = {FIRST: Around(FIRST, counted=True), SECOND: Around(SECOND)}
    both = {boot: twin(around, loop, ends[boot]) for boot, around in arounds.items()}
    wires = {boot: Wire(SECOND if boot == FIRST else FIRST) for boot in both}
    for boot, it in both.items():
        it.link_up(wires[boot])  # type: ignore[arg-type]
    for boot, it in both.items():
        other = wires[SECOND if boot == FIRST else FIRST]
        it.messages(wires[boot], [encode(kind, header) for kind, header in other.sent])  # type: ignore[arg-type]
        it.link_down(wires[boot])  # type: ignore[arg-type]
    assert (ends[FIRST], ends[SECOND]) == ([], ["ended"])
    malformed = Wire(SECOND)
    both[FIRST].link_up(malformed)  # type: ignore[arg-type]
    both[FIRST].messages(malformed, [encode(Kind.TWIN, {"boot": 7})])  # type: ignore[arg-type]
    assert malformed.closed.startswith("violation")


def test_times_that_are_none_are_told_as_such() -> None:
    assert when(1e300) == "an unknown time" and when(0.0).startswith("1970-01-01 00:00:00")


def test_a_ledger_that_is_halted_carries_out_nothing_more() -> None:
    from nodes.ledger import LedgerShell

    shell = object.__new__(LedgerShell)
    shell.__dict__.update(_told=True, _halted=False, ledger=SimpleNamespace(take=lambda: ["a vote"]))
    assert shell.take() == ["a vote"]
    shell.halt()
    assert shell.take() == [] and asyncio.iscoroutinefunction(shell.close)
