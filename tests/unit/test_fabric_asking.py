"""What the fabric asks executors for when a link is back or a log is taken over, and what it does when they are slow to answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nodes.fabric import Fabric
from swarm.protocol.owner.batches import Adopt

OAK, ELM = b"oak" + bytes(13), b"elm" + bytes(13)
TIMEOUT = ["timeout", "no answer in 10 s", "", {}]


class Place:
    """A fabric with an executor, and what is asked of that."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any], Any]] = []
        self.relinked: list[tuple[dict[int, Any], frozenset[int]]] = []
        self.link: Any = SimpleNamespace(identity=SimpleNamespace(id=OAK, role="node"), up=True)
        self.executor = SimpleNamespace(dispatches={7: SimpleNamespace(sent=True), 8: SimpleNamespace(sent=False)})
        self.fabric: Any = object.__new__(Fabric)
        self.fabric.__dict__.update(
            me=ELM, _nodes={OAK: self.link}, _now=lambda: 5.0, _turn=lambda: None,
            ownership=SimpleNamespace(
                executors={OAK: self.executor}, last_dispatch=9,
                executor_relinked=lambda now, node, held, asked: self.relinked.append((held, asked)),
            ),
            queries=SimpleNamespace(
                ask=lambda link, method, args, done: self.asked.append(
                    (method, args, lambda value, error: done(value, error, b""))
                )
            ),
        )  # fmt: skip


def test_what_an_executor_has_is_asked_for_again_when_it_only_did_not_answer_in_time() -> None:
    place = Place()
    place.fabric._resync(place.link)
    ((method, _, answer),) = place.asked
    assert method == "dispatches"
    answer(None, TIMEOUT)
    assert len(place.asked) == 2 and place.relinked == []
    place.asked[1][2]({"held": [[7, [[0, 3]]]]}, None)
    # What waits for its grant may go out between question and answer: it is not lost.
    assert place.relinked == [({7: [(0, 3)]}, frozenset((7,)))]


def test_an_executor_is_told_what_is_still_out_there_though_it_was_taken_for_dead_meanwhile() -> None:
    place = Place()
    place.fabric._resync(place.link)
    place.executor.dispatches.clear()
    place.fabric._resync(place.link)
    place.fabric.ownership.executors.clear()
    place.fabric._resync(place.link)
    assert [args["out"] for _, args, _ in place.asked] == [[7, 8], [], []]
    assert all(args["last"] == 9 for _, args, _ in place.asked), "what is handed over later is none of its business"


def test_who_does_not_say_what_is_out_has_nothing_ended() -> None:
    kept: list[tuple[bytes, frozenset[int], int | None]] = []
    place = Place()
    place.fabric.execution = SimpleNamespace(
        keep_only=lambda now, owner, out, last: kept.append((owner, out, last)), held=lambda owner: {7: [(0, 3)]},
    )  # fmt: skip
    assert place.fabric.held_by(OAK, {}) == {"held": [[7, [[0, 3]]]]} and kept == []
    place.fabric.held_by(OAK, {"out": [7], "last": 9})
    place.fabric.held_by(OAK, {"out": [7]})
    assert kept == [(OAK, frozenset((7,)), 9), (OAK, frozenset((7,)), None)], "nodes of the version before do not say"


@pytest.mark.parametrize("error", [["link", "the link is down", "", {}], ["closing", "this node is stopping", "", {}]])
def test_an_executor_that_is_gone_is_asked_no_more(error: list[Any]) -> None:
    place = Place()
    place.fabric._resync(place.link)
    place.asked[0][2](None, error)
    place.link.up = False
    place.fabric._resync(place.link)
    place.asked[1][2](None, TIMEOUT)
    place.link.up = True
    place.fabric._resync(place.link)
    place.fabric._nodes[OAK] = SimpleNamespace(identity=place.link.identity, up=True)
    place.asked[2][2](None, TIMEOUT)
    assert len(place.asked) == 3


def test_a_run_whose_adoption_was_not_answered_in_time_is_asked_for() -> None:
    place = Place()
    place.fabric._adopt(Adopt(OAK, ELM, 3, 7))
    place.asked[0][2](None, TIMEOUT)
    assert [method for method, _, _ in place.asked] == ["adopt", "dispatches"]
    place.asked[1][2]({"held": []}, None)
    assert place.relinked == [({}, frozenset((7,)))]
