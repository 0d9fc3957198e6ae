"""What a task that has begun needs and no node has: told at once where all can be asked, looked for a while where some cannot."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from blake3 import blake3

from nodes import workshop as subject
from nodes.queries import AskFailed
from nodes.workshop import CodeStore, Workshop

CODE = b"what a task runs"
DIGEST = blake3(CODE).digest()


class Peers:
    """Links that come up after so many askings, and what they have."""

    def __init__(self, up_after: int | None, has_code: bool) -> None:
        self.up_after, self.has_code, self.looked = up_after, has_code, 0
        self.node_links = {b"peer": self}
        self.identity = SimpleNamespace(id=b"peer")
        self.execution = SimpleNamespace(workers={})
        self.told: list[tuple[Any, bool]] = []
        self.pool = SimpleNamespace(
            reply=lambda worker, number, value, failed=False: self.told.append((value, failed)), pids=dict
        )

    @property
    def up(self) -> bool:
        self.looked += 1
        return self.up_after is not None and self.looked > self.up_after

    async def asked(self, link: object, method: str, args: object) -> tuple[dict[str, Any], bytes]:
        await asyncio.sleep(0)
        if not self.has_code:
            raise AskFailed("it is not here")
        return {}, CODE


def told(peers: Peers, unheard: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, bool]:
    """What the worker hears."""
    monkeypatch.setattr(subject, "AGAIN_S", 0.001)
    monkeypatch.setattr(subject, "ABSENT_S", 0.5)

    async def ask() -> None:
        shop: Any = object.__new__(Workshop)
        shop.__dict__.update(
            _loop=asyncio.get_running_loop(), _fabric=peers, _switchboard=peers, code=CodeStore(), kept=None,
            logged=lambda digest: None, unheard=lambda: unheard,
        )  # fmt: skip
        await shop._later(1, 1, "code.get", [DIGEST])

    asyncio.run(ask())
    (found,) = peers.told
    return found


def test_code_is_waited_for_while_its_holder_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = Peers(up_after=5, has_code=True)
    assert told(peers, True, monkeypatch) == (CODE, False)
    assert peers.looked > 5


def test_code_that_nobody_has_is_told_at_once_where_all_could_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = Peers(up_after=0, has_code=False)
    value, failed = told(peers, False, monkeypatch)
    assert failed and "no node has the code" in value["message"] and peers.looked == 1


def test_code_that_does_not_come_is_told_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = Peers(up_after=None, has_code=True)
    value, failed = told(peers, True, monkeypatch)
    assert failed and "submit it again" in value["hint"] and peers.looked > 1
