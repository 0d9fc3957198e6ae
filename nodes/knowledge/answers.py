"""What a node answers about knowledge: ``knowledge.get put drop count query watch changes unwatch``.

Values travel in the body, in the plain MessagePack of `kernels.plain`, since a header knows fewer types. A ``put`` is answered when it is
on this node's disk. Long answers come in parts: ``more`` says that there is more after the last key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from kernels.plain import decode_plain, encode_plain
from nodes.knowledge.shell import KnowledgeShell
from nodes.knowledge.watches import WAIT_S_MAX, Watches
from nodes.queries import Switchboard
from swarm.errors import SwarmError
from swarm.protocol.knowledge.bounds import VALUE_BYTES_MAX
from swarm.protocol.knowledge.keeper import Keeper
from swarm.protocol.knowledge.views import GONE
from transport.links import Link

if TYPE_CHECKING:
    from nodes.knowledge.snapshot_answers import SnapshotAnswers
    from nodes.knowledge.texts import Texts

ROWS_MAX: Final = 1000
ANSWER_BYTES: Final = 1 << 20
"""After so many bytes an answer ends; one value may go over it."""
_TAG: Final = (encode_plain(None) or b"")[:1]
BODY_BYTES_MAX: Final = 2 * VALUE_BYTES_MAX + 64 * 1024


class KnowledgeAnswers:
    """Registers the methods on a node's switchboard."""

    def __init__(self, shell: KnowledgeShell, switchboard: Switchboard) -> None:
        self._shell = shell
        self.watches = Watches(shell)
        self.past: SnapshotAnswers | None = None
        """What is asked ``at`` a moment goes there."""
        self._texts: Texts | None = None
        """The desk's thread alone uses it."""
        methods = {
            "get": self._get, "put": self._put, "drop": self._drop, "count": self._count, "query": self._query,
            "watch": self._watch, "changes": self._changes, "unwatch": self._unwatch,
        }  # fmt: skip
        for name, method in methods.items():
            switchboard.serve(f"knowledge.{name}", method)

    def link_down(self, link: Link) -> None:
        """Nobody watches on this link any more."""
        self.watches.link_down(link)

    # --- saying ---------------------------------------------------------------------------------------------------------

    async def _put(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        value, kind, key = _value(body), str(args["kind"]), _text(args["key"])
        tags = tuple(map(_text, args.get("tags") or ()))
        stamp = await self._shell.ask(
            lambda keeper: keeper.knowledge.put(kind, key, value, _wall_ms(), tags=tags), says=True
        )
        return {"stamp": stamp}

    async def _drop(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        kind, key = str(args["kind"]), _text(args["key"])
        element = _value(body) if len(body) else GONE
        stamp = await self._shell.ask(lambda keeper: keeper.knowledge.drop(kind, key, _wall_ms(), element), says=True)
        return {"stamp": stamp}

    async def _count(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        kind, key = str(args["kind"]), _text(args["key"])
        up, down = _whole(args.get("up", 1)), _whole(args.get("down", 0))
        stamp = await self._shell.ask(lambda keeper: keeper.knowledge.count(kind, key, _wall_ms(), up, down), says=True)
        return {"stamp": stamp}

    # --- asking ---------------------------------------------------------------------------------------------------------

    async def _get(self, link: Link, args: Mapping[str, Any], body: memoryview) -> tuple[dict[str, Any], bytes]:
        kind, key = str(args["kind"]), _text(args["key"])
        if args.get("at") is not None:
            return await self._then().get(kind, key, args["at"])
        value = await self._shell.ask(lambda keeper: keeper.knowledge.get(kind, key, GONE))
        return {"found": value is not GONE}, b"" if value is GONE else _packed(value)

    async def _query(self, link: Link, args: Mapping[str, Any], body: memoryview) -> tuple[dict[str, Any], bytes]:
        limit = args.get("limit")
        asked: dict[str, Any] = {
            "prefix": _text(args.get("prefix") or ""),
            "start": _text_or_none(args.get("start")),
            "stop": _text_or_none(args.get("stop")),
            "tag": _text_or_none(args.get("tag")),
            "reverse": args.get("reverse") is True,
            "limit": ROWS_MAX + 1 if limit is None else min(_whole(limit), ROWS_MAX + 1),
        }
        kind, after = str(args["kind"]), _text_or_none(args.get("after"))
        if after is not None:
            # The least text that comes after a key, or all that comes before it.
            asked["stop" if asked["reverse"] else "start"] = after if asked["reverse"] else after + "\0"

        text = _text_or_none(args.get("text"))
        if text is not None:
            if any(asked[name] for name in ("prefix", "start", "stop", "tag", "reverse")) or args.get("at"):
                raise SwarmError(
                    "a search for words takes no prefix, start, stop, tag, order or moment", hint="say one of them"
                )
            # One part: who wants more than the best thousand looks for other words.
            found = await self._shell.ask(
                lambda keeper: self._search(keeper, kind, text, min(asked["limit"], ROWS_MAX))
            )
            return {"more": False}, joined(part_of(found, list))

        if args.get("at") is not None:
            return await self._then().query(kind, args["at"], asked)

        def job(keeper: Keeper) -> list[tuple[str, Any]]:
            return keeper.knowledge.query(kind, **asked)

        rows = await self._shell.ask(job)
        part = part_of(rows, lambda row: [row[0], row[1]])
        return {"more": len(part) < len(rows)}, joined(part)

    def _then(self) -> SnapshotAnswers:
        if self.past is None:
            raise SwarmError("this node reads no past", hint="ask another one")
        return self.past

    def _search(self, keeper: Keeper, kind: str, text: str, limit: int) -> list[tuple[str, Any]]:
        """In the desk's thread."""
        if self._texts is None:
            from nodes.knowledge.texts import Texts

            self._texts = Texts(keeper.knowledge)
        return self._texts.search(kind, text, limit)

    # --- watching -------------------------------------------------------------------------------------------------------

    async def _watch(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        return {"watch": await self.watches.begin(link, str(args["kind"]), _text(args.get("prefix") or ""))}

    async def _changes(self, link: Link, args: Mapping[str, Any], body: memoryview) -> tuple[dict[str, Any], bytes]:
        wait_s = min(max(0.0, float(args.get("wait_s", 0.0))), WAIT_S_MAX)
        watch = self.watches.of(link, args["watch"])
        await self.watches.fill(watch, wait_s)
        lost, watch.lost = watch.lost, False
        if lost:
            watch.waiting.clear()
        rows = [watch.waiting[at] for at in range(min(ROWS_MAX, len(watch.waiting)))]
        part = part_of(rows, lambda row: [row.key, None, True] if row.value is GONE else [row.key, row.value, False])
        for _ in part:
            watch.waiting.popleft()
        return {"lost": lost, "more": bool(watch.waiting)}, joined(part)

    async def _unwatch(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        self.watches.end(self.watches.of(link, args["watch"]))
        return {}


def part_of(rows: list[Any], shown: Callable[[Any], list[Any]]) -> list[bytes]:
    """As many rows, packed, as go into one answer."""
    found, size = list[bytes](), 0
    for row in rows[:ROWS_MAX]:
        packed = _packed(shown(row))
        if found and size + len(packed) > ANSWER_BYTES:
            break
        found.append(packed)
        size += len(packed)
    return found


def joined(parts: list[bytes]) -> bytes:
    """A list of these, as `encode_plain` would pack it: one tag, then MessagePack (array 32)."""
    return _TAG + b"\xdd" + len(parts).to_bytes(4, "big") + b"".join(part[1:] for part in parts)


def _packed(value: Any) -> bytes:
    raw = encode_plain(value, 1 << 30)
    assert raw is not None, "what was read is plain"
    return raw


def _value(body: memoryview) -> Any:
    if not 0 < len(body) <= BODY_BYTES_MAX:
        raise ValueError(f"a value of {len(body)} bytes")
    return decode_plain(body)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} is not a whole number of at least 0")
    return value


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
