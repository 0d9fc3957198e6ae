"""Snapshots on this machine: make them, see what is there, check, compare, restore and mend them.

  swarm snapshot create                              # of what the fleet knows, by a node here
  swarm snapshot restore --at 2026-11-22T09:00:00Z --to then
  swarm snapshot restore --at 2026-11-22T09:00:00Z --fleet --dry-run
  swarm snapshot create monday --from records/       # one SHARD.jsonl a shard; shares what the last one has
  swarm snapshot verify monday                       # status 0: whole; 1: damaged, and where
  swarm snapshot diff monday tuesday
  swarm snapshot restore monday --to records/
  swarm snapshot repair monday --from /mnt/copy/monday
  swarm snapshot push monday --to /mnt/copy

A SNAPSHOT is the name of one in this user's folder of snapshots or in that of a node here (--of NODE, --dir DIR), or a path with a slash.
"""

from __future__ import annotations

import argparse
import base64
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from nodes.cli.arguments import add_client_arguments, add_common_arguments
from nodes.cli.screen import Progress, ago, print_json, say, table
from swarm.errors import FleetNotFound, UsageError
from swarm.exit_codes import ExitCode
from swarm.paths import Home, private_directory
from swarm.units import format_bytes

_ACTIONS: Final = "create|list|verify|diff|restore|repair|pull|push"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm snapshot`."""
    actions = parser.add_subparsers(dest="action", metavar=_ACTIONS, required=True)
    create = actions.add_parser("create", help="a snapshot of what a node knows, or of the records in a folder")
    create.add_argument("snapshot", nargs="?", metavar="NAME", help="what it is to be called (auto-TIME)")
    create.add_argument("--from", dest="source", metavar="DIR", help="not of a node: records, one SHARD.jsonl a shard")
    create.add_argument("--base", metavar="SNAPSHOT", help="share unchanged chunks with this one (the newest)")
    create.add_argument("--full", action="store_true", help="share nothing")
    create.add_argument("--encrypt", action="store_true", help="readable with the fleet's key alone")
    create.add_argument("--no-compress", action="store_true", help="larger, and a little quicker to read")
    create.add_argument("--unsigned", action="store_true", help="do not sign it, as where there is no fleet")
    listing = actions.add_parser("list", help="the snapshots that are here")
    verify = actions.add_parser("verify", help="read every byte, and say what is damaged")
    verify.add_argument("snapshot", metavar="SNAPSHOT")
    verify.add_argument("--deep", action="store_true", help="look up every record, too")
    diff = actions.add_parser("diff", help="which records differ")
    diff.add_argument("before", metavar="SNAPSHOT")
    diff.add_argument("after", metavar="SNAPSHOT")
    restore = actions.add_parser("restore", help="write out what is in a snapshot, or what a node knew at any moment")
    restore.add_argument("snapshot", nargs="?", metavar="SNAPSHOT", help="without one a node is asked for its past")
    restore.add_argument("--to", metavar="DIR", help="a folder that is not there yet")
    restore.add_argument(
        "--at", metavar="TIME", help="as it was then: 2026-11-22T09:00:00Z, ms since 1970, or the stamp of an entry"
    )
    restore.add_argument("--fleet", action="store_true", help="set the fleet back to it, by new entries")
    restore.add_argument("--kind", action="append", default=[], metavar="KIND", help="with --fleet: this kind alone")
    restore.add_argument("--dry-run", action="store_true", help="show what would differ, and change nothing")
    restore.add_argument("--yes", action="store_true", help="with --fleet: do not ask")
    restore.add_argument("--log", metavar="FILE", help="the changes since: lines with stamp, shard, key and value")
    repair = actions.add_parser("repair", help="take what is damaged from another copy")
    repair.add_argument("snapshot", metavar="SNAPSHOT")
    repair.add_argument("--from", dest="source", required=True, metavar="SNAPSHOT", help="the other copy")
    pull = actions.add_parser("pull", help="copy a snapshot, from several copies at once, checked chunk by chunk")
    pull.add_argument("snapshot", metavar="NAME", help="what it is to be called here")
    pull.add_argument(
        "--from", dest="sources", default=[], action="append", metavar="SNAPSHOT", help="a copy; may be repeated"
    )
    pull.add_argument(
        "--from-node", metavar="NODE", help="the copy of that node of the fleet, into the folder of a node here"
    )
    push = actions.add_parser("push", help="copy a snapshot to another folder of snapshots, but for what is there")
    push.add_argument("snapshot", metavar="SNAPSHOT")
    push.add_argument("--to", metavar="DIR", help="a folder of snapshots, such as a mounted disk")
    push.add_argument("--to-node", metavar="NODE", help="to that node of the fleet, by the node here that has it")
    for each in (create, listing, verify, diff, restore, repair, pull, push):
        each.add_argument("--dir", metavar="DIR", help="the folder of snapshots (that of this user)")
        add_common_arguments(each, action=True)
        each.add_argument("--of", metavar="NODE", help="the node that is meant, and its folder of snapshots")
    for each in (create, restore, pull, push):
        add_client_arguments(each)
    for each in (restore, repair, pull):
        each.add_argument("--any-signer", action="store_true", help="whoever signed it, or nobody")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    return int(_RUN[args.action](args))


def _folder(args: argparse.Namespace) -> Path:
    from nodes.snapshots import directory, of_node

    if args.dir:
        return Path(args.dir)
    home = Home.resolve()
    return of_node(home, args.of) if args.of else directory(home)


def _folders(args: argparse.Namespace) -> list[tuple[str, Path]]:
    """(node, folder) of all that are looked into: this user's is nobody's."""
    from nodes.snapshots import all_folders

    return [(args.of or "", _folder(args))] if args.dir or args.of else all_folders(Home.resolve())


def _named(args: argparse.Namespace, name: str) -> Path:
    from nodes.snapshots import found

    return found(name, [folder for _, folder in _folders(args)])


def _fresh(args: argparse.Namespace, name: str) -> Path:
    from swarm.paths import checked_name

    if "/" in name:
        return Path(name)
    folder = _folder(args)
    if not args.dir:
        private_directory(folder)
    return folder / checked_name(name)


def _create(args: argparse.Namespace) -> int:
    from nodes.record_files import read_records, shard_files
    from nodes.snapshots import CERTIFICATE, fleet_key, newest, signing
    from swarm.snapshots import create

    if args.source is None:
        from nodes.cli.knowledge_snapshot import create as create_of_node

        return create_of_node(args)
    if args.snapshot is None:
        raise UsageError("how is it to be called?", hint="swarm snapshot create NAME --from DIR")
    home = Home.resolve()
    files = shard_files(Path(args.source))
    target = _fresh(args, args.snapshot)
    if args.full and args.base:
        raise UsageError("--full and --base contradict each other", hint="say one of them")
    base = None if args.full else _named(args, args.base) if args.base else newest(_folder(args), set(files))
    signer, about = None, {}
    if not args.unsigned:
        try:
            own = signing(home)
        except FleetNotFound as error:
            raise FleetNotFound(
                "no fleet is known here, so there is no key to sign with",
                hint="--unsigned, or first `swarm fleet init`",
            ) from error
        signer, about = (own.public, own.sign), {CERTIFICATE: own.certificate}
    created = create(
        target,
        {name: read_records(path) for name, path in files.items()},
        created_ms=time.time_ns() // 1_000_000,
        base=base,
        key=fleet_key(home) if args.encrypt else None,
        signer=signer,
        about=about,
        compress=not args.no_compress,
    )
    shared = sum(each.shared_bytes for each in created.written)
    if args.json:
        print_json(
            {"folder": str(target), "id": created.manifest.id.hex(), "shards": len(created.written),
             "records": created.manifest.records, "new_bytes": created.new_bytes, "shared_bytes": shared,
             "base": str(base) if base else None}
        )  # fmt: skip
    else:
        more = f", {format_bytes(shared)} shared with {base.name}" if base is not None else ""
        print(f"{target}: {created.manifest.records:,} records, {format_bytes(created.new_bytes)} written{more}")
    return ExitCode.OK


def _list(args: argparse.Namespace) -> int:
    from nodes.snapshots import known_fleet, listed, signer_of
    from swarm.snapshots import Manifest

    fleet = known_fleet(Home.resolve())
    rows: list[tuple[str, ...]] = []
    lines: list[dict[str, Any]] = []
    for node, path, found in ((node, *each) for node, folder in _folders(args) for each in listed(folder)):
        if not isinstance(found, Manifest):
            rows.append((path.name, node, "", "", "", "", "DAMAGED"))
            lines.append({"name": path.name, "node": node, "folder": str(path), "damaged": str(found)})
            continue
        size = sum(line.file_bytes + sum(size for _, size in line.files) for line in found.shards)
        member = signer_of(found, fleet)
        who = member.name if member is not None else "unknown key" if found.signer else "nobody"
        age = ago(time.time() - found.created_ms / 1000)
        rows.append((path.name, node, age, f"{len(found.shards):,}", f"{found.records:,}", format_bytes(size), who))
        lines.append(
            {"name": path.name, "node": node, "folder": str(path), "id": found.id.hex(), "created": _instant(found.created_ms),
             "created_ms": found.created_ms, "shards": {line.name: line.records for line in found.shards},
             "records": found.records, "bytes": size, "parent": found.parent.hex(), "signer": found.signer.hex(),
             "member": member.name if member is not None else None}
        )  # fmt: skip
    if args.json:
        print_json(lines)
    elif rows:
        print(table(("SNAPSHOT", "NODE", "MADE", "SHARDS>", "RECORDS>", "BYTES>", "SIGNED BY"), rows))
    else:
        say(f"no snapshots in {_folder(args)}")
    return ExitCode.OK


def _verify(args: argparse.Namespace) -> int:
    from nodes.snapshots import known_fleet, signer_of
    from swarm.snapshots.checking import verify

    path = _named(args, args.snapshot)
    with Progress() as progress:
        report = verify(
            path, deep=args.deep, key=_key_for(path) if args.deep else None, progress=lambda done: progress.update(done)
        )
    member = signer_of(report.manifest, known_fleet(Home.resolve())) if report.manifest is not None else None
    if args.json:
        print_json(
            {"folder": str(path), "whole": report.whole, "files": report.files, "bytes": report.bytes, "chunks": report.chunks,
             "member": member.name if member is not None else None, "strange": report.strange,
             "damage": [_damage(each) for each in report.damage]}
        )  # fmt: skip
        return ExitCode.OK if report.whole else ExitCode.FAILED
    if report.damage:
        rows = [
            (
                each.shard,
                each.file,
                "" if each.chunk is None else f"{each.chunk:,}",
                f"{each.offset:,}",
                f"{each.size_bytes:,}",
                each.what,
            )
            for each in report.damage
        ]
        print(table(("SHARD", "FILE", "CHUNK>", "AT>", "BYTES>", "WHAT"), rows))
        print()
    for name in report.strange:
        say(f"{name} does not belong to it")
    print(
        f"{'whole' if report.whole else 'DAMAGED'}: {report.chunks:,} chunks, {format_bytes(report.bytes)} in {report.files:,} files"
    )
    if not report.whole:
        say(f"\nhint: `swarm snapshot repair {args.snapshot} --from OTHER` takes what is damaged from another copy")
    return ExitCode.OK if report.whole else ExitCode.FAILED


def _diff(args: argparse.Namespace) -> int:
    from swarm.snapshots import Snapshot
    from swarm.snapshots.differences import differences

    before, after = _named(args, args.before), _named(args, args.after)
    counts: dict[str, int] = {}
    marks = {"added": "+", "removed": "-", "changed": "~"}
    with Snapshot.open(before, key=_key_for(before)) as old, Snapshot.open(after, key=_key_for(after)) as new:
        for each in differences(old, new):
            counts[each.kind] = counts.get(each.kind, 0) + 1
            if args.json:
                print_json({"kind": each.kind, "shard": each.shard, **_key(each.key)})
            else:
                print(f"{marks[each.kind]} {each.shard}  {each.key.decode('utf-8', 'backslashreplace')}")
    if not args.json:
        say(", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items())) or "no differences")
    return ExitCode.OK


def _restore(args: argparse.Namespace) -> int:
    if args.snapshot is None:
        from nodes.cli.knowledge_snapshot import restore as restore_past

        return restore_past(args)
    if args.to is None or args.fleet:
        raise UsageError("where to is not said", hint="--to DIR; --fleet goes with --at TIME alone")
    from nodes.cli.knowledge_snapshot import restore_snapshot
    from nodes.knowledge.snapshot_files import about as is_of_node
    from nodes.record_files import SUFFIX, read_log, write_records
    from swarm.snapshots import Snapshot
    from swarm.snapshots.publishing import publishing
    from swarm.snapshots.replaying import replay

    path = _named(args, args.snapshot)
    count = 0
    with Snapshot.open(path, key=_key_for(path)) as snapshot:
        _believe(args, snapshot.manifest, path)
        if is_of_node(snapshot.manifest) and not args.log:
            return restore_snapshot(args, snapshot, path)
        if bool(args.at) != bool(args.log):
            raise UsageError(
                "--at and --log go together",
                hint="--log FILE has the changes since the snapshot, --at TIME says up to when",
            )
        until = _stamp(args.at) if args.at else None
        since = snapshot.manifest.created_ms
        with publishing(Path(args.to)) as folder, Progress(snapshot.manifest.records) as progress:
            for shard in snapshot:
                records = iter(shard)
                if until is not None:
                    records = replay(shard.name, records, read_log(Path(args.log)), since=since, until=until)
                count += write_records(folder / f"{shard.name}{SUFFIX}", records)
                progress.update(count)
    if args.json:
        print_json({"folder": args.to, "records": count, "at": _instant(since if until is None else until)})
    else:
        print(f"{args.to}: {count:,} records as they were {_instant(since if until is None else until)}")
    return ExitCode.OK


def _repair(args: argparse.Namespace) -> int:
    from nodes.snapshots import known_fleet, signer_of
    from swarm.snapshots.checking import repair, verify
    from swarm.snapshots.copies import FolderCopy

    path, other = _named(args, args.snapshot), _named(args, args.source)
    before = verify(path)
    if before.manifest is None and not args.any_signer:
        # the manifest itself comes from the other copy: then it has to be somebody's whom we believe
        from swarm.snapshots import read_manifest

        _believe(args, read_manifest(other), other)
    copy = FolderCopy(other)
    try:
        repaired, after = repair(path, copy, report=before)
    finally:
        copy.close()
    member = signer_of(after.manifest, known_fleet(Home.resolve())) if after.manifest is not None else None
    if args.json:
        print_json(
            {"folder": str(path), "whole": after.whole, "repaired": [_damage(each) for each in repaired],
             "damage": [_damage(each) for each in after.damage], "member": member.name if member is not None else None}
        )  # fmt: skip
    else:
        for each in repaired:
            print(
                f"repaired  {each.file}  {'' if each.chunk is None else f'chunk {each.chunk}  '}{each.size_bytes:,} bytes at {each.offset:,}"
            )
        for each in after.damage:
            print(f"DAMAGED   {each.file}  {each.what}: the other copy has it not")
        print("whole" if after.whole else "DAMAGED")
    return ExitCode.OK if after.whole else ExitCode.FAILED


def _pull(args: argparse.Namespace) -> int:
    from nodes.snapshots import listed
    from swarm.snapshots import read_manifest
    from swarm.snapshots.copies import FolderCopy
    from swarm.snapshots.fetching import pull

    other = args.to_node if args.action == "push" else args.from_node
    if bool(other) == bool(args.to if args.action == "push" else args.sources):
        raise UsageError("where to, or where from?", hint="a folder (--to, --from), or a node (--to-node, --from-node)")
    if other:
        from nodes.cli.knowledge_snapshot import transfer

        return transfer(args, other)
    if args.action == "push":
        sources = [_named(args, args.snapshot)]
        target = Path(args.to) / sources[0].name
    else:
        sources = [_named(args, each) for each in args.sources]
        _believe(args, read_manifest(sources[0]), sources[0])
        target = _fresh(args, args.snapshot)
    copies = [FolderCopy(each) for each in sources]
    with Progress() as screen:

        def told(progress: Any) -> None:
            screen.total = progress.bytes_total
            screen.update(progress.bytes, note=f"{format_bytes(progress.bytes)}")

        try:
            manifest, progress = pull(target, copies, have=[path for path, _ in listed(target.parent)], told=told)
        finally:
            for each in copies:
                each.close()
    facts = {
        "folder": str(target), "id": manifest.id.hex(), "chunks": progress.chunks, "bytes": progress.bytes,
        "reused_bytes": progress.reused_bytes, "kept_bytes": progress.kept_bytes, "wrong": progress.wrong,
    }  # fmt: skip
    if args.json:
        print_json(facts)
    else:
        here = progress.reused_bytes + progress.kept_bytes
        reused = f", {format_bytes(here)} were here" if here else ""
        print(
            f"{target}: {progress.chunks:,} chunks, {format_bytes(progress.bytes)} from {len(sources)} cop{'y' if len(sources) == 1 else 'ies'}{reused}"
        )
    return ExitCode.OK


def _believe(args: argparse.Namespace, manifest: Any, path: Path) -> None:
    from nodes.snapshots import known_fleet, require_member

    fleet = known_fleet(Home.resolve())
    # without a fleet there is nobody to tell members from others: what lies on this disk is the user's own word
    if not args.any_signer and (fleet is not None or manifest.signer):
        require_member(manifest, fleet, path)


def _key_for(path: Path) -> bytes | None:
    """The fleet's key, when there is a fleet: it is used for what is encrypted alone."""
    from nodes.snapshots import fleet_key, known_fleet

    home = Home.resolve()
    return fleet_key(home) if known_fleet(home) is not None else None


def _damage(each: Any) -> dict[str, Any]:
    return {
        "shard": each.shard, "file": each.file, "chunk": each.chunk, "offset": each.offset, "bytes": each.size_bytes,
        "what": each.what, "hash": each.hash.hex(),
    }  # fmt: skip


def _key(key: bytes) -> dict[str, str]:
    try:
        return {"key": key.decode()}
    except UnicodeDecodeError:
        return {"key64": base64.b64encode(key).decode()}


def _instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


def _stamp(text: str) -> int:
    if text.isdigit():
        return int(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--at {text!r} is no time", hint="for example 2026-11-22T08:00:00+00:00, or milliseconds since 1970"
        ) from None
    return int(found.astimezone(UTC).timestamp() * 1000)


_RUN: Final = {
    "create": _create, "list": _list, "verify": _verify, "diff": _diff, "restore": _restore, "repair": _repair, "pull": _pull, "push": _pull,
}  # fmt: skip
