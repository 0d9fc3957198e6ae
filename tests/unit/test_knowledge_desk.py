"""The thread of a node's knowledge and its file: full and damaged disks, authors gone and revoked, peers that break the rules."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nodes.knowledge.authors import Authors
from nodes.knowledge.desk import Desk, Full, Settled
from nodes.knowledge.store import FILE, NotWritten, Store, author_of, place_of
from swarm.errors import SystemRefused
from swarm.protocol.effects import Fact
from swarm.protocol.knowledge.bounds import SHARDS
from swarm.protocol.knowledge.entries import Entry, Op, Segment, read, seal, shard_of
from swarm.protocol.knowledge.keeper import KeeperConfig
from swarm.protocol.knowledge.shard import Outcome, Shard
from swarm.protocol.knowledge.stamps import time_of
from swarm.protocol.knowledge.views import GONE
from transport.fleet import Fleet, create_fleet, enroll
from transport.identity import Credentials, Untrusted

KEY = "k"
SHARD = shard_of("facts", KEY, SHARDS)
WITHIN_S = 15.0


class Tight(Store):
    """A store whose disk is full whenever it is told so."""

    full = False

    def add(self, *args: Any) -> None:
        pages = self._db.execute("PRAGMA page_count").fetchone()[0]
        self._db.execute(f"PRAGMA max_page_count = {pages if Tight.full else 1 << 30}")
        super().add(*args)


class Post:
    """Desks of some nodes, and what they have told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fleet: Fleet = create_fleet(root / "fleet", "lab", "ann")
        self.desks: dict[bytes, Desk] = {}
        self.authors: dict[bytes, Authors] = {}
        self.facts: list[tuple[bytes, Fact]] = []
        self.violations: list[tuple[bytes, str]] = []
        self.news: dict[bytes, int] = {}
        """How often those who wait at a node were told to look."""
        self.credentials: dict[str, Credentials] = {}
        self.lock = threading.Lock()

    def enrolled(self, name: str) -> Credentials:
        if name not in self.credentials:
            where = self.root / name
            self.credentials[name] = enroll(self.fleet, where, "node", name, (), time.time())
        return self.credentials[name]

    def open(self, name: str, bytes_max: int = 1 << 30, store: Callable[[Path], Store] = Store) -> Desk:
        mine = self.enrolled(name)
        authors = Authors(self.fleet.trust, mine.identity, mine.certificate)
        for other in self.credentials.values():
            authors.learn(other.certificate, time.time())
        config = KeeperConfig(gather_s=0.0, sync_every_s=0.1)
        desk = Desk(
            self.root / name, mine.id, mine.sign, authors, SHARDS, bytes_max, time.monotonic,
            lambda settled: self.settled(mine.id, settled), config, store, retry_s=0.05,
        )  # fmt: skip
        self.desks[mine.id] = desk
        self.authors[mine.id] = authors
        for known in self.authors.values():
            known.learn(mine.certificate, time.time())
        desk.start()
        self.tell_members()
        return desk

    def tell_members(self) -> None:
        for desk in self.desks.values():
            desk.post(lambda keeper, nodes=tuple(self.desks): keeper.members(time.monotonic(), nodes))

    def settled(self, source: bytes, settled: Settled) -> None:
        with self.lock:
            self.facts += [(source, fact) for fact in settled.facts]
            self.violations += [(each.peer, each.why) for each in settled.violations]
            self.news[source] = self.news.get(source, 0) + settled.news
        for node, message in settled.messages:
            if node in self.desks:
                self.desks[node].heard(source, message)
        for answer, value, error in settled.answers:
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(value)

    def has(self, name: str) -> bool:
        with self.lock:
            return any(fact.name == name for _, fact in self.facts)

    def close(self, desk: Desk) -> None:
        del self.desks[desk._author]
        desk.close()


@pytest.fixture
def post(tmp_path: Path) -> Iterator[Post]:
    Tight.full = False
    made = Post(tmp_path)
    yield made
    for desk in list(made.desks.values()):
        made.close(desk)


def put(desk: Desk, key: str, value: Any) -> Any:
    return desk.ask(lambda keeper: keeper.knowledge.put("facts", key, value, wall_ms()), says=True).result(WITHIN_S)


def get(desk: Desk, key: str) -> Any:
    return desk.ask(lambda keeper: keeper.knowledge.get("facts", key)).result(WITHIN_S)


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def until(condition: Callable[[], Any], what: str = "") -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def segment(mine: Credentials, key: str = KEY, value: Any = 1, ms: int | None = None, first: int = 0) -> Segment:
    stamp = time_of(wall_ms() if ms is None else ms)
    return seal(
        mine.id, stamp, shard_of("facts", key, SHARDS), first, [Entry(stamp, "facts", key, Op.PUT, value)], mine.sign
    )


# --- the file -------------------------------------------------------------------------------------------------------------


def test_what_was_written_is_there_again_and_rot_is_told_from_it(tmp_path: Path, post: Post) -> None:
    mine = post.enrolled("ash")
    one, two = segment(mine, ms=1000), segment(mine, ms=2000)
    store = Store(tmp_path)
    store.add([(SHARD, one.raw), (SHARD, two.raw), (SHARD, one.raw)], {mine.id: mine.certificate}, 7)
    assert (store.counts, store.bytes) == ({SHARD: 2}, len(one.raw) + len(two.raw))
    store.close()
    for at in range(0, len(two.raw), 7):
        rotten = bytearray(two.raw)
        rotten[at] ^= 1
        with sqlite3.connect(tmp_path / FILE) as db:
            db.execute("UPDATE segments SET payload = ? WHERE place = ?", (bytes(rotten), two.place))
        db.close()
        store = Store(tmp_path)
        assert [row.payload for row in store.rows()] == [one.raw, None], f"a bit of byte {at}"
        assert (store.authors(), store.clock()) == ({mine.id: mine.certificate}, 7)
        store.close()
    store = Store(tmp_path)
    assert len(list(store.rows())) == 2
    store.keep_only(SHARD, {one.place}, 0)
    assert [row.place for row in store.rows()] == [one.place]
    assert (store.counts, store.bytes) == ({SHARD: 1}, len(one.raw))
    store.close()


def test_places_and_authors_of_segments_and_of_proofs(post: Post) -> None:
    mine = post.enrolled("ash")
    one, two = segment(mine, value=1, ms=1000), segment(mine, value=2, ms=1000)
    shard = Shard(SHARD, SHARDS, lambda *signed: None)
    assert shard.apply(one, wall_ms()) is Outcome.NEW
    assert shard.apply(two, wall_ms()) is Outcome.CONTRADICTS
    assert [place_of(payload) for payload in shard.segments()] == list(shard.tree.places())
    assert {author_of(payload) for payload in (*shard.segments(), one.raw)} == {mine.id}


def test_damaged_files_are_set_aside_and_those_of_a_later_release_are_not_touched(tmp_path: Path) -> None:
    for number in range(1, 11):
        (tmp_path / FILE).write_bytes(b"no database %d" % number + bytes(4096))
        store = Store(tmp_path)
        assert store.aside == tmp_path / f"{FILE}.damaged-{min(number, 8)}"
        assert list(store.rows()) == []
        store.close()
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(SystemRefused, match="later release"):
        Store(tmp_path)
    assert (tmp_path / FILE).exists()


def test_a_full_disk_takes_nothing_or_all(tmp_path: Path, post: Post) -> None:
    mine = post.enrolled("ash")
    store = Tight(tmp_path)
    Tight.full = True
    many = [(SHARD, segment(mine, value="x" * 9000, ms=ms).raw) for ms in range(1000, 1009)]
    with pytest.raises(NotWritten, match="full"):
        store.add(many, {}, 1)
    assert (store.counts, store.bytes, list(store.rows())) == ({}, 0, [])
    Tight.full = False
    store.add(many, {}, 1)
    assert sum(row.payload is not None for row in store.rows()) == 9
    store.close()


# --- whose word counts ----------------------------------------------------------------------------------------------------


def test_words_count_within_the_life_of_a_certificate_and_of_nodes_alone(post: Post) -> None:
    mine, elm = post.enrolled("ash"), post.enrolled("elm")
    authors = Authors(post.fleet.trust, mine.identity, mine.certificate)
    said = segment(elm)
    words = (elm.id, *_signed(said))
    assert authors.verify(*words) is Outcome.UNKNOWN_AUTHOR
    assert (authors.take_unknown(), authors.take_unknown()) == ([elm.id], [])
    assert authors.learn(elm.certificate, time.time()) and not authors.learn(elm.certificate, time.time())
    assert authors.verify(*words) is None
    assert authors.verify(mine.id, *words[1:]) is Outcome.SIGNATURE
    # The node has gone, its certificate has ended: what it said before counts, what is said now does not.
    later = Authors(post.fleet.trust, mine.identity, mine.certificate)
    assert later.learn(elm.certificate, elm.identity.expires_s + 1e6)
    assert later.verify(*words) is None
    over = segment(elm, ms=int(elm.identity.expires_s * 1000) + 1)
    assert later.verify(elm.id, *_signed(over)) is Outcome.UNKNOWN_AUTHOR
    client = enroll(post.fleet, post.root / "client", "client", "ann", (), time.time())
    assert not authors.learn(client.certificate, time.time())
    for bad in (b"", b"x" * 5000, None, elm.certificate[:-1]):
        with pytest.raises(Untrusted):
            authors.learn(bad, time.time())
    post.fleet.revoke(elm.id, time.time())
    assert authors.verify(*words) is Outcome.REVOKED
    assert authors.revoked(elm.id, elm.certificate)


def _signed(said: Segment) -> tuple[bytes, bytes]:
    from swarm.protocol.knowledge.entries import signature_of, signed

    return signed(said.raw), signature_of(said.raw)


# --- the thread -----------------------------------------------------------------------------------------------------------


def test_what_is_said_is_on_disk_before_the_answer_and_comes_back(post: Post) -> None:
    desk = post.open("ash")
    stamps = [put(desk, f"k{number}", number) for number in range(50)]
    assert stamps == sorted(set(stamps))
    # Another process that reads the file now, as after a crash, finds all of it.
    db = sqlite3.connect(f"file:{post.root / 'ash' / FILE}?mode=ro", uri=True)
    kept = [payload for (payload,) in db.execute("SELECT payload FROM segments")]
    db.close()
    assert sum(read(payload).count for payload in kept) == 50
    post.close(desk)
    again = post.open("ash")
    assert [get(again, f"k{number}") for number in range(50)] == list(range(50))
    assert put(again, "k0", "new") > stamps[-1]
    lines = again.ask(lambda keeper: [len(shard.lines()) for shard in keeper.knowledge.shards.values()]).result(60)
    assert set(lines) == {1}, "a line goes on after a start"


def test_while_the_disk_is_full_nothing_is_told_and_nothing_lost(post: Post) -> None:
    ash, elm = post.open("ash", store=Tight), post.open("elm")
    put(ash, "a", 1)
    until(lambda: get(elm, "a") == 1)
    Tight.full = True
    with pytest.raises(NotWritten, match="known here until this node stops"):
        put(ash, "big", "x" * 16_000)
    with pytest.raises(Full, match="disk of this node is full"):
        put(ash, "b", 2)
    put(elm, "from elm", 3)
    assert get(ash, "a") == 1
    time.sleep(0.3)  # several comparisons of the two go by
    assert get(elm, "big") is None, "what is on no disk is told to nobody"
    assert post.has("knowledge.full") and not post.has("knowledge.space")
    Tight.full = False
    until(lambda: get(elm, "big") == "x" * 16_000)
    until(lambda: get(ash, "from elm") == 3)
    put(ash, "b", 2)
    until(lambda: get(elm, "b") == 2)
    assert post.has("knowledge.space")
    assert post.violations == []


def test_more_than_is_allowed_is_refused_and_the_rest_stays(post: Post) -> None:
    desk = post.open("ash", bytes_max=64 * 1024)
    with pytest.raises(Full, match="no room for more"):
        for number in range(100):
            put(desk, f"k{number}", "x" * 8000)
    assert get(desk, "k0") == "x" * 8000
    assert desk.bytes < 64 * 1024 + 9000


def test_rotten_rows_cost_what_was_in_them_until_a_peer_gives_it_again(post: Post) -> None:
    ash, elm = post.open("ash"), post.open("elm")
    for number in range(20):
        put(ash, f"k{number}", number)
    until(lambda: all(get(elm, f"k{number}") == number for number in range(20)))
    post.close(ash)
    with sqlite3.connect(post.root / "ash" / FILE) as db:
        db.execute("UPDATE segments SET payload = substr(payload, 1, 100) || x'00' || substr(payload, 102)")
    db.close()
    ash = post.open("ash")
    # It speaks before it has its own words back: it must not use a number twice.
    put(ash, "k0", "new")
    until(lambda: get(elm, "k0") == "new")
    until(lambda: all(get(ash, f"k{number}") == number for number in range(1, 20)))
    assert [get(elm, f"k{number}") for number in range(1, 20)] == list(range(1, 20))
    assert post.has("knowledge.damaged")


def test_a_machine_that_is_set_back_to_an_image_uses_no_number_twice(post: Post) -> None:
    ash, elm = post.open("ash"), post.open("elm")
    for number in range(10):
        put(ash, f"k{number}", number)
    with sqlite3.connect(post.root / "ash" / FILE) as running, sqlite3.connect(post.root / "image") as image:
        running.backup(image)
    running.close()
    image.close()
    for number in range(10, 30):
        put(ash, f"k{number}", number)
    until(lambda: get(elm, "k29") == 29)
    post.close(ash)
    for end in ("-wal", "-shm"):
        (post.root / "ash" / f"{FILE}{end}").unlink(missing_ok=True)
    (post.root / "image").replace(post.root / "ash" / FILE)
    ash = post.open("ash")
    for number in range(30, 60):
        put(ash, f"k{number}", number)
    for desk in (ash, elm):
        until(lambda desk=desk: all(get(desk, f"k{number}") == number for number in range(60)))
    struck = elm.ask(lambda keeper: [shard.struck() for shard in keeper.knowledge.shards.values()]).result(60)
    assert not any(struck)


def test_who_had_a_clock_that_was_ahead_is_told_that_others_do_not_hear_it_yet(post: Post) -> None:
    ash, elm = post.open("ash"), post.open("elm")
    put(ash, "before", 1)
    until(lambda: get(elm, "before") == 1)

    def set_ahead(keeper: Any) -> None:
        keeper.knowledge.clock.last = time_of(time.time_ns() // 1_000_000 + 3_600_000)  # as after an hour too many

    ash.ask(set_ahead).result(60)
    put(ash, "after", 2)
    until(lambda: any(fact.name == "knowledge.ahead" for source, fact in post.facts if source == ash._author))
    (told,) = (fact for _, fact in post.facts if fact.name == "knowledge.ahead")
    assert 3500 < told.fields["ahead_s"] <= 3600, told
    until(lambda: any(fact.labels.get("outcome") == "future" for _, fact in post.facts))
    put(elm, "since", 3)
    until(lambda: get(ash, "since") == 3)
    assert (get(ash, "after"), get(elm, "after")) == (2, None)
    assert not post.violations, "nobody is accused"
    post.close(ash)
    (post.root / "ash" / FILE).rename(post.root / "aside")  # as the guide says
    for end in ("-wal", "-shm"):
        (post.root / "ash" / f"{FILE}{end}").unlink(missing_ok=True)
    ash = post.open("ash")
    until(lambda: get(ash, "before") == 1 and get(ash, "since") == 3)
    put(ash, "after", 4)
    until(lambda: get(elm, "after") == 4)


def test_what_a_revoked_author_said_goes_from_memory_and_disk(post: Post) -> None:
    ash, elm = post.open("ash"), post.open("elm")
    put(elm, "e", 1)
    put(ash, "a", 2)
    until(lambda: get(ash, "e") == 1)
    gone = post.credentials["elm"]
    watch = ash.ask(lambda keeper: keeper.knowledge.watch("facts", "")).result(60)
    post.fleet.revoke(gone.id, time.time())
    before = post.news[post.credentials["ash"].id]
    ash.ask(lambda keeper: keeper.revoked(gone.id)).result(60)
    assert (get(ash, "e"), get(ash, "a")) == (None, 2)
    until(lambda: post.news[post.credentials["ash"].id] > before)  # who watches is told to look
    (change,) = ash.ask(lambda keeper: keeper.knowledge.changes(watch)).result(60)
    assert (change.key, change.value) == ("e", GONE)
    until(lambda: ash.segments == 1)
    post.close(ash)
    store = Store(post.root / "ash")
    assert {author_of(row.payload) for row in store.rows() if row.payload} == {post.credentials["ash"].id}
    store.close()


def test_peers_that_break_the_rules_are_named_and_the_thread_goes_on(post: Post) -> None:
    elm = post.enrolled("elm")
    ash = post.open("ash")
    good = segment(elm)
    forged = replace_signature(good)
    from kernels.plain import encode_plain

    for bad in (b"", b"noise", encode_plain([1, "fresh", [forged]]), encode_plain([1, "digests", [[99, b""]]])):
        assert bad is not None
        before = len(post.violations)
        assert ash.heard(elm.id, bad)
        until(lambda before=before: len(post.violations) > before)
        assert post.violations[-1][0] == elm.id
    assert get(ash, KEY) is None
    assert ash.heard(elm.id, encode_plain([1, "fresh", [good.raw]]) or b"")
    until(lambda: get(ash, KEY) == 1)
    put(ash, "own", 1)


def replace_signature(said: Segment) -> bytes:
    from swarm.protocol.knowledge.entries import BODY_AT

    return said.raw[: BODY_AT - 64] + bytes(64) + said.raw[BODY_AT:]


def test_a_flood_of_messages_is_left_out_and_memory_is_bounded(post: Post) -> None:
    ash = post.open("ash")
    gate = threading.Event()
    ash.post(lambda keeper: gate.wait(WITHIN_S))
    taken = sum(ash.heard(b"e" * 16, bytes(1 << 20)) for _ in range(40))
    gate.set()
    assert taken == 16
    until(lambda: ash._heard_bytes == 0)
    assert ash.heard(b"e" * 16, b"again")


def test_a_job_that_fails_fails_alone(post: Post) -> None:
    ash = post.open("ash")
    with pytest.raises(ZeroDivisionError):
        ash.ask(lambda keeper: 1 // 0).result(60)
    ash.post(lambda keeper: 1 // 0)
    until(lambda: post.has("knowledge.crashed"))
    put(ash, "a", 1)


def test_a_directory_that_cannot_be_written_is_told_to_all_who_ask(post: Post) -> None:
    post.enrolled("ash")
    (post.root / "ash" / FILE).mkdir()
    ash = post.open("ash")
    with pytest.raises(Exception, match="this node has no knowledge"):
        put(ash, "a", 1)
    assert post.has("knowledge.refused")


def test_entries_that_wait_while_it_reads_are_answered(post: Post) -> None:
    ash = post.open("ash")
    answers = [
        ash.ask(lambda keeper, n=n: keeper.knowledge.put("facts", f"k{n}", n, wall_ms()), says=True) for n in range(600)
    ]
    assert len({answer.result(WITHIN_S) for answer in answers}) == 600
    assert ash.segments < 600, "what waits is written together"
