"""What a node answers about its snapshots and its past, to people: ``snapshot.create snapshot.back``, and the past for
``knowledge.get`` and ``knowledge.query`` with ``at``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kernels.plain import decode_plain
from nodes.knowledge.answers import joined, part_of
from nodes.knowledge.elsewhere import Elsewhere, NotHeld
from nodes.knowledge.history import moment
from nodes.knowledge.past import Past, packed
from nodes.knowledge.shelf import Shelf
from nodes.knowledge.shell import KnowledgeShell
from nodes.queries import Answer, Switchboard
from swarm.protocol.knowledge.entries import shard_of
from swarm.protocol.knowledge.kinds import KINDS
from swarm.protocol.knowledge.knowledge import BadEntry
from swarm.protocol.knowledge.views import GONE
from transport.links import Link

BACK_S: Final = 600.0


class SnapshotAnswers:
    """Registers the methods on a node's switchboard."""

    def __init__(self, shelf: Shelf, past: Past, shell: KnowledgeShell, switchboard: Switchboard) -> None:
        self._shelf = shelf
        self._past = past
        self._shell = shell
        self._elsewhere = Elsewhere(shell, switchboard)
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
        """Each holder sets back what it holds: this node, and for the shards that it lacks others."""
        kinds = [_kind(kind) for kind in args.get("kinds") or ()]
        until, apply = moment(args["at"]), args.get("apply") is True
        held = self._past.held()
        lacking = sorted(set(range(self._shell.shards)) - set(held))
        if args.get("here") is True:
            numbers = args["shards"]
            if not isinstance(numbers, list) or not set(numbers) <= set(held):
                raise NotHeld("this node does not hold all of that")
            held, lacking = numbers, []
        elsewhere: list[Answer] = []
        if lacking:
            asked = {"at": until, "kinds": kinds, "apply": apply}
            # Whether it can be read everywhere is seen before anything is changed anywhere.
            for step in (False, True) if apply else (False,):
                if step:
                    await self._past.state(until)
                elsewhere = await self._elsewhere.spread(
                    "snapshot.back", lacking, {**asked, "apply": step}, BACK_S, again=not step
                )
        found = await self._past.back(until, kinds, apply, held)
        every = list(found["rows"])
        for header, raw in elsewhere:
            rows: Any = decode_plain(raw)
            every += rows
            found["count"] += int(header["count"])
            found["partly"] += int(header["partly"])
        rows = part_of(sorted(every, key=lambda row: (row[0], row[1])), list)
        return {
            "count": found["count"],
            "partly": found["partly"],
            "unasked": found["unasked"],
            "shown": len(rows),
        }, joined(rows)

    # --- for `KnowledgeAnswers` -------------------------------------------------------------------------------------------

    async def get(self, kind: str, key: str, at: str | int) -> tuple[dict[str, Any], bytes]:
        """As ``knowledge.get``, of a moment."""
        value, unasked = await self._past.get(_kind(kind), key, moment(at))
        return {"found": value is not GONE, "unasked": unasked}, b"" if value is GONE else packed(value)

    async def query(
        self, kind: str, at: str | int, asked: Mapping[str, Any], only: frozenset[int]
    ) -> tuple[dict[str, Any], list[list[Any]]]:
        """As ``knowledge.query``, of a moment: by prefix, range and tag; of these shards, which this node holds."""
        state = await self._past.state(moment(at), goes_on=asked["goes_on"])
        low, high = max(asked["prefix"], asked["start"] or ""), asked["stop"]
        every = len(only) == self._shell.shards
        rows = [
            [key, value]
            for key, value, tags in state.records(_kind(kind))
            if key >= low
            and key.startswith(asked["prefix"])
            and (high is None or key < high)
            and (asked["tag"] is None or asked["tag"] in tags)
            and (every or shard_of(kind, key, self._shell.shards) in only)
        ]
        if asked["reverse"]:
            rows.reverse()
        return {"unasked": state.unasked}, rows[: asked["limit"]]


def _kind(kind: object) -> str:
    if not isinstance(kind, str) or kind not in KINDS:
        raise BadEntry(f"{kind!r} is no kind of knowledge", hint=f"there are {', '.join(sorted(KINDS))}", kind=kind)
    return kind
