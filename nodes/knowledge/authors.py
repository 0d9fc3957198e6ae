"""Whose word counts: certificates of authors, those who left the fleet included.

A certificate is looked at in the node's loop, where the fleet's trust is; signatures are checked in the thread of the desk.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

from swarm.protocol.knowledge.entries import HEADER_BYTES, SIGNED
from swarm.protocol.knowledge.rules import Outcome
from swarm.protocol.knowledge.stamps import ms_of
from transport.bounds import CERTIFICATE_BYTES_MAX
from transport.certificates import Identity, read_certificate
from transport.identity import Trust, Untrusted

AUTHORS_MAX: Final = 16_384
UNKNOWN_MAX: Final = 256
"""Authors whose certificates are asked for at a time."""
_LAST_AT: Final = len(SIGNED) + HEADER_BYTES - 32 - 4 - 8
"""Where the stamp of the last entry is in what was signed."""


class Authors:
    """Id -> identity, and who was met of whom nothing is known."""

    def __init__(self, trust: Trust, own: Identity, certificate: bytes) -> None:
        self._trust = trust
        self._lock = threading.Lock()
        self._known: dict[bytes, tuple[Identity, bytes]] = {own.id: (own, certificate)}
        self._unknown: set[bytes] = set()

    def learn(self, certificate: object, now_wall_s: float) -> bool:
        """Takes in a certificate; whether it is news. Untrusted if it does not hold. One that has expired holds for what was said
        before. In the loop."""
        if type(certificate) is not bytes or len(certificate) > CERTIFICATE_BYTES_MAX:
            raise Untrusted("malformed", "this is no certificate")
        claimed, _ = read_certificate(certificate)
        known = self._known.get(claimed.id)
        if known is not None and (known[1] == certificate or known[0].expires_s > claimed.expires_s):
            return False
        identity = self._trust.verify(certificate, min(now_wall_s, claimed.expires_s - 1))
        if identity.role != "node" or (known is None and len(self._known) >= AUTHORS_MAX):
            return False
        with self._lock:
            self._known[identity.id] = (identity, certificate)
            self._unknown.discard(identity.id)
        return True

    def verify(self, author: bytes, message: bytes, signature: bytes) -> Outcome | None:
        """As `swarm.protocol.knowledge.shard.Verify`."""
        known = self._known.get(author)
        if self._trust.revoked(author, None if known is None else known[0].serial):
            return Outcome.REVOKED
        # What it said after its certificate ended, it may have said under a later one.
        said_s = ms_of(int.from_bytes(message[_LAST_AT : _LAST_AT + 8], "big")) / 1000
        if known is None or said_s >= known[0].expires_s:
            with self._lock:
                if len(self._unknown) < UNKNOWN_MAX:
                    self._unknown.add(author)
            return Outcome.UNKNOWN_AUTHOR
        return None if known[0].signed(message, signature) else Outcome.SIGNATURE

    def revoked(self, author: bytes, certificate: bytes | None) -> bool:
        """Whether nothing that an author said counts."""
        serial = None if certificate is None else read_certificate(certificate)[0].serial
        return self._trust.revoked(author, serial)

    def take_unknown(self) -> list[bytes]:
        """Authors whose certificates are lacking, since the last call."""
        with self._lock:
            found, self._unknown = sorted(self._unknown), set()
        return found

    def certificates(self, authors: Iterable[bytes]) -> dict[bytes, bytes]:
        """Of these authors, as far as they are known."""
        found = ((author, self._known.get(author)) for author in authors)
        return {author: known[1] for author, known in found if known is not None}

    def all(self) -> dict[bytes, bytes]:
        """Id -> certificate, of all that are known."""
        with self._lock:
            return {author: known[1] for author, known in self._known.items()}
