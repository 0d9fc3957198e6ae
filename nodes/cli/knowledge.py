"""What the fleet knows: say it on one node, and all know it.

  swarm knowledge put facts room/7 '"key with the porter"' --tag rooms
  swarm knowledge get facts room/7
  swarm knowledge query facts --prefix room/
  swarm knowledge watch facts --current          # what changes, as it does
  swarm knowledge count tallies visits --up 3
  swarm knowledge drop facts room/7
  swarm knowledge get facts room/7 --at 2026-11-22T09:00:00Z      # what was known then

KIND is lessons, facts or policies (one value a key), marks (a set), tallies (counted) or beliefs (evidence that adds up).
VALUE is JSON; what is none is taken as text.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Final

from nodes.cli.arguments import add_client_arguments, add_common_arguments, whole
from nodes.cli.connecting import connected
from nodes.cli.screen import print_json, say, table, to_json
from swarm.errors import NotFound, UsageError
from swarm.exit_codes import ExitCode

_ACTIONS: Final = "put|get|query|watch|drop|count"
_NOTHING: Final = object()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm knowledge`."""
    actions = parser.add_subparsers(dest="action", metavar=_ACTIONS, required=True)
    put = actions.add_parser("put", help="say what is known under a key, add an element, or give evidence")
    put.add_argument("kind", metavar="KIND")
    put.add_argument("key", metavar="KEY")
    put.add_argument("value", metavar="VALUE", help="JSON, or a text; - reads it from standard input")
    put.add_argument("--tag", action="append", default=[], metavar="TAG", help="by which it is found; may be repeated")
    get = actions.add_parser("get", help="what is known under a key; status 6 if nothing is")
    get.add_argument("kind", metavar="KIND")
    get.add_argument("key", metavar="KEY")
    get.add_argument("--at", metavar="TIME", help="what was known then: a time, or the stamp of an entry")
    query = actions.add_parser("query", help="what is known of a kind, in the order of keys")
    query.add_argument("kind", metavar="KIND")
    query.add_argument("--prefix", default="", metavar="TEXT", help="keys that begin with it")
    query.add_argument("--start", metavar="KEY", help="from this key on")
    query.add_argument("--stop", metavar="KEY", help="before this key")
    query.add_argument("--tag", metavar="TAG", help="what has this tag")
    query.add_argument(
        "--text", metavar="WORDS", help="what has all these words, the best first; room* for a beginning"
    )
    query.add_argument("--reverse", action="store_true", help="the last key first")
    query.add_argument("--at", metavar="TIME", help="what was known then: a time, or the stamp of an entry")
    query.add_argument("--limit", type=whole(1), metavar="N", help="at most so many")
    watch = actions.add_parser("watch", help="print what changes, one a line, until it is interrupted")
    watch.add_argument("kind", metavar="KIND")
    watch.add_argument("--prefix", default="", metavar="TEXT", help="keys that begin with it")
    watch.add_argument("--current", action="store_true", help="what is known already comes first")
    watch.add_argument("--count", type=whole(1), metavar="N", help="end after so many")
    drop = actions.add_parser("drop", help="say that nothing is known under a key any more")
    drop.add_argument("kind", metavar="KIND")
    drop.add_argument("key", metavar="KEY")
    drop.add_argument("element", metavar="ELEMENT", nargs="?", help="of marks: which one, in JSON or as a text")
    count = actions.add_parser("count", help="count up or down (tallies)")
    count.add_argument("kind", metavar="KIND")
    count.add_argument("key", metavar="KEY")
    count.add_argument("--up", type=whole(0), metavar="N", help="by how much (1)")
    count.add_argument("--down", type=whole(0), metavar="N", help="by how much (0)")
    for each in actions.choices.values():
        add_common_arguments(each, action=True)
        add_client_arguments(each)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    with connected(args) as fleet:
        return int(_RUN[args.action](args, fleet.knowledge))


def _put(args: argparse.Namespace, knowledge: Any) -> int:
    text = sys.stdin.read() if args.value == "-" else args.value
    return _said(args, knowledge.put(args.kind, args.key, _value(text), tags=args.tag))


def _get(args: argparse.Namespace, knowledge: Any) -> int:
    value = knowledge.get(args.kind, args.key, _NOTHING, at=args.at)
    if value is _NOTHING:
        was = "is" if args.at is None else f"was at {args.at}"
        raise NotFound(f"nothing {was} known under {args.key!r} of kind {args.kind}", hint="swarm knowledge query KIND")
    if args.json:
        print_json({"kind": args.kind, "key": args.key, "value": value})
    else:
        print(_shown(value))
    return ExitCode.OK


def _query(args: argparse.Namespace, knowledge: Any) -> int:
    found = knowledge.query(
        args.kind, prefix=args.prefix, start=args.start, stop=args.stop, tag=args.tag, text=args.text,
        reverse=args.reverse, limit=args.limit, at=args.at,
    )  # fmt: skip
    if args.json:
        for key, value in found:
            print_json({"key": key, "value": value})
        return ExitCode.OK
    rows = [(key, _shown(value)) for key, value in found]
    if rows:
        print(table(("KEY", "VALUE"), rows))
    else:
        say(f"nothing of kind {args.kind} is known")
    return ExitCode.OK


def _watch(args: argparse.Namespace, knowledge: Any) -> int:
    left = args.count
    with knowledge.watch(args.kind, args.prefix, current=args.current) as changes:
        for change in changes:
            if args.json:
                print_json({"key": change.key, "value": change.value, "gone": change.gone})
            else:
                print(f"{change.key}  {'gone' if change.gone else _shown(change.value)}")
            sys.stdout.flush()
            left = None if left is None else left - 1
            if left == 0:
                break
    return ExitCode.OK


def _drop(args: argparse.Namespace, knowledge: Any) -> int:
    if args.element is None:
        return _said(args, knowledge.drop(args.kind, args.key))
    return _said(args, knowledge.drop(args.kind, args.key, _value(args.element)))


def _count(args: argparse.Namespace, knowledge: Any) -> int:
    up = args.up if args.up is not None else 1 if args.down is None else 0
    return _said(args, knowledge.count(args.kind, args.key, up, args.down or 0))


def _said(args: argparse.Namespace, stamp: int) -> int:
    if args.json:
        print_json({"kind": args.kind, "key": args.key, "stamp": stamp})
    return ExitCode.OK


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError:
        return text
    except RecursionError:
        raise UsageError("the value is nested too deeply") from None


def _no_constant(name: str) -> Any:
    raise UsageError(f"{name} is no value in JSON", hint="quote it to have it as a text: '\"NaN\"'")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value)


_RUN: Final = {"put": _put, "get": _get, "query": _query, "watch": _watch, "drop": _drop, "count": _count}
