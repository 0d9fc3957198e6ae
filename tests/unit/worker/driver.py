"""A node's end of one real worker process: enough to hand it slices and to read what it says."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgpack

from kernels.batch import CallBuilder, Calls, Outcomes
from kernels.slots import SlotPage
from nodes.worker import channel as wire
from swarm.payload import decode_value, encode_call
from swarm.payload_code import encode_code
from swarm.payload_failure import decode_failure
from swarm.protocol.spec import Spec

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_S = 60.0


class Ended(Exception):
    """The worker closed its end."""


class Driver:
    """One worker. Requests are answered by `answers`: a callable for each method."""

    def __init__(
        self,
        *,
        modules: Sequence[str] = (),
        python: str | None = None,
        env: dict[str, str] | None = None,
        options: Sequence[str] = (),
        path: Sequence[str] = (),
    ) -> None:
        self.socket, theirs = socket.socketpair()
        self.page: SlotPage | None = None
        fds = [theirs.fileno()]
        if python is None:
            self.page, page_fd = SlotPage.create()
            fds.append(page_fd)
            command = [sys.executable, "-m", "nodes.worker.home", "--channel", str(fds[0]), "--slots", str(page_fd)]
        else:
            command = [python, str(ROOT / "nodes/worker/guest"), "--channel", str(fds[0])]
        if modules:
            command += ["--modules", ",".join(modules)]
        command += options
        environment = {"PATH": os.environ["PATH"], "SWARM_NODE": "oak"}
        environment["PYTHONPATH"] = os.pathsep.join((*path, str(ROOT))) if python is None else os.pathsep.join(path)
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment | (env or {}),
            pass_fds=fds,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        theirs.close()
        if self.page is not None:
            os.close(fds[1])
        self.socket.settimeout(TIMEOUT_S)
        self.frames = wire.Frames()
        self.pending: list[wire.Frame] = []
        self.events: list[tuple[int, int, str, Any]] = []
        self.others: list[wire.Frame] = []
        self.requests: list[tuple[str, list[Any]]] = []
        self.answers: dict[str, Callable[..., Any]] = {"code.get": lambda digest: self.code[bytes(digest)]}
        self.code: dict[bytes, bytes] = {}
        self.on_event: Callable[[int, int, str, Any], None] = lambda *event: None
        self._numbers = 0
        self.ready = msgpack.unpackb(self.read(wire.READY).body)
        self.ready_s = time.monotonic() - self.started

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()
        try:
            self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise
        finally:
            for pipe in (self.process.stdout, self.process.stderr):
                assert pipe is not None
                pipe.close()
            if self.page is not None:
                self.page.close()

    # --- to the worker

    def send(self, frame: bytes) -> None:
        self.socket.sendall(frame)

    def spec(
        self, fn: Any = None, *, granted: bool = True, code: bool = True, push: bool = False, **options: Any
    ) -> int:
        """Send a spec for a name, a callable by value (its code with it: push), or a command (None); its number."""
        self._numbers += 1
        kind = "call"
        ref: tuple[str, bytes | str, str] | None
        if fn is None:
            kind, ref = "command", None
        elif isinstance(fn, str):
            ref = ("name", fn, fn)
        else:
            made = encode_code(fn)
            ref = ("blob", made.digest, made.name)
            if code:
                self.code[made.digest] = made.blob
            if push:
                self.send(wire.pack(wire.CODE, made.digest + made.blob))
        options.setdefault("name", ref[2] if ref else "command")
        raw = Spec(kind, ref, **options).encode()
        self.send(wire.pack(wire.SPEC, raw, flags=wire.GRANTED if granted else 0, run=self._numbers))
        return self._numbers

    def run(
        self,
        spec: int,
        calls: Sequence[bytes | tuple[Any, ...]],
        *,
        start: int = 0,
        slot: int = 0,
        extra: dict[str, Any] | None = None,
        recall: Callable[[SlotPage], None] | None = None,
    ) -> int:
        """Hand a slice over; the number of the run."""
        self._numbers += 1
        builder = CallBuilder()
        for call in calls:
            builder.add(call if isinstance(call, bytes) else encode_call(call))
        columns = builder.take()
        lengths, payloads = Calls(columns, len(calls)).slice(0, len(calls))
        if self.page is not None:
            self.page.offer(slot, len(calls))
            if recall is not None:
                recall(self.page)
        said = {"token": [1, 7], "batch": b"B" * 12, "attempt": 1} | (extra or {})
        self.send(wire.pack_run(self._numbers, slot, start, len(calls), spec, said, lengths, payloads))
        return self._numbers

    # --- from the worker

    def frame(self) -> wire.Frame:
        while not self.pending:
            data = self.socket.recv(1 << 20)
            if not data:
                raise Ended(self.process.wait(TIMEOUT_S))
            self.pending += self.frames.feed(data)
        return self.pending.pop(0)

    def read(self, *kinds: int) -> wire.Frame:
        """The next frame of these kinds; requests on the way are answered, events kept."""
        while True:
            frame = self.frame()
            if frame.kind in kinds:
                return frame
            if frame.kind == wire.REQUEST:
                method, args = msgpack.unpackb(frame.body)
                self.requests.append((method, args))
                try:
                    reply, flags = self.answers[method](*args), 0
                except KeyError as error:
                    reply, flags = {"message": f"no {error}", "hint": "ask another"}, wire.ERROR
                self.send(wire.pack(wire.REPLY, msgpack.packb(reply), flags=flags, run=frame.run))
            elif frame.kind == wire.EVENT:
                index, name, data = msgpack.unpackb(frame.body)
                self.events.append((frame.run, index, name, data))
                self.on_event(frame.run, index, name, data)
            else:
                self.others.append(frame)

    def outcomes(self, run: int) -> dict[int, tuple[int, bytes]]:
        """All outcomes of a run up to its DONE: index -> (status, payload)."""
        found: dict[int, tuple[int, bytes]] = {}
        while True:
            frame = self.read(wire.OUTCOMES, wire.DONE)
            assert frame.run == run
            if frame.kind == wire.DONE:
                return found
            for index, outcome in outcomes_of(frame).items():
                assert index not in found
                found[index] = outcome

    def values(self, spec: int, calls: Sequence[bytes | tuple[Any, ...]], **options: Any) -> list[Any]:
        """Run and give the values; an outcome that is none is given as (status, what it says)."""
        found = self.outcomes(self.run(spec, calls, **options))
        return [said(*found[index]) for index in sorted(found)]


def outcomes_of(frame: wire.Frame) -> dict[int, tuple[int, bytes]]:
    rows = Outcomes(frame.body[4:], int.from_bytes(frame.body[:4], "little"))
    return {rows.index(i): (rows.status(i), bytes(rows.payload(i))) for i in range(rows.count)}


def said(status: int, payload: bytes) -> Any:
    return decode_value(payload, trusted=True) if status == 0 else (status, decode_failure(payload))
