"""Token buckets and trees of them: rates and shares that hold exactly, in integers of ns."""

from collections.abc import Iterable

RATE_MOST: int
PER_NS_MOST: int

class TokenBucket:
    """`rate` tokens come in each per_ns, up to `burst`; full at first. Instants, ns, are of one clock of the caller's."""

    def __init__(self, rate: int, per_ns: int = 1_000_000_000, *, burst: int) -> None: ...
    @property
    def burst(self) -> int: ...
    def take(self, now_ns: int, tokens: int = 1) -> bool: ...
    def charge(self, now_ns: int, tokens: int) -> None: ...
    def level(self, now_ns: int) -> int: ...
    def wait_ns(self, now_ns: int, tokens: int = 1) -> int | None: ...

class ShareTree:
    """A rate divided down a tree: node 0 has all of it, every other one its weight's part of its parent's.

    parents[i] and weights[i] are of node i + 1; a parent has a lower number than its children. What a node does not use,
    others under its ancestors may borrow. A bucket holds what comes in in burst_ns (at least one token).
    """

    def __init__(
        self,
        rate: int,
        per_ns: int = 1_000_000_000,
        *,
        burst_ns: int,
        parents: Iterable[int] = (),
        weights: Iterable[int] = (),
    ) -> None: ...
    @property
    def nodes(self) -> int: ...
    def take(self, node: int, now_ns: int, tokens: int = 1) -> int | None: ...
    def charge(self, node: int, now_ns: int, tokens: int) -> None: ...
    def level(self, node: int, now_ns: int) -> int: ...
    def wait_ns(self, node: int, now_ns: int, tokens: int = 1) -> int | None: ...
