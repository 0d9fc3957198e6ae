"""Code health of Python source, measured by the fleet: the worst functions first.

  swarm audit [OPTION]… PATH…

Nodes need not have the files. What was measured before is not measured again. With --watch it goes on: whenever files
change, they alone are measured, and it is said what became of them.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from nodes.cli.arguments import add_client_arguments, duration, whole
from nodes.cli.connecting import connected
from nodes.cli.screen import Progress, paint, print_json, say, table
from swarm.errors import NotFound, SystemRefused
from swarm.exit_codes import ExitCode
from swarm.paths import Home

EVERY_S_MIN = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm audit`."""
    add_client_arguments(parser)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files, or directories with everything below them")
    parser.add_argument("--html", metavar="FILE", help="also write a page with plots")
    parser.add_argument("--watch", action="store_true", help="go on, and audit what changes, until Ctrl-C")
    parser.add_argument(
        "--every", type=duration, default=1.0, metavar="TIME", help="with --watch: how often to look (1s)"
    )
    parser.add_argument("--no-cache", action="store_true", help="measure what is known already, too")
    parser.add_argument("--window", type=whole(1), default=64, metavar="N", help="tasks under way at once (64)")
    parser.add_argument("--worst", type=whole(0), default=15, metavar="N", help="functions to list (15)")


def run(args: argparse.Namespace) -> int:
    """Audit, and print."""
    from swarm.tools.audit.cache import Cache, cache_file
    from swarm.tools.audit.watch import Watch

    cache = Cache(None if args.no_cache else cache_file(Home.resolve().cache))
    began = time.monotonic()
    try:
        watch = Watch(args.paths, cache)
        with connected(args) as fleet:
            report = _measure(fleet, watch, watch.look(), args)
            _keep_page(report, args)
            if args.json:
                print_json(report.as_json(args.worst))
            else:
                print(render(report, args.worst, time.monotonic() - began), flush=True)
                if cache.problem:
                    say(f"the cache was not used: {cache.problem}")
                if args.html:
                    say(f"page: {args.html}")
            while args.watch:
                sys.stdout.flush()
                time.sleep(max(EVERY_S_MIN, args.every))
                if changes := watch.look():
                    _tell_changes(fleet, watch, changes, args)
    except FileNotFoundError as error:
        raise NotFound(f"{error.filename}: no such file or directory", hint="name files or directories") from None
    finally:
        cache.close()
    return ExitCode.OK


def _measure(fleet: Any, watch: Any, changes: Any, args: argparse.Namespace) -> Any:
    with Progress(wanted=not args.json) as bar:

        def tell(progress: Any) -> None:
            bar.total = progress.files
            shares = " ".join(f"{node} {count}" for node, count in sorted(progress.nodes.items()))
            bar.update(progress.done, note=shares)

        return watch.update(fleet, changes, tell, args.window)


def _keep_page(report: Any, args: argparse.Namespace) -> None:
    if not args.html:
        return
    from swarm.tools.audit.html import page

    title = ", ".join(str(path) for path in args.paths)
    try:
        Path(args.html).write_text(page(report, title), encoding="utf-8")
    except OSError as error:
        raise SystemRefused(
            f"can not write {args.html}: {error.strerror or error}", hint="name a file in a directory that is there"
        ) from error


def _tell_changes(fleet: Any, watch: Any, changes: Any, args: argparse.Namespace) -> None:
    """Measure what changed, and say what became of it: a line of JSON, or a few for a person."""
    from swarm.tools.audit.watch import differences

    began, before = time.monotonic(), watch.report
    report = _measure(fleet, watch, changes, args)
    _keep_page(report, args)
    names = [one.shown for one in changes.changed]
    other = differences(before, report, names)[: args.worst]
    errors = {name: report.errors[name] for name in names if name in report.errors}
    if args.json:
        functions = [
            {"complexity": complexity, "was": was, "path": path, "line": line, "name": name}
            for complexity, was, path, line, name in other
        ]
        said = {"changed": names, "gone": changes.gone, "functions": functions, "errors": errors}
        print_json(said | {"totals": report.totals()})
        return
    totals = report.totals()
    counts = [f"{len(names):,} changed"] if names else []
    counts += [f"{len(changes.gone):,} gone"] if changes.gone else []
    head = (
        f"{time.strftime('%H:%M:%S')}  {', '.join(counts)}: {totals['files']:,} files, {totals['sloc']:,} lines, "
        f"mean complexity {totals['mean_complexity']:.2f} in {time.monotonic() - began:.1f} s"
    )
    print(paint(head, "bold"))
    if other:
        rows = [(each[0], "new" if each[1] is None else each[1], each[4], f"{each[2]}:{each[3]}") for each in other]
        print(table(("COMPLEXITY>", "WAS>", "FUNCTION", "WHERE"), rows))
    for name, why in list(errors.items())[:10]:
        print(f"not parsed  {name}: {why}")


def render(report: Any, worst: int, took_s: float) -> str:
    """The report as text."""
    totals = report.totals()
    head = (
        f"{totals['files']:,} files, {totals['sloc']:,} lines of source, {totals['functions']:,} functions "
        f"in {took_s:.1f} s"
    )
    shares = [f"{node} {count:,}" for node, count in report.nodes.most_common()]
    if report.known:
        shares.append(f"known {report.known:,}")
    lines = [paint(head, "bold"), f"measured by  {' · '.join(shares) or 'nobody'}", ""]
    rows = [(complexity, name, f"{path}:{line}") for complexity, path, line, name in report.functions[:worst]]
    if rows:
        lines += [table(("COMPLEXITY>", "FUNCTION", "WHERE"), rows), ""]
    packages = [
        (
            row["package"],
            row["files"],
            f"{row['sloc']:,}",
            f"{row['functions']:,}",
            f"{row['mean']:.2f}",
            f"{row['mi']:.1f}",
        )
        for row in report.packages()[:10]
    ]
    if packages:
        lines += [table(("PACKAGE", "FILES>", "SOURCE>", "FUNCTIONS>", "COMPLEXITY>", "MAINTAINABLE>"), packages)]
    for path, why in list(report.errors.items())[:10]:
        lines.append(f"not parsed  {path}: {why}")
    if len(report.errors) > 10:
        lines.append(f"not parsed  {len(report.errors) - 10} more; --json lists all")
    return "\n".join(lines)
