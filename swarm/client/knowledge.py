"""What the fleet knows, for scripts: ``fleet.knowledge.put("facts", "room/7", {"key": "with the porter"})``.

Kinds and what they hold are those of `swarm.protocol.knowledge`: lessons, facts and policies have one value a key, marks are sets of elements,
tallies are counted, beliefs are evidence that adds up. What one node was told, all have within a moment; no node has to
be asked first, and two that say different things at once agree afterwards.

Facts fade: 50 cycles (of an hour) without use halve what one weighs, and what weighs less than 1/64 is pruned, and may be brought back for 30 days.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from kernels.plain import decode_plain, encode_plain
from swarm.errors import ConfigError, FleetNotFound, NotFound, SwarmError
from swarm.protocol import ids
from swarm.protocol.knowledge.beliefs import probability_of
from swarm.protocol.knowledge.bounds import BLOB_BYTES_MAX
from swarm.protocol.knowledge.stamps import ms_of

if TYPE_CHECKING:
    from swarm.client.engine import Engine

ASK_S: Final = 30.0
POLL_S: Final = 10.0
"""How long a node keeps a question for changes when there are none."""
AGAIN_S: Final = 0.2
"""Between questions while no node is there."""
REPLY_BYTES_MAX: Final = 1 << 30
_ABSENT: Final[Any] = object()


Moment = datetime | str | int
"""A time (a text in ISO 8601, UTC where it names no zone), milliseconds since 1970, or the stamp that `put` returned."""


def _moment(at: Moment | None) -> str | int | None:
    if isinstance(at, datetime):
        return at.astimezone(UTC).isoformat()
    return at


class Entry(NamedTuple):
    """What is known under a key."""

    key: str
    value: Any


class Weighed(NamedTuple):
    """A fact, and what it weighs now."""

    key: str
    value: Any
    weight: float


class LargeValue(NamedTuple):
    """In place of a value over 64 KiB in a list of them: `Knowledge.get` has it."""

    bytes: int
    id: str
    """BLAKE3 of the packed value."""


class Pruned(NamedTuple):
    """A fact that nobody used for long. Seconds since 1970."""

    key: str
    pruned_at: float
    restorable_until: float


class Belief(NamedTuple):
    """What the nodes together say of something now; what each said counts half 50 cycles later."""

    log_odds: float
    """The sum; 0 is even odds."""
    probability: float
    evidence_for: float
    """Log-odds, at least 0."""
    evidence_against: float
    """Log-odds, at most 0."""
    authors: int
    """Nodes that say something."""


class Saying(NamedTuple):
    """Who said what counts about a key, and when."""

    author: str
    """The id of a node, as `Fleet.members` shows it."""
    stamp: int
    at: float
    """Seconds since 1970, by the node that said it."""
    gone: bool
    """It said that there is nothing, or took an element out."""
    task: str
    """The task in which it was learned; "" where it was said otherwise."""


class Change(NamedTuple):
    """A key of which something else is known now. ``gone``: nothing is."""

    key: str
    value: Any
    gone: bool


def _shown(value: Any) -> Any:
    """A value as it stands in a list."""
    if isinstance(value, dict) and value.get("") == "blob" and isinstance(value.get("id"), bytes):
        return LargeValue(value["bytes"], value["id"].hex())
    return value


def _belief(header: Mapping[str, Any]) -> Belief:
    log_odds, evidence_for, evidence_against, authors = header.get("belief") or (0.0, 0.0, 0.0, 0)
    return Belief(log_odds, probability_of(log_odds), evidence_for, evidence_against, authors)


def _sayings(header: Mapping[str, Any]) -> list[Saying]:
    return [
        Saying(ids.encode32(author), stamp, ms_of(stamp) / 1000, gone, ids.text(task) if task else "")
        for author, stamp, gone, task, _ in header.get("said") or ()
    ]


def _packed(value: Any) -> bytes:
    raw = encode_plain(value, REPLY_BYTES_MAX)
    if raw is not None and len(raw) > BLOB_BYTES_MAX:
        raise ConfigError(
            f"a value of {len(raw)} bytes is more than the {BLOB_BYTES_MAX >> 20} MiB that may be known under one key",
            hint="put it into a file, and the file's name here",
        )
    if raw is None:
        raise ConfigError(
            "only plain values can be known: None, bool, int, float, str, bytes, lists and dicts",
            hint="put what is of another type into a file, and its name here",
        )
    return raw


class Knowledge:
    """What is known, by one connection (`Fleet.knowledge`)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def _ask(
        self, method: str, args: Mapping[str, Any], body: bytes = b"", timeout_s: float = ASK_S
    ) -> tuple[Any, Any]:
        value, raw = self._engine.query(f"knowledge.{method}", args, body, timeout_s)
        return value, decode_plain(raw) if raw else None

    def put(self, kind: str, key: str, value: Any, *, tags: Iterable[str] = ()) -> int:
        """Says what is known under a key, adds an element (marks), or gives evidence (beliefs). Returns the stamp, when it is on the disk of
        this node. SwarmError with its words when it is not taken."""
        return int(self._ask("put", {"kind": kind, "key": key, "tags": list(tags)}, _packed(value))[0]["stamp"])

    def drop(self, kind: str, key: str, element: Any = _ABSENT) -> int:
        """Says that nothing is known under a key any more, or takes an element out of its set (marks). Returns the stamp."""
        body = b"" if element is _ABSENT else _packed(element)
        return int(self._ask("drop", {"kind": kind, "key": key}, body)[0]["stamp"])

    def count(self, kind: str, key: str, up: int = 1, down: int = 0) -> int:
        """Counts (tallies). Returns the stamp."""
        return int(self._ask("count", {"kind": kind, "key": key, "up": up, "down": down})[0]["stamp"])

    def get(self, kind: str, key: str, default: Any = None, *, at: Moment | None = None, use: bool = True) -> Any:
        """What is known under a key: a value, a list of elements, or a sum (of beliefs the log-odds now); `default` if nothing is. Whoever gets a
        fact uses it, which keeps it from being pruned; not with ``use=False``. ``at`` a moment of the past (30 days): what was known then, to the
        entry (of beliefs the sum, not faded). SwarmError for a moment that is not kept."""
        found, value = self._ask("get", {"kind": kind, "key": key, "at": _moment(at), "use": use})
        return value if found["found"] else default

    def said(self, kind: str, key: str) -> list[Saying]:
        """Who said what counts about a key, and when, the last first: of a register what each said last, of a set each addition. At most
        100. It is no use of a fact."""
        return _sayings(self._ask("get", {"kind": kind, "key": key, "use": False, "said": True})[0])

    def weight(self, key: str) -> float:
        """What a fact weighs now: 1 when it is put, 1 more with each use (at most 8 by one node), half of it after 50 idle cycles. 0 if there is none. A
        pruned one weighs little."""
        return float(self._ask("get", {"kind": "facts", "key": key, "use": False})[0]["weight"])

    def use(self, key: str) -> float:
        """Uses a fact, as `get` does, and says so at once; what it weighs then. NotFound."""
        return float(self._ask("use", {"key": key})[0]["weight"])

    def restore(self, key: str) -> float:
        """Brings a pruned fact back, on all nodes; what it weighs then. NotFound if it is not pruned, or was for over 30 days."""
        return float(self._ask("restore", {"key": key})[0]["weight"])

    def pruned(self) -> Iterator[Pruned]:
        """Facts that were pruned and may be brought back, in the order of keys: of those that the node of this connection holds."""
        args: dict[str, Any] | None = {}
        while args is not None:
            header, rows = self._ask("pruned", args)
            for key, at_ms, until_ms in rows:
                yield Pruned(key, at_ms / 1000, until_ms / 1000)
            args = {"after": rows[-1][0]} if rows and header["more"] else None

    def belief(self, key: str) -> Belief:
        """What is believed of something now, and what speaks for and against it; even odds if nobody said anything."""
        return _belief(self._ask("get", {"kind": "beliefs", "key": key})[0])

    def query(
        self,
        kind: str,
        *,
        prefix: str = "",
        start: str | None = None,
        stop: str | None = None,
        tag: str | None = None,
        text: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
        by_weight: bool = False,
        weights: bool = False,
        at: Moment | None = None,
    ) -> Iterator[Any]:
        """What is known of a kind, in the order of keys: under a prefix, from `start` on and before `stop`, with a tag. Or, alone, what has
        all words of a `text` in its key, tags or value, the best first (1000 at most); ``room*`` stands for all that begin so. Of facts
        `by_weight` gives the heaviest first (1000 at most). Yields `Entry` (key, value), and with `weights` `Weighed` (key, value, weight). ``at`` a moment of the past: what was known then."""
        about = _about(start, stop, text, reverse, by_weight, weights, at)
        pages = _Pages({"kind": kind, "prefix": prefix, "tag": tag, **about}, limit)
        while (args := pages.next_args()) is not None:
            yield from pages.take(*self._ask("query", args))

    def watch(self, kind: str, prefix: str = "", *, current: bool = False) -> Watch:
        """What changes of a kind under a prefix, from now on: iterate over it, and close it.

        With ``current=True`` what is known comes first. When the connection has to go to another node, what is known then comes
        again: whoever takes each change as the state of its key misses nothing.
        """
        return Watch(self, kind, prefix, current)


def _about(
    start: str | None,
    stop: str | None,
    text: str | None,
    reverse: bool,
    by_weight: bool,
    weights: bool,
    at: Moment | None,
) -> dict[str, Any]:
    about: dict[str, Any] = {"start": start, "stop": stop, "text": text, "reverse": reverse, "at": _moment(at)}
    if by_weight:
        about["order"] = "weight"
    return about | ({"weights": True} if weights else {})


class _Pages:
    """A long answer in parts."""

    def __init__(self, args: Mapping[str, Any], limit: int | None) -> None:
        self._args = dict(args)
        self._left = limit
        self._more = limit is None or limit > 0

    def next_args(self) -> dict[str, Any] | None:
        return {**self._args, "limit": self._left} if self._more else None

    def take(self, header: Mapping[str, Any], rows: list[list[Any]]) -> list[Any]:
        found: list[Any]
        if self._args.get("weights"):
            found = [Weighed(row[0], _shown(row[1]), row[2]) for row in rows]
        else:
            found = [Entry(row[0], _shown(row[1])) for row in rows]
        if self._left is not None:
            self._left -= len(found)
        self._more = bool(found) and header["more"] and self._left != 0
        if found:
            self._args["after"] = found[-1].key
        return found


class _Following:
    """What a watch knows of its node: which keys were there, to tell those that went while it was not linked."""

    def __init__(self, kind: str, prefix: str, current: bool) -> None:
        self.args = {"kind": kind, "prefix": prefix}
        self.number: int | None = None
        self.all_wanted = current
        self.keys: set[str] = set()

    def began(self, header: Mapping[str, Any]) -> bool:
        """A node watches; whether what is known has to be looked at."""
        self.number = header["watch"]
        return self.all_wanted

    def looked(self, entries: list[Entry]) -> list[Change]:
        """All that is known now: as changes."""
        there = {entry.key for entry in entries}
        gone = [Change(key, None, True) for key in sorted(self.keys - there)]
        self.keys, self.all_wanted = there, False
        return gone + [Change(key, value, False) for key, value in entries]

    def read(self, header: Mapping[str, Any], rows: list[list[Any]]) -> list[Change]:
        """An answer about changes."""
        if header["lost"]:
            self.number, self.all_wanted = None, True
        changes = [Change(key, _shown(value), gone) for key, value, gone in rows]
        for change in changes:
            (self.keys.discard if change.gone else self.keys.add)(change.key)
        return changes

    def failed(self, error: SwarmError) -> bool:
        """Whether it is to be tried again: the node is another one, or will be."""
        self.number, self.all_wanted = None, True
        return isinstance(error, FleetNotFound | NotFound)


class Watch:
    """Changes, as they come. An iterator without end; `close` ends it, as the ``with`` statement does."""

    def __init__(self, knowledge: Knowledge, kind: str, prefix: str, current: bool) -> None:
        self._knowledge = knowledge
        self._following = _Following(kind, prefix, current)
        self._changes: list[Change] = []
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        following = self._following
        header, _ = self._knowledge._ask("watch", following.args)
        if following.began(header):
            entries = list(self._knowledge.query(following.args["kind"], prefix=following.args["prefix"]))
            self._changes += following.looked(entries)

    def read(self, timeout_s: float = POLL_S) -> list[Change]:
        """What changed since the last call; waits at most `timeout_s` seconds for something. SwarmError."""
        following = self._following
        if not self._changes:
            if following.number is None:
                self._begin()
            else:
                args = {"watch": following.number, "wait_s": timeout_s}
                header, rows = self._knowledge._ask("changes", args, timeout_s=timeout_s + ASK_S)
                self._changes += following.read(header, rows)
        found, self._changes = self._changes, []
        return found

    def __iter__(self) -> Iterator[Change]:
        import time

        while not self._closed:
            try:
                found = self.read()
            except SwarmError as error:
                if self._closed or not self._following.failed(error):
                    raise
                time.sleep(AGAIN_S)
                continue
            yield from found

    def close(self) -> None:
        """Watches no more."""
        if not self._closed:
            self._closed = True
            if self._following.number is not None:
                try:
                    self._knowledge._ask("unwatch", {"watch": self._following.number}, timeout_s=POLL_S)
                except SwarmError:
                    pass  # the node is gone, and the watch with it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncKnowledge:
    """As `Knowledge`, for coroutines (`AsyncFleet.knowledge`)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def _ask(
        self, method: str, args: Mapping[str, Any], body: bytes = b"", timeout_s: float = ASK_S
    ) -> tuple[Any, Any]:
        async with asyncio.timeout(timeout_s):
            value, raw = await asyncio.wrap_future(self._engine.asking(f"knowledge.{method}", args, body))
        return value, decode_plain(raw) if raw else None

    async def put(self, kind: str, key: str, value: Any, *, tags: Iterable[str] = ()) -> int:
        """As `Knowledge.put`."""
        header, _ = await self._ask("put", {"kind": kind, "key": key, "tags": list(tags)}, _packed(value))
        return int(header["stamp"])

    async def drop(self, kind: str, key: str, element: Any = _ABSENT) -> int:
        """As `Knowledge.drop`."""
        body = b"" if element is _ABSENT else _packed(element)
        return int((await self._ask("drop", {"kind": kind, "key": key}, body))[0]["stamp"])

    async def count(self, kind: str, key: str, up: int = 1, down: int = 0) -> int:
        """As `Knowledge.count`."""
        return int((await self._ask("count", {"kind": kind, "key": key, "up": up, "down": down}))[0]["stamp"])

    async def get(self, kind: str, key: str, default: Any = None, *, at: Moment | None = None, use: bool = True) -> Any:
        """As `Knowledge.get`."""
        found, value = await self._ask("get", {"kind": kind, "key": key, "at": _moment(at), "use": use})
        return value if found["found"] else default

    async def said(self, kind: str, key: str) -> list[Saying]:
        """As `Knowledge.said`."""
        return _sayings((await self._ask("get", {"kind": kind, "key": key, "use": False, "said": True}))[0])

    async def weight(self, key: str) -> float:
        """As `Knowledge.weight`."""
        return float((await self._ask("get", {"kind": "facts", "key": key, "use": False}))[0]["weight"])

    async def use(self, key: str) -> float:
        """As `Knowledge.use`."""
        return float((await self._ask("use", {"key": key}))[0]["weight"])

    async def restore(self, key: str) -> float:
        """As `Knowledge.restore`."""
        return float((await self._ask("restore", {"key": key}))[0]["weight"])

    async def pruned(self) -> AsyncIterator[Pruned]:
        """As `Knowledge.pruned`."""
        args: dict[str, Any] | None = {}
        while args is not None:
            header, rows = await self._ask("pruned", args)
            for key, at_ms, until_ms in rows:
                yield Pruned(key, at_ms / 1000, until_ms / 1000)
            args = {"after": rows[-1][0]} if rows and header["more"] else None

    async def belief(self, key: str) -> Belief:
        """As `Knowledge.belief`."""
        return _belief((await self._ask("get", {"kind": "beliefs", "key": key}))[0])

    async def query(
        self,
        kind: str,
        *,
        prefix: str = "",
        start: str | None = None,
        stop: str | None = None,
        tag: str | None = None,
        text: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
        by_weight: bool = False,
        weights: bool = False,
        at: Moment | None = None,
    ) -> AsyncIterator[Any]:
        """As `Knowledge.query`: ``async for key, value in fleet.knowledge.query("facts")``."""
        about = _about(start, stop, text, reverse, by_weight, weights, at)
        pages = _Pages({"kind": kind, "prefix": prefix, "tag": tag, **about}, limit)
        while (args := pages.next_args()) is not None:
            for entry in pages.take(*await self._ask("query", args)):
                yield entry

    async def watch(self, kind: str, prefix: str = "", *, current: bool = False) -> AsyncWatch:
        """As `Knowledge.watch`: ``async with await fleet.knowledge.watch("facts") as changes: async for change in changes``."""
        watch = AsyncWatch(self, kind, prefix, current)
        await watch._begin()
        return watch


class AsyncWatch:
    """As `Watch`, for coroutines."""

    def __init__(self, knowledge: AsyncKnowledge, kind: str, prefix: str, current: bool) -> None:
        self._knowledge = knowledge
        self._following = _Following(kind, prefix, current)
        self._changes: list[Change] = []
        self._closed = False

    async def _begin(self) -> None:
        following = self._following
        header, _ = await self._knowledge._ask("watch", following.args)
        if following.began(header):
            found = self._knowledge.query(following.args["kind"], prefix=following.args["prefix"])
            self._changes += following.looked([entry async for entry in found])

    async def read(self, timeout_s: float = POLL_S) -> list[Change]:
        """As `Watch.read`."""
        following = self._following
        if not self._changes:
            if following.number is None:
                await self._begin()
            else:
                args = {"watch": following.number, "wait_s": timeout_s}
                header, rows = await self._knowledge._ask("changes", args, timeout_s=timeout_s + ASK_S)
                self._changes += following.read(header, rows)
        found, self._changes = self._changes, []
        return found

    async def __aiter__(self) -> AsyncIterator[Change]:
        while not self._closed:
            try:
                found = await self.read()
            except SwarmError as error:
                if self._closed or not self._following.failed(error):
                    raise
                await asyncio.sleep(AGAIN_S)
                continue
            for change in found:
                yield change

    async def close(self) -> None:
        """Watches no more."""
        if not self._closed:
            self._closed = True
            if self._following.number is not None:
                try:
                    await self._knowledge._ask("unwatch", {"watch": self._following.number}, timeout_s=POLL_S)
                except (SwarmError, TimeoutError):
                    pass  # the node is gone, and the watch with it

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
