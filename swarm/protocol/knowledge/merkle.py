"""A Merkle tree over places (24 bytes: last stamp and id of a segment), kept as segments come and go.

A trie over the hexadecimal digits of the places: what is under a prefix is a leaf as long as it is at most `LEAF_SEGMENTS_MAX`
places, so the tree depends on the set alone and not on how it came about. A leaf's hash is blake3 of its places in order, a
branch's of its children's hashes; they are worked out when they are asked for. Since places begin with the time, what a node
missed while it was away is under few branches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from blake3 import blake3

from swarm.protocol.knowledge.bounds import LEAF_SEGMENTS_MAX

PLACE_BYTES: Final = 24
DIGITS: Final = 2 * PLACE_BYTES
EMPTY: Final = blake3(b"").digest()


class Node:
    """A branch, or a leaf where `places` are."""

    __slots__ = ("children", "count", "hash", "places")

    def __init__(self) -> None:
        self.count = 0
        self.hash: bytes | None = None
        self.places: set[bytes] | None = set()
        self.children: dict[str, Node] = {}


class Tree:
    """The set of places, with a hash for every prefix. A prefix is hexadecimal digits."""

    __slots__ = ("_root",)

    def __init__(self) -> None:
        self._root = Node()

    def __len__(self) -> int:
        return self._root.count

    @property
    def root(self) -> bytes:
        """32 bytes: equal for equal sets."""
        return _hash(self._root) if self._root.count else EMPTY

    def add(self, place: bytes) -> None:
        """Puts a place in that is not there yet."""
        digits = place.hex()
        node, depth = self._root, 0
        while True:
            node.count += 1
            node.hash = None
            if node.places is not None:
                node.places.add(place)
                assert len(node.places) == node.count, "the place was there"
                if node.count > LEAF_SEGMENTS_MAX:
                    _split(node, depth)
                return
            child = node.children.get(digits[depth])
            if child is None:
                child = node.children[digits[depth]] = Node()
            node = child
            depth += 1

    def remove(self, place: bytes) -> None:
        """Takes out a place that is there."""
        digits = place.hex()
        node, depth = self._root, 0
        while True:
            node.count -= 1
            node.hash = None
            if node.places is not None:
                node.places.remove(place)
                return
            if node.count <= LEAF_SEGMENTS_MAX:
                places = set(_places(node))
                places.remove(place)
                node.places, node.children = places, {}
                return
            digit = digits[depth]
            child = node.children[digit]
            if child.count == 1:
                assert child.places == {place}
                del node.children[digit]
                return
            node = child
            depth += 1

    def count(self, prefix: str) -> int:
        """How many places begin with these digits."""
        node, rest = self._find(prefix)
        if node is None:
            return 0
        return node.count if not rest else len(_under(node, prefix))

    def hash(self, prefix: str) -> bytes | None:
        """32 bytes over what is under a prefix; None if nothing is."""
        node, rest = self._find(prefix)
        if node is None:
            return None
        if not rest:
            return _hash(node) if node.count else None
        places = _under(node, prefix)
        return _leaf_hash(places) if places else None

    def children(self, prefix: str) -> dict[str, bytes] | None:
        """Next digit -> hash, in order; None where so few places are that they are a leaf, or none."""
        node, rest = self._find(prefix)
        if node is None or rest or node.places is not None:
            return None
        return {digit: _hash(node.children[digit]) for digit in sorted(node.children)}

    def below(self, prefix: str) -> dict[str, bytes]:
        """The same for a leaf, too, as if it were a branch."""
        children = self.children(prefix)
        if children is None:
            digits = sorted({place.hex()[len(prefix)] for place in self.places(prefix)})
            children = {digit: self.hash(prefix + digit) or EMPTY for digit in digits}
        return children

    def places(self, prefix: str = "") -> list[bytes]:
        """All places that begin with these digits, in order."""
        node, rest = self._find(prefix)
        if node is None:
            return []
        return _under(node, prefix) if rest else sorted(_places(node))

    def _find(self, prefix: str) -> tuple[Node | None, str]:
        """The node of a prefix, or the leaf that may hold what is under it and the digits that are left."""
        node = self._root
        for depth, digit in enumerate(prefix):
            if node.places is not None:
                return node, prefix[depth:]
            child = node.children.get(digit)
            if child is None:
                return None, ""
            node = child
        return node, ""


def _split(node: Node, depth: int) -> None:
    assert node.places is not None and depth < DIGITS
    children: dict[str, Node] = {}
    for place in node.places:
        digit = place.hex()[depth]
        child = children.get(digit)
        if child is None:
            child = children[digit] = Node()
        assert child.places is not None
        child.places.add(place)
        child.count += 1
    node.places, node.children = None, children
    for child in children.values():
        if child.count > LEAF_SEGMENTS_MAX:
            _split(child, depth + 1)


def _under(leaf: Node, prefix: str) -> list[bytes]:
    assert leaf.places is not None
    return sorted(place for place in leaf.places if place.hex().startswith(prefix))


def _places(node: Node) -> Iterator[bytes]:
    if node.places is not None:
        yield from node.places
    else:
        for child in node.children.values():
            yield from _places(child)


def _leaf_hash(places: list[bytes]) -> bytes:
    return blake3(b"\0" + b"".join(places)).digest()


def _hash(node: Node) -> bytes:
    if node.hash is None:
        if node.places is not None:
            node.hash = _leaf_hash(sorted(node.places))
        else:
            parts = [b"\1"]
            for digit in sorted(node.children):
                parts += [digit.encode(), _hash(node.children[digit])]
            node.hash = blake3(b"".join(parts)).digest()
    return node.hash
