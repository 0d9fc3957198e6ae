"""The loop over generators against its readable twin."""

from __future__ import annotations

import sys
from operator import length_hint

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import sends
from kernels.reference import sends as twin


def agent(says):
    heard = yield
    for each in says:
        if each == "raise":
            raise KeyError(heard)
        if each == "return":
            return each
        heard = yield each if each else None


class Custom:
    """No generator, and sent to all the same."""

    def __init__(self) -> None:
        self.heard = []

    def send(self, value):
        self.heard.append(value)
        return 7 if value == 2 else None


def lived(send_each, scripts):
    """What came of each pass over generators of these scripts: outcomes, what was raised, how far it was each time."""
    agents = []
    for script in scripts:
        agents.append(agent(script))
        next(agents[-1])
    found = []
    for value in range(4):
        iterator = iter(agents)
        while True:
            try:
                outcome = send_each(iterator, value)
            except Exception as error:
                found.append((type(error).__name__, error.args, length_hint(iterator)))
                continue
            found.append((outcome, length_hint(iterator)))
            if outcome is None:
                break
    return found


@given(st.lists(st.lists(st.sampled_from([None, 0, 1, "x", "raise", "return"]), max_size=4), max_size=6))
def test_it_does_what_its_twin_does(scripts):
    assert lived(sends.send_each, scripts) == lived(twin.send_each, scripts)


def test_what_is_no_generator_is_sent_to_by_its_method():
    agents = [Custom(), Custom()]
    assert [sends.send_each(iter(agents), value) for value in (1, 2, 3)] == [None, 7, None]
    assert agents[0].heard == [1, 2, 3] and agents[1].heard == [1, 3], "the iterator stopped behind the first"
    with pytest.raises(AttributeError, match="send"):
        sends.send_each(iter([3]), 1)


def test_nothing_is_kept_of_what_was_sent_or_said():
    value, outcome = object(), object()
    before = sys.getrefcount(value), sys.getrefcount(outcome)
    agents = [agent([None, outcome, "return"]) for _ in range(5)]
    for each in agents:
        next(each)
    iterator = iter(agents)
    assert sends.send_each(iterator, value) is None
    assert sends.send_each(iter(agents), value) is outcome
    for _ in range(3):
        with pytest.raises(StopIteration):
            sends.send_each(iter(agents[:1]), value)
    del agents, iterator, each
    assert (sys.getrefcount(value), sys.getrefcount(outcome)) == before
