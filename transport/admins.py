"""Who may sign for a fleet: a chain of sets of admin keys, each signed by an admin of the set before it.

The fleet's id is the hash of its founder's key, so the first set needs no signature: it is the founder alone. Every
later set names the hash of the one before, keeps those who stay in their order, and puts new ones behind them: an
earlier place is seniority.

Two chains part when two admins sign at the same time, or when a stolen key fights its removal by rewriting history.
Then the one wins that has the signature of the more senior admin after the point where they part (by the last set they
have in common; between equals the smaller hash of the first set that differs). With the order kept, and removed keys
never let in again, this is a total order, so all nodes come to the same chain whatever order they hear in; and an
admin can always put out those who came after, for good. A stolen key of the founder's can be answered only by a new
fleet.

An admin may be *retired* (what it signed up to then counts, which is right for a lost or replaced laptop) or *removed*
(nothing that it ever signed counts, which is right for a stolen one).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from blake3 import blake3
from nacl.signing import SigningKey

from transport import bounds
from transport.certificates import FLEET_BYTES, fleet_of
from transport.signed import Untrusted, key_field, malformed, name_field, seal, seconds_field, unseal

_WHAT: Final = "set of admins"
_ORDER: Final = ("v", "fleet", "version", "before", "admins")


@dataclass(frozen=True, slots=True)
class Admin:
    """A key that may sign for the fleet; once retired (wall-clock seconds) only what is dated up to then counts."""

    key: bytes
    name: str
    retired_s: float | None = None

    def may_sign(self, at_s: float) -> bool:
        return self.retired_s is None or at_s <= self.retired_s


class AdminChain:
    """The sets of admins that a fleet has had, and the one that it has now. Immutable."""

    __slots__ = ("_by_key", "_sets", "_signers", "admins", "blobs", "fleet", "founder")

    def __init__(self, founder: Admin, blobs: Iterable[bytes] = ()) -> None:
        """Check a whole chain. Raises `Untrusted` when any link of it does not hold."""
        self.founder = founder
        self.fleet = fleet_of(founder.key)
        self.blobs: tuple[bytes, ...] = tuple(blobs)
        self._sets: list[tuple[Admin, ...]] = [(founder,)]
        self._signers: list[bytes] = []
        if len(self.blobs) > bounds.ADMIN_CHANGES_COUNT_MAX:
            raise malformed(_WHAT, f"comes after more than {bounds.ADMIN_CHANGES_COUNT_MAX} changes")
        before, seen = self.fleet, {founder.key}
        for version, blob in enumerate(self.blobs, start=1):
            admins, signer = self._read(blob, version, before)
            present = self._sets[-1]
            if not any(admin.key == signer and admin.retired_s is None for admin in present):
                raise Untrusted(
                    "unknown-admin", f"{_WHAT} {version} is signed by a key that is no admin", "it is forged, or stale"
                )
            keys = [admin.key for admin in admins]
            stay = [admin.key for admin in present if admin.key in keys]
            new = keys[len(stay) :]
            if keys[: len(stay)] != stay or seen.intersection(new):
                raise malformed(_WHAT, "changes the order of its members, or lets in a key that was removed")
            seen.update(new)
            self._sets.append(admins)
            self._signers.append(signer)
            before = blake3(blob).digest()
        self.admins: tuple[Admin, ...] = self._sets[-1]
        self._by_key = {admin.key: admin for admin in self.admins}

    def get(self, key: bytes) -> Admin | None:
        """The admin of the present set with this key."""
        return self._by_key.get(key)

    def changed(self, signer: SigningKey, admins: Iterable[Admin]) -> AdminChain:
        """The chain with one more set, signed by an admin of the present one. Raises `Untrusted` if that key may
        not.
        """
        before = blake3(self.blobs[-1]).digest() if self.blobs else self.fleet
        fields = {
            "v": 1,
            "fleet": self.fleet,
            "version": len(self.blobs) + 1,
            "before": before,
            "admins": [[a.key, a.name, None if a.retired_s is None else int(a.retired_s)] for a in admins],
        }
        return AdminChain(self.founder, (*self.blobs, seal(_WHAT, fields, signer, bounds.ADMINS_BYTES_MAX)))

    def wins_over(self, other: AdminChain) -> bool:
        """Whether this chain of the same fleet is to be believed instead of the other. One of two different chains
        wins.
        """
        common = 0
        while self.blobs[common : common + 1] == other.blobs[common : common + 1] != ():
            common += 1
        if common == len(self.blobs) or common == len(other.blobs):
            return len(self.blobs) > len(other.blobs)
        ranks = {admin.key: rank for rank, admin in enumerate(self._sets[common])}
        mine, theirs = (min(ranks.get(key, len(ranks)) for key in c._signers[common:]) for c in (self, other))
        return (mine, blake3(self.blobs[common]).digest()) < (theirs, blake3(other.blobs[common]).digest())

    def _read(self, blob: bytes, version: int, before: bytes) -> tuple[tuple[Admin, ...], bytes]:
        fields, signer = unseal(_WHAT, blob, _ORDER, bounds.ADMINS_BYTES_MAX)
        if type(fields["v"]) is not int or fields["v"] != 1:
            raise malformed(_WHAT, "is of a version that is not spoken here")
        if key_field(fields["fleet"], _WHAT, FLEET_BYTES) != self.fleet:
            raise Untrusted("wrong-fleet", f"this {_WHAT} is that of another fleet", "two fleets do not share admins")
        if type(fields["version"]) is not int or fields["version"] != version or fields["before"] != before:
            raise malformed(_WHAT, "does not follow the one before it")
        rows = fields["admins"]
        if not isinstance(rows, list) or not 0 < len(rows) <= bounds.ADMINS_COUNT_MAX:
            raise malformed(_WHAT, f"does not have 1 to {bounds.ADMINS_COUNT_MAX} members")
        admins = tuple(_admin(row) for row in rows)
        if len({admin.key for admin in admins}) != len(admins) or all(a.retired_s is not None for a in admins):
            raise malformed(_WHAT, "names a key twice, or nobody who may sign")
        return admins, signer


def _admin(row: object) -> Admin:
    if not isinstance(row, list) or len(row) != 3:
        raise malformed(_WHAT, "has a member that is not [key, name, retired]")
    retired = None if row[2] is None else float(seconds_field(row[2], _WHAT))
    return Admin(key_field(row[0], _WHAT), name_field(row[1], _WHAT), retired)
