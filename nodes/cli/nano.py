"""Nano-agents: measure what this machine does, run a population of a script, look into a saved one."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nodes.cli import nano_evolve, nano_spawn
from nodes.cli.arguments import add_common_arguments, duration
from nodes.cli.files import check_writable, write_whole
from nodes.cli.screen import print_json, say, table
from swarm.errors import UsageError
from swarm.exit_codes import ExitCode

if TYPE_CHECKING:
    from swarm.nano import Isolated, NanoSwarm, Report

FORMS: Final = ("native_many", "native", "generator", "object")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm nano`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    run = actions.add_parser("run", help="run the population that a script makes")
    run.add_argument("what", metavar="FILE[:NAME]", help="a script, or a module, and what in it makes the population")
    run.add_argument("--seconds", type=duration, default=1.0, metavar="TIME", help="of the population's time (1s)")
    run.add_argument("--passes", type=int, metavar="N", help="so many passes, in place of a time")
    run.add_argument("--cores", type=int, metavar="N", help="tick native agents on N cores; the outcome is the same")
    run.add_argument("--save", metavar="FILE", help="save it afterwards")
    run.add_argument("--live", action="store_true", help="show what it does while it runs, on a terminal")
    go_on = actions.add_parser("resume", help="go on with a saved population")
    go_on.add_argument("blob", metavar="FILE")
    go_on.add_argument("--seconds", type=duration, default=1.0, metavar="TIME", help="of the population's time (1s)")
    go_on.add_argument("--passes", type=int, metavar="N", help="so many passes, in place of a time")
    go_on.add_argument("--cores", type=int, metavar="N", help="tick native agents on N cores; the outcome is the same")
    go_on.add_argument("--save", metavar="FILE", help="save it afterwards")
    go_on.add_argument("--live", action="store_true", help="show what it does while it runs, on a terminal")
    inspect = actions.add_parser("inspect", help="show what a saved population holds, without loading it")
    inspect.add_argument("blob", metavar="FILE")
    benchmark = actions.add_parser("benchmark", help="measure the ticks that this machine makes")
    benchmark.add_argument("--agents", type=int, default=10_000, metavar="N", help="agents of each kind (10000)")
    benchmark.add_argument("--form", choices=FORMS, action="append", help="only this form of a tick")
    benchmark.add_argument("--seconds", type=duration, default=0.5, metavar="TIME", help="for each form (500ms)")
    benchmark.add_argument("--cores", type=int, default=1, metavar="N", help="tick the native forms on N cores (1)")
    profile = actions.add_parser("profile", help="run a population and write who was called when, for Perfetto")
    profile.add_argument(
        "what", metavar="FILE[:NAME]", help="a script, or a module, and what in it makes the population"
    )
    profile.add_argument(
        "--trace-events",
        metavar="FILE",
        default="trace.json",
        help="where to write it (trace.json); open it in Perfetto",
    )
    profile.add_argument("--seconds", type=duration, default=0.1, metavar="TIME", help="of its time (100ms)")
    profile.add_argument("--passes", type=int, metavar="N", help="so many passes, in place of a time")
    profile.add_argument("--calls", type=int, default=100_000, metavar="N", help="keep the last N calls (100000)")
    evolve = nano_evolve.add_arguments(actions)
    spawn = actions.add_parser(
        "spawn", help="run a population in the fleet, spread over nodes if wanted", description=nano_spawn.ABOUT
    )
    nano_spawn.add_arguments(spawn)
    for each in (run, go_on):
        each.add_argument(
            "--alert", metavar="WORDS", action="append", default=[],
            help="raise an alert: METRIC > VALUE [until VALUE] [for TIME] [of KIND|TOPIC] [then ACTION], as in"
            ' "late_p99_ns > 50us for 1s"; may be repeated',
        )  # fmt: skip
        each.add_argument("--anomalies", action="store_true", help="flag what leaves its own history")
        each.add_argument("--isolate", action="store_true", help="in a process of its own, under a watchdog")
        each.add_argument(
            "--watchdog",
            type=duration,
            default=1.0,
            metavar="TIME",
            help="how long a call may take, with --isolate (1s)",
        )
        each.add_argument(
            "--checkpoint", type=duration, metavar="TIME",
            help="with --isolate, save it so often, and go on from there without the cohort at which it was lost",
        )  # fmt: skip
    for each in (run, spawn, go_on, inspect, benchmark, profile, evolve):
        add_common_arguments(each, action=True)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    match args.action:
        case "spawn":
            return nano_spawn.run(args)
        case "benchmark":
            return _benchmark(args)
        case "inspect":
            return _inspect(args)
        case "evolve":
            return nano_evolve.run(args)
        case "profile":
            from nodes.nano_scripts import population_of

            return _profile(args, population_of(args.what))
    from nodes.nano_scripts import prepared

    if args.passes is not None and args.passes < 0:
        raise UsageError(f"--passes {args.passes}", hint="a number of passes is not negative")
    if args.checkpoint is not None and not args.isolate:
        raise UsageError("--checkpoint without --isolate", hint="only an isolated population goes on after it was lost")
    if args.save:
        check_writable(args.save)
    blob = _read(args.blob) if args.action == "resume" else None
    what = ("" if blob is not None else args.what, blob, args.cores, args.alert, args.anomalies)
    if not args.isolate:
        return _run(args, prepared(*what))
    from swarm import nano

    with nano.isolate(prepared, *what, watchdog_s=args.watchdog, checkpoint_s=args.checkpoint) as isolated:
        return _run(args, isolated)


def _profile(args: argparse.Namespace, flock: NanoSwarm) -> int:
    if args.calls < 1 or (args.passes is not None and args.passes < 0):
        raise UsageError("--calls and --passes are numbers above 0", hint="`swarm nano profile --help`")
    check_writable(args.trace_events)
    flock.keep_spans(args.calls)
    report = flock.run_for(seconds=args.seconds) if args.passes is None else flock.run_for(passes=args.passes)
    events = flock.trace_events()
    write_whole(args.trace_events, json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}).encode())
    if args.json:
        print_json({"file": args.trace_events, "events": len(events), "report": report.to_dict()})
    else:
        print(shown(report))
        say(f"{len(events):,} events: {args.trace_events}; open it at https://ui.perfetto.dev")
    return ExitCode.OK


def _run(args: argparse.Namespace, flock: NanoSwarm | Isolated) -> int:
    from nodes.cli.nano_live import live

    mark = flock.mark()
    try:
        if args.live and sys.stderr.isatty() and not args.json:
            live(flock, args.seconds, args.passes)
        elif args.passes is not None:
            flock.run_for(passes=args.passes)
        else:
            flock.run_for(seconds=args.seconds)
    except KeyboardInterrupt:
        say("interrupted between two passes")
    report = flock.report(mark)
    if args.save:
        blob = flock.save()
        write_whole(args.save, blob)
        say(f"saved {flock.agents:,} agents at {flock.now_ns / 1e9:g} s, {len(blob):,} bytes: {args.save}")
    incidents = [str(each) for each in getattr(flock, "incidents", ())]
    if args.json:
        print_json(report.to_dict() | ({"incidents": incidents} if args.isolate else {}))
    else:
        print(shown(report))
        for each in incidents:
            say(f"{each}; it went on from its last checkpoint")
        for kind, row, error in flock.failures():
            words = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
            say(f"{kind if isinstance(kind, str) else kind.__name__} {row}: {words}")
    return ExitCode.FAILED if any(line.failed for line in report.cohorts) else ExitCode.OK


def shown(report: Report) -> str:
    """A report for people."""
    rows = [
        (
            line.kind, line.form, f"{line.awake:,}", f"{line.ticks:,}", _rate(line.ticks, report.wall_s),
            _ns(line.tick_ns.quantile(0.5)), _ns(line.tick_ns.quantile(0.99)),
            f"{line.violations:,}" if line.budget_ns is not None else "", f"{line.failed:,}",
        )
        for line in report.cohorts
    ]  # fmt: skip
    titles = ("KIND", "FORM", "AWAKE>", "TICKS>", "TICKS/S>", "P50>", "P99>", "OVER>", "FAILED>")
    said = [table(titles, rows)]
    if report.topics:
        topics = [(name, *(f"{counted:,}" for counted in each.values())) for name, each in report.topics.items()]
        said.append(table(("TOPIC", "PUBLISHED>", "DROPPED>", "BLOCKED>", "DELIVERED>"), topics))
    for title, found in (("ALERTS", report.alerts), ("ANOMALIES", report.anomalies)):
        if found:
            said.append("\n".join([title, *map(str, found)]))
    said.append(
        f"{report.passes:,} passes over {report.seconds:g} s in {report.wall_s:.3g} s: "
        f"{_rate(report.ticks, report.wall_s)} ticks a second"
    )
    return "\n\n".join(said)


def _benchmark(args: argparse.Namespace) -> int:
    from nodes.nano_benchmark import measure

    if args.agents < 1:
        raise UsageError(f"--agents {args.agents}", hint="one agent at least")
    lines = [measure(form, args.agents, args.seconds, args.cores) for form in args.form or FORMS]
    if args.json:
        print_json({"agents": args.agents, "cores": args.cores, "forms": lines})
        return ExitCode.OK
    rows = [
        (line["form"], line["guard"], _rate(line["ticks"], line["wall_s"]), f"{line['ns']:.2f} ns",
         _ns(line["p50_ns"]), _ns(line["p99_ns"]))
        for line in lines
    ]  # fmt: skip
    print(table(("TICK", "GUARD", "TICKS/S>", "EACH>", "P50>", "P99>"), rows))
    cores = (
        "one core" if args.cores == 1 else f"{args.cores} cores for native ticks (of a pass that takes 100 us or more)"
    )
    print(f"\n{args.agents:,} agents, {cores}, virtual time. What each is: swarm nano benchmark --help, docs.")
    return ExitCode.OK


def _inspect(args: argparse.Namespace) -> int:
    from swarm.nano.saving import parts

    header, sections = parts(_read(args.blob))
    said = {
        "now_s": header["now_ns"] / 1e9, "passes": header["passes"], "seed": header["seed"], "time": header["time"],
        "bytes": sum(len(each) for each in sections),
        "kinds": [
            {"name": kind["name"], "rows": kind["top"], "capacity": kind["capacity"],
             "agents": sum(each != 0 for each in bytes(sections[kind["states"]])), "schema": kind["schema"].hex()}
            for kind in header["kinds"]
        ],
        "cohorts": [
            {"kind": header["kinds"][each["kind"]]["name"], "form": each["form"], "tick": each["tick"],
             "group": each["group"], "ticks": each["state"]["ticks"]}
            for each in header["cohorts"]
        ],
        "topics": [each["name"] for each in header["topics"]],
    }  # fmt: skip
    if args.json:
        print_json(said)
        return ExitCode.OK
    print(
        f"at {said['now_s']:g} s after {said['passes']:,} passes, {said['time']} time, seed {said['seed']}, "
        f"{said['bytes']:,} bytes\n"
    )
    print(table(
        ("KIND", "AGENTS>", "CAPACITY>"),
        [(kind["name"], f"{kind['agents']:,}", f"{kind['capacity']:,}") for kind in said["kinds"]],
    ))  # fmt: skip
    print()
    print(table(
        ("COHORT OF", "FORM", "TICK", "TICKS>"),
        [(each["kind"], each["form"], each["tick"] or ("its own" if each["tick"] is None else "to be given"),
          f"{each['ticks']:,}") for each in said["cohorts"]],
    ))  # fmt: skip
    return ExitCode.OK


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


def _rate(ticks: float, seconds: float) -> str:
    rate = ticks / seconds if seconds else 0.0
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if rate >= size:
            return f"{rate / size:.3g} {unit}"
    return f"{rate:.3g}"


def _ns(ns: float) -> str:
    if ns >= 1e6:
        return f"{ns / 1e6:.3g} ms"
    return f"{ns / 1e3:.3g} us" if ns >= 1e3 else f"{ns:.3g} ns"
