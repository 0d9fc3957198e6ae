"""Files beside the journal, and the nodes that keep them for each other."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from blake3 import blake3

from nodes.kept_blobs import METHOD, MOVES_MAX, KeptBlobs
from nodes.kept_files import KeptFiles, NoRoom, digest_of
from nodes.kept_learners import PROVIDE_S, PROVIDED_S
from nodes.queries import AskFailed
from swarm.errors import SwarmError
from swarm.protocol.effects import Fact
from swarm.protocol.ledger.copying import UNNAMED_S
from swarm.protocol.ledger.effects import Named, Reason, Refusal
from swarm.protocol.ledger.pins import Pins
from swarm.protocol.ledger.records import KeptBlob
from swarm.protocol.owner.batches import Keep

ASH, OAK, ELM = (name * 16 for name in (b"a", b"o", b"e"))
GROUP = ASH
MIB = 1 << 20


def sealed(files: KeptFiles, id: bytes, content: bytes) -> None:
    path = files.begin(len(content))
    path.write_bytes(content)
    assert files.written(path, len(content)) == blake3(content).digest()
    files.named(id, path)
    files.finish(id, len(content))


def test_files_are_there_at_the_next_start_and_what_was_begun_is_not(tmp_path: Path) -> None:
    files = KeptFiles(tmp_path / "kept", 10 * MIB)
    sealed(files, b"i" * 32, b"content")
    files.begin(1000)
    assert files.bytes == 1007
    (tmp_path / "kept" / "notes").write_text("somebody's own")
    again = KeptFiles(tmp_path / "kept", 10 * MIB)
    assert again.ids == [b"i" * 32] and again.bytes == 7
    found = again.open(b"i" * 32)
    assert found is not None and found[0].read_bytes() == b"content"
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == sorted([(b"i" * 32).hex(), "notes"])
    again.remove(b"i" * 32)
    again.remove(b"i" * 32)
    assert (again.bytes, again.ids, found[0].exists()) == (0, [], False)


def test_they_have_a_bound_and_what_takes_the_place_of_another_counts_once(tmp_path: Path) -> None:
    files = KeptFiles(tmp_path / "kept", 1000)
    with pytest.raises(NoRoom, match="more than this node keeps") as never:
        files.begin(1001)
    assert never.value.facts["never"] is True
    path = files.begin(600)
    with pytest.raises(NoRoom, match="do not fit") as later:
        files.begin(401)
    assert later.value.facts["never"] is False
    files.abandon(path, 600)
    sealed(files, b"i" * 32, bytes(400))
    sealed(files, b"i" * 32, bytes(500))
    assert files.bytes == 500


def test_a_digest_is_of_as_many_bytes_as_are_asked_for(tmp_path: Path) -> None:
    content, parts = os.urandom(3 * MIB + 5), []
    (tmp_path / "file").write_bytes(content)
    found = digest_of(tmp_path / "file", 2 * MIB + 1, lambda part: parts.append(bytes(part)))
    assert found == blake3(content[: 2 * MIB + 1]).digest() and b"".join(parts) == content[: 2 * MIB + 1]


class Host:
    """One node, with a ledger that says what it is told to say, and links to the others that are calls."""

    def __init__(self, fleet: Fleet, id: bytes, bytes_max: int = 100 * MIB) -> None:
        self.id = id
        self.fleet = fleet
        self.pins = Pins()
        self.store: dict[bytes, bytes] = {}
        self.facts: list[Fact] = []
        self.copied: dict[int, tuple[tuple[KeptBlob, ...], int]] = {}
        self.refused: dict[int, Refusal] = {}
        self.methods: dict[str, Callable[..., Awaitable[Any]]] = {}
        self.lies: dict[bytes, bytes] = {}
        self.provided: Callable[[bytes, bytes], bool]
        self.directory = fleet.directory / id.decode()
        self.begin(bytes_max)

    def begin(self, bytes_max: int = 100 * MIB) -> None:
        self.methods.clear()
        state, fleet = SimpleNamespace(pins=self.pins), self.fleet
        ledger = SimpleNamespace(
            groups=[GROUP], voters=lambda group: fleet.voters if group == GROUP else (), state=lambda group: state,
            hosts=lambda ids: len(set(ids)), wait_for=lambda provided: setattr(self, "provided", provided),
        )  # fmt: skip
        self.files = KeptFiles(self.directory, bytes_max)
        switchboard = SimpleNamespace(serve=self.methods.__setitem__, asked=self._asked)
        self.it = KeptBlobs(
            self.files, self.id, cast(Any, ledger), cast(Any, self), cast(Any, self), cast(Any, switchboard),
            cast(Any, fleet.links(self.id)), cast(Any, self), asyncio.get_running_loop(), lambda: fleet.now, lambda: None,
        )  # fmt: skip

    # What the owner is told.

    @property
    def lane(self) -> Any:
        return SimpleNamespace(fetch=self._fetch)

    def kept(self, now: float, ticket: int, blobs: tuple[KeptBlob, ...], copies: int, hosts: int) -> None:
        self.copied[ticket] = (blobs, copies)

    def not_kept(self, now: float, ticket: int, refusal: Refusal) -> None:
        self.refused[ticket] = refusal

    # Where blobs are.

    def hold_here(self, id: bytes) -> bytes | None:
        return self.store.get(id)

    def let_go_here(self, id: bytes) -> None:
        pass

    async def fetch(self, blob_id: bytes, first: bytes | None = None) -> object:
        raise AskFailed("no node has it")

    async def _fetch(self, link: Any, id: bytes, into: Any) -> bool:
        await asyncio.sleep(0)
        other: Host = link.host
        found = await other.it.disk.offered(id)
        content = found[0].read_bytes() if found is not None else other.store.get(id)
        if content is None:
            return False
        content = other.lies.get(id, content)
        try:
            path = into.begin(len(content))
        except AskFailed:
            return False
        path.write_bytes(content)
        into.finish(id, path, len(content), segment=True)
        return True

    # The rest of the node.

    def connect(self, node: bytes) -> None:
        pass

    def fact(self, fact: Fact) -> None:
        self.facts.append(fact)

    async def _asked(self, link: Any, method: str, args: Mapping[str, Any], timeout_s: float) -> tuple[Any, bytes]:
        if method not in link.host.methods:
            raise AskFailed("what?", kind="unknown-method")
        try:
            return await link.host.methods[method](self.fleet.link(self.id), args, memoryview(b"")), b""
        except SwarmError as error:
            raise AskFailed(str(error)) from error

    # What a test does.

    def name(self, *blobs: KeptBlob) -> None:
        self.pins.add(blobs)
        self.it.carry_out[Named](Named(GROUP))

    def unname(self, *blobs: KeptBlob) -> None:
        self.pins.drop(blobs)
        self.it.carry_out[Named](Named(GROUP))

    def keep(self, ticket: int, *ids: bytes, source: bytes | None = None) -> None:
        self.it.carry_out[Keep](Keep(ticket, GROUP, ids, source))

    def put(self, number: int, content: bytes | None = None) -> KeptBlob:
        content = b"content %d" % number if content is None else content
        blob = KeptBlob(bytes((number,)) * 32, len(content), blake3(content).digest())
        self.store[blob.id] = content
        return blob


class Fleet:
    """Three nodes that vote in a log."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = 100.0
        self.voters: tuple[bytes, ...] = (ASH, OAK, ELM)
        self.hosts: dict[bytes, Host] = {}
        self.down: set[bytes] = set()

    def link(self, id: bytes) -> Any:
        identity = SimpleNamespace(id=id, role="node", name=id.decode())
        return SimpleNamespace(host=self.hosts[id], identity=identity, up=id not in self.down)

    def links(self, me: bytes) -> Mapping[bytes, Any]:
        fleet = self

        class Links(dict[bytes, Any]):
            def __iter__(self) -> Any:
                return iter([id for id in fleet.hosts if id != me])

            def __contains__(self, id: object) -> bool:
                return id in fleet.hosts and id != me

            def get(self, id: bytes, default: Any = None) -> Any:
                return fleet.link(id) if id in fleet.hosts and id != me else default

        return Links()

    async def __aenter__(self) -> Fleet:
        for id in (ASH, OAK, ELM):
            self.hosts[id] = Host(self, id)
        return self

    async def __aexit__(self, *_: object) -> None:
        for host in self.hosts.values():
            await host.it.close()


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to be")


def run(test: Callable[[Fleet], Awaitable[None]], directory: Path) -> None:
    async def go() -> None:
        async with Fleet(directory) as fleet:
            await test(fleet)

    asyncio.run(asyncio.wait_for(go(), 60))


def test_a_majority_has_what_a_task_needs_before_its_owner_is_told(tmp_path: Path) -> None:
    async def test(fleet: Fleet) -> None:
        ash, oak, elm = fleet.hosts.values()
        blobs = ash.put(1), ash.put(2, os.urandom(3 * MIB))
        fleet.down.add(ELM)
        ash.keep(7, *(blob.id for blob in blobs))
        await until(lambda: ash.copied)
        assert ash.copied[7] == (blobs, 2)
        for host in (ash, oak):
            for blob in blobs:
                found = host.files.open(blob.id)
                assert found is not None and blake3(found[0].read_bytes()).digest() == blob.digest
        assert elm.files.ids == []

    run(test, tmp_path)


def test_what_is_nowhere_or_has_no_room_is_refused(tmp_path: Path) -> None:
    async def test(fleet: Fleet) -> None:
        ash, oak, elm = fleet.hosts.values()
        ash.keep(1, b"?" * 32)
        await until(lambda: ash.refused)
        assert ash.refused[1].reason is Reason.GONE
        for host in (oak, elm):
            await host.it.close()
            host.begin(bytes_max=1000)
        ash.keep(2, ash.put(2, bytes(2000)).id)
        await until(lambda: 2 in ash.refused)
        assert ash.refused[2].reason is Reason.DISK_FULL and "2000 bytes" in ash.refused[2].hint
        await ash.it.close()
        ash.begin(bytes_max=1000)
        ash.keep(3, ash.put(3, bytes(2000)).id)
        await until(lambda: 3 in ash.refused)
        assert ash.refused[3].reason is Reason.TOO_LARGE
        assert ash.copied == {}

    run(test, tmp_path)


def test_a_result_comes_from_its_executor_and_one_that_is_not_what_it_should_be_is_not_kept(tmp_path: Path) -> None:
    async def test(fleet: Fleet) -> None:
        ash, oak, elm = fleet.hosts.values()
        blob = elm.put(1, b"a result")
        ash.keep(1, blob.id, source=ELM)
        await until(lambda: ash.copied)
        assert ash.copied[1][0] == (blob,) and ash.files.open(blob.id) is not None
        other = ash.put(2, b"an argument")
        ash.lies[other.id] = b"anargument!"
        fleet.down.add(ELM)
        ash.keep(2, other.id)
        await until(lambda: [fact for fact in oak.facts if fact.name == "bulk.failed"])
        assert 2 not in ash.copied and oak.files.open(other.id) is None and oak.files.bytes == len(b"a result")

    run(test, tmp_path)


def test_only_who_votes_in_the_log_may_ask(tmp_path: Path) -> None:
    async def test(fleet: Fleet) -> None:
        oak = fleet.hosts[OAK]
        for group, voters in ((b"g" * 16, (ASH, OAK, ELM)), (GROUP, (OAK, ELM))):
            fleet.voters = voters
            with pytest.raises(SwarmError, match="who vote"):
                await oak.methods[METHOD](fleet.link(ASH), {"group": group, "blobs": []}, memoryview(b""))
        fleet.voters = (ASH, OAK, ELM)
        for wrong in ([[b"short", 1, bytes(32)]], [[bytes(32), -1, bytes(32)]], [[bytes(32)]]):
            with pytest.raises(ValueError):
                await oak.methods[METHOD](fleet.link(ASH), {"group": GROUP, "blobs": wrong}, memoryview(b""))
        assert await oak.methods[METHOD](fleet.link(ASH), {"group": GROUP, "blobs": []}, memoryview(b"")) == {
            "answer": "kept"
        }

    run(test, tmp_path)


def test_a_new_process_and_a_new_member_have_what_their_log_names(tmp_path: Path) -> None:
    async def test(fleet: Fleet) -> None:
        ash, oak, elm = fleet.hosts.values()
        blobs = [ash.put(number) for number in range(1, 10)]
        for blob in blobs:
            sealed(ash.files, blob.id, ash.store[blob.id])
        elm.name(*blobs)
        await until(lambda: len(elm.files.ids) == 9 and elm.it.report()["missing"] == 0)
        await elm.it.close()
        elm.begin()
        assert len(elm.files.ids) == 9
        kept, rotten = (elm.files.open(blob.id) for blob in blobs[:2])
        assert kept is not None and rotten is not None
        rotten[0].write_bytes(b"CONTENT 2")
        elm.name()
        assert await elm.it.disk.read(blobs[0].id) == kept
        assert await elm.it.disk.read(blobs[1].id) is None, "nobody is given what is not what it was"
        assert [fact.name for fact in elm.facts] == ["kept.damaged"]
        await until(lambda: elm.files.open(blobs[1].id) is not None)
        assert rotten[0].read_bytes() == b"content 2"

    run(test, tmp_path)


def test_voters_of_an_older_version_are_not_waited_for_by_an_outcome(tmp_path: Path) -> None:
    async def test(fleet: Fleet) -> None:
        ash, oak, elm = fleet.hosts.values()
        blob = ash.put(1)
        for host in (oak, elm):
            del host.methods[METHOD]
        ash.keep(1, blob.id)
        await until(lambda: ash.refused)
        assert "older version" in ash.refused[1].hint
        ash.keep(2, blob.id, source=ASH)
        await until(lambda: ash.copied)
        assert ash.copied[2] == ((blob,), 1)

    run(test, tmp_path)


def test_a_learner_votes_when_it_has_what_lies_beside_the_log_or_was_waited_for(tmp_path: Path) -> None:
    async def test(fleet: Fleet) -> None:
        ash, oak, elm = fleet.hosts.values()
        assert ash.provided(GROUP, ELM), "there is nothing to have"
        blobs = [ash.put(number) for number in (1, 2)]
        ash.name(*blobs)
        ash.keep(1, *(blob.id for blob in blobs))
        await until(lambda: ash.copied)
        assert not ash.provided(GROUP, ELM)
        await until(lambda: ash.provided(GROUP, ELM))
        assert len(elm.files.ids) == 2
        fleet.now += 10 * PROVIDED_S
        fleet.down.add(ELM)
        since = fleet.now
        while not ash.provided(GROUP, ELM):
            fleet.now += 10.0
            await asyncio.sleep(0.01)
        assert PROVIDE_S < fleet.now - since < PROVIDE_S + 20.0, "it is not waited for any longer"

    run(test, tmp_path)


def test_what_no_log_names_is_removed_after_a_while(tmp_path: Path) -> None:
    async def test(fleet: Fleet) -> None:
        ash, oak, _ = fleet.hosts.values()
        blob, other = ash.put(1), ash.put(2)
        ash.keep(1, blob.id)
        await until(lambda: ash.copied and oak.files.ids)
        ash.name(other)
        await until(lambda: len(ash.files.ids) == 1)
        fleet.now += UNNAMED_S + 1
        ash.unname(other)
        oak.name(blob)
        await until(lambda: not ash.files.ids)
        await asyncio.sleep(0.4)
        assert oak.files.ids == [blob.id]
        assert not list(ash.directory.iterdir())

    run(test, tmp_path)


def test_nodes_that_fetch_much_from_each_other_at_once_wait_for_nobody_for_ever(tmp_path: Path) -> None:
    async def test(fleet: Fleet) -> None:
        ash, oak, elm = fleet.hosts.values()
        await elm.it.close()
        del fleet.hosts[ELM]
        mine = [ash.put(number) for number in range(3 * MOVES_MAX)]
        theirs = [oak.put(100 + number) for number in range(3 * MOVES_MAX)]
        for host, blobs in ((ash, mine), (oak, theirs)):
            for blob in blobs:
                sealed(host.files, blob.id, host.store[blob.id])
        ash.name(*theirs)
        oak.name(*mine)
        await until(lambda: len(ash.files.ids) == len(oak.files.ids) == 6 * MOVES_MAX)

    run(test, tmp_path)


def test_it_is_copied_into_the_store_of_tasks_as_it_was_and_code_is_code(tmp_path: Path) -> None:
    class Store:
        """What `nodes.blobs.BlobStore` has of this."""

        def __init__(self) -> None:
            self.found: list[tuple[bytes, bytes, bool]] = []
            self.given_up = 0

        def begin(self, size: int) -> Path:
            path = tmp_path / "in the store"
            path.write_bytes(bytes(size))
            return path

        def finish(self, id: bytes, path: Path, size: int, *, segment: bool) -> None:
            self.found.append((id, path.read_bytes(), segment))

        def abandon(self, path: Path, size: int) -> None:
            self.given_up += 1

    async def test(fleet: Fleet) -> None:
        ash, store = fleet.hosts[ASH], Store()
        content = os.urandom(2 * MIB + 7)
        digest = blake3(content).digest()
        ash.store |= {digest: content, b"r" * 32: content}
        ash.keep(1, digest, b"r" * 32)
        await until(lambda: ash.copied)
        assert await ash.it.disk.into(digest, store) and await ash.it.disk.into(b"r" * 32, store)
        assert store.found == [(digest, content, False), (b"r" * 32, content, True)]
        assert (
            ash.it.disk.code(digest) == content
            and ash.it.disk.code(b"r" * 32) is None
            and ash.it.disk.code(b"x" * 32) is None
        )
        assert not await ash.it.disk.into(b"x" * 32, store) and store.given_up == 0
        ash.files.open(digest)[0].write_bytes(content[:-1] + b"?")  # type: ignore[index]
        assert not await ash.it.disk.into(digest, store) and store.given_up == 1
        assert not ash.it.disk.has(digest) and ash.it.disk.has(b"r" * 32)

    run(test, tmp_path)
