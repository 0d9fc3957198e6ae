"""Run one command somewhere in the fleet, as if it ran here.

  swarm run [OPTION]… -- COMMAND [ARGUMENT]…

Its output comes through as it is written, signals go to it, its exit status becomes this one's: 128 + n when signal n
ended it. When the command could not be run at all, the status is 125 and the reason stands on standard error.
"""

from __future__ import annotations

import argparse
import collections
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any, Final

from nodes.cli.arguments import add_client_arguments, add_task_arguments, task_options
from nodes.cli.connecting import connected, ended
from nodes.cli.interrupts import SIGNAL_POLL_S, Interrupts
from nodes.cli.screen import print_accepted, say, to_json
from nodes.cli.staging import bring_back, inputs, outputs
from swarm.errors import NotFound, SwarmError, TaskCancelled, TaskTimeout, UsageError
from swarm.exit_codes import SIGNAL_BASE, ExitCode, of_command

STDIN_CHUNK_BYTES: Final = 64 << 10
_DESCRIPTORS: Final = {"out": 1, "err": 2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm run`."""
    add_task_arguments(parser)
    given = parser.add_mutually_exclusive_group()
    given.add_argument(
        "-i", "--stdin", action="store_true", default=None, help="forward standard input, a terminal too"
    )
    given.add_argument("-n", "--no-stdin", dest="stdin", action="store_false", help="the command reads nothing")
    add_client_arguments(parser)
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="what to run, not through a shell"
    )


def run(args: argparse.Namespace) -> int:
    """Run it; returns the command's status."""
    argv = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not argv:
        raise UsageError("no command given", hint="swarm run -- COMMAND [ARGUMENT]…")
    try:
        with connected(args) as fleet:
            return _follow(fleet, argv, args)
    except UsageError:
        raise
    except SwarmError as error:
        from nodes.cli.command_line import report

        report(error, json=args.json, debug=args.debug)
        # the numbers of this program mean nothing among those of any command: one number says "not the command's"
        return ExitCode.TIMEOUT if isinstance(error, TaskTimeout) else ExitCode.RUN_ERROR


def _follow(fleet: Any, argv: list[str], args: argparse.Namespace) -> int:
    kept = args.detach or args.durability not in (None, "none")
    forward = (not kept and not _is_terminal(0)) if args.stdin is None else bool(args.stdin)
    wanted = outputs(args.files_out)
    if args.detach:
        return _detach(fleet, argv, args, list(wanted))
    output = Output()
    handle = fleet.submit_command(
        argv,
        files_in=inputs(args.files_in),
        files_out=list(wanted),
        stdin=forward,
        on_output=output.put,
        **task_options(args),
    )
    output.took = handle.took_output
    handle.add_done_callback(lambda _: output.close())

    def pass_on(number: int) -> None:
        if handle.running():
            handle.signal(number)
        else:
            handle.cancel()  # it has not begun: there is nobody yet to decide anything

    with Interrupts(pass_on, "passed on to the command, which decides what to do") as interrupts:
        if forward:
            threading.Thread(target=_feed, args=(handle,), name="stdin", daemon=True).start()
        try:
            output.write_all()
        except BrokenPipeError:
            # what a shell does to the left side of a pipe when the right side ends
            handle.signal(int(signal.SIGPIPE))
            handle.cancel()
            _silence(1)
            return SIGNAL_BASE + int(signal.SIGPIPE)
        try:
            how = ended(handle)
        except CancelledError:
            if interrupts.signal is None:
                raise TaskCancelled(
                    f"{argv[0]} was cancelled", hint="by `swarm task cancel`, or the fleet stops"
                ) from None
            return interrupts.exit_status
        missing = bring_back(fleet, how, wanted)
    status = of_command(how.get("exit"), how.get("signal"))
    if missing and status == ExitCode.OK:
        raise NotFound(f"{argv[0]} left no {' '.join(missing)}", hint="--out names are those in its own directory")
    if args.json:
        say(to_json({"exit": how.get("exit"), "signal": how.get("signal"), "missing": missing}))
    return status


def _detach(fleet: Any, argv: list[str], args: argparse.Namespace, wanted: list[str]) -> int:
    """Leave it to the fleet: what it writes is kept with it, and its files come back with its result."""
    handle = fleet.submit_command(argv, files_in=inputs(args.files_in), files_out=wanted, **task_options(args))
    receipt = handle.receipt.result()
    fleet.detach()
    print_accepted([handle.id], receipt.copies, receipt.hosts, args.json)
    return ExitCode.OK


class Output:
    """What the command writes, on its way from the client's thread to this process's own descriptors.

    The client's thread must go on with other things (its heartbeats) while a pager does not read; it is the command
    that waits then, since `took` is called for what was written, and more comes only for that.
    """

    def __init__(self) -> None:
        self._chunks: collections.deque[tuple[str, bytes]] = collections.deque()
        self.took: Callable[[int], object] = lambda size: None
        self._closed = False
        self._changed = threading.Condition()

    def put(self, stream: str, data: bytes) -> bool:
        """Take a piece of ``out`` or ``err``. False: it is not written yet."""
        with self._changed:
            self._chunks.append((stream, data))
            self._changed.notify_all()
        return False

    def close(self) -> None:
        """Nothing more comes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def write_all(self) -> None:
        """Write what comes until it is closed. BrokenPipeError when nobody reads standard output any more."""
        try:
            while True:
                with self._changed:
                    while not self._chunks and not self._closed:
                        self._changed.wait(SIGNAL_POLL_S)
                    if not self._chunks:
                        return
                    stream, data = self._chunks.popleft()
                _write(_DESCRIPTORS.get(stream, 1), data)
                self.took(len(data))
        finally:
            self.close()


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _feed(handle: Any) -> None:
    """Standard input to the command until it ends, here or there."""
    try:
        while not handle.done():
            data = os.read(0, STDIN_CHUNK_BYTES)
            if not data:
                break
            handle.send_input(data)
        handle.close_input()
    except (OSError, SwarmError):
        return  # no standard input, or the command has ended: there is nothing to be said about either


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def _silence(descriptor: int) -> None:
    """Have what is still written there go nowhere, so that the interpreter does not complain at its end."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
