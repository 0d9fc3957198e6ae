"""Signed documents: what an admin key puts its name to (certificates, revocations, sets of admins), and nothing
else.

One form for all of them: ``msgpack [body, signer, signature]``, where ``body`` is itself an encoded msgpack map. The
signature (Ed25519, RFC 8032) is over ``"swarm " kind " 1\\0" body``, so that a signature made for one kind of document
never counts for another. Encoding is canonical: a document that would be written differently is refused, so one
statement has one byte string, and caches and sets can go by the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgpack
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey

from transport import bounds

SIGNATURE_BYTES: Final = 64
KEY_BYTES: Final = 32


class Untrusted(Exception):
    """Something that was shown to us does not prove what it claims.

    ``reason`` is one of `REASONS` (bounded, so it may be a metrics label), ``hint`` says what to do about it,
    ``facts`` hold the figures behind it (ids, instants in wall-clock seconds).
    """

    REASONS: Final = (
        "malformed",
        "wrong-fleet",
        "bad-signature",
        "unknown-admin",
        "expired",
        "not-yet-valid",
        "revoked",
        "key-mismatch",
    )

    def __init__(self, reason: str, message: str, hint: str = "", **facts: object) -> None:
        assert reason in self.REASONS, reason
        super().__init__(message)
        self.reason = reason
        self.hint = hint
        self.facts = facts


def signed_bytes(kind: str, body: bytes) -> bytes:
    """What is put under a signature for a document of this kind."""
    return b"swarm " + kind.encode("ascii") + b" 1\0" + body


def verify_signature(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether this is the Ed25519 signature of the key (32 bytes) over the message. Never raises for wrong input."""
    if len(public_key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        VerifyKey(public_key).verify(message, signature)
    except (CryptoError, ValueError):
        return False
    return True


def seal(kind: str, fields: Mapping[str, object], key: SigningKey, bytes_max: int) -> bytes:
    """The signed document of this kind. The caller gives the fields in the order that `unseal` will expect them in."""
    body = msgpack.packb(dict(fields), use_bin_type=True)
    signature = key.sign(signed_bytes(kind, body)).signature
    blob: bytes = msgpack.packb([body, key.verify_key.encode(), signature], use_bin_type=True)
    assert len(blob) <= bytes_max, (kind, len(blob), bytes_max)
    return blob


def unseal(kind: str, blob: object, order: Sequence[str], bytes_max: int) -> tuple[dict[str, object], bytes]:
    """The fields of a signed document and the public key that signed it. Whether that key may sign is the caller's
    question.

    Raises `Untrusted` (``malformed``, ``bad-signature``) and nothing else, whatever the bytes are.
    """
    outer = decode(blob, bytes_max, kind)
    if not (isinstance(outer, list) and len(outer) == 3 and all(type(part) is bytes for part in outer)):
        raise malformed(kind, "is not [body, signer, signature]")
    body, signer, signature = outer
    if len(signer) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        raise malformed(kind, "has a key or a signature of the wrong length")
    fields = decode(body, bytes_max, kind)
    if not isinstance(fields, dict) or tuple(fields) != tuple(order):
        raise malformed(kind, "does not have the fields it must have")
    if not verify_signature(signer, signed_bytes(kind, body), signature):
        raise Untrusted(
            "bad-signature",
            f"the signature of this {kind} does not fit",
            "it was altered on its way, or forged: fetch it again",
        )
    return fields, signer


def decode(blob: object, bytes_max: int, what: str) -> object:
    """Decode canonical msgpack of at most ``bytes_max`` bytes; raises `Untrusted` (``malformed``) for anything else."""
    if type(blob) is not bytes or not 0 < len(blob) <= bytes_max:
        raise malformed(what, f"is not 1 to {bytes_max} bytes")
    try:
        value: object = msgpack.unpackb(
            blob,
            raw=False,
            strict_map_key=True,
            max_str_len=bytes_max,
            max_bin_len=bytes_max,
            max_array_len=bounds.SIGNED_ITEMS_COUNT_MAX,
            max_map_len=bounds.SIGNED_ITEMS_COUNT_MAX,
            max_ext_len=0,
        )
        canonical = msgpack.packb(value, use_bin_type=True)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise malformed(what, "is not readable msgpack") from error
    if canonical != blob:
        raise malformed(what, "is not in canonical form")
    return value


def malformed(what: str, why: str) -> Untrusted:
    return Untrusted("malformed", f"this {what} {why}", "it comes from a damaged or incompatible peer")


def key_field(value: object, what: str, length: int = KEY_BYTES) -> bytes:
    """A field that must be bytes of exactly this length."""
    if type(value) is not bytes or len(value) != length:
        raise malformed(what, f"has a field that is not {length} bytes")
    return value


def seconds_field(value: object, what: str) -> int:
    """A field that must be an instant: whole wall-clock seconds since 1970, before the year 10000."""
    if type(value) is not int or not 0 <= value < bounds.WALL_SECONDS_END:
        raise malformed(what, "has an instant out of range")
    return value


def name_field(value: object, what: str) -> str:
    """A field that must be a name people see: short, ASCII letters, digits and ``. _ -`` (so a terminal shows it as
    it is).
    """
    if type(value) is not str or not is_name(value):
        raise malformed(what, "has a name that is not 1 to 63 letters, digits, '.', '_' or '-'")
    return value


def is_name(text: str) -> bool:
    return (
        0 < len(text) <= bounds.NAME_BYTES_MAX
        and text.isascii()
        and text[0].isalnum()
        and all(c.isalnum() or c in "._-" for c in text)
    )
