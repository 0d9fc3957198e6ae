"""What a node answers people: status, members, tasks, and why they are where they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import swarm
from nodes import releases
from nodes.batch_answers import BatchAnswers, urgency_in
from nodes.batch_views import BatchViews
from nodes.direct import Record
from nodes.fabric import boottime_s
from nodes.leaders import sought
from nodes.machine import classes_from, info_of
from nodes.moves import Moves
from nodes.plans import Plans
from nodes.queries import AskFailed
from swarm.errors import NotFound, SwarmError, UsageError
from swarm.protocol import ids
from swarm.protocol.ledger.effects import Refusal
from swarm.protocol.ledger.homes import home_of, is_local
from swarm.protocol.member import Member, State
from swarm.protocol.owner.in_line import WORDS
from swarm.protocol.owner.words import words_of
from swarm.protocol.ownership import Batch
from swarm.protocol.ranking import Ranked
from swarm.protocol.states import Priority, Status
from transport.certificates import id_text
from transport.links import Link
from transport.signed import Untrusted

if TYPE_CHECKING:
    from nodes.node import Node

TASKS_LISTED_MAX = 10_000
PEER_TIMEOUT_S = 2.0


class Answers:
    """Registers the methods of people's questions on a node's switchboard."""

    def __init__(self, node: Node) -> None:
        self._node = node
        BatchAnswers(node)
        BatchViews(node)
        Moves(node)
        Plans(node)
        serve = node.switchboard.serve
        serve("status", self._status)
        serve("members", lambda link, args, body: {"members": self._members()})
        serve(
            "nodes",
            lambda link, args, body: {"nodes": self._nodes(), "batch_tasks_max": node.fabric.ownership.batch_tasks_max},
        )
        serve("tasks", self._tasks)
        serve("task", lambda link, args, body: self._about("task", args))
        serve("explain", lambda link, args, body: self._about("explain", args))
        serve("logs", lambda link, args, body: self._about("logs", args))
        serve("cancel", lambda link, args, body: self._about("cancel", args))
        serve("nice", lambda link, args, body: self._about("nice", args))
        serve("result", lambda link, args, body: self._about("result", args))
        serve("dispatches", self._dispatches)
        serve("held", self._held_of)
        serve("adopt", self._adopt)
        serve("drain", self._drain)
        serve("recover", self._recover)
        serve("output", self.output)
        serve("token", self._token)
        serve("revoke", self._revoke)

    # --- the fleet ----------------------------------------------------------------------------------------------------

    def _status(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        node = self._node
        ownership, execution = node.fabric.ownership, node.fabric.execution
        counts: dict[str, int] = {}
        waiting = ownership.waiting + execution.waiting
        for batch in ownership.batches.values():
            for status, count in batch.counts.items():
                name = Status(status).name.lower()
                counts[name] = counts.get(name, 0) + count
        tasks = {"waiting": waiting, "running": execution.running, "suspended": execution.suspended} | dict(
            sorted(counts.items())
        )
        return {
            "fleet": node.fleet.name,
            "node": {
                "name": node.name,
                "id": node.credentials.identity.text,
                "version": swarm.__version__,
                "up_s": boottime_s() - node.started_at,
                "port": node.port,
                "lan": node.listens_on_lan,
                "http": None if node.http_address is None else f"http://{node.http_address[0]}:{node.http_address[1]}",
                "draining": node.draining,
                "withheld": list(node.offering.why),
                "low_work": node.fabric.pool.niceness.told,
                "lowers": bool(node.fabric.pool.niceness.way),
            },
            "tasks": {name: count for name, count in tasks.items() if count},
            "classes": {
                Priority(priority).name.lower(): {
                    "waiting": waits + ownership.waiting_of(priority),
                    "running": runs,
                    "suspended": stands,
                }
                for priority, (waits, runs, stands) in enumerate(execution.classes())
            },
            "unfinished": ownership.unfinished,
            "releases": self._mixed(),
            "blob_bytes": node.workshop.store.bytes,
            "ledger": None if node.ledger is None else node.ledger.report(),
            "twin": node.twin.report(),
            "kept": None if node.kept is None else node.kept.report(),
            "members": self._members(),
        }

    def _mixed(self) -> str:
        """What there is to say of the members' releases."""
        members = [(member.name, member.info.get("n")) for member in self._node.neighbourhood.members if _there(member)]
        known = [(name, number) for name, number in members if isinstance(number, int)]
        return releases.said_of([(self._node.name, releases.OWN), *known])

    def _members(self) -> list[dict[str, Any]]:
        node = self._node
        me = Member(
            node.credentials.id, node.name, node.credentials.certificate, node.addresses(), 0, node.boot,
            info_of(node.fabric.execution), State.ALIVE, node.addresses()[0],
        )  # fmt: skip
        found = [self._shown(me)]
        for member in node.neighbourhood.members:
            found.append(self._shown(member))
        return found

    def _shown(self, member: Member) -> dict[str, Any]:
        info = member.info
        totals = info.get("r")
        slots = totals.get("cpu", 0) if isinstance(totals, Mapping) else 0
        free = info.get("f")
        alive = _there(member)
        labels = info.get("l")
        executor = self._node.fabric.ownership.executors.get(member.id)
        shown = {
            "name": member.name,
            "id": id_text(member.id),
            "state": "draining" if alive and info.get("d") else member.state.name.lower(),
            "role": "node",
            "version": releases.text_of(info.get("n")),
            "slots": slots if alive else 0,
            "busy": max(0.0, float(slots) - _number(info.get("o")) - float(free))
            if alive and isinstance(free, int | float)
            else 0,
            "queued": info.get("w", 0) if alive else 0,
            "withheld": info.get("o", 0) if alive else 0,
            "classes": classes_from(info) if alive else {},
            "speed": round(executor.pace.speed, 2) if executor is not None else 1.0,
            "labels": [label for label in labels if ":" not in str(label)] if isinstance(labels, list | tuple) else [],
            "address": f"{member.address[0]}:{member.address[1]}",
        }
        try:
            identity = self._node.fleet.trust.verify(member.certificate, time.time())
        except Exception as error:
            shown["certificate"] = str(error)
        else:
            shown["grants"] = sorted(identity.grants)
            shown["expires_s"] = identity.expires_s - time.time()
        return shown

    def _nodes(self) -> list[dict[str, Any]]:
        """Where a client may go on when this node is gone."""
        node = self._node
        found = [
            {
                "id": node.credentials.id,
                "name": node.name,
                "addresses": [list(address) for address in node.addresses()],
                "curve_key": node.credentials.identity.curve_key,
            }
        ]
        for member in node.neighbourhood.members:
            if member.state in (State.ALIVE, State.SUSPECT) and not member.info.get("d"):
                try:
                    identity = node.fleet.trust.verify(member.certificate, time.time())
                except Untrusted:
                    continue  # expired meanwhile
                found.append(
                    {
                        "id": member.id,
                        "name": member.name,
                        "addresses": [list(address) for address in member.addresses],
                        "curve_key": identity.curve_key,
                    }
                )
        return found

    async def _token(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        node = self._node
        _same_user(link, "make tokens")
        node.fleet.require_admin()
        await node.open_lan()
        endpoints = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in node.addresses()]
        token = node.tokens.issue(
            time.time(),
            issuer_key=node.credentials.identity.curve_key,
            endpoints=endpoints,
            ttl_s=float(args["ttl_s"]),
            uses=int(args["uses"]),
            role=str(args["role"]),
            grants=tuple(args.get("grants", ("code",))),
        )
        return {"token": token.text, "endpoints": endpoints}

    def _revoke(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        from transport.certificates import id_from_text

        node = self._node
        _same_user(link, "revoke members")
        text = str(args["member"])
        names = {member.name: member.id for member in node.neighbourhood.members}
        try:
            target = names[text] if text in names else id_from_text(text)
        except ValueError:
            raise NotFound(f"no member {text!r} is known here", hint="swarm fleet members lists them") from None
        node.fleet.revoke(target, time.time(), reason=str(args.get("reason") or ""))
        node.neighbourhood.trust_changed()
        name = next((name for name, known in names.items() if known == target), "")
        return {"id": id_text(target), "name": name}

    # --- tasks --------------------------------------------------------------------------------------------------------

    def _tasks(self, link: Link, args: Mapping[str, Any], body: memoryview) -> Any:
        if args.get("here") or not self._node.fabric.node_links:
            return {"tasks": self._tasks_here(args)}
        return self._tasks_everywhere(args)

    async def _tasks_everywhere(self, args: Mapping[str, Any]) -> dict[str, Any]:
        found = self._tasks_here(args)
        for value in await self._ask_peers("tasks", dict(args) | {"here": True}):
            found.extend(value.get("tasks", []))
        found.sort(key=lambda task: task.get("age_s") or 0.0)
        return {"tasks": found[: _limit(args)]}

    def _tasks_here(self, args: Mapping[str, Any]) -> list[dict[str, Any]]:
        limit, states = _limit(args), set(args.get("states") or ())
        running = {(batch, index): at for batch, index, _, at in self._node.fabric.execution.running_tasks()}
        found: list[dict[str, Any]] = []
        for batch in reversed(self._node.fabric.ownership.batches.values()):
            for index in range(batch.calls.count):
                shown = self._task(batch, index, running)
                if not states or shown["state"] in states:
                    found.append(shown)
                    if len(found) >= limit:
                        return found
        return found

    async def _about(self, method: str, args: Mapping[str, Any]) -> Any:
        """Answer about one task, wherever in the fleet it is known."""
        prefix = str(args["task"]).lower()

        async def look() -> Any:
            found = self._node.fabric.ownership.find(prefix)
            if len(found) > 1:
                raise NotFound(f"{prefix!r} begins more than one task id", hint="give more characters")
            if found:
                return self._one(method, *found[0], args)
            direct = self._node.direct.find(prefix)
            if len(direct) > 1:
                raise NotFound(f"{prefix!r} begins more than one task id", hint="give more characters")
            if direct:
                return self._one_direct(method, *direct[0], args)
            answers = [] if args.get("here") else await self._ask_peers(method, dict(args) | {"here": True})
            return answers[0] if answers else None

        missing = NotFound(
            f"no task {prefix!r} is known",
            hint="outcomes are kept for a quarter of an hour; swarm task list shows what is there",
        )
        return await sought(None if args.get("here") else self._node.ledger, look, missing)

    def _one(self, method: str, batch: Batch, index: int, args: Mapping[str, Any]) -> Any:
        if method == "explain":
            return {"lines": self._explain(batch, index)}
        if method == "logs":
            return self._logs(batch, index, int(args.get("offset", 0)))
        if method == "cancel":
            before = self._task(batch, index)
            self._node.fabric.ownership.cancel(boottime_s(), batch.key, [(index, index + 1)])
            self._node.fabric.turn()
            return before if before["state"] in _ENDED else self._task(batch, index) | {"state": "cancelled"}
        if method == "nice":
            self._node.fabric.ownership.reprioritize(boottime_s(), batch.key, [(index, index + 1)], *urgency_in(args))
            self._node.fabric.turn()
            return self._task(batch, index)
        if method == "result":
            outcome = batch.outcome(index)
            shown = self._task(batch, index)
            return (shown, bytes(outcome[1])) if outcome is not None else (shown, b"")
        return self._task(batch, index)

    def _one_direct(self, method: str, task: bytes, record: Record, args: Mapping[str, Any]) -> Any:
        """A call that a client made itself, to a worker whose slot it had been granted."""
        if method == "explain":
            return {"lines": self._node.direct.explain(task, record)}
        if method == "logs":
            return _log_answer(*self._node.fabric.logs.get(task), int(args.get("offset", 0)))
        if method == "nice":
            raise NotFound(f"{ids.text(task)[:8]} went straight to a worker, and has ended or is about to")
        if method == "result":
            raise NotFound(
                f"the outcome of {ids.text(task)[:8]} went straight to the client that called it",
                hint="connect(direct=False) has every outcome kept by the node for a while",
            )
        return {
            "id": ids.text(task),
            "name": record.name,
            "priority": Priority.STANDARD.name.lower(),
            "state": Status(record.status).name.lower(),
            "node": self._node.name,
            "attempts": 1,
            "age_s": boottime_s() - record.at + record.run_us / 1e6,
            "by": record.author,
            "run_s": record.run_us / 1e6,
        }

    def _task(
        self, batch: Batch, index: int, running: Mapping[tuple[bytes, int], float] | None = None
    ) -> dict[str, Any]:
        now = boottime_s()
        task = ids.task_id(batch.key, index)
        events = [event for event in batch.trace if event[2] <= index < event[3]]
        placed = next((event for event in reversed(events) if event[1] in _PLACED), None)
        state = ("waiting", "placed", "done", "held")[batch.columns.state(index)]
        shown: dict[str, Any] = {
            "id": ids.text(task),
            "name": batch.spec.name,
            "priority": Priority(batch.urgency(index)[0]).name.lower(),
            "nice": batch.urgency(index)[1],
            "state": state,
            "node": placed[4] if placed else "",
            "attempts": batch.columns.attempts(index),
            "age_s": now - batch.submitted_at,
            "by": batch.author,
        }
        if state == "placed":
            if running is None:
                running = {(key, row): at for key, row, _, at in self._node.fabric.execution.running_tasks()}
            at = running.get((batch.key, index))
            stood = next((event[1] for event in reversed(events) if event[1] in ("suspended", "resumed", *_PLACED)), "")
            if stood == "suspended":
                shown["state"] = "suspended"
            elif at is not None:
                shown["state"] = "running"
                shown["run_s"] = now - at
            elif placed is not None and placed[4] != self._node.name and not _in_line(placed[5]):
                shown["state"] = "running"
        elif state == "held":
            shown["state"] = "waiting"
        elif state == "done":
            shown |= _ended(batch, index, events)
        if index in batch.progress:
            shown["progress"] = batch.progress[index]
        return shown

    def _explain(self, batch: Batch, index: int) -> list[str]:
        now = boottime_s()
        shown = self._task(batch, index)
        head = f"{shown['id'][:8]} {batch.spec.name}  {shown['priority'].upper()}  {shown['state']}"
        lines = [f"{head}, submitted {_ago(now - batch.submitted_at)} by {batch.author}"]
        events = [event for event in batch.trace if event[2] <= index < event[3]]
        last = max((place for place, event in enumerate(events) if event[1] in _PLACED), default=-1)
        out = False
        for place, (at, what, _, _, node, detail) in enumerate(events):
            out |= what in _PLACED
            if what in _ENDED and shown["state"] == _RECORDING:
                continue
            if what == "waits" and out and place > last and shown["state"] != "waiting":
                continue  # said of its batch: others of it wait
            where = f" on {node}" if node else ""
            lines.append(f"{_ago(now - at)}: {what}{where}")
            if isinstance(detail, list | Ranked):
                for entry in detail:
                    if isinstance(entry, tuple):
                        name, room, wait_s, why = entry
                        lines.append(f"  {name}: {why or f'room for {room}'}, would start in about {wait_s:g} s")
                    else:
                        lines.append(f"  {entry}")
            elif detail:
                lines.append(f"  {detail}")
        return lines

    def _logs(self, batch: Batch, index: int, offset: int) -> Any:
        """Output is kept where the task ran, so that node is asked."""
        task = ids.task_id(batch.key, index)
        chunks, dropped = self._node.fabric.logs.get(task)
        placed = next(
            (event[4] for event in reversed(batch.trace) if event[1] in _PLACED and event[2] <= index < event[3]), ""
        )
        if not chunks and placed and placed != self._node.name:
            return self._logs_elsewhere(task, placed, offset)
        return _log_answer(chunks, dropped, offset)

    async def _logs_elsewhere(self, task: bytes, name: str, offset: int) -> dict[str, Any]:
        for link in self._node.fabric.node_links.values():
            if link.identity.name == name:
                value, _ = await self._node.switchboard.asked(link, "output", {"id": task, "offset": offset})
                return dict(value)
        return {"chunks": [], "offset": offset, "dropped": 0}

    def output(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        """What a task that ran here wrote, for the node that owns it."""
        chunks, dropped = self._node.fabric.logs.get(bytes(args["id"]))
        return _log_answer(chunks, dropped, int(args.get("offset", 0)))

    def _dispatches(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        return self._node.fabric.held_by(link.identity.id, args)

    def _held_of(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        """What is here of batches whose log the asking node leads now."""
        _only_node(link)
        wanted = args.get("batches")
        if not isinstance(wanted, list) or not all(isinstance(key, bytes) for key in wanted):
            raise UsageError("batches are named by a list of their keys")
        runs = self._node.fabric.execution.held_of(frozenset(wanted))
        return {"runs": [[*run[:4], [list(pair) for pair in run[4]]] for run in runs]}

    def _adopt(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        """A run is the asking node's from now on."""
        _only_node(link)
        owner, dispatch, number = args.get("owner"), args.get("dispatch"), args.get("number")
        if not isinstance(owner, bytes) or type(dispatch) is not int or type(number) is not int:
            raise UsageError("a run is named by its owner and dispatch")
        fabric = self._node.fabric
        left = fabric.execution.adopt(owner, dispatch, link.identity.id, number)
        fabric.turn()
        return {"left": [list(pair) for pair in left]}

    async def _drain(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        """Take nothing more, hand over, and say what is left; with `for_good` all copies too. The node stays up."""
        node = self._node
        _same_user(link, "drain it")
        for_good, timeout_s = args.get("for_good") is True, float(args.get("within_s", 60.0))
        began = time.monotonic()
        left: tuple[bytes, ...] | None = ()
        node.draining, node.ready = True, False
        node.fabric.drain()
        node.neighbourhood.load_changed()
        if node.ledger is not None:
            left = await node.ledger.drain(for_good, timeout_s)
        fabric = node.fabric
        while (fabric.execution.running or not fabric.rests) and time.monotonic() - began < timeout_s:
            await asyncio.sleep(0.05)
        return {
            "node": node.name, "id": node.credentials.identity.text, "running": node.fabric.execution.running, "handed_over": left is not None,
            "left": sorted({id_text(home_of(group)) for group in left or ()}), "for_good": for_good,
        }  # fmt: skip

    def _recover(self, link: Link, args: Mapping[str, Any], body: memoryview) -> dict[str, Any]:
        """Go on with a log alone whose majority is lost for good."""
        node = self._node
        _same_user(link, "recover logs")
        if node.ledger is None:
            raise NotFound("this node keeps no journal", hint="recover on a node that has a copy of the log")
        names = {member.name: member.id for member in node.neighbourhood.members} | {node.name: node.credentials.id}
        wanted = str(args["home"])
        groups = [group for group in node.ledger.ledger.groups if not is_local(group)]
        found = [
            group for group in groups
            if names.get(wanted) == home_of(group) or id_text(home_of(group)).startswith(wanted)
        ]  # fmt: skip
        if len(found) != 1:
            raise NotFound(
                f"{wanted!r} names {'no log' if not found else f'{len(found)} logs'} of which this node has a copy",
                hint="swarm status --json lists them by their homes",
            )
        loss = node.ledger.recover(found[0])
        node.fabric.turn()
        if isinstance(loss, Refusal):
            raise SwarmError(
                f"the log of {wanted} is not recovered: {loss.hint}", hint="swarm status shows its members"
            )
        return {
            "home": id_text(home_of(found[0])), "gone": [id_text(id) for id in loss.gone], "entries": loss.last,
            "committed": loss.committed, "damaged": loss.damaged, "batches": loss.batches, "unfinished": loss.unfinished,
            "last_record": loss.wall,
        }  # fmt: skip

    async def _ask_peers(self, method: str, args: Mapping[str, Any]) -> list[dict[str, Any]]:
        links = [link for _, link in sorted(self._node.fabric.node_links.items()) if link.up]

        async def one(link: Link) -> dict[str, Any] | None:
            try:
                value, _ = await self._node.switchboard.asked(link, method, args, timeout_s=PEER_TIMEOUT_S)
            except AskFailed:
                return None
            return value if isinstance(value, dict) else None

        return [value for value in await asyncio.gather(*(one(link) for link in links)) if value is not None]


_ENDED = frozenset(status.name.lower() for status in Status if status < 16)
_PLACED = ("placed", "stolen")
_RECORDING = "recording"
"""The state of a durable task whose outcome is on its way into the log: nobody is told what it is before it is there."""


def _ended(batch: Batch, index: int, events: Sequence[tuple[float, str, int, int, str, Any]]) -> dict[str, Any]:
    """How a task ended that has."""
    for outcomes, _ in reversed(batch.outcomes):
        row = next((row for row in range(outcomes.count) if outcomes.index(row) == index), None)
        if row is None:
            continue
        shown: dict[str, Any] = {
            "state": Status(outcomes.status(row)).name.lower(),
            "run_s": outcomes.run_us(row) / 1e6,
        }
        word = next((event[5] for event in reversed(events) if isinstance(event[5], str) and event[1] in _ENDED), None)
        # An owner that has taken the batch over was not there when it ended.
        word = word or (words_of(outcomes.payload(row)) if outcomes.status(row) != Status.OK else None)
        return shown | ({"message": word} if word else {})
    return {"state": _RECORDING}


def _log_answer(chunks: list[tuple[str, bytes]], dropped: int, offset: int) -> dict[str, Any]:
    """Chunks from an offset in bytes on, and the offset to go on from."""
    at, found = dropped, []
    for stream, data in chunks:
        if at + len(data) > offset:
            found.append([stream, data[max(0, offset - at) :]])
        at += len(data)
    return {"chunks": found, "offset": at, "dropped": dropped}


def _in_line(detail: object) -> bool:
    """Whether what was placed waits there for its turn, as far as is known."""
    return isinstance(detail, list) and any(isinstance(entry, tuple) and entry[-1] == WORDS for entry in detail)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _limit(args: Mapping[str, Any]) -> int:
    return max(1, min(TASKS_LISTED_MAX, int(args.get("limit") or 100)))


def _ago(seconds: float) -> str:
    return "now" if seconds < 0.0005 else f"{seconds:.3g} s ago"


def _same_user(link: Link, what: str) -> None:
    if link.reach != "host":
        raise SwarmError(f"only the user of this node may {what}", hint="run it on the machine of an admin")


def _only_node(link: Link) -> None:
    if link.identity.role != "node":
        raise UsageError(f"{link.identity.name} is no node", hint="what runs is handed on between nodes only")


def _there(member: Member) -> bool:
    return member.state in (State.ALIVE, State.SUSPECT)
