"""The Merkle tree and the exchange over it: equal in the end, what differs and hardly more, and nothing that a liar can make of it."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.plain import decode_plain, encode_plain
from swarm.protocol.knowledge.entries import FormatError
from swarm.protocol.knowledge.merkle import EMPTY, Tree
from swarm.protocol.knowledge.replicas import Replication, holders
from swarm.protocol.knowledge.shard import Shard
from swarm.protocol.knowledge.sync import Exchange
from tests.unit.protocol.knowledge_cases import LIFE, WALL_MS, fact, segment, shard

QUICK = settings(max_examples=50, deadline=None)
SALT = bytes(range(32))
few_places = st.sets(st.integers(0, 400), max_size=120)


def place(n: int) -> bytes:
    """Many of them begin alike."""
    return (LIFE + (n // 40) * 3).to_bytes(8, "big") + n.to_bytes(16, "big")


@QUICK
@given(few_places, few_places)
def test_a_tree_is_its_set_however_it_came_about(kept: set[int], gone: set[int]) -> None:
    one, other = Tree(), Tree()
    for n in sorted(kept | gone):
        one.add(place(n))
    assert (one.root == EMPTY) == (not kept | gone)
    for n in sorted(gone - kept, reverse=True):
        one.remove(place(n))
    for n in sorted(kept, reverse=True):
        other.add(place(n))
    assert one.root == other.root and one.places() == other.places() == sorted(map(place, kept))
    for prefix in ("", *(place(n).hex()[:depth] for n in list(kept)[:5] for depth in (9, 16, 40, 48))):
        under = [one for one in map(place, sorted(kept)) if one.hex().startswith(prefix)]
        assert one.count(prefix) == len(under) and one.places(prefix) == sorted(under)
        assert one.hash(prefix) == other.hash(prefix) and (one.hash(prefix) is None) == (not under)
        digits = {p.hex()[len(prefix)] for p in under} if len(prefix) < 48 else set()
        if digits:
            assert one.below(prefix).keys() == digits


def talk(one: Exchange, other: Exchange, most: int = 400) -> int:
    """Messages until both are done."""
    message, count = one.begin(), 1
    sides = [other, one]
    while message is not None:
        assert count < most, "they never come to an end"
        answer = sides[0].receive(message, WALL_MS)
        assert sides[0].receive(message, WALL_MS) is None  # what comes twice is answered once
        message, count = answer, count + (answer is not None)
        sides.reverse()
    return count


def filled(numbers: set[int], author: int = 0) -> Shard:
    made = shard()
    for n in sorted(numbers):
        made.apply(segment(author, n, [fact(LIFE + 1 + n * 7, f"k{n}", n)]), WALL_MS)
    return made


@QUICK
@given(few_places, few_places)
def test_an_exchange_makes_both_equal(left: set[int], right: set[int]) -> None:
    a, b = filled(left), filled(right)
    one, other = Exchange(a, SALT), Exchange(b)
    talk(one, other)
    assert one.done and other.done
    assert a.digest == b.digest == filled(left | right).digest
    assert (one.new, other.new) == (len(right - left), len(left - right))


@pytest.mark.parametrize(("many", "few"), [(3000, 0), (3000, 3), (3000, 40), (400, 400)])
def test_sides_of_very_different_size_come_to_an_end(many: int, few: int) -> None:
    a, b = filled(set(range(many))), filled(set(range(0, 3 * few, 3)))
    extra = segment(1, 0, [fact(LIFE + 500, "only here")])
    b.apply(extra, WALL_MS)
    talk(Exchange(a, SALT), Exchange(b))
    assert a.digest == b.digest and a.has(extra.id)


def test_of_what_both_have_hardly_anything_is_said() -> None:
    numbers = set(range(20_000))
    a, b = filled(numbers - {5, 17_000}), filled(numbers - {9999})
    one, other = Exchange(a, SALT), Exchange(b)
    talk(one, other)
    assert a.digest == b.digest
    assert one.sent_bytes + other.sent_bytes < 8000


def test_who_only_gives_gets_nothing() -> None:
    a, b = filled({1, 2}), filled(set(range(10, 400)))
    talk(Exchange(a, SALT, keeps=False), Exchange(b))
    assert len(a) == 2 and len(b) == 392
    one = shard()
    talk(Exchange(b, SALT), Exchange(one, keeps=False))
    assert len(one) == 0


def test_what_one_side_has_forgotten_does_not_come_back() -> None:
    drop = fact(LIFE + 9, "k", None, op=1)  # type: ignore[arg-type]
    segments = [segment(0, 0, [fact(LIFE + 1)]), segment(1, 0, [drop])]
    a, b = shard(), shard()
    for one in segments:
        a.apply(one, WALL_MS)
        b.apply(one, WALL_MS)
    a.expire(LIFE + 20)
    assert len(a) == 0 and len(b) == 2
    talk(Exchange(b, SALT, retention_ms=0), Exchange(a, retention_ms=0))
    assert len(a) == len(b) == 0


def test_a_message_that_breaks_the_protocol_is_refused_and_leaves_nothing() -> None:
    a = filled({1, 2, 3})
    good = Exchange(filled({4}), SALT).begin()
    parts = decode_plain(good)
    assert isinstance(parts, list)
    bad = [
        (0, 2),
        (1, 7),
        (2, b"x"),
        (3, None),
        (4, -1),
        (5, 1),
        (6, [["", "00", bytes(16)]]),
        (6, [["zz", "0", bytes(8)]]),
    ]
    bad += [
        (6, [["", "0", bytes(9)]]),
        (7, [["", b"123"]]),
        (7, [[1, None]]),
        (8, [3]),
        (8, [b"\x01" * 300]),
        (6, [["0" * 48, "1", bytes(8)]]),
    ]
    for at, value in bad:
        raw = encode_plain([*parts[:at], value, *parts[at + 1 :]])
        assert raw is not None
        with pytest.raises(FormatError):
            Exchange(a).receive(raw, WALL_MS)
    for raw in (b"", b"M", os.urandom(100), good[:-1], b"M" + b"\x91" * 100, bytes(2_000_000)):
        with pytest.raises(FormatError):
            Exchange(a).receive(raw, WALL_MS)
    assert a.digest == filled({1, 2, 3}).digest


def test_who_wants_the_same_again_and_again_is_refused() -> None:
    a = filled(set(range(500)))
    parts = decode_plain(Exchange(shard(), SALT).begin())
    assert isinstance(parts, list)
    once, often = ([*parts[:6], [], [["", None]] * count, []] for count in (1, 400))
    answer = Exchange(a).receive(encode_plain(once) or b"", WALL_MS)
    assert answer is not None and len(answer) > 50_000
    with pytest.raises(FormatError, match="again and again"):
        Exchange(a).receive(encode_plain(often) or b"", WALL_MS)
    # Hashes of a list are only looked for where one was made.
    picks = [*parts[:6], [], [["", bytes(8)]] * 5000, []]
    assert len(Exchange(filled(set(range(3000)))).receive(encode_plain(picks, 1 << 20) or b"", WALL_MS) or b"") < 200


def test_when_a_member_comes_or_goes_only_what_it_holds_moves() -> None:
    nodes = [b"%016d" % n for n in range(40)]
    replication = Replication(factor=3)
    before = {number: holders(number, nodes, replication) for number in range(1, 256)}
    assert all(len(set(held)) == 3 for held in before.values())
    after = {number: holders(number, nodes[1:], replication) for number in range(1, 256)}
    for number, held in before.items():
        assert set(held) - {nodes[0]} <= set(after[number])
        assert (held == after[number]) == (nodes[0] not in held)
    loads = [sum(node in held for held in before.values()) for node in nodes]
    assert max(loads) < 4 * 256 * 3 / 40
    assert holders(7, nodes[:9], replication) == nodes[:9]
