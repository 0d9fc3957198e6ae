"""The past of the knowledge log against a model that kept every state, with what was let go from the log moved into the past."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.knowledge.history import State, differences, moment, same, set_back, shard_at, shown
from swarm.errors import UsageError
from swarm.protocol.knowledge.knowledge import Knowledge
from swarm.protocol.knowledge.rules import Outcome
from swarm.protocol.knowledge.shard import Shard
from swarm.protocol.knowledge.stamps import HybridClock, time_of
from swarm.protocol.knowledge.views import GONE

SHARDS = 2
KEYS = ("a", "b", "c")


def believe_all(author: bytes, message: bytes, signature: bytes) -> Outcome | None:
    return None


def node(name: str) -> Knowledge:
    return Knowledge(
        author=name.ljust(16).encode(), sign=lambda message: bytes(64), shards={}, shards_count=SHARDS,
        clock=HybridClock(), open_shard=lambda number: Shard(number, SHARDS, believe_all),
    )  # fmt: skip


class Fleet:
    """Two nodes that tell each other all at once, the model of what they know, and the past of the first."""

    def __init__(self) -> None:
        self.nodes = [node("oak"), node("elm")]
        self.wall_ms = 1_000
        self.model: dict[tuple[str, str], Any] = {}
        self.states: list[tuple[int, dict[tuple[str, str], Any]]] = []
        self.past: dict[int, set[bytes]] = {number: set() for number in range(SHARDS)}
        self.evidence: dict[tuple[str, int], float] = {}

    def tell(self) -> None:
        for one, other in (self.nodes, self.nodes[::-1]):
            for segment in one.take():
                other.shard(segment.shard).apply(segment, self.wall_ms)
                other.clock.saw(segment.last_time, self.wall_ms)

    def say(self, who: int, kind: str, key: str, value: Any) -> None:
        one = self.nodes[who]
        at = kind, key
        if kind == "facts":
            if value is None:
                stamp = one.drop(kind, key, self.wall_ms)
                self.model.pop(at, None)
            else:
                stamp = one.put(kind, key, value, self.wall_ms)
                self.model[at] = value
        elif kind == "marks":
            elements = set(self.model.get(at, ()))
            if value in elements:
                stamp = one.drop(kind, key, self.wall_ms, value)
                elements.discard(value)
            else:
                stamp = one.put(kind, key, value, self.wall_ms)
                elements.add(value)
            self.model.pop(at, None)
            if elements:
                self.model[at] = sorted(elements)
        elif kind == "tallies":
            stamp = one.count(kind, key, self.wall_ms, value % 3, value % 2)
            self.model[at] = self.model.get(at, 0) + value % 3 - value % 2
        else:
            stamp = one.put(kind, key, value / 2, self.wall_ms)
            self.evidence[key, who] = value / 2
            self.model[at] = sum(self.evidence.get((key, each), 0.0) for each in (0, 1))
        self.states.append((stamp, copy.deepcopy(self.model)))

    def expire(self, age_ms: int) -> None:
        self.tell()
        for number in range(SHARDS):
            for one in self.nodes:
                shard = one.shard(number)
                before = set(shard.segments())
                shard.expire(time_of(max(0, self.wall_ms - age_ms)))
                if one is self.nodes[0]:
                    self.past[number] |= before - set(shard.segments())

    def then(self, until: int) -> State:
        shards = {
            number: shard_at(
                number, SHARDS, [*self.nodes[0].shard(number).segments(), *self.past[number]], until, believe_all
            )
            for number in range(SHARDS)
        }
        return State(until, shards)


def known(state: State) -> dict[tuple[str, str], Any]:
    found: dict[tuple[str, str], Any] = {}
    for kind in state.kinds():
        for key, value, _ in state.records(kind):
            found[kind, key] = sorted(value) if kind == "marks" else value
    return found


says = st.tuples(
    st.just("say"), st.integers(0, 1), st.sampled_from(("facts", "marks", "tallies", "beliefs")), st.sampled_from(KEYS),
    st.integers(0, 3),
)  # fmt: skip
moves = st.one_of(says, says, says, st.tuples(st.just("wait"), st.integers(0, 40)), st.tuples(st.just("tell")))
expiries = st.tuples(st.just("expire"), st.integers(0, 60))


@settings(max_examples=120, deadline=None)
@given(st.lists(st.one_of(moves, moves, expiries), max_size=40))
def test_every_moment_is_as_it_was(script: list[tuple[Any, ...]]) -> None:
    fleet = Fleet()
    for step in script:
        match step:
            case ("say", who, kind, key, value):
                fleet.tell()  # a removal sees what the other has added
                fleet.say(who, kind, key, None if kind == "facts" and value == 0 else value)
            case ("wait", ms):
                fleet.wall_ms += ms
            case ("tell",):
                fleet.tell()
            case ("expire", age_ms):
                fleet.expire(age_ms)
    fleet.tell()
    for stamp, state in fleet.states:
        assert known(fleet.then(stamp)) == state
    if fleet.states:
        assert known(fleet.then(fleet.states[0][0] - 1)) == {}


@settings(max_examples=60, deadline=None)
@given(st.lists(says, min_size=1, max_size=25), st.data())
def test_setting_back_makes_all_nodes_know_what_was_known(script: list[tuple[Any, ...]], data: st.DataObject) -> None:
    fleet = Fleet()
    for _, who, kind, key, value in script:
        fleet.tell()
        fleet.wall_ms += 1
        fleet.say(who, kind, key, None if kind == "facts" and value == 0 else value)
    fleet.tell()
    stamp, state = data.draw(st.sampled_from(fleet.states))
    then, me = fleet.then(stamp), fleet.nodes[0]
    fleet.wall_ms += 1
    for each in differences(then, me.shards):
        assert set_back(me, each, fleet.wall_ms)
    fleet.tell()
    assert differences(then, me.shards) == []
    for one in fleet.nodes:
        for (kind, key), value in state.items():
            found = one.get(kind, key, GONE)
            assert same(kind, sorted(found) if kind == "marks" and found is not GONE else found, value)


def test_a_moment_is_a_time_or_an_entry() -> None:
    noon = moment("2026-11-22T12:00:00Z")
    assert noon == moment("2026-11-22T12:00:00") == moment("2026-11-22T13:00:00+01:00") == moment(1795348800000)
    assert moment(str(noon)) == moment(noon) == noon and shown(noon) == "2026-11-22T12:00:00.000Z"
    assert noon & 0xFFFF == 0xFFFF, "all of its millisecond counts"
    for wrong in ("noon", "", "-5", str(1 << 63)):
        with pytest.raises(UsageError):
            moment(wrong)
