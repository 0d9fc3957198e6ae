"""What a client asks its node, and the code that it keeps for the next one."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.client import code
from swarm.client.code import KeptCode
from swarm.client.queries import Answer, Queries
from swarm.errors import FleetNotFound, SwarmError, TaskRefused
from swarm.protocol.messages import decode
from transport.links import LinkClosed


class Link:
    """Keeps what is sent, or is closed."""

    def __init__(self, closed: bool = False) -> None:
        self.closed = closed
        self.asked: list[dict[str, Any]] = []

    def send(self, message: bytes, body: bytes) -> None:
        if self.closed:
            raise LinkClosed("gone")
        self.asked.append(decode(message)[1])


def asked(queries: Queries, link: Any, method: str = "nodes") -> Answer:
    answer: Answer = Answer()
    queries.ask(link, answer, method, {}, b"")
    return answer


def test_each_question_gets_its_own_answer_in_any_order() -> None:
    queries, link = Queries(), Link()
    first, second = asked(queries, link, "nodes"), asked(queries, link, "status")
    assert [one["m"] for one in link.asked] == ["nodes", "status"] and len(queries) == 2
    queries.replied({"q": link.asked[1]["q"], "v": 2}, memoryview(b"two"))
    assert second.result(0) == (2, b"two") and not first.done()
    queries.replied({"q": link.asked[0]["q"], "v": 1}, memoryview(b""))
    assert first.result(0) == (1, b"") and len(queries) == 0
    queries.replied({"q": 77, "v": 1}, memoryview(b""))  # nobody asked


@pytest.mark.parametrize(("name", "kind"), [("TaskRefused", TaskRefused), ("os", SwarmError), ("nothing", SwarmError)])
def test_an_error_is_one_of_the_librarys_whatever_the_node_calls_it(name: str, kind: type[SwarmError]) -> None:
    queries, link = Queries(), Link()
    answer = asked(queries, link)
    queries.replied({"q": link.asked[0]["q"], "e": [name, "no", "do this"]}, memoryview(b""))
    error = answer.exception(0)
    assert type(error) is kind and str(error).startswith("no") and error.hint == "do this"


def test_without_a_node_and_when_it_goes_the_answer_is_an_error() -> None:
    queries, link = Queries(), Link()
    assert isinstance(asked(queries, None).exception(0), FleetNotFound)
    assert isinstance(asked(queries, Link(closed=True)).exception(0), SwarmError) and len(queries) == 0
    waiting, given_up = asked(queries, link), asked(queries, link)
    given_up.cancel()
    queries.fail(FleetNotFound("gone"))
    assert isinstance(waiting.exception(0), FleetNotFound) and len(queries) == 0
    queries.replied({"q": link.asked[0]["q"], "v": 1}, memoryview(b""))  # too late


def test_code_is_kept_within_its_bounds_and_the_least_recently_used_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "CODE_KEPT_COUNT_MAX", 3)
    monkeypatch.setattr(code, "CODE_KEPT_BYTES_MAX", 100)
    kept = KeptCode()
    assert kept.keep(b"a", b"1" * 10) and kept.keep(b"b", b"2" * 10) and kept.keep(b"c", b"3" * 10)
    assert not kept.keep(b"a", b"1" * 10), "known, and used now"
    assert kept.keep(b"d", b"4" * 10)
    assert [digest for digest, _ in kept.items()] == [b"c", b"a", b"d"]
    assert kept.keep(b"large", b"5" * 1000), "one alone is kept however large it is"
    assert [digest for digest, _ in kept.items()] == [b"large"]
