"""What a node answers about its snapshots and its past, to people: ``snapshot.create snapshot.back``, and the past for
``knowledge.get`` and ``knowledge.query`` with ``at``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodes.knowledge.answers import joined, part_of
from nodes.knowledge.history import moment
from nodes.knowledge.past import Past, packed
from nodes.knowledge.shelf import Shelf
from nodes.queries import Switchboard
from swarm.protocol.knowledge.kinds import KINDS
from swarm.protocol.knowledge.knowledge import BadEntry
from swarm.protocol.knowledge.views import GONE
from transport.links import Link


class SnapshotAnswers:
    """Registers the methods on a node's switchboard."""

    def __init__(self, shelf: Shelf, past: Past, switchboard: Switchboard) -> None:
        self._shelf = shelf
        self._past = past
        switchboard.serve("snapshot.create", self._create)
        switchboard.serve("snapshot.back", self._back)

    async def _create(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        self._shelf.meant(args.get("of"))
        name = args.get("name")
        if name is not None and type(name) is not str:
            raise TypeError("a name is a text")
        return await self._shelf.create(
            name, full=args.get("full") is True, encrypt=args.get("encrypt") is True, unless_same=False
        )

    async def _back(self, link: Link, args: Mapping[str, Any], body: memoryview) -> tuple[dict[str, Any], bytes]:
        kinds = [_kind(kind) for kind in args.get("kinds") or ()]
        found = await self._past.back(moment(args["at"]), kinds, args.get("apply") is True)
        rows = part_of(found.pop("rows"), list)
        return {**found, "shown": len(rows)}, joined(rows)

    # --- for `KnowledgeAnswers` -------------------------------------------------------------------------------------------

    async def get(self, kind: str, key: str, at: str | int) -> tuple[dict[str, Any], bytes]:
        """As ``knowledge.get``, of a moment."""
        value = await self._past.get(_kind(kind), key, moment(at))
        return {"found": value is not GONE}, b"" if value is GONE else packed(value)

    async def query(self, kind: str, at: str | int, asked: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        """As ``knowledge.query``, of a moment: by prefix, range and tag."""
        state = await self._past.state(moment(at), goes_on=asked["goes_on"])
        low, high = max(asked["prefix"], asked["start"] or ""), asked["stop"]
        rows = [
            (key, value)
            for key, value, tags in state.records(_kind(kind))
            if key >= low
            and key.startswith(asked["prefix"])
            and (high is None or key < high)
            and (asked["tag"] is None or asked["tag"] in tags)
        ]
        if asked["reverse"]:
            rows.reverse()
        rows = rows[: asked["limit"]]
        part = part_of(rows, lambda row: [row[0], row[1]])
        return {"more": len(part) < len(rows)}, joined(part)


def _kind(kind: object) -> str:
    if not isinstance(kind, str) or kind not in KINDS:
        raise BadEntry(f"{kind!r} is no kind of knowledge", hint=f"there are {', '.join(sorted(KINDS))}", kind=kind)
    return kind
