"""`swarm snapshot` of what the fleet knows: taken by a node, and the past read from one. The rest is in `snapshot`."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from kernels.plain import decode_plain
from nodes.cli.connecting import connected
from nodes.cli.screen import Progress, print_json, say, table, to_json
from nodes.machine import is_locked
from swarm.errors import FleetNotFound, SwarmError, UsageError
from swarm.exit_codes import ExitCode
from swarm.paths import Home, checked_name
from swarm.units import format_bytes

CREATE_S: Final = 3600.0
POLL_S: Final = 0.1


@contextlib.contextmanager
def node(args: argparse.Namespace) -> Iterator[Any]:
    """A client of the node that is meant: the one of ``--of``, or any."""
    before = os.environ.get("SWARM_NODE_SOCKET")
    if args.of:
        path = Home.resolve().node_socket(args.of)
        _answers(path, args.of, args.connect_timeout)
        os.environ["SWARM_NODE_SOCKET"] = str(path)
    try:
        with connected(args) as fleet:
            yield fleet
    finally:
        if args.of:
            os.environ.pop("SWARM_NODE_SOCKET", None)
            if before is not None:
                os.environ["SWARM_NODE_SOCKET"] = before


def _answers(path: Path, name: str, timeout_s: float) -> None:
    """FleetNotFound unless this very node answers: another one must not do it in its place."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as door:
                door.connect(str(path))
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise FleetNotFound(f"the node {name} does not run here", hint=f"swarm node --name {name}") from error
        time.sleep(0.05)


def ask(fleet: Any, method: str, timeout_s: float = CREATE_S, **arguments: Any) -> tuple[dict[str, Any], Any]:
    """(answer, what its body says)."""
    value, raw = fleet._engine.query(method, arguments, b"", timeout_s)
    return value, decode_plain(raw) if raw else None


def create(args: argparse.Namespace) -> int:
    """A snapshot of what a node knows."""
    for name in ("base", "no_compress", "unsigned", "dir"):
        if getattr(args, name):
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} goes with --from", hint="a node's own snapshots are signed, and in its folder")
    if args.snapshot is not None:
        checked_name(args.snapshot)
    home = Home.resolve()
    if args.of and not is_locked(home.node_dir(args.of) / "lock"):
        from nodes.knowledge.stopped import create as create_stopped

        created, base = create_stopped(home, args.of, args.snapshot, full=args.full, encrypt=args.encrypt)
        shared = sum(each.shared_bytes for each in created.written)
        found: dict[str, Any] = {
            "folder": str(created.folder), "id": created.manifest.id, "records": created.manifest.records,
            "new_bytes": created.new_bytes, "shared_bytes": shared, "base": base.name if base else None,
        }  # fmt: skip
    else:
        with node(args) as fleet:
            found, _ = ask(
                fleet, "snapshot.create", of=args.of, name=args.snapshot, full=args.full, encrypt=args.encrypt
            )
    found["id"] = found["id"].hex()
    if args.json:
        print_json(found)
    else:
        more = f", {format_bytes(found['shared_bytes'])} shared with {found['base']}" if found["base"] else ""
        print(f"{found['folder']}: {found['records']:,} records, {format_bytes(found['new_bytes'])} written{more}")
    return ExitCode.OK


def transfer(args: argparse.Namespace, other: str) -> int:
    """A snapshot from node to node, with what has come shown as it does."""
    fetches = args.action == "pull"
    if not fetches and not args.of:
        args.of = _whose(args.snapshot)
    with node(args) as fleet, Progress() as screen:
        arguments = {"of": args.of, "name": args.snapshot, "node": other} | (
            {"any_signer": args.any_signer} if fetches else {}
        )
        begun, _ = ask(fleet, "snapshot.fetch" if fetches else "snapshot.send", **arguments)
        while True:
            said, _ = ask(fleet, "snapshot.progress", 30.0, transfer=begun["transfer"])
            screen.total = said["bytes_total"] or None
            screen.update(said["bytes"], note=format_bytes(said["bytes"]))
            if said["done"]:
                break
            time.sleep(POLL_S)
    if said["error"]:
        raise SwarmError(said["error"][0], hint=said["error"][1] or "do it again: what has come is kept")
    said["id"] = said["id"].hex()
    if args.json:
        print_json({name: value for name, value in said.items() if name not in ("done", "error")})
    else:
        here = said["kept_bytes"] + said["reused_bytes"]
        more = f", {format_bytes(here)} were there" if here else ""
        print(f"{said['folder']}: {format_bytes(said['bytes'])} came from {other if fetches else 'here'}{more}")
    return ExitCode.OK


def _whose(name: str) -> str:
    """The node of this home that has a snapshot. NotFound."""
    from nodes.snapshots import all_folders, found

    folders = [folder for node, folder in all_folders(Home.resolve()) if node]
    return found(name, folders or [Home.resolve().nodes_dir]).parent.parent.name


def restore(args: argparse.Namespace) -> int:
    """What was known at a moment: into files, or into the fleet."""
    if args.log:
        raise UsageError(
            "--log goes with a snapshot", hint="name one: swarm snapshot restore SNAPSHOT --at TIME --log FILE"
        )
    if not args.at:
        raise UsageError("which snapshot, or which moment?", hint="swarm snapshot restore SNAPSHOT, or --at TIME")
    if bool(args.to) == bool(args.fleet):
        raise UsageError("where to is not said", hint="--to DIR writes files; --fleet sets the fleet back")
    with node(args) as fleet:
        return _export(args, fleet.knowledge) if args.to else _back(args, fleet)


def _export(args: argparse.Namespace, knowledge: Any) -> int:
    from swarm.client.knowledge import LargeValue
    from swarm.protocol.knowledge.kinds import KINDS

    def records(kind: str) -> Iterator[tuple[str, Any]]:
        for entry in knowledge.query(kind, at=args.at):
            is_large = isinstance(entry.value, LargeValue)
            yield entry.key, knowledge.get(kind, entry.key, at=args.at) if is_large else entry.value

    if args.dry_run:
        counts = {kind: sum(1 for _ in records(kind)) for kind in KINDS}
    else:
        counts = write_kinds(Path(args.to), {kind: records(kind) for kind in KINDS})
    count = sum(counts.values())
    if args.json:
        print_json({"folder": args.to, "records": count, "kinds": counts, "at": args.at, "dry_run": args.dry_run})
    else:
        would = "would have " if args.dry_run else ""
        print(f"{args.to}: {would}{count:,} records as they were at {args.at}")
    return ExitCode.OK


def restore_snapshot(args: argparse.Namespace, snapshot: Any, path: Path) -> int:
    """What was known when a node's snapshot was taken, or at a moment before that to which it reaches."""
    from nodes.knowledge import snapshot_files
    from nodes.knowledge.history import OutOfRetention, State, moment, shard_at, shown
    from nodes.snapshots import known_fleet
    from swarm.protocol.knowledge.blobs import reference_in
    from swarm.protocol.knowledge.bounds import RETENTION_MS
    from swarm.protocol.knowledge.rules import Outcome
    from swarm.protocol.knowledge.stamps import ms_of, time_of

    said = snapshot_files.about(snapshot.manifest)
    assert said is not None
    until = moment(args.at) if args.at else said.stamp
    earliest = max(said.since_ms, snapshot.manifest.created_ms - RETENTION_MS)
    if until != said.stamp and not (earliest <= ms_of(until) <= ms_of(said.stamp)):
        raise OutOfRetention(
            f"{path.name} tells nothing of {shown(until)}: it reaches from {shown(time_of(earliest))} to {shown(said.stamp)}",
            hint="take another one, or ask a node: swarm snapshot restore --at TIME --to DIR", earliest=earliest,
        )  # fmt: skip
    fleet = known_fleet(Home.resolve())

    def believed(author: bytes, message: bytes, signature: bytes) -> Outcome | None:
        revoked = fleet is not None and fleet.trust.revoked(author, None)
        return Outcome.REVOKED if revoked else None

    shards = {}
    for number in range(said.shards):
        payloads = [
            *snapshot_files.payloads(snapshot, number),
            *(row[0] for row in snapshot_files.past_rows(snapshot, number)),
        ]
        shards[number] = shard_at(number, said.shards, payloads, until, believed)
    state = State(until, shards)
    lacking: list[str] = []

    def records(kind: str) -> Iterator[tuple[str, Any]]:
        for key, value, _ in state.records(kind):
            reference = reference_in(value)
            raw = None if reference is None else snapshot_files.blob(snapshot, reference.id)
            if reference is not None and raw is None:
                lacking.append(key)
            yield key, value if raw is None else decode_plain(raw)

    counts = write_kinds(Path(args.to), {kind: records(kind) for kind in state.kinds()})
    if said.lacking:
        held = said.shards - len(said.lacking)
        say(f"{path.name} has {held} of {said.shards} shards: {said.node} held no more; take one of others, too")
    if lacking:
        some = ", ".join(lacking[:5])
        say(f"{len(lacking):,} large values are not in {path.name}, their ids stand in their place: {some}")
    if args.json:
        print_json(
            {
                "folder": args.to,
                "records": sum(counts.values()),
                "kinds": counts,
                "at": shown(until),
                "lacking": lacking,
            }
        )
    else:
        print(f"{args.to}: {sum(counts.values()):,} records as they were {shown(until)}")
    return ExitCode.OK


def write_kinds(target: Path, kinds: Mapping[str, Iterator[tuple[str, Any]]]) -> dict[str, int]:
    """A folder with one KIND.jsonl for each kind of which there is something, whole or not at all: kind -> how many."""
    import msgpack

    from nodes.record_files import SUFFIX, write_records
    from swarm.snapshots.publishing import publishing

    counts: dict[str, int] = {}
    with publishing(target) as folder, Progress() as progress:
        for kind, records in kinds.items():
            path = folder / f"{kind}{SUFFIX}"
            counts[kind] = write_records(path, ((key.encode(), msgpack.packb(value)) for key, value in records))
            progress.update(sum(counts.values()))
            if not counts[kind]:
                path.unlink()
                del counts[kind]
    return counts


def _back(args: argparse.Namespace, fleet: Any) -> int:
    kinds = list(args.kind)
    found, rows = ask(fleet, "snapshot.back", at=args.at, kinds=kinds, apply=False)
    if found.get("unasked"):
        say(f"{', '.join(found['unasked'])} could not be asked, and may have heard more; others could")
    if not args.json:
        shown = [(kind, key, _shown(now), _shown(then)) for kind, key, then, now in rows]
        if shown:
            print(table(("KIND", "KEY", "NOW", f"AT {args.at}"), shown))
        if found["count"] > len(rows):
            say(f"… and {found['count'] - len(rows):,} more")
    done = {"count": 0, "partly": 0}
    if found["count"] and not args.dry_run:
        _agree(args, found["count"])
        done, _ = ask(fleet, "snapshot.back", at=args.at, kinds=kinds, apply=True)
    if args.json:
        print_json(
            {"at": args.at, "differences": found["count"], "set_back": done["count"], "partly": done["partly"],
             "rows": [{"kind": kind, "key": key, "then": _value(then), "now": _value(now)} for kind, key, then, now in rows]}
        )  # fmt: skip
        return ExitCode.OK
    if not found["count"]:
        print(f"nothing differs from what was known at {args.at}")
    elif args.dry_run:
        print(f"{found['count']:,} keys would be set back to {args.at}")
    else:
        print(f"{done['count']:,} keys are set back to {args.at}")
        if done["partly"]:
            say(f"{done['partly']:,} of them not in full: evidence of other nodes is theirs")
    return ExitCode.OK


def _agree(args: argparse.Namespace, count: int) -> None:
    if args.yes:
        return
    if not sys.stdin.isatty() or args.json:
        raise UsageError(f"{count:,} keys would be set back on every node", hint="--yes does it, --dry-run shows them")
    say(f"Set {count:,} keys back on every node? [y/N] ")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise SwarmError("nothing was changed")


def _value(found: list[Any] | None) -> Any:
    return None if found is None else found[0]


def _shown(found: list[Any] | None) -> str:
    if found is None:
        return "-"
    return found[0] if isinstance(found[0], str) else to_json(found[0])
