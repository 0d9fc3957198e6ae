"""Granted slots: the frames of the direct lane, and who gives a worker away and takes it back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.batch import CallBuilder, Calls
from swarm.protocol import direct
from swarm.protocol.execution import Execution, ExecutionConfig
from swarm.protocol.executor.effects import HandSlice, RevokeSlot, StartWorker, StopWorker
from swarm.protocol.resources import Capacity
from swarm.protocol.spec import Spec

ME = b"m" * 16
CLIENT = b"c" * 24
SPEC = Spec("call", ("name", "math:sqrt", "sqrt"), "sqrt")


@given(
    frames=st.lists(
        st.tuples(
            st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.binary()
        )
    ),
    cuts=st.lists(st.integers(1, 40), min_size=1),
)
def test_frames_come_out_as_they_went_in_however_they_are_cut(
    frames: list[tuple[int, int, int, int, bytes]], cuts: list[int]
) -> None:
    sent = b"".join(direct.pack(kind, body, number, word, status) for kind, status, number, word, body in frames)
    reader, got, at, turn = direct.Frames(), [], 0, 0
    while at < len(sent):
        size = cuts[turn % len(cuts)]
        got += [(*frame[:4], bytes(frame[4])) for frame in reader.feed(sent[at : at + size])]
        at, turn = at + size, turn + 1
    assert got == frames


@pytest.mark.parametrize("length", [0, 11, direct.FRAME_BYTES_MAX + 1, 2**32 - 1])
def test_an_impossible_length_is_refused_before_anything_is_kept(length: int) -> None:
    with pytest.raises(direct.DirectViolation, match=str(length)):
        direct.Frames().feed(direct.HEADER.pack(length, direct.CALL, 0, 0, 1, 1))


def executor(slots: int, **config: float) -> Execution:
    """An executor whose workers are ready."""
    it = Execution(ExecutionConfig(Capacity({"cpu": float(slots)}), **config), ME)  # type: ignore[arg-type]
    it.start(0.0)
    for effect in it.take_effects():
        assert isinstance(effect, StartWorker)
        it.worker_ready(0.0, effect.worker)
    return it


def dispatch(it: Execution, number: int, count: int = 1) -> None:
    builder = CallBuilder()
    for _ in range(count):
        builder.add_plain((4,))
    it.dispatch(
        1.0, ME, dispatch=number, batch=number.to_bytes(12, "big"), spec=SPEC, raw=SPEC.encode(), granted=True,
        calls=Calls(builder.take(), count), first=0,
    )  # fmt: skip


def test_an_idle_slot_is_granted_once_and_counts_as_taken() -> None:
    it = executor(2)
    worker = it.grant(CLIENT)
    assert worker is not None
    assert it.load()["free"] == 1
    assert not it.idle
    assert it.grant(CLIENT) is None, "one each"
    other = it.grant(b"d" * 24)
    assert other not in (None, worker)
    assert it.grant(b"e" * 24) is None, "no slot is left"
    it.granted_over(1.0, worker)
    assert it.load()["free"] == 1
    assert it.grant(b"e" * 24) == worker


def test_a_slot_that_work_waits_for_is_taken_back_and_given_to_it() -> None:
    it = executor(1)
    worker = it.grant(CLIENT)
    assert worker is not None
    dispatch(it, 1)
    dispatch(it, 2)
    assert it.take_effects() == [RevokeSlot(worker)], "asked for once"
    assert it.grant(b"d" * 24) is None, "there is work"
    it.granted_over(1.0, worker)
    assert [type(effect) for effect in it.take_effects() if isinstance(effect, HandSlice)] == [HandSlice]


def test_no_slice_is_handed_to_a_granted_worker() -> None:
    it = executor(2)
    granted = it.grant(CLIENT)
    dispatch(it, 1)
    handed = [effect.worker for effect in it.take_effects() if isinstance(effect, HandSlice)]
    assert handed and granted not in handed


def test_draining_takes_slots_back_and_waits_for_them() -> None:
    it = executor(1)
    worker = it.grant(CLIENT)
    assert worker is not None
    it.drain(1.0)
    assert it.take_effects() == [RevokeSlot(worker)]
    assert not it.idle
    it.granted_over(1.0, worker)
    assert it.idle
    assert it.grant(CLIENT) is None


def test_a_granted_worker_that_dies_leaves_its_slot() -> None:
    it = executor(1)
    worker = it.grant(CLIENT)
    assert worker is not None
    it.worker_exited(1.0, worker, "signal 11")
    assert it.idle
    assert it.load()["free"] == 1
    assert any(isinstance(effect, StartWorker) for effect in it.take_effects())


def test_a_call_that_waits_for_its_own_task_lends_the_slot() -> None:
    it = executor(1)
    worker = it.grant(CLIENT)
    assert worker is not None
    it.worker_blocked(1.0, worker)
    assert it.load()["free"] == 1
    started = [effect.worker for effect in it.take_effects() if isinstance(effect, StartWorker)]
    assert len(started) == 1
    it.worker_ready(1.0, started[0])
    dispatch(it, 1)
    assert [effect.worker for effect in it.take_effects() if isinstance(effect, HandSlice)] == started
    it.worker_unblocked(2.0, worker)
    it.granted_over(3.0, worker)
    assert it.load()["free"] == 0
    assert it.running == 1


def test_one_that_ends_while_it_is_blocked_gives_back_no_more_than_it_took() -> None:
    it = executor(1)
    worker = it.grant(CLIENT)
    assert worker is not None
    it.worker_blocked(1.0, worker)
    it.granted_over(2.0, worker)
    assert it.load() == {"free": 1.0, "wait": 0, "drain": False, "blocked": 0}


def test_killing_it_ends_the_process_and_nothing_else() -> None:
    it = executor(2)
    worker = it.grant(CLIENT)
    assert worker is not None
    it.granted_kill(worker, "its call was cancelled")
    (stop,) = it.take_effects()
    assert isinstance(stop, StopWorker)
    assert (stop.worker, stop.how) == (worker, "kill")
    it.worker_exited(1.0, worker, "signal 9")
    assert it.load()["free"] == 2
    it.granted_kill(worker, "again")
    it.granted_over(1.0, worker)


def test_calls_count_towards_the_recycling_of_a_worker() -> None:
    it = executor(1, recycle_tasks=10)
    worker = it.grant(CLIENT)
    assert worker is not None
    it.granted_ran(worker, 10)
    it.granted_over(1.0, worker)
    assert any(isinstance(effect, StopWorker) and effect.how == "finish" for effect in it.take_effects())


def test_a_granted_worker_that_has_grown_is_asked_back_first() -> None:
    it = executor(1, worker_memory_bytes_max=100)
    worker = it.grant(CLIENT)
    assert worker is not None
    it.worker_memory(1.0, worker, 200)
    assert it.take_effects() == [RevokeSlot(worker)]
    it.granted_over(1.0, worker)
    it.worker_memory(2.0, worker, 200)
    assert any(isinstance(effect, StopWorker) for effect in it.take_effects())
