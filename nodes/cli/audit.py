"""Code health of Python source, measured by the fleet: the worst functions first.

  swarm audit [OPTION]… PATH…

Nodes need not have the files. What was measured before is not measured again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from nodes.cli.arguments import add_client_arguments, whole
from nodes.cli.connecting import connected
from nodes.cli.screen import Progress, paint, print_json, say, table
from swarm.errors import NotFound, SystemRefused
from swarm.exit_codes import ExitCode
from swarm.paths import Home


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm audit`."""
    add_client_arguments(parser)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files, or directories with everything below them")
    parser.add_argument("--html", metavar="FILE", help="also write a page with plots")
    parser.add_argument("--no-cache", action="store_true", help="measure what is known already, too")
    parser.add_argument("--window", type=whole(1), default=64, metavar="N", help="tasks under way at once (64)")
    parser.add_argument("--worst", type=whole(0), default=15, metavar="N", help="functions to list (15)")


def run(args: argparse.Namespace) -> int:
    """Audit, and print."""
    from swarm.tools.audit.cache import Cache, cache_file
    from swarm.tools.audit.html import page
    from swarm.tools.audit.job import audit

    cache = Cache(None if args.no_cache else cache_file(Home.resolve().cache))
    began = time.monotonic()
    try:
        with connected(args) as fleet, Progress(wanted=not args.json) as bar:

            def tell(progress: Any) -> None:
                bar.total = progress.files
                shares = " ".join(f"{node} {count}" for node, count in sorted(progress.nodes.items()))
                bar.update(progress.done, note=shares)

            report = audit(fleet, args.paths, cache, tell, window=args.window)
    except FileNotFoundError as error:
        raise NotFound(f"{error.filename}: no such file or directory", hint="name files or directories") from None
    finally:
        cache.close()
    if args.html:
        title = ", ".join(str(path) for path in args.paths)
        try:
            Path(args.html).write_text(page(report, title), encoding="utf-8")
        except OSError as error:
            raise SystemRefused(
                f"can not write {args.html}: {error.strerror or error}", hint="name a file in a directory that is there"
            ) from error
    if args.json:
        print_json(report.as_json(args.worst))
        return ExitCode.OK
    print(render(report, args.worst, time.monotonic() - began))
    if cache.problem:
        say(f"the cache was not used: {cache.problem}")
    if args.html:
        say(f"page: {args.html}")
    return ExitCode.OK


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
