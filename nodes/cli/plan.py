"""Where tasks would run if they were submitted now, who would make way for them, and when they would begin.

swarm plan --priority critical --needs cpu=2 --count 3

A dry run at the node that answers: nothing is submitted and no slot is kept, so a moment later it may be otherwise. Exit
status: 0 when all would begin at once, 75 when some would wait, 5 when no node takes such tasks.
"""

from __future__ import annotations

import argparse
from typing import Any, Final

from nodes.cli.arguments import PRIORITIES, add_client_arguments, needs, whole
from nodes.cli.connecting import ask
from nodes.cli.screen import print_json, short, table
from swarm.exit_codes import ExitCode
from swarm.units import format_bytes, format_duration

EXITS: Final = {"at once": ExitCode.OK, "later": ExitCode.BUSY, "never": ExitCode.REFUSED}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm plan`."""
    group = parser.add_argument_group("the tasks")
    group.add_argument(
        "-p", "--priority", choices=PRIORITIES, default="standard", help="how urgent they are (standard)"
    )
    group.add_argument(
        "--needs",
        action="append",
        default=[],
        metavar="NAME=N",
        help="of each: cpu=2, memory=4GB, gpu=1, or a resource of yours",
    )
    group.add_argument("--label", dest="labels", action="append", default=[], help="only on nodes with this label")
    group.add_argument("--count", type=whole(1), default=1, metavar="N", help="how many there are (1)")
    add_client_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print it; the status says when they would begin."""
    answer = ask(
        args,
        "plan",
        priority=PRIORITIES.index(args.priority),
        needs=needs(args.needs),
        labels=args.labels,
        count=args.count,
    )
    if args.json:
        print_json(answer)
    else:
        print(render(answer))
    return EXITS[str(answer["begins"])]


def render(plan: dict[str, Any]) -> str:
    """What would happen, the nodes with the best first, who would make way, and what to do about it."""
    count, at_once = int(plan["count"]), int(plan["at_once"])
    wants = [f"{name}={_amount(name, value)}" for name, value in plan["needs"].items()]
    wants += [f"label {label}" for label in plan["labels"]]
    what = f"{count:,} task{'' if count == 1 else 's'}, {str(plan['priority']).upper()}, {' '.join(wants)}"
    lines = [f"plan   {what}: {_begins(plan)}", f"asked  {plan['node']}"]
    if plan["begins"] == "later":
        if at_once:
            lines.append(f"room   {at_once:,} would begin at once, {count - at_once:,} would wait")
        if plan["ahead"]:
            lines.append(f"ahead  {int(plan['ahead']):,} tasks that wait at {plan['node']} go first")
    lines += ["", table(("NODE", "FITS", "AT ONCE>", "NEXT", "WHY"), [_row(each) for each in plan["nodes"]])]
    displaced = [(node["name"], task) for node in plan["nodes"] for task in node["displaced"]]
    if displaced:
        rows = [
            (
                short(task["id"]),
                task["name"],
                str(task["priority"]).upper(),
                name,
                format_duration(float(task["run_s"])),
            )
            for name, task in displaced
        ]
        lines += ["", table(("MAKES WAY", "WHAT", "PRIORITY", "NODE", "HAS RUN>"), rows)]
    if plan["hint"]:
        lines += ["", f"hint: {plan['hint']}"]
    return "\n".join(lines)


def _begins(plan: dict[str, Any]) -> str:
    if plan["begins"] != "later":
        return "would begin at once" if plan["begins"] == "at once" else "would never begin"
    if plan["at_once"]:
        return "would not all begin at once"
    if plan["begins_s"] is None:
        return "would have to wait, it is not known for how long"
    return f"would begin {_when(plan['begins_s'])}"


def _row(node: dict[str, Any]) -> tuple[object, ...]:
    if not node["fits"]:
        return node["name"], "no", "", "", node["why"]
    why = node["why"] or ("has free slots" if node["room"] else "is full")
    said = f"; it does not answer: {node['silent']}" if node.get("silent") else ""
    return node["name"], "yes", f"{node['tasks']:,}", _when(node["next_s"]), why + said


def _when(seconds: float | None) -> str:
    if seconds is None:
        return "not known"
    return "at once" if seconds <= 0 else f"in about {format_duration(float(seconds))}"


def _amount(name: str, amount: float) -> str:
    return format_bytes(amount) if name == "memory" else f"{amount:g}"
