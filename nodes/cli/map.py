"""Run a command for each of many inputs: a GNU parallel for the fleet.

  swarm map [OPTION]… 'COMMAND {}' ::: INPUT…
  ls *.csv | swarm map --in {} 'wc -l {}'

Placeholders: {} the input, {.} without its extension, {/} its base name, {//} its directory, {/.} base name without
extension, {#} the number of the job, {2} {2.} … of the second source. They work in --in and --out too. One quoted word
is a line for the shell; several words are an argument list.

Each job's output comes in one piece when it ends. Exit status: 0 when all ended with 0, 1 when some did not, 130 after
Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import queue
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import IO, Any, Final

from nodes.cli.arguments import add_client_arguments, add_task_arguments, task_options, whole
from nodes.cli.connecting import connected, ended
from nodes.cli.interrupts import SIGNAL_POLL_S, Interrupts
from nodes.cli.screen import Progress, print_accepted, print_json, say
from nodes.cli.staging import bring_back, outputs
from nodes.cli.staging import inputs as staged
from nodes.cli.templates import Job, Template, combine, split_sources
from swarm.errors import NotFound, PayloadTooLarge, SwarmError, UsageError
from swarm.exit_codes import ExitCode, of_command

WINDOW: Final = 128
KEPT_IN_MEMORY_BYTES: Final = 256 << 10  # of one job's output; what is more goes to a temporary file
FAILURES_SHOWN: Final = 10
INPUT_BYTES_MAX: Final = 128 << 10  # Linux takes no longer argument (MAX_ARG_STRLEN)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm map`."""
    add_task_arguments(parser)
    how = parser.add_argument_group("the jobs")
    how.add_argument("-j", "--jobs", type=whole(1), default=WINDOW, metavar="N", help=f"at most N at once ({WINDOW})")
    how.add_argument("-k", "--keep-order", action="store_true", help="output in the order of the inputs")
    how.add_argument("-u", "--ungroup", action="store_true", help="output as it comes, jobs mixed")
    how.add_argument("-a", "--arg-file", metavar="FILE", help="read inputs from FILE instead of standard input")
    how.add_argument("-0", "--null", action="store_true", help="inputs end with a zero byte, not with the line")
    how.add_argument("--fail-fast", action="store_true", help="cancel the rest when one fails")
    how.add_argument("--dry-run", action="store_true", help="print the commands and run nothing")
    add_client_arguments(parser)
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="COMMAND [::: INPUT…]", help="what to run for each"
    )


def run(args: argparse.Namespace) -> int:
    """Run them; returns 0, 1 or 130."""
    given = args.command[1:] if args.command[:1] == ["--"] else args.command
    words, sources = split_sources(given)
    if not words:
        words = ("{}",)
    template = Template(words, tuple(args.files_in), tuple(args.files_out))
    args.files_in, args.files_out = [], []
    inputs: Iterable[tuple[str, ...]]
    total: int | None = None
    if sources:
        total = 1
        for source in sources:
            total *= len(source)
        inputs = combine(sources)
    elif not args.arg_file and sys.stdin.isatty():
        raise UsageError("no inputs", hint="give them after :::, or by standard input, one a line")
    else:
        inputs = combine([_read(args.arg_file, b"\0" if args.null else b"\n")])
    jobs = (template.job(number, each) for number, each in enumerate(inputs, 1))
    if args.dry_run:
        for job in jobs:
            print(shlex.join(job.argv))
        return ExitCode.OK
    if args.detach:
        with connected(args) as fleet:
            return _detach(fleet, args, jobs)
    with connected(args) as fleet, Progress(total) as progress:
        return _Run(fleet, args, progress).all(jobs)


def _detach(fleet: Any, args: argparse.Namespace, jobs: Iterator[Job]) -> int:
    """Leave all of them to the fleet; what they write and bring is kept with their results."""
    options, handles = task_options(args), []
    for job in jobs:
        files = {"files_in": staged(job.files_in), "files_out": list(outputs(job.files_out))}
        handles.append(fleet.submit_command(list(job.argv), stdin=False, **files, **options))
    receipts = [handle.receipt.result() for handle in handles]
    fleet.detach()
    found = list(dict.fromkeys(handle.batch_id for handle in handles))
    copies, hosts = (min((getattr(one, name) for one in receipts), default=0) for name in ("copies", "hosts"))
    print_accepted(found, copies, hosts, args.json)
    return ExitCode.OK


class _Run:
    """The jobs that are under way, at most a window of them, whatever the number of inputs."""

    def __init__(self, fleet: Any, args: argparse.Namespace, progress: Progress) -> None:
        self._fleet = fleet
        self._args = args
        self._options = task_options(args)
        self._progress = progress
        self._ended: queue.SimpleQueue[_Under | None] = queue.SimpleQueue()  # None: look whether to stop
        self._running: dict[int, _Under] = {}
        self._held: dict[int, _Under] = {}  # with --keep-order: ended before one that came earlier
        self._next = 1
        self._done = 0
        self._failures: list[str] = []
        self._failed = 0
        self._stopping = False
        self._reading = False
        self._live = _Live(lambda: self._ended.put(None))

    def all(self, jobs: Iterator[Job]) -> int:
        more = True
        with Interrupts(self._interrupted, "cancelling; what has ended stays") as interrupts:
            while True:
                # held outputs count too: a slow first job must not let the outputs of all others pile up
                while more and not self._stopping and len(self._running) + len(self._held) < self._args.jobs:
                    job = self._read(jobs)
                    if job is None:
                        more = False
                    else:
                        self._start(job)
                if self._stopping:
                    self._cancel()
                if self._live.broken:
                    raise BrokenPipeError
                if not self._running:
                    break
                ended = self._next_ended()
                if ended is not None:
                    self._take(ended)
            self._live.close()
            if self._live.broken:
                raise BrokenPipeError
        self._progress.clear()
        for number in sorted(self._held):
            self._print(self._held[number])
        self._sum_up()
        return interrupts.exit_status or (ExitCode.FAILED if self._failed else ExitCode.OK)

    def _read(self, jobs: Iterator[Job]) -> Job | None:
        try:
            self._reading = True
            return next(jobs, None)
        except _Interrupted:
            return None
        finally:
            self._reading = False

    def _next_ended(self) -> _Under | None:
        while True:
            try:
                return self._ended.get(timeout=SIGNAL_POLL_S)
            except queue.Empty:
                continue

    def _start(self, job: Job) -> None:
        under = _Under(job, self._live if self._args.ungroup else None)
        self._running[job.number] = under
        try:
            under.wanted = outputs(job.files_out)
            handle = self._fleet.submit_command(
                list(job.argv),
                files_in=staged(job.files_in),
                files_out=list(under.wanted),
                stdin=False,
                on_output=under.put,
                **self._options,
            )
        except (NotFound, UsageError, PayloadTooLarge) as error:
            under.why = error.message  # this job's files: the others go on
            self._ended.put(under)
            return
        under.handle = handle
        handle.add_done_callback(lambda _: self._ended.put(under))

    def _take(self, under: _Under) -> None:
        del self._running[under.job.number]
        self._done += 1
        why = under.finish(self._fleet)
        if why and not self._stopping:
            self._failed += 1
            if len(self._failures) < FAILURES_SHOWN:
                self._failures.append(f"job {under.job.number} ({' '.join(under.job.inputs)}): {why}")
            if self._args.fail_fast:
                self._cancel()
        if self._args.keep_order:
            self._held[under.job.number] = under
            while self._next in self._held:
                self._print(self._held.pop(self._next))
                self._next += 1
        else:
            self._print(under)
        self._progress.update(self._done, failed=self._failed)

    def _print(self, under: _Under) -> None:
        self._progress.clear()
        if self._args.json:
            print_json(under.as_json())
        else:
            under.write()
        under.close()

    def _interrupted(self, number: int) -> None:
        # Nothing is cancelled from here: this may come in the middle of a submit, whose job is not yet known by its
        # handle, and whose locks are held.
        self._stopping = True
        self._ended.put(None)
        if self._reading:
            raise _Interrupted  # inputs that do not come would hold up the cancelling

    def _cancel(self) -> None:
        self._stopping = True
        for under in list(self._running.values()):
            if under.handle is not None:
                under.handle.cancel()

    def _sum_up(self) -> None:
        for line in self._failures:
            say(f"failed: {line}")
        if self._failed > len(self._failures):
            say(f"failed: {self._failed - len(self._failures)} more")
        if self._failed or self._stopping:
            say(f"{self._done - self._failed:,} of {self._done:,} jobs ended well")


class _Interrupted(BaseException):
    """Raised by a signal, out of the reading of inputs."""


class _Live:
    """What jobs write, written as it comes, in a thread of its own.

    A reader that takes its time makes the jobs wait, and not the client's thread, whose silence would count as death.
    """

    def __init__(self, ended: Callable[[], object]) -> None:
        self.broken = False
        """Nobody reads any more."""
        self._ended = ended
        self._chunks: queue.SimpleQueue[tuple[_Under, str, bytes] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, under: _Under, stream: str, data: bytes) -> None:
        """Have a piece written."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="output", daemon=True)
            self._thread.start()
        self._chunks.put((under, stream, data))

    def close(self) -> None:
        """Wait until all is written."""
        self._chunks.put(None)
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(SIGNAL_POLL_S)

    def _write(self) -> None:
        while (piece := self._chunks.get()) is not None:
            under, stream, data = piece
            target = sys.stderr if stream == "err" else sys.stdout
            try:
                if not self.broken:
                    target.buffer.write(data)
                    target.buffer.flush()
            except OSError:
                self.broken = True
                self._ended()
            under.took(len(data))


class _Under:
    """One job under way, and what it wrote."""

    def __init__(self, job: Job, live: _Live | None) -> None:
        self.job = job
        self.handle: Any = None
        self.wanted: dict[str, Path] = {}
        self._ended: dict[str, Any] = {}
        self.why = ""
        self._live = live
        self._spools: dict[str, IO[bytes]] = {}

    def put(self, stream: str, data: bytes) -> bool:
        """Take what the job writes: called in the client's thread. False when it is not written yet."""
        if self._live is not None:
            self._live.put(self, stream, data)
            return False
        if stream not in self._spools:
            self._spools[stream] = tempfile.SpooledTemporaryFile(KEPT_IN_MEMORY_BYTES)
        self._spools[stream].write(data)
        return True

    def took(self, size: int) -> None:
        """So much of what it wrote has been written here, too."""
        while self.handle is None and not self.why:
            time.sleep(0.005)  # it is being submitted in this very moment
        if self.handle is not None:
            self.handle.took_output(size)

    def finish(self, fleet: Any) -> str:
        """Bring back what it left; returns why it did not end well, or nothing."""
        if self.handle is None:
            return self.why
        try:
            self._ended = ended(self.handle)
            missing = bring_back(fleet, self._ended, self.wanted)
        except CancelledError:
            self.why = "cancelled"
        except SwarmError as error:
            self.why = error.message
        else:
            if self._ended.get("signal"):
                self.why = f"signal {self._ended['signal']}"
            elif self._ended.get("exit"):
                self.why = f"exit status {self._ended['exit']}"
            elif missing:
                self.why = f"it left no {' '.join(missing)}"
        return self.why

    def write(self) -> None:
        """Copy what it wrote to the places where it belongs."""
        for stream, target in (("out", sys.stdout), ("err", sys.stderr)):
            spool = self._spools.get(stream)
            if spool is not None:
                target.flush()
                spool.seek(0)
                while chunk := spool.read(1 << 16):
                    target.buffer.write(chunk)
                target.buffer.flush()

    def as_json(self) -> dict[str, Any]:
        """The job, how it ended, and what it wrote."""
        texts = {}
        for stream, spool in self._spools.items():
            spool.seek(0)
            texts[stream] = spool.read().decode("utf-8", "replace")
        status = of_command(self._ended.get("exit"), self._ended.get("signal")) if self._ended else None
        said = {"job": self.job.number, "inputs": list(self.job.inputs), "exit": status, "error": self.why or None}
        return {**said, **texts}

    def close(self) -> None:
        for spool in self._spools.values():
            spool.close()


def _read(path: str | None, end: bytes) -> Iterator[str]:
    """Inputs as they come, one at a time; empty ones are left out."""
    stream: IO[bytes] = open(path, "rb") if path else sys.stdin.buffer
    try:
        rest = b""
        # read1 gives what is there: inputs that come slowly are worked on as they come
        while chunk := stream.read1(1 << 16):  # type: ignore[attr-defined]
            *complete, rest = (rest + chunk).split(end)
            if len(rest) > INPUT_BYTES_MAX:
                raise UsageError(
                    f"an input is longer than {INPUT_BYTES_MAX} bytes",
                    hint="are inputs ended by zero bytes? see --null",
                )
            yield from (os.fsdecode(each) for each in complete if each)
        if rest:
            yield os.fsdecode(rest)
    finally:
        if path:
            stream.close()
