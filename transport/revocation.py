"""Revocations: an admin's signed word that an id, or one certificate of it, is no longer of the fleet.

They only ever accumulate and are merged as a set, so they need no order and no agreement: gossip carries them. What is
revoked is the id, that is the key; whoever is let in again gets new keys and so a new id. A revocation that names a
serial ends only that certificate (to take a grant away, issue a new certificate and revoke the serial of the old one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nacl.signing import SigningKey

from transport import bounds
from transport.certificates import FLEET_BYTES, ID_BYTES, SERIAL_BYTES
from transport.signed import Untrusted, key_field, malformed, seal, seconds_field, unseal

_WHAT: Final = "revocation"
_ORDER: Final = ("v", "fleet", "id", "serial", "at", "reason")


@dataclass(frozen=True, slots=True)
class Revocation:
    """``serial`` is None when the id as such is revoked; ``at_s`` is wall-clock; ``signer`` is the admin's public
    key.
    """

    id: bytes
    serial: bytes | None
    at_s: float
    reason: str
    signer: bytes


def revoke(
    admin: SigningKey, fleet: bytes, id: bytes, *, at_s: float, serial: bytes | None = None, reason: str = ""
) -> bytes:
    """Sign a revocation. The reason is shown to people and cut to what fits."""
    fields = {
        "v": 1,
        "fleet": fleet,
        "id": id,
        "serial": serial,
        "at": int(at_s),
        "reason": "".join(c for c in reason if c.isascii() and c.isprintable())[: bounds.REVOCATION_REASON_BYTES_MAX],
    }
    return seal(_WHAT, fields, admin, bounds.REVOCATION_BYTES_MAX)


def read_revocation(blob: object, fleet: bytes) -> Revocation:
    """Check shape, fleet and signature; whether the signer is an admin is for `Trust` to say. Raises `Untrusted`
    only.
    """
    fields, signer = unseal(_WHAT, blob, _ORDER, bounds.REVOCATION_BYTES_MAX)
    if type(fields["v"]) is not int or fields["v"] != 1:
        raise malformed(_WHAT, "is of a version that is not spoken here")
    if key_field(fields["fleet"], _WHAT, FLEET_BYTES) != fleet:
        raise Untrusted("wrong-fleet", "this revocation is for another fleet", "nothing is to be done")
    reason = fields["reason"]
    if (
        type(reason) is not str
        or len(reason) > bounds.REVOCATION_REASON_BYTES_MAX
        or not reason.isascii()
        or not (reason + "x").isprintable()
    ):
        raise malformed(_WHAT, "has a reason that cannot be shown")
    return Revocation(
        id=key_field(fields["id"], _WHAT, ID_BYTES),
        serial=None if fields["serial"] is None else key_field(fields["serial"], _WHAT, SERIAL_BYTES),
        at_s=float(seconds_field(fields["at"], _WHAT)),
        reason=reason,
        signer=signer,
    )
