"""Anti-entropy of two nodes about one shard: an exchange of messages that carries only what differs.

Both sides run an `Exchange`; one begins, and from then on each message is answered by one message, so there is one on its way at
any time and whoever hears nothing in time gives the exchange up and loses nothing: what was taken in stays. A message is

    [version, shard, salt, turn, horizon, keeps, items, wants, payloads]

``turn`` counts the messages of the exchange, so that one which comes twice is answered once. ``keeps`` is false where the sender does not hold the shard and only has something to give to it. ``items`` say what the sender has under prefixes of the tree (`merkle`): ``[prefix, digits, hashes]`` for a branch, ``[prefix, nil, hashes]``
for a leaf, all of its places. ``wants`` ask for places: ``[prefix, nil]`` for all under a prefix, ``[prefix, hashes]`` for some. ``payloads``
are segments and proofs as they are. Hashes are 8 bytes, keyed by the salt of the exchange, so that nobody can prepare sets that
look equal. Where the receiver has something that is not named, it sends it; what is named and not there, it wants; where hashes
differ, it says what it has itself one digit further down. When a message with nothing in it was answered by one, both have
the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from blake3 import blake3

from kernels.plain import decode_plain, encode_plain
from swarm.protocol.knowledge.bounds import (
    FUTURE_MS,
    ITEMS_MAX,
    MESSAGE_BYTES_MAX,
    OPEN_ITEMS_MAX,
    RETENTION_MS,
    SEGMENT_BYTES_MAX,
)
from swarm.protocol.knowledge.entries import FormatError, Segment
from swarm.protocol.knowledge.merkle import DIGITS
from swarm.protocol.knowledge.rules import VIOLATIONS, Outcome
from swarm.protocol.knowledge.shard import Shard
from swarm.protocol.knowledge.stamps import ms_of

VERSION: Final = 1
HASH_BYTES: Final = 8
SALT_BYTES: Final = 32
LISTED_MAX: Final = 128
"""Of more places than this a branch is said rather than a list compared."""
_DIGITS: Final = frozenset("0123456789abcdef")
_ITEM_BYTES: Final = 24
_BUDGET_BYTES: Final = MESSAGE_BYTES_MAX - SEGMENT_BYTES_MAX
"""After so many bytes nothing more is added; one segment may go over it."""

Took = Callable[[Outcome, Segment | None, bytes], object]
"""Told what became of each payload."""


class Exchange:
    """One side of an exchange. `salt` is 32 random bytes of whoever begins; None for the other, which learns it."""

    def __init__(
        self,
        shard: Shard,
        salt: bytes | None = None,
        took: Took | None = None,
        keeps: bool = True,
        retention_ms: int = RETENTION_MS,
    ) -> None:
        self.done = False
        self.turn = 0
        """Of the message that is expected next."""
        self._keeps = keeps
        self._retention_ms = retention_ms
        self._gives = True
        self.sent_bytes = 0
        self.new = 0
        """Payloads that were news here."""
        self._shard = shard
        self._salt = salt
        self._took = took
        self._items: dict[str, None] = {}
        """Prefixes still to be said something of, each once: no more than the own tree has."""
        self._wants: dict[tuple[str, bytes | None], None] = {}
        self._looked = 0
        """Places that were looked up because the other side wants all under a prefix."""
        self._pushes: deque[bytes] = deque()
        self._pushed: set[bytes] = set()
        self._said_nothing = False

    def begin(self) -> bytes:
        """The first message."""
        assert self._salt is not None and len(self._salt) == SALT_BYTES
        self._items[""] = None
        return self._message()

    def receive(self, message: bytes, wall_ms: int) -> bytes | None:
        """The answer to a message; None when nothing is left to say, or if it was answered before. FormatError if the peer breaks the protocol, by what it says or by
        handing on what no correct node holds."""
        _, shard, salt, turn, horizon, gives, items, wants, payloads = _read(message)
        if shard != self._shard.number:
            raise FormatError(f"a message about shard {shard} in an exchange about {self._shard.number}")
        if self._salt is None:
            self._salt = salt
        elif salt != self._salt:
            raise FormatError("a message of another exchange")
        if turn != self.turn:
            return None
        self.turn += 1
        self._gives = gives
        # What one side has forgotten the other forgets before it sends anything: else the one would have again what was gone.
        if ms_of(horizon) <= wall_ms + FUTURE_MS - self._retention_ms:
            self._shard.expire(horizon)
        if not self._keeps:
            self._shard.lapse()
        for payload in payloads:
            self._take(payload, wall_ms)
        for prefix, hashes in wants:
            self._wanted(prefix, hashes)
        for prefix, digits, hashes in items:
            if digits is None:
                self._compare_leaf(prefix, hashes)
            else:
                self._compare_branch(prefix, digits, hashes)
        if len(self._items) + len(self._wants) > OPEN_ITEMS_MAX:
            raise FormatError("more differences than can be talked about at once")
        empty = not (self._items or self._wants or self._pushes)
        if empty and not (items or wants or payloads):
            self.done = True
            if self._said_nothing:
                return None
        self._said_nothing = empty
        return self._message()

    # --- what the other side says ----------------------------------------------------------------------------------------

    def _take(self, payload: bytes, wall_ms: int) -> None:
        outcome, segment = self._shard.take(payload, wall_ms)
        if outcome in VIOLATIONS:
            raise FormatError(f"a segment that no correct node hands on: {outcome.value}")
        self.new += outcome is Outcome.NEW
        if self._took is not None:
            self._took(outcome, segment, payload)

    def _wanted(self, prefix: str, hashes: bytes | None) -> None:
        tree = self._shard.tree
        count = tree.count(prefix)
        if hashes is None:
            # Whoever keeps the protocol wants each place once; some may have come since.
            self._looked += count
            if self._looked > 2 * len(tree) + ITEMS_MAX:
                raise FormatError("wants the same again and again")
            self._push(tree.places(prefix))
        elif count <= 4 * LISTED_MAX:  # more than that was never listed
            wanted = _split(hashes)
            self._push([place for place in tree.places(prefix) if self._short(place) in wanted])

    def _compare_branch(self, prefix: str, digits: str, hashes: bytes) -> None:
        tree = self._shard.tree
        theirs = {digit: hashes[at * HASH_BYTES : (at + 1) * HASH_BYTES] for at, digit in enumerate(digits)}
        if not tree.count(prefix):
            self._want(prefix, None)
            return
        mine = tree.below(prefix)
        for digit in sorted(theirs.keys() - mine.keys()):
            self._want(prefix + digit, None)
        for digit, hash in mine.items():
            if digit not in theirs:
                self._push(tree.places(prefix + digit))
            elif theirs[digit] != self._short(hash):
                self._items[prefix + digit] = None

    def _compare_leaf(self, prefix: str, hashes: bytes) -> None:
        tree = self._shard.tree
        if tree.count(prefix) > LISTED_MAX:
            self._items[prefix] = None
            return
        theirs = _split(hashes)
        places = {self._short(place): place for place in tree.places(prefix)}
        self._push([place for short, place in places.items() if short not in theirs])
        lacking = sorted(theirs - places.keys())
        if lacking:
            self._want(prefix, b"".join(lacking))

    def _want(self, prefix: str, hashes: bytes | None) -> None:
        if self._keeps:
            self._wants[prefix, hashes] = None

    def _push(self, places: list[bytes]) -> None:
        if not self._gives:
            return
        pushed = self._pushed
        for place in places:
            if place not in pushed:
                pushed.add(place)
                self._pushes.append(place)

    def _short(self, hash: bytes) -> bytes:
        assert self._salt is not None
        return blake3(hash, key=self._salt).digest(HASH_BYTES)

    # --- what this side says ---------------------------------------------------------------------------------------------

    def _message(self) -> bytes:
        shard, tree = self._shard, self._shard.tree
        items: list[list[Any]] = []
        wants: list[list[Any]] = []
        payloads: list[bytes] = []
        size = 64
        while self._items and len(items) < ITEMS_MAX and size < _BUDGET_BYTES:
            prefix = next(iter(self._items))
            del self._items[prefix]
            children = tree.children(prefix)
            if children is None:
                hashes = b"".join(map(self._short, tree.places(prefix)))
                items.append([prefix, None, hashes])
            else:
                hashes = b"".join(map(self._short, children.values()))
                items.append([prefix, "".join(children), hashes])
            size += _ITEM_BYTES + len(prefix) + len(hashes)
        while self._wants and len(wants) < ITEMS_MAX and size < _BUDGET_BYTES:
            prefix, wanted = want = next(iter(self._wants))
            del self._wants[want]
            wants.append([prefix, wanted])
            size += _ITEM_BYTES + len(prefix) + len(wanted or b"")
        while self._pushes and size < _BUDGET_BYTES:
            payload = shard.payload(self._pushes.popleft())
            if payload is not None:
                payloads.append(payload)
                size += len(payload) + 5
        assert self._salt is not None
        message = encode_plain(
            [VERSION, shard.number, self._salt, self.turn, shard.horizon, self._keeps, items, wants, payloads],
            MESSAGE_BYTES_MAX,
        )
        assert message is not None
        self.turn += 1
        self.sent_bytes += len(message)
        return message


def _split(hashes: bytes) -> set[bytes]:
    return {hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)}


def _read(message: bytes) -> list[Any]:
    """The parts of a message, each of the type that it must have. FormatError."""
    if len(message) > MESSAGE_BYTES_MAX:
        raise FormatError(f"a message of {len(message)} bytes")
    try:
        parts = decode_plain(message)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"a message of anti-entropy: {error}") from None
    if not (isinstance(parts, list) and len(parts) == 9 and parts[0] == VERSION):
        raise FormatError(f"a message of anti-entropy that is not of version {VERSION}")
    _, shard, salt, turn, horizon, keeps, items, wants, payloads = parts
    if type(shard) is not int or type(turn) is not int or type(salt) is not bytes or len(salt) != SALT_BYTES:
        raise FormatError("a message of anti-entropy names no shard, turn or salt")
    if type(horizon) is not int or not 0 <= horizon < 1 << 64 or type(keeps) is not bool:
        raise FormatError("a horizon that is no stamp, or no word whether the shard is kept")
    if not all(type(part) is list and len(part) <= ITEMS_MAX for part in (items, wants, payloads)):
        raise FormatError(f"a message of anti-entropy names more than {ITEMS_MAX} things")
    if not all(type(payload) is bytes for payload in payloads):
        raise FormatError("a segment that is no bytes")
    for item in items:
        if type(item) is not list or len(item) != 3 or not _is_prefix(item[0]) or not _are_hashes(item[2]):
            raise FormatError("an item that is not [prefix, digits, hashes]")
        digits = item[1]
        if digits is not None and not (
            type(digits) is str and set(digits) <= _DIGITS and len(set(digits)) == len(digits)
            and len(item[2]) == HASH_BYTES * len(digits) and len(item[0]) < DIGITS
        ):  # fmt: skip
            raise FormatError("a branch whose digits and hashes do not go together")
    for want in wants:
        if type(want) is not list or len(want) != 2 or not _is_prefix(want[0]):
            raise FormatError("a wish that is not [prefix, hashes]")
        if want[1] is not None and not _are_hashes(want[1]):
            raise FormatError("a wish for what is no hashes")
    return parts


def _is_prefix(prefix: object) -> bool:
    return type(prefix) is str and len(prefix) <= DIGITS and set(prefix) <= _DIGITS


def _are_hashes(hashes: object) -> bool:
    return type(hashes) is bytes and len(hashes) % HASH_BYTES == 0
