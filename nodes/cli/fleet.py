"""Make a fleet, let machines join it, turn them away.

oak$ swarm fleet token                 # prints a line; works once, for ten minutes
elm$ swarm fleet join swarm-join-1:…   # on the other machine
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from nodes.cli.arguments import add_client_arguments, add_common_arguments, duration, whole
from nodes.cli.connecting import ask, connected
from nodes.cli.screen import print_json, say, short, table
from swarm.errors import NotFound, UsageError
from swarm.exit_codes import ExitCode
from swarm.paths import Home, checked_name, private_directory
from swarm.units import format_duration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm fleet`."""
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="init|token|join|members|remove|revoke|recover"
    )
    init = actions.add_parser("init", help="make a fleet, with this user as its administrator")
    init.add_argument("--name", help="what it is called (lab-….)")
    token = actions.add_parser("token", help="a line that lets another machine or client in")
    token.add_argument("--expires", type=duration, default=600.0, metavar="TIME", help="how long it works (10m)")
    token.add_argument("--uses", type=whole(1), default=1, metavar="N", help="how often it works (1)")
    token.add_argument("--client", action="store_true", help="lets a client in, not a node")
    token.add_argument("--no-code", action="store_true", help="whoever joins may not send callables by value")
    token.add_argument("--withdraw", action="store_true", help="make all tokens given out so far worthless")
    join = actions.add_parser("join", help="join the fleet that a token is for")
    join.add_argument("token", help="the line that `swarm fleet token` printed; - reads it from standard input")
    join.add_argument("--name", help="what this node is called (from the host's name)")
    join.add_argument("--replace", action="store_true", help="leave the fleet that this home is in; its files are kept")
    join.add_argument("--timeout", type=duration, default=15.0, metavar="TIME", help="how long to try (15s)")
    members = actions.add_parser("members", help="the nodes of the fleet, with their certificates")
    revoke = actions.add_parser("revoke", help="turn away a node or client, everywhere and at once")
    revoke.add_argument("member", metavar="NAME|ID")
    revoke.add_argument("--reason", default="", help="kept with it")
    remove = actions.add_parser("remove", help="hand over all that this machine's node keeps, then turn it away")
    remove.add_argument("member", metavar="NAME", help="a node of this machine")
    remove.add_argument("--timeout", type=duration, default=120.0, metavar="TIME", help="how long it may take (2m)")
    recover = actions.add_parser("recover", help="go on alone with a log whose other copies are lost for good")
    recover.add_argument("member", metavar="NAME|ID", help="the node whose log it is; the node asked must have a copy")
    recover.add_argument(
        "--accept-loss", action="store_true", help="what the others had acknowledged and this copy lacks is given up"
    )
    for each in actions.choices.values():
        add_common_arguments(each, action=True)
    for each in (token, members, revoke, remove, recover):
        add_client_arguments(each)


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    actions = {
        "init": _init, "token": _token, "join": _join, "members": _members, "revoke": _revoke, "remove": _remove,
        "recover": _recover,
    }  # fmt: skip
    return actions[args.action](args)


def _init(args: argparse.Namespace) -> int:
    from transport.fleet import create_fleet

    home = Home.resolve()
    private_directory(home.data)
    fleet = create_fleet(home.fleet_dir, args.name)
    if args.name is not None and fleet.name != args.name:
        raise UsageError(
            f"this home is in the fleet {fleet.name} already",
            hint="SWARM_HOME=DIR keeps a second fleet apart",
            fleet=fleet.name,
        )
    if args.json:
        print_json({"fleet": fleet.name, "id": fleet.id, "made": fleet.fresh, "directory": fleet.directory})
    else:
        print(
            f"fleet {fleet.name} {'made' if fleet.fresh else 'is there already'} in {fleet.directory}. Next: swarm node"
        )
    return ExitCode.OK


def _token(args: argparse.Namespace) -> int:
    if args.withdraw:
        return _withdraw(args)
    # the node redeems it, so the node makes it: it knows its addresses and its key, and opens the LAN listener
    answer = ask(
        args,
        "token",
        ttl_s=args.expires,
        uses=args.uses,
        role="client" if args.client else "node",
        grants=[] if args.no_code else ["code"],
    )
    if args.json:
        print_json(answer)
        return ExitCode.OK
    print(answer["token"])
    if sys.stdout.isatty():
        times = "once" if args.uses == 1 else f"{args.uses} times"
        where = " ".join(answer.get("endpoints", []))
        say(f"works {times}, for {format_duration(args.expires)}, with this node at {where}")
        say("there: swarm fleet join TOKEN")
    return ExitCode.OK


def _withdraw(args: argparse.Namespace) -> int:
    from transport.fleet import Fleet
    from transport.tokens import TokenBook

    count = TokenBook(Fleet.load(Home.resolve().fleet_dir)).withdraw()
    if args.json:
        print_json({"withdrawn": count})
    else:
        print(f"{count} tokens withdrawn")
    return ExitCode.OK


def _join(args: argparse.Namespace) -> int:
    from transport.fleet import host_name
    from transport.joining import accept_join, request_join
    from transport.tokens import Token

    token = Token.parse(sys.stdin.read() if args.token == "-" else args.token)  # noqa: S105 - says where to read it
    home = Home.resolve()
    private_directory(home.data)
    name = checked_name(args.name or _label(host_name()))
    # a machine's client comes in together with its node, so that its scripts need no second token
    wishes = [(home.data / "client", "client", name)]
    if token.role == "node":
        wishes.insert(0, (home.node_dir(name), "node", name))
    request = request_join(token, wishes)
    reply = _exchange(token, request.message, args.timeout)
    fleet, _ = accept_join(request, reply, home.fleet_dir, time.time(), replace=args.replace)
    # For networks without multicast: who let this home in is where it looks first.
    (home.fleet_dir / "seeds").write_text("".join(f"{endpoint}\n" for endpoint in token.endpoints))
    admins = " ".join(admin.name for admin in fleet.trust.admins if admin.retired_s is None)
    if args.json:
        print_json({"fleet": fleet.name, "id": fleet.id, "name": name, "role": token.role, "admins": admins.split()})
    elif token.role == "node":
        print(f"joined {fleet.name} as {name}. Trusts: admin {admins}. Next: swarm node --name {name}")
    else:
        print(f"joined {fleet.name} as client {name}. Trusts: admin {admins}. Next: swarm status")
    return ExitCode.OK


def _exchange(token: Any, message: bytes, timeout_s: float) -> bytes:
    """Ask at each of the issuer's addresses in turn. The connection is encrypted to the key that the token names."""
    import asyncio

    from transport.links import HandshakeFailed
    from transport.zmq_links import request_join

    async def first_answer() -> bytes:
        failure: HandshakeFailed | None = None
        for endpoint in token.endpoints:
            try:
                return await request_join(
                    f"tcp://{endpoint}",
                    message,
                    server_key=token.issuer_key,
                    timeout_s=timeout_s / len(token.endpoints),
                )
            except HandshakeFailed as error:  # the next address may be the right one; the last failure is told
                failure = error
        assert failure is not None, "a token has at least one endpoint"
        raise failure

    return asyncio.run(first_answer())


def _members(args: argparse.Namespace) -> int:
    members: list[dict[str, Any]] = ask(args, "members").get("members", [])
    if args.json:
        print_json(members)
        return ExitCode.OK
    rows = [
        (
            member.get("name", ""),
            short(member.get("id")),
            member.get("role", "node"),
            member.get("state", ""),
            member.get("grants", ()),
            "" if member.get("expires_s") is None else f"in {format_duration(float(member['expires_s']))}",
        )
        for member in sorted(members, key=lambda each: str(each.get("name", "")))
    ]
    print(table(("NAME", "ID", "ROLE", "STATE", "GRANTS", "EXPIRES"), rows))
    return ExitCode.OK


def _revoke(args: argparse.Namespace) -> int:
    with connected(args) as fleet:
        known: list[dict[str, Any]] = fleet.query("members").get("members", [])
        meant = [m for m in known if m.get("name") == args.member or str(m.get("id", "")).startswith(args.member)]
        if len(meant) > 1:
            raise NotFound(
                f"{args.member!r} could be {' or '.join(str(m.get('id')) for m in meant)}",
                hint="give more characters of the id",
                matches=[m.get("id") for m in meant],
            )
        # one that is not known any more may still hold a certificate: its full id will do
        target = str(meant[0]["id"]) if meant else args.member
        answer: dict[str, Any] = fleet.query("revoke", member=target, reason=args.reason)
    if args.json:
        print_json(answer)
    else:
        print(f"{answer.get('name') or short(target)} is revoked and cut off")
    return ExitCode.OK


def _remove(args: argparse.Namespace) -> int:
    from nodes.cli.draining import drained

    answer = drained(args, args.member, for_good=True, timeout_s=args.timeout)
    if not answer["handed_over"] or answer["left"] or answer["running"]:
        raise UsageError(
            f"{args.member} has not handed over all that it keeps in {args.timeout:g} s: it stays a member",
            hint="are two other machines there? `swarm fleet revoke` turns it away at once, and its copies are made anew",
            **answer,
        )
    with connected(args) as fleet:
        gone: dict[str, Any] = fleet.query("revoke", member=answer["id"], reason="removed")
    if args.json:
        print_json({**answer, "id": gone.get("id")})
    else:
        print(
            f"{args.member} has handed over all that it kept, and is no member any more. Stop it, or let it join anew."
        )
    return ExitCode.OK


def _recover(args: argparse.Namespace) -> int:
    if not args.accept_loss:
        raise UsageError(
            f"to go on with this copy of the log of {args.member} gives up what only the others had",
            hint="first try to bring back one of the others (swarm status names them); if they are lost for good, say --accept-loss",
        )
    with connected(args) as fleet:
        answer: dict[str, Any] = fleet.query("recover", home=args.member)
    if args.json:
        print_json(answer)
        return ExitCode.OK
    gone = ", ".join(map(short, answer["gone"])) or "nobody"
    print(f"the log of {args.member} goes on with this copy alone; no voters any more: {gone}")
    print(
        f"kept: {answer['batches']:,} batches, {answer['unfinished']:,} of their tasks unfinished, {answer['entries']:,} entries"
    )
    when = (
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(answer["last_record"])))
        if answer["last_record"]
        else "-"
    )
    print(
        f"given up: what the others acknowledged after the last record here ({when})"
        + (", and what was damaged here" if answer["damaged"] else "")
    )
    print("do not start the others again as they are: their nodes need new identities (remove their data directories)")
    return ExitCode.OK


def _label(host: str) -> str:
    """A host's name as a node's: a DNS label."""
    label = "".join(c if c.isalnum() and c.isascii() else "-" for c in host.lower().partition(".")[0])[:32].strip("-")
    return label or "node"
