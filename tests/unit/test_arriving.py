"""Batches whose needs are being brought: what is about them waits for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from nodes.arriving import Arriving
from swarm.protocol import ids

FIRST, SECOND, THIRD = (ids.batch_key(b"session!", number) for number in (1, 2, 3))


class Place:
    def __init__(self) -> None:
        self.it = Arriving()
        self.log: list[str] = []
        self.bringing: dict[str, Callable[[], object]] = {}

    def take(self, key: bytes, name: str, *deps: bytes, here: bool = False) -> None:
        def bring(then: Callable[[], object]) -> None:
            if here:
                then()
            else:
                self.bringing[name] = then

        self.it.take(key, [ids.task_id(dep, 0) for dep in deps], bring, partial(self.log.append, name))


def test_what_has_all_that_it_needs_is_taken_at_once() -> None:
    place = Place()
    place.take(FIRST, "first", here=True)
    place.take(SECOND, "second", FIRST, here=True)
    assert place.log == ["first", "second"]
    assert not place.it.after(FIRST, lambda: None) and not place.it._waiting


def test_what_depends_on_it_or_cancels_it_waits_for_it() -> None:
    place = Place()
    place.take(FIRST, "first")
    place.take(SECOND, "second")
    place.take(THIRD, "third", SECOND, FIRST, here=True)
    assert place.it.after(FIRST, partial(place.log.append, "cancel first"))
    assert place.log == []
    place.bringing["second"]()
    assert place.log == ["second"], "the third waits for the first now"
    place.bringing["first"]()
    assert place.log == ["second", "first", "cancel first", "third"] and not place.it._waiting


def test_handed_over_twice_it_is_taken_twice_and_what_waits_is_done_once() -> None:
    place = Place()
    place.take(FIRST, "first")
    place.take(FIRST, "first again")
    assert place.it.after(FIRST, partial(place.log.append, "cancel"))
    place.bringing["first again"]()
    place.bringing["first"]()
    assert place.log == ["first again", "cancel", "first"] and not place.it._waiting
