"""Messages of peers and clients: what each kind means for the cores of a node.

A message of the wrong form raises (MessageError, SpecError, ValueError, TypeError, KeyError, OverflowError); whoever reads the link
sees to it. A kind that only nodes may send is told as unknown when a client sends it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from kernels.batch import Calls
from nodes.headers import for_client, given, inherited, level, ranges, retention_s, task_ids, urgency
from nodes.relay import ANSWERS
from swarm.protocol.effects import Fact
from swarm.protocol.messages import Kind, MessageError, decode, field
from swarm.protocol.spec import parse_spec
from transport.links import Link

if TYPE_CHECKING:
    from nodes.fabric import Fabric

USER_CHARACTERS_MAX = 256


def client_key(link: Link) -> bytes:
    """What names a client's process: its id and boot. The same after it reconnects."""
    return link.identity.id + link.boot


@dataclass(slots=True, eq=False)
class Message:
    """One message, and who sent it: `peer` is a node's id or a client's key."""

    raw: bytes
    kind: int
    header: dict[str, Any]
    body: memoryview
    link: Link
    is_node: bool
    peer: bytes
    now: float


def take(fabric: Fabric, link: Link, message: bytes) -> None:
    """Hand a message to the core that it is for."""
    kind, header, body = decode(message)
    is_node = link.identity.role == "node"
    it = Message(
        message, kind, header, body, link, is_node, link.identity.id if is_node else client_key(link), fabric.now()
    )
    if is_node and kind in ANSWERS and "o" in header:
        fabric.relay.answer(kind, header, body)
        return
    handler = FROM_ANYBODY.get(kind) or (FROM_NODES.get(kind) if is_node else None)
    if handler is None:
        fabric.happened(Fact("message.unknown", {}, {"kind": kind, "peer": link.identity.name}))
    else:
        handler(fabric, it)


# --- from owners, executors and other nodes ---------------------------------------------------------------------------


def _outcomes(fabric: Fabric, it: Message) -> None:
    number, count = field(it.header, "d", int), field(it.header, "n", int)
    fabric.take_outcomes(it.peer, number, count, it.body, it.header.get("l"), it.header.get("s"))


def _dispatch(fabric: Fabric, it: Message) -> None:
    header = it.header
    raw, number, extra = field(header, "s", bytes), field(header, "d", int), header.get("x") or {}
    spec, calls = parse_spec(raw), Calls(it.body, field(header, "n", int))
    if not isinstance(extra, dict):
        raise MessageError("what a dispatch adds is not a map")
    fabric.execution.dispatch(
        it.now, it.peer, dispatch=number, batch=field(header, "b", bytes), spec=spec, raw=raw,
        granted=header.get("g") is True, calls=calls, first=field(header, "a", int),
        attempts=field(header, "w", int), extra=extra, urgency=urgency(header.get("y")),
        user=str(header.get("u") or "")[:USER_CHARACTERS_MAX],
    )  # fmt: skip
    if fabric.requests is not None:
        fabric.requests.queued(it.peer, number, spec, calls, extra)


def _event(fabric: Fabric, it: Message) -> None:
    number, index, name = field(it.header, "d", int), field(it.header, "i", int), field(it.header, "e", str)
    fabric.ownership.event(it.now, it.peer, number, index, name, it.header.get("v"), it.body)


def _recall(fabric: Fabric, it: Message) -> None:
    header, save = it.header, it.header.get("c")
    fabric.execution.recall(
        it.now, it.peer, field(header, "d", int), ranges(header.get("r")), header.get("k") is True,
        save if isinstance(save, bool) else None,
    )  # fmt: skip


def _reprioritize(fabric: Fabric, it: Message) -> None:
    header = it.header
    said = urgency([header.get("p"), header.get("n")])
    assert said is not None
    own = header.get("o")
    fabric.execution.reprioritize(
        it.now, it.peer, field(header, "d", int), ranges(header.get("r")), *said,
        own if type(own) is int and 0 <= own <= 3 else None,
    )  # fmt: skip
    fabric.tell_who_waits()


def _ledger(fabric: Fabric, it: Message) -> None:
    if fabric.ledger is not None:
        fabric.ledger.receive(it.peer, it.body)


def _knowledge(fabric: Fabric, it: Message) -> None:
    if fabric.knowledge is not None:
        fabric.knowledge(it.peer, it.body)


def _load(fabric: Fabric, it: Message) -> None:
    fabric.ownership.executor_load(it.now, it.peer, field(it.header, "l", dict))


def _twin(fabric: Fabric, it: Message) -> None:
    fabric.door.message(it.link, it.header)


# --- from clients, and from nodes that speak for them -------------------------------------------------------------------


def _submit(fabric: Fabric, it: Message) -> None:
    header, peer, identity = it.header, it.peer, it.link.identity
    durable = "D" in header and not it.is_node
    if durable and fabric.relay.submit(it.link, peer, field(header, "b", bytes), header, it.body):
        return
    author, granted = identity.name, "code" in identity.grants
    if it.is_node and "o" in header:
        peer, author, granted = for_client(peer, header), field(header, "u", str), header.get("g") is True
    raw, durability, count = field(header, "s", bytes), level(header.get("D")), field(header, "n", int)
    key, deps = field(header, "b", bytes), task_ids(header.get("d"))
    submit = partial(
        fabric.ownership.submit, it.now, fabric.wall(), peer, author, granted, key, raw,
        count, it.body, attempts=header.get("w", 0) or 0, deps=deps,
        ended=ranges(header.get("k")), durability=durability, soft=header.get("F") is True,
        retention_s=retention_s(header.get("R")), inherited=inherited(header.get("p")) if it.is_node else None,
    )  # fmt: skip
    if durability and granted and fabric.requests is not None:
        # What it is made of is written into the log with it.
        bring = partial(fabric.requests.with_needs, raw, count, it.body)
        fabric.arriving.take(key, deps or (), bring, submit)
    else:
        submit()


def _cancel(fabric: Fabric, it: Message) -> None:
    header, key = it.header, field(it.header, "b", bytes)
    batch = fabric.ownership.batches.get(key)
    peer = for_client(it.peer, header) if it.is_node else it.peer
    if batch is not None:
        if batch.client == peer or batch.durable is not None:
            fabric.ownership.cancel(it.now, key, ranges(header.get("r")), kill=header.get("k") is not False)
    elif not fabric.arriving.after(key, partial(take, fabric, it.link, it.raw)) and not it.is_node:
        fabric.relay.pass_on(peer, it.kind, key, header, it.body)


def _grant_start(fabric: Fabric, it: Message) -> None:
    batch = fabric.ownership.batches.get(field(it.header, "b", bytes))
    if batch is not None and batch.client == it.peer:
        fabric.ownership.grant_start(it.now, batch.key, ranges(it.header.get("r")) or [])


def _input(fabric: Fabric, it: Message) -> None:
    header = it.header
    key, index = field(header, "b", bytes), field(header, "i", int)
    what, value = given(header)
    if it.is_node and "o" in header:
        fabric.ownership.give_input(key, index, what, value, bytes(it.body))
    elif it.is_node:
        fabric.execution.give_input(it.peer, key, index, what, value, bytes(it.body))
    else:
        batch = fabric.ownership.batches.get(key)
        if batch is not None and batch.client == it.peer:
            fabric.ownership.give_input(key, index, what, value, bytes(it.body))
        elif batch is None:
            fabric.relay.pass_on(it.peer, it.kind, key, header, it.body)


def _release(fabric: Fabric, it: Message) -> None:
    key = field(it.header, "b", bytes)
    if key in fabric.ownership.batches:
        fabric.ownership.delivered(key)
    elif not it.is_node:
        fabric.relay.pass_on(it.peer, it.kind, key, it.header, it.body)


def _query(fabric: Fabric, it: Message) -> None:
    arguments = it.header.get("a") or {}
    if not isinstance(arguments, dict):
        raise MessageError("arguments of a query are not a map")
    if fabric.queries is not None:
        number, method = field(it.header, "q", int), field(it.header, "m", str)
        fabric.queries.query(it.link, number, method, arguments, it.body)


def _reply(fabric: Fabric, it: Message) -> None:
    if fabric.queries is not None:
        fabric.queries.reply(it.link, field(it.header, "q", int), it.header, it.body)


def _goodbye(fabric: Fabric, it: Message) -> None:
    """The link goes down next, and says so."""


Handler = Callable[["Fabric", Message], None]
FROM_NODES: dict[int, Handler] = {
    Kind.OUTCOMES: _outcomes,
    Kind.DISPATCH: _dispatch,
    Kind.EVENT: _event,
    Kind.RECALL: _recall,
    Kind.REPRIORITIZE: _reprioritize,
    Kind.LEDGER: _ledger,
    Kind.KNOWLEDGE: _knowledge,
    Kind.LOAD: _load,
    Kind.TWIN: _twin,
}
FROM_ANYBODY: dict[int, Handler] = {
    Kind.SUBMIT: _submit,
    Kind.CANCEL: _cancel,
    Kind.GRANT_START: _grant_start,
    Kind.INPUT: _input,
    Kind.RELEASE: _release,
    Kind.QUERY: _query,
    Kind.REPLY: _reply,
    Kind.GOODBYE: _goodbye,
}
