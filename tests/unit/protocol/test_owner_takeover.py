"""Take-over: a later leader adopts what runs under its token, places the rest again, and the one before gives all up."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.batch import Outcomes
from swarm.protocol import ids
from swarm.protocol.ledger.records import Token
from swarm.protocol.messages import Kind
from swarm.protocol.ownership import OwnershipConfig, ToExecutor
from swarm.protocol.states import Status
from tests.unit.protocol.durable_owner import GROUP, DurableOwner, Log, durable_key
from tests.unit.protocol.owner import CLIENT, ELM, ME, OAK, OTHER_CLIENT, key_of, report_of, spec_of

NEXT = b"next" + bytes(12)


def token_of(dispatch: ToExecutor) -> Token:
    """The fencing token that a task can read."""
    return Token(*dispatch.extra["token"])


def pair(slots: float = 0.0, config: OwnershipConfig | None = None) -> tuple[DurableOwner, DurableOwner, Log]:
    """A leader, the one after it, and their log. Both have the executors oak and elm."""
    log = Log()
    first, second = DurableOwner(slots, ME, config), DurableOwner(slots, NEXT, config)
    for owner in (first, second):
        owner.executor(OAK, "oak", 2)
        owner.executor(ELM, "elm", 2)
    log.lead(first)
    return first, second, log


def held(dispatch: ToExecutor, owner: bytes = ME) -> tuple[bytes, bytes, int, Token, list[tuple[int, int]]]:
    """What an executor says of a run that it has."""
    part = (dispatch.first, dispatch.first + dispatch.count)
    return dispatch.batch, owner, dispatch.dispatch, token_of(dispatch), [part]


def answer(owner: DurableOwner, log: Log, runs: dict[bytes, list[ToExecutor]]) -> None:
    """All executors answer what they have."""
    for node in sorted(owner.it.executors):
        owner.it.held(owner.now, GROUP, log.term, node, [held(one) for one in runs.get(node, [])])
        owner.take()


def told(owner: DurableOwner, number: int, to: bytes = CLIENT) -> dict[int, int]:
    """Index -> status of what a client was told, as often as it attached: each time the same."""
    found: dict[int, int] = {}
    for one in owner.told:
        if one.kind == Kind.OUTCOMES and one.to == to and one.header["b"] == durable_key(number):
            outcomes = Outcomes(one.parts[0], one.header["n"])
            for row in range(outcomes.count):
                assert found.setdefault(outcomes.index(row), outcomes.status(row)) == outcomes.status(row)
    return found


def test_live_attempts_are_adopted_under_their_tokens_and_their_outcomes_count() -> None:
    first, second, log = pair()
    first.hand(1, 4)
    log.commit()
    runs = first.taken()
    assert {run.executor for run in runs} == {OAK, ELM}
    log.lead(second)
    assert sorted(one.executor for one in second.asked) == sorted([ELM, OAK, NEXT])
    answer(second, log, {run.executor: [run] for run in runs})
    assert second.taken() == [] and log.kinds() == []
    assert [(it.executor, it.owner, it.dispatch) for it in second.adopts] == [
        (run.executor, ME, run.dispatch) for run in sorted(runs, key=lambda one: one.executor)
    ]
    second.hand(1, 4)
    for adopt, run in zip(second.adopts, sorted(runs, key=lambda one: one.executor), strict=True):
        rows = dict.fromkeys(range(run.first, run.first + run.count), int(Status.OK))
        mine = ToExecutor(
            run.executor, adopt.number, run.batch, run.spec, run.raw, True, run.first, run.count, 0, {},
            run.lengths, run.payloads,
        )  # fmt: skip
        second.report(mine, rows)
    log.commit_all()
    assert told(second, 1) == dict.fromkeys(range(4), Status.OK)
    assert {token for token, _, _ in log.state.batches[durable_key(1)].outcomes} == {token_of(run) for run in runs}


def test_what_nobody_has_is_placed_again_under_greater_tokens_once_granted() -> None:
    first, second, log = pair()
    first.hand(1, 4)
    log.commit()
    runs = first.taken()
    log.lead(second)
    answer(second, log, {OAK: [run for run in runs if run.executor == OAK]})
    assert second.taken() == [] and set(log.kinds()) == {"Granted"}
    log.commit()
    again = second.taken()
    lost = [run for run in runs if run.executor == ELM]
    assert {index for run in again for index in range(run.first, run.first + run.count)} == {
        index for run in lost for index in range(run.first, run.first + run.count)
    }
    assert all(token_of(one) > token_of(run) for one in again for run in runs)


def test_what_is_lost_while_others_are_still_asked_is_not_taken_for_what_they_have() -> None:
    first, second, log = pair(config=OwnershipConfig(adopt_s=1.0))
    first.hand(1, 4)
    log.commit()
    runs = {run.executor: run for run in first.taken()}
    log.lead(second)
    second.it.executor_load(second.now, ELM, {"others": 2.0})  # all slots are taken, by what is to be adopted
    second.it.held(second.now, GROUP, log.term, OAK, [held(runs[OAK])])
    second.it.executor_lost(second.now, OAK, "link")
    second.take()
    second.it.held(second.now, GROUP, log.term, ELM, [held(runs[ELM])])
    second.take()
    (dispatch,) = second.it.dispatches.values()
    assert (dispatch.start, dispatch.stop) == (runs[ELM].first, runs[ELM].first + runs[ELM].count)
    assert dispatch.batch.outstanding(dispatch.number) == [(dispatch.start, dispatch.stop)] and dispatch.left == 2
    assert second.it.waiting == dispatch.batch.columns.ready == 2
    second.it.executor_load(second.now, ELM, {"others": 0.0})
    second.executor(OAK, "oak", 2)
    second.wait(1.1)
    log.commit_all()
    for run in second.taken():
        second.fine(run)
    rows = dict.fromkeys(range(dispatch.start, dispatch.stop), int(Status.OK))
    second.it.outcomes(second.now, ELM, dispatch.number, *report_of(rows))
    second.take()
    log.commit_all()
    assert not second.it.unfinished and log.state.batches[durable_key(1)].unfinished == 0


def test_an_executor_that_does_not_answer_is_waited_for_only_so_long() -> None:
    first, second, log = pair(config=OwnershipConfig(adopt_s=1.0))
    first.hand(1)
    log.commit()
    log.lead(second)
    second.wait(0.9)
    assert log.kinds() == []
    second.wait(0.2)
    assert log.kinds() == ["Granted"]


def test_an_attempt_under_a_token_that_is_not_the_rows_is_ended_and_never_counts() -> None:
    first, second, log = pair()
    first.hand(1)
    log.commit()
    (stale,) = first.taken()
    first.it.executor_lost(first.now, stale.executor, "link")
    first.take()
    log.commit()  # granted anew
    (valid,) = first.taken()
    log.lead(second)
    answer(second, log, {stale.executor: [stale], valid.executor: [valid]})
    adopted = {adopt.executor: adopt.number for adopt in second.adopts}
    (recall,) = [it for it in second.told if it.kind == Kind.RECALL]
    assert (recall.to, recall.header["d"], recall.header["k"]) == (stale.executor, adopted[stale.executor], True)
    assert list(second.it.dispatches) == [adopted[valid.executor]]


def test_the_one_before_gives_all_up_recalls_nothing_and_says_unknown() -> None:
    first, second, log = pair()
    first.hand(1, 4)
    log.commit()
    runs = first.taken()
    log.lead(second)
    assert [it["reason"] for it in first.messages(Kind.REFUSED)] == ["unknown"]
    assert not [it for it in first.told if it.kind == Kind.RECALL]
    assert (first.it.unfinished, first.it.waiting, dict(first.it.dispatches)) == (0, 0, {})
    first.fine(runs[0])
    assert log.kinds() == []


def test_an_outcome_that_was_committed_is_told_by_the_next_leader_and_runs_no_more() -> None:
    first, second, log = pair()
    first.hand(1, 4)
    runs = first.taken()
    first.fine(runs[0])
    log.commit(2)
    first.fine(runs[1])  # proposed, and lost with the leader
    log.lead(second)
    second.hand(1, 4, client=OTHER_CLIENT)
    done = set(range(runs[0].first, runs[0].first + runs[0].count))
    assert told(second, 1, OTHER_CLIENT) == dict.fromkeys(sorted(done), Status.OK)
    answer(second, log, {})
    log.commit_all()
    assert {index for run in second.taken() for index in range(run.first, run.first + run.count)} == set(
        range(4)
    ) - done


def test_what_may_not_be_repeated_is_lost_if_it_may_have_begun_and_runs_if_it_cannot_have() -> None:
    first, second, log = pair()
    first.hand(1, spec=spec_of(rerun=False))
    first.hand(2, spec=spec_of(rerun=False))
    log.commit(2)  # of both only the first one's grant ...
    kinds = log.kinds()
    log.commit(1)
    assert kinds[0] == "Submitted" or kinds[0] == "Granted"
    state = log.state.batches
    granted = {key for key, batch in state.items() if batch.last_token is not None}
    log.lead(second)
    answer(second, log, {})
    log.commit_all()
    for number in (1, 2):
        second.hand(number, spec=spec_of(rerun=False))
    log.commit_all()
    for number in (1, 2):
        expected = {0: Status.LOST} if durable_key(number) in granted else {}
        assert told(second, number) == expected
    assert granted and len(granted) < 2


def test_a_cancel_survives_the_leader() -> None:
    first, second, log = pair()
    first.hand(1, 4)
    first.it.cancel(first.now, durable_key(1), [(0, 2)])
    first.take()
    log.commit_all()
    runs = first.taken()
    log.lead(second)
    answer(second, log, {run.executor: [run] for run in runs})
    recalls = [it for it in second.told if it.kind == Kind.RECALL]
    assert recalls and all(it.header["r"] == [[0, 2]] for it in recalls)


def test_dependencies_wait_on_under_the_next_leader() -> None:
    first, second, log = pair()
    first.hand(1)
    first.hand(2, deps=[ids.task_id(durable_key(1), 0)])
    log.commit_all()
    (run,) = first.taken()
    log.lead(second)
    answer(second, log, {run.executor: [run]})
    assert log.kinds() == []
    mine = second.it.dispatches[second.adopts[0].number]
    second.it.outcomes(second.now, run.executor, mine.number, *_fine(0))
    second.take()
    log.commit_all()
    (dependent,) = second.taken()
    assert (dependent.batch, dependent.extra["deps"]) == (durable_key(2), [b"M\x01"])


def _fine(index: int) -> tuple[int, bytes]:
    return report_of({index: Status.OK})


def test_a_volatile_task_that_waits_for_one_that_another_leads_ends_with_a_reason() -> None:
    first, second, log = pair()
    first.hand(1)
    first.submit(7, deps=[ids.task_id(durable_key(1), 0)])
    log.commit()
    log.lead(second)
    assert first.ended(7, key=key_of(7)) == {0: Status.DEPENDENCY}


def test_a_deadline_counts_from_the_submission_under_every_leader() -> None:
    first, second, log = pair()
    first.it.refusals.draining = False
    for node in (OAK, ELM):
        first.it.executor_lost(first.now, node, "dead")
    deadline = 1.7e9 + first.now + 5
    first.hand(1, spec=spec_of(deadline=deadline))
    log.commit()
    log.lead(second)
    for node in (OAK, ELM):
        second.it.executor_lost(second.now, node, "dead")
    second.wait(10)
    log.commit_all()
    second.hand(1, spec=spec_of(deadline=deadline))
    assert told(second, 1) == {0: Status.EXPIRED}


def test_the_same_node_that_leads_again_tells_its_client_what_it_had_not_heard() -> None:
    first, _, log = pair()
    first.hand(1)
    (run,) = first.taken()
    first.fine(run)
    log.commit()
    log.term += 1
    log.waiting.clear()
    first.it.lead(first.now, 1.7e9 + first.now, GROUP, log.term, log.state.batches)
    first.take()
    assert told(first, 1) == {0: Status.OK}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_happens_each_task_has_one_outcome_in_the_log_and_it_is_the_one_told(data: st.DataObject) -> None:
    """Leaders change, executors answer or not, records are committed late or never, reports come twice and late."""
    log = Log()
    owners = [DurableOwner(0, ME), DurableOwner(0, NEXT)]
    for owner in owners:
        for node, name in ((OAK, "oak"), (ELM, "elm")):
            owner.executor(node, name, 2)
    log.lead(owners[0])
    at = 0
    running: list[tuple[DurableOwner, bytes, int, Token, range]] = []
    count = data.draw(st.integers(1, 6))
    rerun = data.draw(st.booleans())
    heard: dict[int, int] = {}

    def look() -> None:
        for owner in owners:
            for run in owner.taken():
                running.append(
                    (owner, run.executor, run.dispatch, token_of(run), range(run.first, run.first + run.count))
                )
            for index, status in told(owner, 1).items():
                assert heard.setdefault(index, status) == status
            owner.told.clear()

    def submit() -> None:
        owners[at].hand(1, count, spec=spec_of(rerun=rerun))

    submit()
    look()
    for _ in range(data.draw(st.integers(0, 25))):
        owner = owners[at]
        match data.draw(st.sampled_from(["commit", "part", "report", "lost", "lead", "answer", "submit", "wait"])):
            case "commit":
                log.commit_all()
            case "part":
                log.commit(1)
            case "report" if running:
                whose, node, number, _, rows = running[data.draw(st.integers(0, len(running) - 1))]
                status = data.draw(st.sampled_from([Status.OK, Status.CRASHED, Status.RETURNED, Status.FAILED]))
                whose.it.outcomes(whose.now, node, number, *report_of(dict.fromkeys(rows, status)))
                whose.take()
            case "lost":
                node = data.draw(st.sampled_from([OAK, ELM]))
                owner.it.executor_lost(owner.now, node, "link")
                owner.it.executor_linked(owner.now, node)
                owner.take()
            case "lead":
                look()
                at = 1 - at
                log.lead(owners[at])
                submit()
            case "answer":
                for node in sorted(owner.it.executors):
                    runs = [
                        (durable_key(1), whose.it.me, number, token, [(rows.start, rows.stop)])
                        for whose, where, number, token, rows in running
                        if where == node
                    ]
                    before = len(owner.adopts)
                    owner.it.held(owner.now, GROUP, log.term, node, runs)
                    owner.take()
                    for adopt in owner.adopts[before:]:
                        for index, (whose, where, number, token, rows) in enumerate(running):
                            if (whose.it.me, where, number) == (adopt.owner, adopt.executor, adopt.dispatch):
                                running[index] = (owner, where, adopt.number, token, rows)
            case "submit":
                submit()
            case "wait":
                owner.wait(2)
        look()
    log.commit_all()
    state = log.state.batches.get(durable_key(1))
    submit()
    look()
    in_log = {}
    if state is not None:
        for _, outcomes, _ in state.outcomes:
            for row in range(outcomes.count):
                assert outcomes.index(row) not in in_log
                in_log[outcomes.index(row)] = outcomes.status(row)
    assert heard.items() <= in_log.items()
    # What is left ends as soon as its leader is let work.
    owner = owners[at]
    for _ in range(60):
        log.commit_all()
        owner.wait(2)
        look()
        for whose, node, number, _, rows in running:
            if whose is owner and number in owner.it.dispatches:
                owner.it.outcomes(owner.now, node, number, *report_of(dict.fromkeys(rows, Status.OK)))
                owner.take()
        log.commit_all()
        submit()
        look()
        if len(heard) == count:
            break
    assert len(heard) == count and owner.it.unfinished == 0


def test_what_was_made_more_or_less_urgent_stays_so_under_the_next_leader() -> None:
    first, second, log = pair()
    first.hand(1, 6)
    log.commit()
    first.taken()
    first.it.reprioritize(first.now, durable_key(1), None, 2, -5)
    first.it.reprioritize(first.now, durable_key(1), [(4, 6)], 0, None)
    first.take()
    assert log.kinds() == ["Reprioritized", "Reprioritized"]
    log.commit()
    log.lead(second)
    answer(second, log, {})
    batch = second.it.batches[durable_key(1)]
    assert [batch.urgency(index) for index in range(6)] == [(2, -5)] * 4 + [(0, -5)] * 2
    log.commit()  # what is placed again is granted first
    runs = {index: run.urgency for run in second.taken() for index in range(run.first, run.first + run.count)}
    assert runs and all(runs[index] == (2, -5) for index in runs if index < 4)
