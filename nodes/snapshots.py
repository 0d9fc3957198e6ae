"""Snapshots of a user: where they are, who signs them, and who is believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blake3 import blake3

from swarm.errors import FleetNotFound, NotFound
from swarm.paths import Home
from swarm.snapshots.errors import SnapshotError, SnapshotUntrusted
from swarm.snapshots.manifest import MANIFEST, Manifest
from swarm.snapshots.snapshot import read_manifest
from transport.fleet import Fleet
from transport.identity import Identity, Untrusted

CERTIFICATE: Final = "certificate"
"""What a manifest of a member has beside: the certificate of the key that signed it."""


@dataclass(frozen=True, slots=True)
class Signing:
    """What this user signs with: the public key, what makes signatures, and the certificate that says whose it is."""

    public: bytes
    sign: Callable[[bytes], bytes]
    certificate: bytes


def directory(home: Home) -> Path:
    """Where snapshots of this user are."""
    return home.data / "snapshots"


def signing(home: Home) -> Signing:
    """FleetNotFound when this home is in no fleet."""
    from swarm.client.finder import client_credentials

    _, own = client_credentials(home)
    return Signing(own.identity.sign_key, lambda body: own.keys.sign(body, "snapshot"), own.certificate)


def fleet_key(home: Home) -> bytes:
    """The key (32 bytes) that snapshots of this fleet are encrypted with, for members alone. FleetNotFound."""
    fleet = known_fleet(home)
    if fleet is None:
        raise FleetNotFound(
            "no fleet is known here, so there is no key",
            hint="`swarm fleet init` makes one, `swarm fleet join` enters one",
        )
    return blake3(fleet.trust.secret, derive_key_context="swarm snapshots 2026-11 fleet key").digest()


def known_fleet(home: Home) -> Fleet | None:
    """The fleet that this home is in."""
    from transport.private_files import FleetError

    try:
        return Fleet.load(home.fleet_dir)
    except FleetError as error:
        if error.reason != "missing":
            raise
        return None


def signer_of(manifest: Manifest, fleet: Fleet | None) -> Identity | None:
    """The member of the fleet that signed it, by the certificate that was good when it did; None when there is none."""
    certificate = manifest.about.get(CERTIFICATE)
    if fleet is None or not manifest.signer or type(certificate) is not bytes:
        return None
    try:
        identity = fleet.trust.verify(certificate, manifest.created_ms / 1000)
    except Untrusted:
        return None
    return identity if identity.sign_key == manifest.signer else None


def require_member(manifest: Manifest, fleet: Fleet | None, where: Path) -> None:
    """SnapshotUntrusted unless a member of this fleet signed it."""
    if signer_of(manifest, fleet) is None:
        raise SnapshotUntrusted(
            f"{where} is signed by no member of this fleet" if manifest.signer else f"{where} is not signed",
            hint="--any-signer takes it all the same", path=str(where), signer=manifest.signer,
        )  # fmt: skip


def found(name: str, folder: Path) -> Path:
    """The folder of a snapshot: a path, or a name in the folder of snapshots. NotFound."""
    path = Path(name) if "/" in name else folder / name
    if not (path / MANIFEST).is_file():
        raise NotFound(f"there is no snapshot {path}", hint="`swarm snapshot list` shows what there is")
    return path


def listed(folder: Path) -> list[tuple[Path, Manifest | SnapshotError]]:
    """All snapshots of a folder, oldest first; what is wrong with those whose manifest is."""
    entries: list[tuple[Path, Manifest | SnapshotError]] = []
    for path in sorted(folder.glob(f"*/{MANIFEST}")) if folder.is_dir() else ():
        if path.parent.name.startswith("."):
            continue
        try:
            entries.append((path.parent, read_manifest(path.parent)))
        except SnapshotError as error:
            entries.append((path.parent, error))
    return sorted(entries, key=lambda each: (each[1].created_ms if isinstance(each[1], Manifest) else 0, each[0].name))


def newest(folder: Path, shards: set[str]) -> Path | None:
    """The latest snapshot that has any of these shards: what an incremental one is based on."""
    for path, manifest in reversed(listed(folder)):
        if isinstance(manifest, Manifest) and shards & {line.name for line in manifest.shards}:
            return path
    return None
