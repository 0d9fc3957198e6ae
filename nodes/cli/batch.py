"""Batches: what was handed over together. List them, look at one, wait for it, and have its results, from any machine.

A durable batch (--durability node or fleet) goes on without whoever submitted it. It is named by its id or by the first
characters of it, as long as only one begins with them; the id of one of its tasks will do, too.
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
from nodes.cli.screen import Progress, ago, print_json, say, short, table
from nodes.cli.task import EXITS
from swarm.errors import NotFound, SwarmError, TaskTimeout
from swarm.exit_codes import ExitCode
from swarm.protocol import ids
from swarm.units import format_duration

POLL_S: Final = 0.5
MATCHES_MAX: Final = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm batch`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|wait|results|cancel|nice|explain")
    listed = actions.add_parser("list", help="the latest batches")
    listed.add_argument("--durable", action="store_true", help="only those that outlive their node")
    listed.add_argument("--limit", type=whole(1), default=50, metavar="N", help="at most N (50)")
    show = actions.add_parser("show", help="all that is known of one")
    show.add_argument("batch", metavar="ID")
    wait = actions.add_parser("wait", help="until all of its tasks have ended; the status says how")
    wait.add_argument("batch", metavar="ID")
    wait.add_argument("--timeout", type=duration, metavar="TIME", help="give up after this long, with status 124")
    results = actions.add_parser("results", help="its results, one a line, in the order of its tasks")
    results.add_argument("batch", metavar="ID")
    results.add_argument("--timeout", type=duration, metavar="TIME", help="give up after this long, with status 124")
    results.add_argument(
        "--as-they-end", action="store_true", help="in the order in which they end, with their numbers"
    )
    cancel = actions.add_parser("cancel", help="stop what has not ended")
    cancel.add_argument("batch", metavar="ID")
    nice = actions.add_parser("nice", help="have them sooner or later, whether their tasks wait or run")
    nice.add_argument("batches", nargs="+", metavar="ID")
    add_urgency_arguments(nice)
    explain = actions.add_parser("explain", help="what each node knows of one: where it is when it does not end")
    explain.add_argument("batch", metavar="ID")
    for each in actions.choices.values():
        add_common_arguments(each, action=True)
        add_client_arguments(each)


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    actions = {
        "list": _list, "show": _show, "wait": _wait, "results": _results, "cancel": _cancel, "nice": _nice,
        "explain": _explain,
    }  # fmt: skip
    with connected(args) as fleet:
        return actions[args.action](fleet, args)


def _list(fleet: Any, args: argparse.Namespace) -> int:
    batches = fleet.query("batches", limit=args.limit, durable=args.durable).get("batches", [])
    if args.json:
        print_json(batches)
        return ExitCode.OK
    rows = [
        (
            short(batch.get("id")),
            batch.get("name", ""),
            f"{batch.get('done', 0):,}/{batch.get('count', 0):,}",
            batch.get("state", ""),
            _kept(batch),
            batch.get("node", ""),
            ago(batch.get("age_s")),
        )
        for batch in batches
    ]
    print(table(("BATCH", "WHAT", "DONE>", "STATE", "ON", "LED BY", "SUBMITTED"), rows))
    return ExitCode.OK


def _kept(batch: dict[str, Any]) -> str:
    """Where it is kept."""
    if batch.get("durability") in (None, "none"):
        return "memory"
    copies, hosts = int(batch.get("copies") or 0), int(batch.get("hosts") or 0)
    if not copies:
        return "not yet"
    return f"{copies} disk{'s' * (copies > 1)}, {hosts} host{'s' * (hosts > 1)}"


def _show(fleet: Any, args: argparse.Namespace) -> int:
    shown = _attached(fleet, args.batch).status()
    shown.pop("chunked", None)
    if args.json:
        print_json(shown)
        return ExitCode.OK
    width = max(len(key) for key in shown)
    for key, value in shown.items():
        if key.endswith("_s") and isinstance(value, int | float):
            key, value = key[:-2], format_duration(float(value))
        elif isinstance(value, dict):
            value = ", ".join(f"{count:,} {what}" for what, count in value.items()) or "none yet"
        print(f"{key:<{width}}  {value}")
    return ExitCode.OK


def _wait(fleet: Any, args: argparse.Namespace) -> int:
    attached, ends = _attached(fleet, args.batch), _ends(args)
    with Progress(attached.count) as progress:
        while True:
            shown = attached.status()
            progress.update(int(shown["done"]), note=str(shown["name"]))
            if shown["state"] == "done":
                break
            if ends is not None and time.monotonic() >= ends:
                raise TaskTimeout(
                    f"{short(shown['id'])} has not ended in the time given: {shown['done']:,} of {shown['count']:,} tasks have",
                    hint="`swarm batch show` says how far it is",
                )
            time.sleep(POLL_S if ends is None else max(0.0, min(POLL_S, ends - time.monotonic())))
    if args.json:
        print_json(shown)
    return _status(shown["outcomes"])


def _status(outcomes: dict[str, int]) -> int:
    """The exit status for how tasks ended: that of one kind of failure, or 1 for several."""
    kinds = {EXITS[kind] for kind, count in outcomes.items() if count} - {ExitCode.OK}
    return ExitCode.OK if not kinds else kinds.pop() if len(kinds) == 1 else ExitCode.FAILED


def _results(fleet: Any, args: argparse.Namespace) -> int:
    attached, failed = _attached(fleet, args.batch), 0
    kept: dict[int, Any] = {}
    at = 0
    try:
        for index, value in attached.outcomes(args.timeout):
            failed += isinstance(value, BaseException)
            if args.as_they_end:
                _print(index, value, args)
                continue
            kept[index] = value
            while at in kept:
                _print(at, kept.pop(at), args)
                at += 1
    except TimeoutError as error:
        raise TaskTimeout(str(error), hint="`swarm batch show` says how far it is") from None
    for index in sorted(kept):  # of one task of a batch
        _print(index, kept[index], args)
    if failed and not args.json:
        say(f"{failed:,} of {attached.count:,} tasks have no result")
    return ExitCode.FAILED if failed else ExitCode.OK


def _print(index: int, value: Any, args: argparse.Namespace) -> None:
    failure = isinstance(value, BaseException)
    if args.json:
        said = {"error": str(value), "kind": type(value).__name__} if failure else {"value": value}
        print_json({"index": index, **said})
    elif failure:
        hint = value.hint if isinstance(value, SwarmError) else ""
        say(f"{index}: {type(value).__name__}: {value}{f' ({hint})' if hint else ''}")
    else:
        print(f"{index}\t{value!r}" if args.as_they_end else repr(value))
        sys.stdout.flush()


def _cancel(fleet: Any, args: argparse.Namespace) -> int:
    attached = _attached(fleet, args.batch)
    attached.cancel()
    shown = attached.status()
    if args.json:
        print_json(shown)
    else:
        print(
            f"{short(shown['id'])} {shown['name']}: cancelled; {shown['done']:,} of {shown['count']:,} tasks had ended"
        )
    return ExitCode.OK


def _nice(fleet: Any, args: argparse.Namespace) -> int:
    asked, answers = urgency(args), []
    for batch in args.batches:
        attached = _attached(fleet, batch)
        attached.reprioritize(**asked)
        answers.append(attached.status())
    if args.json:
        print_json(answers)
        return ExitCode.OK
    for shown in answers:
        now = f"{str(shown['priority']).upper()}, nice {shown['nice']}, {shown['state']}"
        print(f"{short(shown['id'])} {shown['name']}: {'had ended before' if shown['state'] == 'done' else now}")
    return ExitCode.OK


def _explain(fleet: Any, args: argparse.Namespace) -> int:
    word = _word(fleet, args.batch)
    try:
        key, _ = ids.parse_any(word)
    except ValueError as error:
        raise NotFound(
            f"{args.batch!r} is no id: {error}", hint="swarm batch list shows those that there are"
        ) from None
    views = fleet.query("batch.explain", batch=key)["views"]
    if args.json:
        print_json(views)
        return ExitCode.OK
    for view in views:
        name = str(view.pop("node"))
        print("\n".join(_lines(name, view) or [f"{name}: nothing"]))
    return ExitCode.OK


def _lines(name: str, value: Any, indent: str = "") -> list[str]:
    """A value of several parts, a line each; what is empty is left out."""
    if isinstance(value, dict):
        parts = [line for key, part in value.items() for line in _lines(str(key), part, indent + "  ")]
        return [f"{indent}{name}:", *parts] if parts else []
    if isinstance(value, list) and value and isinstance(value[0], dict | str):
        parts = [line for part in value for line in _lines("-", part, indent + "  ")]
        return [f"{indent}{name}:", *parts]
    return [] if value in (None, "", []) else [f"{indent}{name} {value}" if name == "-" else f"{indent}{name}: {value}"]


def _attached(fleet: Any, text: str) -> Any:
    """A batch by its id, the id of a task of it, or the beginning of its own."""
    return fleet.attach(_word(fleet, text))


def _word(fleet: Any, text: str) -> str:
    """A whole id."""
    word = text.lower()
    if len(word) < ids.TEXT_LENGTH:
        found = fleet.query("batches", limit=MATCHES_MAX, prefix=word).get("batches", [])
        if not found:
            raise NotFound(
                f"no batch {text!r} is kept in this fleet", hint="swarm batch list shows those that there are"
            )
        if len(found) > 1:
            matches = [str(batch["id"]) for batch in found]
            raise NotFound(f"{text!r} begins more than one id", hint="give more characters", matches=matches)
        word = str(found[0]["id"])
    return word


def _ends(args: argparse.Namespace) -> float | None:
    return None if args.timeout is None else time.monotonic() + args.timeout
