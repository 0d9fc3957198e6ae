"""The manifest of a snapshot: which shards, by the hashes of their headers, and who says so.

``msgpack [body, signer, signature]``: the form of signed documents here (`transport.signed`), with the body a map in a fixed order.
The signature is Ed25519 (RFC 8032) over ``"swarm snapshot 1" NUL body``. Unsigned, the signer is empty and the hash of the body stands
for the signature, so that a flipped bit is found all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack
from blake3 import blake3

from swarm.snapshots.errors import SnapshotDamaged, SnapshotUntrusted
from swarm.snapshots.format import FILES_MAX, HASH_BYTES, SHARD_NAME, malformed
from transport.signed import signed_bytes, verify_signature

MANIFEST: Final = "manifest"
MANIFEST_BYTES_MAX: Final = 16 << 20
SHARDS_MAX: Final = 4096
_ORDER: Final = ("v", "created_ms", "parent", "shards", "about")
Sign = Callable[[bytes], bytes]
"""Makes the Ed25519 signature (64 bytes) for a body, over ``signed_bytes("snapshot", body)`` of `transport.signed`."""


@dataclass(frozen=True, slots=True)
class ShardLine:
    """What a manifest says of a shard."""

    name: str
    root: bytes
    """Hash of the header of its file."""
    file_bytes: int
    records: int
    raw_bytes: int
    files: tuple[tuple[bytes, int], ...] = ()
    """(root, bytes) of the other files that its chunks stand in."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a snapshot consists of. ``created_ms`` is wall-clock time since 1970, or whatever stamp its maker goes by."""

    created_ms: int
    shards: tuple[ShardLine, ...]
    parent: bytes = b""
    """Id of the snapshot that this one took chunks from, where it did."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What its maker says beside: plain values."""
    signer: bytes = b""
    """Public key of whoever signed it; empty where nobody did."""
    id: bytes = b""
    """Hash of the manifest as it stands on the disk."""

    def shard(self, name: str) -> ShardLine:
        """Of this name. KeyError."""
        for line in self.shards:
            if line.name == name:
                return line
        raise KeyError(name)

    @property
    def records(self) -> int:
        """In all shards."""
        return sum(line.records for line in self.shards)


def encode(manifest: Manifest, signer: tuple[bytes, Sign] | None = None) -> bytes:
    """The bytes of a manifest, signed by ``(public key, sign)``."""
    body: bytes = msgpack.packb(
        {
            "v": 1, "created_ms": manifest.created_ms, "parent": manifest.parent,
            "shards": [
                [line.name, line.root, line.file_bytes, line.records, line.raw_bytes, [list(file) for file in line.files]]
                for line in manifest.shards
            ],
            "about": dict(manifest.about),
        },
        use_bin_type=True,
    )  # fmt: skip
    public = b"" if signer is None else signer[0]
    signature = blake3(body).digest() if signer is None else signer[1](body)
    out: bytes = msgpack.packb([body, public, signature], use_bin_type=True)
    if len(out) > MANIFEST_BYTES_MAX:
        raise ValueError(f"a manifest of {len(out)} bytes: there may be {MANIFEST_BYTES_MAX}")
    return out


def decode(data: bytes, where: str, trusted: Callable[[bytes], bool] | None = None) -> Manifest:
    """The manifest in these bytes, its signature checked.

    ``trusted`` says of a signer's public key (empty where nobody signed) whether it is believed; without it anybody is.
    SnapshotMalformed, SnapshotDamaged (a signature or hash that does not fit), SnapshotUntrusted.
    """
    outer = _unpacked(data, where)
    if not (isinstance(outer, list) and len(outer) == 3 and all(type(part) is bytes for part in outer)):
        raise malformed(where, "is no manifest")
    body, signer, signature = outer
    if signer:
        whole = verify_signature(signer, signed_bytes("snapshot", body), signature)
    else:
        whole = signature == blake3(body).digest()
    if not whole:
        raise SnapshotDamaged(
            f"{where} is damaged or forged: its signature does not fit", hint="take the manifest from another copy",
            path=where, file=MANIFEST, chunk=None, offset=0,
        )  # fmt: skip
    if trusted is not None and not trusted(signer):
        who = f"signed by {signer.hex()[:16]}…, which is not trusted here" if signer else "not signed"
        raise SnapshotUntrusted(
            f"{where} is {who}", hint="use one that a member of the fleet signed", path=where, signer=signer
        )
    fields = _unpacked(body, where)
    if not isinstance(fields, dict) or tuple(fields) != _ORDER or fields["v"] != 1:
        raise malformed(where, "is of a version that this software does not read, or has other fields")
    shards, about, parent = fields["shards"], fields["about"], fields["parent"]
    if (
        type(fields["created_ms"]) is not int or not isinstance(shards, list) or len(shards) > SHARDS_MAX
        or not isinstance(about, dict) or type(parent) is not bytes or len(parent) not in (0, HASH_BYTES)
    ):  # fmt: skip
        raise malformed(where, "has fields that are not what they must be")
    lines = tuple(_line(each, where) for each in shards)
    if len({line.name for line in lines}) != len(lines):
        raise malformed(where, "names a shard twice")
    return Manifest(fields["created_ms"], lines, parent, about, signer, blake3(data).digest())


def _line(fields: Any, where: str) -> ShardLine:
    if (
        not isinstance(fields, list)
        or len(fields) != 6
        or not isinstance(fields[5], list)
        or len(fields[5]) >= FILES_MAX
    ):
        raise malformed(where, "has a shard that is none")
    name, root, file_bytes, records, raw_bytes, files = fields
    if type(name) is not str or not SHARD_NAME.fullmatch(name):
        raise malformed(where, "has a shard whose name is none")
    if not all(isinstance(file, list) and len(file) == 2 and _root_and_size(*file) for file in files):
        raise malformed(where, f"has files of the shard {name} that are none")
    if not _root_and_size(root, file_bytes) or not _size(records) or not _size(raw_bytes):
        raise malformed(where, f"has sizes of the shard {name} that are none")
    return ShardLine(name, root, file_bytes, records, raw_bytes, tuple((root, size) for root, size in files))


def _root_and_size(root: Any, size: Any) -> bool:
    return type(root) is bytes and len(root) == HASH_BYTES and _size(size)


def _size(number: Any) -> bool:
    return type(number) is int and 0 <= number < 1 << 60


def _unpacked(data: bytes, where: str) -> Any:
    """Canonical MessagePack, of bounded size. SnapshotMalformed."""
    if not 0 < len(data) <= MANIFEST_BYTES_MAX:
        raise malformed(where, f"is not 1 to {MANIFEST_BYTES_MAX} bytes")
    try:
        value = msgpack.unpackb(
            data, raw=False, strict_map_key=True, max_ext_len=0, max_array_len=SHARDS_MAX, max_map_len=SHARDS_MAX
        )
        canonical = msgpack.packb(value, use_bin_type=True)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
        raise malformed(where, "is not readable MessagePack") from None
    if canonical != data:
        raise malformed(where, "is not in canonical form")
    return value
