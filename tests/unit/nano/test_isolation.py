"""Isolation: an endless native loop, a fault or a kill ends the worker and nothing else, says whose tick it was, and leaves
no process behind."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from swarm import nano
from swarm.nano import isolation
from tests.unit.nano import isolated_kinds as kinds

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")


def gone(pid, within_s=20.0):
    """Whether a process ends."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def test_it_does_what_it_does_here():
    here = kinds.birds()
    with nano.isolate(kinds.birds) as there:
        ours, theirs = here.run_for(seconds=1), there.run_for(seconds=1)
        assert (ours.ticks, ours.passes, ours.seconds) == (theirs.ticks, theirs.passes, theirs.seconds)
        assert (there.now_ns, there.agents, there.seed, there.time) == (here.now_ns, 13, 7, "virtual")
        mark = there.mark()
        assert there.run_for(passes=5).passes == there.report(mark).passes == 5
        here.run_for(passes=5)
        assert bytes(there.save()) == bytes(here.save()), "to the last bit"
        assert there.failures() == []
        with pytest.raises(nano.NanoError, match="wants one of seconds"):
            there.run_for()


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="columns are shared by memory files, which are Linux's")
def test_columns_are_the_very_memory_of_the_worker():
    with nano.isolate(kinds.birds) as flock:
        birds, lines = flock.cohorts
        x = birds.x
        assert x.tolist() == [0.0] * 10 and lines.x.tolist() == [1.5, 2.5, 3.5] and len(birds) == 10
        flock.run_for(seconds=1)
        assert x.tolist() == pytest.approx([0.1] * 10), "without asking again"
        birds.v[:] = [2.0] * 10
        flock.run_for(seconds=1)
        assert x.tolist() == pytest.approx([0.3] * 10)
        with pytest.raises(AttributeError, match="has no field 'w'"):
            _ = birds.w
    assert x.tolist() == pytest.approx([0.3] * 10), "it stays when the worker is gone"


def spawned(flock, count):
    cells = flock.spawn(kinds.Cell, count, rate_hz=100)
    cells[0].n = 40
    return len(flock.cohorts)


def test_all_else_is_called_there():
    with nano.isolate(kinds.birds, 20, rate_hz=10) as flock:
        assert len(flock.cohorts[0]) == 20
        assert flock.call(spawned, 4) == 3
        assert flock.call(lambda swarm: swarm.now_ns) == 0
        cells = flock.cohorts[2]
        assert cells.kind == "Cell" and cells.n.tolist() == [40, 0, 0, 0]
        cells.suspend([1])
        cells.kill([2])
        flock.run_for(seconds=0.1)
        assert cells.n.tolist() == [50, 0, 0, 10] and flock.agents == 26
        cells.resume([1])
        flock.run_for(seconds=0.1)
        assert cells.n[1] == 10 and "process of their own" in repr(cells)


def generation(flock):
    flock.spawn(kinds.Cell, 3, rate_hz=100).n[:] = [7, 8, 9]
    flock.cohorts[-1].kill([0, 1])
    return len(flock.cohorts)


def ended(flock):
    for agents in flock.cohorts:
        agents.kill()


def test_a_cohort_that_is_used_again_is_shown_as_it_is():
    with nano.isolate(kinds.birds) as flock:
        seen = 0
        while (count := flock.call(generation)) > seen and count < 200:
            seen = count
            assert [list(agents.n) for agents in flock.cohorts[-1:]] == [[7, 8, 9]]
            flock.call(ended)
        assert count < 200, "cohorts are used again"
        shown = [(agents.kind, list(agents.rows)) for agents in flock.cohorts]
        assert shown == flock.call(lambda swarm: [(each.kind.__name__, list(each.rows)) for each in swarm.cohorts])


def test_what_is_raised_there_is_raised_here():
    with pytest.raises(nano.NanoError, match="not today") as caught:
        nano.isolate(kinds.wrong, "not today")
    assert caught.value.hint == "as asked" and "isolated_kinds.py" in caught.value.__notes__[0]
    with pytest.raises(TypeError, match="no NanoSwarm"):
        nano.isolate(kinds.nothing)
    with nano.isolate(kinds.birds) as flock, pytest.raises(ZeroDivisionError):
        flock.call(lambda swarm: 1 // 0)
    with pytest.raises(nano.NanoError, match="was closed"):
        flock.run_for(seconds=1)
    held = threading.Lock()
    with pytest.raises(nano.NanoError, match="cannot be sent") as caught:
        nano.isolate(lambda: held)
    assert "module" in caught.value.hint
    with pytest.raises(nano.BadTick) as bad:
        nano.isolate(lambda address: kinds.birds().spawn(kinds.Bird.native_many(address)), 8)
    assert any("another one in each process" in note for note in bad.value.__notes__)
    for words in ({"watchdog_s": 0}, {"checkpoint_s": -1}, {"restarts": -1}, {"watchdog_s": "1"}):
        with pytest.raises(nano.NanoError):
            nano.isolate(kinds.birds, **words)


@pytest.mark.parametrize(
    ("tick", "why"),
    [
        ("for_ever", "did not come back for"), ("segfault", "died of SIGSEGV"), ("exits", "ended with status 7"),
        ("killed", "died of SIGKILL"),
    ],
)  # fmt: skip
def test_a_tick_that_goes_wrong_ends_the_worker_alone_and_is_named(tick, why):
    with nano.isolate(kinds.bad, tick, watchdog_s=0.3) as flock:
        pid = flock.pid
        with pytest.raises(nano.PopulationLost) as caught:
            flock.run_for(seconds=1)
        lost = caught.value
        assert str(lost).startswith(f"the isolated population {why}")
        assert str(lost).endswith("while Sensor ticked (cohort 2, rows 0 to 19, pass 50)")
        assert (lost.kind, lost.cohort, lost.rows, lost.agents, lost.now_ns) == ("Sensor", 2, (0, 19), 20, 500_000_000)
        assert "checkpoint_s" in lost.hint
        assert gone(pid)
        with pytest.raises(nano.PopulationLost):
            flock.run_for(seconds=1)
    with nano.isolate(kinds.birds) as flock:
        assert flock.run_for(seconds=1).ticks == 1300, "and the next one is as good as ever"


@pytest.mark.parametrize(
    "options", [{}, {"python_thread": True}, {"python_thread": True, "time": "real"}, {"topology": nano.RoundRobin()}]
)
def test_an_endless_loop_in_python_is_seen_too(options):
    with (
        nano.isolate(kinds.endless_python, **options, watchdog_s=0.3) as flock,
        pytest.raises(nano.PopulationLost) as caught,
    ):
        flock.run_for(seconds=3)
    assert (caught.value.kind, caught.value.cohort, caught.value.rows) == ("Cell", 2, (0, 4))


def test_a_call_that_waits_for_ever_has_ten_times_as_long():
    began = time.monotonic()
    with nano.isolate(kinds.bad, "blocked", watchdog_s=0.2) as flock, pytest.raises(nano.PopulationLost) as caught:
        flock.run_for(seconds=1)
    assert caught.value.kind == "Sensor" and time.monotonic() - began > 1.5


def test_waiting_is_no_reason():
    with nano.isolate(kinds.birds, rate_hz=1, time="real", watchdog_s=0.1) as flock:
        assert flock.run_for(seconds=1.5).seconds == 1.5
        time.sleep(0.5)
        assert flock.run_for(seconds=0.2).seconds == pytest.approx(0.2)


@pytest.mark.parametrize("tick", ["for_ever", "segfault"])
def test_it_goes_on_from_its_last_checkpoint_without_that_cohort(tick):
    with nano.isolate(kinds.bad, tick, watchdog_s=0.3, checkpoint_s=0.0) as flock:
        first = flock.pid
        report = flock.run_for(seconds=2)
        assert flock.now_ns == 2_000_000_000 and flock.pid != first and gone(first)
        birds, lines, sensors = report.cohorts
        assert birds.ticks == 2000 and lines.ticks == 600, "they are as if nothing had happened"
        assert sensors.awake == 0 and sensors.ticks <= 1000
        assert [each.kind for each in flock.incidents] == ["Sensor"]
        assert flock.cohorts[0].x.tolist() == pytest.approx([0.2] * 10)
        assert flock.run_for(passes=10).cohorts[0].ticks == 100


def test_it_does_not_go_on_for_ever():
    with nano.isolate(kinds.bad, "segfault", checkpoint_s=0.0, restarts=0) as flock, pytest.raises(nano.PopulationLost):
        flock.run_for(seconds=1)


def test_a_worker_that_somebody_kills_goes_on_with_everybody():
    with nano.isolate(kinds.birds, time="real", checkpoint_s=0.05) as flock:
        threading.Timer(0.3, os.kill, (flock.pid, signal.SIGKILL)).start()
        for seconds in range(1, 60):
            report = flock.run_for(seconds=1)
            assert all(line.awake for line in report.cohorts) and flock.now_ns == seconds * 1_000_000_000
            if flock.incidents:
                break
        assert len(flock.incidents) == 1 and flock.incidents[0].signal == "SIGKILL"


def test_the_kill_switch_ends_it_at_once_and_for_good():
    with nano.isolate(kinds.bad, "for_ever", watchdog_s=60.0, checkpoint_s=0.0) as flock:
        timer = threading.Timer(0.5, flock.kill)
        timer.start()
        with pytest.raises(nano.PopulationLost, match="was killed, as asked while Sensor") as caught:
            flock.run_for(seconds=1)
        assert caught.value.signal == "SIGKILL" and flock.incidents == []
        flock.kill()


def test_kinds_of_a_script_travel_by_value_and_are_saved(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("""
from swarm import nano

class Cell(nano.Kind, capacity=500):
    n: nano.u64
    def tick(self, now_ns, bus):
        self.n += STEP
        if self.n == 30 and self.row == 2:
            import os
            os.kill(os.getpid(), 9)

STEP = 3

def population(count):
    flock = nano.NanoSwarm(seed=1)
    flock.spawn(Cell, count, rate_hz=10)
    flock.spawn(Cell, count, rate_hz=10)
    return flock

with nano.isolate(population, 5, checkpoint_s=0.0) as flock:
    report = flock.run_for(seconds=2)
    print([line.ticks for line in report.cohorts][1], flock.cohorts[1].n.tolist(), len(flock.incidents))
""")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("100 [60, 60, 60, 60, 60] 1")


PARENT = """
import sys, time
sys.path.insert(0, {root!r})
from swarm import nano
from tests.unit.nano import isolated_kinds as kinds

def begin():
    global flock
    flock = nano.isolate(kinds.bad, "for_ever", watchdog_s=600.0)
    print(flock.pid, flush=True)

begin()
{then}
"""


@pytest.mark.parametrize("then", ["flock.run_for(seconds=1)", "time.sleep(60)"])
def test_a_killed_parent_leaves_nobody_behind(then):
    program = PARENT.format(root=str(Path(__file__).parents[3]), then=then)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        time.sleep(0.5)
        parent.kill()
    assert gone(worker)


def test_a_parent_that_ends_by_itself_leaves_nobody_behind():
    program = PARENT.format(root=str(Path(__file__).parents[3]), then="pass")
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 0 and gone(int(done.stdout))


def test_one_that_nobody_holds_any_more_ends():
    flock = nano.isolate(kinds.birds)
    pid = flock.pid
    del flock
    assert gone(pid)


def test_one_that_is_found_to_be_garbage_by_its_own_thread_ends(monkeypatch):
    look = isolation._Child._watch

    def watch(child, process):
        child.close()
        look(child, process)

    monkeypatch.setattr(isolation._Child, "_watch", watch)
    child = isolation._Child(1.0)
    assert child.join(20.0) and child.status == -signal.SIGKILL


def test_it_may_be_begun_by_a_thread_that_ends():
    made = []
    thread = threading.Thread(target=lambda: made.append(nano.isolate(kinds.birds)))
    thread.start()
    thread.join()
    time.sleep(0.3)
    with made[0] as flock:
        assert flock.run_for(seconds=1).ticks == 1300


def test_an_interrupt_ends_a_run_between_two_passes():
    program = PARENT.format(
        root=str(Path(__file__).parents[3]),
        then="""
flock = nano.isolate(kinds.birds, time="real")
print("on", flush=True)
mark = flock.mark()
try:
    flock.run_for(seconds=600)
except KeyboardInterrupt:
    print(0 < flock.report(mark).seconds < 500, flock.run_for(passes=3).passes, flush=True)
""",
    )  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert parent.stdout.readline() == "on\n"
        time.sleep(0.5)
        parent.send_signal(signal.SIGINT)
        said, _ = parent.communicate(timeout=60)
    assert said == "True 3\n"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_no_descriptor_is_left():
    counts = []
    for _ in range(4):
        gc.collect()
        counts.append(len(os.listdir("/proc/self/fd")))
        with nano.isolate(kinds.bad, "segfault", checkpoint_s=0.1) as flock, contextlib.suppress(nano.PopulationLost):
            flock.run_for(seconds=1)
        del flock
    assert counts[1] == counts[2] == counts[3]
