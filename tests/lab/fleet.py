"""Small fleets made in memory, for tests of what crosses a wire."""

from __future__ import annotations

import time

from nacl.signing import SigningKey

from transport.certificates import Keys, issue
from transport.identity import Admin, AdminChain, Credentials, Trust


class LabFleet:
    """A fleet with one admin. The same seed gives the same fleet in every process, and a name its keys."""

    def __init__(self, seed: bytes = b"a") -> None:
        self._seed = seed
        self.admin = SigningKey(seed.ljust(32, b"."))
        self.chain = AdminChain(Admin(self.admin.verify_key.encode(), "ann"))

    def trust(self) -> Trust:
        return Trust(self.chain, "lab", self._seed.rjust(32, b"#"))

    def keys(self, name: str) -> Keys:
        return Keys(
            (self._seed + b"sign" + name.encode()).ljust(32, b"."),
            (self._seed + b"curve" + name.encode()).ljust(32, b"."),
        )

    def member(self, name: str, *, role: str = "node", ttl_s: float = 3600.0, keys: Keys | None = None) -> Credentials:
        """A member whose certificate began a minute ago."""
        keys = keys or self.keys(name)
        now = time.time()
        certificate = issue(
            self.admin,
            self.chain.fleet,
            name=name,
            role=role,
            grants=frozenset({"code"}),
            sign_key=keys.sign_key,
            curve_key=keys.curve_key,
            not_before_s=now - 60,
            expires_s=now + ttl_s,
        )
        return Credentials(self.trust().verify(certificate, now), certificate, keys)
