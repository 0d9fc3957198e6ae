"""The order in which a node reads what waits of a link: urgent tasks before others, and nothing else out of its place."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from nodes.waiting import is_urgent, put
from swarm.protocol.messages import Kind, encode
from swarm.protocol.spec import Spec
from swarm.protocol.states import Priority

RAW = {priority: Spec("call", ("name", "m:f", "f"), "f", priority=priority).encode() for priority in Priority}


def submit(priority: Priority, number: int, **more: object) -> bytes:
    return encode(Kind.SUBMIT, {"b": number.to_bytes(12, "big"), "s": RAW[priority], "n": 1, **more})


def dispatch(priority: Priority, number: int, **more: object) -> bytes:
    return encode(Kind.DISPATCH, {"b": number.to_bytes(12, "big"), "s": RAW[priority], "d": number, **more})


def test_what_is_urgent() -> None:
    assert [is_urgent(submit(priority, 1)) for priority in Priority] == [False, False, True, True]
    assert [is_urgent(dispatch(priority, 1)) for priority in Priority] == [False, False, True, True]
    assert not is_urgent(submit(Priority.CRITICAL, 1, d=[bytes(16)])), "it waits for another"
    assert is_urgent(dispatch(Priority.LOW, 1, y=[Priority.CRITICAL, 0])), "what it is now"
    assert not is_urgent(dispatch(Priority.CRITICAL, 1, y=[Priority.LOW, 0]))
    assert not is_urgent(encode(Kind.CANCEL, {"b": bytes(12), "s": RAW[Priority.CRITICAL]}))
    for broken in (
        b"",
        bytes((Kind.SUBMIT,)),
        submit(Priority.CRITICAL, 1)[:-9],
        encode(Kind.SUBMIT, {"s": b"no spec"}),
    ):
        assert not is_urgent(broken)


WORDS = st.lists(st.sampled_from(["low", "standard", "critical", "child", "cancel", "code"]), max_size=24)


@given(st.lists(WORDS, max_size=4))
def test_urgent_tasks_overtake_tasks_and_nothing_else(parts: list[list[str]]) -> None:
    waiting: deque[bytes] = deque()
    said: dict[bytes, tuple[int, str]] = {}
    number = 0
    for words in parts:
        messages = []
        for word in words:
            number += 1
            message = {
                "low": lambda: submit(Priority.LOW, number),
                "standard": lambda: dispatch(Priority.STANDARD, number),
                "critical": lambda: submit(Priority.CRITICAL, number),
                "child": lambda: submit(Priority.CRITICAL, number, d=[bytes(16)]),
                "cancel": lambda: encode(Kind.CANCEL, {"b": number.to_bytes(12, "big")}),
                "code": lambda: encode(Kind.QUERY, {"q": number, "m": "code.put"}),
            }[word]()
            said[message] = (number, word)
            messages.append(message)
        put(waiting, messages)
    order = [said[message] for message in waiting]
    assert sorted(order) == sorted(said.values()), "nothing is lost, and nothing comes twice"
    assert [one for one in order if one[1] != "critical"] == [one for one in sorted(order) if one[1] != "critical"]
    assert [one for one in order if one[1] == "critical"] == [one for one in sorted(order) if one[1] == "critical"]
    for at, (number, word) in enumerate(order):
        if word != "critical":
            continue
        barriers = [one for one in said.values() if one[1] in ("cancel", "code") and one[0] < number]
        assert all(barrier in order[:at] for barrier in barriers), "it comes after all that it may need"
        later = [one for one in order[at + 1 :] if one[0] < number]
        assert all(one[1] in ("low", "standard", "child") for one in later)
        before = order[at - 1][1] if at else "code"
        assert before in ("critical", "cancel", "code"), "and before every task that is not urgent"
