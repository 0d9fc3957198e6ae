"""The bus hands every line that found room to the next pass once, ordered by (kind, row, sequence), and counts the others."""

from __future__ import annotations

import gc
import mmap
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.lanes import SpscLane
from kernels.reference import topics as reference
from kernels.topics import Bus, BusLink

KINDS = st.sampled_from([0, 1, 2, 255, 256, 65535])
ROWS = st.integers(0, 9) | st.sampled_from([255, 256, 2**16, 2**24, 2**32 - 1]) | st.integers(0, 2**32 - 1)
SENDS = st.tuples(st.just("publish"), st.integers(0, 2), KINDS, ROWS, st.binary(max_size=56))
LINES = st.lists(st.tuples(st.integers(0, 2), KINDS, ROWS, st.binary(min_size=56, max_size=56)), max_size=30)
STEPS = st.lists(
    SENDS | SENDS | st.tuples(st.just("turn")) | st.tuples(st.sampled_from(["publish_many", "arrive"]), LINES),
    min_size=1,
    max_size=40,
)


def line(topic: int, kind: int, row: int, payload: bytes = b"") -> bytes:
    return struct.pack("<HHI", topic, kind, row) + payload.ljust(56, b"\0")


def pair(*topics: tuple[int, str]) -> tuple[Bus, reference.Bus]:
    both = Bus(), reference.Bus()
    for lines_max, full in topics:
        assert {bus.add(lines_max, full) for bus in both} == {both[0].topics - 1}
    return both


def shown(bus: Bus | reference.Bus) -> list[tuple[bytes, int, tuple[int, ...]]]:
    return [(bytes(bus.inbox(t)), bytes(bus.outbox(t)), bus.pending(t), bus.counters(t), bus.lost(t)) for t in range(3)]


@settings(max_examples=300, deadline=None)
@given(st.tuples(st.integers(1, 80), st.integers(1, 80), st.integers(1, 5)), STEPS)
def test_a_bus_does_what_the_reference_does(rooms, steps):
    bus, twin = pair((rooms[0], "drop"), (rooms[1], "block"), (rooms[2], "drop"))
    for name, *arguments in [*steps, ("turn",)]:
        if name in ("publish_many", "arrive"):
            arguments = [b"".join(line(*one) for one in arguments[0])]
        assert getattr(bus, name)(*arguments) == getattr(twin, name)(*arguments)
        assert shown(bus) == shown(twin)


@pytest.mark.parametrize("count", [2, 47, 48, 49, 1_000, 70_000])
@pytest.mark.parametrize("spread", ["few", "one-kind", "all"])
def test_lines_are_in_order_however_many_there_are(count, spread):
    chance = random.Random(count)
    kinds, rows = {"few": (3, 5), "one-kind": (1, 2**20), "all": (2**16, 2**32)}[spread]
    sent = [(chance.randrange(kinds), chance.randrange(rows), n.to_bytes(4, "little")) for n in range(count)]
    bus = Bus()
    bus.add(count)
    assert bus.publish_many(b"".join(line(0, *one) for one in sent)) == count
    bus.turn()
    assert bytes(bus.inbox(0)) == b"".join(line(0, *one) for one in sorted(sent, key=lambda one: one[:2]))


def test_equal_senders_keep_their_sequence_beside_others():
    bus = Bus()
    bus.add(100)
    for n in range(50):
        bus.publish(0, 7, 3, bytes([n]))
        bus.publish(0, 7, 2, bytes([n]))
    bus.turn()
    assert bytes(bus.inbox(0)[8::64]) == bytes(range(50)) * 2


def test_what_was_published_is_read_in_the_next_pass_and_only_then():
    bus = Bus()
    bus.add(4)
    bus.publish(0, 1, 2, b"one")
    assert len(bus.inbox(0)) == 0
    bus.turn()
    bus.publish(0, 1, 2, b"two")
    assert bytes(bus.inbox(0)) == line(0, 1, 2, b"one")
    bus.turn()
    assert bytes(bus.inbox(0)) == line(0, 1, 2, b"two")
    bus.turn()
    assert len(bus.inbox(0)) == 0


def test_a_full_topic_drops_or_blocks_as_declared_and_has_room_again_after_the_pass():
    bus = Bus()
    drops, blocks = bus.add(2, "drop"), bus.add(2, "block")
    for topic in (drops, blocks):
        assert [bus.publish(topic, 0, row) for row in range(4)] == [True, True, False, False]
    assert bus.counters(drops) == (2, 2, 0, 0)
    assert bus.counters(blocks) == (2, 0, 2, 0)
    bus.turn()
    assert bus.publish(drops, 0, 0) and bus.publish(blocks, 0, 0)


def test_an_array_stops_at_the_line_that_must_wait():
    bus = Bus()
    bus.add(1, "drop")
    bus.add(2, "block")
    lines = b"".join(line(topic, 0, row) for row, topic in enumerate([0, 1, 0, 1, 1, 0]))
    assert bus.publish_many(lines) == 4  # the third is dropped, the fifth must wait
    assert [bus.counters(t) for t in (0, 1)] == [(1, 1, 0, 0), (2, 0, 1, 0)]
    bus.turn()
    assert bus.publish_many(lines[4 * 64 :]) == 2


def test_topics_do_not_mix():
    bus = Bus()
    for _ in range(Bus.TOPICS_MAX):
        bus.add(1)
    for topic in range(Bus.TOPICS_MAX):
        assert bus.publish(topic, 0, topic)
    bus.turn()
    for topic in range(Bus.TOPICS_MAX):
        assert bytes(bus.inbox(topic)) == line(topic, 0, topic)


def test_subscriptions_are_sets_of_kinds():
    bus, twin = pair((1, "drop"), (1, "drop"))
    chance = random.Random(3)
    for _ in range(2_000):
        name = chance.choice(["subscribe", "subscribe", "unsubscribe"])
        topic, kind = chance.randrange(2), chance.choice([0, 1, 63, 64, 65, 1022, 1023, chance.randrange(1024)])
        getattr(bus, name)(topic, kind)
        getattr(twin, name)(topic, kind)
    assert [bus.subscribers(t) for t in (0, 1)] == [twin.subscribers(t) for t in (0, 1)]
    assert bus.subscribers(0) != bus.subscribers(1)


def test_deliveries_are_counted():
    bus = Bus()
    bus.add(1)
    bus.delivered(0, 2**33)
    bus.delivered(0, 3)
    assert bus.counters(0) == (0, 0, 0, 2**33 + 3)


def test_a_restored_topic_goes_on_as_the_one_that_was_saved():
    buses = Bus(), Bus()
    for bus in buses:
        bus.add(10, "block")
        bus.add(10)
    old, new = buses
    for row in (5, 1, 1, 9):
        old.publish(1, 2, row, bytes([row]))
    old.turn()
    old.delivered(1, 8)
    new.publish(1, 0, 0)
    for topic in (0, 1):
        new.restore(topic, old.inbox(topic), old.counters(topic))
    for _ in range(3):
        assert [bytes(new.inbox(t)) for t in (0, 1)] == [bytes(old.inbox(t)) for t in (0, 1)]
        assert [new.counters(t) for t in (0, 1)] == [old.counters(t) for t in (0, 1)]
        for bus in buses:
            bus.publish(1, 2, 7)
            bus.publish(1, 2, 6)
            bus.turn()


@pytest.mark.parametrize(
    "lines",
    [
        line(0, 0, 0)[:-1],
        line(1, 0, 0),
        line(0, 0, 0) * 5,
        line(0, 0, 1) + line(0, 0, 0),
        line(0, 1, 0) + line(0, 0, 1),
    ],
)
def test_what_is_no_inbox_of_the_topic_is_not_restored(lines):
    bus = Bus()
    bus.add(4)
    bus.publish(0, 3, 3)
    bus.turn()
    with pytest.raises(ValueError, match="not the inbox of topic 0"):
        bus.restore(0, lines, (9, 9, 9, 9))
    assert bytes(bus.inbox(0)) == line(0, 3, 3)
    assert bus.counters(0) == (1, 0, 0, 0)


def test_a_view_outlives_the_bus():
    bus = Bus()
    bus.add(2)
    bus.publish(0, 4, 5, b"still there")
    bus.turn()
    view = bus.inbox(0)
    del bus
    gc.collect()
    assert bytes(view) == line(0, 4, 5, b"still there")
    assert view.readonly


@pytest.mark.parametrize("topic", [-1, 1, 2**40])
def test_a_topic_that_is_not_there(topic):
    bus = Bus()
    bus.add(1)
    for use in (
        lambda: bus.publish(topic, 0, 0),
        lambda: bus.inbox(topic),
        lambda: bus.pending(topic),
        lambda: bus.counters(topic),
        lambda: bus.delivered(topic, 1),
        lambda: bus.subscribe(topic, 0),
        lambda: bus.unsubscribe(topic, 0),
        lambda: bus.subscribers(topic),
        lambda: bus.restore(topic, b"", (0, 0, 0, 0)),
    ):
        with pytest.raises(ValueError, match=f"no topic {topic}: there are 1"):
            use()


def test_lines_of_a_topic_that_is_not_there_are_refused_and_those_before_are_published():
    bus = Bus()
    bus.add(5)
    with pytest.raises(ValueError, match="no topic 9"):
        bus.publish_many(line(0, 0, 0) + line(9, 0, 0) + line(0, 0, 1))
    assert bus.pending(0) == 1
    with pytest.raises(ValueError, match="127 bytes are not lines"):
        bus.publish_many(bytes(127))


@pytest.mark.parametrize("lines_max", [0, -1, 2**32, 2**70])
def test_room_that_no_topic_has(lines_max):
    with pytest.raises(ValueError, match="room for 1 to"):
        Bus().add(lines_max)


def test_other_mistakes_are_named():
    bus = Bus()
    bus.add(1)
    with pytest.raises(ValueError, match="'wait'"):
        bus.add(1, "wait")
    with pytest.raises(ValueError, match="a payload of 57 bytes"):
        bus.publish(0, 0, 0, bytes(57))
    for kind, row in [(2**16, 0), (-1, 0), (0, 2**32), (0, -1)]:
        with pytest.raises(OverflowError):
            bus.publish(0, kind, row)
    for kind in (-1, 1024):
        with pytest.raises(ValueError, match="cannot subscribe"):
            bus.subscribe(0, kind)
    assert bus.counters(0) == (0, 0, 0, 0)
    for _ in range(1023):
        bus.add(1)
    with pytest.raises(ValueError, match="at most 1024 topics"):
        bus.add(1)


def linked(lines: int = 16) -> tuple[Bus, Bus, BusLink, BusLink, mmap.mmap]:
    """Two buses: topic 1 of one is topic 0 of the other, by the name 3; and back, topic 1 there is topic 0 here, by the name 0."""
    here, there = Bus(), Bus()
    for bus in (here, there):
        bus.add(100)
        bus.add(100)
    forth, back = mmap.mmap(-1, SpscLane.nbytes(lines)), bytearray(SpscLane.nbytes(lines))
    one = BusLink(2, {1: 3}, {0: 0}, SpscLane.create(forth), SpscLane.create(back))
    other = BusLink(2, {1: 0}, {3: 0}, SpscLane(back), SpscLane(forth))
    here.join(one)
    there.join(other)
    return here, there, one, other, forth


def test_a_link_carries_topics_both_ways_in_their_order():
    here, there, one, other, _ = linked()
    for row in (9, 2):
        here.publish(1, 5, row, b"from here")
    here.publish(0, 5, 1, b"stays")
    there.publish(0, 5, 4, b"own")
    there.publish(1, 7, 7, b"from there")
    here.turn()
    there.turn()
    assert bytes(there.inbox(0)) == line(0, 5, 2, b"from here") + line(0, 5, 4, b"own") + line(0, 5, 9, b"from here")
    assert bytes(here.inbox(0)) == line(0, 5, 1, b"stays")
    here.turn()
    assert bytes(here.inbox(0)) == line(0, 7, 7, b"from there")
    assert one.counters() == (2, 0, 1, 0)
    assert other.counters() == (1, 0, 2, 0)
    assert there.counters(0) == (1, 0, 0, 0), "what arrives is not published here"
    here.part(one)
    here.publish(1, 5, 1, b"not sent")
    here.turn()
    assert one.counters() == (2, 0, 1, 0)


def test_a_link_that_is_full_drops_and_counts():
    here, there, one, other, _ = linked(4)
    for row in range(7):
        here.publish(1, 1, row)
    here.turn()
    there.turn()
    assert one.counters()[:2] == (4, 3)
    assert [bytes(there.inbox(0))[at + 4] for at in range(0, 256, 64)] == [0, 1, 2, 3]


def test_lines_of_a_peer_are_not_trusted():
    here, there, one, other, forth = linked(4)
    lane = SpscLane(forth)
    lane.put_many(line(3, 1, 1) + line(2, 1, 1) + line(9, 1, 1) + line(65535, 65535, 2**32 - 1))
    there.turn()
    assert other.counters() == (0, 0, 1, 3), "three are of topics that nobody agreed on"
    forth[128:136] = (2**40).to_bytes(8, "little")  # the producer's counter
    there.turn()
    with pytest.raises(ValueError, match="damaged"):
        other.counters()
    there.publish(0, 1, 1, b"goes on")
    there.turn()
    assert len(there.inbox(0)) == 64


def test_links_that_do_not_fit_are_refused():
    bus = Bus()
    bus.add(4)
    with pytest.raises(ValueError, match="2 topics; this one has 1"):
        bus.join(BusLink(2, {}, {}))
    with pytest.raises(ValueError, match="no topic 7"):
        bus.join(BusLink(1, {}, {0: 7}))
    with pytest.raises(OverflowError):
        BusLink(1, {0: 70_000}, {})
    with pytest.raises(ValueError, match="at most 1024"):
        BusLink(1, {}, {5000: 0})
    link = BusLink(1, {}, {})
    bus.join(link)
    with pytest.raises(RuntimeError):
        bus.join(link)


def test_a_bus_with_a_link_can_be_let_go_in_any_order():
    here, there, one, other, forth = linked()
    del one, forth
    here.publish(1, 1, 1)
    here.turn()
    del here
    gc.collect()
    there.turn()
    assert len(there.inbox(0)) == 64
