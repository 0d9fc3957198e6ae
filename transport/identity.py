"""Who is who, and whom to believe: the certificates, admins and revocations of one fleet, and one's own keys.

`Trust` answers for the fleet (is this certificate good, is this id still welcome), `Credentials` are what a process
proves itself with. Neither reads a clock or a disk: instants are passed in as wall-clock seconds, `transport.fleet`
keeps the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3

from transport import bounds
from transport.admins import Admin, AdminChain
from transport.certificates import Identity, Keys, id_from_text, id_of, id_text, read_certificate
from transport.revocation import Revocation, read_revocation
from transport.signed import Untrusted

__all__ = [
    "Admin",
    "AdminChain",
    "Credentials",
    "Identity",
    "Keys",
    "Trust",
    "Untrusted",
    "id_from_text",
    "id_of",
    "id_text",
]

SECRET_BYTES: Final = 32


class Trust:
    """What one fleet believes. Not for several threads at once.

    ``fleet`` is the fleet's id (16 bytes), ``name`` what people call it, ``secret`` the symmetric key of its discovery
    datagrams (32 bytes). ``on_change`` is called after each revocation or change of admins that was new;
    `transport.fleet` saves then.
    """

    def __init__(self, chain: AdminChain, name: str, secret: bytes, revocations: Iterable[bytes] = ()) -> None:
        """Raises `Untrusted` when one of the revocations is not what it should be."""
        assert len(secret) == SECRET_BYTES
        self.name = name
        self.secret = secret
        self.on_change: Callable[[], None] = lambda: None
        self._chain = chain
        self._certificates: dict[bytes, tuple[Identity, bytes]] = {}
        self._revocations: dict[bytes, Revocation] = {}
        self._revoked: frozenset[bytes] = frozenset()
        self._latest_s = float("-inf")
        for blob in revocations:
            self._revocations[blob] = read_revocation(blob, self.fleet)
        self._count()

    def __repr__(self) -> str:
        return f"<Trust {self.name} {id_text(self.fleet)[:8]}, {len(self.admins)} admins, {len(self._revoked)} revoked>"

    @property
    def fleet(self) -> bytes:
        """The fleet's id, 16 bytes."""
        return self._chain.fleet

    @property
    def chain(self) -> AdminChain:
        return self._chain

    @property
    def admins(self) -> tuple[Admin, ...]:
        """The admins of now, in their order of precedence."""
        return self._chain.admins

    @property
    def tag(self) -> bytes:
        """What the fleet's announcements carry (8 bytes): a keyed hash, so only members can tell whose it is."""
        return blake3(b"swarm announcement 1", key=self.secret).digest(length=8)

    def verify(self, certificate: bytes, now_wall_s: float) -> Identity:
        """The identity behind a certificate that is good at this instant.

        Shape and signature are checked once for the same bytes; the admin, the dates and revocation every time. Dates
        have a leeway of `bounds.CLOCK_LEEWAY_S` before the first instant, since clocks differ. Whether a certificate
        has begun is judged by the latest instant that was ever given, so that a clock which is set back takes nobody's
        trust away. Raises `Untrusted` and nothing else.
        """
        known = self._certificates.get(certificate) if type(certificate) is bytes else None
        if known is None:
            known = read_certificate(certificate)
            if known[0].fleet != self.fleet:
                raise Untrusted(
                    "wrong-fleet",
                    f"{known[0].name} belongs to another fleet",
                    "`swarm fleet join TOKEN` makes it a member of this one",
                )
            if self._chain.get(known[1]) is None:
                raise _unknown_admin(known[0])
            while len(self._certificates) >= bounds.CERTIFICATES_CACHED_COUNT_MAX:
                del self._certificates[next(iter(self._certificates))]
            self._certificates[certificate] = known
        identity, signer = known
        admin = self._chain.get(signer)
        if admin is None or not admin.may_sign(identity.not_before_s):
            raise _unknown_admin(identity)
        self.check(identity, now_wall_s)
        return identity

    def saw(self, wall_s: float) -> None:
        """There is evidence that this instant has been: whatever the clock says, what began before it has begun.

        Such as when files of this home were written. It only ever lets beginnings pass, never an end.
        """
        self._latest_s = max(self._latest_s, wall_s)

    def check(self, identity: Identity, now_wall_s: float) -> None:
        """Raise `Untrusted` if an identity that was verified once has been revoked or has expired since."""
        self._latest_s = max(self._latest_s, now_wall_s)
        if self.revoked(identity.id, identity.serial):
            raise Untrusted(
                "revoked",
                f"{identity.name} ({identity.text[:8]}) was revoked",
                "to let it in again, delete its identity files and join with a new token",
                id=identity.id,
            )
        if now_wall_s >= identity.expires_s:
            raise Untrusted(
                "expired",
                f"the certificate of {identity.name} expired {now_wall_s - identity.expires_s:.0f} s ago",
                "an admin has to issue it again (`swarm fleet token`), unless a clock is wrong",
                expires_s=identity.expires_s,
            )
        if self._latest_s < identity.not_before_s - bounds.CLOCK_LEEWAY_S:
            raise Untrusted(
                "not-yet-valid",
                f"the certificate of {identity.name} begins {identity.not_before_s - now_wall_s:.0f} s from now",
                "one of the two clocks is wrong: compare `date` on both machines",
                not_before_s=identity.not_before_s,
            )

    def revoked(self, id: bytes, serial: bytes | None = None) -> bool:
        """Whether this id, or this one certificate of it, is revoked. Cheap enough to ask for every message."""
        return id in self._revoked or (serial is not None and id + serial in self._revoked)

    def apply_revocation(self, blob: bytes) -> bytes | None:
        """Take in a revocation from anywhere. Returns the id it concerns if that is news, so that its links can be cut.

        Raises `Untrusted` if it was not signed by an admin of this fleet.
        """
        entry = self._take(blob)
        if entry is None:
            return None
        was = self.revoked(entry.id, entry.serial)
        self._count()
        self.on_change()
        return None if was else entry.id

    def vouched(self, blob: bytes) -> bool:
        """Whether a revocation is one that would count here, so that it may be handed on. Takes nothing in."""
        if blob in self._revocations:
            return True
        try:
            return self._counts(read_revocation(blob, self.fleet))
        except Untrusted:
            return False

    def apply_revocations(self, blobs: Iterable[bytes]) -> list[bytes]:
        """Take in many, as push-pull brings them: one count and one ``on_change`` for all. Returns the ids that are
        news, sorted.

        Those of an unknown admin are passed over: the sender may know of a change of admins that has not come here
        yet. Anything else that does not hold raises `Untrusted`, after what came before it has been taken in.
        """
        before = self._revoked
        taken: list[Revocation] = []
        try:
            for blob in blobs:
                try:
                    entry = self._take(blob)
                except Untrusted as refusal:
                    if refusal.reason != "unknown-admin":
                        raise
                else:
                    taken += [entry] if entry is not None else []
        finally:
            if taken:
                self._count()
                self.on_change()
        return sorted({entry.id for entry in taken if not {entry.id, entry.id + (entry.serial or b"")} & before})

    def revocations(self) -> list[bytes]:
        """Every revocation that counts, in a fixed order; each may be handed on as it is."""
        return sorted(blob for blob, entry in self._revocations.items() if self._counts(entry))

    def held(self) -> list[bytes]:
        """Those, and the ones whose signer is no admin now but was when they came: what is to be kept on disk."""
        return sorted(self._revocations)

    def entries(self) -> list[Revocation]:
        """The revocations that count, for people to look at; oldest first."""
        return sorted(
            (e for e in self._revocations.values() if self._counts(e)), key=lambda e: (e.at_s, e.id, e.serial or b"")
        )

    def apply_admins(self, blobs: Iterable[bytes]) -> bool:
        """Take in a chain of sets of admins from anywhere; whether it replaced ours. Raises `Untrusted` if it does
        not hold.

        Certificates, and revocations, of admins who are gone stop counting at once.
        """
        blobs = tuple(blobs)
        if blobs == self._chain.blobs:
            return False
        chain = AdminChain(self._chain.founder, blobs)
        if not chain.wins_over(self._chain):
            return False
        self._chain = chain
        self._certificates.clear()
        self._count()
        self.on_change()
        return True

    def admin_chain(self) -> list[bytes]:
        """The chain of sets of admins, to be handed on as it is."""
        return list(self._chain.blobs)

    def absorb(self, blobs: Iterable[bytes], revocations: Iterable[bytes]) -> bool:
        """Take in what another process of this home has kept; whether anything was news. Does not call
        ``on_change``.
        """
        chain = AdminChain(self._chain.founder, blobs)
        news = chain.wins_over(self._chain)
        if news:
            self._chain = chain
            self._certificates.clear()
        for blob in revocations:
            if blob not in self._revocations:
                self._revocations[blob] = read_revocation(blob, self.fleet)
                news = True
        self._count()
        return news

    def _take(self, blob: bytes) -> Revocation | None:
        if type(blob) is bytes and blob in self._revocations:
            return None
        entry = read_revocation(blob, self.fleet)
        if not self._counts(entry):
            raise Untrusted(
                "unknown-admin", "this revocation is signed by a key that is no admin", "the set of admins comes first"
            )
        if len(self._revocations) >= bounds.REVOCATIONS_COUNT_MAX:
            raise Untrusted(
                "malformed", f"this fleet holds {bounds.REVOCATIONS_COUNT_MAX} revocations already", "make a new fleet"
            )
        self._revocations[blob] = entry
        return entry

    def _count(self) -> None:
        counted = (entry for entry in self._revocations.values() if self._counts(entry))
        self._revoked = frozenset(entry.id + (entry.serial or b"") for entry in counted)

    def _counts(self, entry: Revocation) -> bool:
        admin = self._chain.get(entry.signer)
        return admin is not None and admin.may_sign(entry.at_s)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a process proves itself with: its certificate, and the secret keys behind it."""

    identity: Identity
    certificate: bytes
    keys: Keys = field(repr=False)

    def __post_init__(self) -> None:
        if self.identity.sign_key != self.keys.sign_key or self.identity.curve_key != self.keys.curve_key:
            raise Untrusted(
                "key-mismatch",
                "these keys are not those of the certificate",
                "restore both from one backup, or join again",
            )

    @property
    def id(self) -> bytes:
        return self.identity.id

    @property
    def curve_secret(self) -> bytes:
        """The secret CURVE key, 32 raw bytes."""
        return self.keys.curve_secret

    def sign(self, message: bytes) -> bytes:
        """Ed25519 signature (64 bytes) that `Identity.signed` checks."""
        return self.keys.sign(message)


def _unknown_admin(identity: Identity) -> Untrusted:
    return Untrusted(
        "unknown-admin",
        f"the certificate of {identity.name} is signed by a key that is no admin of this fleet",
        "an admin of today has to issue it again: `swarm fleet token` there, `swarm fleet join` here",
    )
