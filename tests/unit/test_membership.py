"""The membership machine by itself: two of them talk through a list, and one is talked to by an enemy."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.protocol import membership_wire as wire
from swarm.protocol.effects import (
    Changed,
    Cloned,
    Died,
    Fact,
    Introduced,
    Joined,
    Left,
    MembershipEffect,
    PersistIncarnation,
    SendDatagram,
    Suspected,
)
from swarm.protocol.member import State
from swarm.protocol.membership import Membership, Own
from swarm.protocol.membership_config import DEFAULT, INFO_BYTES_MAX, MembershipConfig
from swarm.protocol.verdicts import CLONE_ANSWERS

A, B, C = b"A" * 16, b"B" * 16, b"C" * 16
WHERE = {A: ("10.0.0.1", 7000), B: ("10.0.0.2", 7000), C: ("10.0.0.3", 7000)}


@dataclass(frozen=True)
class Identity:
    id: bytes
    role: str = "node"


class Revoked(Exception):
    reason = "revoked"


def verify(certificate: bytes) -> Identity:
    if certificate == b"revoked":
        raise Revoked
    if certificate.startswith(b"client"):
        return Identity(certificate[6:], "client")
    return Identity(certificate[4:])


def machine(id: bytes, incarnation: int = 0, boot: bytes = b"first---") -> Membership:
    own = Own(id, id[:1].decode(), b"cert" + id, (WHERE[id],), boot, incarnation)
    membership = Membership(own, Random(int.from_bytes(id[:4], "big")), verify)
    membership.start(0.0)
    return membership


def told(membership: Membership, *kinds: type) -> list[MembershipEffect]:
    return [effect for effect in membership.take_effects() if isinstance(effect, kinds)]


def reasons(membership: Membership) -> list[str]:
    facts = told(membership, Fact)
    return [
        fact.labels["reason"]
        for fact in facts
        if isinstance(fact, Fact) and fact.name in ("membership.rejected", "membership.refused")
    ]


def record(id: bytes, incarnation: int = 1, certificate: bytes | None = b"", boot: bytes = b"first---") -> bytes:
    ip = [int(part) for part in WHERE[id][0].split(".")]
    shown = b"cert" + id if certificate == b"" else certificate
    update = [wire.ALIVE, id, incarnation, 0, boot, "x", [[bytes(ip), 7000]], b"\x80", shown]
    return bytes(msgpack.packb(update))


def hear(membership: Membership, sender: bytes | None, *updates: bytes, kind: int = wire.GOSSIP, now: float = 0.01,
         body: object = None) -> None:  # fmt: skip
    source = WHERE[sender or B]
    membership.on_datagram(now, source, sender, wire.finish(wire.head(kind, body), list(updates)))


def knowing(*others: bytes) -> Membership:
    membership = machine(A)
    for other in others:
        hear(membership, other, record(other))
    membership.take_effects()
    return membership


def run(membership: Membership, now: float, until: float) -> list[MembershipEffect]:
    """Runs the timers punctually, answers nothing."""
    effects: list[MembershipEffect] = []
    while (deadline := membership.next_deadline()) is not None and deadline <= until:
        now = max(now, deadline)
        membership.on_timer(now)
        effects += membership.take_effects()
    return effects


def test_the_own_incarnation_is_above_the_persisted_one_and_reserved_before_it_is_told() -> None:
    membership = machine(A, incarnation=7)
    assert membership.me.incarnation == 8
    [persist] = told(membership, PersistIncarnation)
    assert isinstance(persist, PersistIncarnation)
    assert persist.incarnation >= 8
    for number in range(100):
        membership.update_self(0.1, addresses=(("10.0.0.1", 7000 + number),))
        for effect in membership.take_effects():
            if isinstance(effect, PersistIncarnation):
                persist = effect
        assert membership.me.incarnation <= persist.incarnation


def test_hello_makes_known_and_the_first_authenticated_datagram_makes_a_member() -> None:
    membership = machine(A)
    hear(membership, None, record(B), kind=wire.HELLO, body=[True])
    effects = membership.take_effects()
    [introduced] = [effect for effect in effects if isinstance(effect, Introduced)]
    assert (introduced.id, introduced.certificate, introduced.address) == (B, b"cert" + B, WHERE[B])
    [answer] = [effect for effect in effects if isinstance(effect, SendDatagram)]
    assert (answer.address, answer.to) == (WHERE[B], None)
    assert not any(isinstance(effect, Joined) for effect in effects)
    assert membership.state(B) is None
    hear(membership, B)
    [joined] = told(membership, Joined)
    assert isinstance(joined, Joined)
    assert joined.member.id == B
    assert membership.state(B) is State.ALIVE


def test_without_a_key_nothing_but_hello_is_heard() -> None:
    membership = machine(A)
    hear(membership, None, record(B))
    hear(membership, None, kind=wire.PING, body=[1, A])
    assert membership.state(B) is None
    assert reasons(membership) == ["unauthenticated", "unauthenticated"]


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [(b"revoked", "revoked"), (b"client" + B, "role"), (b"cert" + C, "foreign-id")],
)
def test_only_a_nodes_own_valid_certificate_makes_a_member(certificate: bytes, reason: str) -> None:
    membership = knowing(C)
    hear(membership, None, record(B, certificate=certificate), kind=wire.HELLO, body=[True])
    hear(membership, C, record(B, certificate=certificate))
    assert membership.state(B) is None
    assert reasons(membership) == [reason, reason]


def test_a_member_told_of_without_certificate_is_fetched_from_who_told() -> None:
    membership = knowing(C)
    hear(membership, C, record(B, certificate=None))
    sent = [effect for effect in told(membership, SendDatagram) if isinstance(effect, SendDatagram)]
    asked = [(effect.to, wire.decode(effect.payload)[:2]) for effect in sent]
    assert (C, (wire.WANT, [[B]])) in asked
    assert membership.state(B) is None
    hear(membership, C, record(B))
    assert membership.state(B) is State.ALIVE


def test_a_ping_for_me_is_answered_and_one_for_another_is_not() -> None:
    membership = knowing(B)
    hear(membership, B, kind=wire.PING, body=[7, C])
    assert told(membership, SendDatagram) == []
    hear(membership, B, kind=wire.PING, body=[7, A])
    [ack] = told(membership, SendDatagram)
    assert isinstance(ack, SendDatagram)
    assert (ack.to, wire.decode(ack.payload)[:2]) == (B, (wire.ACK, [7]))


def test_who_never_answers_is_suspected_then_dead() -> None:
    membership = knowing(B)
    effects = run(membership, 0.01, 4.0)
    kinds = [type(effect) for effect in effects if isinstance(effect, Suspected | Died)]
    assert kinds == [Suspected, Died]
    assert membership.state(B) is State.DEAD


def test_a_suspicion_is_refuted_by_a_higher_incarnation_only() -> None:
    membership = knowing(B, C)
    hear(membership, C, wire.suspect(B, 1, [C]))
    assert membership.state(B) is State.SUSPECT
    hear(membership, B, record(B, 1))
    assert membership.state(B) is State.SUSPECT
    hear(membership, B, record(B, 2))
    assert membership.state(B) is State.ALIVE
    assert told(membership, Changed)


def test_whoever_hears_that_it_is_suspected_or_dead_refutes() -> None:
    for statement in (wire.suspect(A, 1, [B]), wire.dead(A, 5, B)):
        membership = knowing(B)
        before = membership.me.incarnation
        hear(membership, B, statement)
        assert membership.me.incarnation > max(before, 1)
        assert membership.health > 0
        sent = run(membership, 0.01, 0.3)
        news = [u for e in sent if isinstance(e, SendDatagram) for u in wire.decode(e.payload)[2] if u[0] == wire.ALIVE]
        assert any(u[1] == A and u[2] == membership.me.incarnation for u in news)


def pinged(effects: list[MembershipEffect], id: bytes) -> list[SendDatagram]:
    """The probes of a member among these effects."""
    sent = [effect for effect in effects if isinstance(effect, SendDatagram) and effect.to == id]
    return [effect for effect in sent if wire.decode(effect.payload)[0] == wire.PING]


def test_what_the_dead_say_of_others_does_not_count() -> None:
    membership = knowing(B, C)
    hear(membership, C, wire.suspect(B, 1, [C]))
    patience_s = 2 * DEFAULT.spread_s(3)
    run(membership, 0.01, 0.01 + patience_s)
    hear(membership, C, wire.dead(B, 1, C), now=0.02 + patience_s)
    assert membership.state(B) is State.DEAD
    hear(membership, B, wire.dead(C, 1, B), now=0.02 + patience_s)
    assert membership.state(C) is not State.DEAD
    assert C not in membership._suspicions or B not in membership._suspicions[C].accusers


def test_hearsay_buries_nobody_whom_this_node_has_not_suspected_for_a_while() -> None:
    """Who comes back from a cut tells of all that it took for dead meanwhile."""
    membership = knowing(B, C)
    for now in (0.01, 0.02, 0.1):
        hear(membership, C, wire.dead(B, 1, C), now=now)
        assert membership.state(B) is State.SUSPECT
    assert pinged(membership.take_effects(), B), "it looks for itself"
    hear(membership, B, record(B, 2), now=0.11)
    assert membership.state(B) is State.ALIVE


def test_whom_another_has_found_dead_has_the_shortest_suspicion_left() -> None:
    for statement, length_s in (
        (wire.suspect(B, 1, [C]), DEFAULT.suspicion_min_s(3) * DEFAULT.suspicion_max_factor),
        (wire.dead(B, 1, C), DEFAULT.suspicion_min_s(3)),
    ):
        membership = knowing(B, C)
        hear(membership, C, statement)
        assert membership._suspicions[B].deadline == pytest.approx(0.01 + length_s)


def test_an_accuser_looks_once_more_before_the_end_however_poor_its_health() -> None:
    """A node that was cut off probes rarely; what it held against others before must not outlive the cut."""
    membership = knowing(B, C)
    for _ in range(8):
        membership._health.worse()
    membership._verdicts.accuse(0.01, membership._table.at(B), [A])
    membership.take_effects()
    suspicion = membership._suspicions[B]
    before = run(membership, 0.01, suspicion.deadline - DEFAULT.period(3) - 0.01)
    last = run(membership, suspicion.deadline - DEFAULT.period(3) - 0.01, suspicion.deadline - 0.01)
    assert membership.state(B) is State.SUSPECT
    assert pinged(last, B), (len(pinged(before, B)), "times before")
    accusations = [update for effect in pinged(last, B) for update in wire.decode(effect.payload)[2]]
    assert any(update[0] == wire.SUSPECT and update[1] == B for update in accusations), "so that it can refute"
    run(membership, suspicion.deadline - 0.01, suspicion.deadline + 0.01)
    assert membership.state(B) is State.DEAD


def test_what_was_refuted_already_is_refuted_again_to_who_has_not_heard_it() -> None:
    """The refutation was said into a cut: it counts as told, and as gossiped often enough."""
    for statement, kind, body in (
        (wire.suspect(A, 1, [B]), wire.PING, [7, A]),
        (wire.dead(A, 1, B), wire.GOSSIP, None),
    ):
        membership = knowing(B)
        hear(membership, B, wire.suspect(A, 1, [B]))
        run(membership, 0.01, 0.5)
        incarnation = membership.me.incarnation
        assert incarnation > 1
        membership._outbox.hush(A)
        hear(membership, B, statement, kind=kind, body=body, now=0.5)
        answers = [effect for effect in told(membership, SendDatagram) if isinstance(effect, SendDatagram)]
        news = [update for effect in answers for update in wire.decode(effect.payload)[2]]
        assert any(update[:3] == [wire.ALIVE, A, incarnation] for update in news)


def test_rows_that_call_somebody_dead_raise_a_suspicion_and_a_probe_but_bury_nobody() -> None:
    membership = knowing(B, C)
    hear(membership, C, kind=wire.ROWS, body=[b"", b"", [[B, 1, 0, State.DEAD]]])
    assert membership.state(B) is State.SUSPECT
    sent = [effect for effect in told(membership, SendDatagram) if isinstance(effect, SendDatagram)]
    assert any(effect.to == B and wire.decode(effect.payload)[0] == wire.PING for effect in sent)


def test_own_lateness_postpones_what_is_held_against_others() -> None:
    membership = knowing(B, C)
    hear(membership, C, wire.suspect(B, 1, [C]), now=0.02)
    membership.take_effects()
    membership.on_timer(60.0)
    effects = membership.take_effects()
    assert not any(isinstance(effect, Died) for effect in effects)
    assert any(isinstance(effect, Fact) and effect.name == "membership.late" for effect in effects)
    assert membership.health >= 2
    hear(membership, B, record(B, 2), now=60.01)
    assert membership.state(B) is State.ALIVE


def test_a_reset_connection_is_probed_at_once_and_only_once() -> None:
    membership = knowing(B)
    membership.peer_reset(0.02, B)
    membership.peer_reset(0.02, B)
    membership.peer_reset(0.02, C)
    sent = [effect for effect in told(membership, SendDatagram) if isinstance(effect, SendDatagram)]
    assert [(effect.to, wire.decode(effect.payload)[0]) for effect in sent] == [(B, wire.PING)]


def test_hints_are_tried_with_growing_pauses_and_given_up_unless_they_last() -> None:
    for lasting in (False, True):
        membership = machine(A)
        membership.add_hint(0.0, WHERE[B], B, lasting)
        effects = [*membership.take_effects(), *run(membership, 0.0, 200.0)]
        hellos = [effect for effect in effects if isinstance(effect, SendDatagram) and effect.address == WHERE[B]]
        assert all(effect.to is None for effect in hellos)
        if lasting:
            assert 200 / (DEFAULT.hello_retry_max_s * 1.25) < len(hellos) < 40
        else:
            assert len(hellos) == DEFAULT.hello_tries


def test_a_hint_of_a_live_member_or_of_myself_is_not_tried() -> None:
    membership = knowing(B)
    membership.add_hint(0.02, WHERE[B], B)
    membership.add_hint(0.02, WHERE[B])
    membership.add_hint(0.02, WHERE[A], A)
    assert told(membership, SendDatagram) == []


def test_goodbye_is_told_and_heard_and_not_refuted() -> None:
    membership = knowing(B)
    membership.leave(0.02)
    [said] = [
        effect
        for effect in told(membership, SendDatagram)
        if isinstance(effect, SendDatagram) and wire.decode(effect.payload)[2][0][:2] == [wire.LEFT, A]
    ]
    assert said.to == B
    assert membership.goodbye_s > 0
    hear(membership, B, wire.left(B, 1), now=0.03)
    assert membership.state(B) is State.LEFT
    assert told(membership, Left)


def test_an_expelled_member_is_dead_and_unknown_and_stays_out() -> None:
    membership = knowing(B, C)
    membership.expel(0.02, B)
    assert told(membership, Died)
    assert membership.state(B) is None
    hear(membership, C, record(B, 9, certificate=b"revoked"), now=0.03)
    assert membership.state(B) is None


def test_a_full_table_drops_who_is_gone_and_refuses_strangers_only_when_all_live() -> None:
    own = Own(A, "A", b"cert" + A, (WHERE[A],), b"first---")
    membership = Membership(own, Random(1), verify, MembershipConfig(members_max=1))
    membership.start(0.0)
    hear(membership, B, record(B))
    hear(membership, C, record(C))
    assert membership.state(C) is None
    assert "members-max" in reasons(membership)
    hear(membership, B, wire.left(B, 1))
    hear(membership, C, record(C))
    assert membership.state(C) is State.ALIVE
    assert membership.state(B) is None


def test_info_over_its_bound_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match=str(INFO_BYTES_MAX)):
        machine(A).update_self(0.0, {"labels": "x" * INFO_BYTES_MAX})


def test_a_copy_of_my_own_files_is_noticed() -> None:
    membership = knowing(B)
    hear(membership, B, record(A, membership.me.incarnation, boot=b"another-"))
    facts = [effect.name for effect in told(membership, Fact) if isinstance(effect, Fact)]
    assert "membership.conflict" in facts


def test_a_copy_that_answers_every_refutation_is_looked_for_and_an_old_record_is_not() -> None:
    membership = knowing(B)
    for _ in range(9):
        hear(membership, B, record(A, 40, boot=b"earlier-"))
    assert told(membership, Cloned) == []
    for number in range(CLONE_ANSWERS):
        hear(membership, B, record(A, 50 + 10 * number, boot=b"another-"))
        assert membership.me.incarnation > 50 + 10 * number
    (found,) = told(membership, Cloned)
    assert isinstance(found, Cloned)
    assert (found.boot, found.addresses) == (b"another-", (WHERE[A],))
    hear(membership, B, record(A, 99, boot=b"another-"))
    assert told(membership, Cloned) == []


HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=20) | st.text(max_size=5)
    | st.sampled_from([A, B, C]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
UPDATE = st.tuples(
    st.integers(0, 5), st.sampled_from([A, B, C, b"x"]), st.integers(0, 2**49), HOSTILE, st.binary(min_size=8, max_size=8),
    st.text(max_size=4), st.lists(HOSTILE, max_size=2), st.binary(max_size=4), HOSTILE,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([None, A, B, C, b"unknown" + bytes(9)]), st.integers(0, 9), HOSTILE,
                  st.lists(HOSTILE | UPDATE, max_size=3)),
        max_size=5,
    )
)  # fmt: skip
def test_nothing_that_comes_raises_or_is_answered_without_bound(datagrams: list[tuple[bytes | None, int, object, list[object]]]) -> None:  # fmt: skip  # noqa: E501
    membership = knowing(B, C)
    now = 0.02
    for sender, kind, body, updates in datagrams:
        payload = bytes(msgpack.packb([wire.VERSION, kind, body, updates]))
        membership.on_datagram(now, WHERE[B], sender, payload)
        assert len(membership.take_effects()) < 50
        now += 0.01
    membership.on_timer(now + 0.05)
    assert membership.me.incarnation < 2**48
