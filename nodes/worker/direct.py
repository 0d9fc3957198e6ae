"""The worker's end of the direct lane: a client whose slot this is for a while sends calls without the node between.

The node learns of them afterwards (RECORDS): their numbers, how they ended and how long they took.
"""

from __future__ import annotations

import hmac
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

import msgpack

from kernels.clock import boottime_ns
from kernels.plain import decode_call as decode_plain_call
from kernels.plain import encode_plain
from nodes.worker.callables import Callables, Unresolved, is_coroutine_function
from nodes.worker.calls import Calls, ours
from nodes.worker.channel import GRANT_OVER, GRANT_READY, RECORDS, REVOKE, STOP, Channel, ChannelClosed, Frame
from nodes.worker.report import FAILED, OK, Reporter
from nodes.worker.runs import Context, WorkerSpec, transaction_of
from nodes.worker.segments import Segments
from swarm.payload import decode_call
from swarm.protocol import direct as wire
from swarm.protocol.states import Status
from swarm.tasks import options_of

CONNECT_MAX_S = 2.0
IDLE_MAX_S = 0.25
"""The slot goes back to the node when no call comes for so long."""
SEND_MAX_S = 5.0
"""A client that does not read an outcome within this loses the slot."""
RECORDS_MAX = 256
TEACHES_BYTES_MAX = 64 * 1024
"""Of a failure that takes more than this the node learns nothing."""
RECORDS_AGE_S = 0.02
READ_BYTES = 128 * 1024
_INDEX = struct.Struct(">I")
_CREDENTIALS = struct.Struct("3i")


class DirectRun:
    """What `swarm.current_task` and progress need of a direct call: a batch of one task, in its first attempt."""

    __slots__ = ("attempt", "batch", "direct", "number", "priority", "slot", "spec", "token")

    def __init__(self, batch: bytes, number: int, spec: WorkerSpec, direct: Direct) -> None:
        self.batch = batch
        self.number = number
        self.spec = spec
        self.direct = direct
        self.attempt = 1
        self.priority = spec.priority
        self.slot = 0
        self.token = (0,)

    def task_id(self, index: int) -> bytes:
        """The id of the task."""
        return self.batch + _INDEX.pack(index)


class Direct:
    """Serves one client at a time, in the main thread."""

    def __init__(
        self,
        channel: Channel,
        callables: Callables,
        calls: Calls,
        reporter: Reporter,
        segments: Segments,
        context: Context,
    ) -> None:
        self._channel = channel
        self._callables = callables
        self._calls = calls
        self._reporter = reporter
        self._segments = segments
        self._context = context
        self._connection: socket.socket | None = None
        self._specs: dict[int, WorkerSpec] = {}
        self._records: list[tuple[Any, ...]] = []
        self._said: bytes = b""
        """What the call that runs has found out (`swarm.lesson`)."""
        self._shut: frozenset[bytes] = frozenset()
        """Callables that go through the node, since it knows lessons about them."""
        self._through: set[int] = set()
        """Specs of these."""
        self._session = b""
        self._granted = False
        self._wrote = False
        self._broken = False

    def serve(self, frame: Frame) -> None:
        """Take calls until the client goes, is quiet, or the node wants the slot back. ChannelClosed as ever."""
        grant = msgpack.unpackb(frame.body)
        self._session, self._granted = bytes(grant["session"]), bool(grant["granted"])
        self._specs.clear()
        self._through.clear()
        self._shut = frozenset(bytes(call) for call in grant.get("shut", ()))
        self._broken = False
        try:
            self._connection = self._accept(str(grant["path"]), bytes(grant["ticket"]))
            if self._connection is not None:
                undo = [self._listen_to(stream) for stream in (sys.stdout, sys.stderr)]
                try:
                    self._take_calls(self._connection)
                finally:
                    for one in undo:
                        one()
        except wire.DirectViolation:
            pass  # a client that breaks the protocol loses its slot; it may ask the node for another
        finally:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._tell_records()
            self._channel.send(GRANT_OVER)

    def event(self, number: int, name: str, data: Any) -> None:
        """Tell the client something about the call that runs."""
        body = bytes(msgpack.packb([name, data], unicode_errors="backslashreplace"))
        if self._connection is not None:
            try:
                self._connection.sendall(wire.pack(wire.EVENT, body, number))
            except OSError:
                self._broken = True  # a frame may be half sent; what was asked for is done to its end all the same

    def lesson(self, said: Any) -> None:
        """The call that runs has found something out: the node is told when it has ended."""
        self._said = b"L" + bytes(msgpack.packb(dict(said), unicode_errors="backslashreplace"))

    # --- connecting ---------------------------------------------------------------------------------------------------

    def _accept(self, path: str, ticket: bytes) -> socket.socket | None:
        """The client, once it has come and shown its ticket; None when it does not, or not in time."""
        deadline = time.monotonic() + CONNECT_MAX_S
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            try:
                os.chmod(path, 0o600)
                listener.listen(1)
                self._channel.send(GRANT_READY)
                if not self._readable(listener, deadline):
                    return None
                connection, _ = listener.accept()
            finally:
                os.unlink(path)
        shown = b""
        while len(shown) < len(ticket):
            if not self._readable(connection, deadline) or not (part := connection.recv(len(ticket) - len(shown))):
                connection.close()
                return None
            shown += part
        if not _same_user(connection) or not hmac.compare_digest(shown, ticket):
            connection.close()
            return None
        connection.settimeout(SEND_MAX_S)
        return connection

    def _readable(self, sock: socket.socket, deadline: float) -> bool:
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1e3))

    # --- calls --------------------------------------------------------------------------------------------------------

    def _take_calls(self, connection: socket.socket) -> None:
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        poll.register(self._channel, select.POLLIN)
        mine = connection.fileno()
        frames = wire.Frames()
        quiet_s = 0.0
        while not self._is_over():
            ready = poll.poll(RECORDS_AGE_S * 1e3)
            if not ready:
                self._tell_records()
                quiet_s += RECORDS_AGE_S
                if quiet_s >= IDLE_MAX_S:
                    break
                continue
            quiet_s = 0.0
            for descriptor, _ in ready:
                if descriptor != mine:
                    self._channel.pump()
                    continue
                try:
                    data = connection.recv(READ_BYTES)
                except OSError:
                    return
                if not data:
                    return
                for kind, _, number, word, body in frames.feed(data):
                    if kind == wire.CALL:
                        self._call(connection, number, word, body)
                    elif kind == wire.SPEC:
                        self._specs[word] = WorkerSpec(word, bytes(body), self._granted)
                        if self._is_shut(self._specs[word]):
                            self._through.add(word)
                    else:
                        raise wire.DirectViolation(f"kind {kind}")
        # A call that is on its way now is not begun: the client sends it to the node when it reads this.
        try:
            connection.sendall(wire.pack(wire.BYE, b""))
        except OSError:
            pass

    def _is_over(self) -> bool:
        return self._channel.holds(lambda frame: frame.kind in (REVOKE, STOP))

    def _call(self, connection: socket.socket, number: int, word: int, body: memoryview) -> None:
        spec = self._specs.get(word)
        if spec is None:
            raise wire.DirectViolation(f"a call of the spec {word}, which was not sent")
        run = DirectRun(self._session + _INDEX.pack(number), number, spec, self)
        fn = self._callable(spec)
        # That its code had to be fetched or imported says nothing of how long it runs.
        began = boottime_ns()
        status, payload = (Status.RETURNED, b"") if fn is None else self._outcome(run, fn, body)
        run_us = (boottime_ns() - began) // 1000
        if status != Status.RETURNED:
            teaches, self._said = payload if status == FAILED else self._said, b""
            if teaches and len(teaches) <= TEACHES_BYTES_MAX:
                # The node is told at once: what follows from it is for the next call.
                self._records.append((number, spec.name, status, run_us, spec.fn, teaches))
                self._tell_records()
            else:
                self._records.append((number, spec.name, status, run_us))
            if self._wrote or len(self._records) >= RECORDS_MAX:
                # What it printed is on its way to the node, and is this task's.
                self._wrote = False
                self._tell_records()
        try:
            if self._broken:
                raise OSError
            connection.sendall(wire.pack(wire.OUTCOME, payload, number, min(run_us, 0xFFFFFFFF), status))
        except OSError:
            # Gone, or it does not read: the slot is worth more. It has the node run what it has no outcome of.
            raise wire.DirectViolation("the client takes no outcome") from None

    def _is_shut(self, spec: WorkerSpec) -> bool:
        if not self._shut or spec.fn is None:
            return False
        from swarm.protocol.lessons.names import call_of_fn

        return call_of_fn(spec.fn) in self._shut

    def _callable(self, spec: WorkerSpec) -> Callable[..., Any] | None:
        """What is called. None if that is the node's business."""
        if spec.number in self._through:
            return None
        try:
            fn = self._callables.resolve(spec.fn or (), spec.granted)
        except Unresolved:
            return None  # the node says what is the matter
        reflects = getattr(options_of(fn), "reflect", None) is not None
        return None if reflects or is_coroutine_function(fn) or transaction_of(spec, fn) is not None else fn

    def _outcome(self, run: DirectRun, fn: Callable[..., Any], body: memoryview) -> tuple[int, bytes]:
        context, spec = self._context, run.spec
        context.run, context.index = run, 0
        try:
            try:
                args, kwargs = decode_plain_call(body)
            except ValueError:
                args, kwargs = decode_call(body, self._segments, trusted=spec.granted, dependencies=[])
            value = fn(*args, **kwargs)
            if hasattr(value, "__await__") and self._calls.await_value is not None:
                value = self._calls.await_value(value)
            context.index = -1
            payload = encode_plain(value)
            if payload is not None:
                return OK, payload
            return self._reporter.payload(value)
        except ChannelClosed:
            raise
        except BaseException as error:
            from swarm.payload_failure import encode_failure

            said = encode_failure(error, node=self._reporter.node, attempt=1, ours=(*ours(), Direct._outcome.__code__))
            error.__traceback__ = None  # its frames hold the arguments
            return FAILED, said
        finally:
            context.index = -1
            context.run = None

    # --- what the node learns -----------------------------------------------------------------------------------------

    def _tell_records(self) -> None:
        if self._records:
            records, self._records = self._records, []
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except (OSError, ValueError, AttributeError):
                    pass
            self._channel.send(RECORDS, bytes(msgpack.packb(records)))

    def _listen_to(self, stream: Any) -> Callable[[], None]:
        """Note when a task prints: its record then goes to the node at once, so that what it printed is known as its."""
        write = stream.write

        def noting(text: str) -> Any:
            self._wrote = True
            return write(text)

        try:
            stream.write = noting
        except AttributeError:
            return lambda: None  # replaced by a task with something that cannot be listened to

        def undo() -> None:
            if stream.__dict__.get("write") is noting:
                del stream.write

        return undo


def _same_user(connection: socket.socket) -> bool:
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True  # the directory that the socket was in is the user's alone, and there is the ticket
    _, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))
    return bool(uid == os.getuid())
