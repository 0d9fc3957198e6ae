"""An owner that learns what a task may be given, and whose fault a failure is: the machine's, or the task's."""

from __future__ import annotations

import pytest

from swarm.protocol.lessons.heeding import Mode
from swarm.protocol.lessons.records import PROBE_USES
from swarm.protocol.owner.batches import ToExecutor
from swarm.protocol.owner.blame import POISONS_OF_A_CALLABLE
from swarm.protocol.owner.put_away import TRACE_MAX
from swarm.protocol.resources import INTERPRETER_LABEL, PACKAGES_LABEL, Capacity
from swarm.protocol.spec import Spec
from swarm.protocol.states import CRASHES_MAX, Status
from tests.unit.protocol.owner import ELM, OAK, Owner, key_of, spec_of
from tests.unit.protocol.test_owner_heeding import NO_MODULE, at_oak, fails, owner_of, said, where

FIR, ASH = b"fir" + bytes(13), b"ash" + bytes(13)
NO_MEMORY = {"type": "builtins:MemoryError", "mro": ["builtins:MemoryError"], "message": "", "traceback": ""}
LATE = {"message": "f ran longer than its timeout of 1 s", "hint": "", "facts": {"why": "late"}}
DIED = {"message": "the worker process died while it ran f (signal 6)", "hint": "", "facts": {"why": "signal 6"}}
NO_FILE = {
    "type": "builtins:FileNotFoundError", "mro": ["builtins:FileNotFoundError"],
    "message": "[Errno 2] No such file or directory: '/data/7/x'", "traceback": "",
}  # fmt: skip
GB = 1e9


def owner_with(memory: dict[bytes, float]) -> Owner:
    owner = owner_of(Mode.OBEY, nodes=tuple(memory))
    for node, amount in memory.items():
        name = node.rstrip(b"\0").decode()
        capacity = Capacity({"cpu": 2.0, "memory": amount}, frozenset({f"node:{name}"}))
        owner.it.executor_seen(owner.now, node, name, capacity, {"free": 2.0, "wait": 0})
    owner.take()
    return owner


def next_of(owner: Owner) -> ToExecutor:
    owner.wait(5)
    (out,) = owner.taken()
    return out


# --- what is given ----------------------------------------------------------------------------------------------------


def test_a_retry_asks_for_more_memory_and_no_more_than_some_machine_has() -> None:
    owner = owner_with({OAK: 2 * GB, ELM: 6 * GB})
    owner.submit(1, spec=spec_of(needs={"memory": 2 * GB}))
    (first,) = owner.taken()
    had = [first.spec.needs["memory"]]
    fails(owner, first, NO_MEMORY)
    while not owner.ended(1):
        again = next_of(owner)
        assert again.executor == ELM and again.spec.needs["memory"] <= 6 * GB
        had.append(again.spec.needs["memory"])
        fails(owner, again, NO_MEMORY)
    assert had == [2 * GB, 4 * GB, 6 * GB], "and then there is no more to be had"
    batch = owner.it.batches[key_of(1)]
    assert batch.spec.needs == {"memory": 2 * GB}, "what was submitted stays what it was"
    owner.submit(2, 3)
    assert {(out.executor, out.spec.needs["memory"]) for out in owner.taken()} == {(ELM, 6 * GB)}


@pytest.mark.parametrize(("most", "limits"), [(None, [1.0]), (1.5, [1.0, 1.5]), (9.0, [1.0, 2.0, 4.0, 8.0])])
def test_a_time_limit_is_longer_where_its_owner_allows_it(most: float | None, limits: list[float]) -> None:
    owner = owner_of(Mode.OBEY)
    owner.submit(1, spec=spec_of(timeout_s=1.0, timeout_max_s=most))
    found = []
    while not owner.ended(1):
        out = next_of(owner)
        found.append(out.spec.timeout_s)
        fails(owner, out, LATE, Status.TIMEOUT)
    assert found == limits and owner.ended(1) == {0: Status.TIMEOUT}


def test_what_may_not_be_repeated_is_not_given_another_time() -> None:
    owner = owner_of(Mode.OBEY)
    owner.submit(1, spec=spec_of(timeout_s=1.0, timeout_max_s=9.0, rerun=False))
    owner.it.grant_start(owner.now, key_of(1), [(0, 1)])
    owner.take()
    (out,) = owner.taken()
    fails(owner, out, LATE, Status.TIMEOUT)
    assert owner.ended(1) == {0: Status.TIMEOUT}


def test_now_and_then_one_task_goes_without_and_the_lesson_dies_if_it_was_not_needed() -> None:
    owner = owner_with({OAK: 9 * GB, ELM: 9 * GB})
    owner.submit(1, spec=spec_of(needs={"memory": GB}))
    fails(owner, owner.taken()[0], NO_MEMORY)
    owner.fine(next_of(owner))
    (key,) = owner.it.heeding.known
    without = []
    for number in range(2, 3 * PROBE_USES):
        owner.submit(number, 2, spec=spec_of(needs={"memory": GB}))
        while outs := owner.taken():
            for out in outs:
                if out.spec.needs["memory"] == GB:
                    without.append((number, out.count))
                    assert out.count == 1 or owner.it.heeding.known[key].record.dead
                owner.fine(out)
        if owner.it.heeding.known[key].record.dead:
            break
    assert owner.it.heeding.known[key].record.dead and without[0][0] >= PROBE_USES // 4


# --- who is to blame --------------------------------------------------------------------------------------------------


def alive(owner: Owner) -> list[tuple[str, dict[str, str]]]:
    return [
        (known.lesson.family, dict(known.lesson.ties))
        for known in owner.it.heeding.known.values()
        if not known.record.dead
    ]


def test_what_fails_alike_on_a_second_machine_is_the_tasks_fault() -> None:
    owner = owner_of(Mode.OBEY, nodes=(OAK, ELM, FIR))
    owner.submit(1)
    (first,) = owner.taken()
    fails(owner, first, NO_FILE)
    assert [family for family, _ in alive(owner)] == ["missing-file"]
    second = next_of(owner)
    assert second.executor != first.executor
    fails(owner, second, NO_FILE)
    assert owner.ended(1) == {0: Status.FAILED} and alive(owner) == []
    assert where(owner, 2, 60) == {OAK, ELM, FIR}


def test_if_it_goes_well_on_a_third_it_was_the_machines() -> None:
    owner = owner_of(Mode.OBEY, nodes=(OAK, ELM, FIR))
    owner.submit(1, spec=spec_of(retries=5))
    bad: list[bytes] = []
    for _ in range(2):
        out = next_of(owner)
        bad.append(out.executor)
        fails(owner, out, NO_FILE, Status.RETRY)
    assert alive(owner) == []
    for node in bad:
        owner.it.executor_load(owner.now, node, {"free": 2.0, "wait": 0, "drain": True})
    owner.take()
    owner.fine(next_of(owner))
    assert owner.ended(1) == {0: Status.OK}
    assert {ties["node"] for _, ties in alive(owner)} == {node.rstrip(b"\0").decode() for node in bad}


def crash(owner: Owner, number: int, payload: bytes = b"M\x07") -> None:
    """A task whose workers die, until it is given up."""
    from kernels.batch import CallBuilder

    builder = CallBuilder()
    builder.add(payload)
    owner.submit(number, columns=builder.take())
    for _ in range(CRASHES_MAX + 1):
        owner.wait(1)
        for out in owner.taken():
            fails(owner, out, DIED, Status.CRASHED)


def test_a_call_that_ends_its_workers_is_known_by_its_arguments() -> None:
    owner = owner_of(Mode.OBEY, nodes=(OAK, ELM, FIR))
    crash(owner, 1)
    assert owner.ended(1) == {0: Status.QUARANTINED}
    assert alive(owner) == [("poison-task", {})], "no machine is to blame"
    batch = owner.submit(2, 20)  # the same arguments among others: M and the number
    assert batch is not None
    while outs := owner.taken():
        for out in outs:
            assert not out.first <= 7 < out.first + out.count
            owner.fine(out)
    assert owner.ended(2) == {index: Status.REFUSED if index == 7 else Status.OK for index in range(20)}
    outcome = batch.outcome(7)
    assert outcome is not None and b"with these arguments" in bytes(outcome[1])


def test_several_such_calls_and_none_that_goes_well_are_the_callables_fault() -> None:
    owner = owner_of(Mode.OBEY, nodes=(OAK, ELM, FIR))
    for number in range(POISONS_OF_A_CALLABLE - 1):
        crash(owner, number + 1, b"M" + bytes([40 + number]))
    assert where(owner, 9) != set(), "others of it are run, and go well"
    for number in range(POISONS_OF_A_CALLABLE - 1):
        crash(owner, number + 11, b"M" + bytes([50 + number]))
    assert where(owner, 19) != set()
    for number in range(POISONS_OF_A_CALLABLE):
        crash(owner, number + 21, b"M" + bytes([60 + number]))
    owner.submit(30)
    assert owner.taken() == [] and owner.ended(30) == {0: Status.REFUSED}


def test_one_crash_is_not_enough_to_run_it_nowhere() -> None:
    owner = owner_of(Mode.OBEY, nodes=(OAK,))
    _, out = at_oak(owner, 1)
    fails(owner, out, DIED, Status.CRASHED)
    (again,) = owner.taken()
    owner.fine(again)
    assert owner.ended(1) == {0: Status.OK} and alive(owner) == [], "it went well there: the lesson was wrong"


# --- environments -----------------------------------------------------------------------------------------------------


def seen(owner: Owner, node: bytes, packages: str) -> None:
    name = node.rstrip(b"\0").decode()
    labels = frozenset({f"node:{name}", INTERPRETER_LABEL + "cpython-3.11", PACKAGES_LABEL + packages})
    owner.it.executor_seen(owner.now, node, name, Capacity({"cpu": 2.0}, labels), {"free": 2.0, "wait": 0})
    owner.it.executor_linked(owner.now, node)
    owner.take()


def test_machines_that_are_set_up_alike_are_avoided_and_one_that_changed_is_not() -> None:
    owner = owner_of(Mode.OBEY, nodes=(OAK, ELM, FIR))
    for node, packages in ((OAK, "aa"), (ELM, "aa"), (FIR, "bb")):
        seen(owner, node, packages)
    _, out = at_oak(owner, 1)
    fails(owner, out, NO_MODULE)
    assert alive(owner) == [("missing-module", {"interpreter": "cpython-3.11", "packages": "aa"})]
    assert where(owner, 2, 40) == {FIR}
    seen(owner, ELM, "cc")
    assert where(owner, 3, 40) == {FIR, ELM}
    seen(owner, ASH, "aa")
    assert where(owner, 4, 40) == {FIR, ELM}, "a machine that comes later is as the others"


def test_what_waits_keeps_away_from_a_machine_that_comes_later() -> None:
    owner = owner_of(Mode.OBEY, nodes=(OAK, FIR))
    seen(owner, OAK, "aa")
    seen(owner, FIR, "bb")
    _, out = at_oak(owner, 1)
    fails(owner, out, NO_MODULE)
    owner.submit(2, 50)
    first = owner.taken()
    assert {out.executor for out in first} == {FIR}
    seen(owner, ASH, "aa")
    while first:
        for out in first:
            owner.fine(out)
        first = owner.taken()
        assert {out.executor for out in first} <= {FIR}


def test_the_home_of_a_guest_says_nothing_of_its_interpreter() -> None:
    owner = owner_of(Mode.OBEY)
    name = "oak"
    labels = frozenset({f"node:{name}", INTERPRETER_LABEL + "cpython-3.11", PACKAGES_LABEL + "aa"})
    capacity = Capacity({"cpu": 2.0}, labels, frozenset({"other"}))
    owner.it.executor_seen(owner.now, OAK, name, capacity, {"free": 2.0, "wait": 0})
    owner.take()
    owner.submit(1, spec=spec_of(python="other"))
    fails(owner, owner.taken()[0], NO_MODULE)
    assert alive(owner) == [("missing-module", {"node": "oak"})]


def test_what_was_too_much_to_say_at_once_is_said_later() -> None:
    owner = owner_of(Mode.OBEY)
    told: set[str] = set()
    for number in range(60):
        name = f"f{number}"
        owner.submit(number + 1, spec=Spec("call", ("name", f"m:{name}", name), name, labels=("node:oak",)))
        (out,) = owner.taken()
        fails(owner, out, NO_MODULE | {"message": f"No module named 'planted_{number}'"})
        told |= {one.key for one in said(owner)}
    assert len(told) < 60
    owner.wait(60)
    told |= {one.key for one in said(owner)}
    assert len(told) == 60


def test_a_record_that_is_put_away_still_tells_of_lessons() -> None:
    owner = owner_of(Mode.OBEY)
    _, out = at_oak(owner, 1)
    fails(owner, out, NO_MODULE)
    where(owner, 2, 500)
    trace = list(owner.it.batches[key_of(2)].trace)
    assert len(trace) <= TRACE_MAX and any(event[1] == "heeds lessons" for event in trace)
