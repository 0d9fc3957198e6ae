"""A population in a process of its own, with a watchdog and a kill switch: native code that never returns, or that ends the
process, stops its population and nothing else.

The worker is asked over a socket, one thing at a time. Before it calls the agents of a cohort it writes which ones to a page of
shared memory (`kernels/beat.h`), so that its parent can tell, whatever becomes of it. Columns lie in files of memory that both
processes map.
"""

from __future__ import annotations

import array
import fcntl
import logging
import mmap
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import cloudpickle

from swarm.nano.agents import Gathered
from swarm.nano.arrays import numpy
from swarm.nano.errors import NanoError
from swarm.nano.measuring import Mark
from swarm.nano.reports import Report
from swarm.nano.scheduling import NanoSwarm
from swarm.nano.wire import BEAT, BESIDE, PAGE, PHASES, STOP, receive, send

WATCHDOG_MIN_S: Final = 0.1
BLOCKED_TIMES: Final = 10
"""A call that does not even use the processor may take so many times as long: it may be the machine that keeps it waiting."""
START_S: Final = 60.0
CLOSE_S: Final = 2.0
_RUN: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from swarm.nano.isolated import main; main(sys.argv[2:])"
)
_log = logging.getLogger("swarm.nano")


class PopulationLost(NanoError):
    """The process of an isolated population has ended: of a signal, by its watchdog, or because it was killed.

    `why`, `kind`, `cohort`, `rows` (first, last), `agents`, `now_ns` and `signal` are attributes; None for what is not known.
    """


@dataclass(slots=True)
class _Stood:
    """For how long one beat is the same."""

    count: int = -1
    stood_s: float = 0.0
    spent_s: float = 0.0


class _Child:
    """One worker process, and the thread that began it, watches it and waits for its end.

    The system ends a child with the thread that began it (PR_SET_PDEATHSIG), so it is a thread that stays.
    """

    def __init__(self, watchdog_s: float) -> None:
        self.watchdog_s = watchdog_s
        self.why: str | None = None
        self.status: int | None = None
        self.stuck: int | None = None
        """Whose beat had stopped."""
        self._pidfd = -1
        self._lock = threading.RLock()  # what is garbage is closed in any thread, at any moment
        self._failed: OSError | None = None
        ours, theirs = socket.socketpair()
        self.link = ours
        page = _memory_file("swarm-nano-page", PAGE)
        try:
            self.page = mmap.mmap(page, PAGE)
            self.words = memoryview(self.page).cast("Q")
            life, self._life = os.pipe()
            begun = threading.Event()
            self._thread = threading.Thread(target=self._mind, args=(theirs, page, life, begun), daemon=True)
            self._thread.start()
            begun.wait()
        finally:
            os.close(page)
            theirs.close()
        os.close(life)
        if self._failed is not None:
            os.close(self._life)
            ours.close()
            raise self._failed

    def _mind(self, theirs: socket.socket, page: int, life: int, begun: threading.Event) -> None:
        import json

        numbers = [os.getpid(), theirs.fileno(), page, life]
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _RUN, json.dumps(sys.path), *map(str, numbers)],
                pass_fds=numbers[1:], stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as error:
            self._failed = error
            begun.set()
            return
        self.pid = process.pid
        if hasattr(os, "pidfd_open"):
            try:
                self._pidfd = os.pidfd_open(process.pid)
            except OSError:
                self._pidfd = -1
        begun.set()
        self._watch(process)
        with self._lock:
            self.status = process.returncode
            if self._pidfd >= 0:
                os.close(self._pidfd)
            self._pidfd = -1

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Until it has ended. A call is over its time when the same one has used the processor for that long, or has stood
        for ten times as long; only what was seen pass between two looks counts, so a machine that stood still is no reason."""
        look_s = min(0.25, max(0.01, self.watchdog_s / 8))
        clocks = {BEAT: _Stood(), BESIDE: _Stood()}
        last_s, used_s = time.monotonic(), _processor_s(process.pid)
        while True:
            try:
                process.wait(look_s)
                return
            except subprocess.TimeoutExpired:
                pass
            now_s, now_used_s = time.monotonic(), _processor_s(process.pid)
            passed_s, used = min(now_s - last_s, 2 * look_s), min(now_used_s - used_s, now_s - last_s)
            last_s, used_s = now_s, now_used_s
            runs = PHASES.names[self.words[PHASES.at] % len(PHASES.names)] == "running"
            for line, it in clocks.items():
                count = self.words[line]
                if not runs or count != it.count or (line == BESIDE and not self.words[line + 1]):
                    it.count, it.stood_s, it.spent_s = count, 0.0, 0.0
                    continue
                it.stood_s += passed_s
                it.spent_s += used
                if it.spent_s >= self.watchdog_s or it.stood_s >= self.watchdog_s * BLOCKED_TIMES:
                    if self.words[line + 1]:
                        self.stuck = line
                    self.kill(f"did not come back for {max(it.spent_s, it.stood_s):.2g} s")

    def kill(self, why: str) -> None:
        """End it now, whatever it does."""
        with self._lock:
            if self.status is not None:
                return
            self.why = self.why or why
            try:
                if self._pidfd >= 0:
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                else:
                    os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for its end; whether it came."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Ask it to end, and see to it that it does."""
        self.link.close()
        os.close(self._life)
        if (
            threading.current_thread() is self._thread
        ):  # it was found to be garbage here: this thread reaps it afterwards
            self.kill("closed")
        elif not self.join(CLOSE_S):
            self.kill("closed")
            self.join()


class IsolatedAgents:
    """Agents of one spawn in an isolated population: `agents.field` is an array over the memory of the worker's columns.

    It stays readable when the worker has ended, as that left it. After a restart ask for it again.
    """

    def __init__(
        self, owner: Isolated, number: int, kind: str, rows: range | array.array[int], columns: dict[str, Any]
    ) -> None:
        self._owner, self.cohort, self.kind, self.rows, self._columns = owner, number, kind, rows, columns

    def suspend(self, which: Iterable[int] | None = None) -> None:
        """See `Agents.suspend`."""
        self._owner.call(_act, "suspend", self.cohort, None if which is None else list(which))

    def resume(self, which: Iterable[int] | None = None) -> None:
        """See `Agents.resume`."""
        self._owner.call(_act, "resume", self.cohort, None if which is None else list(which))

    def kill(self, which: Iterable[int] | None = None) -> None:
        """See `Agents.kill`."""
        self._owner.call(_act, "kill", self.cohort, None if which is None else list(which))

    def __len__(self) -> int:
        return len(self.rows)

    def __getattr__(self, name: str) -> Any:
        columns: dict[str, Any] = self.__dict__.get("_columns", {})
        if name not in columns:
            raise AttributeError(f"{self.__dict__.get('kind')} has no field {name!r}; there are {', '.join(columns)}")
        column = columns[name]
        if column is None:
            return self._owner.call(_field, self.cohort, name)
        if isinstance(self.rows, range):
            return column[self.rows.start : self.rows.stop]
        return Gathered(column, numpy().frombuffer(self.rows, dtype="u4"))

    def __repr__(self) -> str:
        return f"<{len(self)} agents of {self.kind}, in a process of their own>"


class Isolated:
    """What `isolate` returns: a population in another process, asked as a `NanoSwarm` is."""

    def __init__(
        self,
        build: Callable[..., NanoSwarm],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        watchdog_s: float = 1.0,
        checkpoint_s: float | None = None,
        restarts: int = 3,
    ) -> None:
        if not isinstance(watchdog_s, int | float) or not WATCHDOG_MIN_S <= watchdog_s <= 1e6:
            raise NanoError(f"watchdog_s={watchdog_s!r}", hint=f"a call may take {WATCHDOG_MIN_S} s or longer")
        if checkpoint_s is not None and not 0.0 <= checkpoint_s <= 1e9:
            raise NanoError(f"checkpoint_s={checkpoint_s!r}", hint="seconds between two checkpoints, or None for none")
        if not isinstance(restarts, int) or restarts < 0:
            raise NanoError(f"restarts={restarts!r}", hint="how often it may go on from a checkpoint, not negative")
        try:
            self._build = cloudpickle.dumps((build, tuple(args), dict(kwargs or {})))
        except Exception as error:
            raise NanoError(
                f"{build!r} cannot be sent to another process: {error}",
                hint="define it in a module that can be imported, or let it load by itself what cannot be copied: "
                "libraries, addresses, open files",
            ) from error
        self._watchdog_s, self._checkpoint_s, self._restarts = float(watchdog_s), checkpoint_s, restarts
        self.incidents: list[PopulationLost] = []
        """What it went on after."""
        self._suspended: set[int] = set()
        self._blob = -1
        self._closed = False
        self._begin()

    # --- as a swarm -------------------------------------------------------------------------------------------------------

    def run_for(self, *, seconds: float | None = None, ns: int | None = None, passes: int | None = None) -> Report:
        """As `NanoSwarm.run_for`. PopulationLost when the worker ends, unless it can go on from a checkpoint."""
        if seconds is not None:
            ns, seconds = round(seconds * 1e9), None
        mark = self._ask("mark") if self._checkpoint_s is not None else None
        end_ns, end_passes = self.now_ns + (ns or 0), self._told["passes"] + (passes or 0)
        while True:
            run = (
                {"ns": max(0, end_ns - self.now_ns)}
                if ns is not None
                else {"passes": end_passes - self._told["passes"]}
            )
            if ns is None and passes is None:
                run = {}
            try:
                report: Report = pickle.loads(self._ask("run", run=run, mark=mark))  # noqa: S301 - our own worker's
                return report
            except PopulationLost as lost:
                self._go_on(lost)

    def mark(self) -> Mark:
        """Where its counts stand now, for a later `report`."""
        return Mark(**pickle.loads(self._ask("mark")))  # noqa: S301 - our own worker's

    def report(self, since: Mark) -> Report:
        """What was done since a mark."""
        said = {name: getattr(since, name) for name in Mark.__slots__}
        report: Report = pickle.loads(self._ask("report", mark=pickle.dumps(said)))  # noqa: S301 - our own worker's
        return report

    def save(self) -> bytes:
        """As `NanoSwarm.save`."""
        self._ask("save")
        size = os.fstat(self._blob).st_size
        return os.pread(self._blob, size, 0) if size < 1 << 30 else _whole(self._blob, size)

    def failures(self) -> list[tuple[str, int, str]]:
        """(kind, row, what its tick raised), in words: the last few of each cohort."""
        return [(kind, row, said) for kind, row, said in self._ask("failures")]

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`function(swarm, *args, **kwargs)` in the worker, between two runs; what it returns, as a copy."""
        return pickle.loads(self._ask("call", call=cloudpickle.dumps((function, args, kwargs))))  # noqa: S301 - our own worker's

    @property
    def cohorts(self) -> list[IsolatedAgents]:
        """What each `spawn` made."""
        return [
            IsolatedAgents(self, number, self._kinds[kind][0], rows, self._kinds[kind][1])
            for number, (kind, rows) in enumerate(self._cohorts)
        ]

    @property
    def agents(self) -> int:
        """Agents that lived when it was last asked something."""
        return int(self._told["agents"])

    @property
    def now_ns(self) -> int:
        """Its instant, ns."""
        return int(self._told["now_ns"])

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self._told["seed"])

    @property
    def time(self) -> str:
        """Which time it runs in."""
        return str(self._told["time"])

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._child.pid

    # --- ending -----------------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """The kill switch: end the process now, from any thread. A run that is under way ends with PopulationLost."""
        self._child.kill("was killed, as asked")

    def close(self) -> None:
        """End it. Arrays over its columns stay readable."""
        if not self._closed:
            self._closed = True
            self._end()
            if self._blob >= 0:
                os.close(self._blob)
                self._blob = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the worker -------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._told: dict[str, Any] = {"passes": 0, "now_ns": 0, "agents": 0}
        self._kinds: dict[int, tuple[str, dict[str, Any]]] = {}
        self._cohorts: list[tuple[int, range | array.array[int]]] = []
        self._files: dict[int, mmap.mmap] = {}
        self._child = _Child(self._watchdog_s)
        self._end = weakref.finalize(self, self._child.close)
        self._ask(
            "build", [self._blob] if self._blob >= 0 else [], build=self._build, path=sys.path,
            checkpoint_s=self._checkpoint_s, suspend=sorted(self._suspended),
        )  # fmt: skip

    def _go_on(self, lost: PopulationLost) -> None:
        """From the last checkpoint, without the cohort at which it was lost; raises it where that cannot be."""
        if self._checkpoint_s is None or self._blob < 0 or len(self.incidents) >= self._restarts or lost.asked:
            raise lost
        self.incidents.append(lost.with_traceback(None))  # whose frames would keep what was lost
        _log.warning("%s; it goes on from its last checkpoint", str(lost))
        if lost.cohort is not None:
            self._suspended.add(lost.cohort)
        self._end()
        self._begin()

    def _ask(self, what: str, files: Sequence[int] = (), **said: Any) -> Any:
        """One question, and its answer. PopulationLost when the worker is gone, or what was raised there."""
        if self._closed:
            raise NanoError("the isolated population was closed", hint="isolate it anew")
        try:
            send(self._child.link, [what, said], files)
        except OSError:
            raise self._lost() from None
        interrupted: KeyboardInterrupt | None = None
        while True:
            try:
                select.select([self._child.link], [], [])
                got = receive(self._child.link)
            except KeyboardInterrupt as error:
                if interrupted is not None or what != "run":
                    self._child.kill("was interrupted")
                interrupted = error
                self._child.words[STOP] = 1
                continue
            if got is None:
                raise self._lost() from interrupted
            match got:
                case ["saved", _, [fd]]:
                    if self._blob >= 0:
                        os.close(self._blob)
                    self._blob = fd
                case ["raised", error, _]:
                    raise _error_of(error)
                case ["done", done, shapes, files]:
                    self._learn(shapes, files)
                    if interrupted is not None:
                        raise interrupted
                    return done
                case _:
                    self._child.kill("said what it should not")

    def _learn(self, said: dict[str, Any], files: Sequence[int]) -> None:
        """What there is to be looked at, and the files of columns that are new."""
        for number, fd in zip(said["files"], files, strict=True):
            try:
                if hasattr(fcntl, "F_GET_SEALS") and not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
                    raise NanoError("a column of an isolated population could be shrunk under who reads it")
                self._files[number] = mmap.mmap(fd, 0)
            finally:
                os.close(fd)
        self._told = said
        for kind in said["kinds"]:
            columns: dict[str, Any] = {}
            for it in kind["columns"]:
                columns[it["name"]] = None
                if it.get("file") in self._files:
                    columns[it["name"]] = numpy().ndarray(
                        it["capacity"], it["code"], self._files[it["file"]], it["offset"], (it["step"],)
                    )
            self._kinds[kind["number"]] = (kind["name"], columns)
        for it in said["cohorts"]:
            rows: range | array.array[int] = (
                range(*it["range"]) if it["range"] is not None else array.array("I", it["rows"])
            )
            self._cohorts[it["number"] :] = [(it["kind"], rows), *self._cohorts[it["number"] + 1 :]]

    def _lost(self) -> PopulationLost:
        """What there is to be said of its end."""
        child = self._child
        if not child.join(CLOSE_S):
            child.kill("did not answer any more")
            child.join()
        status, words = child.status or 0, child.words
        line = child.stuck or (BEAT if words[BEAT + 1] or not words[BESIDE + 1] else BESIDE)
        number = words[line + 1] - 1 if words[line + 1] else None
        kind = rows = None
        where = (
            "between two passes"
            if PHASES.names[words[PHASES.at] % len(PHASES.names)] == "running"
            else "outside of a run"
        )
        if number is not None:
            if number < len(self._cohorts):
                kind = self._kinds[self._cohorts[number][0]][0]
            rows = (words[line + 2], words[line + 3])
            where = f"while {kind or 'agents'} ticked (cohort {number}, rows {rows[0]} to {rows[1]}, pass {words[line + 5]})"
        name = signal.Signals(-status).name if status < 0 else None
        why = child.why or (f"died of {name}" if name else f"ended with status {status}")
        hint = "mend that tick; with checkpoint_s=… a population goes on from its last checkpoint without that cohort"
        if number is None:
            hint = "checkpoint_s=… lets it go on from its last checkpoint"
        return PopulationLost(
            f"the isolated population {why} {where}", hint=hint, why=why, kind=kind, cohort=number, rows=rows,
            agents=words[line + 4] if number is not None else None, now_ns=words[line + 6] if number is not None else None,
            signal=name, asked=(child.why or "").startswith("was "),
        )  # fmt: skip


def isolate(
    build: Callable[..., NanoSwarm],
    *args: Any,
    watchdog_s: float = 1.0,
    checkpoint_s: float | None = None,
    restarts: int = 3,
    **kwargs: Any,
) -> Isolated:
    """Have `build(*args, **kwargs)` make its population in a process of its own, which is watched and can be killed.

    It is asked as a NanoSwarm is: `run_for`, `report`, `save`, `cohorts` (whose columns are arrays over memory that both
    processes see), and `call(function)` for all else. `build` travels by its importable name, or by value from a script.

    A call of a cohort's ticks that uses the processor for `watchdog_s`, or stands ten times as long without, ends the
    process; so does `kill()`, from any thread. It ends with this process, however that ends. What it was lost to is said by
    PopulationLost: why, and which kind, cohort and rows were being ticked. With `checkpoint_s` it is saved at that cadence, and
    goes on from there by itself, `restarts` times at most, with that cohort suspended; see `incidents`.
    """
    return Isolated(build, args, kwargs, watchdog_s=watchdog_s, checkpoint_s=checkpoint_s, restarts=restarts)


def _act(flock: NanoSwarm, what: str, number: int, which: list[int] | None) -> None:
    getattr(flock.cohorts[number], what)(which)


def _field(flock: NanoSwarm, number: int, name: str) -> Any:
    return numpy().asarray(getattr(flock.cohorts[number], name)).copy()


def _error_of(said: dict[str, Any]) -> BaseException:
    """What was raised in the worker, as far as it can be made again here."""
    error: BaseException = NanoError(f"{said['type']}: {said['message']}", hint=said["hint"])
    if said["pickle"] is not None:
        try:
            again = pickle.loads(said["pickle"])  # noqa: S301 - our own worker's
            if isinstance(again, Exception):
                error = again
        except Exception as unknown:
            _log.debug("an error of the worker is not known here: %s", unknown)
    error.add_note("in the process of an isolated population:\n" + said["traceback"])
    return error


def _processor_s(pid: int) -> float:
    """Seconds of the processor that a process has used (its clock, as clock_getcpuclockid(3) numbers it); 0 where unknown."""
    if sys.platform != "linux":
        return 0.0
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _memory_file(name: str, size: int) -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd


def _whole(fd: int, size: int) -> bytes:
    out = bytearray(size)
    at = 0
    with memoryview(out) as view:
        while at < size:
            at += os.preadv(fd, [view[at : at + (1 << 30)]], at)
    return bytes(out)
