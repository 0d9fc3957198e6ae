"""The handshake of a link as a pure state machine, the same on every reach: frames in, frames out, and a proven peer
at the end.

::

    initiator                      acceptor
    HELLO {certificate, …}   →     verifies it
                             ←     HELLO {certificate, …}  (PROOF)
    verifies it     (PROOF)  →

Whoever turns the other away says so with REFUSED {reason, hint, versions}. On a reach with CURVE the key of the
connection is already authenticated and must be that of the certificate; elsewhere (``authenticated_key`` None) each
side signs the transcript of both hellos (SIGMA-like: fresh nonces of both sides, both certificates and the role are
under the signature), so a hello can not be replayed or relayed. The form of HELLO and REFUSED never changes between
versions; unknown keys in it are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import msgpack
from blake3 import blake3

from transport import bounds, framing
from transport.identity import Credentials, Identity, Trust, Untrusted
from transport.links import HandshakeFailed

Role = Literal["initiator", "acceptor"]
BOOT_BYTES: Final = 8
NONCE_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Hello:
    """What one side says first. ``window`` is how much it takes unconsumed: bytes and messages."""

    versions: tuple[int, int]
    certificate: bytes
    boot: bytes
    nonce: bytes
    window: tuple[int, int]
    info: Mapping[str, object]

    def pack(self) -> bytes:
        """The body of a HELLO frame. Raises ValueError if it is over the bounds that `unpack` holds others to."""
        fields = {
            "versions": list(self.versions),
            "cert": self.certificate,
            "boot": self.boot,
            "nonce": self.nonce,
            "window": list(self.window),
            "info": dict(self.info),
        }
        body = bytes(msgpack.packb(fields))
        if len(body) > bounds.HELLO_BYTES_MAX or not _shallow(fields, bounds.INFO_DEPTH_MAX):
            raise ValueError(
                f"a hello of {len(body)} bytes is over the bounds: shorten what it says about this process"
            )
        return body

    @classmethod
    def unpack(cls, body: bytes) -> Hello:
        """Raises Malformed for anything that is not a hello."""
        try:
            fields = msgpack.unpackb(
                body,
                raw=False,
                strict_map_key=True,
                max_map_len=bounds.INFO_COUNT_MAX,
                max_array_len=bounds.INFO_COUNT_MAX,
                max_ext_len=0,
            )
        except Exception as error:  # msgpack raises a dozen types for a stranger's bytes
            raise framing.Malformed(f"a hello that can not be read: {type(error).__name__}") from None
        if not isinstance(fields, dict) or not _shallow(fields, bounds.INFO_DEPTH_MAX):
            raise framing.Malformed("a hello that is no shallow map")
        info = fields.get("info", {})
        if not isinstance(info, dict) or not all(isinstance(key, str) for key in info):
            raise framing.Malformed("a hello whose info is no map")
        low, high = _pair(fields.get("versions"), "versions", 0xFFFF)
        if low > high:
            raise framing.Malformed("a hello with versions in the wrong order")
        return cls(
            versions=(low, high),
            certificate=_blob(fields.get("cert"), "cert", None),
            boot=_blob(fields.get("boot"), "boot", BOOT_BYTES),
            nonce=_blob(fields.get("nonce"), "nonce", NONCE_BYTES),
            window=_pair(fields.get("window"), "window", 1 << 48, least=1),
            info=info,
        )


@dataclass(frozen=True, slots=True)
class Peer:
    """What a finished handshake proved."""

    identity: Identity
    boot: bytes
    info: Mapping[str, object]
    version: int
    window: tuple[int, int]


class Handshake:
    """One side of one handshake. Feed it frames with `receive`; it is over when `peer` is set or `HandshakeFailed`
    was raised."""

    def __init__(
        self,
        role: Role,
        hello: Hello,
        credentials: Credentials,
        trust: Trust,
        *,
        authenticated_key: bytes | None,
        expect: bytes | None = None,
    ) -> None:
        """``authenticated_key``: the CURVE key (32 bytes) that the connection itself has proven, or None where proofs
        are signed.

        ``expect``: the id that the peer must have, or None.
        """
        self.peer: Peer | None = None
        self._role = role
        self._credentials = credentials
        self._trust = trust
        self._key = authenticated_key
        self._expect = expect
        self._versions = hello.versions
        self._hello = hello.pack()
        self._theirs = b""
        self._candidate: Peer | None = None

    def start(self) -> list[bytes]:
        """The frames to send when the connection is there."""
        return [framing.control(framing.HELLO, self._hello)] if self._role == "initiator" else []

    def receive(self, type: int, body: bytes, now_wall_s: float) -> list[bytes]:
        """Take one frame; returns the frames to send. Raises HandshakeFailed: `refusal` of it is what the peer should
        get."""
        if type == framing.REFUSED:
            reason, hint = framing.read_reason(body)
            code = reason if reason in HandshakeFailed.REASONS else "malformed"
            raise HandshakeFailed(code, f"the peer refused: {reason}", hint, remote=True)
        if type == framing.BYE:
            raise HandshakeFailed("disconnected", f"the peer closed: {framing.read_reason(body)[0]}", remote=True)
        if type == framing.HELLO and self._candidate is None:
            return self._hear_hello(body, now_wall_s)
        if type == framing.PROOF and self._key is None and self._candidate is not None and self.peer is None:
            return self._hear_proof(body)
        raise HandshakeFailed("malformed", f"a frame of type {type} at the wrong moment of the handshake")

    def _hear_hello(self, body: bytes, now_wall_s: float) -> list[bytes]:
        try:
            hello = Hello.unpack(body)
        except framing.Malformed as error:
            raise HandshakeFailed("malformed", str(error)) from None
        version = common_version(self._versions, hello.versions)
        try:
            identity = self._trust.verify(hello.certificate, now_wall_s)
        except Untrusted as error:
            raise HandshakeFailed(error.reason, str(error), error.hint) from None
        if self._key is not None and identity.curve_key != self._key:
            raise HandshakeFailed(
                "key-mismatch", f"the certificate of {identity.name} is for another key than the connection's"
            )
        if self._expect is not None and identity.id != self._expect:
            raise HandshakeFailed("unexpected-id", f"{identity.name} answered where another was expected")
        self._theirs = body
        self._candidate = Peer(
            identity, hello.boot, {**hello.info, "version": list(hello.versions)}, version, hello.window
        )
        mine = [framing.control(framing.HELLO, self._hello)] if self._role == "acceptor" else []
        if self._key is not None:
            self.peer = self._candidate
        elif self._role == "acceptor":
            mine.append(self._proof())
        return mine

    def _hear_proof(self, body: bytes) -> list[bytes]:
        assert self._candidate is not None
        other: Role = "acceptor" if self._role == "initiator" else "initiator"
        if not self._candidate.identity.signed(self._transcript(other), body):
            raise HandshakeFailed("key-mismatch", f"the peer does not hold the key of {self._candidate.identity.name}")
        self.peer = self._candidate
        return [self._proof()] if self._role == "initiator" else []

    def _proof(self) -> bytes:
        return framing.control(framing.PROOF, self._credentials.sign(self._transcript(self._role)))

    def _transcript(self, signer: Role) -> bytes:
        first, second = (self._hello, self._theirs) if self._role == "initiator" else (self._theirs, self._hello)
        return b"swarm link 1 " + signer.encode() + b"\0" + blake3(first).digest() + blake3(second).digest()


def common_version(mine: tuple[int, int], theirs: tuple[int, int]) -> int:
    """The newest version that both speak. Raises HandshakeFailed("version")."""
    version = min(mine[1], theirs[1])
    if version < max(mine[0], theirs[0]):
        older = "this side" if mine[1] < theirs[0] else "the peer"
        raise HandshakeFailed(
            "version",
            f"link versions {mine[0]} to {mine[1]} here, {theirs[0]} to {theirs[1]} there",
            f"upgrade {older}: each node speaks its own version and the one before",
        )
    return version


def refusal(failure: HandshakeFailed, versions: tuple[int, int]) -> bytes:
    """The frame that tells the peer why."""
    hint = failure.hint if failure.reason == "version" else ""
    return framing.pack_reason(framing.REFUSED, failure.reason, hint, versions=list(versions))


def _shallow(value: object, depth: int) -> bool:
    """Whether containers nest at most ``depth`` deep. Recursion is bounded by ``depth``."""
    if isinstance(value, dict):
        return depth > 0 and all(_shallow(item, depth - 1) for item in value.values())
    if isinstance(value, list | tuple):
        return depth > 0 and all(_shallow(item, depth - 1) for item in value)
    return True


def _blob(value: object, name: str, size: int | None) -> bytes:
    if not isinstance(value, bytes) or (size is not None and len(value) != size):
        raise framing.Malformed(f"a hello whose {name} is not what it should be")
    return value


def _pair(value: object, name: str, most: int, least: int = 0) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise framing.Malformed(f"a hello whose {name} is no pair")
    first, second = value
    if type(first) is not int or type(second) is not int or not (least <= first <= most and least <= second <= most):
        raise framing.Malformed(f"a hello whose {name} is out of range")
    return first, second
