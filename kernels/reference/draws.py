"""Twin of :mod:`kernels.draws`."""

from __future__ import annotations

MASK = 0xFFFFFFFF
Words = tuple[int, int, int, int]


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Ten rounds: two multiplications give each a high and a low word, the key is bumped from round to round."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & MASK, (a >> 32) ^ c3 ^ k1, a & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def random_at(seed: int, kind: int, row: int, number: int, draw: int = 0) -> int:
    """The counter is (row, kind and draw, pass), the key is the seed; low words first."""
    counter = (row, kind << 16 | draw, number & MASK, number >> 32)
    low, high, _, _ = philox(counter, (seed & MASK, seed >> 32))
    return high << 32 | low


def uniform_at(seed: int, kind: int, row: int, number: int, draw: int = 0) -> float:
    """The upper 53 bits, as a fraction."""
    return (random_at(seed, kind, row, number, draw) >> 11) / (1 << 53)
