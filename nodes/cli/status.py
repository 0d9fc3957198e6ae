"""The fleet at a glance, as the node that answers sees it."""

from __future__ import annotations

import argparse
from typing import Any

from nodes.cli.arguments import add_client_arguments
from nodes.cli.connecting import ask
from nodes.cli.screen import paint, print_json, short, table
from swarm.exit_codes import ExitCode
from swarm.units import format_bytes, format_duration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm status`."""
    add_client_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print it."""
    answer = ask(args, "status")
    if args.json:
        print_json(answer)
    else:
        print(render(answer))
    return ExitCode.OK


def render(status: dict[str, Any]) -> str:
    """A few lines, and a table of the nodes."""
    members: list[dict[str, Any]] = status.get("members", [])
    lines = [f"fleet  {paint(str(status.get('fleet', '')), 'bold')}, {_count(len(members), 'node')}"]
    node = status.get("node")
    if isinstance(node, dict):
        up = f", up {format_duration(float(node['up_s']))}" if "up_s" in node else ""
        if node.get("withheld"):
            lines.append(f"slots  fewer are offered on {node.get('name', '')}: {', '.join(map(str, node['withheld']))}")
        lines.append(f"asked  {node.get('name', '')} {short(node.get('id'))}{up}")
        if node.get("lowers") is False:
            lines.append(f"low    {node.get('low_work', '')}")
    tasks = status.get("tasks")
    if isinstance(tasks, dict) and tasks:
        lines.append("tasks  " + ", ".join(f"{int(count):,} {state}" for state, count in tasks.items()))
    classes = status.get("classes")
    if isinstance(classes, dict):
        shown = [
            (name, _states(states)) for name, states in reversed(list(classes.items())) if isinstance(states, dict)
        ]
        if any(said for _, said in shown):
            lines.append("class  " + "; ".join(f"{name.upper()} {said}" for name, said in shown if said))
    blobs = status.get("blob_bytes")
    if blobs is not None:
        lines.append(f"blobs  {format_bytes(float(blobs))}")
    if status.get("releases"):
        lines.append(f"mixed  {status['releases']}")
    ledger = status.get("ledger")
    if isinstance(ledger, dict):
        lines.append(f"ledger {_ledger(ledger)}")
    twin = status.get("twin")
    if isinstance(twin, dict):
        lines.append(
            f"twin   another node with this one's identity came {format_duration(float(twin['found_s']))} ago at {twin['at']}, "
            "and was refused: a copy of its files, which is to be removed there"
        )
    return "\n".join([*lines, "", members_table(members)])


def _ledger(ledger: dict[str, Any]) -> str:
    """What of the asked node's own log survives what."""
    own = next((group for group in ledger.get("groups", ()) if group.get("own")), None)
    size = format_bytes(float(ledger.get("journal_bytes", 0)))
    if ledger.get("journal_full"):
        return f"the disk is full: no durable task is accepted ({size} of journal)"
    if own is None:
        return f"{size} of journal"
    voters, learners = own.get("voters", []), own.get("learners", [])
    if own.get("damaged"):
        said = "damaged: it neither votes nor acknowledges until it has been repaired from the others"
    elif len(voters) >= 3:
        away = own.get("absent", [])
        said = f"kept by {', '.join(voters)}: any one of them may fail"
        said += f", and {', '.join(away)} is away now" if away else ""
    elif learners:
        said = (
            f"kept here, with a copy on {', '.join(learners)}: fewer than three machines, so nobody takes over by "
            "himself (swarm fleet recover)"
        )
    else:
        said = "kept on this machine alone: if its disk is lost, so are its durable tasks"
    more = f"; {int(own['unfinished']):,} tasks unfinished" if own.get("unfinished") else ""
    where = str(ledger.get("journal", ""))
    elsewhere = f"; its journal is in {where}" if where.startswith("postgresql:") else ""
    return f"{said}{more}{elsewhere}"


def members_table(members: list[dict[str, Any]]) -> str:
    """One line a node: what it is, what it does, where it is."""
    busy = any(member.get("classes") for member in members)
    rows = [
        (
            member.get("name", ""),
            short(member.get("id")),
            member.get("state", ""),
            f"{member.get('busy', 0):g}/{float(member.get('slots', 0)) - float(member.get('withheld', 0)):g}",
            f"{member.get('queued', 0):,}",
            *((_classes(member.get("classes") or {}),) if busy else ()),
            " ".join(map(str, member.get("labels", ()))),
            member.get("address", ""),
        )
        for member in sorted(members, key=lambda each: str(each.get("name", "")))
    ]
    titles = ("NODE", "ID", "STATE", "BUSY>", "WAITING>", *(("RUNNING",) if busy else ()), "LABELS", "ADDRESS")
    return table(titles, rows)


def _classes(classes: dict[str, dict[str, int]]) -> str:
    """What runs on a node by class, the most urgent first, and how many of it stand still."""
    said = []
    for name, counts in reversed(list(classes.items())):
        running, suspended = int(counts.get("running", 0)), int(counts.get("suspended", 0))
        still = f"({suspended:,} suspended)" if suspended else ""
        said.append(" ".join(part for part in (f"{running:,} {name}" if running else f"0 {name}", still) if part))
    return ", ".join(said)


def _states(states: dict[str, Any]) -> str:
    return ", ".join(f"{int(count):,} {state}" for state, count in states.items() if count)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
