"""Running commands: a fresh directory, staged files, live output, and nothing left over.

A command runs in a session of its own. At its end its process group is killed, and so is every process that it left
behind: this worker is the subreaper of what it starts (prctl(2)), so those come to it as children. Where /proc is
missing only the group is killed.

The result is ``{"exit", "signal", "out", "missing", "written"}``, as a shell says it: a command that cannot be found is exit 127,
one that cannot be executed 126, with the reason on its standard error; a signal n is exit 128 + n and ``signal`` n.
Any exit is a value, the caller decides, unless retries were asked for: then an exit other than 0 is tried again.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import stat
import subprocess
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from kernels.clock import boottime_ns
from kernels.slots import SlotPage
from nodes.worker.channel import AGAIN, HEARD, INPUT, SIGNAL, Channel, ChannelClosed, Frame
from nodes.worker.process import children, die_with_parent, kill_children
from nodes.worker.report import FAILED, REFUSED, RETRY, Reporter
from nodes.worker.runs import Context, Run
from nodes.worker.segments import Segments
from swarm.payload import Ref, decode_value
from transport.bounds import INPUT_REPORT_BYTES, INPUT_WAITING_BYTES_MAX, OUTPUT_WINDOW_BYTES

CHUNK_BYTES = 64 * 1024
"""Output of a command in one event, at most."""
DRAIN_MAX_S = 5.0
"""How long output is still awaited from what holds it open although the command and its children are gone."""
FILES_MAX = 4096
"""Files staged in, and collected, for one command."""
ENVIRONMENT = frozenset({"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "USER", "LOGNAME", "SHELL", "TMPDIR"})
"""Variables of the node that commands see, besides LC_*."""


_TO_COMMANDS = (INPUT, SIGNAL, HEARD)


class Refusal(Exception):
    """The command cannot be run as it is written."""


@dataclass(slots=True)
class Request:
    """A command as its payload says it."""

    argv: list[str]
    env: Mapping[str, str] = field(default_factory=dict)
    inputs: list[tuple[str, Ref, int]] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    stdin: bool = False

    @classmethod
    def parse(cls, payload: bytes | memoryview) -> Request:
        """From ``[argv, {env, in, out, stdin}]``. Refusal when it is something else, or a path leads outside."""
        match decode_value(payload):
            case [[_, *_] as argv, dict(said)] if all(isinstance(part, str) and "\0" not in part for part in argv):
                pass
            case _:
                raise Refusal("the payload of a command is not [arguments, options]")
        env = said.get("env") or {}
        if not all(isinstance(key, str) and key and "=" not in key and isinstance(env[key], str) for key in env):
            raise Refusal("the environment of a command is not a map of texts")
        entries, outputs = said.get("in") or [], said.get("out") or []
        if len(entries) > FILES_MAX or len(outputs) > FILES_MAX:
            raise Refusal(f"more than {FILES_MAX} files")
        inputs = []
        for entry in entries:
            match entry:
                case [str(path), bytes(blob), int(size), int(mode), *rest]:
                    flags = rest[0] if rest and isinstance(rest[0], int) else 0
                    inputs.append((_inside(path), Ref(blob, size, flags), mode & 0o777))
                case _:
                    raise Refusal("an input file is not [path, blob, size, mode]")
        return cls(argv, env, inputs, [_inside(path) for path in outputs], bool(said.get("stdin")))


class Commands:
    """Runs the commands of slices, one at a time."""

    def __init__(
        self,
        channel: Channel,
        page: SlotPage,
        reporter: Reporter,
        segments: Segments,
        context: Context,
        directory: str,
    ) -> None:
        self._channel = channel
        self._page = page
        self._reporter = reporter
        self._segments = segments
        self._context = context
        self._directory = directory or os.environ.get("TMPDIR") or "/tmp"
        self._running: _Running | None = None

    def run(self, run: Run) -> None:
        """Claim and run what is left of a slice. ChannelClosed when the node is gone; its command is then gone, too."""
        while (i := self._page.claim(run.slot)) >= 0:
            self._reporter.flush()
            began = boottime_ns()
            self._page.begin(run.slot, i, began)
            try:
                self._one(run, i, began)
            finally:
                self._page.end()

    def takes(self, frame: Frame) -> bool:
        """Take input and signals for the command that is running."""
        if frame.kind not in _TO_COMMANDS or self._running is None or not self._running.concerns(frame):
            return False
        self._running.told(frame)
        return True

    def _one(self, run: Run, i: int, began: int) -> None:
        index = run.start + i
        self._segments.run, self._segments.index = run.number, index
        directory = os.path.join(self._directory, f"swarm-{os.getpid()}-{os.urandom(6).hex()}")
        try:
            request = Request.parse(run.calls.payload(i))
            os.makedirs(directory, 0o700)
            for path, ref, mode in request.inputs:
                _stage(self._segments, os.path.join(directory, path), ref, mode)
        except ChannelClosed:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        except Refusal as refusal:
            self._reporter.notice(index, REFUSED, str(refusal), "this is how commands are written in this version")
            return
        except Exception as error:
            shutil.rmtree(directory, ignore_errors=True)
            hint = getattr(error, "hint", "") or "is there space in the node's directory for tasks?"
            self._reporter.notice(index, FAILED, f"the input files could not be staged: {error}", hint)
            return
        try:
            self._finish(run, index, began, directory, request)
        finally:
            _remove(directory)

    def _finish(self, run: Run, index: int, began: int, directory: str, request: Request) -> None:
        self._running = running = _Running(self._channel, run, index)
        for frame in self._channel.pick(lambda frame: frame.kind in _TO_COMMANDS and running.concerns(frame)):
            running.told(frame)
        try:
            code = running.run(request, directory, self._environment(run, index, directory, request))
        finally:
            self._running = None
        if running.gap:
            why = "a part of its standard input was lost with a connection; the command was ended"
            self._reporter.notice(index, FAILED, why, "run it again; input as a file (--in) is not lost in this way")
            return
        result: dict[str, Any] = {
            "exit": 128 - code if code < 0 else code,
            "signal": -code if code < 0 else None,
            "out": [],
            "missing": [],
            "written": running.written,
        }
        try:
            for path in request.outputs:
                self._collect(run, index, directory, path, result)
        except ChannelClosed:
            raise
        except Exception as error:
            hint = getattr(error, "hint", "") or "is there space in the node's store?"
            self._reporter.notice(index, FAILED, f"an output file could not be stored: {error}", hint, result)
            return
        run_us = (boottime_ns() - began) // 1000
        if code and run.spec.retries:
            what = f"was ended by signal {-code}" if code < 0 else f"exited with {code}"
            from swarm.payload_failure import encode_notice

            payload = encode_notice(f"{request.argv[0]} {what}", "its standard error says why", result)
            self._reporter.builder.add(index, RETRY, run_us, payload)
        else:
            self._reporter.value(index, run_us, result)

    def _environment(self, run: Run, index: int, directory: str, request: Request) -> dict[str, str]:
        from swarm.protocol.ids import text

        env = {key: value for key, value in os.environ.items() if key in ENVIRONMENT or key.startswith("LC_")}
        env["PWD"] = directory
        env["SWARM_TASK_ID"] = text(run.task_id(index))
        root = run.spec.root or run.task_id(index)
        env["SWARM_TASK_LINEAGE"] = f"{text(root)}.{run.spec.depth}.{run.priority}"
        env["SWARM_TASK_TOKEN"] = ".".join(map(str, run.token))
        env["SWARM_TASK_ATTEMPT"] = str(run.attempt)
        env["SWARM_NODE"] = os.environ.get("SWARM_NODE", "")
        return env | dict(request.env)

    def _collect(self, run: Run, index: int, directory: str, path: str, result: dict[str, Any]) -> None:
        top = os.path.join(directory, path)
        if os.path.isdir(top) and not os.path.islink(top):
            found = [os.path.join(folder, name) for folder, _, names in os.walk(top) for name in names]
        else:
            found = [top]
        for file in sorted(found)[:FILES_MAX]:
            try:
                status = os.stat(file)
            except OSError:
                status = None
            # a link that leads out of the directory would hand over a file of the node
            inside = os.path.realpath(file).startswith(os.path.join(os.path.realpath(directory), ""))
            if status is None or not stat.S_ISREG(status.st_mode) or not inside:
                result["missing"].append(path)
                continue
            stored = self._channel.request("blob.put_file", os.path.realpath(file), run.number, index)
            mode = stat.S_IMODE(status.st_mode)
            result["out"].append([os.path.relpath(file, directory), bytes(stored["id"]), status.st_size, mode])


class _Running:
    """One command while it runs."""

    def __init__(self, channel: Channel, run: Run, index: int) -> None:
        self._channel = channel
        self._run = run
        self._index = index
        self._input: deque[bytes] = deque()
        self._input_bytes = 0
        self._input_ended = False
        self._received = 0
        self._taken = 0
        self._reported = 0
        self._deaf = False
        self._process: subprocess.Popen[bytes] | None = None
        self._signals: list[int] = []
        self._unheard: deque[tuple[int, str, bytes]] = deque()
        self._heard = 0
        self.written = 0
        """Bytes of output that were read from it: both streams together, in the order in which they were read."""
        self.gap = False
        """Input was lost on the way: what the command did with the rest counts for nothing."""

    def concerns(self, frame: Frame) -> bool:
        """Whether a frame is for this command."""
        return frame.run == self._run.number and int.from_bytes(frame.body[:4], "little") == self._index

    def told(self, frame: Frame) -> None:
        """Take a piece of input, its end, credit for output, or a signal to pass on to the group."""
        if frame.kind == HEARD:
            self._credit(int.from_bytes(frame.body[4:12], "little"), bool(frame.flags & AGAIN))
            return
        if frame.kind == INPUT:
            self._take_input(int.from_bytes(frame.body[4:12], "little"), bytes(frame.body[12:]))
            return
        number = int.from_bytes(frame.body[4:8], "little")
        if self._process is None:
            self._signals.append(number)
        else:
            self._signal(number)

    def _take_input(self, offset: int, data: bytes) -> None:
        """A piece of the input, which begins at this offset; empty at its end. What was there before is passed over."""
        if offset > self._received:
            self.gap = True
            if self._process is not None:
                self._signal(signal.SIGKILL)
        elif not data:
            self._input_ended = True
        elif fresh := data[self._received - offset :]:
            self._input.append(fresh)
            self._input_bytes += len(fresh)
            self._received += len(fresh)

    def _say(self, name: str, data: bytes) -> None:
        """Output, at its offset; kept until the client has consumed it."""
        self._unheard.append((self.written, name, data))
        self._event(name, [self.written, data])
        self.written += len(data)

    def _credit(self, offset: int, again: bool) -> None:
        if again:
            for start, name, data in self._unheard:
                if start + len(data) > offset:
                    self._event(name, [start, data])
            return
        self._heard = max(self._heard, min(offset, self.written))
        while self._unheard and self._unheard[0][0] + len(self._unheard[0][2]) <= self._heard:
            self._unheard.popleft()

    def run(self, request: Request, directory: str, env: dict[str, str]) -> int:
        """The exit code, negative for a signal. When the node goes away meanwhile, everything is killed first."""
        spare = children()
        try:
            process = subprocess.Popen(
                request.argv,
                cwd=directory,
                env=env,
                stdin=subprocess.PIPE if request.stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                bufsize=0,
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            missing = isinstance(error, FileNotFoundError | NotADirectoryError)
            text = f"{request.argv[0]}: {'command not found' if missing else error.strerror or error}\n"
            self._say("err", text.encode(errors="backslashreplace"))
            return 127 if missing else 126
        self._process = process
        # From here to its end the channel tells of the node's death, so that all of the command's children can be
        # killed before we go; the kernel's signal would leave them.
        die_with_parent(0)
        try:
            self._event("pid", process.pid)
            for number in (*self._signals, *((signal.SIGKILL,) if self.gap else ())):
                self._signal(number)
            self._attend(process, spare)
        finally:
            self._end(process, spare)
            die_with_parent()
        return process.returncode

    def _attend(self, process: subprocess.Popen[bytes], spare: set[int]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        outputs = {process.stdout.fileno(): "out", process.stderr.fileno(): "err"}
        channel = self._channel.fileno()
        poller = select.poll()
        for fd in (*outputs, channel):
            poller.register(fd, select.POLLIN)
        writing = -1
        try:
            pidfd = os.pidfd_open(process.pid)
        except (AttributeError, OSError):
            pidfd = -1
        else:
            poller.register(pidfd, select.POLLIN)
        reading = hearing = True
        until = float("inf")
        try:
            while outputs or process.returncode is None:
                if process.returncode is None and process.poll() is not None:
                    self._end(process, spare)  # what it left behind may hold the pipes open
                    until = time.monotonic() + DRAIN_MAX_S
                    if pidfd >= 0:
                        poller.unregister(pidfd)
                if time.monotonic() > until:
                    break
                writing = self._feed(process, poller, writing)
                if reading != (self._input_bytes < INPUT_WAITING_BYTES_MAX):
                    reading = not reading
                    poller.modify(channel, select.POLLIN if reading else 0)
                if hearing != (self.written - self._heard < OUTPUT_WINDOW_BYTES):
                    hearing = not hearing
                    for fd in outputs:
                        # not `modify`: the end of a pipe is told even of one that nothing is asked about
                        poller.register(fd, select.POLLIN) if hearing else poller.unregister(fd)
                if not hearing and process.returncode is not None:
                    until = time.monotonic() + DRAIN_MAX_S  # it is the client who is awaited
                wait_ms = 50 if pidfd < 0 or process.returncode is not None else None
                if process.returncode is not None and not outputs:
                    break
                for fd, _ in poller.poll(wait_ms):
                    if fd in outputs:
                        data = os.read(fd, CHUNK_BYTES)
                        if data:
                            self._say(outputs[fd], data)
                        else:
                            poller.unregister(fd)
                            del outputs[fd]
                    elif fd == channel:
                        self._channel.pump()
        finally:
            if pidfd >= 0:
                os.close(pidfd)

    def _feed(self, process: subprocess.Popen[bytes], poller: select.poll, writing: int) -> int:
        """Write to the command's input what it takes of what waits. Returns the descriptor that is polled, or -1."""
        pipe = process.stdin
        if pipe is None or pipe.closed:
            if self._input:
                self._hear_no_more()
            return -1
        fd = pipe.fileno()
        os.set_blocking(fd, False)
        try:
            while self._input:
                sent = os.write(fd, self._input[0])
                self._input_bytes -= sent
                self._taken += sent
                if sent < len(self._input[0]):
                    self._input[0] = self._input[0][sent:]
                else:
                    self._input.popleft()
                if self._taken - self._reported >= INPUT_REPORT_BYTES:
                    self._reported = self._taken
                    self._event("took", self._taken)
        except BlockingIOError:
            if writing < 0:
                poller.register(fd, select.POLLOUT)
            return fd
        except OSError:
            self._input_ended = True
            self._hear_no_more()
        if writing >= 0:
            poller.unregister(fd)
        if self._input_ended:
            pipe.close()
        return -1

    def _hear_no_more(self) -> None:
        """The command reads no more: who writes is told, once, and need not wait for it."""
        self._input.clear()
        self._input_bytes = 0
        if not self._deaf:
            self._deaf = True
            self._event("took", None)

    def _end(self, process: subprocess.Popen[bytes], spare: set[int]) -> None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        process.wait()
        kill_children(spare)

    def _signal(self, number: int) -> None:
        if self._process is not None and 0 < number < signal.NSIG:
            try:
                os.killpg(self._process.pid, number)
            except (ProcessLookupError, PermissionError):
                pass

    def _event(self, name: str, data: Any) -> None:
        self._channel.event(self._run.number, self._index, name, data)


def _inside(path: Any) -> str:
    pure = PurePosixPath(path) if isinstance(path, str) and path and "\0" not in path else None
    if pure is None or pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise Refusal(f"{path!r} is not a path within the command's directory")
    return str(pure)


def _stage(segments: Segments, target: str, ref: Ref, mode: int) -> None:
    """Copy a blob to a file. A copy, not a hard link: what the command writes to it must not reach the store."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if ref.size:
            path, offset, size = segments.path(ref)
            if size != ref.size:
                raise OSError(f"the blob has {size} bytes, not {ref.size}")
            source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _copy(source, offset, out, size)
            finally:
                os.close(source)
        os.fchmod(out, mode or 0o600)
    finally:
        os.close(out)


def _copy(source: int, offset: int, out: int, size: int) -> None:
    # the kernel shares the blocks where the file system can (XFS, Btrfs)
    shared = hasattr(os, "copy_file_range")
    while size:
        if shared:
            try:
                done = os.copy_file_range(source, out, min(size, 1 << 30), offset)
            except OSError:
                shared = False
                continue
        else:
            data = os.pread(source, min(size, 1 << 20), offset)
            done = os.write(out, data) if data else 0
        if not done:
            raise OSError("the blob ended early")
        offset += done
        size -= done


def _remove(directory: str) -> None:
    def again(function: Any, path: str, _: Any) -> None:
        try:
            os.chmod(os.path.dirname(path), 0o700)
            os.chmod(path, 0o700)
            function(path)
        except OSError:
            pass  # what cannot be removed stays; the node tries again when this worker has ended

    shutil.rmtree(directory, onerror=again)
