"""Twin of :mod:`kernels.buckets`: what is in a bucket, as a fraction, at the instant it was looked at last.

It is only the same while the instants do not go back; nor does it know that a debt ends at 2^127.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


class TokenBucket:
    """`rate` tokens come in each per_ns, up to `burst`."""

    def __init__(self, rate: int | Fraction, per_ns: int = 10**9, *, burst: int) -> None:
        self._per_ns = Fraction(rate) / per_ns
        self.burst = burst
        self._there = Fraction(burst)
        self._now_ns = 0

    def _fill(self, now_ns: int) -> None:
        self._there = min(Fraction(self.burst), self._there + (now_ns - self._now_ns) * self._per_ns)
        self._now_ns = now_ns

    def take(self, now_ns: int, tokens: int = 1) -> bool:
        """Take tokens if they are there."""
        self._fill(now_ns)
        if self._there < tokens:
            return False
        self._there -= tokens
        return True

    def charge(self, now_ns: int, tokens: int) -> None:
        """Take tokens whether they are there or not."""
        self._fill(now_ns)
        self._there -= tokens

    def level(self, now_ns: int) -> int:
        """Tokens that are there; 0 while some are owed."""
        self._fill(now_ns)
        return max(0, self._there.__floor__())

    def wait_ns(self, now_ns: int, tokens: int = 1) -> int | None:
        """ns until so many are there; None for more than it holds."""
        self._fill(now_ns)
        if tokens > self.burst:
            return None
        wait = max(0, ((tokens - self._there) / self._per_ns).__ceil__())
        return wait if now_ns + wait < 2**64 else None


class ShareTree:
    """A rate divided down a tree, with the kernel's fine rates: shares are rounded to 2^-20 of a token."""

    def __init__(
        self,
        rate: int,
        per_ns: int = 10**9,
        *,
        burst_ns: int,
        parents: Sequence[int] = (),
        weights: Sequence[int] = (),
    ) -> None:
        fine = min(2**20, (2**62 - 1) // rate, (2**61 - 1) // per_ns)
        rates = [rate * fine]
        for parent, weight in zip(parents, weights, strict=True):
            together = sum(w for p, w in zip(parents, weights, strict=True) if p == parent)
            rates.append(max(1, (rates[parent] * weight + together // 2) // together))
        self._parents = [0, *parents]
        self._buckets = [
            TokenBucket(rate, per_ns * fine, burst=max(1, rate * burst_ns // (per_ns * fine))) for rate in rates
        ]

    def _up(self, node: int) -> list[int]:
        way = [node]
        while way[-1]:
            way.append(self._parents[way[-1]])
        return way

    def take(self, node: int, now_ns: int, tokens: int = 1) -> int | None:
        """Who paid: the node, or the nearest ancestor that could."""
        for payer in self._up(node):
            if self._buckets[payer].take(now_ns, tokens):
                for above in self._up(payer)[1:]:
                    self._buckets[above].charge(now_ns, tokens)
                return payer
        return None

    def charge(self, node: int, now_ns: int, tokens: int) -> None:
        """Charge what was spent without asking to a node and all above it."""
        for at in self._up(node):
            self._buckets[at].charge(now_ns, tokens)

    def level(self, node: int, now_ns: int) -> int:
        """Tokens that a node has of its own."""
        return self._buckets[node].level(now_ns)

    def wait_ns(self, node: int, now_ns: int, tokens: int = 1) -> int | None:
        """ns until take() could give so many."""
        waits = [self._buckets[at].wait_ns(now_ns, tokens) for at in self._up(node)]
        return min((wait for wait in waits if wait is not None), default=None)
