"""What the fleet knows: say it on one node, and all know it.

  swarm knowledge put facts room/7 '"key with the porter"' --tag rooms
  swarm knowledge get facts room/7
  swarm knowledge query facts --prefix room/
  swarm knowledge who facts room/7               # which node said it, when, and in which task
  swarm knowledge watch facts --current          # what changes, as it does
  swarm knowledge count tallies visits --up 3
  swarm knowledge drop facts room/7
  swarm knowledge query facts --by weight        # what is used most first
  swarm knowledge use room/7                     # keeps a fact from being pruned; so does get
  swarm knowledge pruned                         # facts that nobody used for long
  swarm knowledge restore room/7                 # brings one back
  swarm knowledge get facts room/7 --at 2026-11-22T09:00:00Z      # what was known then

KIND is lessons, facts or policies (one value a key), marks (a set), tallies (counted) or beliefs (evidence that adds up).
VALUE is JSON; what is none is taken as text.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from typing import Any, Final

from nodes.cli.arguments import add_client_arguments, add_common_arguments, whole
from nodes.cli.connecting import connected
from nodes.cli.screen import ago, print_json, say, short, table, to_json
from swarm.client.knowledge import LargeValue
from swarm.errors import NotFound, UsageError
from swarm.exit_codes import ExitCode
from swarm.protocol.knowledge.beliefs import probability_of
from swarm.units import format_bytes

_ACTIONS: Final = "put|get|query|who|watch|drop|count|use|pruned|restore"
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
    get.add_argument("--no-use", action="store_true", help="look at a fact without using it: it goes on fading")
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
    query.add_argument("--by", choices=("key", "weight"), default="key", help="the order; by weight the heaviest first")
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
    who = actions.add_parser("who", help="which nodes said what counts about a key, when, and in which task")
    who.add_argument("kind", metavar="KIND")
    who.add_argument("key", metavar="KEY")
    use = actions.add_parser("use", help="use a fact: it weighs more, and is pruned later")
    use.add_argument("key", metavar="KEY")
    actions.add_parser("pruned", help="facts that were pruned, and may be brought back")
    restore = actions.add_parser("restore", help="bring a pruned fact back, on all nodes")
    restore.add_argument("key", metavar="KEY")
    for each in actions.choices.values():
        add_common_arguments(each, action=True)
        add_client_arguments(each)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    with connected(args) as fleet:
        if args.action == "who":
            return _who(args, fleet)
        return int(_RUN[args.action](args, fleet.knowledge))


def _put(args: argparse.Namespace, knowledge: Any) -> int:
    text = sys.stdin.read() if args.value == "-" else args.value
    return _said(args, knowledge.put(args.kind, args.key, _value(text), tags=args.tag))


def _get(args: argparse.Namespace, knowledge: Any) -> int:
    now = args.at is None
    if args.kind == "beliefs" and now:
        return _believe(args, knowledge)
    value = knowledge.get(args.kind, args.key, _NOTHING, at=args.at, use=not args.no_use)
    if value is _NOTHING:
        if args.kind == "facts" and now and knowledge.weight(args.key) > 0:
            raise NotFound(
                f"the fact {args.key!r} was pruned: nobody used it for long",
                hint=f"swarm knowledge restore {args.key} brings it back",
            )
        was = "is" if now else f"was at {args.at}"
        raise NotFound(f"nothing {was} known under {args.key!r} of kind {args.kind}", hint="swarm knowledge query KIND")
    weight = {"weight": knowledge.weight(args.key)} if args.kind == "facts" and now else {}
    if args.json:
        print_json({"kind": args.kind, "key": args.key, "value": value, **weight})
    else:
        print(_shown(value))
        if weight and sys.stderr.isatty():
            say(f"weighs {weight['weight']:.3g}")
    return ExitCode.OK


def _who(args: argparse.Namespace, fleet: Any) -> int:
    said = fleet.knowledge.said(args.kind, args.key)
    if not said:
        raise NotFound(
            f"nobody said anything about {args.key!r} of kind {args.kind}", hint="swarm knowledge query KIND"
        )
    names = names_of(fleet)
    if args.json:
        for one in said:
            by = {"node": names.get(one.author, ""), "id": one.author}
            print_json({**by, "at": one.at, "stamp": one.stamp, "gone": one.gone, "task": one.task})
        return ExitCode.OK
    rows = [
        (names.get(one.author, short(one.author)), ago(time.time() - one.at), "gone" if one.gone else "", short(one.task))
        for one in said
    ]  # fmt: skip
    print(table(("NODE", "SAID", "", "TASK"), rows))
    return ExitCode.OK


def names_of(fleet: Any) -> dict[str, str]:
    """The names of nodes by their ids."""
    return {str(member["id"]): str(member["name"]) for member in fleet.members()}


def _believe(args: argparse.Namespace, knowledge: Any) -> int:
    belief = knowledge.belief(args.key)
    if not belief.authors:
        raise NotFound(f"nobody said anything about {args.key!r}", hint="swarm knowledge query beliefs")
    if args.json:
        print_json({"kind": args.kind, "key": args.key, "value": belief.log_odds, **belief._asdict()})
    else:
        print(
            f"{belief.log_odds:+.3f}  {belief.probability:.1%} probable  (for {belief.evidence_for:+.3f}, "
            f"against {belief.evidence_against:+.3f}, by {belief.authors} {'node' if belief.authors == 1 else 'nodes'})"
        )
    return ExitCode.OK


def _query(args: argparse.Namespace, knowledge: Any) -> int:
    facts = args.kind == "facts" and args.at is None
    found = knowledge.query(
        args.kind, prefix=args.prefix, start=args.start, stop=args.stop, tag=args.tag, text=args.text,
        reverse=args.reverse, limit=args.limit, by_weight=args.by == "weight", weights=facts, at=args.at,
    )  # fmt: skip
    if args.json:
        for row in found:
            weight = {"weight": row.weight} if facts else _probable(args.kind, row.value)
            print_json({"key": row.key, "value": _plain(row.value), **weight})
        return ExitCode.OK
    rows: list[tuple[str, ...]]
    if facts:
        rows = [(row.key, f"{row.weight:.3g}", _shown(row.value)) for row in found]
        heads: tuple[str, ...] = ("KEY", "WEIGHT", "VALUE")
    elif args.kind == "beliefs":
        rows = [(row.key, f"{row.value:+.3f}", f"{probability_of(row.value):.1%}") for row in found]
        heads = ("KEY", "LOG-ODDS", "PROBABILITY")
    else:
        rows = [(row.key, _shown(row.value)) for row in found]
        heads = ("KEY", "VALUE")
    if rows:
        print(table(heads, rows))
    else:
        say(f"nothing of kind {args.kind} is known")
    return ExitCode.OK


def _probable(kind: str, value: Any) -> dict[str, Any]:
    return {"probability": probability_of(value)} if kind == "beliefs" else {}


def _use(args: argparse.Namespace, knowledge: Any) -> int:
    return _weighs(args, knowledge.use(args.key))


def _restore(args: argparse.Namespace, knowledge: Any) -> int:
    return _weighs(args, knowledge.restore(args.key))


def _weighs(args: argparse.Namespace, weight: float) -> int:
    if args.json:
        print_json({"kind": "facts", "key": args.key, "weight": weight})
    else:
        say(f"{args.key} weighs {weight:.3g}")
    return ExitCode.OK


def _pruned(args: argparse.Namespace, knowledge: Any) -> int:
    found = list(knowledge.pruned())
    if args.json:
        for one in found:
            times = {
                name: when.isoformat(timespec="seconds")
                for name, when in zip(one._fields[1:], _whens(one), strict=True)
            }
            print_json({"key": one.key, **times})
    elif found:
        rows = [(one.key, *(f"{when:%Y-%m-%d %H:%M %Z}" for when in _whens(one))) for one in found]
        print(table(("KEY", "PRUNED", "TO BE RESTORED UNTIL"), rows))
    else:
        say("no fact is pruned")
    return ExitCode.OK


def _whens(one: Any) -> tuple[datetime, datetime]:
    return (
        datetime.fromtimestamp(one.pruned_at, UTC).astimezone(),
        datetime.fromtimestamp(one.restorable_until, UTC).astimezone(),
    )


def _watch(args: argparse.Namespace, knowledge: Any) -> int:
    left = args.count
    with knowledge.watch(args.kind, args.prefix, current=args.current) as changes:
        for change in changes:
            if args.json:
                print_json({"key": change.key, "value": _plain(change.value), "gone": change.gone})
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


def _plain(value: Any) -> Any:
    return {"bytes": value.bytes, "blob": value.id} if isinstance(value, LargeValue) else value


def _shown(value: Any) -> str:
    if isinstance(value, LargeValue):
        return f"({format_bytes(value.bytes)}: swarm knowledge get)"
    return value if isinstance(value, str) else to_json(value)


_RUN: Final = {
    "put": _put, "get": _get, "query": _query, "watch": _watch, "drop": _drop, "count": _count,
    "use": _use, "pruned": _pruned, "restore": _restore,
}  # fmt: skip
