"""A home worker: a process in the node's own environment that runs tasks, one slice after the other.

``python -m nodes.worker.home --channel FD --slots FD`` [``--modules A,B``] [``--node NAME``] [``--result-bytes-max N``]
[``--directory DIR``]. It ends when it is told to (STOP), when the channel ends, and when its node dies.

It imports little, since a node keeps several of these warm: asyncio, cloudpickle and what formats tracebacks come when
they are first needed.
"""

from __future__ import annotations

import os
import signal
import sys
import types
from typing import Any, NoReturn

import msgpack

from kernels.slots import SlotPage
from nodes.worker.callables import Callables, Unresolved, is_coroutine_function
from nodes.worker.calls import Calls
from nodes.worker.channel import (
    CODE,
    DONE,
    DROP,
    GRANT,
    HELD_ON,
    HOLD,
    READY,
    RUN,
    SPEC,
    STOP,
    Channel,
    ChannelClosed,
    Frame,
)
from nodes.worker.process import adopt_orphans, die_with_parent, kill_group_and_children
from nodes.worker.report import Reporter
from nodes.worker.runs import Context, Run, WorkerSpec, transaction_of
from nodes.worker.safe_points import SafePoints
from nodes.worker.segments import Segments
from nodes.worker.stands import Stands
from swarm import tasks
from swarm.tasks import options_of
from transport.bounds import WORKER_SPECS_COUNT_MAX


class Home:
    """One home worker."""

    def __init__(self, options: dict[str, str]) -> None:
        node = options.get("node") or os.environ.get("SWARM_NODE", "")
        self._channel = Channel(int(options["channel"]))
        self._page = SlotPage(int(options["slots"]))
        self._segments = Segments(self._channel)
        self._result_bytes_max = limit = int(options.get("result-bytes-max", 0)) or None
        self._reporter = Reporter(self._channel, self._segments, node, limit)
        self._context = Context(self._channel, node)
        self._safe_points = self._context.safe_points = SafePoints(self._channel, self._reporter, self._segments)
        self._stands = self._context.stands = Stands(self._channel)
        self._calls = Calls(self._channel, self._page, self._reporter, self._segments, self._context)
        self._calls.await_value = lambda coroutine: self._coroutines().await_value(coroutine)
        modules = [name for name in options.get("modules", "").split(",") if name]
        self._callables = Callables(modules, lambda digest: self._channel.request("code.get", digest))
        self._directory = options.get("directory", "")
        self._specs: dict[int, WorkerSpec] = {}
        self._loop: Any = None
        self._command: Any = None
        self._direct: Any = None
        self._chunker: Any = None
        self._transacting: Any = None
        self._channel.interrupts = self._interrupt
        # a child that a task forks must not claim what comes next
        os.register_at_fork(after_in_child=self._page.close)

    def serve(self) -> None:
        """Run slices until STOP. ChannelClosed when the node is gone."""
        ready = {"pid": os.getpid(), "python": list(sys.version_info[:3]), "implementation": sys.implementation.name}
        self._channel.send(READY, bytes(msgpack.packb(ready)))
        while (frame := self._channel.next()).kind != STOP:
            if frame.kind == RUN:
                self._run(Run(frame, self._specs))
            elif frame.kind == GRANT:
                self._direct_lane().serve(frame)
            elif frame.kind == SPEC:
                spec = WorkerSpec.of(frame)
                self._specs.pop(spec.number, None)
                self._specs[spec.number] = spec
                while len(self._specs) > WORKER_SPECS_COUNT_MAX:
                    del self._specs[next(iter(self._specs))]
            # input and signals for commands that have ended are of no use any more
        if self._loop is not None:
            self._loop.close()

    def interrupt(self, number: int, frame: types.FrameType | None) -> None:
        """SIGINT: raises KeyboardInterrupt in the task that is running, and nowhere else."""
        if self._context.index >= 0:
            raise KeyboardInterrupt

    def _run(self, run: Run) -> None:
        self._reporter.begin(run.number, run.count)
        spec = run.spec
        try:
            if spec.command:
                self._commands().run(run)
            else:
                fn = self._callables.resolve(spec.fn or (), spec.granted)
                if not spec.stream and (reflect := getattr(options_of(fn), "reflect", None)) is not None:
                    fn = _reflecting(fn, reflect)
                if (directory := transaction_of(spec, fn)) is not None:
                    fn = self._transactions().around(fn, directory, chunked=spec.chunked)
                if spec.stream:
                    self._calls.stream(run, fn)
                elif is_coroutine_function(fn):
                    if spec.chunked:
                        fn = self._chunks().side_by_side(run, fn)
                    self._coroutines().run(run, fn)
                elif spec.chunked:
                    self._chunks().run(run, fn)
                else:
                    self._calls.run(run, fn)
        except Unresolved as reason:
            self._calls.refuse(run, str(reason), reason.hint, reason.facts)
        self._reporter.end()
        self._safe_points.over(run.number)
        _flush_streams()
        self._segments.give_back()
        self._channel.send(DONE, run=run.number, slot=run.slot)

    def _coroutines(self) -> Any:
        if self._loop is None:
            from nodes.worker.coroutines import Coroutines

            self._loop = Coroutines(self._channel, self._page, self._reporter, self._context, self._calls)
        return self._loop

    def _direct_lane(self) -> Any:
        if self._direct is None:
            from nodes.worker.direct import Direct

            self._direct = Direct(
                self._channel, self._callables, self._calls, self._reporter, self._segments, self._context
            )
        return self._direct

    def _chunks(self) -> Any:
        if self._chunker is None:
            from nodes.worker.chunks import Chunks

            self._chunker = Chunks(self._page, self._reporter, self._context, self._calls, self._result_bytes_max)
        return self._chunker

    def _transactions(self) -> Any:
        if self._transacting is None:
            from nodes.worker.transactions import Transactions

            self._transacting = Transactions(self._reporter, self._context, self._calls)
        return self._transacting

    def _commands(self) -> Any:
        if self._command is None:
            from nodes.worker.command import Commands

            self._command = Commands(
                self._channel, self._page, self._reporter, self._segments, self._context, self._directory
            )
        return self._command

    def _interrupt(self, frame: Frame) -> bool:
        if frame.kind == CODE:
            self._callables.keep_code(bytes(frame.body[:32]), bytes(frame.body[32:]))
            return True
        if frame.kind == DROP:
            self._segments.drop()
            return True
        if frame.kind == HOLD:
            # What runs no coroutines, and has no places of its own to stand at, is stopped by the node, and need not know.
            order = frame.run if frame.flags & HELD_ON else 0
            self._stands.hold(order)
            if self._loop is not None:
                self._loop.hold(order)
            return True
        if self._command is not None and self._command.takes(frame):
            return True
        if self._safe_points.takes(frame):
            return True
        return self._calls.acknowledged(frame)


def _reflecting(fn: Any, reflect: Any) -> Any:
    from nodes.worker.reflection import reflecting

    return reflecting(fn, reflect)


def _flush_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # closed or replaced by a task


def _options(arguments: list[str]) -> dict[str, str]:
    options = {}
    for name, value in zip(arguments[::2], arguments[1::2]):
        options[name.removeprefix("--")] = value
    return options


def main(arguments: list[str]) -> NoReturn:
    """The entry point: serve, and take everything along at the end."""
    die_with_parent()
    # What tasks leave in the background stays below us, and goes with us at the latest.
    adopt_orphans()
    parent = os.getppid()
    worker = Home(_options(arguments))
    tasks.bind(worker._context)
    signal.signal(signal.SIGINT, worker.interrupt)
    # prints of a task are to be seen while it runs; what is left of a line, at the end of its slice
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    # what a task calls __main__ is its caller's; and spawned children of a task shall not import this module as theirs
    sys.modules["__main__"] = types.ModuleType("__main__")
    pid = os.getpid()
    try:
        if parent == 1:
            raise ChannelClosed("the node was gone before this worker began")
        worker.serve()
    except BaseException as error:
        if os.getpid() != pid:
            os._exit(1)  # a child that a task forked and that came back from it
        if not isinstance(error, ChannelClosed):
            raise
        kill_group_and_children()
        os._exit(1)
    _flush_streams()
    sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
