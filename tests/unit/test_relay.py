"""The relay: clients whose batches are in a log that another node leads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nodes.fabric import Fabric
from nodes.relay import THROUGH_MAX, Relay
from swarm.protocol import ids
from swarm.protocol.ledger.homes import durable_session
from swarm.protocol.ledger.records import Durability
from swarm.protocol.messages import Kind, decode
from transport.links import LinkClosed, LinkOverflow

ME, OAK, ELM = b"me" + bytes(14), b"oak" + bytes(13), b"elm" + bytes(13)
CLIENT = b"client--and-its-boot----"
KEY = ids.batch_key(durable_session(OAK, b"12345"), 1)


class FakeLink:
    def __init__(self, name: str = "ann", grants: frozenset[str] = frozenset(("code",))) -> None:
        self.identity = SimpleNamespace(name=name, grants=grants)
        self.up = True
        self.fails: Exception | None = None
        self.sent: list[tuple[int, dict[str, Any], bytes]] = []

    def send(self, *parts: bytes) -> None:
        if self.fails is not None:
            raise self.fails
        kind, header, body = decode(b"".join(bytes(part) for part in parts))
        self.sent.append((kind, header, bytes(body)))

    def close(self, reason: str) -> None:
        self.up = False


class Owner:
    def __init__(self) -> None:
        self.mine: set[bytes] = set()

    def takes(self, key: bytes, level: int) -> bool:
        return key in self.mine


class Place:
    """A node in the middle, with a client and two others."""

    def __init__(self) -> None:
        self.owner = Owner()
        self.client, self.oak, self.elm = FakeLink(), FakeLink("oak"), FakeLink("elm")
        self.nodes: dict[bytes, Any] = {OAK: self.oak, ELM: self.elm}
        self.connected: list[bytes] = []
        self.where = [OAK]
        self.it = Relay(
            ME, self.owner, self.nodes, {CLIENT: self.client}, self.connected.append, lambda key: self.where,  # type: ignore[arg-type, dict-item]
        )  # fmt: skip

    def submit(self, key: bytes = KEY, level: int = Durability.FLEET, **header: Any) -> bool:
        full = {"b": key, "n": 1, "s": b"spec", "D": int(level), **header}
        return self.it.submit(self.client, CLIENT, key, full, memoryview(b"columns"))  # type: ignore[arg-type]


def test_a_batch_goes_to_who_leads_its_log_under_its_clients_name_and_grant() -> None:
    place = Place()
    assert place.submit()
    ((kind, header, body),) = place.oak.sent
    assert (kind, body) == (Kind.SUBMIT, b"columns")
    assert header == {"b": KEY, "n": 1, "s": b"spec", "D": 2, "o": CLIENT, "u": "ann", "g": True}
    place.client.identity.grants = frozenset()
    assert place.submit() and place.oak.sent[-1][1]["g"] is False


def test_what_this_node_answers_for_or_nobody_leads_or_was_passed_on_before_goes_no_further() -> None:
    place = Place()
    place.owner.mine.add(KEY)
    assert not place.submit()
    place.owner.mine.clear()
    assert not place.submit(o=b"somebody")
    assert not place.submit(level=0)
    place.where = [ME]
    assert not place.submit()
    place.where = []
    assert not place.submit()
    assert place.oak.sent == [] and place.connected == []


def test_a_leader_without_a_link_is_dialled_and_the_next_one_asked() -> None:
    place = Place()
    place.where = [OAK, ELM]
    place.oak.fails = LinkClosed("down")
    assert place.submit()
    assert place.connected == [OAK] and len(place.elm.sent) == 1
    place.elm.fails = LinkOverflow("too much")
    assert not place.submit() and not place.elm.up


def test_what_is_kept_by_one_node_alone_goes_to_that_node_whoever_leads_its_other_log() -> None:
    place = Place()
    place.where = [ELM]
    assert place.submit(level=Durability.NODE)
    assert place.oak.sent and not place.elm.sent


def test_answers_come_back_without_the_name() -> None:
    place = Place()
    place.submit()
    place.it.answer(Kind.OUTCOMES, {"b": KEY, "n": 1, "o": CLIENT}, memoryview(b"columns"))
    place.it.answer(Kind.ACCEPTED, {"b": KEY, "copies": 2, "o": CLIENT}, memoryview(b""))
    place.it.answer(Kind.OUTCOMES, {"b": KEY, "n": 1, "o": b"nobody here"}, memoryview(b"columns"))
    place.it.answer(Kind.OUTCOMES, {"b": KEY, "n": 1, "o": 7}, memoryview(b"columns"))
    assert place.client.sent == [
        (Kind.OUTCOMES, {"b": KEY, "n": 1}, b"columns"),
        (Kind.ACCEPTED, {"b": KEY, "copies": 2}, b""),
    ]


def test_what_a_client_says_later_goes_the_same_way_and_nobody_elses() -> None:
    place = Place()
    place.submit()
    header = {"b": KEY, "r": None}
    assert place.it.pass_on(CLIENT, Kind.CANCEL, KEY, header, memoryview(b""))
    assert place.oak.sent[-1][:2] == (Kind.CANCEL, header | {"o": CLIENT})
    assert not place.it.pass_on(b"another", Kind.CANCEL, KEY, header, memoryview(b""))
    place.it.client_down(CLIENT)
    assert not place.it.pass_on(CLIENT, Kind.CANCEL, KEY, header, memoryview(b""))


def test_when_the_way_is_cut_clients_are_told_to_hand_over_again() -> None:
    place = Place()
    place.submit()
    place.it.node_down(ELM)
    assert place.client.sent == []
    place.it.node_down(OAK)
    ((kind, header, _),) = place.client.sent
    assert (kind, header["b"], header["reason"]) == (Kind.REFUSED, KEY, "unknown") and header["after"] > 0
    place.it.node_down(OAK)
    assert len(place.client.sent) == 1


def test_who_declines_again_and_again_is_not_the_only_one_who_is_asked() -> None:
    place = Place()
    place.where = [OAK, ELM]  # what members say of themselves is old: elm leads by now
    unknown = {"b": KEY, "reason": "unknown", "message": "", "hint": "", "after": 0.25, "o": CLIENT}
    asked: list[str] = []
    for _ in range(8):
        before = len(place.oak.sent)
        assert place.submit()
        asked.append("oak" if len(place.oak.sent) > before else "elm")
        place.it.answer(Kind.REFUSED, dict(unknown), memoryview(b""))
    assert asked == ["oak", "oak", "oak", "elm", "oak", "oak", "oak", "elm"]
    assert place.submit()
    place.it.answer(Kind.ACCEPTED, {"b": KEY, "copies": 2, "o": CLIENT}, memoryview(b""))
    assert not place.it._declined


def test_that_the_leader_drains_does_not_send_clients_of_others_away_from_their_node() -> None:
    place = Place()
    place.submit()
    said = {"b": KEY, "reason": "draining", "message": "this node is stopping", "hint": "", "after": 0.0, "o": CLIENT}
    place.it.answer(Kind.REFUSED, said, memoryview(b""))
    ((kind, header, _),) = place.client.sent
    assert (kind, header["reason"]) == (Kind.REFUSED, "unknown") and header["after"] > 0


def test_the_leader_tells_clients_of_others_by_their_node() -> None:
    place = Place()
    assert place.it.tell(ELM + CLIENT, Kind.ACCEPTED, {"b": KEY, "copies": 2}, ())
    assert place.elm.sent == [(Kind.ACCEPTED, {"b": KEY, "copies": 2, "o": CLIENT}, b"")]
    assert not place.it.tell(CLIENT, Kind.ACCEPTED, {"b": KEY}, ())
    assert not place.it.tell(ELM, Kind.ACCEPTED, {"b": KEY}, ())


def test_what_passes_through_is_remembered_up_to_a_bound() -> None:
    place = Place()
    place.it._through.update({(number.to_bytes(12, "big"), CLIENT): OAK for number in range(THROUGH_MAX)})
    place.submit()
    assert len(place.it._through) == THROUGH_MAX and (KEY, CLIENT) in place.it._through


def _linked_again(place: Place, boot: bytes, was_up: bool) -> None:
    """The fabric around a relay hears of a link to OAK while it still knows another one, of the process `before--`."""
    now = SimpleNamespace(boot=boot, identity=SimpleNamespace(id=OAK, role="node"), up=True)
    nothing = SimpleNamespace(
        owner_lost=lambda *_: False, owner_back=lambda *_: None, executor_lost=lambda *_: None,
        executor_linked=lambda *_: None, executors={}, last_dispatch=0,
    )  # fmt: skip
    fabric = object.__new__(Fabric)
    fabric.__dict__.update(
        _nodes=place.nodes, _clients={}, _spare={}, _grace={}, _leases={}, _boots={OAK: b"before--"}, _undelivered={}, _load_sent={},
        _now=lambda: 5.0, _turn=lambda: None, execution=nothing, ownership=nothing, relay=place.it, queries=None,
    )  # fmt: skip
    place.oak.boot = b"before--"  # type: ignore[attr-defined]
    place.oak.up = was_up
    fabric.take_in(now)  # type: ignore[arg-type]


def test_what_went_to_a_process_that_was_replaced_before_its_link_was_down_is_handed_over_again() -> None:
    place = Place()
    assert place.submit()
    _linked_again(place, b"now-----", was_up=True)
    ((kind, header, _),) = place.client.sent
    assert (kind, header["b"], header["reason"]) == (Kind.REFUSED, KEY, "unknown") and header["after"] is not None


def test_what_went_over_a_link_that_was_replaced_before_it_was_seen_to_be_down_is_handed_over_again() -> None:
    place = Place()
    assert place.submit()
    _linked_again(place, b"before--", was_up=True)  # both dialled: the first link is as good as before
    assert place.client.sent == []
    place = Place()
    assert place.submit()
    _linked_again(place, b"before--", was_up=False)
    ((kind, header, _),) = place.client.sent
    assert (kind, header["b"], header["reason"]) == (Kind.REFUSED, KEY, "unknown") and header["after"] is not None
