"""Datagrams of membership: what is written is read, and nothing that is read can do harm."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.protocol import membership_config as bounds
from swarm.protocol import membership_wire as wire
from swarm.protocol.member import Peer

ID = bytes(range(16))
OTHER = bytes(range(16, 32))


def peer() -> Peer:
    it = Peer(ID)
    it.name = "oak"
    it.certificate = b"c" * 300
    it.addresses = (("192.168.1.5", 7000), ("fd00::5", 7000))
    it.incarnation = 3
    it.version = 4
    it.boot = b"12345678"
    it.info_packed = wire.write_info({"slots": 4})
    return it


def roundtrip(update: bytes) -> list[Any]:
    kind, body, updates = wire.decode(wire.finish(wire.head(wire.GOSSIP, None), [update]))
    assert kind == wire.GOSSIP
    assert body is None
    [read] = updates
    return read


def test_a_record_is_read_as_it_was_written() -> None:
    update = roundtrip(wire.record(peer(), whole=True))
    assert wire.check_update(update) == wire.ALIVE
    assert update[1:6] == [ID, 3, 4, b"12345678", "oak"]
    assert [wire.read_address(address) for address in update[6]] == list(peer().addresses)
    assert wire.read_info(update[7]) == {"slots": 4}
    assert update[8] == b"c" * 300
    assert roundtrip(wire.record(peer(), whole=False))[8] is None


def test_statements_are_read_as_they_were_written() -> None:
    for packed, tag in (
        (wire.suspect(ID, 3, [OTHER]), wire.SUSPECT),
        (wire.dead(ID, 3, OTHER), wire.DEAD),
        (wire.left(ID, 3), wire.LEFT),
        (wire.notice(b"x"), wire.NOTICE),
    ):
        assert wire.check_update(roundtrip(packed)) == tag


def test_many_updates_share_a_datagram() -> None:
    updates = [wire.left(ID, number) for number in range(40)]
    assert [update[2] for update in wire.decode(wire.finish(wire.head(wire.ACK, [7]), updates))[2]] == list(range(40))


def test_the_largest_record_fits_its_bound() -> None:
    it = peer()
    it.name = "n" * bounds.NAME_BYTES_MAX
    it.certificate = b"c" * bounds.CERTIFICATE_BYTES_MAX
    it.addresses = tuple((f"fd00::{number + 1}", 65535) for number in range(bounds.ADDRESSES_MAX))
    it.incarnation = bounds.INCARNATION_MAX - 1
    it.version = bounds.VERSION_MAX - 1
    it.info_packed = b"i" * bounds.INFO_BYTES_MAX
    packed = wire.record(it, whole=True)
    assert len(packed) <= bounds.RECORD_BYTES_MAX
    assert wire.check_update(roundtrip(packed)) == wire.ALIVE
    rows = [[bytes([n]) * 16, bounds.INCARNATION_MAX - 1, bounds.VERSION_MAX - 1, 3] for n in range(bounds.ROWS_MAX)]
    page = wire.finish(wire.head(wire.ROWS, [ID + b"x", b"\xff" * 17, rows]), [])
    assert wire.decode(page)[1][2] == rows


def message(kind: object, body: object, updates: object = ()) -> bytes:
    return bytes(msgpack.packb([wire.VERSION, kind, body, list(updates) if isinstance(updates, tuple) else updates]))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not-msgpack"),
        (b"\xc1", "not-msgpack"),
        (b"\x91" * 1000, "not-msgpack"),
        (b"\x00" * (bounds.PAYLOAD_BYTES_MAX + 1), "too-long"),
        (b"\x01", "not-a-message"),
        (msgpack.packb([2, 0, None, []]), "version"),
        (msgpack.packb([True, 0, None, []]), "version"),
        (message(99, None), "kind"),
        (message(-1, None), "kind"),
        (message(wire.GOSSIP, None, {}), "updates"),
        (message(wire.GOSSIP, 1), "body"),
        (message(wire.PING, [1]), "body"),
        (message(wire.PING, [2**40, ID]), "body"),
        (message(wire.PING, [1, b"short"]), "body"),
        (message(wire.ACK, [-1]), "body"),
        (message(wire.HELLO, [1]), "body"),
        (message(wire.SYNC, [2**64 - 1]), "body"),
        (message(wire.ROWS, [b"", b"", [[ID, 1, 1, 9]]]), "body"),
        (message(wire.ROWS, []), "body"),
        (message(wire.WANT, [[ID] * (bounds.WANTS_MAX + 1)]), "body"),
        (message(wire.WANT, []), "body"),
    ],
)
def test_a_malformed_datagram_is_refused_with_its_reason(payload: bytes, reason: str) -> None:
    with pytest.raises(wire.WireError, match=f"^{reason}$"):
        wire.decode(payload)


GOOD = [wire.ALIVE, ID, 3, 4, b"12345678", "oak", [[b"\x7f\x00\x00\x01", 7000]], b"\x80", None]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (1, b"short"), (1, "text"), (2, -1), (2, bounds.INCARNATION_MAX), (2, True), (3, 2**40), (4, b"1"),
        (5, b"oak"), (5, "n" * 65), (6, None), (6, [[b"123", 7000]]), (6, [[b"\x7f\x00\x00\x01", 0]]),
        (6, [[b"\x7f\x00\x00\x01", 65536]]), (6, [[b"\x7f\x00\x00\x01", 7000]] * 9), (7, {}), (7, b"x" * 300),
        (8, "cert"), (8, b"c" * 513),
    ],
)  # fmt: skip
def test_a_malformed_record_is_refused(place: int, value: object) -> None:
    assert wire.check_update(GOOD) == wire.ALIVE
    with pytest.raises(wire.WireError):
        wire.check_update([*GOOD[:place], value, *GOOD[place + 1 :]])


@pytest.mark.parametrize(
    "update",
    [None, [], [9], ["x"], [wire.NOTICE, b""], [wire.NOTICE, b"n" * 2000], [wire.SUSPECT, ID, 1, []],
     [wire.SUSPECT, ID, 1, [ID] * 9], [wire.SUSPECT, ID, 1, ["x"]], [wire.DEAD, ID, 1], [wire.DEAD, ID, 1, b"x"],
     [wire.LEFT, ID, 1, 2], GOOD[:8]],
)  # fmt: skip
def test_a_malformed_statement_is_refused(update: object) -> None:
    with pytest.raises(wire.WireError):
        wire.check_update(update)


@pytest.mark.parametrize("packed", [b"", b"\x01", b"\x81\x01\x02", b"\xc1"])
def test_info_that_is_no_map_with_text_keys_is_refused(packed: bytes) -> None:
    with pytest.raises(wire.WireError, match="update-info"):
        wire.read_info(packed)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=1300))
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    try:
        wire.decode(payload)
    except wire.WireError:
        return
