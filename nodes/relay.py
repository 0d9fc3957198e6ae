"""Clients whose durable batches are in a log that another node leads: what they say is passed on to it, and its answers back.

A client has one link, to any node. The id of a batch names its home, and members say whose logs they lead, so the node that
a client is linked to knows where its words belong. They go there under the client's name (``o``), with its author and grant,
for which this node vouches. What is passed on is never passed on again: who does not lead the log says "unknown", and the
client hands over again in a moment.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from swarm.protocol.ledger.homes import TAG_BYTES, home_tag
from swarm.protocol.ledger.records import Durability
from swarm.protocol.messages import Kind, encode
from swarm.protocol.ownership import Ownership
from swarm.protocol.spec import SpecError, parse_spec
from transport.links import Link, LinkClosed, LinkOverflow

NODE_ID_BYTES = 16
THROUGH_MAX = 100_000
"""Batches that are passed on whose clients are told when the way is cut; the oldest go first."""
AGAIN_AFTER_S = 0.25
DECLINED_OFTEN = 3
"""A new leader declines for a moment. Who has declined so often may not be the leader at all."""
ANSWERS = frozenset((Kind.OUTCOMES, Kind.EVENT, Kind.ACCEPTED, Kind.REFUSED))


class Relay:
    """What passes through one node."""

    def __init__(
        self,
        me: bytes,
        ownership: Ownership,
        nodes: Mapping[bytes, Link],
        clients: Mapping[bytes, Link],
        connect: Callable[[bytes], None],
        where: Callable[[bytes], list[bytes]],
    ) -> None:
        self._me = me
        self._ownership = ownership
        self._nodes = nodes
        self._clients = clients
        self._connect = connect
        self._where = where
        self._through: OrderedDict[tuple[bytes, bytes], bytes] = OrderedDict()
        """(batch key, client) -> the node that it was passed on to."""
        self._declined: OrderedDict[bytes, int] = OrderedDict()
        """Batch key -> how often it was declined where it was passed on to."""

    # --- on the client's side -----------------------------------------------------------------------------------------

    def submit(self, link: Link, client: bytes, key: bytes, header: dict[str, Any], body: memoryview) -> bool:
        """A client hands over a durable batch. False when this node is who answers."""
        level = header.get("D")
        if not isinstance(level, int) or level <= 0 or "o" in header or self._ownership.takes(key, level):
            return False
        nodes = [node for node in self._candidates(key, level) if node != self._me]
        times = self._declined.get(key, 0)
        if nodes and times >= DECLINED_OFTEN and times % 2:
            # What members say of themselves may be old: now and then another one is asked first.
            first = times // 2 % len(nodes)
            nodes = [*nodes[first:], *nodes[:first]]
        for node in nodes:
            passed = {"o": client, "u": link.identity.name, "g": "code" in link.identity.grants}
            passed |= self._inherited(header.get("s"))
            if self._send(node, Kind.SUBMIT, header | passed, body):
                self._through[key, client] = node
                self._through.move_to_end((key, client))
                while len(self._through) > THROUGH_MAX:
                    self._through.popitem(last=False)
                return True
            self._connect(node)
        return False  # the owner says that it does not know

    def _inherited(self, raw: Any) -> dict[str, int]:
        """The class of the task that submits it, by now: that runs here, and not where it is passed on to."""
        if not isinstance(raw, bytes) or b"inherits" not in raw:
            return {}
        try:
            spec = parse_spec(raw)
        except SpecError:
            return {}  # its owner says so
        found = self._ownership.class_of(spec.parent) if spec.inherits else None
        return {} if found is None else {"p": found}

    def pass_on(self, client: bytes, kind: int, key: bytes, header: dict[str, Any], body: memoryview) -> bool:
        """A client says something of a batch that was passed on. False when none was."""
        found = self._through.get((key, client))
        return found is not None and self._send(found, kind, header | {"o": client}, body)

    def answer(self, kind: int, header: dict[str, Any], body: memoryview) -> None:
        """Who leads the log of a batch says something to a client that is linked here."""
        client, key = header.pop("o"), header.get("b")
        link = self._clients.get(client) if isinstance(client, bytes) else None
        if kind == Kind.REFUSED and isinstance(key, bytes):
            if self._through.pop((key, client), None) is not None:
                self._declined[key] = self._declined.pop(key, 0) + 1
                while len(self._declined) > THROUGH_MAX:
                    self._declined.popitem(last=False)
            if header.get("reason") == "draining":
                # That is the leader, which is about to hand over, and not the node to which the client is linked.
                header |= {"reason": "unknown", "after": AGAIN_AFTER_S}
        elif kind == Kind.ACCEPTED and isinstance(key, bytes):
            self._declined.pop(key, None)
        if link is not None and link.up:
            self._tell(link, kind, header, body)

    def passed_on(self, key: bytes) -> dict[str, bytes]:
        """Where a batch was passed on to, by the client that it came from."""
        return {client.hex(): node for (one, client), node in self._through.items() if one == key}

    def node_down(self, node: bytes) -> None:
        """There is no way to a node: clients hand over again what went there."""
        for key, client in [name for name, where in self._through.items() if where == node]:
            del self._through[key, client]
            link = self._clients.get(client)
            if link is not None and link.up:
                self._tell(link, Kind.REFUSED, {
                    "b": key, "reason": "unknown", "message": "the node that leads the log of this batch is not reached",
                    "hint": "it goes on there, or under the next leader", "after": AGAIN_AFTER_S,
                }, b"")  # fmt: skip

    def client_down(self, client: bytes) -> None:
        """A client is gone: durable batches do not need it."""
        for name in [name for name in self._through if name[1] == client]:
            del self._through[name]

    def _candidates(self, key: bytes, level: int) -> list[bytes]:
        found = self._where(key)
        if level == Durability.NODE:
            # That log is its home's alone, whoever leads the other one.
            tag = bytes(key[:TAG_BYTES])
            known = dict.fromkeys((*found, *sorted(self._nodes)))
            return [node for node in known if home_tag(node) == tag]
        return found

    # --- on the leader's side -----------------------------------------------------------------------------------------

    def tell(self, to: bytes, kind: int, header: dict[str, Any], parts: tuple[Any, ...]) -> bool:
        """Say something to a client that another node speaks for. False when that is not whom `to` names."""
        if len(to) <= NODE_ID_BYTES or to[:NODE_ID_BYTES] not in self._nodes:
            return False
        self._send(to[:NODE_ID_BYTES], kind, header | {"o": to[NODE_ID_BYTES:]}, *parts)
        return True

    def _send(self, node: bytes, kind: int, header: dict[str, Any], *parts: Any) -> bool:
        link = self._nodes.get(node)
        return link is not None and link.up and self._tell(link, kind, header, *parts)

    @staticmethod
    def _tell(link: Link, kind: int, header: dict[str, Any], *parts: Any) -> bool:
        try:
            link.send(encode(kind, header), *parts)
        except LinkClosed:
            return False
        except LinkOverflow as error:
            link.close(f"overflow: {error}"[:200])
            return False
        return True
