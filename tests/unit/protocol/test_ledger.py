"""The ledger of a node: receipts, refusals, leadership, and what is forgotten when."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from swarm.protocol.effects import Fact
from swarm.protocol.ledger import homes
from swarm.protocol.ledger.config import LedgerConfig
from swarm.protocol.ledger.effects import Announce, Committed, Dropped, Follow, Lead, Loss, Reason, Refusal
from swarm.protocol.ledger.homes import Announcement
from swarm.protocol.ledger.ledger import Ledger
from swarm.protocol.ledger.records import Forgotten, Granted, Submitted, Token, pack
from swarm.protocol.ledger.state import Verdict
from swarm.protocol.raft import wire
from swarm.protocol.raft.effects import ReadReady
from swarm.protocol.raft.entries import Members, Recovered, Snapshot, Vote
from swarm.protocol.raft.wire import Kind, Message
from tests.sim.ledger.cluster import CONFIG, WALL, Ledgers, batch, outcomes
from tests.sim.raft.cluster import id_of


@pytest.fixture(scope="module")
def formed_once() -> Ledgers:
    ledgers = Ledgers(3)
    ledgers.run(4.0)
    return ledgers


def formed(count: int = 3, **fields: object) -> Ledgers:
    ledgers = Ledgers(count, **fields)  # type: ignore[arg-type]
    ledgers.run(4.0)
    return ledgers


def refused(ledgers: Ledgers, number: int, group: bytes, record: Submitted) -> Refusal:
    told = ledgers.nodes[number].propose(ledgers.now, group, record)
    assert isinstance(told, Refusal)
    return told


def test_a_receipt_says_on_how_many_disks_of_how_many_hosts_it_is() -> None:
    ledgers = formed()
    group = ledgers.group(0)
    ledgers.hold = {1, 2}
    ticket = ledgers.propose(0, group, batch(0, 1))
    ledgers.turn()
    assert ledgers.committed(0, ticket) is None  # one disk is no majority
    ledgers.hold = {2}
    ledgers.sync(1)
    ledgers.turn()
    found = ledgers.committed(0, ticket)
    assert found is not None and (found.copies, found.hosts, found.applied.verdict) == (2, 2, Verdict.DONE)


def test_two_nodes_of_one_host_are_one_host() -> None:
    ledgers = formed(2, hosts=1)
    ticket = ledgers.propose(0, ledgers.group(0), batch(0, 1))
    ledgers.turn()
    found = ledgers.committed(0, ticket)
    assert found is not None and (found.copies, found.hosts) == (1, 1)


def test_durability_of_the_node_is_on_its_own_disk_and_needs_nobody() -> None:
    ledgers = formed()
    ledgers.cut = lambda source, to: True
    ledgers.run(3.0)
    assert ledgers.leader(ledgers.group(0)) is None
    group = homes.node_group(id_of(0))
    ledgers.hold = {0}
    ticket = ledgers.propose(0, group, batch(0, 1, durability=1))
    ledgers.turn()
    assert ledgers.committed(0, ticket) is None
    ledgers.hold = set()
    ledgers.sync(0)
    ledgers.turn()
    found = ledgers.committed(0, ticket)
    assert found is not None and (found.copies, found.hosts) == (1, 1)
    del ledgers.nodes[0]
    again = ledgers.start(0)
    ledgers.cut = lambda source, to: False
    ledgers.see()
    ledgers.run(3.0)
    state = again.state(group)
    assert state is not None and list(state.batches) == [batch(0, 1).key] and again.leads(group) is not None


def test_records_of_one_turn_are_one_entry() -> None:
    ledgers = formed()
    group = ledgers.group(0)
    raft = ledgers.nodes[0].raft(group)
    assert raft is not None
    last = raft.last
    tickets = [ledgers.propose(0, group, batch(0, number)) for number in range(50)]
    ledgers.turn()
    assert raft.last == last + 1
    assert [one.ticket for one in ledgers.of(0, Committed)][-50:] == tickets


def test_what_is_known_is_not_taken_twice_and_other_content_is_refused_with_both_digests() -> None:
    ledgers = formed()
    group, first = ledgers.group(0), batch(0, 1)
    ledgers.propose(0, group, first)
    assert refused(ledgers, 0, group, first).reason is Reason.BUSY  # on its way
    other = batch(0, 1, text="other")
    assert refused(ledgers, 0, group, other).reason is Reason.CONFLICT
    ledgers.turn()
    assert refused(ledgers, 0, group, first).reason is Reason.KNOWN
    refusal = refused(ledgers, 0, group, other)
    assert refusal.reason is Reason.CONFLICT
    assert refusal.facts == {"known": first.digest.hex(), "given": other.digest.hex()}


def test_the_home_is_taken_over_from_and_takes_its_lead_back() -> None:
    ledgers = formed()
    group, first = ledgers.group(0), batch(0, 1)
    ledgers.propose(0, group, first)
    ledgers.turn()
    epoch = ledgers.nodes[0].leads(group)
    assert epoch is not None
    ledgers.stop(0)
    ledgers.run(4.0)
    heir = ledgers.leader(group)
    assert heir in (1, 2)
    lead = [one for one in ledgers.of(heir, Lead) if one.group == group][-1]
    assert lead.epoch > epoch and lead.state.batches[first.key].pending() == [(0, 3)]
    # The attempt of before is adopted: its token still counts, until another one is granted.
    ticket = ledgers.propose(heir, group, outcomes(first, Token(epoch, 1), range(1)))
    ledgers.propose(heir, group, Granted(first.key, ((1, 3),), Token(lead.epoch, 1)))
    stale = ledgers.propose(heir, group, outcomes(first, Token(epoch, 1), range(1, 3)))
    ledgers.turn()
    verdicts = [ledgers.committed(heir, one) for one in (ticket, stale)]
    assert [found.applied.verdict for found in verdicts if found] == [Verdict.DONE, Verdict.STALE]
    ledgers.start(0)
    ledgers.see()
    ledgers.run(6.0)
    assert ledgers.leader(group) == 0
    assert [one.leader for one in ledgers.of(heir, Follow) if one.group == group][-1] in (None, id_of(0))
    state = ledgers.nodes[0].state(group)
    assert state is not None and state.batches[first.key].pending() == [(1, 3)]


def test_a_leader_that_is_cut_off_says_unknown_and_gives_up() -> None:
    ledgers = formed()
    group = ledgers.group(0)
    ledgers.cut = lambda source, to: 0 in (source, to)
    ticket = ledgers.propose(0, group, batch(0, 1))
    assert ledgers.nodes[0].read(ledgers.now, group, b"context") is None
    ledgers.run(3.0)
    assert ledgers.committed(0, ticket) is None
    assert [one for one in ledgers.of(0, Dropped) if one.ticket == ticket] == [Dropped(ticket, "leadership-lost", True)]
    assert any(one.group == group for one in ledgers.of(0, Follow))
    assert not ledgers.of(0, ReadReady)
    refusal = refused(ledgers, 0, group, batch(0, 2))
    assert refusal.reason is Reason.NOT_LEADER and refusal.retry_after_s is not None


def test_a_read_has_seen_what_was_committed_before_it() -> None:
    ledgers = formed()
    group = ledgers.group(0)
    ledgers.propose(0, group, batch(0, 1))
    ledgers.turn()
    assert ledgers.nodes[0].read(ledgers.now, group, b"mine") is None
    ledgers.turn()
    assert [one.context for one in ledgers.of(0, ReadReady)] == [b"mine"]
    told = ledgers.nodes[1].read(ledgers.now, group, b"yours")
    assert isinstance(told, Refusal) and told.leader == id_of(0)
    assert isinstance(ledgers.nodes[1].read(ledgers.now, b"x" * 16, b"yours"), Refusal)


def test_a_log_that_is_full_refuses_and_keeps_the_room_that_it_promised() -> None:
    small = replace(CONFIG, state_bytes_max=40_000, hard_bytes_max=44_000)
    ledgers = formed(1, config=small)
    group = ledgers.group(0)
    taken: list[Submitted] = []
    while not isinstance(told := ledgers.nodes[0].propose(ledgers.now, group, batch(0, len(taken), 20)), Refusal):
        taken.append(batch(0, len(taken), 20))
        if len(taken) % 3 == 0:
            ledgers.turn()
    assert told.reason is Reason.FULL and "unfinished" in told.hint and told.retry_after_s
    assert 5 < len(taken) < 20
    ledgers.turn()
    epoch = ledgers.nodes[0].leads(group)
    assert epoch is not None
    # Every outcome has its room, and one that takes more than there is does not get that of the others.
    large = ledgers.nodes[0].propose(ledgers.now, group, outcomes(taken[0], Token(epoch, 1), range(1), size=10_000))
    assert isinstance(large, Refusal) and large.reason is Reason.TOO_LARGE
    for one in taken:
        ledgers.propose(0, group, outcomes(one, Token(epoch, 1), size=100))
        ledgers.turn()
    state = ledgers.nodes[0].state(group)
    assert state is not None and state.unfinished == 0 and len(state.snapshot()) <= small.hard_bytes_max
    ledgers.propose(0, group, Forgotten(tuple(one.key for one in taken)))
    ledgers.turn()
    assert state.nbytes == 0
    ledgers.propose(0, group, batch(0, 99, 20))


def test_the_log_is_compacted_and_a_node_starts_from_the_snapshot() -> None:
    ledgers = formed(config=replace(CONFIG, log_bytes_min=4_000))
    group = ledgers.group(0)
    for number in range(60):
        one = batch(0, number, 5)
        ledgers.propose(0, group, one)
        ledgers.turn()
        ledgers.propose(0, group, outcomes(one, Token(ledgers.nodes[0].leads(group) or 0, 1)))
        ledgers.turn()
        if number % 2:
            ledgers.propose(0, group, Forgotten((one.key,)))
    ledgers.run(2.0)
    raft = ledgers.nodes[0].raft(group)
    assert raft is not None and raft.first > 50
    before = ledgers.nodes[0].state(group)
    assert before is not None and len(before.batches) == 30
    del ledgers.nodes[0]
    again = ledgers.start(0)
    ledgers.see()
    ledgers.run(6.0)
    state = again.state(group)
    assert state is not None and state.snapshot()[40:] == before.snapshot()[40:] and ledgers.leader(group) == 0
    assert ledgers.nodes[1].state(group).snapshot() == state.snapshot()  # type: ignore[union-attr]


@pytest.mark.parametrize("retention_s", [3.0, 0.0])
def test_outcomes_live_for_their_retention(retention_s: float) -> None:
    ledgers = formed(config=replace(CONFIG, undelivered_s=20.0))
    group, one = ledgers.group(0), batch(0, 1, retention_s=retention_s)
    ledgers.propose(0, group, one)
    ledgers.run(10.0)
    state = ledgers.nodes[0].state(group)
    assert state is not None and one.key in state.batches  # it has not ended
    epoch = ledgers.nodes[0].leads(group)
    assert epoch is not None
    ledgers.propose(0, group, outcomes(one, Token(epoch, 1), wall=ledgers.nodes[0].time(ledgers.now)))
    lives_s = retention_s or 20.0
    ledgers.run(lives_s - 1.0)
    assert one.key in state.batches
    ledgers.run(3.0)
    assert one.key not in state.batches


def test_a_clock_far_ahead_forgets_nothing_and_one_far_behind_not_for_ever() -> None:
    ledgers = formed()
    group, one, two = ledgers.group(0), batch(0, 1, retention_s=7200.0), batch(0, 2, retention_s=30.0)
    for record in (one, two):
        ledgers.propose(0, group, record)
        ledgers.turn()
        ahead = WALL + (1e6 if record is two else 0.0)  # stamped by a clock that is ahead
        ledgers.propose(0, group, outcomes(record, Token(ledgers.nodes[0].leads(group) or 0, 1), wall=ahead))
        ledgers.turn()
    state = ledgers.nodes[0].state(group)
    assert state is not None
    ledgers.run(40.0)
    assert one.key in state.batches and two.key not in state.batches
    ledgers.stop(0)
    ledgers.run(4.0)
    heir = ledgers.leader(group)
    assert heir is not None
    last = state.wall
    assert last >= WALL
    ledgers.nodes[heir].tell_wall(ledgers.now, last + 1e9)
    ledgers.run(10.0)
    assert one.key in ledgers.nodes[heir].state(group).batches  # type: ignore[union-attr]


def test_a_full_disk_takes_no_batch_and_says_so() -> None:
    ledgers = formed()
    ledgers.nodes[0].space(ledgers.now, full=True)
    assert refused(ledgers, 0, ledgers.group(0), batch(0, 1)).reason is Reason.DISK_FULL
    ledgers.nodes[0].space(ledgers.now, full=False)
    ledgers.propose(0, ledgers.group(0), batch(0, 1))


def test_what_is_no_record_is_not_proposed(formed_once: Ledgers) -> None:
    ledgers = formed_once
    ledger, group = ledgers.nodes[0], ledgers.group(0)
    for raw in (b"", b"nothing", pack(batch(0, 1))[:-1], b"\xc8" + pack(batch(0, 1))[1:]):
        told = ledger.propose(ledgers.now, group, raw)
        assert isinstance(told, Refusal) and told.reason is Reason.MALFORMED
    told = ledger.propose(ledgers.now, b"x" * 16, batch(0, 1))
    assert isinstance(told, Refusal) and told.reason is Reason.UNKNOWN_GROUP
    large = outcomes(batch(0, 1), None, range(1), size=5 << 20)
    told = ledger.propose(ledgers.now, group, large)
    assert isinstance(told, Refusal) and told.reason is Reason.TOO_LARGE


def test_a_quorum_that_is_lost_for_good_is_given_up_knowingly() -> None:
    ledgers = formed()
    group, first = ledgers.group(0), batch(0, 1)
    ledgers.propose(0, group, first)
    ledgers.run(1.0)
    assert isinstance(ledgers.nodes[0].recover_accept_loss(ledgers.now, group), Refusal)  # nothing is lost
    ledgers.stop(0)
    ledgers.stop(1)
    ledgers.run(3.0)
    assert ledgers.leader(group) is None
    survivor = ledgers.nodes[2]
    epoch = survivor.raft(group).term  # type: ignore[union-attr]
    loss = survivor.recover_accept_loss(ledgers.now, group)
    assert isinstance(loss, Loss) and loss.gone == (id_of(0), id_of(1)) and loss.unfinished == 3
    ledgers.run(1.0)
    assert ledgers.leader(group) == 2 and (survivor.leads(group) or 0) > epoch + 1000
    ticket = ledgers.propose(2, group, outcomes(first, Token(1, 1)))
    ledgers.turn()
    assert ledgers.committed(2, ticket) is not None
    assert any(fact.name == "ledger.forced" for fact in ledgers.of(2, Fact))


def test_nodes_say_in_which_groups_they_vote_and_which_they_lead(formed_once: Ledgers) -> None:
    ledgers = formed_once
    said = [ledgers.of(number, Announce)[-1].announcement for number in range(3)]
    everybody = tuple(id_of(number) for number in range(3))
    assert said == [Announcement(everybody, (id_of(number),)) for number in range(3)]
    for one in said:
        assert Announcement.read(one.info()) == one
    assert Announcement.read({"v": [b"short"], "l": 7}) == Announcement()
    key = batch(1, 1).key
    found = homes.homes_of(key, [(id_of(number), one) for number, one in enumerate(said)])
    assert found == [(id_of(1), (id_of(1), id_of(0), id_of(2)))]
    assert homes.homes_of(b"\0" * 12, [(id_of(0), said[0])]) == []


def test_who_is_no_member_of_the_fleet_founds_no_group_here() -> None:
    ledgers = formed(1)
    stranger = Ledger(0.0, b"s" * 16, b"%08d" % 5, Random(1), CONFIG, {}, b"far", WALL)
    frame = wire.encode(
        b"%08d" % 5, 0, [Message(stranger.id, Kind.HEARTBEAT, 1), Message(b"x" * 17, Kind.HEARTBEAT, 1)]
    )
    ledgers.nodes[0].receive(ledgers.now, stranger.id, frame)
    ledgers.turn()
    assert stranger.id not in ledgers.nodes[0].groups
    facts = [fact.labels["reason"] for fact in ledgers.of(0, Fact) if fact.name == "ledger.stranger"]
    assert facts == ["no-member", "no-member"]
    ledgers.nodes[0].receive(ledgers.now, id_of(0), frame)  # a member, as far as this node knows
    ledgers.turn()
    assert stranger.id in ledgers.nodes[0].groups and b"x" * 17 not in ledgers.nodes[0].groups


def test_a_group_that_two_frames_of_one_turn_speak_of_is_joined_once() -> None:
    ledgers = formed()
    home = b"s" * 16
    frame = wire.encode(b"%08d" % 5, 0, [Message(home, Kind.HEARTBEAT, 1)])
    for sender in (1, 2, 1):
        ledgers.nodes[0].receive(ledgers.now, id_of(sender), frame)
    ledgers.turn()
    assert home in ledgers.nodes[0].groups


def test_a_snapshot_that_makes_no_sense_is_damage() -> None:
    group = homes.fleet_group(id_of(0))
    found = {group: Recovered(Vote(3), Snapshot(9, 3, Members.of([id_of(0), id_of(1)]), b"nonsense"))}
    ledger = Ledger(0.0, id_of(0), b"%08d" % 1, Random(1), LedgerConfig(), found, b"h", WALL)
    facts = [effect.name for effect in ledger.take() if isinstance(effect, Fact)]
    raft = ledger.raft(group)
    assert facts == ["ledger.damaged"] and raft is not None and raft.damaged


def test_what_a_log_may_have_is_not_denied_while_that_is_not_known() -> None:
    ledgers = Ledgers(1)
    ledgers.run(2.0)
    group, known, other = ledgers.group(0), batch(0, 1), batch(0, 2)
    ledgers.propose(0, group, known)
    ledgers.turn()
    assert ledgers.nodes[0].may_have(group, known.key) and not ledgers.nodes[0].may_have(group, other.key)
    # The disk is full: it begins anew with what is there, and leads nothing, so that nothing is known to be committed.
    ledgers.nodes[0].restart(ledgers.now, group, ledgers.disks[0][group].recover())
    state = ledgers.nodes[0].state(group)
    assert state is not None and not state.batches
    assert ledgers.nodes[0].may_have(group, known.key) and not ledgers.nodes[0].may_have(group, other.key)
    assert ledgers.nodes[0].may_have(b"no such log", other.key), "nothing is known of it here"
