"""Worker processes: starting them, speaking with them over their channels, seeing them end.

The pool carries out what the executor's state machine decides, and tells it what happened. It decides nothing itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgpack

from kernels.batch import Outcomes
from kernels.slots import SlotPage
from nodes.leavings import Leavings
from nodes.niceness import Niceness
from nodes.oom import OutOfMemory
from nodes.standing import resident_bytes
from nodes.strays import Strays
from nodes.worker import channel as wire
from swarm.protocol.executor.effects import HandInput, HandSlice
from transport.bounds import TURN_S

STARTING_MAX_S = 30.0
"""A worker that is not ready by then is ended."""
FINISH_MAX_S = 5.0
"""A worker that was asked to finish and is still there after this is ended."""
KILLED_MAX_S = 10.0
"""Until a killed process is gone: at once, but for a machine that is busy, or a system call that can not be ended."""
OUTPUT_READ_BYTES = 64 * 1024
SEND_BACKLOG_BYTES_MAX = 256 * 1024 * 1024


class PoolHandler(Protocol):
    """What the pool tells the node. All are called in the loop; `worker_turn` after what was read at once."""

    def worker_turn(self) -> None: ...
    def worker_ready(self, worker: int, info: Mapping[str, Any]) -> None: ...
    def worker_outcomes(self, worker: int, run: int, outcomes: Outcomes, body: memoryview) -> None: ...
    def worker_slice_done(self, worker: int, slot: int) -> None: ...
    def worker_event(self, worker: int, run: int, index: int, name: str, value: Any) -> None: ...
    def worker_blocked(self, worker: int, blocked: bool) -> None: ...
    def worker_request(self, worker: int, number: int, method: str, args: list[Any]) -> None: ...
    def worker_output(self, worker: int, stream: str, data: bytes) -> None: ...
    def worker_grant_ready(self, worker: int) -> None: ...
    def worker_grant_over(self, worker: int) -> None: ...
    def worker_records(self, worker: int, records: list[Any]) -> None: ...
    def worker_exited(self, worker: int, why: str) -> None: ...


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """How workers are started."""

    modules: Sequence[str] = ()
    pythons: Mapping[str, str] = field(default_factory=dict)
    """Interpreters of guest workers by name."""
    environment: Mapping[str, str] = field(default_factory=dict)
    result_bytes_max: int = 0
    hold_s: float = 0.05
    """How long coroutines have to reach an await before their worker is stopped where it stands."""
    leavings: Leavings | None = None
    """Who clears up after workers; nobody, where there is none."""


@dataclass(slots=True, eq=False)
class _Process:
    number: int
    popen: subprocess.Popen[bytes]
    socket: socket.socket
    page: SlotPage | None
    frames: wire.Frames
    outputs: dict[int, str]
    backlog: deque[memoryview] = field(default_factory=deque)
    backlog_bytes: int = 0
    pidfd: int = -1
    timer: asyncio.TimerHandle | None = None
    commands: bool = False
    """It runs a command now."""
    command: int = 0
    """Process group of the command that it runs, or ran last."""
    closed: bool = False
    holdable: bool = False
    """It runs coroutines, which can be held at an await."""
    order: int = 0
    """Number of the last order to hold them."""
    holding: asyncio.TimerHandle | None = None
    """Until this, they may reach one."""
    killed: bool = False
    """This node has ended it."""
    stopped: bool = False
    """It was stopped where it stands."""
    low: bool = False
    """All that it was handed last is LOW: it has a lower share of the processors."""
    unread: deque[wire.Frame] = field(default_factory=deque)
    """What it said and waits for the next turn; nothing more is read before."""
    over: bool = False
    """It has ended: what it said last is taken in one go."""


class Pool:
    """The worker processes of one node, by the executor's worker numbers."""

    def __init__(self, config: PoolConfig, handler: PoolHandler, loop: asyncio.AbstractEventLoop) -> None:
        self._config = config
        self._handler = handler
        self._loop = loop
        self._processes: dict[int, _Process] = {}
        self.niceness = Niceness(loop)
        self._strays = Strays(loop)
        self._out_of_memory = OutOfMemory(loop)

    def __len__(self) -> int:
        return len(self._processes)

    def pids(self) -> dict[int, int]:
        """Process ids by worker number."""
        return {number: process.popen.pid for number, process in self._processes.items()}

    # --- starting and ending ------------------------------------------------------------------------------------------

    def start(self, worker: int, python: str) -> SlotPage | None:
        """Start a worker process; its page of claims (None for a guest). OSError when it cannot be started."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        page: SlotPage | None = None
        fds = [theirs.fileno()]
        leavings = self._config.leavings
        try:
            if python:
                guest = Path(__file__).parent / "worker" / "guest"
                command = [self._config.pythons[python], str(guest), "--channel", str(theirs.fileno())]
            else:
                page, page_fd = SlotPage.create()
                fds.append(page_fd)
                command = [
                    sys.executable, "-m", "nodes.worker.home",
                    "--channel", str(theirs.fileno()), "--slots", str(page_fd),
                ]  # fmt: skip
                if leavings is not None:
                    command += ["--directory", str(leavings.directory_of(worker))]
            if self._config.modules:
                command += ["--modules", ",".join(self._config.modules)]
            if self._config.result_bytes_max:
                command += ["--result-bytes-max", str(self._config.result_bytes_max)]
            popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=fds,
                start_new_session=True,
                env=dict(self._config.environment),
            )
        except BaseException:
            ours.close()
            if page is not None:
                page.close()
            raise
        finally:
            theirs.close()
            for fd in fds[1:]:
                os.close(fd)
        ours.setblocking(False)
        for size in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            ours.setsockopt(socket.SOL_SOCKET, size, 1 << 20)
        assert popen.stdout is not None and popen.stderr is not None
        outputs = {popen.stdout.fileno(): "out", popen.stderr.fileno(): "err"}
        process = _Process(worker, popen, ours, page, wire.Frames(), outputs)
        self._processes[worker] = process
        self._loop.add_reader(ours.fileno(), self._readable, process)
        for fd in outputs:
            os.set_blocking(fd, False)
            self._loop.add_reader(fd, self._output, process, fd)
        self._watch(process)
        process.timer = self._loop.call_later(STARTING_MAX_S, self.stop, worker, "kill")
        return page

    def stop(self, worker: int, how: str) -> None:
        """End a worker: "finish" asks it to end by itself, and is enforced after a while; "kill" ends it now."""
        process = self._processes.get(worker)
        if process is None:
            return
        if process.timer is not None:
            process.timer.cancel()
            process.timer = None
        if how == "finish":
            self._send(process, wire.pack(wire.STOP))
            process.timer = self._loop.call_later(FINISH_MAX_S, self.stop, worker, "kill")
        else:
            self._kill(process)

    def suspend(self, worker: int) -> None:
        """Stop a worker where it stands, with all that it runs; coroutines at their next await, if they reach it in time."""
        process = self._processes.get(worker)
        if process is None or process.closed or not process.holdable or self._config.hold_s <= 0:
            self._stop(worker)
            return
        process.order += 1
        self._send(process, wire.pack(wire.HOLD, flags=wire.HELD_ON, run=process.order))
        process.holding = self._loop.call_later(self._config.hold_s, self._stop_held, process)

    def resume(self, worker: int) -> None:
        """Let a suspended worker go on."""
        process = self._processes.get(worker)
        self._strays.go_on(worker)
        self._signal(worker, signal.SIGCONT)
        if process is not None and not process.closed and process.order:
            if process.holding is not None:
                process.holding.cancel()
                process.holding = None
            self._send(process, wire.pack(wire.HOLD))

    def _stop_held(self, process: _Process) -> None:
        """All coroutines are at an await, or had time enough: threads of theirs stand still from now on, too."""
        if process.holding is not None:
            process.holding.cancel()
            process.holding = None
            self._stop(process.number)

    def memory(self, workers: Collection[int]) -> dict[int, int]:
        """What workers, and the commands that they run, have in memory for themselves, in bytes by worker."""
        groups: dict[int, list[int]] = {}
        for worker in workers:
            process = self._processes.get(worker)
            if process is not None and not process.closed:
                groups[worker] = [process.popen.pid, *([process.command] if process.commands else ())]
        found = resident_bytes([group for mine in groups.values() for group in mine])
        return {worker: sum(found.get(group, 0) for group in mine) for worker, mine in groups.items()}

    def _stop(self, worker: int) -> None:
        """Stop a worker, and then what else it has started: what it made way for need not wait for that."""
        self._signal(worker, signal.SIGSTOP)
        process = self._processes.get(worker)
        if process is not None and not process.closed:
            self._loop.call_soon(self._stop_strays, process, process.order)
            process.stopped = True

    def _stop_strays(self, process: _Process, order: int) -> None:
        if process.stopped and process.order == order and not process.closed:
            self._strays.stop(process.number, process.popen.pid, self._groups(process))

    @staticmethod
    def _groups(process: _Process) -> tuple[int, ...]:
        return (process.popen.pid, process.command) if process.commands else (process.popen.pid,)

    def _signal(self, worker: int, number: signal.Signals) -> None:
        process = self._processes.get(worker)
        if process is None or process.closed:
            return
        process.stopped = False
        for group in self._groups(process):
            try:
                os.killpg(group, number)
            except (ProcessLookupError, PermissionError):
                pass  # it has just ended; what waits for its end hears of it

    def kill_all(self) -> None:
        """End every worker now, and see that they are gone. For the very end: blocks for a moment."""
        self.niceness.close()
        self._strays.close()
        self._out_of_memory.close()
        for process in list(self._processes.values()):
            self._kill(process)
        until = time.monotonic() + KILLED_MAX_S
        for process in list(self._processes.values()):
            try:
                process.popen.wait(timeout=max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                continue
            self._release(process)
        self._processes.clear()
        if self._config.leavings is not None:
            self._config.leavings.close()

    def _alive(self) -> list[int]:
        return [process.popen.pid for process in self._processes.values()]

    def _kill(self, process: _Process) -> None:
        process.killed = True
        # The process may have ended and been reaped; then its group is gone, or only its orphans are left in it.
        groups = [process.popen.pid]
        leavings = self._config.leavings
        if process.command and (leavings is None or not leavings.adopts):
            groups.append(process.command)  # else it comes to us, and is ended as soon as its worker is gone
        for group in groups:
            try:
                os.killpg(group, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass

    def _watch(self, process: _Process) -> None:
        try:
            process.pidfd = os.pidfd_open(process.popen.pid)
        except (AttributeError, OSError):
            self._poll(process)
        else:
            self._loop.add_reader(process.pidfd, self._ended, process)

    def _poll(self, process: _Process) -> None:
        # No pidfd on this platform: ask now and then. The closed channel is seen at once anyway.
        if process.closed:
            return
        if process.popen.poll() is not None:
            self._ended(process)
        else:
            self._loop.call_later(0.05, self._poll, process)

    def _ended(self, process: _Process) -> None:
        if process.closed:
            return
        code = process.popen.poll()
        if code is None:
            return
        ended_by_us = process.killed
        # What it said last is still in the socket and the pipes.
        process.over = True
        self._read_on(process)
        self._readable(process)
        for fd in list(process.outputs):
            self._output(process, fd)
        self._kill(process)  # Whatever it left behind in its group.
        self._release(process)
        self._processes.pop(process.number, None)
        if self._config.leavings is not None:
            self._config.leavings.ended(process.number, self._alive)
        why = f"exit {code}" if code >= 0 else f"signal {-code}"
        if code == -signal.SIGKILL and not ended_by_us and self._out_of_memory.killed():
            why += ", out of memory"
        self._handler.worker_exited(process.number, why)
        if process.page is not None:
            process.page.close()
            process.page = None

    def _release(self, process: _Process) -> None:
        process.closed = True
        self._strays.ended(process.number)
        for timer in (process.timer, process.holding):
            if timer is not None:
                timer.cancel()
        self._loop.remove_reader(process.socket.fileno())
        self._loop.remove_writer(process.socket.fileno())
        process.socket.close()
        for fd in process.outputs:
            self._loop.remove_reader(fd)
        for pipe in (process.popen.stdout, process.popen.stderr):
            if pipe is not None:
                pipe.close()
        if process.pidfd >= 0:
            self._loop.remove_reader(process.pidfd)
            os.close(process.pidfd)

    # --- to a worker --------------------------------------------------------------------------------------------------

    def send_spec(self, worker: int, number: int, raw: bytes, granted: bool) -> None:
        """Tell a worker a spec."""
        flags = wire.GRANTED if granted else 0
        self._send_to(worker, wire.pack(wire.SPEC, raw, flags=flags, run=number))

    def send_slice(self, it: HandSlice) -> None:
        """Hand a slice over."""
        process = self._processes.get(it.worker)
        if process is not None and process.low is not it.low:
            process.low = it.low
            self.niceness.set(process.popen.pid, it.low)
        said = msgpack.packb(dict(it.extra))
        head = wire.RUN_HEADER.pack(it.start, it.count, it.spec, len(said))
        length = len(head) + len(said) + len(it.lengths) + len(it.payloads)
        prefix = wire.HEADER.pack(wire.HEADER.size - 4 + length, wire.RUN, it.slot, 0, it.run)
        self._send_to(it.worker, b"".join((prefix, head, said, it.lengths, it.payloads)))

    def send_input(self, it: HandInput) -> None:
        """Pass input, a signal or a stream's credit on."""
        index = it.index.to_bytes(4, "little")
        if it.what == "in":
            frame = wire.pack(wire.INPUT, index + int(it.value).to_bytes(8, "little") + bytes(it.body), run=it.run)
        elif it.what == "signal":
            frame = wire.pack(wire.SIGNAL, index + int(it.value).to_bytes(4, "little"), run=it.run)
        elif it.what == "save":
            frame = wire.pack(wire.SAVE, index, flags=wire.ASKED if it.value else 0, run=it.run)
        elif it.what == "ack":
            frame = wire.pack(wire.ACK, index + int(it.value).to_bytes(4, "little"), run=it.run)
        else:
            flags = wire.AGAIN if it.what == "again" else 0
            frame = wire.pack(wire.HEARD, index + int(it.value).to_bytes(8, "little"), flags=flags, run=it.run)
        self._send_to(it.worker, frame)

    def reply(self, worker: int, number: int, value: Any, *, failed: bool = False) -> None:
        """Answer a worker's request; with `failed`, `value` is {"message", "hint"}."""
        flags = wire.ERROR if failed else 0
        self._send_to(worker, wire.pack(wire.REPLY, bytes(msgpack.packb(value)), flags=flags, run=number))

    def drop_mappings(self, worker: int) -> None:
        """Have a worker let go of shared memory that it keeps mapped for the next time."""
        self._send_to(worker, wire.pack(wire.DROP))

    def send_code(self, worker: int, digest: bytes, code: bytes) -> None:
        """Give a worker code by value."""
        self._send_to(worker, wire.pack(wire.CODE, digest + code))

    def send_grant(self, worker: int, grant: Mapping[str, Any]) -> None:
        """Have a worker wait for the client that its slot is granted to."""
        self._send_to(worker, wire.pack(wire.GRANT, bytes(msgpack.packb(dict(grant)))))

    def send_revoke(self, worker: int) -> None:
        """Have a granted worker return after the call that it runs."""
        self._send_to(worker, wire.pack(wire.REVOKE))

    def _send_to(self, worker: int, frame: bytes) -> None:
        process = self._processes.get(worker)
        if process is not None and not process.closed:
            self._send(process, frame)

    def _send(self, process: _Process, frame: bytes) -> None:
        if not process.backlog:
            try:
                sent = process.socket.send(frame)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                return  # It is gone; its end is reported by the watch on its process.
            if sent == len(frame):
                return
            self._loop.add_writer(process.socket.fileno(), self._writable, process)
            rest = memoryview(frame)[sent:]
        else:
            rest = memoryview(frame)
        process.backlog.append(rest)
        process.backlog_bytes += len(rest)
        if process.backlog_bytes > SEND_BACKLOG_BYTES_MAX:
            self._kill(process)

    def _writable(self, process: _Process) -> None:
        while process.backlog:
            head = process.backlog[0]
            try:
                sent = process.socket.send(head)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                process.backlog.clear()
                break
            process.backlog_bytes -= sent
            if sent < len(head):
                process.backlog[0] = head[sent:]
                return
            process.backlog.popleft()
        self._loop.remove_writer(process.socket.fileno())

    # --- from a worker ------------------------------------------------------------------------------------------------

    def _readable(self, process: _Process) -> None:
        for _ in range(16):
            try:
                data = process.socket.recv(wire.READ_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if not data:
                self._loop.remove_reader(process.socket.fileno())
                return
            try:
                process.unread.extend(process.frames.feed(data))
            except ValueError:
                self._distrust(process)
                return
            if not self._read_on(process):
                if not process.closed and process.unread:
                    self._loop.remove_reader(process.socket.fileno())
                return
            if len(data) < wire.READ_BYTES:
                return

    def _read_on(self, process: _Process) -> bool:
        """Take what a worker said, until the turn is over. False when there is more, or nothing to be had from it."""
        unread, until = process.unread, time.monotonic() + TURN_S
        try:
            while unread:
                self._frame(process, unread.popleft())
                if not process.over and time.monotonic() >= until:
                    break
        except (ValueError, TypeError, IndexError):
            self._distrust(process)
            return False
        finally:
            self._handler.worker_turn()
        if unread:
            self._loop.call_soon(self._read_again, process)
        return not unread

    def _read_again(self, process: _Process) -> None:
        if not process.closed and self._read_on(process):
            self._loop.add_reader(process.socket.fileno(), self._readable, process)

    def _distrust(self, process: _Process) -> None:
        """A task wrote into the channel, or memory is corrupt: nothing from this process can be trusted."""
        process.unread.clear()
        self._kill(process)

    def _frame(self, process: _Process, frame: wire.Frame) -> None:
        handler, number = self._handler, process.number
        kind = frame.kind
        if kind == wire.OUTCOMES:
            count = int.from_bytes(frame.body[:4], "little")
            body = frame.body[4:]
            handler.worker_outcomes(number, frame.run, Outcomes(body, count), body)
        elif kind == wire.DONE:
            # What the tasks of the slice printed was written before this frame: it is theirs, not the next one's.
            for fd in list(process.outputs):
                self._output(process, fd)
            process.commands = False
            handler.worker_slice_done(number, frame.slot)
        elif kind == wire.EVENT:
            index, name, value = msgpack.unpackb(frame.body)
            if name == "pid":
                process.command, process.commands = int(value), True
                if process.low:
                    self.niceness.set(process.command, True)  # a session of its own, which ends with it
            handler.worker_event(number, frame.run, index, name, value)
        elif kind == wire.REQUEST:
            method, args = msgpack.unpackb(frame.body)
            handler.worker_request(number, frame.run, method, args)
        elif kind == wire.RECORDS:
            # What the calls printed was written before this frame.
            for fd in list(process.outputs):
                self._output(process, fd)
            handler.worker_records(number, msgpack.unpackb(frame.body))
        elif kind == wire.GRANT_READY:
            handler.worker_grant_ready(number)
        elif kind == wire.GRANT_OVER:
            handler.worker_grant_over(number)
        elif kind == wire.HOLDABLE:
            process.holdable = bool(frame.flags & wire.HELD_ON)
        elif kind == wire.HELD:
            if frame.run == process.order:
                self._stop_held(process)
        elif kind in (wire.BLOCKED, wire.UNBLOCKED):
            handler.worker_blocked(number, kind == wire.BLOCKED)
        elif kind == wire.READY:
            if process.timer is not None:
                process.timer.cancel()
                process.timer = None
            handler.worker_ready(number, msgpack.unpackb(frame.body))
        else:
            raise wire.ChannelViolation(f"kind {kind}")

    def _output(self, process: _Process, fd: int) -> None:
        for _ in range(16):
            try:
                data = os.read(fd, OUTPUT_READ_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if not data:
                self._loop.remove_reader(fd)
                process.outputs.pop(fd, None)
                return
            self._handler.worker_output(process.number, process.outputs[fd], data)
