"""A home worker, driven over its channel as a node does."""

from __future__ import annotations

import mmap
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.worker import channel as wire
from swarm.payload import encode_call
from swarm.payload_failure import Failure, Notice
from swarm.protocol.states import Status
from tests.unit.worker.driver import TIMEOUT_S, Driver, Ended, outcomes_of, said


def failure(outcome: Any) -> Failure:
    status, told = outcome
    assert status == Status.FAILED
    assert isinstance(told, Failure)
    return told


def notice(outcome: Any, status: Status) -> Notice:
    assert outcome[0] == status
    assert isinstance(outcome[1], Notice)
    return outcome[1]


# --- what is run


def test_by_name(worker: Driver) -> None:
    spec = worker.spec("sample_tasks:twice", granted=False)
    assert worker.values(spec, [(1,), (2.5,), encode_call((1,), {"plus": 3})], start=100) == [2, 5.0, 5]
    assert worker.values(worker.spec("sample_tasks:Outer.inner"), [()]) == ["inner"]


@pytest.mark.parametrize(
    ("path", "what", "hint"),
    [
        ("json:dumps", "module 'json' is not one that this node runs", "swarm node --modules json"),
        ("mathematics:sqrt", "not one that this node runs", "--modules"),
        ("broken_tasks:f", "broken_tasks.*ModuleNotFoundError: No module named 'nowhere_to_be_found'", "install"),
        ("sample_tasks:gone", "no callable 'gone' in module 'sample_tasks'", "update"),
        ("sample_tasks:not_callable", "no callable", ""),
    ],
)
def test_what_cannot_be_resolved_is_refused_for_each_task(worker: Driver, path: str, what: str, hint: str) -> None:
    outcomes = worker.values(worker.spec(path), [(1,), (2,)])
    assert len(outcomes) == 2
    told = notice(outcomes[1], Status.REFUSED)
    import re

    assert re.search(what, told.message)
    assert hint in told.hint


def test_by_value_is_fetched_once_and_needs_the_grant(worker: Driver) -> None:
    def add(a: int, b: int) -> int:
        return a + b

    spec = worker.spec(add)
    assert worker.values(spec, [(1, 2)]) == [3]
    assert worker.values(spec, [(3, 4)]) == [7]
    assert [method for method, _ in worker.requests] == ["code.get"]
    told = notice(worker.values(worker.spec(add, granted=False), [(1, 2)])[0], Status.REFUSED)
    assert "code" in told.message


def test_code_may_come_before_it_is_asked_for(worker: Driver) -> None:
    def three() -> int:
        return 3

    spec = worker.spec(three)
    (digest,) = [digest for digest, blob in worker.code.items() if b"three" in blob]
    worker.send(wire.pack(wire.CODE, digest + worker.code[digest]))
    assert worker.values(spec, [()]) == [3]
    assert worker.requests == []


def test_code_that_is_nowhere_is_refused(worker: Driver) -> None:
    told = notice(worker.values(worker.spec(lambda: "lost", code=False), [()])[0], Status.REFUSED)
    assert "could not be fetched" in told.message
    assert told.hint == "ask another"


def test_pickled_arguments_need_the_grant(worker: Driver) -> None:
    payload = encode_call(({1, 2},))
    assert payload[:1] == b"P"
    told = failure(worker.values(worker.spec("math:fsum", granted=False), [payload])[0])
    assert "not granted" in told.message
    assert worker.values(worker.spec("math:fsum", granted=True), [payload]) == [3.0]


def test_dependencies_fill_arguments(worker: Driver) -> None:
    from swarm.payload import encode_value

    spec = worker.spec("sample_tasks:twice")
    call = encode_call((None,), {"plus": None}, fills=[(0, 0), ("plus", 1)])
    deps = [encode_value(4), encode_value(1)]
    assert worker.values(spec, [call], extra={"deps": deps}) == [9]


# --- how it ends


def test_exceptions_are_the_tasks_own(worker: Driver) -> None:
    def fails() -> None:
        raise LookupError("here")

    told = failure(worker.values(worker.spec(fails), [()], extra={"attempt": 3})[0])
    assert told.type == "builtins:LookupError"
    assert (told.message, told.node, told.attempt) == ("here", "oak", 3)
    assert "in fails" in told.traceback
    assert "nodes/worker" not in told.traceback


@pytest.mark.parametrize(
    "expression", ["exit(3)", "raise_(KeyboardInterrupt)", "raise_(MemoryError)", "deep()", "raise_(G)"]
)
def test_nothing_that_a_task_raises_ends_the_worker(worker: Driver, expression: str) -> None:
    def odd(expression: str) -> None:
        class G(BaseException):
            pass

        def raise_(kind: type[BaseException]) -> None:
            raise kind

        def deep() -> None:
            deep()

        eval(expression, {"exit": sys.exit, "raise_": raise_, "deep": deep, "G": G})

    first, second = worker.values(worker.spec(odd), [(expression,), ("1",)])
    failure(first)
    assert second is None


def test_retry_on(worker: Driver) -> None:
    def fails(kind: str) -> None:
        raise {"io": FileNotFoundError, "key": KeyError, "exit": SystemExit}[kind]("x")

    calls = [("io",), ("key",), ("exit",)]
    spec = worker.spec(fails, retries=3, retry_on=("builtins:OSError",))
    assert [outcome[0] for outcome in worker.values(spec, calls)] == [Status.RETRY, Status.FAILED, Status.FAILED]
    spec = worker.spec(fails, retries=3)
    assert [outcome[0] for outcome in worker.values(spec, calls)] == [Status.RETRY, Status.RETRY, Status.FAILED]


def test_results_that_cannot_be_sent_say_why(worker: Driver) -> None:
    def gives(what: str) -> Any:
        import threading

        return {"lock": threading.Lock, "generator": lambda: (i for i in ()), "large": lambda: "x" * 5_000_000}[what]()

    spec = worker.spec(gives)
    worker.answers["segment.alloc"] = lambda *args: {}["no room"]  # type: ignore[index]
    lock, generator, large = worker.values(spec, [("lock",), ("generator",), ("large",)])
    del worker.answers["segment.alloc"]
    told = notice(lock, Status.FAILED)
    assert "lock" in told.message
    assert told.facts["error"] == "NotPicklable"
    assert "stream=True" in notice(generator, Status.FAILED).hint
    assert "segment.alloc" in notice(large, Status.FAILED).message


def test_a_result_over_the_limit() -> None:
    with Driver(options=["--result-bytes-max", "2000"]) as worker:
        told = notice(worker.values(worker.spec(lambda: tuple(range(5000))), [()])[0], Status.FAILED)
        assert told.facts["error"] == "PayloadTooLarge"
        assert told.facts["limit_bytes"] == 2000
        told = notice(worker.values(worker.spec(lambda: bytearray(200_000)), [()])[0], Status.FAILED)
        assert told.facts["size_bytes"] > 200_000
        assert worker.requests[-1][0] == "code.get"  # no room was asked for it


# --- in which order and when


def test_recalled_tasks_do_not_start(worker: Driver) -> None:
    spec = worker.spec("sample_tasks:twice")
    values = worker.values(spec, [(i,) for i in range(10)], slot=3, recall=lambda page: page.recall(3, 4))
    assert values == [0, 2, 4, 6]


def test_the_page_says_what_runs(worker: Driver) -> None:
    spec = worker.spec(lambda: __import__("swarm").progress(1) or __import__("time").sleep(0.3))
    seen: list[Any] = []
    assert worker.page is not None
    worker.on_event = lambda *event: seen.append(worker.page.current())  # type: ignore[union-attr]
    worker.values(spec, [()], slot=5, start=70)
    ((slot, index, started_ns),) = seen
    assert (slot, index) == (5, 0)
    assert started_ns > 0
    assert worker.page.current() is None


def test_quick_outcomes_do_not_wait_for_a_slow_task_behind_them(worker: Driver) -> None:
    spec = worker.spec(lambda seconds: __import__("time").sleep(seconds))
    run = worker.run(spec, [(0,), (2.0,)])
    assert list(outcomes_of(worker.read(wire.OUTCOMES))) == [0]
    assert worker.page is not None
    assert worker.page.current() is not None  # the second one still runs
    assert list(worker.outcomes(run)) == [1]


def test_many_tasks_come_in_few_frames(worker: Driver) -> None:
    count = 20_000
    run = worker.run(worker.spec("sample_tasks:twice"), [(1,)] * count, start=5)
    found: set[int] = set()
    frames = 0
    while (frame := worker.read(wire.OUTCOMES, wire.DONE)).kind == wire.OUTCOMES:
        assert frame.run == run
        found.update(outcomes_of(frame))
        frames += 1
    assert found == set(range(5, count + 5))
    assert frames < count / 10


def test_stop_finishes_what_was_handed_over() -> None:
    with Driver(modules=["math"]) as worker:
        run = worker.run(worker.spec("math:sqrt"), [(4,)])
        worker.send(wire.pack(wire.STOP))
        assert [said(*outcome) for outcome in worker.outcomes(run).values()] == [2.0]
        assert worker.process.wait(TIMEOUT_S) == 0


# --- what a task knows


def test_current_task_and_options(worker: Driver) -> None:
    spec = worker.spec("sample_tasks:marked", name="shown")
    extra = {"token": [4, 9], "batch": b"b" * 12, "attempt": 2}
    (facts,) = worker.values(spec, [()], start=7, extra=extra)
    assert facts == [b"b" * 12 + b"\0\0\0\7", [4, 9], 2, "shown", "oak"]


def test_the_token_of_a_task_that_no_log_knows_is_the_number_of_its_dispatch(worker: Driver) -> None:
    extra = {"token": 9, "batch": b"b" * 12, "attempt": 2}
    (facts,) = worker.values(worker.spec("sample_tasks:marked", name="shown"), [()], extra=extra)
    assert facts[1] == [9]


def test_a_guest_says_the_same_of_its_task(samples: Path) -> None:
    with Driver(python=sys.executable, modules=["sample_tasks"], path=[str(samples)]) as guest:
        for token, said in (([4, 9], [4, 9]), (9, [9])):
            extra = {"token": token, "batch": b"b" * 12, "attempt": 2}
            (facts,) = guest.values(guest.spec("sample_tasks:marked", name="shown"), [()], start=7, extra=extra)
            assert facts == [b"b" * 12 + b"\0\0\0\7", said, 2, "shown", "oak"]


def test_a_task_is_of_the_class_that_it_was_handed_over_with(worker: Driver, samples: Path) -> None:
    """Which is not that of its spec, when it was changed meanwhile: what the task submits is of this class."""
    with Driver(python=sys.executable, modules=["sample_tasks"], path=[str(samples)]) as guest:
        for one in (worker, guest):
            spec = one.spec("sample_tasks:urgency", priority=2)
            assert one.values(spec, [()]) == [2]
            assert one.values(spec, [()], extra={"priority": 0, "batch": b"b" * 12}) == [0]


def test_progress_is_thinned_out_but_the_last_comes(worker: Driver) -> None:
    def works() -> None:
        import swarm

        for i in range(1000):
            swarm.progress(i + 1, 1000, note="n")

    worker.values(worker.spec(works), [()], start=2)
    reports = [data for _, index, name, data in worker.events if name == "progress" and index == 2]
    assert len(reports) < 500
    assert reports[-1] == {"done": 1000, "total": 1000, "note": "n"}


def test_what_a_task_found_out_is_told(worker: Driver) -> None:
    def says() -> None:
        import swarm

        swarm.lesson("no licence here", ask="who has one?")

    said = {"cause": "no licence here", "here": True, "wait_s": 0.0, "require": "", "ask": "who has one?"}
    with Driver(python=sys.executable) as guest:
        for one in (worker, guest):
            one.values(one.spec(says), [()], start=2)
            assert [(index, data) for _, index, name, data in one.events if name == "lesson"] == [(2, said)]


@pytest.mark.parametrize("wrong", [{"cause": ""}, {"here": False}, {"wait_s": 1.0}, {"require": "gpu"}])
def test_a_lesson_advises_something(wrong: dict[str, Any]) -> None:
    from swarm.tasks import lesson

    with pytest.raises(ValueError, match="lesson|all machines"):
        lesson(**({"cause": "no licence here"} | wrong))


def test_waiting_for_another_task_is_told(worker: Driver) -> None:
    def waits() -> None:
        from swarm.tasks import waiting

        with waiting():
            pass

    run = worker.run(worker.spec(waits), [()], slot=2)
    worker.outcomes(run)
    assert [(frame.kind, frame.slot, frame.run) for frame in worker.others] == [
        (wire.BLOCKED, 2, run),
        (wire.UNBLOCKED, 2, run),
    ]


def test_outside_of_a_worker_there_is_no_task() -> None:
    from swarm.tasks import current_task, progress, waiting

    assert current_task() is None
    progress(1, 2)
    with waiting():
        pass


# --- coroutines and streams


def test_coroutines_of_a_slice_run_side_by_side(worker: Driver) -> None:
    async def meets(i: int) -> list[Any]:
        import asyncio

        import swarm

        here = meets.__dict__.setdefault("here", [])
        here.append(i)
        while len(here) < 20:
            await asyncio.sleep(0.001)
        return [i, swarm.current_task().id[-1]]  # type: ignore[union-attr]

    values = worker.values(worker.spec(meets), [(i,) for i in range(20)])
    assert values == [[i, i] for i in range(20)]


def test_at_most_so_many_coroutines_at_once(worker: Driver) -> None:
    async def counts() -> int:
        import asyncio

        state = counts.__dict__
        state["now"] = state.get("now", 0) + 1
        most = state["now"]
        await asyncio.sleep(0.01)
        state["now"] -= 1
        return most

    assert max(worker.values(worker.spec(counts), [()] * 150)) == 64


def test_a_coroutine_that_is_too_slow_does_not_cost_its_neighbours(worker: Driver) -> None:
    async def sleeps(seconds: float) -> str:
        import asyncio

        await asyncio.sleep(seconds)
        return "slept"

    slow, quick, own = worker.values(worker.spec(sleeps, timeout_s=0.3), [(30,), (0,), ("x",)])
    assert "0.3 s" in notice(slow, Status.TIMEOUT).message
    assert quick == "slept"
    assert failure(own).type == "builtins:TypeError"


def test_the_loop_lives_as_long_as_the_worker(worker: Driver) -> None:
    async def which() -> int:
        import asyncio

        return id(asyncio.get_running_loop())

    spec = worker.spec(which)
    assert worker.values(spec, [()]) == worker.values(spec, [()])


def test_an_ordinary_function_may_return_a_coroutine(worker: Driver) -> None:
    async def inner() -> int:
        return 5

    assert worker.values(worker.spec(lambda: inner()), [()]) == [5]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_streams_wait_for_their_consumer(worker: Driver, kind: str) -> None:
    def items(count: int) -> Any:
        yield from range(count)
        return "end"

    async def aitems(count: int) -> Any:
        for i in range(count):
            yield i

    spec = worker.spec(items if kind == "sync" else aitems, stream=True)
    seen: list[Any] = []

    def acknowledge(run: int, index: int, name: str, data: Any) -> None:
        assert name == "item"
        number, payload = data
        assert number == len(seen)
        seen.append(said(0, payload))
        if len(seen) == 16:
            # nothing more may come until it is told that these were taken
            time.sleep(0.1)
            worker.socket.setblocking(False)
            with pytest.raises(BlockingIOError):
                worker.socket.recv(1)
            worker.socket.settimeout(TIMEOUT_S)
        if len(seen) % 16 == 0:
            worker.send(wire.pack(wire.ACK, index.to_bytes(4, "little") + (16).to_bytes(4, "little"), run=run))

    worker.on_event = acknowledge
    (value,) = worker.values(spec, [(50,)], start=3)
    assert seen == list(range(50))
    assert value == ("end" if kind == "sync" else None)


def test_a_stream_that_fails_keeps_what_it_gave(worker: Driver) -> None:
    def items() -> Any:
        yield 1
        raise ValueError("then")

    told = failure(worker.values(worker.spec(items, stream=True), [()])[0])
    assert told.message == "then"
    assert [said(0, data[1]) for _, _, name, data in worker.events if name == "item"] == [1]


# --- large values


class Memory:
    """Segments in one file, as a node would give them."""

    def __init__(self, path: Path, size: int) -> None:
        path.write_bytes(bytes(size))
        self.path = path
        self.at = 4096
        self.sealed: dict[bytes, tuple[int, int]] = {}
        self.places: dict[bytes, tuple[int, int]] = {}

    def alloc(self, size: int, run: int, index: int) -> dict[str, Any]:
        name = len(self.places).to_bytes(32, "big")
        self.places[name] = (self.at, size)
        self.at += size
        return {"id": name, "path": str(self.path), "offset": self.places[name][0], "flags": 1}

    def seal(self, name: bytes) -> dict[str, Any]:
        self.sealed[name] = self.places[name]
        return {"id": name, "flags": 1}

    def open(self, name: bytes, flags: int) -> dict[str, Any]:
        offset, size = self.sealed[name]
        return {"path": str(self.path), "offset": offset, "size": size}

    def source(self) -> Any:
        memory = self

        class Source:
            def put(self, buffer: memoryview) -> Any:
                from swarm.payload import Ref

                place = memory.alloc(buffer.nbytes, 0, 0)
                with memory.path.open("r+b") as file:
                    file.seek(place["offset"])
                    file.write(buffer)
                memory.seal(place["id"])
                return Ref(place["id"], buffer.nbytes, 1)

            def open(self, ref: Any) -> memoryview:
                offset, size = memory.sealed[ref.id]
                with memory.path.open("rb") as file:
                    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[offset : offset + size]

        return Source()


def test_arrays_cross_without_a_copy(worker: Driver, tmp_path: Path) -> None:
    from swarm.payload import decode_value

    memory = Memory(tmp_path / "segments", 1 << 22)
    worker.answers |= {"segment.alloc": memory.alloc, "segment.seal": memory.seal, "blob.open": memory.open}

    def looks(array: Any) -> Any:
        at = array.ctypes.data
        ranges = [line.split() for line in open("/proc/self/maps") if line.rstrip().endswith("/segments")]
        mapped = [
            words[1] for words in ranges if int(words[0].split("-")[0], 16) <= at < int(words[0].split("-")[1], 16)
        ]
        return [array.flags.writeable, mapped, float(array.sum())], array * 2

    array = np.arange(50_000, dtype=np.float64)
    call = encode_call((array,), None, memory.source())
    run = worker.run(worker.spec(looks), [call])
    ((status, payload),) = worker.outcomes(run).values()
    assert status == Status.OK
    (writeable, mapped, total), double = decode_value(payload, memory.source(), trusted=True)
    assert not writeable
    assert mapped == ["r--s"]
    assert total == array.sum()
    assert np.array_equal(double, array * 2)
    assert ("segment.alloc", [400_000, run, 0]) in worker.requests
    worker.send(wire.pack(wire.DROP))
    assert ("segment.release", [[bytes(32)]]) in worker.requests, "nobody looks into the argument any more"
    memory.sealed.clear()
    assert failure(worker.values(worker.spec(looks), [call])[0]).message.startswith("blob.open")


def test_an_argument_that_a_task_keeps_is_not_given_back(worker: Driver, tmp_path: Path) -> None:
    memory = Memory(tmp_path / "segments", 1 << 22)
    worker.answers |= {"segment.alloc": memory.alloc, "segment.seal": memory.seal, "blob.open": memory.open}

    def keeps(array: Any) -> float:
        import builtins

        builtins.kept = None if array is None else array[10:]  # type: ignore[attr-defined]
        return 0.0

    call = encode_call((np.arange(50_000, dtype=np.float64),), None, memory.source())
    spec = worker.spec(keeps)
    assert worker.values(spec, [call]) == [0.0]
    assert worker.values(spec, [call]) == [0.0]
    assert [method for method, _ in worker.requests].count("segment.release") == 1, (
        "the first, when the second took over"
    )
    assert worker.values(spec, [(None,)]) == [0.0]
    assert [args for method, args in worker.requests if method == "segment.release"] == [[[bytes(32)]]] * 2


def test_an_argument_that_is_the_result_is_not_copied(worker: Driver, tmp_path: Path) -> None:
    from swarm.payload import decode_value

    memory = Memory(tmp_path / "segments", 1 << 22)
    worker.answers |= {"segment.alloc": memory.alloc, "segment.seal": memory.seal, "blob.open": memory.open}
    array = np.arange(50_000, dtype=np.float64)
    call = encode_call((array,), None, memory.source())

    def same(array: Any) -> Any:
        return [array, array[1:]]

    ((_, payload),) = worker.outcomes(worker.run(worker.spec(same), [call])).values()
    whole, rest = decode_value(payload, memory.source(), trusted=True)
    assert np.array_equal(whole, array) and np.array_equal(rest, array[1:])
    told = [(method, args[0]) for method, args in worker.requests if method in ("segment.share", "segment.alloc")]
    assert told == [("segment.share", bytes(32)), ("segment.alloc", 399_992)]


def test_large_bytes_arrive_as_they_are(worker: Driver, tmp_path: Path) -> None:
    from swarm.payload import decode_value

    memory = Memory(tmp_path / "segments", 1 << 26)
    worker.answers |= {"segment.alloc": memory.alloc, "segment.seal": memory.seal, "blob.open": memory.open}
    data = os.urandom(5_000_000)
    for sent in (data, bytearray(data), memoryview(data)):
        call = encode_call((sent,), None, memory.source())
        ((_, payload),) = worker.outcomes(worker.run(worker.spec(lambda some: some[1:]), [call])).values()
        back = decode_value(payload, memory.source(), trusted=True)
        assert type(back) is type(sent) and bytes(back) == data[1:]


# --- the end of things


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state in "ZX"


def wait_until_gone(pid: int) -> None:
    until = time.monotonic() + TIMEOUT_S
    while not gone(pid):
        assert time.monotonic() < until, f"process {pid} is still there"
        time.sleep(0.01)


def test_it_ends_with_its_channel_and_takes_children_along() -> None:
    def starts() -> int:
        import subprocess

        return subprocess.Popen(["sleep", "600"]).pid

    with Driver() as worker:
        (child,) = worker.values(worker.spec(starts), [()])
        assert not gone(child)
        worker.socket.close()
        worker.process.wait(TIMEOUT_S)
        wait_until_gone(child)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_it_dies_with_its_node_even_while_a_task_runs(tmp_path: Path) -> None:
    import subprocess

    script = (
        "import sys; from tests.unit.worker.driver import *\n"
        "d = Driver()\n"
        "d.run(d.spec(lambda: __import__('time').sleep(600), push=True), [()])\n"
        "while d.page.current() is None: pass\n"
        "print(d.process.pid, flush=True); input()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdin is not None
    pid = int(parent.stdout.readline())
    assert not gone(pid)
    parent.kill()
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    wait_until_gone(pid)


def test_a_crash_ends_the_worker_and_the_page_says_who_it_was() -> None:
    with Driver() as worker:

        def dies(which: int) -> int:
            import os
            import signal

            if which == 2:
                os.kill(os.getpid(), signal.SIGSEGV)
            return which

        worker.run(worker.spec(dies), [(0,), (1,), (2,), (3,)])
        with pytest.raises(Ended):
            while True:
                worker.read(wire.DONE)
        assert worker.process.returncode == -signal.SIGSEGV
        assert worker.page is not None
        current = worker.page.current()
        assert current is not None
        assert current[1] == 2
        assert worker.page.progress(0) == (3, 4)


def test_an_interrupt_reaches_the_task_and_not_the_worker(worker: Driver) -> None:
    spec = worker.spec(lambda: __import__("time").sleep(600), push=True)
    run = worker.run(spec, [()])
    assert worker.page is not None
    while worker.page.current() is None:
        time.sleep(0.005)
    time.sleep(0.05)
    os.kill(worker.process.pid, signal.SIGINT)
    assert failure(said(*worker.outcomes(run)[0])).type == "builtins:KeyboardInterrupt"
    os.kill(worker.process.pid, signal.SIGINT)
    assert worker.values(worker.spec("math:sqrt"), [(9,)]) == [3.0]


def test_what_a_task_forks_does_not_speak_for_the_worker(worker: Driver) -> None:
    def forks() -> int:
        import os

        pid = os.fork()
        if pid == 0:
            return -1  # the child comes back from the task, as the parent does
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert worker.values(worker.spec(forks), [(), ()]) == [1, 1]


def test_what_it_prints_comes_while_it_runs(worker: Driver, tmp_path: Path) -> None:
    assert worker.process.stdout is not None
    read = tmp_path / "read"

    def prints() -> None:
        import time

        print("whole line")
        while not read.exists():
            time.sleep(0.01)
        print("part", end="")

    spec = worker.spec(prints, push=True)
    run = worker.run(spec, [()])
    fd = worker.process.stdout.fileno()
    assert os.read(fd, 100) == b"whole line\n"
    assert worker.page is not None
    assert worker.page.current() is not None
    read.touch()
    worker.outcomes(run)
    assert os.read(fd, 100) == b"part"


def test_it_is_lean() -> None:
    script = "import sys, nodes.worker.home; print(*sorted(sys.modules))"
    import subprocess

    loaded = set(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.split())
    assert "nodes.worker.home" in loaded
    heavy = {
        "asyncio",
        "cloudpickle",
        "zmq",
        "zeroconf",
        "pydantic",
        "structlog",
        "prometheus_client",
        "logging",
        "numpy",
    }
    assert not heavy & loaded
