"""Knowledge under the keys and certificates that a fleet has: who may speak, and who may not any longer."""

from __future__ import annotations

from nacl.signing import SigningKey

from swarm.protocol.knowledge.knowledge import Knowledge
from swarm.protocol.knowledge.rules import Outcome
from swarm.protocol.knowledge.shard import Shard
from swarm.protocol.knowledge.stamps import HybridClock
from transport.certificates import Identity, Keys, fleet_of, issue, read_certificate

WALL_MS = 1_700_000_000_000
ADMIN = SigningKey(bytes(range(32)))


def member(name: str) -> tuple[Keys, Identity]:
    keys = Keys.create()
    certificate = issue(
        ADMIN, fleet_of(ADMIN.verify_key.encode()), name=name, role="node", grants=frozenset(), sign_key=keys.sign_key,
        curve_key=keys.curve_key, not_before_s=1_600_000_000, expires_s=2_000_000_000,
    )  # fmt: skip
    return keys, read_certificate(certificate)[0]


class Fleet:
    """Who is known, and who is revoked."""

    def __init__(self, *identities: Identity) -> None:
        self.known = {identity.id: identity for identity in identities}
        self.revoked: set[bytes] = set()

    def verify(self, author: bytes, message: bytes, signature: bytes) -> Outcome | None:
        identity = self.known.get(author)
        if identity is None:
            return Outcome.UNKNOWN_AUTHOR
        if author in self.revoked:
            return Outcome.REVOKED
        return None if identity.signed(message, signature) else Outcome.SIGNATURE

    def node(self, keys: Keys) -> Knowledge:
        return Knowledge(keys.id, keys.sign, {}, 1, HybridClock(), lambda number: Shard(number, 1, self.verify))


def test_what_a_member_signed_is_believed_and_what_was_altered_is_not() -> None:
    (oak_keys, oak), (elm_keys, elm) = member("oak"), member("elm")
    fleet = Fleet(oak, elm)
    one, other = fleet.node(oak_keys), fleet.node(elm_keys)
    one.put("facts", "k", "true", WALL_MS)
    (segment,) = one.take()
    for at in range(0, len(segment.raw), 7):
        broken = bytearray(segment.raw)
        broken[at] ^= 4
        assert other.shard(0).take(bytes(broken), WALL_MS)[0] is not Outcome.NEW
    assert other.get("facts", "k") is None
    assert other.shard(0).take(segment.raw, WALL_MS)[0] is Outcome.NEW
    assert other.get("facts", "k") == "true"


def test_who_is_not_known_yet_may_be_later_and_who_is_revoked_never_was() -> None:
    (oak_keys, oak), (elm_keys, elm) = member("oak"), member("elm")
    fleet = Fleet(elm)
    stranger = Fleet(oak).node(oak_keys)
    stranger.put("facts", "k", 1, WALL_MS)
    (segment,) = stranger.take()
    here = fleet.node(elm_keys)
    assert here.shard(0).apply(segment, WALL_MS) is Outcome.UNKNOWN_AUTHOR
    fleet.known[oak.id] = oak
    assert here.shard(0).apply(segment, WALL_MS) is Outcome.NEW
    fleet.revoked.add(oak.id)
    here.shard(0).drop_author(oak.id)
    assert here.get("facts", "k") is None and len(here.shard(0)) == 0
    assert here.shard(0).apply(segment, WALL_MS) is Outcome.REVOKED
