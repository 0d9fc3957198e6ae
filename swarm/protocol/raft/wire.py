"""What nodes say to each other about their groups: MessagePack maps, many messages in one frame.

A frame is ``{"v": version, "b": boot of the sender, "h": 0 nothing | 1 heartbeat of the node | 2 answer to it,
"m": [message…]}``, a message ``{"g": group, "k": kind, "t": term, …}``. Keys that a reader does not know are ignored, and so are
messages of kinds that it does not know; what is left out is 0, false or empty.

==============  ==========================================================================================
kind            fields
==============  ==========================================================================================
PRE_VOTE        i, l last entry (index, term); t is the term that would be asked for (Ongaro 2014, 9.6)
PRE_VOTE_REPLY  f rejected; t the term asked for if granted, else the voter's
VOTE            i, l last entry; f transfer: the leader has asked for this election
VOTE_REPLY      f rejected
APPEND          i, l entry before the first (index, term); c commit; e [[term, kind, data]…]
APPEND_REPLY    i how far the logs agree; or f rejected, i, l where they may meet, r what was rejected; f damaged, full
HEARTBEAT       c commit; r round; f rest: the group goes to rest, if all that i says is there
HEARTBEAT_REPLY c what is known as committed; r round; i the last entry; f damaged, full
SNAPSHOT        i, l last entry of it; s members; o offset; z length; d chunk
SNAPSHOT_REPLY  i the snapshot's index; o how much of it is here; f damaged
TRANSFER        be a candidate now (TimeoutNow, 3.10)
REPAIR          r nonce: this member's log is damaged, what must it have?
REPAIR_REPLY    r nonce; i all entries up to here
STALE           t a term above that of whoever believed to lead
REMOVED         whoever asked for votes is no member any more, and that is committed; i the entry that says so
==============  ==========================================================================================

Everything that is read here may be hostile: what does not match raises `FormatError`, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NoReturn

import msgpack

from swarm.protocol.raft.config import (
    BOOT_BYTES,
    ENTRIES_MAX,
    ENTRY_BYTES_MAX,
    FRAME_BYTES_MAX,
    GROUP_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    MESSAGES_MAX,
    NUMBER_MAX,
    SNAPSHOT_BYTES_MAX,
)
from swarm.protocol.raft.entries import Entry, EntryKind, FormatError, Members

VERSION = 1


class Kind(IntEnum):
    """Kinds of messages; the number is on the wire and never used again for another."""

    PRE_VOTE = 1
    PRE_VOTE_REPLY = 2
    VOTE = 3
    VOTE_REPLY = 4
    APPEND = 5
    APPEND_REPLY = 6
    HEARTBEAT = 7
    HEARTBEAT_REPLY = 8
    SNAPSHOT = 9
    SNAPSHOT_REPLY = 10
    TRANSFER = 11
    REPAIR = 12
    REPAIR_REPLY = 13
    STALE = 14
    REMOVED = 15


FROM_LEADER = frozenset((Kind.APPEND, Kind.HEARTBEAT, Kind.SNAPSHOT, Kind.TRANSFER, Kind.REPAIR_REPLY, Kind.REMOVED))
"""Only who leads in its term sends these."""

REJECTED, DAMAGED, FULL, REST, BY_TRANSFER = 1, 2, 4, 8, 16
"""Bits of the field f."""

BEAT_NONE, BEAT, BEAT_REPLY = range(3)


@dataclass(slots=True)
class Message:
    """One message of one group. What the fields mean is said with the kinds."""

    group: bytes
    kind: int
    term: int
    index: int = 0
    log_term: int = 0
    commit: int = 0
    round: int = 0
    flags: int = 0
    entries: Sequence[Entry] = ()
    members: Members | None = None
    offset: int = 0
    total: int = 0
    chunk: bytes = b""

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return 64 + len(self.chunk) + sum(len(entry.data) + 12 for entry in self.entries)


@dataclass(slots=True)
class Frame:
    """What one node sends to another at the end of a turn."""

    boot: bytes
    beat: int
    messages: list[Message]
    ignored: int = 0
    """Messages of kinds that are not known here."""


_pack = msgpack.Packer(autoreset=True).pack


def _bad(reason: str) -> NoReturn:
    raise FormatError(reason)


def _fields(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = {"g": message.group, "k": int(message.kind), "t": message.term}
    if message.index:
        fields["i"] = message.index
    if message.log_term:
        fields["l"] = message.log_term
    if message.commit:
        fields["c"] = message.commit
    if message.round:
        fields["r"] = message.round
    if message.flags:
        fields["f"] = message.flags
    if message.entries:
        fields["e"] = message.entries
    if message.members is not None:
        fields["s"] = message.members.fields()
        fields["o"] = message.offset
        fields["z"] = message.total
        fields["d"] = message.chunk
    elif message.offset:
        fields["o"] = message.offset
    return fields


def encode(boot: bytes, beat: int, messages: Sequence[Message]) -> bytes:
    """A frame."""
    frame = {"v": VERSION, "b": boot, "h": beat, "m": [_fields(message) for message in messages]}
    packed = bytes(_pack(frame))
    assert len(packed) <= FRAME_BYTES_MAX, len(packed)
    return packed


def decode(payload: bytes | memoryview) -> Frame:
    """A frame, all of it checked. FormatError if it is none."""
    if len(payload) > FRAME_BYTES_MAX:
        _bad("too-long")
    try:
        frame = msgpack.unpackb(payload, strict_map_key=True)
    except Exception:
        raise FormatError("not-msgpack") from None
    if type(frame) is not dict:
        _bad("frame")
    version, boot, beat, packed = frame.get("v"), frame.get("b"), frame.get("h", 0), frame.get("m", [])
    if version != VERSION or type(version) is not int:
        _bad("version")
    if type(boot) is not bytes or len(boot) != BOOT_BYTES or type(beat) is not int or type(packed) is not list:
        _bad("frame")
    if len(packed) > MESSAGES_MAX:
        _bad("too-many")
    messages = []
    ignored = 0
    for fields in packed:
        if type(fields) is not dict:
            _bad("message")
        message = _message(fields)
        if message is None:
            ignored += 1
        else:
            messages.append(message)
    return Frame(boot, beat if beat in (BEAT, BEAT_REPLY) else BEAT_NONE, messages, ignored)


def _message(fields: dict[str, Any]) -> Message | None:
    get = fields.get
    group, kind = get("g"), get("k")
    if type(group) is not bytes or not 0 < len(group) <= GROUP_BYTES_MAX or type(kind) is not int:
        _bad("message")
    if not Kind.PRE_VOTE <= kind <= Kind.REMOVED:
        return None
    numbers = (get("t", 0), get("i", 0), get("l", 0), get("c", 0), get("r", 0), get("f", 0), get("o", 0))
    for number in numbers:
        if type(number) is not int or not 0 <= number <= NUMBER_MAX:
            _bad("number")
    term, index, log_term, commit, round, flags, offset = numbers
    if term == 0 or log_term > term:
        _bad("term")
    message = Message(group, kind, term, index, log_term, commit, round, flags, (), None, offset)
    if kind == Kind.APPEND:
        message.entries = _entries(get("e", []), log_term, term)
    elif kind == Kind.SNAPSHOT:
        message.members = Members.read(get("s"))
        total, chunk = get("z", 0), get("d", b"")
        if type(total) is not int or not 0 <= total <= SNAPSHOT_BYTES_MAX:
            _bad("snapshot")
        if type(chunk) is not bytes or offset + len(chunk) > total or not index or not log_term:
            _bad("snapshot")
        message.total, message.chunk = total, chunk
    return message


def _entries(packed: Any, before: int, term: int) -> list[Entry]:
    if type(packed) is not list or len(packed) > ENTRIES_MAX:
        _bad("entries")
    entries = []
    size = 0
    for row in packed:
        if type(row) is not list or len(row) != 3:
            _bad("entry")
        entry_term, kind, data = row
        if type(entry_term) is not int or not before <= entry_term <= term or type(data) is not bytes or not entry_term:
            _bad("entry")
        if type(kind) is not int or not EntryKind.NOTHING <= kind <= EntryKind.MEMBERS or len(data) > ENTRY_BYTES_MAX:
            _bad("entry")
        if kind == EntryKind.MEMBERS:
            Members.unpack(data)
        before = entry_term
        size += len(data)
        entries.append(Entry(entry_term, kind, data))
    if size > MESSAGE_BYTES_MAX:
        _bad("entries")
    return entries
