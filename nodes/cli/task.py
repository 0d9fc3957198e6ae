"""Tasks: list them, look at one, wait for it, read what it wrote, cancel it, move it, and have explained why it is where it is.

A task is named by its id or by the first characters of it, as long as only one begins with them.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, Final

from nodes.cli.arguments import (
    add_client_arguments,
    add_common_arguments,
    add_urgency_arguments,
    duration,
    urgency,
    whole,
)
from nodes.cli.connecting import connected
from nodes.cli.interrupts import Interrupts
from nodes.cli.screen import ago, paint, print_json, say, short, table
from swarm.errors import MoveRefused, TaskTimeout
from swarm.exit_codes import ExitCode
from swarm.units import format_duration

POLL_FIRST_S: Final = 0.05
POLL_MAX_S: Final = 1.0
STATES: Final = ("waiting", "placed", "running", "recording")
# final states as the owner names them (swarm.protocol.states.Status, lower case)
EXITS: Final = {
    "ok": ExitCode.OK,
    "failed": ExitCode.FAILED,
    "cancelled": ExitCode.CANCELLED,
    "timeout": ExitCode.TIMEOUT,
    "crashed": ExitCode.FAILED,
    "lost": ExitCode.LOST,
    "refused": ExitCode.REFUSED,
    "dependency": ExitCode.FAILED,
    "quarantined": ExitCode.FAILED,
    "expired": ExitCode.REFUSED,
}
_COLOURS: Final = {"ok": "green", "running": "cyan", "waiting": "dim"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm task`."""
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="list|show|wait|logs|cancel|move|nice|explain"
    )
    listed = actions.add_parser("list", help="the latest tasks")
    listed.add_argument("--state", action="append", choices=(*STATES, *EXITS), help="only those in this state")
    listed.add_argument("--limit", type=whole(1), default=50, metavar="N", help="at most N (50)")
    for name, about in (
        ("show", "all that is known of one"),
        ("explain", "why it waits, ran there, failed or was run again"),
    ):
        one = actions.add_parser(name, help=about)
        one.add_argument("task", metavar="ID")
    wait = actions.add_parser("wait", help="until they have ended; the status says how")
    wait.add_argument("tasks", nargs="+", metavar="ID")
    wait.add_argument("--timeout", type=duration, metavar="TIME", help="give up after this long, with status 124")
    logs = actions.add_parser("logs", help="what it wrote")
    logs.add_argument("task", metavar="ID")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until it ends")
    cancel = actions.add_parser("cancel", help="stop them, and what they have started")
    cancel.add_argument("tasks", nargs="+", metavar="ID")
    move = actions.add_parser(
        "move",
        help="have it go on at another node",
        description="Have a task that runs go on at another node, from its next safe point. Exit status: 0 when it goes on "
        "there, 6 when there is no such task or node, 5 when it does not run, offers no checkpoint or never fits there, 75 when "
        "that node has no slot for it now, 124 when it came to no safe point in time.",
    )
    move.add_argument("task", metavar="ID")
    move.add_argument("node", metavar="NODE", help="its name, as swarm status shows it")
    move.add_argument(
        "--within", type=duration, default=30.0, metavar="TIME", help="how long it has to come to one (30s)"
    )
    nice = actions.add_parser("nice", help="have them sooner or later, whether they wait or run")
    nice.add_argument("tasks", nargs="+", metavar="ID")
    add_urgency_arguments(nice)
    for each in actions.choices.values():
        add_common_arguments(each, action=True)
        add_client_arguments(each)


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    actions = {
        "list": _list, "show": _show, "explain": _explain, "wait": _wait, "logs": _logs, "cancel": _cancel, "move": _move,
        "nice": _nice,
    }  # fmt: skip
    with connected(args) as fleet:
        return actions[args.action](fleet, args)


def _list(fleet: Any, args: argparse.Namespace) -> int:
    tasks = fleet.query("tasks", limit=args.limit, states=args.state or []).get("tasks", [])
    if args.json:
        print_json(tasks)
        return ExitCode.OK
    rows = [
        (
            short(task.get("id")),
            task.get("name", ""),
            str(task.get("priority", "")).upper(),
            task.get("state", ""),
            task.get("node", ""),
            ago(task.get("age_s")),
            "" if task.get("run_s") is None else format_duration(float(task["run_s"])),
        )
        for task in tasks
    ]
    print(table(("TASK", "WHAT", "PRIORITY", "STATE", "NODE", "SUBMITTED", "RAN>"), rows))
    return ExitCode.OK


def _show(fleet: Any, args: argparse.Namespace) -> int:
    task = fleet.query("task", task=args.task)
    if args.json:
        print_json(task)
        return ExitCode.OK
    width = max((len(key) for key in task), default=0)
    for key, value in task.items():
        if key.endswith("_s") and isinstance(value, int | float):
            key, value = key[:-2], format_duration(float(value))
        print(f"{key:<{width}}  {_colour(value) if key == 'state' else value}")
    return ExitCode.OK


def _explain(fleet: Any, args: argparse.Namespace) -> int:
    answer = fleet.query("explain", task=args.task)
    if args.json:
        print_json(answer)
        return ExitCode.OK
    lines = answer.get("lines", [])
    for index, line in enumerate(lines):
        print(line if index == 0 else f"  {line}")
    return ExitCode.OK


def _wait(fleet: Any, args: argparse.Namespace) -> int:
    deadline = None if args.timeout is None else time.monotonic() + args.timeout
    worst = ExitCode.OK
    ended = []
    for task in args.tasks:
        shown = _until_ended(fleet, task, deadline)
        ended.append(shown)
        status = EXITS[str(shown["state"])]
        worst = worst if worst is not ExitCode.OK else status
        if not args.json and status is not ExitCode.OK:
            what = f"{short(shown.get('id'))} {shown.get('name', '')}: {shown['state']}"
            say(f"{what} {shown.get('message', '')}".rstrip())
    if args.json:
        print_json(ended)
    return worst


def _until_ended(fleet: Any, task: str, deadline: float | None) -> dict[str, Any]:
    pause_s = POLL_FIRST_S
    while True:
        shown: dict[str, Any] = fleet.query("task", task=task)
        if shown.get("state") in EXITS:
            return shown
        if deadline is not None and time.monotonic() >= deadline:
            raise TaskTimeout(
                f"{short(shown.get('id') or task)} has not ended in the time given; it is {shown.get('state')}",
                hint=f"`swarm task explain {task}` says why",
            )
        time.sleep(pause_s if deadline is None else max(0.0, min(pause_s, deadline - time.monotonic())))
        pause_s = min(POLL_MAX_S, pause_s * 1.5)


def _logs(fleet: Any, args: argparse.Namespace) -> int:
    offset = 0
    pause_s = POLL_FIRST_S
    while True:
        # asked before the text: what it wrote at its very end is then in the text
        ended = not args.follow or fleet.query("task", task=args.task).get("state") in EXITS
        answer = fleet.query("logs", task=args.task, offset=offset)
        chunks = answer.get("chunks", [])
        if args.json:
            print_json(answer)
        else:
            if offset == 0 and answer.get("dropped"):
                say(f"({answer['dropped']:,} bytes before this were not kept)")
            for stream, data in chunks:
                target = sys.stderr if stream == "err" else sys.stdout
                target.buffer.write(data if isinstance(data, bytes) else str(data).encode())
                target.buffer.flush()
        offset = int(answer.get("offset", offset))
        if ended:
            return ExitCode.OK
        pause_s = POLL_FIRST_S if chunks else min(POLL_MAX_S, pause_s * 1.5)
        time.sleep(pause_s)


def _cancel(fleet: Any, args: argparse.Namespace) -> int:
    answers = []
    with Interrupts(lambda _: None, "the rest is not cancelled") as interrupts:
        for task in args.tasks:
            if interrupts.signal:
                break
            answers.append(fleet.query("cancel", task=task))
    if args.json:
        print_json(answers)
    else:
        for task, answer in zip(args.tasks, answers):
            was = answer.get("state", "")
            gone = "had ended before" if was in EXITS and was != "cancelled" else "cancelled"
            print(f"{short(answer.get('id') or task)} {answer.get('name', '')}: {gone}")
    return interrupts.exit_status


def _move(fleet: Any, args: argparse.Namespace) -> int:
    try:
        answer = fleet.move(args.task, args.node, within_s=args.within)
    except MoveRefused as refused:
        if not args.json:
            raise
        print_json({"moved": False, "message": refused.message} | refused.facts)
        return refused.exit_code
    if args.json:
        print_json(answer)
    else:
        took = format_duration(float(answer["took_s"]))
        print(f"{short(answer['id'])} {answer['name']}: goes on at {answer['node']}, {took} after it was asked")
    return ExitCode.OK


def _nice(fleet: Any, args: argparse.Namespace) -> int:
    asked, answers = urgency(args), []
    for task in args.tasks:
        answers.append(fleet.query("nice", task=task, **asked))
    if args.json:
        print_json(answers)
        return ExitCode.OK
    for answer in answers:
        now = f"{str(answer['priority']).upper()}, nice {answer['nice']}, {answer['state']}"
        said = "had ended before" if answer["state"] in EXITS else now
        print(f"{short(answer['id'])} {answer['name']}: {said}")
    return ExitCode.OK


def _colour(state: object) -> str:
    return paint(str(state), _COLOURS.get(str(state), "red"))
