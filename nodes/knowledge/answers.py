"""What a node answers about knowledge: ``knowledge.get put drop count use restore pruned take seen query watch
changes unwatch``.

Values travel in the body, in the plain MessagePack of `kernels.plain`, since a header knows fewer types. A ``put`` is answered when it is
on a node's disk. Long answers come in parts: ``more`` says that there is more after the last key. What this node does not hold it asks of
holders (`elsewhere`); ``here`` says that a node asks, which wants what this one holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from kernels.plain import decode_plain, encode_plain
from nodes.knowledge.elsewhere import Elsewhere, NotHeld, together
from nodes.knowledge.large import LargeValues
from nodes.knowledge.shell import KnowledgeShell
from nodes.knowledge.watches import WAIT_S_MAX, Watches
from nodes.knowledge.weighing import Weighing, no_such_fact, no_such_pruned, wall_ms
from nodes.queries import AskFailed, Switchboard
from swarm.errors import NotFound, SwarmError
from swarm.protocol.knowledge.beliefs import BELIEFS, Belief
from swarm.protocol.knowledge.blobs import looks_referring, reference_in, referring
from swarm.protocol.knowledge.bounds import BLOB_BYTES_MAX, VALUE_BYTES_MAX
from swarm.protocol.knowledge.entries import Op, shard_of
from swarm.protocol.knowledge.fading import FACTS
from swarm.protocol.knowledge.keeper import FRAME_BYTES_MAX, Keeper
from swarm.protocol.knowledge.kinds import KINDS, Crdt
from swarm.protocol.knowledge.knowledge import BadEntry, SaidTooMuch
from swarm.protocol.knowledge.views import GONE
from transport.links import Link

if TYPE_CHECKING:
    from nodes.knowledge.joining import Joining
    from nodes.knowledge.snapshot_answers import SnapshotAnswers
    from nodes.knowledge.texts import Texts

ROWS_MAX: Final = 1000
SAYINGS_MAX: Final = 100
"""Entries of which is told who said them."""
ANSWER_BYTES: Final = 1 << 20
"""After so many bytes an answer ends; one value may go over it."""
_TAG: Final = (encode_plain(None) or b"")[:1]
BODY_BYTES_MAX: Final = BLOB_BYTES_MAX + 64 * 1024
_REFUSALS: Final = {error.__name__: error for error in (NotFound, BadEntry, SaidTooMuch)}


class KnowledgeAnswers:
    """Registers the methods on a node's switchboard."""

    def __init__(self, shell: KnowledgeShell, switchboard: Switchboard, weighing: Weighing, large: LargeValues) -> None:
        self._shell = shell
        self._weighing = weighing
        self._large = large
        self._elsewhere = Elsewhere(shell, switchboard)
        self.watches = Watches(shell, self._elsewhere)
        self.past: SnapshotAnswers | None = None
        """What is asked ``at`` a moment goes there."""
        self.joining: Joining | None = None
        """Until all is here, peers are asked for what lacks."""
        self._texts: Texts | None = None
        """The desk's thread alone uses it."""
        methods = {
            "get": self._get, "put": self._put, "drop": self._drop, "count": self._count, "query": self._query,
            "use": self._use, "restore": self._restore, "pruned": self._pruned, "take": self._take, "seen": self._seen,
            "watch": self._watch, "changes": self._changes, "unwatch": self._unwatch,
        }  # fmt: skip
        for name, method in methods.items():
            switchboard.serve(f"knowledge.{name}", method)

    def link_down(self, link: Link) -> None:
        """Nobody watches on this link any more."""
        self.watches.link_down(link)

    # --- saying ---------------------------------------------------------------------------------------------------------

    async def _said(self, there: list[bytes], shard: int, job: Callable[[Keeper], int]) -> int:
        """Says something; its stamp, when it is on this node's disk, and, where others hold it (`there`), on that of one of them."""
        stamp: int = await self._shell.ask(job, says=True)
        if there:
            payloads = await self._shell.ask(lambda keeper: keeper.knowledge.own_since(shard, stamp))
            await self._elsewhere.give(there, payloads)
        return stamp

    def _where(self, kind: str, key: str) -> tuple[list[bytes], int]:
        return self._elsewhere.holders(kind, key), shard_of(kind, key, self._shell.shards)

    async def _put(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        kind, key, value = str(args["kind"]), _text(args["key"]), _value(body)
        tags = tuple(map(_text, args.get("tags") or ()))
        if looks_referring(value):
            raise BadEntry("a map that says '': 'blob' stands for a large value", hint="name that part otherwise")
        known = KINDS.get(kind)
        if len(body) > VALUE_BYTES_MAX and known is not None and known.crdt is Crdt.REGISTER:
            wrong = known.check(value)
            if wrong:
                raise BadEntry(f"the value of {key!r} {wrong}", kind=kind, key=key)
            value = referring(await self._large.keep(bytes(body)))
        return {
            "stamp": await self._said(
                *self._where(kind, key), lambda keeper: keeper.knowledge.put(kind, key, value, wall_ms(), tags=tags)
            )
        }

    async def _drop(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        kind, key = str(args["kind"]), _text(args["key"])
        element = _value(body) if len(body) else GONE
        there, shard = self._where(kind, key)
        seen = None
        if there and element is not GONE:
            seen = await self._elsewhere.seen(there, kind, key, bytes(body))
        return {
            "stamp": await self._said(
                there, shard, lambda keeper: keeper.knowledge.drop(kind, key, wall_ms(), element, seen)
            )
        }

    async def _count(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        kind, key = str(args["kind"]), _text(args["key"])
        up, down = _whole(args.get("up", 1)), _whole(args.get("down", 0))
        return {
            "stamp": await self._said(
                *self._where(kind, key), lambda keeper: keeper.knowledge.count(kind, key, wall_ms(), up, down)
            )
        }

    async def _use(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        key = _text(args["key"])
        if self._elsewhere.holders(FACTS, key):
            return await self._use_afar(key, brings_back=False)
        return {"weight": await self._shell.ask(lambda keeper: self._weighing.use(keeper, key), says=True)}

    async def _restore(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        key = _text(args["key"])
        if self._elsewhere.holders(FACTS, key):
            return await self._use_afar(key, brings_back=True)
        return {"weight": await self._shell.ask(lambda keeper: self._weighing.restore(keeper, key), says=True)}

    async def _use_afar(self, key: str, brings_back: bool) -> dict[str, Any]:
        """A use of a fact that others hold."""
        there, shard = self._where(FACTS, key)
        asked = {"kind": FACTS, "key": key, "use": False}
        header, _ = await self._elsewhere.get(there, asked)
        if brings_back and not header.get("pruned"):
            raise no_such_pruned(key)
        if not brings_back and not header["found"]:
            raise no_such_fact(key, bool(header.get("pruned")))

        def job(keeper: Keeper) -> int:
            self._weighing.weights(keeper).use_afar(key, wall_ms())
            return keeper.knowledge.clock.last

        await self._said(there, shard, job)
        header, _ = await self._elsewhere.get(there, asked)
        return {"weight": header["weight"]}

    async def _take(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        """A node that holds none of it gives what it said."""
        payloads = _value(body)
        if not isinstance(payloads, list) or not payloads or link.identity.role != "node":
            raise ValueError("a node gives segments")
        message = encode_plain([1, "fresh", payloads], FRAME_BYTES_MAX)
        if message is None:
            raise ValueError("that is too much at once")
        source, now = link.identity.id, self._shell.now

        def job(keeper: Keeper) -> bool:
            keeper.receive(now(), source, message)
            return all(keeper.has(payload) for payload in payloads)

        return {"held": await self._shell.ask(job, says=True)}

    async def _seen(self, link: Link, args: Mapping[str, Any], body: memoryview) -> tuple[dict[str, Any], bytes]:
        kind, key, element = str(args["kind"]), _text(args["key"]), _value(body)
        if self._elsewhere.holders(kind, key):
            raise NotHeld("this node does not hold that")
        found = await self._shell.ask(lambda keeper: keeper.knowledge.additions(kind, key, element))
        return {}, _packed(found)

    # --- asking ---------------------------------------------------------------------------------------------------------

    async def _get(self, link: Link, args: Mapping[str, Any], body: memoryview) -> tuple[dict[str, Any], bytes]:
        kind, key = str(args["kind"]), _text(args["key"])
        if args.get("at") is not None:
            return await self._get_then(args)
        if self.joining is not None and not self.joining.has(kind, key):
            answered = await self._by_others("knowledge.get", args)
            if answered is not None:
                return answered
        use = args.get("use") is not False
        there = self._elsewhere.holders(kind, key)
        if there:
            if args.get("here"):
                raise NotHeld("this node does not hold that")
            try:
                asked = {"kind": kind, "key": key, "use": use, "said": args.get("said") is True}
                header, raw = await self._elsewhere.get(there, asked)
            except AskFailed as error:
                raise _as_there(error) from None
            return dict(header), raw
        header, value = await self._shell.ask(lambda keeper: self._known(keeper, kind, key, use))
        if args.get("said") is True:
            header["said"] = await self._shell.ask(lambda keeper: _sayings(keeper, kind, key))
        if value is GONE:
            return header, b""
        reference = reference_in(value)
        return header, _packed(value) if reference is None else await self._large.value(reference)

    async def _by_others(self, method: str, args: Mapping[str, Any]) -> tuple[dict[str, Any], bytes] | None:
        """Have a peer answer what this node cannot yet; None where nobody knows more: the fleet has begun just now."""
        assert self.joining is not None
        if args.get("passed_on"):
            raise NotHeld("this node has joined just now, too")
        answered = await self.joining.forward(method, {**args, "passed_on": True})
        return None if answered is None else (dict(answered[0]), answered[1])

    async def _get_then(self, args: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        if self.joining is not None and not self.joining.over:
            answered = await self._by_others("knowledge.get", args)
            if answered is not None:
                return answered
        kind, key, at = str(args["kind"]), _text(args["key"]), args["at"]
        there = self._elsewhere.holders(kind, key)
        if there:
            if args.get("here") is True:
                raise NotHeld("this node does not hold that")
            try:
                header, raw = await self._elsewhere.get(there, {"kind": kind, "key": key, "at": at})
            except AskFailed as error:
                raise _as_there(error) from None
            return dict(header), raw
        header, raw = await self._then().get(kind, key, at)
        reference = reference_in(decode_plain(raw)) if raw else None
        return header, raw if reference is None else await self._large.value(reference)

    def _then(self) -> SnapshotAnswers:
        if self.past is None:
            raise SwarmError("this node reads no past", hint="ask another one")
        return self.past

    def _known(self, keeper: Keeper, kind: str, key: str, use: bool) -> tuple[dict[str, Any], Any]:
        """In the desk's thread: what is known under a key, and what there is to say about it."""
        knowledge, weighing = keeper.knowledge, self._weighing
        header: dict[str, Any] = {}
        if kind in (FACTS, BELIEFS):
            weighing.fading(keeper)  # the policy as it is now
        value = knowledge.get(kind, key, GONE)
        if kind == FACTS:
            weights = weighing.weights(keeper)
            header["weight"] = weights.weight(key, wall_ms())
            if value is not GONE and use:
                weights.use(key)
            elif value is GONE and weights.is_pruned(key):
                header["pruned"] = True
        elif kind == BELIEFS and value is not GONE:
            belief = weighing.belief(keeper, key)
            value, header["belief"] = belief.log_odds, _shown_belief(belief)
        return {"found": value is not GONE, "stamp": knowledge.stamp(kind, key), **header}, value

    async def _query(self, link: Link, args: Mapping[str, Any], body: memoryview) -> tuple[dict[str, Any], bytes]:
        if self.joining is not None and not self.joining.over:
            answered = await self._by_others("knowledge.query", args)
            if answered is not None:
                return answered
        kind = str(args["kind"])
        limit = args.get("limit")
        most = ROWS_MAX if limit is None else min(_whole(limit), ROWS_MAX)
        text, by_weight = _text_or_none(args.get("text")), args.get("order") == "weight"
        if by_weight and kind != FACTS:
            raise SwarmError("only facts have weights", hint="leave the order away")
        if (text is not None or by_weight) and args.get("at") is not None:
            raise SwarmError(
                "of the past there are no words and no weights", hint="leave the moment, or the rest, away"
            )
        if text is not None and (
            by_weight or any(args.get(name) for name in ("prefix", "start", "stop", "tag", "reverse"))
        ):
            raise SwarmError(
                "a search for words takes no prefix, start, stop, tag, order or moment", hint="say one of them"
            )
        if args.get("at") is not None:
            return await self._query_then(kind, args, most)
        held, lacking = self._elsewhere.shards(kind)
        if args.get("here"):
            wanted = frozenset(_whole(number) for number in args["shards"])
            if not wanted <= held:
                raise NotHeld("this node does not hold all of that")
            only: frozenset[int] | None = wanted
            lacking = []
        else:
            only = held if lacking else None
        asked = {name: args[name] for name in args if name not in ("here", "shards")} | {"limit": most, "ranks": True}
        sought = asked if lacking else args
        mine: Any = self._shell.ask(lambda keeper: self._rows(keeper, kind, sought, most + 1, only))
        if not lacking:
            rows = await mine
            # What is sought by words or by weight comes in one part: who wants more than the best thousand asks for other things.
            part = part_of(rows[:most])
            more = len(part) < len(rows) and not (text is not None or by_weight)
            return {"more": more}, joined(part)
        try:
            parts = await self._elsewhere.query(lacking, asked)
        except AskFailed as error:
            mine.cancel()
            raise _as_there(error) from None
        rows = await mine
        if text is not None or by_weight:
            # Of rows that are sought by words or by weight the last item is what they are ordered by.
            at = 2 if by_weight else 3
            every = [row for _, there in parts for row in there] + rows
            best = sorted(every, key=lambda row: (-row[at] if by_weight else row[at], row[0]))[:most]
            return {"more": False}, joined(part_of([row[:3] for row in best]))
        more, merged = together(
            [*((more, there) for more, there in parts), (len(rows) > most, rows[:most])],
            most,
            args.get("reverse") is True,
        )
        part = part_of(merged)
        return {"more": more or len(part) < len(merged)}, joined(part)

    async def _query_then(self, kind: str, args: Mapping[str, Any], most: int) -> tuple[dict[str, Any], bytes]:
        """Of a moment of the past: what this node holds from its own, the rest from those who hold it."""
        held, lacking = self._elsewhere.shards(kind)
        only = held
        if args.get("here"):
            only, lacking = frozenset(_whole(number) for number in args["shards"]), []
            if not only <= held:
                raise NotHeld("this node does not hold all of that")
        asked = {**_sought(args), "limit": most + 1, "goes_on": args.get("after") is not None}
        header, rows = await self._then().query(kind, args["at"], asked, only)
        parts = [(len(rows) > most, rows[:most])]
        if lacking:
            there = {name: args[name] for name in args if name not in ("here", "shards")} | {"limit": most}
            try:
                parts += await self._elsewhere.query(lacking, there)
            except AskFailed as error:
                raise _as_there(error) from None
        more, merged = together(parts, most, args.get("reverse") is True)
        part = part_of(merged)
        return {**header, "more": more or len(part) < len(merged)}, joined(part)

    def _rows(
        self, keeper: Keeper, kind: str, args: Mapping[str, Any], most: int, only: frozenset[int] | None
    ) -> list[list[Any]]:
        """In the desk's thread: [key, value, weight or nil (, rank)] as they are asked for."""
        knowledge, now = keeper.knowledge, wall_ms()
        self._weighing.fading(keeper)
        text = _text_or_none(args.get("text"))
        weights: dict[str, float] = {}
        ranks: dict[str, float] = {}
        if text is not None:
            found = self._searched(keeper, kind, text, most, only)
            ranks = {key: rank for key, _, rank in found}
            rows: list[tuple[str, Any]] = [(key, value) for key, value, _ in found]
        else:
            sought = _sought(args)
            if args.get("order") == "weight":
                keys = list(knowledge.keys(kind, **sought, only=only))
                best = self._weighing.weights(keeper).heaviest(keys, now, most)
                weights = dict(best)
                rows = [(key, knowledge.get(kind, key)) for key, _ in best]
            else:
                rows = knowledge.query(kind, **sought, limit=most, only=only)
        if kind == BELIEFS:
            rows = [(key, self._weighing.belief(keeper, key).log_odds) for key, _ in rows]
        elif kind == FACTS and args.get("weights") is True and not weights:
            weights = dict(self._weighing.weights(keeper).heaviest([key for key, _ in rows], now))
        plain = args.get("weights") is not True and not args.get("ranks")
        return [
            [key, value] if plain else [key, value, weights.get(key), *((ranks[key],) if ranks else ())]
            for key, value in rows
        ]

    def _searched(
        self, keeper: Keeper, kind: str, text: str, limit: int, only: frozenset[int] | None
    ) -> list[tuple[str, Any, float]]:
        """In the desk's thread: the best finds."""
        if self._texts is None:
            from nodes.knowledge.texts import Texts

            self._texts = Texts(keeper.knowledge)
        found = self._texts.search(kind, text, limit if only is None else 8 * limit)
        if only is not None:
            found = [row for row in found if shard_of(kind, row[0], self._shell.shards) in only]
        return found[:limit]

    async def _pruned(self, link: Link, args: Mapping[str, Any], body: memoryview) -> tuple[dict[str, Any], bytes]:
        """Of what this node holds: [key, when, until when it may be brought back]."""
        rows = await self._shell.ask(self._weighing.pruned)
        after = _text_or_none(args.get("after"))
        rows = [list(row) for row in rows if after is None or row[0] > after]
        part = part_of(rows)
        return {"more": len(part) < len(rows)}, joined(part)

    # --- watching -------------------------------------------------------------------------------------------------------

    async def _watch(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        shards = frozenset(_whole(number) for number in args["shards"]) if args.get("here") else None
        return {"watch": await self.watches.begin(link, str(args["kind"]), _text(args.get("prefix") or ""), shards)}

    async def _changes(self, link: Link, args: Mapping[str, Any], body: memoryview) -> tuple[dict[str, Any], bytes]:
        wait_s = min(max(0.0, float(args.get("wait_s", 0.0))), WAIT_S_MAX)
        watch = self.watches.of(link, args["watch"])
        await self.watches.fill(watch, wait_s)
        lost, watch.lost = watch.lost, False
        if lost:
            watch.waiting.clear()
        changes = [watch.waiting[at] for at in range(min(ROWS_MAX, len(watch.waiting)))]
        rows = [[row.key, None, True] if row.value is GONE else [row.key, row.value, False] for row in changes]
        if watch.watch.kind == BELIEFS and rows and not args.get("here"):
            await self._shell.ask(lambda keeper: self._believe(keeper, rows))
        part = part_of(rows)
        for _ in part:
            watch.waiting.popleft()
        return {"lost": lost, "more": bool(watch.waiting)}, joined(part)

    async def _unwatch(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        self.watches.end(self.watches.of(link, args["watch"]))
        return {}

    def _believe(self, keeper: Keeper, rows: list[list[Any]]) -> None:
        """In the desk's thread: beliefs as they are now, where they are held here."""
        for row in rows:
            if not row[2] and not self._elsewhere.holders(BELIEFS, row[0]):
                row[1] = self._weighing.belief(keeper, row[0]).log_odds


def _sought(args: Mapping[str, Any]) -> dict[str, Any]:
    """Which keys are asked for."""
    reverse = args.get("reverse") is True
    sought: dict[str, Any] = {
        "prefix": _text(args.get("prefix") or ""), "start": _text_or_none(args.get("start")),
        "stop": _text_or_none(args.get("stop")), "tag": _text_or_none(args.get("tag")), "reverse": reverse,
    }  # fmt: skip
    after = _text_or_none(args.get("after"))
    if after is not None:
        # The least text that comes after a key, or all that comes before it.
        sought["stop" if reverse else "start"] = after if reverse else after + "\0"
    return sought


def _as_there(error: AskFailed) -> SwarmError:
    """What a holder said, as if it had been said here."""
    made = _REFUSALS.get(str(error.facts.get("kind")), SwarmError)
    return made(error.message, hint=error.hint)


def _sayings(keeper: Keeper, kind: str, key: str) -> list[list[Any]]:
    """In the desk's thread: who said what counts about a key, and when; the last first."""
    said = keeper.knowledge.said(kind, key, SAYINGS_MAX)
    return [[author, entry.time, entry.op == Op.DROP, entry.task, entry.attempt] for author, entry in said]


def _shown_belief(belief: Belief) -> list[Any]:
    return [belief.log_odds, belief.evidence_for, belief.evidence_against, belief.authors]


def part_of(rows: list[Any], shown: Callable[[Any], list[Any]] = list) -> list[bytes]:
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
