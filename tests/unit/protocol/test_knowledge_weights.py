"""What facts weigh, held against the formula; pruning, and coming back."""

from __future__ import annotations

import itertools

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from swarm.protocol.knowledge.bounds import LOG_ODDS_MAX, RETENTION_MS, SIGNATURE_BYTES
from swarm.protocol.knowledge.entries import Segment
from swarm.protocol.knowledge.knowledge import Knowledge
from swarm.protocol.knowledge.rules import Outcome
from swarm.protocol.knowledge.shard import Shard
from swarm.protocol.knowledge.stamps import HybridClock, ms_of
from swarm.protocol.knowledge.weights import CYCLE_MS, GAIN, NEW, THRESHOLD, Weights, belief

START_MS = 1_800_000 * 1000 * 1000
SHARDS = 3


def signed(author: bytes, message: bytes) -> bytes:
    return blake3(author + message).digest(SIGNATURE_BYTES)


def verify(author: bytes, message: bytes, signature: bytes) -> Outcome | None:
    return None if signature == signed(author, message) else Outcome.SIGNATURE


class Node:
    """What one node knows and weighs."""

    def __init__(self, name: str) -> None:
        author = name.encode().ljust(16, b"-")
        shards = {number: Shard(number, SHARDS, verify) for number in range(SHARDS)}
        self.knowledge = Knowledge(
            author,
            lambda message: signed(author, message),
            shards,
            SHARDS,
            HybridClock(),
            lambda number: shards[number],
        )
        self.weights = Weights(self.knowledge)
        self.said: list[Segment] = []

    def tell(self, *others: Node) -> None:
        """All it has said, in an order of its own."""
        self.said += self.knowledge.take()
        for other in others:
            for segment in reversed(self.said):
                other.knowledge.shards[segment.shard].apply(segment, ms_of(segment.last_time))
                other.knowledge.heard(segment)


def at(cycle: int) -> int:
    return START_MS + cycle * CYCLE_MS


def test_a_fact_halves_in_fifty_cycles_and_a_use_adds_to_it() -> None:
    node = Node("oak")
    node.knowledge.put("facts", "where", "here", at(0))
    assert node.weights.weight("where", at(0)) == NEW
    assert node.weights.weight("where", at(50)) == NEW / 2
    node.weights.use("where", at(50))
    assert node.weights.weight("where", at(50)) == NEW / 2 + GAIN
    node.weights.use("where", at(100))
    assert node.weights.weight("where", at(100)) == NEW / 4 + GAIN / 2 + GAIN
    assert node.weights.weight("nowhere", at(0)) == 0.0
    with pytest.raises(KeyError):
        node.weights.use("nowhere", at(0))
    for _ in range(20):
        node.weights.use("where", at(100))
    assert node.weights.weight("where", at(100)) == NEW / 4 + LOG_ODDS_MAX, "nobody makes a fact heavier than that"


def test_what_fades_is_pruned_found_no_more_and_comes_back_with_a_use() -> None:
    node, other = Node("oak"), Node("elm")
    node.knowledge.put("facts", "seldom", 1, at(0))
    node.knowledge.put("facts", "often", 2, at(0))
    node.weights.use("often", at(200))
    node.tell(other)
    assert node.weights.prune(at(300), lambda key: True) == [] and THRESHOLD == NEW / 2**6
    assert node.weights.prune(at(301), lambda key: False) == []
    assert node.weights.prune(at(301), lambda key: True) == ["seldom"]
    assert node.weights.prune(at(302), lambda key: True) == [], "once is enough"
    assert node.weights.get("seldom", "gone") == "gone" and node.weights.get("often") == 2
    other.weights.use("seldom", at(301) + 1)
    assert other.weights.get("seldom") == 1, "it has not heard yet"
    node.tell(other)
    other.tell(node)
    assert node.weights.get("seldom") == other.weights.get("seldom") == 1, "used after it was pruned"
    assert node.weights.weight("seldom", at(310)) == other.weights.weight("seldom", at(310)) > 0.5


def test_what_was_pruned_for_longer_than_the_retention_is_dropped() -> None:
    node = Node("oak")
    node.knowledge.put("facts", "seldom", 1, at(0))
    assert node.weights.prune(at(301), lambda key: True) == ["seldom"]
    node.weights.prune(at(301) + RETENTION_MS, lambda key: True)
    assert node.knowledge.get("facts", "seldom") == 1 and len(node.weights) == 1
    node.weights.prune(at(301) + RETENTION_MS + 1, lambda key: True)
    assert node.knowledge.get("facts", "seldom") is None and len(node.weights) == 0
    node.knowledge.put("facts", "seldom", 3, at(2000))
    assert node.weights.get("seldom") == 3


def test_many_light_uses_make_a_heavy_fact() -> None:
    nodes = [Node(f"node{number}") for number in range(4)]
    nodes[0].knowledge.put("facts", "where", "here", at(0))
    nodes[0].tell(*nodes[1:])
    for node in nodes[1:]:
        node.weights.use("where", at(0))
        node.tell(nodes[0])
    assert nodes[0].weights.weight("where", at(350)) == (NEW + 3 * GAIN) / 2**7
    assert nodes[0].weights.faded(at(350), THRESHOLD) == []
    assert nodes[0].weights.faded(at(451), THRESHOLD) == ["where"]


SAYS = st.tuples(
    st.integers(0, 2), st.sampled_from("abcd"), st.sampled_from(("put", "use", "drop", "tell")), st.integers(0, 40)
)


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.lists(SAYS, max_size=40))
def test_nodes_that_have_heard_the_same_agree_on_every_weight(says: list[tuple[int, str, str, int]]) -> None:
    nodes = [Node(f"node{number}") for number in range(3)]
    now = 0
    for number, key, what, later in says:
        now += later
        node = nodes[number]
        if what == "put":
            node.knowledge.put("facts", key, now, at(now))
        elif what == "drop":
            node.knowledge.drop("facts", key, at(now))
        elif what == "use" and node.weights.weight(key, at(now)):
            node.weights.use(key, at(now))
        elif what == "tell":
            node.tell(nodes[(number + 1) % 3])
    for node, other in itertools.permutations(nodes, 2):
        node.tell(other)
    for later in (0, 7, 400):
        found = [[node.weights.weight(key, at(now + later)) for key in "abcd"] for node in nodes]
        assert found[0] == found[1] == found[2]
        faded = [node.weights.faded(at(now + later)) for node in nodes]
        assert faded[0] == faded[1] == faded[2]
        assert faded[0] == [key for key, weight in zip("abcd", found[0], strict=True) if 0 < weight < THRESHOLD]
    anew = Weights(nodes[0].knowledge)
    assert [anew.weight(key, at(now)) for key in "abcd"] == [nodes[0].weights.weight(key, at(now)) for key in "abcd"]


def test_a_belief_goes_back_to_even_odds() -> None:
    node, other = Node("oak"), Node("elm")
    node.knowledge.put("beliefs", "the cable is loose", 3.0, at(0))
    other.knowledge.put("beliefs", "the cable is loose", -1.0, at(50))
    other.tell(node)
    assert belief(node.knowledge, "the cable is loose", at(0)) == 2.0
    assert belief(node.knowledge, "the cable is loose", at(50)) == 0.5
    assert belief(node.knowledge, "the cable is loose", at(100)) == 0.25
    assert belief(node.knowledge, "nobody said", at(0)) == 0.0


def test_a_cycle_takes_a_second_at_least() -> None:
    with pytest.raises(ValueError, match="a second at least"):
        Weights(Node("oak").knowledge, 999)
