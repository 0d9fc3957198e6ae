"""The node among its peers, over real datagrams on loopback: what one learns of trust, all act on."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nodes.neighbourhood import REFUSAL_EVERY_S, REFUSALS_BURST, Neighbourhood
from swarm.protocol.effects import Fact
from swarm.protocol.member import Member
from transport.fleet import Fleet, create_fleet, enroll, install_fleet
from transport.hints import Hint
from transport.identity import AdminChain, Credentials, Trust
from transport.links import HandshakeFailed, Link
from transport.private_files import locked

LOOPBACK = "127.0.0.1"


class Dialled:
    """Links are not what is looked at here: every dial fails, and is noted."""

    def __init__(self) -> None:
        self.endpoints: list[str] = []

    async def connect(
        self, endpoint: str, *, server_key: bytes | None, expect: bytes | None = None, timeout_s: float | None = None
    ) -> Link:
        self.endpoints.append(endpoint)
        raise HandshakeFailed("unreachable", endpoint)


class Told:
    """What a neighbourhood told its node."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.lost: list[tuple[bytes, str]] = []

    def member_seen(self, member: Member) -> None: ...

    def member_suspected(self, member: Member) -> None: ...

    def member_lost(self, node: bytes, why: str) -> None:
        self.lost.append((node, why))

    def fact(self, fact: Fact) -> None:
        self.facts.append(fact)

    def own_info(self) -> Mapping[str, object]:
        return {"f": 1}

    def is_linked(self, node: bytes) -> bool:
        return False

    def named(self, name: str) -> list[Fact]:
        return [fact for fact in self.facts if fact.name == name]


class Neighbour:
    """One node of a fleet, as far as its neighbourhood goes; each has the fleet's files in a home of its own."""

    def __init__(self, root: Path, founder: Fleet, name: str) -> None:
        directory = root / name
        self.credentials = enroll(founder, root / "issued" / name, "node", name, (), time.time())
        with locked(directory / "fleet"):
            trust = Trust(AdminChain(founder.trust.chain.founder), founder.trust.name, founder.trust.secret)
            install_fleet(directory / "fleet", trust)
        self.fleet = Fleet.load(directory / "fleet")
        self.told = Told()
        self.dialled = Dialled()
        self.neighbourhood = Neighbourhood(
            self.fleet, self.credentials, directory, os.urandom(8), self.dialled, self.told,
            asyncio.get_running_loop(), time.monotonic,
        )  # fmt: skip

    async def open(self) -> None:
        self.port = await self.neighbourhood.open([LOOPBACK], 0, ())
        self.neighbourhood.start(((LOOPBACK, self.port),))

    def meet(self, other: Neighbour) -> None:
        self.neighbourhood.hint(Hint((LOOPBACK,), other.port, other.credentials.id, None, "seed", ""))

    def knows(self, credentials: Credentials) -> bool:
        return any(member.id == credentials.id for member in self.neighbourhood.members)


@asynccontextmanager
async def neighbours(root: Path, *names: str) -> AsyncIterator[tuple[Fleet, list[Neighbour]]]:
    founder = create_fleet(root / "founder", "lab", "ann")
    all = [Neighbour(root, founder, name) for name in names]
    try:
        for one in all:
            await one.open()
        for one in all[1:]:
            one.meet(all[0])
        await until(lambda: all_know(all, len(all)))
        yield founder, all
    finally:
        for one in all:
            await one.neighbourhood.close()


def all_know(some: list[Neighbour], count: int) -> bool:
    return all(one.neighbourhood.live_count == count for one in some)


async def until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        await asyncio.sleep(0.01)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def test_a_revocation_told_to_one_is_believed_and_acted_on_by_all(tmp_path: Path) -> None:
    async def test() -> None:
        async with neighbours(tmp_path, "oak", "elm", "fir", "ash") as (founder, all):
            ash = all.pop()
            blob = founder.revoke(ash.credentials.id, time.time(), reason="lost")
            assert all[0].fleet.trust.apply_revocation(blob) == ash.credentials.id
            all[0].neighbourhood.trust_changed()
            await until(lambda: not any(one.knows(ash.credentials) for one in all))
            for one in all:
                assert one.fleet.trust.revoked(ash.credentials.id)
                assert one.told.lost == [(ash.credentials.id, "revoked")]
                [fact] = one.told.named("member.revoked")
                assert fact.fields["reason"] == "lost"
                assert Fleet.load(one.fleet.directory).trust.revoked(ash.credentials.id), "it outlives a restart"
            await asyncio.sleep(0.5)  # it goes on talking, and nobody listens
            assert not any(one.knows(ash.credentials) for one in all)
            assert all_know(all, 3)

    run(test)


def test_a_revocation_that_another_process_of_this_home_wrote_reaches_all(tmp_path: Path) -> None:
    async def test() -> None:
        async with neighbours(tmp_path, "oak", "elm", "fir") as (founder, all):
            fir = all.pop()
            blob = founder.revoke(fir.credentials.id, time.time())
            Fleet.load(all[1].fleet.directory).trust.apply_revocation(blob)
            await until(lambda: not any(one.knows(fir.credentials) for one in all))

    run(test)


def test_a_revocation_of_no_admin_is_neither_believed_nor_passed_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with neighbours(tmp_path, "oak", "elm", "fir") as (_, all):
            stranger = create_fleet(tmp_path / "stranger", "lab", "eve")
            blob = stranger.revoke(all[2].credentials.id, time.time())
            for one in all:
                assert not one.fleet.trust.vouched(blob)
            all[0].neighbourhood._publish(blob)
            await asyncio.sleep(0.5)
            assert all_know(all, 3)
            assert all[0].told.named("membership.rejected")
            assert not all[1].told.named("membership.rejected"), "it went no further"

    run(test)


def test_of_a_flood_of_refused_datagrams_a_few_are_told_and_all_are_counted(tmp_path: Path) -> None:
    async def test() -> None:
        async with neighbours(tmp_path, "oak", "elm") as (_, all):
            now = [1000.0]
            oak = all[0].neighbourhood
            oak._now = lambda: now[0]
            for _ in range(500):
                oak._refused("foreign", {"source": ("10.0.0.9", 1)})
            assert len(all[0].told.named("datagram.refused")) == REFUSALS_BURST
            now[0] += 2 * REFUSAL_EVERY_S
            oak._refused("forged", {})
            oak._refused("foreign", {})
            told = all[0].told.named("datagram.refused")
            assert sum(fact.value for fact in told if fact.labels["reason"] == "foreign") == 501
            assert sum(fact.value for fact in told if fact.labels["reason"] == "forged") == 1
            assert len(told) == REFUSALS_BURST + 2
            oak._now = time.monotonic

    run(test)


@pytest.mark.parametrize("serial", [False, True])
def test_only_the_certificate_that_was_revoked_is_cut_off(tmp_path: Path, serial: bool) -> None:
    """A revocation of an older certificate of a node leaves the node be; one of its present one does not."""

    async def test() -> None:
        async with neighbours(tmp_path, "oak", "elm") as (founder, all):
            oak, elm = all
            identity = elm.credentials.identity
            which = identity.serial if serial else bytes(len(identity.serial))
            oak.fleet.trust.apply_revocation(founder.revoke(elm.credentials.id, time.time(), serial=which))
            oak.neighbourhood.trust_changed()
            if serial:
                await until(lambda: not oak.knows(elm.credentials))
            else:
                await asyncio.sleep(0.5)
                assert all_know(all, 2)

    run(test)
