"""The files of a fleet in somebody's home, and of the nodes and clients in it.

A fleet directory (0700) holds, each 0600 and written whole (`transport.private_files`)::

    fleet       name, founder, chain of admins, revocations: nothing in it is secret
    secret      the symmetric key of the fleet's discovery datagrams
    admin.key   only where the fleet is administered from
    tokens      join tokens that were issued here (`transport.tokens`)

A node's or client's directory holds ``keys`` and ``certificate``. Processes of one home share a fleet directory: what
each learns is merged into ``fleet`` under a lock, and `Fleet.refresh` brings in what another has written.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgpack
from nacl.signing import SigningKey

from transport import bounds
from transport.certificates import Keys, fleet_of, issue, read_certificate
from transport.identity import SECRET_BYTES, Admin, AdminChain, Credentials, Trust, Untrusted
from transport.private_files import (
    FleetError,
    check_private,
    install_directory,
    locked,
    make_private_directory,
    read_private,
    there,
    write_private,
)
from transport.revocation import revoke
from transport.signed import is_name

FLEET_FILE: Final = "fleet"
SECRET_FILE: Final = "secret"  # noqa: S105 -- the name of a file
ADMIN_FILE: Final = "admin.key"
TOKENS_FILE: Final = "tokens"
KEYS_FILE: Final = "keys"
CERTIFICATE_FILE: Final = "certificate"


class Fleet:
    """One fleet, as a home knows it. ``fresh`` is true when this very call to `create_fleet` made it.

    What `trust` learns is saved at once. Should that fail (a full disk), what was learned still counts, ``unsaved``
    holds the error, and `refresh` tries again.
    """

    def __init__(
        self, directory: Path, trust: Trust, admin_key: SigningKey | None, stamp: object, fresh: bool = False
    ) -> None:
        self.directory = directory
        self.trust = trust
        self.fresh = fresh
        self.unsaved: FleetError | None = None
        self._admin_key = admin_key
        self._stamp = stamp
        trust.on_change = self._changed

    @classmethod
    def load(cls, directory: Path) -> Fleet:
        """Read a fleet directory. Raises `FleetError`: ``missing`` if there is none, else what is wrong with which
        file.
        """
        path = directory / FLEET_FILE
        if not there(path):
            _refuse_remains(directory)
            raise FleetError(
                "missing",
                f"there is no fleet in {directory}",
                "`swarm node` makes one, `swarm fleet join` enters one",
                directory,
            )
        check_private(directory, directory.stat(), 0o022)
        stamp = _stamp(path)
        name, founder, chain, revocations = _read_fleet(path)
        secret = read_private(directory / SECRET_FILE, "secret")
        admin_path = directory / ADMIN_FILE
        seed = read_private(admin_path, "admin") if there(admin_path) else None
        if len(secret) != SECRET_BYTES or (seed is not None and len(seed) != 32):
            raise FleetError(
                "damaged", f"a key in {directory} is of the wrong length", "restore it from a backup", directory
            )
        try:
            trust = Trust(AdminChain(founder, chain), name, secret, revocations)
        except Untrusted as error:
            raise _damaged(path, error) from error
        return cls(directory, trust, None if seed is None else SigningKey(seed), stamp)

    @property
    def id(self) -> bytes:
        return self.trust.fleet

    @property
    def name(self) -> str:
        return self.trust.name

    @property
    def is_admin(self) -> bool:
        """Whether this home holds a key that may sign for the fleet today."""
        if self._admin_key is None:
            return False
        admin = self.trust.chain.get(self._admin_key.verify_key.encode())
        return admin is not None and admin.retired_s is None

    @property
    def admin_public_key(self) -> bytes | None:
        """The public half of the admin key of this home, whether the fleet knows it or not."""
        return None if self._admin_key is None else self._admin_key.verify_key.encode()

    def issue(
        self,
        role: str,
        name: str,
        sign_key: bytes,
        curve_key: bytes,
        grants: Collection[str],
        now_wall_s: float,
        ttl_s: float = bounds.CERTIFICATE_LIFE_S,
    ) -> bytes:
        """A certificate from now for so long. Raises `FleetError`: ``not-admin``, ``bad-name``, ``revoked``."""
        admin = self.require_admin()
        try:
            certificate = issue(
                admin,
                self.id,
                name=name,
                role=role,
                grants=frozenset(grants),
                sign_key=sign_key,
                curve_key=curve_key,
                not_before_s=now_wall_s,
                expires_s=now_wall_s + ttl_s,
            )
        except ValueError as error:
            raise FleetError("bad-name", str(error), "choose another") from error
        identity, _ = read_certificate(certificate)
        if self.trust.revoked(identity.id):
            raise FleetError(
                "revoked",
                f"{name} ({identity.text[:8]}) was revoked",
                "delete its identity files, so that it gets new keys",
                id=identity.id,
            )
        return certificate

    def renew(self, certificate: bytes, now_wall_s: float, ttl_s: float = bounds.CERTIFICATE_LIFE_S) -> bytes:
        """The same certificate from now on. Raises `Untrusted` unless the old one is good still, `FleetError`
        (``not-admin``).
        """
        old = self.trust.verify(certificate, now_wall_s)
        return self.issue(old.role, old.name, old.sign_key, old.curve_key, old.grants, now_wall_s, ttl_s)

    def revoke(self, id: bytes, now_wall_s: float, *, serial: bytes | None = None, reason: str = "") -> bytes:
        """Revoke an id, or one certificate of it, here and on disk; the entry is to be gossiped. Raises
        `FleetError`.
        """
        blob = revoke(self.require_admin(), self.id, id, at_s=now_wall_s, serial=serial, reason=reason)
        self.trust.apply_revocation(blob)
        self.save()
        return blob

    def add_admin(self, key: bytes, name: str) -> None:
        """Let another key sign for the fleet too. It ranks behind those there are."""
        if self.trust.chain.get(key) is not None:
            raise FleetError("exists", f"{name} is an admin already", "")
        self._set_admins([*self.trust.admins, Admin(key, name)])

    def retire_admin(self, key: bytes, now_wall_s: float) -> None:
        """End a key that was lost or is no longer wanted. What it signed up to now counts until it expires."""
        self._set_admins(
            [Admin(a.key, a.name, now_wall_s) if a.key == key and a.retired_s is None else a for a in self.trust.admins]
        )

    def remove_admin(self, key: bytes) -> None:
        """End a key that was stolen: nothing that it ever signed counts any longer, so its nodes must be let in again.

        What it revoked stays revoked, signed again by the key of this home.
        """
        admin = self.require_admin()
        theirs = [entry for entry in self.trust.entries() if entry.signer == key]
        self._set_admins([a for a in self.trust.admins if a.key != key])
        self.trust.apply_revocations(
            revoke(admin, self.id, entry.id, at_s=entry.at_s, serial=entry.serial, reason=entry.reason)
            for entry in theirs
        )
        self.save()

    def make_admin_key(self) -> bytes:
        """Make an admin key in this home, if it has none, and return its public half, for an admin to add. Raises
        `FleetError`.
        """
        with locked(self.directory):
            path = self.directory / ADMIN_FILE
            seed = read_private(path, "admin") if there(path) else os.urandom(32)
            write_private(path, "admin", seed)
        self._admin_key = SigningKey(seed)
        return self._admin_key.verify_key.encode()

    def save(self) -> None:
        """Merge what is known here with what other processes of this home have saved, and write it. Raises
        `FleetError`.
        """
        path = self.directory / FLEET_FILE
        with locked(self.directory):
            self._absorb(path)
            write_private(path, "fleet", _pack_fleet(self.trust))
            self._stamp = _stamp(path)
        self.unsaved = None

    def refresh(self) -> bool:
        """Bring in what another process of this home has saved since; cheap if nothing was. Whether there was news.

        After news, every open link is to be verified again. Raises `FleetError` when the file is gone or damaged.
        """
        if self.unsaved is not None:
            self._changed()
        path = self.directory / FLEET_FILE
        stamp = _stamp(path)
        if stamp == self._stamp:
            return False
        news = self._absorb(path)
        self._stamp = stamp
        return news

    def _absorb(self, path: Path) -> bool:
        _, founder, chain, revocations = _read_fleet(path)
        if founder.key != self.trust.chain.founder.key:
            raise FleetError("wrong-fleet", f"{path} is another fleet's now", "start this process again", path)
        try:
            return self.trust.absorb(chain, revocations)
        except Untrusted as error:
            raise _damaged(path, error) from error

    def _changed(self) -> None:
        try:
            self.save()
        except FleetError as error:
            self.unsaved = error

    def require_admin(self) -> SigningKey:
        """The admin key of this home. Raises `FleetError` (``not-admin``) unless it may sign for the fleet today."""
        if self._admin_key is None or not self.is_admin:
            admins = ", ".join(admin.name for admin in self.trust.admins if admin.retired_s is None)
            raise FleetError(
                "not-admin",
                f"this home does not administer {self.name}",
                f"do it where an admin key is: {admins}",
                self.directory,
            )
        return self._admin_key

    def _set_admins(self, admins: list[Admin]) -> None:
        if self.unsaved is None:
            self.refresh()
        try:
            chain = self.trust.chain.changed(self.require_admin(), admins)
            self.trust.apply_admins(chain.blobs)
        except Untrusted as error:
            raise FleetError("bad-admins", str(error), "at least one admin has to remain") from error
        self.save()


def create_fleet(directory: Path, name: str | None = None, admin: str | None = None) -> Fleet:
    """The fleet of this home; made, with this home as its admin, if there is none.

    Of several processes at the same moment one makes it and the others load it. ``name`` is made from the key if not
    given (``lab-7f3a``), ``admin`` (what this admin is called) from the host's name. Raises `FleetError`.
    """
    with locked(directory):
        if there(directory / FLEET_FILE):
            return Fleet.load(directory)
        _refuse_remains(directory)
        seed = os.urandom(32)
        founder = Admin(SigningKey(seed).verify_key.encode(), admin if admin is not None else host_name())
        fleet_name = name if name is not None else f"lab-{fleet_of(founder.key).hex()[:4]}"
        for text in (fleet_name, founder.name):
            if not is_name(text):
                raise FleetError(
                    "bad-name",
                    f"{text!r} is not 1 to {bounds.NAME_BYTES_MAX} letters, digits, '.', '_' or '-'",
                    "choose another",
                )
        trust = Trust(AdminChain(founder), fleet_name, os.urandom(SECRET_BYTES))
        install_fleet(directory, trust, seed)
        loaded = Fleet.load(directory)
        loaded.fresh = True
        return loaded


def install_fleet(directory: Path, trust: Trust, admin_seed: bytes | None = None) -> None:
    """Put a fleet directory in place, complete. It must be absent or empty; the caller holds its lock."""
    files = {SECRET_FILE: ("secret", trust.secret), FLEET_FILE: ("fleet", _pack_fleet(trust))}
    if admin_seed is not None:
        files[ADMIN_FILE] = ("admin", admin_seed)
    install_directory(directory, files)


def enroll(
    fleet: Fleet,
    directory: Path,
    role: str,
    name: str,
    grants: Collection[str],
    now_wall_s: float,
    ttl_s: float = bounds.CERTIFICATE_LIFE_S,
) -> Credentials:
    """The credentials in a node's or client's directory, made on first use.

    Where the fleet is administered from here, a certificate that is missing, about to expire, of another fleet, or
    says something else than asked for is issued (again), with the same keys. Elsewhere the certificate that
    `transport.tokens` brought is what counts, as long as it is good. Raises `FleetError`: ``not-enrolled``,
    ``expired``, ``revoked`` and what reading files may raise.
    """
    with locked(directory):
        make_private_directory(directory)
        keys = load_keys(directory) or save_keys(directory, Keys.create())
        path = directory / CERTIFICATE_FILE
        certificate = read_private(path, "certificate") if there(path) else None
        problem: Untrusted | None = None
        if certificate is not None:
            try:
                identity = fleet.trust.verify(certificate, now_wall_s)
                asked = (identity.role, identity.name, identity.grants) == (role, name, frozenset(grants))
                left_s, life_s = identity.expires_s - now_wall_s, identity.expires_s - identity.not_before_s
                if not fleet.is_admin or (asked and left_s > life_s * bounds.CERTIFICATE_RENEW_PART):
                    return _credentials(directory, fleet, certificate, keys, now_wall_s)
            except Untrusted as error:
                problem = error
        if problem is not None and (problem.reason == "revoked" or not fleet.is_admin):
            raise FleetError(problem.reason, str(problem), problem.hint, path, **problem.facts) from problem
        if not fleet.is_admin:
            raise FleetError(
                "not-enrolled",
                f"{name} has no certificate of {fleet.name}",
                "`swarm fleet token` where the fleet is administered, then `swarm fleet join TOKEN` here",
                path,
            )
        certificate = fleet.issue(role, name, keys.sign_key, keys.curve_key, grants, now_wall_s, ttl_s)
        write_private(path, "certificate", certificate)
        return _credentials(directory, fleet, certificate, keys, now_wall_s)


def load_keys(directory: Path) -> Keys | None:
    """The keys in a node's or client's directory, None if there are none yet. Raises `FleetError`."""
    path = directory / KEYS_FILE
    if not there(path):
        return None
    content = read_private(path, "keys")
    if len(content) != 64:
        raise FleetError(
            "damaged",
            f"{path} is of the wrong length",
            "restore it from a backup, or delete the directory and join again",
            path,
        )
    return Keys(content[:32], content[32:])


def save_keys(directory: Path, keys: Keys) -> Keys:
    """Write the keys of a node or client, before anybody hears of them."""
    make_private_directory(directory)
    write_private(directory / KEYS_FILE, "keys", keys.sign_seed + keys.curve_secret)
    return keys


def save_certificate(directory: Path, certificate: bytes) -> None:
    """Put a (new) certificate beside the keys that it is about."""
    write_private(directory / CERTIFICATE_FILE, "certificate", certificate)


def host_name() -> str:
    """This machine's name as a certificate can carry it."""
    text = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in platform.node().partition(".")[0])
    text = text.strip("-_")[: bounds.NAME_BYTES_MAX]
    return text or "node"


def _credentials(directory: Path, fleet: Fleet, certificate: bytes, keys: Keys, now_wall_s: float) -> Credentials:
    try:
        return Credentials(fleet.trust.verify(certificate, now_wall_s), certificate, keys)
    except Untrusted as error:
        raise FleetError(error.reason, f"{directory}: {error}", error.hint, directory) from error


def _pack_fleet(trust: Trust) -> bytes:
    founder = trust.chain.founder
    packed: bytes = msgpack.packb([1, trust.name, founder.key, founder.name, trust.admin_chain(), trust.held()])
    return packed


def _read_fleet(path: Path) -> tuple[str, Admin, list[bytes], list[bytes]]:
    content = read_private(path, "fleet")
    try:
        version, name, key, founder_name, chain, revocations = msgpack.unpackb(content)
        blobs = [*chain, *revocations]
        fits = (
            version == 1
            and len(key) == 32
            and is_name(name)
            and is_name(founder_name)
            and all(type(b) is bytes for b in blobs)
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise _damaged(path, error) from error
    if not fits:
        raise FleetError("damaged", f"{path} is of another version", "start the version of swarm that wrote it", path)
    return name, Admin(key, founder_name), chain, revocations


def _damaged(path: Path, error: Exception) -> FleetError:
    return FleetError(
        "damaged",
        f"{path} does not hold together: {error}",
        "restore it from a backup, or move the directory away and join again",
        path,
    )


def _refuse_remains(directory: Path) -> None:
    try:
        remains = sorted(entry.name for entry in directory.iterdir()) if there(directory) else []
    except OSError as error:
        raise FleetError(
            "unreadable", f"cannot read {directory}: {error.strerror}", "check its owner and mode", directory
        ) from error
    if remains:
        raise FleetError(
            "damaged",
            f"{directory / FLEET_FILE} is missing, but there is {', '.join(remains)}",
            f"restore it from a backup, or move {directory} away to start anew",
            directory,
        )


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        facts = path.stat()
    except OSError as error:
        raise FleetError("missing", f"{path} is gone: {error.strerror}", "restore it from a backup", path) from error
    return facts.st_ino, facts.st_mtime_ns, facts.st_size
