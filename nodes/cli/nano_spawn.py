"""`swarm nano spawn`: a population runs in the fleet, and what it does is shown here."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nodes.cli.arguments import add_client_arguments, duration
from nodes.cli.connecting import connected
from nodes.cli.interrupts import SIGNAL_POLL_S, Interrupts
from nodes.cli.screen import print_json, say, table
from swarm.errors import UsageError
from swarm.exit_codes import ExitCode

if TYPE_CHECKING:
    from swarm.nano import FleetReport, PopulationRun

ABOUT: Final = (
    "Run a population on a node of the fleet, or spread over several, and show where it is and how far. It lives as long as "
    "this command: Ctrl-C has it saved after its next pass and ends it (status 130), a second one leaves at once. Another "
    "node goes on with it when its own is lost. Status 1: agents failed; 5: a node has not got one of its kinds, or with other "
    "fields; 6: no such node; 69: no fleet is reached."
)
REFRESH_S: Final = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm nano spawn`."""
    parser.add_argument("what", metavar="FILE[:NAME]", help="a script or a module, as for `run`, or a saved population")
    parser.add_argument("--seconds", type=duration, default=1.0, metavar="TIME", help="of the population's time (1s)")
    parser.add_argument("--passes", type=int, metavar="N", help="so many passes, in place of a time")
    parser.add_argument("--nodes", type=int, metavar="N", help="spread it over N nodes (1, or as many as --on names)")
    parser.add_argument("--on", action="append", default=[], metavar="NODE", help="run it there; once for each part")
    parser.add_argument(
        "--by",
        choices=("kinds", "rows"),
        default="kinds",
        help="what a node gets: whole kinds (as is), or a part of the agents of each",
    )
    parser.add_argument("--save", metavar="FILE", help="save what came of it")
    parser.add_argument(
        "--save-every",
        type=duration,
        default=5.0,
        metavar="TIME",
        help="how much is made again at most when a node is lost (5s)",
    )
    add_client_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    from swarm import nano

    for name in ("passes", "nodes"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}", hint="a number above 0")
    what = _what(args.what)
    with connected(args) as fleet:
        handle = nano.submit(
            fleet, what, seconds=None if args.passes is not None else args.seconds, passes=args.passes,
            nodes=args.nodes, on=args.on or None, by=args.by, save_every_s=args.save_every,
        )  # fmt: skip
        with Interrupts(lambda _: handle.stop(), "it ends after its next pass") as interrupts:
            _follow(handle, shows=not args.json)
            report = handle.result()
    if args.save:
        Path(args.save).write_bytes(report.blob)
    if args.json:
        print_json(report.to_dict())
    else:
        print(shown(report))
        for failure in report.failures:
            say(failure)
        if args.save:
            say(f"saved at {report.now_ns / 1e9:g} s, {len(report.blob):,} bytes: {args.save}")
    return interrupts.exit_status or (ExitCode.FAILED if report.failures else ExitCode.OK)


def _what(given: str) -> Any:
    """A population of a script or module, or what a file holds that `save` wrote."""
    from nodes.nano_scripts import population_of
    from swarm.nano.saving import MARK

    path = Path(given)
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(MARK)) == MARK:
                if "" not in sys.path:
                    sys.path.insert(0, "")  # kinds of a script that lies here go along
                blob = MARK + file.read()
                from swarm import nano

                nano.load(blob)  # what does not fit is better said here; and its modules are sent along
                return blob
    return population_of(given)


def _follow(handle: PopulationRun, *, shows: bool) -> None:
    """Say where it runs whenever that changes and, on a terminal, how far it is."""
    terminal = shows and sys.stderr.isatty()
    where: list[str] = []
    drawn = 0.0
    while not handle.done():
        time.sleep(SIGNAL_POLL_S / 2)
        said = handle.progress
        if shows and said["nodes"] and said["nodes"] != where:
            again = " again, since a node was lost" if said["restarts"] else ""
            where = said["nodes"]
            say(f"{_clear(terminal)}runs on {', '.join(where)}{again}")
        if terminal and time.monotonic() - drawn >= REFRESH_S:
            drawn = time.monotonic()
            sys.stderr.write(f"{_clear(True)}{line(said)}")
            sys.stderr.flush()
    sys.stderr.write(_clear(terminal))


def _clear(terminal: bool) -> str:
    return "\r\x1b[K" if terminal else ""


def line(said: dict[str, Any]) -> str:
    """How far it is, in a line."""
    until = f" of {said['until_s']:g} s" if said["until_s"] is not None else f", to pass {said['until_passes']:,}"
    rate = said["ticks"] / said["wall_s"] if said["wall_s"] else 0.0
    return (
        f"{said['now_s']:.3f}{until}, {said['passes']:,} passes, {said['agents']:,} agents, {rate:,.0f} ticks a second"
    )


def shown(report: FleetReport) -> str:
    """A report for people."""
    rows = [
        (each.node, str(each.part), f"{each.passes:,}", f"{each.ticks:,}", f"{each.wall_s:.3g} s")
        for each in report.stints
    ]
    said = [table(("NODE", "PART>", "PASSES>", "TICKS>", "TIME>"), rows), ""]
    more = [f"{report.lines:,} messages between parts"] if report.lines else []
    more += [f"begun again {report.restarts} times, since nodes were lost"] if report.restarts else []
    said.append(
        ", ".join([f"{report.now_ns / 1e9:g} s after {report.passes:,} passes, {report.wall_s:.3g} s in all", *more])
    )
    return "\n".join(said)
