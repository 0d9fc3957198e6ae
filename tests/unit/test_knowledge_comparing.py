"""The past of two nodes that compare it: what one lacks comes, what is not to be used is refused, and nothing of it counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kernels.plain import decode_plain, encode_plain
from nodes.knowledge.comparing import Comparing, Disagrees
from nodes.knowledge.elsewhere import NoHolder
from nodes.knowledge.store import PAST_KEPT_MS, place_of
from nodes.knowledge.telling_past import ROW_BYTES, ROWS_MAX, WANTED_MAX, Row, TellingPast, packed, unpacked
from nodes.queries import AskFailed
from swarm.errors import SwarmError
from swarm.protocol.knowledge.bounds import SHARDS
from swarm.protocol.knowledge.entries import BODY_AT as BODY
from swarm.protocol.knowledge.entries import Entry, Op, seal, shard_of
from swarm.protocol.knowledge.keeper import Keeper
from swarm.protocol.knowledge.stamps import time_of
from tests.unit.test_knowledge_desk import Post

SHARD = shard_of("facts", "k", SHARDS)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Node:
    """Desk, shell and switchboard of one node, as far as comparing uses them."""

    def __init__(self, post: Post, name: str) -> None:
        self.name = name
        self.desk = post.open(name)
        self.own = post.enrolled(name)
        self.id = self.own.id
        self.methods: dict[str, Any] = {}
        self.peers: dict[bytes, Node] = {}
        self.facts: list[str] = []
        self.asked_of: list[str] = []
        self.changed: Callable[[str, Any], Any] = lambda method, answer: answer
        self.shell: Any = SimpleNamespace(
            shards=SHARDS, desk=self.desk, authors=post.authors[self.id], holding=False, closing=False, met=True, joins=False,
            now=time.monotonic, ask=self.ask, others=lambda number: sorted(self.peers), holders=lambda number: [],
            partners=lambda: sorted(self.peers), is_linked=self.peers.__contains__, name_of=lambda node: node.hex(),
            link_to=lambda node: SimpleNamespace(
                identity=SimpleNamespace(id=node, name=self.peers[node].name, role="node")
            ),
            learn=lambda certificates: None,
            around=SimpleNamespace(fact=lambda fact: self.facts.append(fact.name)),
        )  # fmt: skip
        switchboard: Any = SimpleNamespace(serve=self.methods.__setitem__, asked=self.asked)
        TellingPast(post.root / name, self.shell, switchboard)
        self.switchboard = switchboard

    def begin(self) -> None:
        self.comparing = Comparing(self.shell, self.switchboard, 1 << 20)

    def ask(self, job: Any, says: bool = False) -> Any:
        return asyncio.wrap_future(self.desk.ask(job, says))

    async def asked(
        self, link: Any, method: str, args: Mapping[str, Any], body: bytes = b"", timeout_s: float = 5
    ) -> Any:
        other = self.peers[link.identity.id]
        self.asked_of.append(method)
        if method not in other.methods:
            raise AskFailed("no such method", kind="unknown-method")
        asker: Any = SimpleNamespace(identity=SimpleNamespace(role="node"))
        try:
            return other.changed(method, await other.methods[method](asker, args, memoryview(body)))
        except (ValueError, SwarmError) as error:
            raise AskFailed(str(error), kind="bad-arguments") from None

    def said(self, number: int, key: str = "k", size: int = 10) -> bytes:
        """A segment of this node, which is nowhere yet."""
        shard = shard_of("facts", key, SHARDS)
        entry = Entry(time_of(1000 + number), "facts", key, Op.PUT, f"{number}".ljust(size))
        return seal(self.id, time_of(1000 + number), shard, 0, [entry], self.own.sign).raw

    def let_go(self, payloads: list[bytes], gone_ms: int) -> None:
        rows = [(int.from_bytes(payload[1:3], "big"), payload, gone_ms) for payload in payloads]
        self.desk.ask(lambda keeper: self.desk.store.add_past(rows)).result(10)  # type: ignore[union-attr]

    def past(self, numbers: list[bytes]) -> list[bool]:
        def job(keeper: Keeper) -> list[bool]:
            assert self.desk.store is not None
            return [self.desk.store.has_past(SHARD, place_of(payload)) for payload in numbers]

        found: list[bool] = self.desk.ask(job).result(10)
        return found

    def since(self) -> int:
        found: int = self.desk.ask(lambda keeper: self.desk.store.since_ms(now_ms(), (SHARD,))).result(10)  # type: ignore[union-attr]
        return found


def two(root: Path, play: Callable[[Node, Node, Post], Coroutine[Any, Any, None]]) -> None:
    """Two nodes that reach each other."""
    post = Post(root)
    for name in ("ash", "oak"):
        post.enrolled(name)
    ash, oak = (Node(post, name) for name in ("ash", "oak"))
    ash.peers[oak.id], oak.peers[ash.id] = oak, ash

    async def begun() -> None:
        ash.begin()
        oak.begin()
        await asyncio.wait_for(play(ash, oak, post), 60)

    try:
        asyncio.run(begun())
    finally:
        for desk in list(post.desks.values()):
            post.close(desk)


def test_what_lacks_comes_once_and_reaches_as_far_back(tmp_path: Path) -> None:
    async def play(ash: Node, oak: Node, post: Post) -> None:
        gone = [ash.said(number) for number in range(30)]
        old = ash.said(99)
        ash.let_go(gone, now_ms())
        ash.let_go([old], now_ms() - PAST_KEPT_MS - 60_000)
        await ash.ask(lambda keeper: ash.desk.store.set_since(5, SHARD))  # type: ignore[union-attr]
        await ash.ask(lambda keeper: keeper.knowledge.put("facts", "k", "now", now_ms()), True)
        assert await oak.comparing.settle(now_ms(), [SHARD]) == []
        assert all(oak.past(gone)) and not any(oak.past([old])) and oak.since() == 5
        assert await oak.ask(lambda keeper: keeper.knowledge.get("facts", "k")) == "now"
        # Of moments before that nobody is asked; of later ones only what is new is told.
        oak.asked_of.clear()
        assert await oak.comparing.settle(now_ms() - 60_000, [SHARD]) == [] and oak.asked_of == []
        more = ash.said(31)
        ash.let_go([more], now_ms())
        assert await oak.comparing.settle(now_ms(), [SHARD]) == []
        assert all(oak.past([more])) and oak.facts == ["knowledge.past_fetched"] * 2
        # What was in the past of neither, and in the log of one, is not asked for.
        assert await ash.comparing.settle(now_ms(), range(SHARDS)) == []
        assert "knowledge.past_of" not in ash.asked_of

    two(tmp_path, play)


def test_more_than_goes_into_one_message(tmp_path: Path) -> None:
    async def play(ash: Node, oak: Node, post: Post) -> None:
        gone = [ash.said(number, size=60_000) for number in range(40)]
        ash.let_go(gone[:10], now_ms())
        assert await oak.comparing.settle(now_ms(), [SHARD]) == []
        assert all(oak.past(gone[:10])) and oak.asked_of.count("knowledge.past_of") == 1
        ash.let_go(gone[10:], now_ms())
        # More than this node keeps of the past is refused: it is not whole, and nothing that was there goes for it.
        with pytest.raises(NoHolder, match="no room"):
            await oak.comparing.settle(now_ms(), [SHARD])
        assert all(oak.past(gone[:10]))
        oak.comparing.bytes_max = 1 << 30
        assert await oak.comparing.settle(now_ms(), [SHARD]) == []
        assert all(oak.past(gone))

    two(tmp_path, play)


def test_an_earlier_release_and_one_that_is_not_reached(tmp_path: Path) -> None:
    async def play(ash: Node, oak: Node, post: Post) -> None:
        methods = dict(ash.methods)
        ash.methods.clear()
        await ash.ask(lambda keeper: keeper.knowledge.put("facts", "k", 1, now_ms()), True)
        assert await oak.comparing.settle(now_ms(), [SHARD]) == []
        assert await oak.ask(lambda keeper: keeper.knowledge.get("facts", "k")) == 1, "what it holds comes"
        ash.methods.update(methods)
        oak.shell.link_to = lambda node: None
        assert await oak.comparing.settle(now_ms() - 60_000, [SHARD]) == [], "it was compared since"
        with pytest.raises(NoHolder, match="is not reached") as refused:
            await oak.comparing.settle(now_ms() + 1000, [SHARD])
        assert "dead" in refused.value.hint
        oak.peers.clear()
        assert await oak.comparing.settle(now_ms() + 1000, [SHARD]) == [], "it is the only one now"

    two(tmp_path, play)


def changed_header(method: str, **new: Any) -> Callable[[str, Any], Any]:
    def change(asked: str, answer: Any) -> Any:
        header, body = answer
        if asked != method:
            return answer
        return {name: value for name, value in {**header, **new}.items() if value != "gone"}, new.get("body", body)

    return change


LIES: dict[str, Callable[[Node], Callable[[str, Any], Any]]] = {
    "no digests": lambda ash: changed_header("knowledge.past", digests="gone"),
    "digests of other shards": lambda ash: changed_header("knowledge.past", digests=[[SHARDS, bytes(16)]]),
    "a digest that is too long": lambda ash: changed_header("knowledge.past", digests=[[0, bytes(17)]]),
    "an epoch that is none": lambda ash: changed_header("knowledge.past", epoch=7),
    "no since": lambda ash: changed_header("knowledge.past", since=[[0, "x"]]),
    "rows of no length": lambda ash: changed_header("knowledge.past", body=bytes(ROW_BYTES + 1)),
    "too many rows": lambda ash: changed_header("knowledge.past", body=bytes(ROW_BYTES * (ROWS_MAX + 1))),
    "rows without end": lambda ash: changed_header("knowledge.past", more=True, last=0),
    "nothing is given": lambda ash: changed_header("knowledge.past_of", looked=0),
    "too much is given": lambda ash: changed_header("knowledge.past_of", looked=WANTED_MAX),
    "no list": lambda ash: changed_header("knowledge.past_of", body=encode_plain({}) or b""),
    "no MessagePack": lambda ash: changed_header("knowledge.past_of", body=b"\xc1\xc1"),
    "what nobody asked for": lambda ash: changed_header(
        "knowledge.past_of", body=encode_plain([[1, ash.said(50)], [1, ash.said(51)]]) or b""
    ),
    "another's signature": lambda ash: forged,
    "no segment": lambda ash: changed_header("knowledge.past_of", body=encode_plain([[1, b"x"]]) or b""),
}


def forged(method: str, answer: Any) -> Any:
    if method != "knowledge.past_of":
        return answer
    found: Any = decode_plain(answer[1])
    for row in found:
        payload = bytearray(row[1])
        # The signature is no part of the place: what was asked for came, and its author never said it.
        payload[BODY - 1] ^= 1
        row[1] = bytes(payload)
    return answer[0], encode_plain(found, 1 << 30)


@pytest.mark.parametrize("lie", LIES)
def test_what_breaks_the_rules_is_refused_and_nothing_of_it_counts(tmp_path: Path, lie: str) -> None:
    async def play(ash: Node, oak: Node, post: Post) -> None:
        gone = [ash.said(number) for number in range(3)]
        ash.let_go(gone, now_ms())
        since = oak.since()
        ash.changed = LIES[lie](ash)
        with pytest.raises(NoHolder):
            await oak.comparing.settle(now_ms(), [SHARD])
        with pytest.raises(Disagrees) as refused:
            await oak.comparing._compared(ash.id)
        assert "ash" in str(refused.value) and refused.value.hint
        assert not any(oak.past(gone)) and oak.since() == since and "peer.violation" in oak.facts
        ash.changed = lambda method, answer: answer
        assert await oak.comparing.settle(now_ms(), [SHARD]) == []
        assert all(oak.past(gone))

    two(tmp_path, play)


def test_questions_that_are_none(tmp_path: Path) -> None:
    async def play(ash: Node, oak: Node, post: Post) -> None:
        link: Any = SimpleNamespace(identity=SimpleNamespace(id=ash.id))
        ask = partial(oak.asked, link)
        for after in (-1, "x", 1 << 63, 1.5):
            with pytest.raises(AskFailed):
                await ask("knowledge.past", {"after": after})
        for body in (b"x", bytes(26 * (WANTED_MAX + 1))):
            with pytest.raises(AskFailed):
                await ask("knowledge.past_of", {}, body)
        header, raw = await ask("knowledge.past_of", {}, bytes(26))
        assert header["looked"] == 1 and decode_plain(raw) == []
        client: Any = SimpleNamespace(identity=SimpleNamespace(role="client"))
        with pytest.raises(ValueError, match="nodes ask"):
            await ash.methods["knowledge.past"](client, {}, memoryview(b""))

    two(tmp_path, play)


def test_a_shard_that_came_late_begins_its_past_late(tmp_path: Path) -> None:
    async def play(ash: Node, oak: Node, post: Post) -> None:
        def held(numbers: list[int], at: int) -> list[int]:
            def job(keeper: Keeper) -> list[int]:
                store = ash.desk.store
                assert store is not None
                store.holds(numbers, at)
                return [store.since_ms(0, (number,)) for number in range(4)]

            found: list[int] = ash.desk.ask(job).result(10)
            return found

        await ash.ask(lambda keeper: ash.desk.store.set_since(7))  # type: ignore[union-attr]
        assert held([0, 1], 100) == [7, 7, 7, 7]
        assert held([0, 1, 2], 200) == [7, 7, 200, 7]
        assert held([0, 2], 300) == [7, 7, 200, 7]
        assert held([0, 1, 2], 400) == [7, 400, 200, 7], "it came again, and what was let go meanwhile is unknown"
        since = await ash.ask(lambda keeper: ash.desk.store.since_ms(0, range(4)))  # type: ignore[union-attr]
        assert since == 400

    two(tmp_path, play)


def test_rows_travel() -> None:
    rows = [Row(number, bytes([number] * 24), number << 30) for number in range(16)]
    assert unpacked(packed(rows)) == rows and unpacked(b"") == []
    for wrong in (b"x", bytes(ROW_BYTES * (ROWS_MAX + 1))):
        with pytest.raises(ValueError, match="no rows"):
            unpacked(wrong)


def test_what_is_named_and_not_given_any_more_makes_no_past_whole(tmp_path: Path) -> None:
    async def play(ash: Node, oak: Node, post: Post) -> None:
        gone = [ash.said(number) for number in range(3)]
        ash.let_go(gone, now_ms())
        await ash.ask(lambda keeper: ash.desk.store.set_since(5, SHARD))  # type: ignore[union-attr]
        since = oak.since()

        def fewer(method: str, answer: Any) -> Any:
            found: Any = decode_plain(answer[1]) if method == "knowledge.past_of" else None
            return answer if found is None else (answer[0], encode_plain(found[1:], 1 << 30))

        ash.changed = fewer
        assert await oak.comparing.settle(now_ms(), [SHARD]) == []
        assert sum(oak.past(gone)) == 2 and oak.since() == since

    two(tmp_path, play)


def test_many_who_ask_at_once_are_answered_by_few_questions(tmp_path: Path) -> None:
    async def play(ash: Node, oak: Node, post: Post) -> None:
        ash.let_go([ash.said(1)], now_ms())
        asking = [oak.comparing.settle(now_ms(), [number]) for number in range(SHARDS) for _ in range(20)]
        assert await asyncio.gather(*asking) == [[]] * len(asking)
        # The one under way, and one for those who asked after it began; each asks what is held, and for rows.
        assert oak.asked_of.count("knowledge.past") <= 2 * 2 and oak.asked_of.count("knowledge.past_of") == 1
        await oak.comparing.close()

    two(tmp_path, play)


def test_who_has_begun_just_now_waits_for_others_where_there_were_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play(ash: Node, oak: Node, post: Post) -> None:
        peers, oak.peers, oak.shell.met = oak.peers, {}, False
        assert await oak.comparing.settle(now_ms(), [SHARD]) == [], "it was always alone"
        await oak.ask(lambda keeper: oak.desk.store.holds(range(SHARDS), now_ms()))  # type: ignore[union-attr]
        gone = ash.said(1)
        ash.let_go([gone], now_ms())
        asking = asyncio.ensure_future(oak.comparing.settle(now_ms(), [SHARD]))
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert not asking.done()
        oak.peers, oak.shell.met = peers, True
        assert await asking == [] and all(oak.past([gone]))
        oak.peers, oak.shell.met = {}, False
        monkeypatch.setattr("nodes.knowledge.comparing.ALONE_S", 0.0)
        assert await oak.comparing.settle(now_ms(), [SHARD]) == [], "nobody is left"

    two(tmp_path, play)


def test_who_joins_vouches_for_nothing_and_who_reads_its_disk_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play(ash: Node, oak: Node, post: Post) -> None:
        gone = ash.said(1)
        ash.let_go([gone], now_ms())
        ash.shell.holding = ash.shell.joins = True
        assert await oak.comparing.settle(now_ms() - 60_000, [SHARD]) == []
        assert not any(oak.past([gone]))
        ash.shell.joins = False
        asking = asyncio.ensure_future(oak.comparing.settle(now_ms() - 60_000, [SHARD]))
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert not asking.done()
        ash.shell.holding = False
        assert await asking == [] and all(oak.past([gone]))
        monkeypatch.setattr("nodes.knowledge.telling_past.BEGUN_S", 0.0)
        ash.shell.holding = True
        with pytest.raises(NoHolder, match="has begun just now"):
            await oak.comparing.settle(now_ms(), [SHARD])

    two(tmp_path, play)
