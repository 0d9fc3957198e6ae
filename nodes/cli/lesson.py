"""Lessons: what the fleet learned from failures, what follows from it, and how to end or to add one.

  swarm lesson list
  swarm lesson show KEY
  swarm lesson why TASK
  swarm lesson forget KEY
  swarm lesson add "the licence is on ash only" --node oak --for 7d
  swarm lesson add "large scenes" --callable render --needs memory=8GB --timeout 10m

KEY is the beginning of a key that `list` shows, as much as is enough. A lesson that was added is about every task, unless
--callable says about which (as its name is shown: module:function for what nodes have installed).
"""

from __future__ import annotations

import argparse
import re
import time
from typing import Any, Final

from nodes.cli.arguments import add_client_arguments, add_common_arguments, duration, needs
from nodes.cli.connecting import connected
from nodes.cli.knowledge import names_of
from nodes.cli.screen import ago, print_json, say, short, table
from swarm.errors import NotFound, UsageError
from swarm.exit_codes import ExitCode
from swarm.protocol.lessons.advice import (
    DELAY_MS_MAX,
    PARAMETERS,
    Advice,
    AdviceError,
    Ask,
    Avoid,
    Change,
    Quarantine,
    Require,
    RetryAfter,
    shown,
)
from swarm.protocol.lessons.families import reflected
from swarm.protocol.lessons.fingerprints import Failed
from swarm.protocol.lessons.heeding import LASTING_MS_MAX, Known, Lesson, LessonError, explained
from swarm.protocol.lessons.names import call_named
from swarm.protocol.lessons.records import Record, RecordError
from swarm.protocol.owner.teaching import key_of, read_value, value_of
from swarm.units import format_duration

_ACTIONS: Final = "list|show|why|forget|add"
_KEYS_IN: Final = re.compile(r"\blesson ([0-9a-f]{8})\b")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm lesson`."""
    actions = parser.add_subparsers(dest="action", metavar=_ACTIONS, required=True)
    actions.add_parser("list", help="all lessons that are known")
    show = actions.add_parser("show", help="one lesson: where it was seen, what it advises, how often it was right")
    show.add_argument("key", metavar="KEY")
    why = actions.add_parser("why", help="which lessons had to do with a task")
    why.add_argument("task", metavar="TASK")
    forget = actions.add_parser("forget", help="end a lesson, on every node")
    forget.add_argument("key", metavar="KEY")
    add = actions.add_parser("add", help="add a lesson by hand")
    add.add_argument("cause", metavar="CAUSE", help="what is the matter, in a sentence")
    add.add_argument("--callable", default="", metavar="NAME", help="about tasks of this name only")
    add.add_argument("--node", default="", metavar="NAME", help="avoid this node")
    add.add_argument("--label", default="", metavar="LABEL", help="avoid nodes that have this label")
    add.add_argument("--require", default="", metavar="LABEL", help="only nodes that have this label")
    add.add_argument(
        "--needs", action="append", default=[], metavar="NAME=AMOUNT", help="reserve at least so much, as memory=2GB"
    )
    add.add_argument("--wait", type=duration, metavar="DURATION", help="begin so long after now")
    add.add_argument(
        "--timeout", type=duration, metavar="DURATION", help="let it take so long, where timeout_max_s allows it"
    )
    add.add_argument("--quarantine", type=duration, metavar="DURATION", help="do not run it for so long (--callable)")
    add.add_argument("--ask", default="", metavar="QUESTION", help="a question for a person")
    add.add_argument(
        "--for", dest="lasting", type=duration, default=30 * 86_400.0, metavar="DURATION", help="how long it is likely to be so (30d)"
    )  # fmt: skip
    for each in actions.choices.values():
        add_common_arguments(each, action=True)
        add_client_arguments(each)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    with connected(args) as fleet:
        return int(_RUN[args.action](args, fleet))


def _list(args: argparse.Namespace, fleet: Any) -> int:
    found = _known(fleet)
    if args.json:
        for key, known in found.items():
            print_json(_fields(key, known))
    elif found:
        rows = [
            (key[:8], known.lesson.family, known.lesson.cause[:60], _where(known.lesson), "; ".join(map(shown, known.lesson.advice)))
            for key, known in found.items()
        ]  # fmt: skip
        print(table(("KEY", "FAMILY", "CAUSE", "WHERE", "ADVICE"), rows))
    else:
        say("nothing was learned yet")
    return ExitCode.OK


def _show(args: argparse.Namespace, fleet: Any) -> int:
    names = names_of(fleet)
    for key, known in _named(fleet, args.key).items():
        told = [(names.get(one.author, short(one.author)), one) for one in fleet.knowledge.said("lessons", key)]
        if args.json:
            by = [{"node": name, "id": one.author, "at": one.at, "task": one.task} for name, one in told]
            print_json(_fields(key, known) | {"told": by})
            continue
        record = known.record
        print(f"key     {key}\n{explained(known)}")
        for one in known.lesson.advice:
            print(f"advice  {shown(one)}")
        print(
            f"record  heeded {record.uses} times, right {record.successes}, wrong {record.failures}, probed {record.probes}"
        )
        for name, one in told:
            print(
                f"told    {ago(time.time() - one.at)} by {name}"
                + (f", taught by {short(one.task)}" if one.task else "")
            )
    return ExitCode.OK


def _why(args: argparse.Namespace, fleet: Any) -> int:
    lines = [line.strip() for line in fleet.query("explain", task=args.task)["lines"]]
    found = [line for line in lines if "lesson" in line or line.startswith("ask: ")]
    begins = {key for line in found for key in _KEYS_IN.findall(line)}
    known = {key: one for key, one in _known(fleet).items() if key[:8] in begins}
    if args.json:
        print_json({"task": args.task, "lines": found, "lessons": [_fields(key, one) for key, one in known.items()]})
        return ExitCode.OK
    if not found:
        say("no lesson had to do with this task")
    for line in found:
        print(line)
    for key, one in known.items():
        print(f"{key[:8]}: {'; '.join(map(shown, one.lesson.advice))}")
    return ExitCode.OK


def _forget(args: argparse.Namespace, fleet: Any) -> int:
    for key in _named(fleet, args.key):
        fleet.knowledge.drop("lessons", key)
        if args.json:
            print_json({"key": key, "forgotten": True})
    return ExitCode.OK


def _add(args: argparse.Namespace, fleet: Any) -> int:
    advice: list[Advice] = []
    ties: list[tuple[str, str]] = []
    for tie, value in (("node", args.node), ("label", args.label)):
        if value:
            advice.append(Avoid(tie, value))
            ties.append((tie, value))
    everywhere = _everywhere(args)
    if (ties and everywhere) or len(ties) > 1:
        raise UsageError("it is about a machine, or about all of them", hint="add two lessons")
    advice += everywhere
    if args.ask:
        advice.append(Ask(args.ask))
    if not advice:
        hint = "give --node, --label, --require, --needs, --wait, --timeout, --quarantine or --ask"
        raise UsageError("it advises nothing", hint=hint)
    lasting_ms = _ms("--for", args.lasting, LASTING_MS_MAX)
    now_ms = time.time_ns() // 1_000_000
    diagnosis = reflected(Failed(message=args.cause), args.cause, tuple(advice))
    calls = (call_named(args.callable),) if args.callable else ()
    lesson = Lesson(
        diagnosis.pattern, diagnosis.family, args.callable[:120], diagnosis.cause, calls, tuple(ties), diagnosis.advice, lasting_ms, now_ms
    )  # fmt: skip
    try:
        known = Known(Lesson.read(lesson.plain()), Record(evidence_ms=now_ms))
    except (LessonError, AdviceError) as error:
        raise UsageError(str(error)) from None
    key = key_of(lesson)
    fleet.knowledge.put("lessons", key, value_of(known))
    if args.json:
        print_json(_fields(key, known))
    else:
        print(key)
    return ExitCode.OK


def _everywhere(args: argparse.Namespace) -> list[Advice]:
    """What a lesson by hand advises that does not depend on the machine."""
    advice: list[Advice] = []
    if args.require:
        advice.append(Require(args.require))
    advice += [Require(name, amount) for name, amount in sorted(needs(args.needs).items()) if amount]
    if args.wait is not None:
        advice.append(RetryAfter(_ms("--wait", args.wait, DELAY_MS_MAX)))
    if args.timeout is not None:
        low, high = PARAMETERS["timeout_s"]
        if not low <= args.timeout <= high:
            raise UsageError(f"--timeout {args.timeout:g} s", hint=f"from {low:g} s to {format_duration(high)}")
        advice.append(Change("timeout_s", args.timeout))
    if args.quarantine is not None:
        if not args.callable:
            raise UsageError("--quarantine without --callable", hint="say with --callable NAME what is not to be run")
        advice.append(Quarantine(_ms("--quarantine", args.quarantine, DELAY_MS_MAX)))
    return advice


def _ms(flag: str, value_s: float, most_ms: int) -> int:
    """Whole milliseconds of what a flag gives, of which there is one at least."""
    if not 1 <= value_s * 1000 <= most_ms:
        raise UsageError(f"{flag} {value_s:g} s", hint=f"from 1 ms to {format_duration(most_ms / 1000)}")
    return int(value_s * 1000)


def _known(fleet: Any) -> dict[str, Known]:
    found = {}
    for key, value in fleet.knowledge.query("lessons"):
        try:
            found[key] = read_value(value)
        except (LessonError, AdviceError, RecordError):
            continue  # of a later version; nodes of this one do not heed it either
    return found


def _named(fleet: Any, begin: str) -> dict[str, Known]:
    found = {key: known for key, known in _known(fleet).items() if key.startswith(begin)}
    if not found:
        raise NotFound(f"no lesson has a key that begins with {begin!r}", hint="swarm lesson list")
    if len({key[:8] for key in found}) > 1:
        raise UsageError(f"{len(found)} lessons have keys that begin with {begin!r}", hint="give more of it")
    return found


def _where(lesson: Lesson) -> str:
    return ", ".join(f"{tie} {value}" for tie, value in lesson.ties) or "everywhere"


def _fields(key: str, known: Known) -> dict[str, Any]:
    lesson, record = known.lesson, known.record
    return {
        "key": key, "family": lesson.family, "subject": lesson.subject, "cause": lesson.cause, "where": dict(lesson.ties),
        "advice": [shown(one) for one in lesson.advice], "seen": lesson.seen_ms / 1000, "likely": round(record.probability, 3),
        "uses": record.uses, "right": record.successes, "wrong": record.failures, "probes": record.probes, "words": explained(known),
    }  # fmt: skip


_RUN: Final = {"list": _list, "show": _show, "why": _why, "forget": _forget, "add": _add}
