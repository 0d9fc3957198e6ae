"""A node's journal on disk, while the node does not run: see whether it is whole, write it out, make it smaller.

  swarm journal verify [DIR]     status 0: whole; 1: something has rotted
  swarm journal export [DIR]     JSON lines, as much as can be read
  swarm journal compact [DIR]

Without DIR it is that of the node of this name (--name), or of the only node of this user that has one. A journal in a
PostgreSQL database is found by the node's directory, too, and by `ledger.journal_url`; or by --url alone, from any machine.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from nodes.cli import journal_database
from nodes.cli.arguments import add_common_arguments
from nodes.cli.files import check_writable
from nodes.cli.screen import print_json, say, table, to_json
from swarm.errors import NotFound
from swarm.exit_codes import ExitCode
from swarm.paths import Home
from swarm.units import format_bytes

DIRECTORY: Final = "journal"
"""Below a node's own directory."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm journal`."""
    actions = parser.add_subparsers(dest="action", metavar="verify|export|compact", required=True)
    verify = actions.add_parser("verify", help="read all of it, and say what is there and what has rotted")
    export = actions.add_parser("export", help="write all that can be read, as JSON lines")
    export.add_argument("--out", metavar="FILE", help="write to this file")
    export.add_argument("--group", metavar="HEX", help="only this group; the beginning of its name is enough")
    compact = actions.add_parser("compact", help="write what is needed anew, and remove the rest")
    for each in (verify, export, compact):
        each.add_argument("directory", nargs="?", metavar="DIR", help="the journal's directory")
        each.add_argument("--name", metavar="NODE", help="the journal of the node of this name")
        each.add_argument("--url", metavar="URL", help="the journal in this PostgreSQL database (postgresql://…)")
        each.add_argument("--node", metavar="HEX", help="whose, where several nodes use the database")
        add_common_arguments(each, action=True)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    from nodes.journal.files import WITNESS

    directory = None if args.url and not (args.directory or args.name) else _directory(args)
    elsewhere = directory is None or bool(args.url) or (directory / WITNESS).exists()
    if args.action == "export":
        return _export(args, directory, elsewhere)
    if elsewhere:
        return (
            journal_database.verify(args, directory)
            if args.action == "verify"
            else journal_database.compact(args, directory)
        )
    assert directory is not None
    return _verify(args, directory) if args.action == "verify" else _compact(args, directory)


def _directory(args: argparse.Namespace) -> Path:
    if args.directory:
        directory = Path(args.directory)
        if not directory.is_dir():
            raise NotFound(f"{directory} is no directory", hint="name the journal's directory")
        return directory
    home = Home.resolve()
    if args.name:
        directory = home.node_dir(args.name) / DIRECTORY
        if not directory.is_dir():
            raise NotFound(f"the node {args.name} has no journal here", hint=f"{directory} is not there")
        return directory
    found = sorted(home.nodes_dir.glob(f"*/{DIRECTORY}")) if home.nodes_dir.is_dir() else []
    if len(found) != 1:
        names = ", ".join(path.parent.name for path in found)
        raise NotFound(
            f"several nodes have a journal here: {names}" if found else "no node has a journal here",
            hint="name one: --name NODE, or its directory",
            matches=[str(path) for path in found],
        )
    return found[0]


def _verify(args: argparse.Namespace, directory: Path) -> int:
    report = _report(_surveyed(directory), directory)
    if args.json:
        print_json(report)
    else:
        print(_shown(report))
    return ExitCode.OK if report["whole"] else ExitCode.FAILED


def _surveyed(directory: Path, *, salvage: bool = False) -> Any:
    """All that is there, in memory. Nothing is changed."""
    from nodes.journal.errors import JournalRefused, Reason
    from nodes.journal.files import RealFiles
    from nodes.journal.survey import survey, unreadable

    files = RealFiles(directory, read_only=True)
    try:
        files.lock()
        found = survey(files, None, salvage=salvage)
    except OSError as error:
        raise unreadable(error, str(directory)) from None
    finally:
        files.close()
    if found is None:
        raise JournalRefused(Reason.MISSING, f"there is no journal in {directory}", hint="name the journal's directory")
    return found


def _report(found: Any, directory: Path) -> dict[str, Any]:
    from nodes.journal.files import STATES, segment_name

    segments = [
        {
            "segment": segment_name(number), "bytes": segment.size, "used_bytes": segment.end.offset,
            "commits": segment.commits, "records": segment.records,
            "damage": [
                *(
                    {"offset": gap.offset, "commits": gap.last - gap.first + 1, "first": gap.first}
                    for gap in segment.gaps
                ),
                *({"group": group.hex(), "records": count} for group, count in sorted(segment.rotten.items())),
            ],
        }
        for number, segment in sorted(found.segments.items())
    ]  # fmt: skip
    groups = []
    for group, track in sorted(found.tracks.items()):
        entries = sum(chunk.last - chunk.first + 1 for chunk in track.chunks)
        groups.append(
            {
                "group": group.hex(), "term": track.vote.term,
                "voted": track.vote.candidate.hex() if track.vote.candidate else None, "snapshot": track.base,
                "entries": entries, "last": track.base + entries, "damaged": track.damaged, "bytes": track.cost,
            }
        )  # fmt: skip
    return {
        "directory": str(directory), "whole": not found.rotten and not any(group["damaged"] for group in groups),
        "fleet": found.state.fleet.rstrip(b"\0").hex(), "node": found.state.node.hex(),
        "states": {name: state is not None for name, state in zip(STATES, found.states, strict=True)},
        "torn": found.torn, "missing_commits": found.missing, "segments": segments, "groups": groups,
        "bytes": sum(segment["bytes"] for segment in segments), "needed_bytes": sum(group["bytes"] for group in groups),
    }  # fmt: skip


def _shown(report: dict[str, Any]) -> str:
    rows = []
    for segment in report["segments"]:
        damage = [
            f"{each['commits']} lost at byte {each['offset']:,}"
            if "offset" in each
            else f"{each['records']} of {each['group'][:12]}"
            for each in segment["damage"]
        ]
        rows.append((segment["segment"], f"{segment['commits']:,}", f"{segment['records']:,}",
                     format_bytes(segment["used_bytes"]), "; ".join(damage) or "whole"))  # fmt: skip
    parts = [table(("SEGMENT", "COMMITS>", "RECORDS>", "BYTES>", "STATE"), rows)]
    if report["groups"]:
        groups = [
            (each["group"], f"{each['term']:,}", f"{each['snapshot']:,}", f"{each['entries']:,}", f"{each['last']:,}",
             format_bytes(each["bytes"]), "damaged" if each["damaged"] else "whole")
            for each in report["groups"]
        ]  # fmt: skip
        parts.append(table(("GROUP", "TERM>", "SNAPSHOT>", "ENTRIES>", "LAST>", "BYTES>", "STATE"), groups))
    notes = [
        f"{name} can not be read; the other has all that it had" for name, ok in report["states"].items() if not ok
    ]
    if report["torn"]:
        notes.append(
            "the last write broke off before it was synced: nobody was told of it, and it is cut off at the start"
        )
    if report["missing_commits"]:
        notes.append(f"{report['missing_commits']} commits at the end were synced and are not there")
    end = (
        f"{'whole' if report['whole'] else 'DAMAGED'}: {format_bytes(report['bytes'])}, "
        f"of which {format_bytes(report['needed_bytes'])} are needed"
    )
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else []), end])


def _export(args: argparse.Namespace, directory: Path | None, elsewhere: bool) -> int:
    if args.out:
        check_writable(args.out)
    if elsewhere or directory is None:
        recovered = journal_database.recovered(args, directory)
    else:
        recovered = _surveyed(directory, salvage=True).recovered()
    chosen = {group: each for group, each in recovered.items() if group.hex().startswith(args.group or "")}
    if args.group and not chosen:
        raise NotFound(f"no group begins with {args.group}", hint="`swarm journal verify` lists them")
    count = 0
    with open(args.out, "w", encoding="utf-8") if args.out else contextlib.nullcontext(sys.stdout) as stream:
        for group, each in chosen.items():
            for line in _lines(group, each):
                print(to_json(line), file=stream)
                count += 1
    damaged = sum(each.damaged for each in chosen.values())
    if args.out and args.json:
        print_json({"file": args.out, "groups": len(chosen), "lines": count, "damaged": damaged})
    else:
        say(f"{len(chosen):,} groups, {count:,} lines{f', {damaged:,} of the groups damaged' if damaged else ''}")
    return ExitCode.OK


def _lines(group: bytes, recovered: Any) -> Iterator[dict[str, Any]]:
    name, snapshot, vote = group.hex(), recovered.snapshot, recovered.vote
    yield {
        "group": name, "term": vote.term, "voted": vote.candidate.hex() if vote.candidate else None,
        "damaged": recovered.damaged,
        "snapshot": {
            "index": snapshot.index, "term": snapshot.term, "voters": [id.hex() for id in snapshot.members.voters],
            "learners": [id.hex() for id in snapshot.members.learners], "data": _text(snapshot.data),
        },
    }  # fmt: skip
    for index, entry in enumerate(recovered.entries, snapshot.index + 1):
        yield {"group": name, "index": index, "term": entry.term, "kind": entry.kind, "data": _text(entry.data)}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _compact(args: argparse.Namespace, directory: Path) -> int:
    from nodes.journal.files import RealFiles
    from nodes.journal.format import HEADER_BYTES, JournalId
    from nodes.journal.journal import DEFAULT, Journal, JournalConfig

    found = _surveyed(directory)
    id = JournalId(found.state.fleet, found.state.node)
    sizes = [segment.size for segment in found.segments.values()]
    segment_bytes = next((size for size in sizes if size % HEADER_BYTES == 0 and size >= 4 * HEADER_BYTES), 0)
    config = JournalConfig(max(DEFAULT.bytes_max, 4 * segment_bytes), segment_bytes or DEFAULT.segment_bytes)
    del found
    journal = Journal.open(RealFiles(directory), id, config, create=False)
    try:
        journal.compact()
        after = journal.segments_bytes
        damaged = [group.hex() for group in journal.damaged_at_start]
    finally:
        journal.close()
    if args.json:
        print_json({"before_bytes": sum(sizes), "after_bytes": after, "damaged": damaged})
    else:
        for group in damaged:
            say(f"damaged: {group}; what can be read of it was kept")
        print(f"{format_bytes(sum(sizes))} before, {format_bytes(after)} now")
    return ExitCode.OK
