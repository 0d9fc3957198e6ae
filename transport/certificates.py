"""Certificates: an admin's signed word that an id, its keys, a role and its grants belong to this fleet until an
instant.

A certificate is a signed document (`transport.signed`) with the fields ``v fleet id name role grants sign_key
curve_key serial nbf exp``. It is public: it proves something only together with the secret keys, which the handshake
has the peer use. The TLS keys of the bulk lane are made by each process for itself and signed with the signing key
(`transport.tls`), so there is no third key to bind.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3
from nacl.public import PrivateKey
from nacl.signing import SigningKey

from transport import bounds
from transport.signed import (
    Untrusted,
    is_name,
    key_field,
    malformed,
    name_field,
    seal,
    seconds_field,
    signed_bytes,
    unseal,
    verify_signature,
)

ID_BYTES: Final = 16
FLEET_BYTES: Final = 16
SERIAL_BYTES: Final = 8
ROLES: Final = ("client", "node")
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_ORDER: Final = ("v", "fleet", "id", "name", "role", "grants", "sign_key", "curve_key", "serial", "nbf", "exp")


def id_of(sign_key: bytes) -> bytes:
    """The id (16 bytes) of a node or client: the head of blake3 of its Ed25519 public key, so that nobody can
    choose one.
    """
    return blake3(sign_key).digest(length=ID_BYTES)


def fleet_of(founder: bytes) -> bytes:
    """The id (16 bytes) of the fleet that this admin key founded: who knows the id can check the key, and all that
    follows.
    """
    return blake3(b"swarm fleet 1\0" + founder).digest(length=FLEET_BYTES)


def id_text(id: bytes) -> str:
    """The text form of an id: lower-case base32 without i, l, o, u (26 characters for 16 bytes)."""
    bits = len(id) * 8
    digits = -(-bits // 5)
    number = int.from_bytes(id, "big") << (digits * 5 - bits)
    return "".join(_ALPHABET[(number >> 5 * i) & 31] for i in reversed(range(digits)))


def id_from_text(text: str) -> bytes:
    """The 16 bytes behind `id_text`. Raises ValueError for anything that `id_text` would not have written."""
    number = 0
    for character in text:
        number = number << 5 | _ALPHABET.index(character)
    digits = -(-ID_BYTES * 8 // 5)
    spare = digits * 5 - ID_BYTES * 8
    if len(text) != digits or number & ((1 << spare) - 1):
        raise ValueError(f"{text!r} is not an id: {digits} characters of {_ALPHABET}")
    return (number >> spare).to_bytes(ID_BYTES, "big")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody is, as an admin of the fleet has certified it. Instants are wall-clock seconds since 1970."""

    id: bytes
    name: str
    role: str
    grants: frozenset[str]
    sign_key: bytes
    curve_key: bytes
    fleet: bytes
    serial: bytes
    not_before_s: float
    expires_s: float

    @property
    def text(self) -> str:
        """The id as people see it; a prefix usually does."""
        return id_text(self.id)

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Whether `Keys.sign` of this identity made the signature over the message."""
        return verify_signature(self.sign_key, signed_bytes("message", message), signature)


@dataclass(frozen=True, slots=True)
class Keys:
    """The secret keys of one node or client: an Ed25519 seed and a Curve25519 secret, 32 bytes each, independent of
    each other.
    """

    sign_seed: bytes = field(repr=False)
    curve_secret: bytes = field(repr=False)

    @classmethod
    def create(cls) -> Keys:
        return cls(os.urandom(32), os.urandom(32))

    @property
    def sign_key(self) -> bytes:
        """The public signing key, 32 bytes."""
        return SigningKey(self.sign_seed).verify_key.encode()

    @property
    def curve_key(self) -> bytes:
        """The public CURVE key, 32 raw bytes; ``zmq.utils.z85.encode`` of it is what ZeroMQ shows."""
        return PrivateKey(self.curve_secret).public_key.encode()

    @property
    def id(self) -> bytes:
        return id_of(self.sign_key)

    def sign(self, message: bytes, kind: str = "message") -> bytes:
        """The Ed25519 signature (64 bytes) over the message, marked so that it can stand for no other kind of
        document.
        """
        return SigningKey(self.sign_seed).sign(signed_bytes(kind, message)).signature


def issue(
    admin: SigningKey,
    fleet: bytes,
    *,
    name: str,
    role: str,
    grants: frozenset[str],
    sign_key: bytes,
    curve_key: bytes,
    not_before_s: float,
    expires_s: float,
    serial: bytes | None = None,
) -> bytes:
    """Sign a certificate. Instants are cut to whole seconds. Raises ValueError for a name, role or grant that
    cannot be in one.
    """
    check_wish(name, role, grants)
    fields = {
        "v": 1,
        "fleet": fleet,
        "id": id_of(sign_key),
        "name": name,
        "role": role,
        "grants": sorted(grants),
        "sign_key": sign_key,
        "curve_key": curve_key,
        "serial": os.urandom(SERIAL_BYTES) if serial is None else serial,
        "nbf": int(not_before_s),
        "exp": int(expires_s),
    }
    return seal("certificate", fields, admin, bounds.CERTIFICATE_BYTES_MAX)


def check_wish(name: str, role: str, grants: frozenset[str]) -> None:
    """Raise ValueError, in words for people, unless a certificate may carry these."""
    if not is_name(name):
        raise ValueError(f"the name {name!r} is not 1 to {bounds.NAME_BYTES_MAX} letters, digits, '.', '_' or '-'")
    if role not in ROLES:
        raise ValueError(f"the role {role!r} is neither node nor client")
    if len(grants) > bounds.GRANTS_COUNT_MAX or not all(_is_grant(grant) for grant in grants):
        raise ValueError(f"grants are at most {bounds.GRANTS_COUNT_MAX} short lower-case words, not {sorted(grants)!r}")


def read_certificate(certificate: object) -> tuple[Identity, bytes]:
    """What a certificate says and the admin key that signed it: shape and signature are checked here, trust is not.

    Raises `Untrusted` (``malformed``, ``bad-signature``, ``key-mismatch``) and nothing else.
    """
    what = "certificate"
    fields, signer = unseal(what, certificate, _ORDER, bounds.CERTIFICATE_BYTES_MAX)
    if fields["v"] != 1 or type(fields["v"]) is not int:
        raise malformed(what, "is of a version that is not spoken here")
    role, grants = fields["role"], fields["grants"]
    if type(role) is not str or role not in ROLES:
        raise malformed(what, "names a role that does not exist")
    if (
        not isinstance(grants, list)
        or len(grants) > bounds.GRANTS_COUNT_MAX
        or not all(_is_grant(grant) for grant in grants)
    ):
        raise malformed(what, "has grants that are not short words")
    if grants != sorted(set(grants)):
        raise malformed(what, "has grants that are not sorted")
    identity = Identity(
        id=key_field(fields["id"], what, ID_BYTES),
        name=name_field(fields["name"], what),
        role=role,
        grants=frozenset(grants),
        sign_key=key_field(fields["sign_key"], what),
        curve_key=key_field(fields["curve_key"], what),
        fleet=key_field(fields["fleet"], what, FLEET_BYTES),
        serial=key_field(fields["serial"], what, SERIAL_BYTES),
        not_before_s=float(seconds_field(fields["nbf"], what)),
        expires_s=float(seconds_field(fields["exp"], what)),
    )
    if identity.id != id_of(identity.sign_key):
        raise Untrusted(
            "key-mismatch",
            "the id in this certificate is not that of its key",
            "it is forged, or made by a faulty admin",
        )
    return identity, signer


def _is_grant(grant: object) -> bool:
    return (
        type(grant) is str
        and 0 < len(grant) <= bounds.GRANT_BYTES_MAX
        and grant.isascii()
        and grant[0].isalpha()
        and all(c.islower() or c.isdigit() or c == "-" for c in grant)
    )
