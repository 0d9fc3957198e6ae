"""Snapshots of a user: where they are, who signs them, and who is believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from blake3 import blake3

from swarm.errors import FleetNotFound, NotFound
from swarm.paths import Home
from swarm.snapshots.errors import SnapshotError, SnapshotUntrusted
from swarm.snapshots.manifest import MANIFEST, Manifest
from swarm.snapshots.snapshot import read_manifest
from transport.fleet import Fleet
from transport.identity import Credentials, Identity, Untrusted

CERTIFICATE: Final = "certificate"
"""What a manifest of a member has beside: the certificate of the key that signed it."""


@dataclass(frozen=True, slots=True)
class Signing:
    """What this user signs with: the public key, what makes signatures, and the certificate that says whose it is."""

    public: bytes
    sign: Callable[[bytes], bytes]
    certificate: bytes

    @classmethod
    def of(cls, own: Credentials) -> Self:
        """What a client or a node signs with."""
        return cls(own.identity.sign_key, lambda body: own.keys.sign(body, "snapshot"), own.certificate)


def directory(home: Home) -> Path:
    """Where snapshots of this user are."""
    return home.data / "snapshots"


def signing(home: Home) -> Signing:
    """FleetNotFound when this home is in no fleet."""
    from swarm.client.finder import client_credentials

    _, own = client_credentials(home)
    return Signing.of(own)


def fleet_key(home: Home) -> bytes:
    """The key (32 bytes) that snapshots of this fleet are encrypted with, for members alone. FleetNotFound."""
    fleet = known_fleet(home)
    if fleet is None:
        raise FleetNotFound(
            "no fleet is known here, so there is no key",
            hint="`swarm fleet init` makes one, `swarm fleet join` enters one",
        )
    return key_of(fleet)


def key_of(fleet: Fleet) -> bytes:
    """The same, of a fleet that is known."""
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


def of_node(home: Home, node: str) -> Path:
    """Where the snapshots of a node of this home are."""
    return home.node_dir(node) / "snapshots"


def all_folders(home: Home) -> list[tuple[str, Path]]:
    """(node, folder) of all folders of snapshots of this home; that of its user, of no node, comes first."""
    nodes = sorted(path for path in home.nodes_dir.glob("*/snapshots")) if home.nodes_dir.is_dir() else []
    return [("", directory(home)), *((path.parent.name, path) for path in nodes)]


def found(name: str, folders: Sequence[Path]) -> Path:
    """The folder of a snapshot: a path, or a name in one of the folders of snapshots. NotFound when it is in none, or in several."""
    paths = [Path(name)] if "/" in name else [folder / name for folder in folders]
    there = [path for path in paths if (path / MANIFEST).is_file()]
    if not there:
        raise NotFound(f"there is no snapshot {paths[0]}", hint="`swarm snapshot list` shows what there is")
    if len(there) > 1:
        raise NotFound(
            f"{name} is the name of {len(there)} snapshots: {', '.join(map(str, there))}", hint="--of NODE, or its path",
            matches=list(map(str, there)),
        )  # fmt: skip
    return there[0]


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
