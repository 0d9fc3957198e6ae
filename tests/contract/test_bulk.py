"""The contract of the bulk lane, held by both reaches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from tests.contract.bulk_sides import HOST, Cutting, Pair, until
from transport import bounds
from transport.bulk import ANSWER, REQUEST, VERSION, BulkFailed, Memory, Route, Status, Verb, ask, receive_exactly
from transport.bulk_client import BulkClient, Transfer

PIECE = bounds.BULK_PIECE_BYTES_MAX


@pytest.fixture(params=["memory", "tls"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    made = Pair(request.param, tmp_path)
    yield made
    made.close()


def reason_of(transfer: Transfer) -> str:
    with pytest.raises(BulkFailed) as caught:
        transfer.wait(20)
    return caught.value.reason


@pytest.mark.parametrize("size", [1, 1000, bounds.BULK_PORTION_BYTES, PIECE, 2 * PIECE + 12345])
def test_what_is_read_is_what_is_there(pair: Pair, size: int) -> None:
    path = pair.file(size)
    transfer, view = pair.reading(path)
    transfer.wait(60)
    assert view == path.read_bytes()
    assert transfer.progress.digest == blake3(view).digest()
    until(lambda: pair.holder.read)  # the holder knows that it was read to its end


@pytest.mark.parametrize("size", [1, bounds.BULK_PORTION_BYTES + 1, PIECE + 54321])
def test_what_is_written_is_what_was_given(pair: Pair, size: int) -> None:
    data, path = os.urandom(size), pair.file(size)
    ticket = pair.holder.server.accept(pair.asker.identity.id, path, size, hashed=True)
    transfer = Transfer(Verb.WRITE, Memory(data))
    transfer.aim(pair.route(), ticket)
    pair.asker.client.start(transfer)
    transfer.wait(60)
    assert path.read_bytes() == data
    digest = blake3(data).digest()
    assert pair.holder.server.arrived(pair.asker.identity.id, ticket) == (size, digest)
    assert transfer.progress.digest == digest


def test_many_transfers_share_a_few_connections(pair: Pair) -> None:
    paths = [pair.file(300_000 + n) for n in range(20)]
    begun = [pair.reading(path) for path in paths]
    assert pair.asker.client.connections(pair.holder.identity.id) <= bounds.BULK_CONNECTIONS_PER_PEER_MAX
    for (transfer, view), path in zip(begun, paths):
        transfer.wait(60)
        assert view == path.read_bytes()
    assert pair.asker.client.connections(pair.holder.identity.id) <= bounds.BULK_CONNECTIONS_PER_PEER_MAX


def test_a_short_transfer_does_not_wait_for_the_end_of_a_long_one(tmp_path: Path) -> None:
    # One connection, so that they have to take turns; a memory pair, so that the turns are all there is to it.
    pair = Pair("memory", tmp_path, connections_max=1)
    try:
        long, short = pair.file(8 * PIECE), pair.file(1000)
        with pair.held():
            first, _ = pair.reading(long, hashed=False)
            second, view = pair.reading(short)
            then: list[int] = []
            second.done = lambda failure: then.append(first.progress.at)
        second.wait(60)
        assert view == short.read_bytes()
        assert then == [PIECE]
        first.wait(60)
    finally:
        pair.close()


def test_pieces_of_what_is_urgent_go_first_and_others_are_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "BULK_PIECE_BYTES_MAX", 4096)
    pair = Pair("memory", tmp_path, connections_max=1)
    try:
        ended: list[str] = []
        carried: list[int] = []
        with pair.held():
            usual = [pair.reading(pair.file(8 * 4096))[0] for _ in range(6)]
            urgent = pair.reading(pair.file(8 * 4096))[0]
            raised = usual[4]

            def begun(failure: BulkFailed | None) -> None:
                carried.extend(one.progress.at // 4096 for one in usual)
                # Somebody urgent waits for that, too, by now.
                raised.rank = lambda: 7
                ended.append("urgent")

            for number, one in enumerate(usual):
                one.done = lambda failure, number=number: ended.append(str(number))  # type: ignore[misc]
            urgent.rank, urgent.done = lambda: 6, begun
        for one in (urgent, *usual):
            one.wait(60)
        assert ended[:2] == ["urgent", "4"] and len(ended) == 7
        assert 1 <= sum(carried) <= 5, "one piece in four is of whoever waits for longest"
    finally:
        pair.close()


def test_a_read_goes_on_where_it_was_cut(pair: Pair) -> None:
    path = pair.file(2 * PIECE + 99)
    size = path.stat().st_size
    cutting = Cutting(pair.asker.wires, [PIECE // 2 + 7, PIECE])
    client = BulkClient(cutting, lambda peer: True)
    memory, view = Memory.fresh(size)
    transfer = Transfer(Verb.READ, memory)
    reached = []
    while True:
        transfer.aim(pair.route(), pair.offer(path))
        client.start(transfer)
        try:
            transfer.wait(60)
            break
        except BulkFailed as failure:
            assert failure.passing, failure
            reached.append(transfer.progress.at)
    assert view == path.read_bytes()
    assert transfer.progress.digest == blake3(view).digest()
    assert len(reached) == 2 and 0 < reached[0] < reached[1] < size
    assert cutting.dialled == 3
    client.close()


def test_a_write_goes_on_where_the_other_side_is(pair: Pair) -> None:
    size = 2 * PIECE + 99
    data, path = os.urandom(size), pair.file(size)
    ticket = pair.holder.server.accept(pair.asker.identity.id, path, size, hashed=True)
    client = BulkClient(Cutting(pair.asker.wires, [PIECE // 2 + 7, PIECE]), lambda peer: True)
    transfer = Transfer(Verb.WRITE, Memory(data))
    cuts = 0
    while True:
        transfer.aim(pair.route(), ticket)
        client.start(transfer)
        try:
            transfer.wait(60)
            break
        except BulkFailed as failure:
            assert failure.reason == "cut", failure
            cuts += 1
    assert cuts == 2
    assert path.read_bytes() == data
    digest = blake3(data).digest()
    assert pair.holder.server.arrived(pair.asker.identity.id, ticket) == (size, digest)
    assert transfer.progress.digest == digest
    client.close()


def test_nobody_waits_for_a_peer_that_is_writing(pair: Pair) -> None:
    path, server, me = pair.file(PIECE), pair.holder.server, pair.asker.identity.id
    ticket, wire = server.accept(me, path, PIECE, hashed=True), pair.dial()
    assert ask(wire, Verb.WRITE, ticket, 0, PIECE) == PIECE
    wire.send(bytes(1000))  # and no more for now
    for look in (lambda: server.arrived(me, ticket), lambda: server.feed(me, ticket, 0, memoryview(b"x"))):
        with pytest.raises(BulkFailed) as caught:
            look()
        assert caught.value.reason == "busy"
    wire.close()
    until(lambda: server._count == 0)
    assert server.arrived(me, ticket)[0] == 1000


def test_a_connection_that_the_peer_closed_meanwhile_is_nobody_s_failure(pair: Pair) -> None:
    first, _ = pair.reading(pair.file(400_000))
    first.wait(20)
    for wire in [wire for wires in pair.holder.server._wires.values() for wire in wires]:
        wire.abort()
    path = pair.file(500_000)
    second, view = pair.reading(path)
    second.wait(20)
    assert view == path.read_bytes()


def test_a_ticket_is_for_one_peer_and_one_use(pair: Pair) -> None:
    path = pair.file(1000)
    for ticket in (os.urandom(16), pair.offer(path, pair.third())):
        transfer = Transfer(Verb.READ, Memory.fresh(1000)[0])
        transfer.aim(pair.route(), ticket)
        pair.asker.client.start(transfer)
        assert reason_of(transfer) == "unknown"
    with pytest.raises(BulkFailed) as caught:
        taken = pair.holder.server.accept(pair.asker.identity.id, path, 1000, hashed=True)
        pair.holder.server.arrived(pair.third().identity.id, taken)
    assert caught.value.reason == "unknown"
    reading, _ = pair.reading(path)  # and the connection is as good as before
    reading.wait(20)


@pytest.mark.parametrize(
    ("verb", "offset", "length"),
    [
        (Verb.READ, 0, 1001),
        (Verb.READ, 1000, 1),
        (Verb.READ, 1001, 0),
        (Verb.READ, 0, 0),
        (Verb.READ, 0, PIECE + 1),
        (Verb.READ, (1 << 64) - 1, 1),
        (Verb.READ, 1, (1 << 64) - 1),
    ],
)
def test_what_lies_outside_of_a_blob_is_not_read(pair: Pair, verb: Verb, offset: int, length: int) -> None:
    wire, ticket = pair.dial(), pair.offer(pair.file(1000))
    with pytest.raises(BulkFailed) as caught:
        ask(wire, verb, ticket, offset, length)
    assert caught.value.reason == "range"
    assert ask(wire, verb, ticket, 990, 10) == 10
    assert len(receive_exactly(wire, 10)) == 10
    wire.close()


def test_what_lies_outside_of_a_blob_is_not_written(pair: Pair) -> None:
    path = pair.file(1000, bytes(1000))
    wire = pair.dial()
    ticket = pair.holder.server.accept(pair.asker.identity.id, path, 1000, hashed=True)
    for offset, length in ((0, 1001), (1, 10), (1000, 1), (0, 0), (0, (1 << 64) - 1)):
        with pytest.raises(BulkFailed) as caught:
            ask(wire, Verb.WRITE, ticket, offset, length)
        assert caught.value.reason == "range"
    with pytest.raises(BulkFailed) as caught:  # what is to be written is not to be read
        ask(wire, Verb.READ, ticket, 0, 10)
    assert caught.value.reason == "unknown"
    offered = pair.offer(path)
    with pytest.raises(BulkFailed):
        ask(wire, Verb.WRITE, offered, 0, 10)
    assert path.read_bytes() == bytes(1000)
    wire.close()


@pytest.mark.parametrize("request_", [(9, VERSION), (Verb.READ, VERSION + 1), (0, 0)])
def test_who_does_not_follow_the_protocol_is_cut(pair: Pair, request_: tuple[int, int]) -> None:
    wire, ticket = pair.dial(), pair.offer(pair.file(1000))
    wire.send(REQUEST.pack(*request_, 0, 0, ticket, 0, 10))
    ended_within(wire)
    until(lambda: pair.holder.notes == ["malformed"])


def ended_within(wire: Any) -> None:
    """The other side closes without another word."""
    try:
        assert wire.receive(memoryview(bytearray(100))) == 0
    except BulkFailed as failure:
        assert failure.reason == "cut"
    wire.close()


def test_a_peer_has_so_many_tickets_and_connections(pair: Pair) -> None:
    path = pair.file(10)
    for _ in range(bounds.BULK_TICKETS_PER_PEER_MAX):
        pair.offer(path)
    with pytest.raises(BulkFailed) as caught:
        pair.offer(path)
    assert caught.value.reason == "busy"
    pair.offer(path, pair.third())
    wires = [pair.dial() for _ in range(bounds.BULK_SERVED_PER_PEER_MAX)]
    until(lambda: pair.holder.server._count == bounds.BULK_SERVED_PER_PEER_MAX)
    ended_within(pair.dial())
    assert pair.holder.notes == ["busy"]
    for wire in wires:
        wire.close()
    until(lambda: pair.holder.server._count == 0)


def test_an_idle_connection_is_closed(tmp_path: Path, pair: Pair) -> None:
    rested: list[int] = []
    quick = BulkClient(pair.asker.wires, lambda peer: True, idle_s=0.1, rested=lambda: rested.append(1))
    path = pair.file(1000)
    transfer = Transfer(Verb.READ, Memory.fresh(1000)[0])
    transfer.aim(pair.route(), pair.offer(path))
    quick.start(transfer)
    transfer.wait(20)
    until(lambda: not quick.connections(pair.holder.identity.id))
    until(lambda: rested == [1])
    until(lambda: pair.holder.server._count == 0)
    quick.close()


def test_the_listener_closes_an_idle_connection_too(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "BULK_IDLE_SERVED_S", 0.1)
    wire = pair.dial()
    ended_within(wire)
    assert pair.holder.notes == []


def test_a_transfer_in_which_nothing_moves_is_cut(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "BULK_STALL_TIMEOUT_S", 0.3)
    with pair.held():
        transfer, _ = pair.reading(pair.file(100_000))
        assert reason_of(transfer) == "timeout"


def test_who_does_not_read_is_cut_and_holds_up_nobody(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "BULK_STALL_TIMEOUT_S", 2.0)
    path = pair.file(PIECE)
    wire = pair.dial()
    wire.send(REQUEST.pack(Verb.READ, VERSION, 0, 0, pair.offer(path), 0, PIECE))
    other, view = pair.reading(path)
    other.wait(60)
    assert view == path.read_bytes()
    until(lambda: pair.holder.notes == ["timeout"])
    assert pair.holder.server.sent_bytes < 2 * PIECE
    wire.close()


def test_a_transfer_can_be_given_up(pair: Pair) -> None:
    path = pair.file(4 * PIECE)
    with pair.held():
        transfer, _ = pair.reading(path)
        transfer.cancel()
    assert reason_of(transfer) == "closed"


def test_a_ticket_that_is_withdrawn_ends_what_is_under_way(pair: Pair) -> None:
    path = pair.file(PIECE)
    ticket, wire = pair.offer(path), pair.dial()
    assert ask(wire, Verb.READ, ticket, 0, PIECE) == PIECE
    assert pair.holder.server.withdraw(ticket)
    got = 0
    scratch = memoryview(bytearray(1 << 16))
    with pytest.raises(BulkFailed):
        while more := wire.receive(scratch):
            got += more
        raise BulkFailed("cut")
    assert got < PIECE
    assert not pair.holder.server.withdraw(ticket)
    wire.close()


def test_tickets_that_nobody_uses_expire(pair: Pair) -> None:
    path = pair.file(1000)
    old, used = pair.offer(path), pair.offer(path)
    pair.holder.now[0] += bounds.BULK_TICKET_LIFE_S - 1
    wire = pair.dial()
    assert ask(wire, Verb.READ, used, 0, 10) == 10
    assert len(receive_exactly(wire, 10)) == 10
    until(lambda: not pair.holder.server._tickets[used].users)
    pair.holder.now[0] += 2
    assert pair.holder.server.expire() == [old]
    with pytest.raises(BulkFailed):
        ask(wire, Verb.READ, old, 0, 10)
    assert ask(wire, Verb.READ, used, 0, 10) == 10
    wire.close()


def test_who_is_revoked_reads_nothing_more(pair: Pair) -> None:
    path = pair.file(4 * PIECE)
    wire, ticket = pair.dial(), pair.offer(path)
    assert ask(wire, Verb.READ, ticket, 0, PIECE) == PIECE
    pair.holder.trust.apply_revocation(pair.fleet.revoke(pair.asker.identity))
    got = 0
    scratch = memoryview(bytearray(1 << 16))
    with pytest.raises(BulkFailed):
        while more := wire.receive(scratch):
            got += more
        raise BulkFailed("cut")
    assert got < PIECE
    until(lambda: pair.holder.notes == ["revoked"])


def test_nothing_is_asked_of_who_is_revoked(pair: Pair) -> None:
    pair.asker.trust.apply_revocation(pair.fleet.revoke(pair.holder.identity))
    transfer, _ = pair.reading(pair.file(1000))
    assert reason_of(transfer) == "revoked"


def test_who_is_cut_loses_connections_and_tickets(pair: Pair) -> None:
    wire, ticket = pair.dial(), pair.offer(pair.file(1000))
    until(lambda: pair.holder.server._count == 1)
    pair.holder.server.cut(pair.asker.identity.id)
    ended_within(wire)
    again = pair.dial()
    with pytest.raises(BulkFailed) as caught:
        ask(again, Verb.READ, ticket, 0, 10)
    assert caught.value.reason == "unknown"
    again.close()


def test_an_end_in_the_middle_fails_what_is_under_way(pair: Pair) -> None:
    with pair.held():
        transfers = [pair.reading(pair.file(PIECE))[0] for _ in range(4)]
        pair.asker.client.close()
    assert {reason_of(transfer) for transfer in transfers} == {"closed"}
    late, _ = pair.reading(pair.file(10))
    assert reason_of(late) == "closed"


def test_nobody_there_is_found_out_and_remembered(pair: Pair) -> None:
    good = pair.route()
    nowhere = Route(good.peer, ((HOST, 1),), good.door, good.announcement)
    for _ in range(2):
        transfer = Transfer(Verb.READ, Memory.fresh(10)[0])
        transfer.aim(nowhere, bytes(16))
        pair.asker.client.start(transfer)
        assert reason_of(transfer) == "unreachable"


def test_a_file_that_is_shorter_than_was_said_ends_the_transfer_and_nothing_else(pair: Pair) -> None:
    path = pair.file(1000)
    ticket = pair.holder.server.offer(pair.asker.identity.id, path, 5000)
    transfer = Transfer(Verb.READ, Memory.fresh(5000)[0])
    transfer.aim(pair.route(), ticket)
    pair.asker.client.start(transfer)
    assert reason_of(transfer) == "cut"
    assert pair.holder.notes == ["storage"]
    good, _ = pair.reading(path)
    good.wait(20)


def test_bytes_may_come_by_another_way(pair: Pair) -> None:
    data, path, server = os.urandom(5000), pair.file(5000), pair.holder.server
    me = pair.asker.identity.id
    ticket = server.accept(me, path, 5000, hashed=True)
    assert server.feed(me, ticket, 0, memoryview(data)[:2000]) == 2000
    for offset, part in ((0, data[:10]), (2001, data[:10]), (2000, data[:3001])):
        with pytest.raises(BulkFailed) as caught:
            server.feed(me, ticket, offset, memoryview(part))
        assert caught.value.reason == "range"
    assert server.feed(me, ticket, -1, memoryview(b"")) == 2000
    assert server.feed(me, ticket, 2000, memoryview(data)[2000:]) == 5000
    assert server.arrived(me, ticket) == (5000, blake3(data).digest())
    assert path.read_bytes() == data
    with pytest.raises(BulkFailed) as caught:
        server.feed(pair.holder.identity.id, ticket, 0, memoryview(data))
    assert caught.value.reason == "unknown"


def test_an_answer_of_another_length_is_not_believed(pair: Pair) -> None:
    def lie(wire: Any) -> None:
        receive_exactly(wire, REQUEST.size)
        wire.send(ANSWER.pack(Status.OK, VERSION, 0, 0, 1 << 40))
        ended_within(wire)

    port = pair.holder.wires.listen(HOST, 0, lie)
    good = pair.route()
    transfer = Transfer(Verb.READ, Memory.fresh(1000)[0])
    transfer.aim(Route(good.peer, ((HOST, port),), good.door, good.announcement), bytes(16))
    pair.asker.client.start(transfer)
    assert reason_of(transfer) == "malformed"
