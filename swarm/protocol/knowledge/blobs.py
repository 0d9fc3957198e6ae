"""Values that are too large for an entry: they are blobs, and the entry says which (``{"": "blob", "id": …, "bytes": …}``).

A blob is the packed value (`kernels.plain`), its id the BLAKE3 hash of that. It is no secret what is in a blob, and no promise that somebody has it.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from blake3 import blake3

from swarm.protocol.knowledge.bounds import BLOB_BYTES_MAX, VALUE_BYTES_MAX

ID_BYTES: Final = 32
MARK: Final = "blob"


class Reference(NamedTuple):
    """Which blob a value is."""

    id: bytes
    size: int


def id_of(raw: bytes) -> bytes:
    """The id of a blob."""
    return blake3(raw).digest()


def referring(reference: Reference) -> dict[str, Any]:
    """What an entry says in place of the value."""
    return {"": MARK, "id": reference.id, "bytes": reference.size}


def reference_in(value: Any) -> Reference | None:
    """Which blob an entry's value stands for; None if it stands for itself."""
    if not looks_referring(value) or value.keys() != {"", "id", "bytes"}:
        return None
    id, size = value["id"], value["bytes"]
    if type(id) is not bytes or len(id) != ID_BYTES or type(size) is not int:
        return None
    return Reference(id, size) if VALUE_BYTES_MAX < size <= BLOB_BYTES_MAX else None


def looks_referring(value: Any) -> bool:
    """Whether a value has the mark of one that stands for a blob: nobody may put such a one by himself."""
    return isinstance(value, dict) and value.get("") == MARK
