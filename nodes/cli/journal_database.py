"""`swarm journal` for a journal in PostgreSQL: the same three words for what is in a database.

To look at it needs no stop of its node: what is read is the database as it was at one moment.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodes.cli.screen import print_json, say, table
from swarm.errors import ConfigError, NotFound
from swarm.exit_codes import ExitCode
from swarm.units import format_bytes

if TYPE_CHECKING:
    from nodes.journal.postgres.database import Database
    from nodes.journal.postgres.schema import Found, NodeRow
    from nodes.journal.postgres.witness import Witness


def verify(args: argparse.Namespace, directory: Path | None) -> int:
    """Read all of it, and say what is there and what has rotted."""
    with _looked(args, directory) as (database, row, witness):
        from nodes.journal.postgres.schema import examine

        report = _report(database, row, examine(database, row.node, row), witness)
    if args.json:
        print_json(report)
    else:
        print(_shown(report))
    return ExitCode.OK if report["whole"] else ExitCode.FAILED


def recovered(args: argparse.Namespace, directory: Path | None) -> dict[bytes, Any]:
    """What can be read of each group."""
    with _looked(args, directory) as (database, row, _):
        from nodes.journal.postgres.schema import examine

        found = examine(database, row.node, row)
        return {group: track.recovered() for group, track in sorted(found.tracks.items())}


def compact(args: argparse.Namespace, directory: Path | None) -> int:
    """Write what is needed anew, and remove the rest."""
    with _looked(args, directory) as (database, row, _):
        url = database.url
    from nodes.journal.format import JournalId
    from nodes.journal.postgres.journal import PostgresJournal

    id = JournalId(row.fleet, row.node)
    journal = PostgresJournal.open(url, id, directory, 1 << 62, create=False, within_s=0.0, lock_s=5.0)
    try:
        before = journal.bytes
        journal.compact()
        after = journal.bytes
        damaged = [group.hex() for group in journal.damaged_at_start]
    finally:
        journal.close()
    if args.json:
        print_json({"before_bytes": before, "after_bytes": after, "damaged": damaged})
    else:
        for group in damaged:
            say(f"damaged: {group}; what can be read of it was kept")
        print(f"{format_bytes(before)} before, {format_bytes(after)} now")
    return ExitCode.OK


@contextmanager
def _looked(args: argparse.Namespace, directory: Path | None) -> Iterator[tuple[Database, NodeRow, Witness | None]]:
    """The database as it is at one moment, and the node that is meant. Nothing is changed."""
    from nodes.journal.errors import JournalRefused, Reason
    from nodes.journal.postgres.database import Database
    from nodes.journal.postgres.schema import VERSION, nodes_of, version_of
    from nodes.journal.postgres.witness import Witness

    witness = None if directory is None else Witness.read(directory)
    database = Database.look(args.url or _set_url(witness))
    try:
        database.connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        version = version_of(database)
        if version is None:
            raise NotFound(f"there is no journal in {database.where}", hint="is it the right database?")
        if version > VERSION:
            raise JournalRefused(
                Reason.NEWER, "the journals in the database were written by a later version", hint="use that version"
            )
        wanted = args.node if witness is None else witness.node
        rows = [row for row in nodes_of(database) if row.node.hex().startswith(wanted or "")]
        if len(rows) != 1:
            names = [row.node.hex() for row in rows]
            raise NotFound(
                f"several nodes have a journal in {database.where}: {', '.join(names)}"
                if rows
                else f"there is no journal of this node in {database.where}",
                hint="name one: --node HEX, or --name NODE on its machine",
                matches=names,
            )
        yield database, rows[0], witness
    finally:
        database.close()


def _set_url(witness: Witness | None) -> str:
    from nodes.settings import load

    url = load().settings.ledger.journal_url
    if not url:
        where = "" if witness is None else f" in {witness.database}"
        raise ConfigError(
            f"the journal is{where or ' in a database'}, and nothing says how to get there",
            hint="--url postgresql://…, or SWARM_LEDGER_JOURNAL_URL",
        )
    return url


def _report(database: Database, row: NodeRow, found: Found, witness: Witness | None) -> dict[str, Any]:
    groups = []
    for group, track in sorted(found.tracks.items()):
        entries = sum(chunk.last - chunk.first + 1 for chunk in track.chunks)
        groups.append({
            "group": group.hex(), "term": track.vote.term,
            "voted": track.vote.candidate.hex() if track.vote.candidate else None, "snapshot": track.base,
            "entries": entries, "last": track.base + entries, "damaged": track.damaged, "bytes": track.cost,
        })  # fmt: skip
    earlier = witness is not None and (witness.journal != row.journal.hex() or witness.commit > row.commit)
    return {
        "database": database.where, "fleet": row.fleet.rstrip(b"\0").hex(), "node": row.node.hex(), "commit": row.commit,
        "whole": found.whole and not earlier and not any(group["damaged"] for group in groups),
        "votes_lost": found.votes_lost, "earlier": earlier, "records": len(found.sizes), "lost_records": found.lost,
        "damage": [{"group": group.hex(), "records": count} for group, count in sorted(found.rotten.items())],
        "groups": groups, "bytes": sum(found.sizes.values()), "needed_bytes": sum(group["bytes"] for group in groups),
    }  # fmt: skip


def _shown(report: dict[str, Any]) -> str:
    groups = [
        (each["group"], f"{each['term']:,}", f"{each['snapshot']:,}", f"{each['entries']:,}", f"{each['last']:,}",
         format_bytes(each["bytes"]), "damaged" if each["damaged"] else "whole")
        for each in report["groups"]
    ]  # fmt: skip
    notes = [f"{each['records']} of {each['group'][:12]} have rotted" for each in report["damage"]]
    if report["lost_records"]:
        notes.append(f"{report['lost_records']} records are gone, or can not be told apart")
    if report["votes_lost"]:
        notes.append("votes are gone, or have been changed: the node needs a new identity")
    if report["earlier"]:
        notes.append("this is not as the node left it: another journal, or the database of an earlier time")
    parts = [
        f"{report['database']}: node {report['node']}, commit {report['commit']:,}, {report['records']:,} records",
        table(("GROUP", "TERM>", "SNAPSHOT>", "ENTRIES>", "LAST>", "BYTES>", "STATE"), groups) if groups else "",
        "\n".join(notes),
        f"{'whole' if report['whole'] else 'DAMAGED'}: {format_bytes(report['bytes'])}",
    ]
    return "\n\n".join(filter(None, parts))
