"""Frames of consensus: what is written is read, and whatever else comes is refused without harm."""

from __future__ import annotations

from random import Random
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.protocol.effects import Fact
from swarm.protocol.raft import wire
from swarm.protocol.raft.config import ENTRIES_MAX, MEMBERS_MAX, NUMBER_MAX
from swarm.protocol.raft.effects import Stranger
from swarm.protocol.raft.entries import Entry, EntryKind, FormatError, Members, Recovered, Snapshot
from swarm.protocol.raft.node import RaftNode
from swarm.protocol.raft.wire import Kind, Message

BOOT = b"bootboot"
GROUP = b"group"
ID, OTHER = b"%016d" % 0, b"%016d" % 1
MEMBERS = Members.of([ID, OTHER])

numbers = st.integers(0, NUMBER_MAX)
entries = st.lists(st.binary(max_size=20), max_size=5).map(
    lambda datas: [Entry(3, EntryKind.DATA, data) for data in datas]
)


@st.composite
def messages(draw: Any) -> Message:
    kind = draw(st.sampled_from(list(Kind)))
    message = Message(
        GROUP,
        kind,
        draw(st.integers(3, NUMBER_MAX)),
        draw(numbers),
        3,
        draw(numbers),
        draw(numbers),
        draw(st.integers(0, 31)),
    )
    if kind == Kind.APPEND:
        message.entries = draw(entries)
    if kind == Kind.SNAPSHOT:
        message.members, message.chunk = MEMBERS, draw(st.binary(max_size=30))
        message.offset, message.total, message.index = 5, 5 + len(message.chunk), message.index or 1
    return message


@settings(max_examples=40, deadline=None)
@given(st.lists(messages(), max_size=5), st.sampled_from([0, 1, 2]))
def test_what_is_written_is_read(batch: list[Message], beat: int) -> None:
    frame = wire.decode(wire.encode(BOOT, beat, batch))
    assert (frame.boot, frame.beat, frame.messages, frame.ignored) == (BOOT, beat, batch, 0)


def frame(**fields: Any) -> bytes:
    return msgpack.packb({"v": 1, "b": BOOT, "m": [{"g": GROUP, "k": Kind.APPEND, "t": 5} | fields]})


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not-msgpack"),
        (b"\xc1", "not-msgpack"),
        (msgpack.packb([1]), "frame"),
        (msgpack.packb({"v": 2, "b": BOOT}), "version"),
        (msgpack.packb({"v": True, "b": BOOT}), "version"),
        (msgpack.packb({"v": 1, "b": b"short"}), "frame"),
        (msgpack.packb({"v": 1, "b": BOOT, "m": 7}), "frame"),
        (msgpack.packb({"v": 1, "b": BOOT, "m": [7]}), "message"),
        (msgpack.packb({"v": 1, "b": BOOT, "m": [{}] * 70000}), "too-many"),
        (frame(g=b""), "message"),
        (frame(g="group"), "message"),
        (frame(g=bytes(33)), "message"),
        (frame(k="x"), "message"),
        (frame(t=0), "term"),
        (frame(t=-1), "number"),
        (frame(t=True), "number"),
        (frame(i=2**63), "number"),
        (frame(l=6), "term"),
        (frame(e=7), "entries"),
        (frame(e=[[5, 1, b""]] * (ENTRIES_MAX + 1)), "entries"),
        (frame(e=[[6, 1, b""]]), "entry"),
        (frame(e=[[5, 1, b""], [4, 1, b""]]), "entry"),
        (frame(e=[[0, 1, b""]]), "entry"),
        (frame(e=[[5, 9, b""]]), "entry"),
        (frame(e=[[5, 1, "text"]]), "entry"),
        (frame(e=[[5, 1]]), "entry"),
        (frame(e=[[5, 2, b"no members"]]), "members"),
        (frame(e=[[5, 2, msgpack.packb({"v": [ID, ID], "l": []})]]), "members"),
        (frame(e=[[5, 2, msgpack.packb({"v": [b"%016d" % n for n in range(MEMBERS_MAX + 1)], "l": []})]]), "members"),
        (frame(k=Kind.SNAPSHOT, i=1, l=1), "members"),
        (frame(k=Kind.SNAPSHOT, i=0, l=1, s=MEMBERS.fields()), "snapshot"),
        (frame(k=Kind.SNAPSHOT, i=1, l=1, s=MEMBERS.fields(), z=2, o=1, d=b"ab"), "snapshot"),
        (frame(k=Kind.SNAPSHOT, i=1, l=1, s=MEMBERS.fields(), z=2**40), "snapshot"),
    ],
)
def test_what_breaks_the_format_is_refused_with_its_reason(payload: bytes, reason: str) -> None:
    with pytest.raises(FormatError) as caught:
        wire.decode(payload)
    assert str(caught.value) == reason
    node = RaftNode(0.0, ID, BOOT, Random(0))
    node.receive(0.0, OTHER, payload)
    assert [(effect.name, effect.labels) for effect in node.take()] == [("raft.rejected", {"reason": reason})]


def test_unknown_keys_and_kinds_are_ignored_and_counted() -> None:
    decoded = wire.decode(
        msgpack.packb(
            {"v": 1, "b": BOOT, "new": [], "m": [{"g": GROUP, "k": 99, "t": 1}, {"g": GROUP, "k": 7, "t": 1, "new": 1}]}
        )
    )
    assert decoded.ignored == 1
    assert [message.kind for message in decoded.messages] == [Kind.HEARTBEAT]


def test_a_message_of_an_unknown_group_is_told_once_a_frame() -> None:
    node = RaftNode(0.0, ID, BOOT, Random(0))
    beats = [Message(GROUP, Kind.HEARTBEAT, 1), Message(GROUP, Kind.APPEND, 1), Message(b"x", Kind.VOTE, 1)]
    node.receive(0.0, OTHER, wire.encode(BOOT, 0, beats))
    assert node.take() == [Stranger(GROUP, OTHER)]


ODD = [None, True, -1, 0, 1, 2, 3, 5, 2**62, 2**63, b"", b"x", b"%016d" % 1, "s", [], {}, 1.5, MEMBERS.fields()]
ODD += [[[1, 1, b"x"]], [[1, 0, b""], [1, 1, b"y"]], [[1, 2, MEMBERS.pack()]], [[1, 1]], {"v": [], "l": []}]
values = st.sampled_from(ODD)
fields = st.dictionaries(st.sampled_from(list("gktilcrfeszod")), values, max_size=9)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(fields, st.sampled_from(list(Kind)), st.sampled_from([ID, OTHER, b"%016d" % 2])), max_size=8))
def test_no_sequence_of_messages_raises_anything(batch: list[tuple[dict[str, Any], Kind, bytes]]) -> None:
    node = RaftNode(0.0, ID, BOOT, Random(0))
    node.create(0.0, GROUP, Recovered(snapshot=Snapshot(members=MEMBERS)))
    node.campaign(0.0, GROUP)
    node.take()
    now = 0.0
    for odd, kind, sender in batch:
        now += 0.3
        message = {"g": GROUP, "k": int(kind), "t": 1, "s": MEMBERS.fields(), **odd}
        message |= {"k": int(kind), "g": GROUP}
        node.receive(now, sender, msgpack.packb({"v": 1, "b": BOOT, "m": [message]}))
        node.tick(now)
        for effect in node.take():
            if type(effect).__name__ == "Sync":
                node.synced(now, effect.number)
            assert not isinstance(effect, Fact) or effect.name in ("raft.rejected", "raft.violation")
