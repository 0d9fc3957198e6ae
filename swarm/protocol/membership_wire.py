"""The datagrams of membership: MessagePack arrays ``[version, kind, body, updates]``.

==========  ====================================================  =====================================================
kind        body                                                  said
==========  ====================================================  =====================================================
GOSSIP      nil                                                   updates to pass on
PING        [number, target id]                                   are you there?
ACK         [number]                                              yes; also passed on by a helper
PING_REQ    [number, target id]                                   ask it for me
NACK        [number]                                              it has not answered me either
HELLO       [answer wanted]                                       first contact, under the fleet's secret alone: the
                                                                  sender's whole record is the only update
SYNC        [digest of the table, digest of the notices]          push-pull: is your table as mine? with the own record
ROWS        [low, high, [[id, incarnation, version, state]…]]     a page of a table: all live members from low up to
                                                                  high; an empty high claims no completeness
WANT        [[id…]]                                               send these records
==========  ====================================================  =====================================================

Updates: ``[0, id, incarnation, version, boot, name, [[ip, port]…], info, certificate|nil]`` alive,
``[1, id, incarnation, [accuser…]]`` suspected, ``[2, id, incarnation, accuser]`` dead, ``[3, id, incarnation]`` left,
``[4, blob]`` notice. Addresses are packed: 4 or 16 bytes.

Everything that is read here may be hostile: whatever does not match raises `WireError`, and nothing else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NoReturn

import msgpack

from swarm.protocol import membership_config as bounds
from swarm.protocol.effects import Address
from swarm.protocol.member import Peer

VERSION = 1

GOSSIP, PING, ACK, PING_REQ, NACK, HELLO, SYNC, ROWS, WANT = range(9)
KINDS = ("gossip", "ping", "ack", "ping-req", "nack", "hello", "sync", "rows", "want")
ALIVE, SUSPECT, DEAD, LEFT, NOTICE = range(5)

_NUMBER_MAX = 2**32
_pack = msgpack.Packer(autoreset=True).pack
_unpack = msgpack.unpackb
_PREFIX = tuple(b"\x94" + bytes((VERSION, kind)) for kind in range(len(KINDS)))
_NO_UPDATES = b"\x90"


class WireError(ValueError):
    """A datagram that breaks the format. The text is one of few, so that it can label a count."""


def _bad(reason: str) -> NoReturn:
    raise WireError(reason)


def head(kind: int, body: object) -> bytes:
    """What stands before the updates of a datagram."""
    return _PREFIX[kind] + bytes(_pack(body))


def finish(head: bytes, updates: list[bytes]) -> bytes:
    """A datagram of its head and packed updates."""
    count = len(updates)
    if count == 0:
        return head + _NO_UPDATES
    return b"".join((head, bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big"), *updates))


def decode(payload: bytes) -> tuple[int, Any, list[Any]]:
    """(kind, checked body, unchecked updates). WireError if malformed."""
    if len(payload) > bounds.PAYLOAD_BYTES_MAX:
        _bad("too-long")
    try:
        message = _unpack(payload)
    except Exception:
        raise WireError("not-msgpack") from None
    if type(message) is not list or len(message) != 4:
        _bad("not-a-message")
    version, kind, body, updates = message
    if type(version) is not int or version != VERSION:
        _bad("version")
    if type(kind) is not int or not 0 <= kind < len(KINDS):
        _bad("kind")
    if type(updates) is not list or len(updates) > bounds.UPDATES_MAX:
        _bad("updates")
    if not _body_ok(kind, body):
        _bad("body")
    return kind, body, updates


def _number(value: object, limit: int) -> bool:
    return type(value) is int and 0 <= value < limit


def _id(value: object) -> bool:
    return type(value) is bytes and len(value) == bounds.ID_BYTES


def _body_ok(kind: int, body: Any) -> bool:
    if kind == GOSSIP:
        return body is None
    if type(body) is not list:
        return False
    if kind in (PING, PING_REQ):
        return len(body) == 2 and _number(body[0], _NUMBER_MAX) and _id(body[1])
    if kind in (ACK, NACK):
        return len(body) == 1 and _number(body[0], _NUMBER_MAX)
    if kind == HELLO:
        return len(body) == 1 and type(body[0]) is bool
    if kind == SYNC:
        return len(body) == 2 and _number(body[0], 2**64) and _number(body[1], 2**64)
    if kind == ROWS:
        low, high, rows = body if len(body) == 3 else (None, None, None)
        return (
            type(low) is bytes
            and type(high) is bytes
            and max(len(low), len(high)) <= bounds.ID_BYTES + 1
            and type(rows) is list
            and len(rows) <= bounds.ROWS_MAX
            and all(_row_ok(row) for row in rows)
        )
    wanted = body[0] if len(body) == 1 else None
    return type(wanted) is list and len(wanted) <= bounds.WANTS_MAX and all(_id(id) for id in wanted)


def _row_ok(row: Any) -> bool:
    return (
        type(row) is list
        and len(row) == 4
        and _id(row[0])
        and _number(row[1], bounds.INCARNATION_MAX)
        and _number(row[2], bounds.VERSION_MAX)
        and _number(row[3], 4)
    )


def check_update(update: Any) -> int:
    """The tag of a well-formed update. WireError otherwise."""
    if type(update) is not list or not update:
        _bad("update")
    tag = update[0]
    if type(tag) is not int or not ALIVE <= tag <= NOTICE:
        _bad("update-tag")
    if tag == NOTICE:
        if len(update) != 2 or type(update[1]) is not bytes or not 0 < len(update[1]) <= bounds.NOTICE_BYTES_MAX:
            _bad("update-notice")
        return tag
    if len(update) < 3 or not _id(update[1]) or not _number(update[2], bounds.INCARNATION_MAX):
        _bad("update-subject")
    if tag == ALIVE:
        if not _record_ok(update):
            _bad("update-record")
    elif tag == SUSPECT:
        if (
            len(update) != 4
            or type(update[3]) is not list
            or not 0 < len(update[3]) <= 8
            or not all(_id(id) for id in update[3])
        ):
            _bad("update-suspect")
    elif tag == DEAD:
        if len(update) != 4 or not _id(update[3]):
            _bad("update-dead")
    elif len(update) != 3:
        _bad("update-left")
    return tag


def _record_ok(update: list[Any]) -> bool:
    if len(update) != 9:
        return False
    _, _, _, version, boot, name, addresses, info, certificate = update
    return (
        type(version) is int
        and 0 <= version < bounds.VERSION_MAX
        and type(boot) is bytes
        and len(boot) == bounds.BOOT_BYTES
        and type(name) is str
        and (4 * len(name) <= bounds.NAME_BYTES_MAX or len(name.encode("utf-8", "replace")) <= bounds.NAME_BYTES_MAX)
        and type(addresses) is list
        and len(addresses) <= bounds.ADDRESSES_MAX
        and all(_address_ok(address) for address in addresses)
        and type(info) is bytes
        and len(info) <= bounds.INFO_BYTES_MAX
        and (certificate is None or (type(certificate) is bytes and len(certificate) <= bounds.CERTIFICATE_BYTES_MAX))
    )


def _address_ok(value: Any) -> bool:
    return (
        type(value) is list
        and len(value) == 2
        and type(value[0]) is bytes
        and len(value[0]) in (4, 16)
        and type(value[1]) is int
        and 0 < value[1] < 65536
    )


@lru_cache(maxsize=8192)
def _ip_text(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))


@lru_cache(maxsize=8192)
def _ip_packed(text: str) -> bytes:
    return ipaddress.ip_address(text.partition("%")[0]).packed


def read_address(value: list[Any]) -> Address:
    """A checked address as text and port."""
    return _ip_text(value[0]), value[1]


def write_address(address: Address) -> list[object]:
    """An address as packed bytes and port. ValueError if it is none."""
    return [_ip_packed(address[0]), address[1]]


def read_info(packed: bytes) -> dict[str, object]:
    """A member's info. WireError if it is not a map with text keys."""
    try:
        info = _unpack(packed)
    except Exception:
        raise WireError("update-info") from None
    if type(info) is not dict or not all(type(key) is str for key in info):
        _bad("update-info")
    return info


def write_info(info: object) -> bytes:
    """A member's info, packed."""
    return bytes(_pack(info))


def record(peer: Peer, whole: bool) -> bytes:
    """An update that says that a member is alive; with its certificate if `whole`."""
    return bytes(
        _pack(
            [
                ALIVE,
                peer.id,
                peer.incarnation,
                peer.version,
                peer.boot,
                peer.name,
                [write_address(address) for address in peer.addresses],
                peer.info_packed,
                peer.certificate if whole else None,
            ]
        )
    )


def suspect(id: bytes, incarnation: int, accusers: Iterable[bytes]) -> bytes:
    """An update that says who suspects a member."""
    return bytes(_pack([SUSPECT, id, incarnation, list(accusers)]))


def dead(id: bytes, incarnation: int, accuser: bytes) -> bytes:
    """An update that says that a member is dead."""
    return bytes(_pack([DEAD, id, incarnation, accuser]))


def left(id: bytes, incarnation: int) -> bytes:
    """An update that says that a member said goodbye."""
    return bytes(_pack([LEFT, id, incarnation]))


def notice(blob: bytes) -> bytes:
    """An update that carries a notice."""
    return bytes(_pack([NOTICE, blob]))
