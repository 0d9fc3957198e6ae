"""Token buckets hold their rates exactly; a tree of them gives every node its share, and what others leave."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.buckets import PER_NS_MOST, RATE_MOST, ShareTree, TokenBucket
from kernels.reference import buckets as reference

QUICK = settings(max_examples=200, deadline=None)
RATES = st.integers(1, 50) | st.integers(1, 10**10) | st.just(RATE_MOST)
PERIODS = st.sampled_from([1, 7, 1_000, 10**9, PER_NS_MOST])
BURSTS = st.integers(1, 20) | st.integers(1, 2**64 - 1)
STEPS = st.integers(0, 3) | st.integers(0, 10**10) | st.integers(0, 2**61)
TOKENS = st.integers(0, 25) | st.integers(0, 2**64 - 1)
ASKS = st.lists(st.tuples(st.sampled_from(["take", "charge", "level", "wait_ns"]), STEPS, TOKENS), max_size=12)


def owed_less_than_the_end(rate, per_ns, asks):
    """The kernel's debts end at 2^127 / rate ns; the twin's do not."""
    return sum(tokens for what, _, tokens in asks if what == "charge") * per_ns < 2**126


@QUICK
@given(RATES, PERIODS, BURSTS, ASKS)
def test_a_bucket_gives_what_fractions_give(rate, per_ns, burst, asks):
    kernel = TokenBucket(rate, per_ns, burst=burst)
    twin = reference.TokenBucket(rate, per_ns, burst=burst)
    if not owed_less_than_the_end(rate, per_ns, asks):
        asks = [ask for ask in asks if ask[0] != "charge"]
    now = 0
    for what, step, tokens in asks:
        now = min(now + step, 2**64 - 1)
        arguments = (now,) if what == "level" else (now, tokens)
        assert getattr(kernel, what)(*arguments) == getattr(twin, what)(*arguments)


@QUICK
@given(RATES, PERIODS, BURSTS, st.integers(0, 2**62), st.integers(1, 2**20))
def test_after_the_wait_there_is_enough_and_not_before(rate, per_ns, burst, now, tokens):
    bucket = TokenBucket(rate, per_ns, burst=burst)
    bucket.charge(now, burst)
    wait = bucket.wait_ns(now, tokens)
    if wait is None:
        assert tokens > burst or now + tokens * per_ns // rate >= 2**64 - 1
        return
    assert wait > 0
    assert bucket.level(now + wait - 1) < tokens <= bucket.level(now + wait)
    assert not bucket.take(now + wait - 1, tokens)
    assert bucket.take(now + wait, tokens)


def test_a_rate_that_divides_nothing_holds_for_an_hour():
    bucket = TokenBucket(7, burst=2)  # each 142,857,142.857… ns
    now = taken = 0
    while now <= 3_600 * 10**9:
        taken += bucket.take(now)
        now += bucket.wait_ns(now)
    assert taken in (7 * 3_600 + 1, 7 * 3_600 + 2)


def test_what_is_owed_comes_in_first():
    bucket = TokenBucket(10, 1_000, burst=5)
    bucket.charge(0, 25)
    assert (bucket.level(0), bucket.level(2_000), bucket.level(2_100)) == (0, 0, 1)
    assert bucket.wait_ns(0, 5) == 2_500


def test_the_greatest_of_debts_ends_somewhere():
    bucket = TokenBucket(1, PER_NS_MOST, burst=1)
    for _ in range(10):
        bucket.charge(2**64 - 1, 2**64 - 1)
    assert (bucket.level(2**64 - 1), bucket.take(2**64 - 1), bucket.wait_ns(2**64 - 1)) == (0, False, None)


@st.composite
def trees(draw):
    nodes = draw(st.integers(0, 7))
    parents = [draw(st.integers(0, node)) for node in range(nodes)]
    return parents, [draw(st.integers(1, 5) | st.integers(1, 2**32 - 1)) for _ in range(nodes)]


@QUICK
@given(
    trees(),
    st.integers(1, 10**9),
    st.integers(1, 10**10),
    st.lists(
        st.tuples(
            st.sampled_from(["take", "charge", "level", "wait_ns"]),
            st.integers(0, 7),
            st.integers(0, 10**9),
            st.integers(0, 25) | st.integers(0, 10**9),
        ),
        max_size=25,
    ),
)
def test_a_tree_gives_what_fractions_give(tree, rate, burst_ns, asks):
    parents, weights = tree
    kernel = ShareTree(rate, burst_ns=burst_ns, parents=parents, weights=weights)
    twin = reference.ShareTree(rate, burst_ns=burst_ns, parents=parents, weights=weights)
    assert kernel.nodes == len(parents) + 1
    now = 0
    for what, node, step, tokens in asks:
        now += step
        node %= kernel.nodes
        arguments = (node, now) if what == "level" else (node, now, tokens)
        assert getattr(kernel, what)(*arguments) == getattr(twin, what)(*arguments)


def test_all_who_always_want_get_their_shares():
    # 0: all; 1: 70 %, 2: 30 %; 3 and 4: three quarters and a quarter of node 1
    tree = ShareTree(10**9, burst_ns=10**6, parents=[0, 0, 1, 1], weights=[7, 3, 3, 1])
    got = {2: 0, 3: 0, 4: 0}
    for now in range(0, 10**9, 10_000):
        for node in got:
            while tree.take(node, now, 1_000) == node:
                got[node] += 1_000
    for node, share in {2: 0.3, 3: 0.525, 4: 0.175}.items():
        assert got[node] == pytest.approx(share * 10**9, rel=0.02)


def test_what_one_leaves_another_borrows_from_the_nearest():
    tree = ShareTree(10**9, burst_ns=10**6, parents=[0, 0, 1, 1], weights=[1, 1, 1, 1])
    paid = {1: 0, 3: 0, 0: 0}
    for now in range(0, 10**9, 10_000):
        while (payer := tree.take(3, now, 1_000)) is not None:
            paid[payer] += 1_000
    # Nobody else wants anything: its own quarter, the quarter of its brother, the half of its uncle.
    assert paid[3] == pytest.approx(0.25e9, rel=0.02)
    assert paid[1] == pytest.approx(0.25e9, rel=0.02)
    assert paid[0] == pytest.approx(0.5e9, rel=0.02)


def test_nothing_is_lent_that_somebody_uses():
    tree = ShareTree(1_000, burst_ns=10**9, parents=[0, 0], weights=[1, 1])
    assert all(tree.take(1, 0) == 1 for _ in range(500))
    assert all(tree.take(2, 0) == 2 for _ in range(500))
    assert tree.take(1, 0) is None
    assert tree.wait_ns(1, 0) == 10**6  # the root's rate is the first to give
    tree.charge(2, 0, 100)
    assert tree.take(1, 10**6) is None  # the root owes: only its own share counts
    assert tree.take(1, 2 * 10**6) == 1


def test_what_cannot_be():
    for rate in (0, -1, RATE_MOST + 1):
        with pytest.raises(ValueError, match="rate"):
            TokenBucket(rate, burst=1)
    for per_ns in (0, PER_NS_MOST + 1):
        with pytest.raises(ValueError, match="ns"):
            TokenBucket(1, per_ns, burst=1)
    for burst in (0, 2**64):
        with pytest.raises(ValueError, match="holds"):
            TokenBucket(1, burst=burst)
    with pytest.raises(ValueError, match="1 parents and 0 weights"):
        ShareTree(1, burst_ns=1, parents=[0])
    for parent in (1, -1):
        with pytest.raises(ValueError, match="before its children"):
            ShareTree(1, burst_ns=1, parents=[parent], weights=[1])
    with pytest.raises(ValueError, match="weight 0"):
        ShareTree(1, burst_ns=1, parents=[0], weights=[0])
    with pytest.raises(ValueError, match="burst"):
        ShareTree(1, burst_ns=0)
    for node in (-1, 1, 2**32):
        with pytest.raises(ValueError, match="tree of 1"):
            ShareTree(1, burst_ns=1).take(node, 0)
