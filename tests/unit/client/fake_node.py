"""Scripted nodes for tests of the client: they live in its own loop, behind in-memory links, and run tasks at once."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from kernels.batch import Calls, OutcomeBuilder
from kernels.chunks import call_each
from swarm.client.engine import Engine, EngineSettings
from swarm.client.sync import Fleet
from swarm.errors import FleetNotFound
from swarm.paths import Home
from swarm.payload import decode_call, encode_value
from swarm.payload_code import decode_code
from swarm.payload_failure import encode_failure, encode_notice
from swarm.protocol.messages import Kind, decode, encode
from swarm.protocol.spec import parse_spec
from swarm.protocol.states import Status
from transport.certificates import Keys, fleet_of, issue
from transport.identity import Admin, AdminChain, Credentials, Trust
from transport.links import Link, LinkSettings
from transport.memory_links import MemoryLinks, MemoryNetwork

ADMIN = SigningKey(bytes(range(32)))
FOUNDER = ADMIN.verify_key.encode()


def trust() -> Trust:
    return Trust(AdminChain(Admin(FOUNDER, "admin")), "test", bytes(32))


def credentials(name: str, role: str, grants: Iterable[str] = ("code",)) -> Credentials:
    keys, now = Keys.create(), time.time()
    certificate = issue(
        ADMIN, fleet_of(FOUNDER), name=name, role=role, grants=frozenset(grants), sign_key=keys.sign_key,
        curve_key=keys.curve_key, not_before_s=now - 60, expires_s=now + 3600,
    )  # fmt: skip
    return Credentials(trust().verify(certificate, now), certificate, keys)


class Node:
    """One scripted node. `answers` decides about a batch: "run", "hold" it, or a header to refuse it with."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.boot = os.urandom(8)
        self.credentials = credentials(name, "node")
        self.links: Any = None
        self.link: Link | None = None
        self.answers: Callable[[dict[str, Any]], str | dict[str, Any]] = lambda header: "run"
        self.submitted: list[dict[str, Any]] = []
        self.cancelled: list[dict[str, Any]] = []
        self.inputs: list[tuple[str, Any, bytes]] = []
        self.order: list[str] = []
        self.granted: list[list[list[int]]] = []
        self.code: dict[bytes, bytes] = {}
        self.held: dict[bytes, tuple[dict[str, Any], bytes]] = {}
        self.values: dict[bytes, Any] = {}
        self.ran: list[tuple[bytes, int]] = []
        self.says = world.says
        """What it says of itself to who asks for the nodes."""
        self.up = True

    # --- in the loop of the client ------------------------------------------------------------------------------------

    async def listen(self) -> None:
        if self.links is None:
            self.links = MemoryLinks(
                self.credentials, trust(), self, info={}, network=self.world.network, boot=self.boot,
                settings=self.world.settings,
            )  # fmt: skip
            await self.links.listen(f"memory://{self.name}")

    def link_up(self, link: Link) -> None:
        self.link = link

    def link_down(self, link: Link, reason: str) -> None:
        if self.link is link:
            self.link = None

    def link_writable(self, link: Link) -> None: ...

    def refused(self, reason: str, facts: Mapping[str, object]) -> None: ...

    def link_messages(self, link: Link, messages: list[bytes]) -> None:
        for message in messages:
            kind, header, body = decode(message)
            self.order.append(Kind(kind).name if kind != Kind.QUERY else header["m"])
            getattr(self, f"on_{Kind(kind).name.lower()}", self.on_other)(header, bytes(body))

    def on_other(self, header: dict[str, Any], body: bytes) -> None: ...

    def on_submit(self, header: dict[str, Any], body: bytes) -> None:
        self.submitted.append(header)
        answer = self.answers(header)
        if isinstance(answer, dict):
            self.say(Kind.REFUSED, {"b": header["b"], **answer})
        elif answer == "hold":
            self.held[header["b"]] = (header, body)
            if not parse_spec(header["s"]).rerun:
                self.say(Kind.ASK_START, {"b": header["b"], "r": [[0, header["n"]]]})
        else:
            self.run(header, body)

    def on_cancel(self, header: dict[str, Any], body: bytes) -> None:
        self.cancelled.append(header)
        held = self.held.get(header["b"])
        if held is not None:
            ranges = header["r"] if header["r"] is not None else [[0, held[0]["n"]]]
            rows = [row for start, stop in ranges for row in range(start, stop)]
            self.outcomes(header["b"], [(row, Status.CANCELLED, encode_notice("it was cancelled")) for row in rows])

    def on_grant_start(self, header: dict[str, Any], body: bytes) -> None:
        self.granted.append(header["r"])

    def on_input(self, header: dict[str, Any], body: bytes) -> None:
        self.inputs.append((header["e"], header["v"], body))

    def on_query(self, header: dict[str, Any], body: bytes) -> None:
        method, value, answer = header["m"], None, b""
        if method == "code.put":
            self.code[header["a"]["digest"]] = body
        elif method == "nodes":
            value = {"nodes": self.world.nodes_told()} | self.says
        elif method == "members":
            value = {"members": [{"name": node.name, "slots": 2} for node in self.world.nodes]}
        elif method == "result":
            value, answer = {"state": "ok"}, encode_value("kept")
        elif method == "silent":
            return
        else:
            self.say(Kind.REPLY, {"q": header["q"], "e": ["NotFound", f"no {method}", "ask for something else", {}]})
            return
        self.say(Kind.REPLY, {"q": header["q"], "v": value}, answer)

    def say(self, kind: Kind, header: dict[str, Any], *parts: bytes) -> None:
        if self.link is not None:
            self.link.send(encode(kind, header), *parts)

    def outcomes(self, key: bytes, rows: list[tuple[int, int, bytes]]) -> None:
        builder = OutcomeBuilder()
        for index, status, payload in rows:
            builder.add(index, status, 5, payload)
        self.say(Kind.OUTCOMES, {"b": key, "n": len(rows)}, builder.take())

    def event(self, key: bytes, index: int, name: str, value: Any = None, body: bytes = b"") -> None:
        self.say(Kind.EVENT, {"b": key, "i": index, "e": name, "v": value, "w": self.name}, body)

    def run(self, header: dict[str, Any], body: bytes, only: Iterable[int] | None = None) -> None:
        """Run the tasks of a batch, but for those that have ended."""
        key = header["b"]
        ended = {row for start, stop in header.get("k") or () for row in range(start, stop)}
        spec, calls = parse_spec(header["s"]), Calls(body, header["n"])
        rows = []
        for index in range(header["n"]) if only is None else only:
            if index in ended:
                continue
            self.ran.append((key, index))
            try:
                assert spec.fn is not None
                fn = decode_code(self.code[spec.fn[1]])
                deps = [self.values[dep] for dep in header.get("d") or ()]
                call = decode_call(calls.payload(index), trusted=True, dependencies=deps)
                value = chunk(fn, *call.args) if spec.chunked else fn(*call.args, **call.kwargs)
                if spec.stream:
                    for number, item in enumerate(value):
                        self.event(key, index, "item", number, encode_value(item))
                    value = None
            except Exception as error:
                rows.append((index, Status.FAILED, encode_failure(error, node=self.name, attempt=1)))
            else:
                self.values[key + index.to_bytes(4, "big")] = value
                rows.append((index, Status.OK, encode_value(value)))
        self.outcomes(key, rows)


def chunk(fn: Callable[..., Any], items: Any, width: int) -> list[Any]:
    """What a worker says of a chunk."""
    values: list[Any] = []
    began = time.perf_counter()
    try:
        call_each(fn, items, width, values)
    except Exception as error:
        return [values, encode_failure(error, node="oak", attempt=1), 0.0]
    return [values, None, time.perf_counter() - began]


class World:
    """A client and its nodes. What is done to nodes is done in the client's loop: `do(node.method, …)`."""

    def __init__(self, *names: str, says: Mapping[str, Any] | None = None, **settings: Any) -> None:
        self.network = MemoryNetwork()
        self.says = dict(says or {})
        self.settings = LinkSettings(handshake_timeout_s=2.0)
        self.nodes = [Node(self, name) for name in names or ("oak",)]
        self.told = True
        self.engine = Engine(Home.resolve(), settings=EngineSettings(**settings))
        self.finder = Finder(self)
        self.fleet = Fleet(self.engine)
        self.engine.begin(self.finder, 60.0)  # type: ignore[arg-type]

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def nodes_told(self) -> list[dict[str, Any]]:
        if not self.told:
            return []
        return [{"id": node.credentials.id, "name": node.name} for node in self.nodes if node.up]

    def do(self, function: Callable[..., Any], *args: Any) -> Any:
        async def call() -> Any:
            return function(*args)

        return self.engine._call(call(), 60.0)

    def kill(self, name: str) -> None:
        node = self.node(name)
        node.up = False
        self.do(node.links.kill)

    def eventually(self, condition: Callable[[], Any], timeout_s: float = 60.0) -> Any:
        until = time.monotonic() + timeout_s
        for pause in itertools.chain([0.001] * 10, itertools.repeat(0.01)):
            found = self.do(condition)
            if found:
                return found
            assert time.monotonic() < until, "it did not come about"
            time.sleep(pause)
        raise AssertionError

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.fleet.close(cancel=True)


class Finder:
    """Finds the nodes of a world, in their order."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._own = credentials("tester", "client")
        self._links: Any = None
        self.places: dict[bytes, Any] = {}
        self.credentials, self.trust = self._own, trust()

    async def find(self, deadline: float, avoid: bytes | None = None) -> Link:
        world = self._world
        if self._links is None:
            self._links = MemoryLinks(
                self._own, trust(), world.engine, info={}, network=world.network, settings=world.settings
            )
        for node in sorted(world.nodes, key=lambda one: one.credentials.id == avoid):
            if node.up:
                await node.listen()
                return await self._links.connect(f"memory://{node.name}")
        raise FleetNotFound("no node of test was reached")

    def learn(self, nodes: Iterable[Mapping[str, Any]]) -> None:
        self.places = {node["id"]: node for node in nodes}

    async def close(self) -> None:
        if self._links is not None:
            await self._links.close()
        for node in self._world.nodes:
            if node.links is not None:
                await node.links.close()


def temporary_home(path: Path) -> Home:
    return Home.resolve({"SWARM_HOME": str(path)})
