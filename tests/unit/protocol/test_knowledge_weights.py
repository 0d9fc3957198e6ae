"""What facts weigh, held against the formula; pruning, and coming back."""

from __future__ import annotations

import itertools

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from swarm.protocol.knowledge.beliefs import belief_of, probability_of
from swarm.protocol.knowledge.bounds import LOG_ODDS_MAX, RETENTION_MS, SIGNATURE_BYTES
from swarm.protocol.knowledge.entries import Segment, shard_of
from swarm.protocol.knowledge.fading import GAIN, NEW, Fading
from swarm.protocol.knowledge.knowledge import BadEntry, Knowledge
from swarm.protocol.knowledge.rules import Outcome
from swarm.protocol.knowledge.shard import Shard
from swarm.protocol.knowledge.stamps import HybridClock, ms_of
from swarm.protocol.knowledge.weights import NotPruned, Weights

START_MS = 1_800_000 * 1000 * 1000
SHARDS = 3
CYCLE_MS, THRESHOLD = Fading().cycle_ms, Fading().threshold


def mine(shard: int) -> bool:
    return True


def not_mine(shard: int) -> bool:
    return False


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
    assert node.weights.use_now("where", at(50)) == NEW / 2 + GAIN
    assert node.weights.use("where")
    assert node.weights.weight("where", at(100)) == NEW / 4 + GAIN / 2, "what is gathered is not said yet"
    assert node.weights.say_uses(at(100)) == 1
    assert node.weights.weight("where", at(100)) == NEW / 4 + GAIN / 2 + GAIN
    assert node.weights.weight("nowhere", at(0)) == 0.0
    assert not node.weights.use("nowhere")
    with pytest.raises(KeyError):
        node.weights.use_now("nowhere", at(0))
    node.weights.use("where", 20)
    node.weights.say_uses(at(100))
    assert node.weights.weight("where", at(100)) == NEW / 4 + LOG_ODDS_MAX, "nobody makes a fact heavier than that"


def test_uses_are_said_once_for_a_fact_however_many_there_were() -> None:
    node = Node("oak")
    for key in "ab":
        node.knowledge.put("facts", key, 1, at(0))
    node.knowledge.take()
    for _ in range(500):
        assert node.weights.use("a") and node.weights.use("b")
    assert node.weights.say_uses(at(1), 1) == 1 and node.weights.say_uses(at(1)) == 1
    assert node.weights.say_uses(at(1)) == 0
    assert sum(segment.count for segment in node.knowledge.take()) == 2


def test_what_fades_is_pruned_found_no_more_and_comes_back_with_a_use() -> None:
    node, other = Node("oak"), Node("elm")
    node.knowledge.put("facts", "seldom", 1, at(0), tags=["t"])
    node.knowledge.put("facts", "often", 2, at(0))
    node.weights.use_now("often", at(200))
    node.tell(other)
    watch = node.knowledge.watch("facts")
    assert node.weights.prune(at(300), mine) == [] and THRESHOLD == NEW / 2**6
    assert node.weights.prune(at(301), not_mine) == []
    assert node.weights.prune(at(301), mine) == ["seldom"]
    assert node.weights.prune(at(302), mine) == [], "once is enough"
    assert node.weights.pruned() == [("seldom", at(301))]
    assert [(change.key, repr(change.value)) for change in node.knowledge.changes(watch)] == [("seldom", "GONE")]
    assert node.knowledge.get("facts", "seldom", "gone") == "gone" and node.knowledge.get("facts", "often") == 2
    assert node.knowledge.query("facts") == [("often", 2)] and node.knowledge.query("facts", tag="t") == []
    other.weights.use_now("seldom", at(301) + 1)
    assert other.knowledge.get("facts", "seldom") == 1, "it has not heard yet"
    node.tell(other)
    other.tell(node)
    assert node.knowledge.get("facts", "seldom") == other.knowledge.get("facts", "seldom") == 1, (
        "used after it was pruned"
    )
    assert node.weights.weight("seldom", at(310)) == other.weights.weight("seldom", at(310)) > 0.5
    assert [key for key, _ in node.knowledge.query("facts")] == ["often", "seldom"]


def test_pruned_is_restored_within_the_retention_and_not_after_it() -> None:
    node, other = Node("oak"), Node("elm")
    for key in ("back", "gone"):
        node.knowledge.put("facts", key, key, at(0))
    with pytest.raises(NotPruned):
        node.weights.restore("back", at(1))
    assert node.weights.prune(at(301), mine) == ["back", "gone"]
    node.tell(other)
    assert other.weights.pruned() == node.weights.pruned()
    other.weights.restore("back", at(400))
    other.tell(node)
    assert node.knowledge.get("facts", "back") == "back" and node.weights.weight("back", at(400)) > GAIN
    node.weights.prune(at(301) + RETENTION_MS, mine)
    assert node.weights.is_pruned("gone") and len(node.weights) == 2
    node.weights.prune(at(301) + RETENTION_MS + 1, mine)
    assert len(node.weights) == 1
    with pytest.raises(NotPruned):
        node.weights.restore("gone", at(301) + RETENTION_MS + 2)
    node.knowledge.put("facts", "gone", 3, at(2000))
    assert node.knowledge.get("facts", "gone") == 3


def test_a_use_on_the_other_side_of_a_cut_before_the_pruning_keeps_the_fact() -> None:
    node, other = Node("oak"), Node("elm")
    node.knowledge.put("facts", "seldom", 1, at(0))
    node.tell(other)
    other.weights.use_now("seldom", at(300))
    assert node.weights.prune(at(301), mine) == ["seldom"] and node.knowledge.get("facts", "seldom") is None
    other.tell(node)
    node.tell(other)
    assert node.knowledge.get("facts", "seldom") == other.knowledge.get("facts", "seldom") == 1
    assert node.weights.prune(at(600), mine) == [], "it has been used"
    assert node.weights.prune(at(660), mine) == ["seldom"]


def test_a_member_that_says_that_something_heavy_is_pruned_is_not_believed() -> None:
    node, liar = Node("oak"), Node("evil")
    node.knowledge.put("facts", "mine", 1, at(0))
    node.tell(liar)
    liar.knowledge.put("pruned", "mine", 0.0, at(1))
    liar.knowledge.put("uses", "mine", -8.0, at(1))
    liar.tell(node)
    assert node.knowledge.get("facts", "mine") == 1 and not node.weights.is_pruned("mine")
    assert node.weights.weight("mine", at(0)) == NEW, "nobody makes a fact lighter"


def test_many_light_uses_make_a_heavy_fact() -> None:
    nodes = [Node(f"node{number}") for number in range(4)]
    nodes[0].knowledge.put("facts", "where", "here", at(0))
    nodes[0].tell(*nodes[1:])
    for node in nodes[1:]:
        node.weights.use_now("where", at(0))
        node.tell(nodes[0])
    assert nodes[0].weights.weight("where", at(350)) == (NEW + 3 * GAIN) / 2**7
    assert nodes[0].weights.faded(at(350)) == [], "each of them is light, all together are not"
    assert nodes[0].weights.faded(at(451)) == ["where"]


def test_a_policy_says_how_facts_fade_on_all_nodes() -> None:
    node, other = Node("oak"), Node("elm")
    node.knowledge.put("facts", "k", 1, at(0))
    node.tell(other)
    other.knowledge.put("policies", "fading", {"cycle_s": 60, "threshold": 0.75}, at(0))
    other.tell(node)
    minute = 60_000
    for one in (node, other):
        assert one.weights.weight("k", at(0) + 50 * minute) == NEW / 2
        assert one.weights.faded(at(0) + 20 * minute) == [] and one.weights.faded(at(0) + 21 * minute) == ["k"]
    assert node.weights.prune(at(0) + 21 * minute, mine) == ["k"] and node.knowledge.get("facts", "k") is None
    # A lower threshold brings back what was pruned by a higher one.
    node.knowledge.put("policies", "fading", {"cycle_s": 60, "threshold": 0}, at(1))
    assert len(node.weights) == 1
    assert node.knowledge.get("facts", "k") == 1 and node.weights.prune(at(10_000), mine) == []
    node.knowledge.drop("policies", "fading", at(2))
    assert node.weights.fading == Fading()
    for wrong in ({"cycle_s": 0}, {"cycle_s": "x"}, {"threshold": -1}, {"treshold": 1}, {"threshold": float("nan")}):
        with pytest.raises(BadEntry):
            node.knowledge.put("policies", "fading", wrong, at(3))


def test_what_is_pruned_again_after_another_policy_had_brought_it_back_stays_pruned() -> None:
    node = Node("oak")
    node.knowledge.put("policies", "fading", {"threshold": 0.75}, at(0))
    node.knowledge.put("facts", "k", 1, at(0))
    assert node.weights.prune(at(30), mine) == ["k"]
    node.knowledge.put("policies", "fading", {"threshold": 0.25}, at(31))
    assert len(node.weights) == 1 and node.knowledge.get("facts", "k") == 1
    later = at(30) + RETENTION_MS + 1
    assert node.weights.prune(later, mine) == ["k"] and node.knowledge.get("facts", "k") is None
    assert node.weights.pruned() == [("k", later)], "the retention begins anew"


def test_the_heaviest_come_first() -> None:
    node = Node("oak")
    for number, key in enumerate("abcd"):
        node.knowledge.put("facts", key, 1, at(number))
    node.weights.use_now("b", at(4))
    keys = ("a", "b", "c", "nothing")
    found = node.weights.heaviest(keys, at(60))
    assert [key for key, _ in found] == ["b", "c", "a", "nothing"]
    assert found == [(key, node.weights.weight(key, at(60))) for key, _ in found]
    assert node.weights.heaviest(keys, at(60), 1) == found[:1]


SAYS = st.tuples(
    st.integers(0, 2),
    st.sampled_from("abcd"),
    st.sampled_from(("put", "use", "drop", "tell", "prune", "prune", "restore", "policy")),
    st.integers(0, 120),
)


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.lists(SAYS, max_size=50), st.lists(st.integers(-60_000, 0), min_size=3, max_size=3))
def test_nodes_that_have_heard_the_same_agree_on_every_weight_and_on_what_is_pruned(
    says: list[tuple[int, str, str, int]], skews: list[int]
) -> None:
    """Whatever the order in which it came, with clocks that are off."""
    nodes = [Node(f"node{number}") for number in range(3)]
    now = 0
    for number, key, what, later in says:
        now += later
        node, wall_ms = nodes[number], at(now) + skews[number]
        if what == "put":
            node.knowledge.put("facts", key, now, wall_ms)
        elif what == "drop":
            node.knowledge.drop("facts", key, wall_ms)
        elif what == "use":
            if node.weights.use(key):
                node.weights.say_uses(wall_ms)
        elif what == "prune":
            pruned = node.weights.prune(wall_ms, mine)
            assert all(node.weights.is_pruned(one) and node.knowledge.get("facts", one) is None for one in pruned)
        elif what == "restore":
            if node.weights.is_pruned(key):
                node.weights.restore(key, wall_ms)
                assert node.knowledge.get("facts", key) is not None
        elif what == "policy":
            node.knowledge.put("policies", "fading", {"cycle_s": 1800 * (1 + later % 3)}, wall_ms)
        else:
            node.tell(nodes[(number + 1) % 3])
    for node, other in itertools.permutations(nodes, 2):
        node.tell(other)
    assert len({node.weights.fading for node in nodes}) == 1
    for later in (0, 7, 400):
        found = [[node.weights.weight(key, at(now + later)) for key in "abcd"] for node in nodes]
        assert found[0] == found[1] == found[2]
        assert len({tuple(node.weights.faded(at(now + later))) for node in nodes}) == 1
        assert nodes[0].weights.faded(at(now + later)) == [
            key for key, weight in zip("abcd", found[0], strict=True) if 0 < weight < THRESHOLD
        ]
    assert len({tuple(node.weights.pruned()) for node in nodes}) == 1
    assert len({repr(node.knowledge.query("facts")) for node in nodes}) == 1
    there = {key for key, _ in nodes[0].knowledge.query("facts")}
    assert there.isdisjoint(key for key, _ in nodes[0].weights.pruned())
    anew = Weights(nodes[0].knowledge)
    assert [anew.weight(key, at(now)) for key in "abcd"] == [nodes[0].weights.weight(key, at(now)) for key in "abcd"]


def test_a_belief_goes_back_to_even_odds() -> None:
    node, other = Node("oak"), Node("elm")
    about = "the cable is loose"
    node.knowledge.put("beliefs", about, 3.0, at(0))
    other.knowledge.put("beliefs", about, -1.0, at(50))
    other.tell(node)
    node.tell(other)

    def held_by(one: Node, cycle: int) -> tuple[float, float, float, int]:
        fading = one.weights.fading
        shard = one.knowledge.shard(shard_of("beliefs", about, SHARDS))
        return belief_of(shard.slot("beliefs", about), fading.cycle(at(cycle)), fading)

    for one in (node, other):
        assert held_by(one, 0) == (2.0, 3.0, -1.0, 2)
        assert held_by(one, 50) == (0.5, 1.5, -1.0, 2)
        assert held_by(one, 100) == (0.25, 0.75, -0.5, 2)
    assert belief_of(None, 7, Fading()) == (0.0, 0.0, 0.0, 0)
    assert belief_of(None, 7, Fading()).probability == 0.5
    assert probability_of(40.0) + probability_of(-40.0) == 1.0 and 0.8807 < probability_of(2.0) < 0.8808
