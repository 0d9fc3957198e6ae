"""Join tokens: one line of text that lets another machine, or a client, into a fleet.

A token is a capability: whoever holds it may join until it expires or is used up. It carries the hash of the founder's
admin key (the fleet's id), the issuer's CURVE key, where the issuer listens, and 16 secret bytes. From the secret both
sides derive an Ed25519 key: the joiner signs its request with it, the issuer's book on disk knows the public half
only, so that the book is no list of tokens. The joiner signs with each key that it wants certified, too, so nobody can
have somebody else's id bound to keys of his own.

The reply is signed by an admin key whose way back to the founder's key is shown and checked, names the request that it
answers, and has the fleet's secret sealed to the joiner's key; it goes through the CURVE connection all the same. So
neither a wrong fleet nor anybody in between can pass for the issuer. Asking again with the same keys gets the same
answer: a lost reply uses nothing up.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgpack
from blake3 import blake3
from nacl.exceptions import CryptoError
from nacl.public import PublicKey, SealedBox

from transport import bounds
from transport.certificates import FLEET_BYTES, Identity, Keys, check_wish, id_of, read_certificate
from transport.fleet import TOKENS_FILE, Fleet
from transport.identity import Untrusted
from transport.private_files import FleetError, locked, read_private, there, write_private
from transport.signed import decode, key_field, malformed, name_field, seal, signed_bytes, verify_signature

PREFIX: Final = "swarm-join-1:"
TOKEN_SECRET_BYTES: Final = 16
_ROLES: Final = ("node", "client")
_HEAD: Final = struct.Struct(">B16s32s16sI")
_CHECK_BYTES: Final = 4
REQUEST: Final = "request to join"
REPLY: Final = "reply to a join"
REPLY_ORDER: Final = (
    "v", "request", "name", "founder", "founder_name", "chain", "revocations", "certificates", "secret",
)  # fmt: skip
_REVOCATIONS_SHOWN: Final = 16

REFUSALS: Final = {
    "token-expired": ("the token has expired", "get a new one: `swarm fleet token`"),
    "token-used": (
        "the token was used already",
        "get a new one: `swarm fleet token`, with --uses for several machines",
    ),
    "token-unknown": (
        "the issuer does not know this token",
        "it was withdrawn, or long expired: get a new one by `swarm fleet token`",
    ),
    "token-proof": ("the proof of holding the token does not fit", "copy the token again, whole"),
    "token-role": ("the token admits clients only", "get one for a node: `swarm fleet token`, without --client"),
    "wrong-fleet": ("the issuer belongs to another fleet now", "get a token of the fleet that it belongs to"),
    "not-admin": ("the issuer no longer administers its fleet", "get a token where an admin key is"),
    "revoked": ("these keys were revoked", "delete the identity files of this home, and join again"),
    "malformed": ("the issuer could not read the request", "run the same version of swarm on both machines"),
    "unwritable": ("the issuer could not record the use of the token", "see the issuer's log; its disk may be full"),
}
"""Why a join may be refused: reason, what is shown, what to do. Only the reason travels."""


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says. ``endpoints`` are ``host:port`` or ``[IPv6]:port``, ``issuer_key`` is the issuer's CURVE
    key (32 bytes), ``expires_s`` is wall-clock; whether it has expired is for the issuer's clock to say.
    """

    fleet: bytes
    issuer_key: bytes
    secret: bytes = field(repr=False)
    role: str
    endpoints: tuple[str, ...]
    expires_s: int

    @property
    def text(self) -> str:
        """The token as one line: url-safe base64, with a check sum."""
        data = _HEAD.pack(_ROLES.index(self.role), self.fleet, self.issuer_key, self.secret, self.expires_s)
        data += b"".join(_pack_endpoint(endpoint) for endpoint in self.endpoints)
        return PREFIX + base64.urlsafe_b64encode(data + _check(data)).decode("ascii").rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Token:
        """Read a token, with any white space that copying put into it. Raises `FleetError` (``token-damaged``,
        ``token-version``).
        """
        text = "".join(text.split())
        if not text.startswith("swarm-join-"):
            raise _damaged("this is no join token", f"one begins with {PREFIX}")
        if not text.startswith(PREFIX):
            raise FleetError(
                "token-version", "this token is of another version of swarm", "use the issuer's version, or a newer one"
            )
        try:
            if len(text) > bounds.TOKEN_CHARACTERS_MAX:
                raise ValueError("too long")
            body = text[len(PREFIX) :]
            data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
            content, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
            if check != _check(content):
                raise ValueError("check sum")
            role, fleet, issuer_key, secret, expires_s = _HEAD.unpack_from(content)
            token = cls(fleet, issuer_key, secret, _ROLES[role], _unpack_endpoints(content[_HEAD.size :]), expires_s)
            if token.text != text:
                raise ValueError("not written as it should be")
        except (ValueError, IndexError, struct.error, binascii.Error) as error:
            raise _damaged("the token is damaged: a character is missing or wrong", "copy it again, whole") from error
        return token

    @property
    def keys(self) -> Keys:
        """The signing key that holding the token amounts to (only `Keys.sign` of it is used)."""
        return Keys(blake3(self.secret, derive_key_context="swarm join token 1").digest(), bytes(32))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the issuer sends back, and what came of it: who was admitted, or the reason (a key of `REFUSALS`) why
    nobody was.
    """

    reply: bytes
    admitted: tuple[Identity, ...] = ()
    reason: str = ""


@dataclass(slots=True)
class TokenEntry:
    """A token as its issuer keeps it: the public half of its key, and who came in by it (ids, a list for each use)."""

    key: bytes
    role: str
    grants: tuple[str, ...]
    expires_s: float
    uses: int
    used: list[list[bytes]]

    @property
    def left(self) -> int:
        return self.uses - len(self.used)


class TokenBook:
    """The tokens that this home has issued: on disk, since one process issues them and another redeems them."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._path = fleet.directory / TOKENS_FILE

    def issue(
        self,
        now_wall_s: float,
        *,
        issuer_key: bytes,
        endpoints: Sequence[str],
        ttl_s: float = 600.0,
        uses: int = 1,
        role: str = "node",
        grants: Collection[str] = ("code",),
    ) -> Token:
        """Make a token that is redeemed at these endpoints, by the node with this CURVE key.

        Raises `FleetError`: ``not-admin``, ``bad-token`` for wishes that cannot be met, ``too-many`` outstanding
        tokens.
        """
        self._fleet.require_admin()
        try:
            check_wish("name", role, frozenset(grants))
            if not 0 < uses <= bounds.TOKEN_USES_COUNT_MAX or ttl_s <= 0:
                raise ValueError(f"a token is for 1 to {bounds.TOKEN_USES_COUNT_MAX} uses, and for some time")
            if not 0 < len(endpoints) <= bounds.TOKEN_ENDPOINTS_COUNT_MAX:
                raise ValueError(f"a token names 1 to {bounds.TOKEN_ENDPOINTS_COUNT_MAX} endpoints")
            expires_s = min(int(now_wall_s + ttl_s), 0xFFFFFFFF)
            token = Token(self._fleet.id, issuer_key, os.urandom(TOKEN_SECRET_BYTES), role, tuple(endpoints), expires_s)
            token = Token.parse(token.text)
        except ValueError as error:
            raise FleetError("bad-token", str(error), "ask for a token that can be made") from error
        with locked(self._path):
            entries = [e for e in self.entries() if e.expires_s + bounds.TOKEN_KEPT_S > now_wall_s]
            if len(entries) >= bounds.TOKENS_COUNT_MAX:
                raise FleetError(
                    "too-many", f"{len(entries)} tokens are kept already", "withdraw some, or wait for a day"
                )
            entries.append(TokenEntry(token.keys.sign_key, role, tuple(sorted(set(grants))), token.expires_s, uses, []))
            self._save(entries)
        return token

    def entries(self) -> list[TokenEntry]:
        """The tokens that are kept, the used and the lately expired ones too. Raises `FleetError` if the book is
        damaged.
        """
        if not there(self._path):
            return []
        content = read_private(self._path, "tokens")
        try:
            return [
                TokenEntry(key, role, tuple(grants), expires_s, uses, used)
                for key, role, grants, expires_s, uses, used in msgpack.unpackb(content)
            ]
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise FleetError(
                "damaged",
                f"{self._path} does not hold together",
                "delete it; outstanding tokens are void then",
                self._path,
            ) from error

    def withdraw(self, key: bytes | None = None) -> int:
        """Void one token, known by the public half of its key, or all of them. Returns how many were."""
        with locked(self._path):
            entries = self.entries()
            kept = [] if key is None else [entry for entry in entries if entry.key != key]
            self._save(kept)
        return len(entries) - len(kept)

    def answer(self, message: bytes, now_wall_s: float) -> Answer:
        """Redeem a token for whoever sent this, or say why not. Never raises for what a stranger sends."""
        try:
            certificates, rows, admitted = self._redeem(message, now_wall_s)
            reply = self._reply(message, certificates, rows[0][3])
        except Untrusted as error:
            reason = error.reason if error.reason in REFUSALS else "malformed"
            return Answer(msgpack.packb(["refused", reason]), reason=reason)
        except FleetError as error:
            reason = error.reason if error.reason in REFUSALS else "unwritable"
            return Answer(msgpack.packb(["refused", reason]), reason=reason)
        return Answer(reply, admitted)

    def _redeem(
        self, message: bytes, now_wall_s: float
    ) -> tuple[list[bytes], list[tuple[str, str, bytes, bytes]], tuple[Identity, ...]]:
        key, rows = _read_request(message, self._fleet.id)
        self._fleet.require_admin()
        ids = sorted(id_of(sign_key) for _, _, sign_key, _ in rows)
        with locked(self._path):
            entries = self.entries()
            entry = next((entry for entry in entries if entry.key == key), None)
            if entry is None:
                raise refusal("token-unknown")
            if now_wall_s >= entry.expires_s:
                raise refusal("token-expired")
            if entry.role == "client" and any(role == "node" for role, _, _, _ in rows):
                raise refusal("token-role")
            again = ids in entry.used
            if not again and entry.left <= 0:
                raise refusal("token-used")
            certificates = [
                self._fleet.issue(role, name, sign_key, curve_key, entry.grants, now_wall_s)
                for role, name, sign_key, curve_key in rows
            ]
            if not again:
                entry.used.append(ids)
                self._save(entries)
        return certificates, rows, tuple(read_certificate(certificate)[0] for certificate in certificates)

    def _reply(self, message: bytes, certificates: list[bytes], curve_key: bytes) -> bytes:
        trust = self._fleet.trust
        try:
            sealed = SealedBox(PublicKey(curve_key)).encrypt(trust.secret)
        except (CryptoError, ValueError) as error:
            raise malformed(REQUEST, "has a key that nothing can be sealed to") from error
        fields = {
            "v": 1,
            "request": blake3(message).digest(),
            "name": trust.name,
            "founder": trust.chain.founder.key,
            "founder_name": trust.chain.founder.name,
            "chain": trust.admin_chain(),
            "revocations": trust.revocations()[:_REVOCATIONS_SHOWN],
            "certificates": certificates,
            "secret": sealed,
        }
        return seal(REPLY, fields, self._fleet.require_admin(), bounds.JOIN_REPLY_BYTES_MAX)

    def _save(self, entries: list[TokenEntry]) -> None:
        rows = [[e.key, e.role, list(e.grants), e.expires_s, e.uses, e.used] for e in entries]
        write_private(self._path, "tokens", msgpack.packb(rows))


def _read_request(message: object, fleet: bytes) -> tuple[bytes, list[tuple[str, str, bytes, bytes]]]:
    """The token's public key and the applicants' (role, name, sign key, CURVE key), every signature checked."""
    outer = decode(message, bounds.JOIN_BYTES_MAX, REQUEST)
    if not (isinstance(outer, list) and len(outer) == 2 and type(outer[0]) is bytes and isinstance(outer[1], list)):
        raise malformed(REQUEST, "is not [body, signatures]")
    body, signatures = outer
    fields = decode(body, bounds.JOIN_BYTES_MAX, REQUEST)
    if not (
        isinstance(fields, list)
        and len(fields) == 4
        and type(fields[0]) is int
        and fields[0] == 1
        and isinstance(fields[3], list)
    ):
        raise malformed(REQUEST, "is of a version that is not spoken here")
    if key_field(fields[1], REQUEST, FLEET_BYTES) != fleet:
        raise Untrusted("wrong-fleet", "this token is for another fleet", "get one of this fleet")
    key = key_field(fields[2], REQUEST)
    rows: list[tuple[str, str, bytes, bytes]] = []
    for row in fields[3]:
        if not isinstance(row, list) or len(row) != 4 or type(row[0]) is not str or row[0] not in _ROLES:
            raise malformed(REQUEST, "has an applicant that is not [role, name, keys]")
        rows.append((row[0], name_field(row[1], REQUEST), key_field(row[2], REQUEST), key_field(row[3], REQUEST)))
    signers = [key, *(sign_key for _, _, sign_key, _ in rows)]
    if (
        not 0 < len(rows) <= bounds.JOIN_APPLICANTS_COUNT_MAX
        or len(signatures) != len(signers)
        or len({r[2] for r in rows}) != len(rows)
    ):
        raise malformed(REQUEST, "does not have a few applicants with a signature each")
    signed = signed_bytes(REQUEST, body)
    for signer, signature in zip(signers, signatures):
        if type(signature) is not bytes or not verify_signature(signer, signed, signature):
            raise refusal("token-proof")
    return key, rows


def refusal(reason: str) -> FleetError:
    """The error for a reason of `REFUSALS`."""
    return FleetError(reason, *REFUSALS[reason])


def _damaged(message: str, hint: str) -> FleetError:
    return FleetError("token-damaged", message, hint)


def _check(data: bytes) -> bytes:
    return blake3(PREFIX.encode("ascii") + data).digest(length=_CHECK_BYTES)


def _pack_endpoint(endpoint: str) -> bytes:
    host, colon, port_text = endpoint.rpartition(":")
    if not colon or not port_text.isascii() or not port_text.isdigit() or not 0 < int(port_text) < 65536:
        raise ValueError(f"{endpoint!r} is not HOST:PORT")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(bare).packed
    except ValueError:
        name = host.encode("ascii")
        if not 0 < len(name) < 128 or not all(c.isalnum() or c in ".-_" for c in host):
            raise ValueError(f"{endpoint!r} has a host that is neither an address nor a name") from None
        return bytes([128 | len(name)]) + name + struct.pack(">H", int(port_text))
    if "%" in bare:
        raise ValueError(f"{endpoint!r} has a scope, which means nothing elsewhere")
    return bytes([len(address)]) + address + struct.pack(">H", int(port_text))


def _unpack_endpoints(data: bytes) -> tuple[str, ...]:
    endpoints: list[str] = []
    while data:
        kind = data[0]
        size = kind & 127
        host, rest = data[1 : 1 + size], data[1 + size :]
        if len(host) != size or len(rest) < 2 or (kind < 128 and kind not in (4, 16)):
            raise ValueError("endpoint cut short")
        text = host.decode("ascii") if kind >= 128 else str(ipaddress.ip_address(host))
        endpoints.append(f"[{text}]:{rest[0] << 8 | rest[1]}" if kind == 16 else f"{text}:{rest[0] << 8 | rest[1]}")
        data = rest[2:]
    if not 0 < len(endpoints) <= bounds.TOKEN_ENDPOINTS_COUNT_MAX:
        raise ValueError("no endpoints, or too many")
    return tuple(endpoints)
