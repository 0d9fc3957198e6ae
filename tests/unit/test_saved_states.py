"""Large states of tasks that are moved: fetched and held by the owner before they count, and waited for where they were written."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from kernels.batch import OutcomeBuilder, Outcomes
from nodes.blobs import BlobStore
from nodes.saved_states import WAIT_S, SavedStates
from swarm.errors import NotFound
from swarm.protocol.effects import Fact
from swarm.protocol.states import Status

ELM = b"elm"
ID = bytes(range(32))
STATE = b"B" + msgpack.packb([[ID, 100_000, 1], []])


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 30))

    return run


def report(*rows: tuple[int, int, bytes]) -> tuple[int, memoryview]:
    builder = OutcomeBuilder()
    for index, status, payload in rows:
        builder.add(index, status, 0, payload)
    return len(rows), memoryview(builder.take())


class Owner:
    """A node around them, as far as they look at one."""

    def __init__(self, directory: Path) -> None:
        self.loop = asyncio.get_running_loop()
        self.now = 100.0
        self.store = BlobStore(directory, 1 << 20)
        self.fetched: list[tuple[bytes, bytes | None]] = []
        self.there = True
        self.arrives = asyncio.Event()
        self.lost: list[tuple[bytes, int, list[int]]] = []
        self.asked: list[tuple[str, Any]] = []
        self.facts: list[Fact] = []
        self.taken: list[bytes] = []
        self.batch = SimpleNamespace(key=b"key", saved={}, finished_at=None)
        self.dispatch: Any = SimpleNamespace(number=7, batch=self.batch)
        link = SimpleNamespace(up=True)
        self.fabric: Any = SimpleNamespace(
            me=b"me", node_links={ELM: link}, states=None, turn=lambda: None,
            ownership=SimpleNamespace(batches={b"key": self.batch}),
            lost_on_the_way=lambda *what: self.lost.append(what),
        )  # fmt: skip
        board: Any = SimpleNamespace(
            serve=lambda *_: None, ask=lambda link, how, what, done: self.asked.append((how, what))
        )
        self.it = SavedStates(self.fabric, self.store, self.fetch, board, self.loop, self.facts.append)

    async def fetch(self, id: bytes, first: bytes | None) -> None:
        self.fetched.append((id, first))
        await self.arrives.wait()
        if not self.there:
            raise NotFound("nowhere")
        path = self.store.begin(100_000)
        self.store.finish(id, path, 100_000, segment=True)

    def hears(self, *rows: tuple[int, int, bytes], executor: bytes = ELM) -> bool:
        count, body = report(*rows)
        return self.it.holds_back(executor, self.dispatch, count, body, lambda copy: self.taken.append(bytes(copy)))

    async def rest(self) -> None:
        self.arrives.set()
        await asyncio.gather(*self.it._tasks)


@pytest.mark.parametrize(
    "rows", [[(0, Status.OK, b"M\x01")], [(0, Status.SAVED, b"M\x01")], [(0, Status.FAILED, STATE)]]
)
@in_a_loop
async def test_what_refers_to_nothing_is_not_held_back(tmp_path: Path, rows: list[Any]) -> None:
    owner = Owner(tmp_path)
    assert not owner.hears(*rows) and not owner.fetched
    await owner.it.close()


@in_a_loop
async def test_a_state_counts_when_it_is_here_and_its_writer_hears_of_that(tmp_path: Path) -> None:
    owner = Owner(tmp_path)
    assert owner.hears((3, Status.SAVED, STATE))
    await asyncio.sleep(0)
    assert owner.fetched == [(ID, ELM)] and not owner.taken and not owner.asked
    assert owner.it.with_coming(ELM, {}) == {7: [(3, 4)]}, "a link that breaks meanwhile loses nothing"
    await owner.rest()
    assert len(owner.taken) == 1 and owner.asked == [("state.kept", {"ids": [ID]})]
    assert owner.it.with_coming(ELM, {}) == {}
    owner.batch.saved[3] = (1, STATE)
    owner.it._tidy()
    assert ("state", b"key", 3) in owner.store.holders()
    owner.batch.saved.clear()
    owner.it._tidy()
    assert not owner.store.holders(), "nobody goes on from it any more"
    await owner.it.close()


@in_a_loop
async def test_a_state_that_is_nowhere_is_a_report_that_was_lost(tmp_path: Path) -> None:
    owner = Owner(tmp_path)
    owner.there = False
    assert owner.hears((3, Status.SAVED, STATE))
    await owner.rest()
    assert not owner.taken and owner.lost == [(ELM, 7, [3])] and [fact.name for fact in owner.facts] == ["state.lost"]
    assert owner.it.with_coming(ELM, {}) == {}
    await owner.it.close()


@in_a_loop
async def test_who_wrote_a_state_waits_for_who_fetches_it_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Owner(tmp_path)
    count, body = report((3, Status.SAVED, STATE), (4, Status.FAILED, b"F\x80"))
    owner.it.wrote(Outcomes(body, count))
    assert owner.it.unfetched
    owner.it._kept(None, {"ids": [ID]}, memoryview(b""))  # type: ignore[arg-type]
    assert not owner.it.unfetched
    owner.it.wrote(Outcomes(body, count))
    later = owner.loop.time() + WAIT_S + 1
    monkeypatch.setattr(owner.it, "_loop", SimpleNamespace(time=lambda: later))
    assert not owner.it.unfetched
