"""Copies of blobs on the voters' disks: how they come to be, and how they are mended."""

from __future__ import annotations

import pytest

from swarm.protocol.ledger.copying import (
    PAUSE_S,
    PAUSE_S_MAX,
    WORD_S,
    Answer,
    AskVoter,
    Copied,
    Copying,
    NotCopied,
    TakeIn,
)
from swarm.protocol.ledger.effects import Reason, Refusal
from swarm.protocol.ledger.mending import FETCHES_MAX, Fetch, Mending, Remove
from swarm.protocol.ledger.records import KeptBlob

ME, OAK, ELM, FIR = (name * 16 for name in (b"m", b"o", b"e", b"f"))
GROUP, SOURCE = ME, FIR


def blob(number: int) -> KeptBlob:
    return KeptBlob(number.to_bytes(32, "big"), 1000, bytes(32))


class Leader:
    def __init__(self, *voters: bytes, source: bytes | None = None) -> None:
        self.voters = voters
        self.it = Copying(ME, lambda group: self.voters)
        self.it.want(0.0, 1, GROUP, (blob(1).id,), source)
        assert self.it.take() == [TakeIn(1, (blob(1).id,), source)]

    def taken(self, now: float = 0.0) -> list[object]:
        self.it.taken(now, 1, (blob(1),))
        return list(self.it.take())

    def hear(self, now: float, voter: bytes, answer: Answer) -> list[object]:
        self.it.answered(now, 1, voter, answer)
        return list(self.it.take())

    def tick(self, now: float) -> list[object]:
        self.it.tick(now)
        return list(self.it.take())


def ask(voter: bytes) -> AskVoter:
    return AskVoter(1, GROUP, voter, (blob(1),))


def test_one_voter_is_a_majority_of_one() -> None:
    assert Leader(ME).taken() == [Copied(1, (blob(1),), (ME,))]


def test_two_of_three_are_enough_and_this_node_is_one_of_them() -> None:
    it = Leader(ME, OAK, ELM)
    assert it.hear(0.0, OAK, Answer.KEPT) == [], "nobody was asked yet"
    assert it.taken() == [ask(OAK), ask(ELM)]
    assert it.hear(1.0, ELM, Answer.KEPT) == [Copied(1, (blob(1),), (ME, ELM))]
    assert it.it.tickets == 0 and it.hear(2.0, OAK, Answer.KEPT) == []


def test_who_is_fetching_is_asked_again_at_once_and_who_failed_after_a_pause_that_grows() -> None:
    it = Leader(ME, OAK, ELM)
    it.taken()
    assert it.hear(1.0, OAK, Answer.COMING) == [ask(OAK)]
    now, pause_s = 1.0, PAUSE_S
    for _ in range(10):
        assert it.hear(now, ELM, Answer.FAILED) == []
        at = it.it.next_deadline()
        assert at == pytest.approx(now + pause_s)
        assert it.tick(at - 0.01) == [] and it.tick(at) == [ask(ELM)]
        now, pause_s = at, min(PAUSE_S_MAX, 2 * pause_s)
    assert it.it.next_deadline() is None, "both are asked: nothing to do before they answer"


def test_a_voter_that_is_replaced_is_waited_for_no_longer() -> None:
    it = Leader(ME, OAK, ELM)
    it.taken()
    for voter in (OAK, ELM):
        it.hear(0.0, voter, Answer.FAILED)
    it.voters = (ME, OAK, FIR)
    assert it.tick(PAUSE_S) == [ask(OAK), ask(FIR)]
    assert it.hear(1.0, FIR, Answer.KEPT) == [Copied(1, (blob(1),), (ME, FIR))]


def test_a_word_that_is_old_does_not_count_for_ever() -> None:
    it = Leader(ME, OAK, ELM, FIR, b"x" * 16)
    it.taken()
    it.hear(0.0, OAK, Answer.KEPT)
    it.hear(0.0, ELM, Answer.FAILED)
    assert ask(OAK) in it.tick(WORD_S + 1)
    assert it.hear(WORD_S + 2, ELM, Answer.KEPT) == [], "two of five, and one whose word is asked for again"
    assert it.hear(WORD_S + 3, OAK, Answer.KEPT) == [Copied(1, (blob(1),), (ME, OAK, ELM))]


def test_full_disks_refuse_a_batch_and_an_outcome_waits_for_room() -> None:
    it = Leader(ME, OAK, ELM)
    it.taken()
    assert it.hear(0.0, OAK, Answer.FULL) == [], "the other may have room"
    (no,) = it.hear(0.0, ELM, Answer.FULL)
    assert isinstance(no, NotCopied) and no.refusal.reason is Reason.DISK_FULL and "1000 bytes" in no.refusal.hint
    it = Leader(ME, OAK, ELM, source=SOURCE)
    it.taken()
    assert it.hear(0.0, OAK, Answer.FULL) == [] and it.hear(0.0, ELM, Answer.FULL) == []
    assert it.tick(PAUSE_S) == [ask(OAK), ask(ELM)]
    assert it.hear(9.0, ELM, Answer.KEPT) == [Copied(1, (blob(1),), (ME, ELM))]


def test_this_nodes_own_disk_is_full() -> None:
    full, gone = Refusal(Reason.DISK_FULL, "no room"), Refusal(Reason.GONE, "nowhere")
    it = Leader(ME, OAK, ELM)
    it.it.refused(0.0, 1, full)
    assert it.it.take() == [NotCopied(1, full)]
    it = Leader(ME, OAK, ELM, source=SOURCE)
    it.it.refused(0.0, 1, full)
    assert it.it.take() == [] and it.it.next_deadline() == PAUSE_S
    assert it.tick(PAUSE_S) == [TakeIn(1, (blob(1).id,), SOURCE)] and it.it.next_deadline() is None
    it.it.refused(1.0, 1, gone)
    assert it.it.take() == [NotCopied(1, gone)]


def test_older_versions_keep_nothing_beside_a_log() -> None:
    it = Leader(ME, OAK, ELM)
    it.taken()
    it.hear(0.0, OAK, Answer.UNABLE)
    (no,) = it.hear(0.0, ELM, Answer.UNABLE)
    assert isinstance(no, NotCopied) and no.refusal.reason is Reason.TOO_LARGE and "older version" in no.refusal.hint
    it = Leader(ME, OAK, ELM, source=SOURCE)
    it.taken()
    assert it.hear(0.0, OAK, Answer.UNABLE) == []
    assert it.hear(0.0, ELM, Answer.UNABLE) == [Copied(1, (blob(1),), (ME,))], "an outcome does not wait for an upgrade"


def test_what_is_dropped_is_over() -> None:
    it = Leader(ME, OAK, ELM)
    it.it.drop(1)
    assert it.taken() == [] and it.it.next_deadline() is None


def test_what_logs_name_is_fetched_a_few_at_once_and_again_after_a_pause() -> None:
    it = Mending(0.0, unnamed_s=100.0)
    it.needed(0.0, {blob(number).id: blob(number) for number in range(6)})
    assert it.take() == [Fetch(blob(number)) for number in range(FETCHES_MAX)] and it.missing == 6
    it.failed(1.0, blob(0).id)
    assert it.take() == [Fetch(blob(4))]
    for number in (1, 2, 3, 4):
        it.here(2.0, blob(number).id)
    assert it.take() == [Fetch(blob(5)), Fetch(blob(0))] and it.missing == 2
    it.failed(2.0, blob(0).id)
    later = it.next_deadline()
    assert later is not None and later > 2.5, "the second pause is longer"
    it.gone(2.6, blob(1).id)
    assert it.take() == [Fetch(blob(1))], "it was damaged"


def test_what_no_log_names_goes_after_a_while_and_not_sooner() -> None:
    it = Mending(0.0, [blob(1).id, blob(2).id], unnamed_s=100.0)
    it.here(10.0, blob(3).id)
    it.needed(20.0, {blob(2).id: blob(2)})
    assert it.take() == [] and it.next_deadline() == 100.0
    it.tick(100.0)
    assert it.take() == [Remove(blob(1).id)] and it.next_deadline() == 110.0
    it.here(105.0, blob(3).id)  # a leader asked for it again
    it.tick(110.0)
    assert it.take() == []
    it.needed(200.0, {})
    it.tick(204.0)
    assert it.take() == []
    it.tick(205.0)
    assert it.take() == [Remove(blob(3).id)]
    it.tick(300.0)
    assert it.take() == [Remove(blob(2).id)] and it.next_deadline() is None


def test_what_is_not_named_any_more_is_not_fetched() -> None:
    it = Mending(0.0, unnamed_s=100.0)
    it.needed(0.0, {blob(1).id: blob(1)})
    it.take()
    it.failed(0.0, blob(1).id)
    it.needed(0.1, {})
    it.tick(50.0)
    assert it.take() == [] and it.next_deadline() is None and it.missing == 0
