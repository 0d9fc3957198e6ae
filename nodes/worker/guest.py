"""A guest worker: runs tasks under a user's own interpreter. One file on the standard library (Python 3.9 and later).

``/path/to/python guest.py --channel FD`` [``--modules A,B``] [``--result-bytes-max N``]. It speaks the frames of
:mod:`nodes.worker.channel`, which it cannot import, and needs nothing installed. There is no page of claims here: the
node sends slices of one task, and each is run as it comes.

Callables by name come from this interpreter's environment. Callables by value need cloudpickle here, and are told by
their exception when the code was made for another minor version of Python. ``import swarm`` gives, where nanoswarm is
not installed, a module with ``current_task``, ``progress``, ``waiting``, ``StateTransaction`` and a ``task`` that only marks.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import mmap
import os
import pickle
import signal
import socket
import struct
import sys
import time
import traceback
import types
from collections import OrderedDict, deque
from typing import Any

SPEC, RUN, ACK, REPLY, STOP, CODE = 1, 2, 3, 7, 8, 9
READY, OUTCOMES, EVENT, BLOCKED, UNBLOCKED, REQUEST, DONE = 33, 34, 35, 36, 37, 38, 39
OK, FAILED, REFUSED, RETRY = 0, 1, 6, 16
GRANTED, ERROR = 1, 1

FRAME_BYTES_MAX = 256 * 1024 * 1024
OUT_OF_BAND_BYTES = 64 * 1024
INLINE_BYTES_MAX = 1024 * 1024
DEPTH_MAX = 40
SPECS_MAX = 1024
CODE_MAX = 256
WINDOW = 16
TEXT_MAX = 16 * 1024
PROGRESS_INTERVAL_S = 0.05

HEADER = struct.Struct("<IBBHI")
RUN_HEADER = struct.Struct("<IIII")


# --- MessagePack (https://github.com/msgpack/msgpack/blob/master/spec.md), without extensions ------------------------


class NotPlain(TypeError):
    """A value of a type that MessagePack does not carry unchanged."""


def pack(value: Any) -> bytes:
    """A plain value as MessagePack. NotPlain for any other."""
    out: list[bytes] = []
    _pack(value, out, DEPTH_MAX)
    return b"".join(out)


def _pack(value: Any, out: list[bytes], depth: int) -> None:
    kind = type(value)
    if value is None:
        out.append(b"\xc0")
    elif kind is bool:
        out.append(b"\xc3" if value else b"\xc2")
    elif kind is int:
        if 0 <= value < 128:
            out.append(bytes((value,)))
        elif -32 <= value < 0:
            out.append(struct.pack("b", value))
        elif -(1 << 63) <= value < 1 << 63:
            out.append(b"\xd3" + struct.pack(">q", value))
        elif 0 < value < 1 << 64:
            out.append(b"\xcf" + struct.pack(">Q", value))
        else:
            raise NotPlain("an int of more than 64 bits")
    elif kind is float:
        out.append(b"\xcb" + struct.pack(">d", value))
    elif kind is str:
        try:
            raw = value.encode()
        except UnicodeEncodeError:
            raise NotPlain("text with surrogates") from None
        head = bytes((0xA0 | len(raw),)) if len(raw) < 32 else b"\xdb" + struct.pack(">I", len(raw))
        out.append(head + raw)
    elif kind is bytes:
        out.append(b"\xc6" + struct.pack(">I", len(value)) + value)
    elif kind in (list, dict):
        if depth == 0:
            raise NotPlain("nested too deeply")
        small, large = (0x90, b"\xdd") if kind is list else (0x80, b"\xdf")
        out.append(bytes((small | len(value),)) if len(value) < 16 else large + struct.pack(">I", len(value)))
        for item in value:
            if kind is dict:
                if type(item) is not str:
                    raise NotPlain("a key that is not text")
                _pack(item, out, 0)
                item = value[item]
            _pack(item, out, depth - 1)
    else:
        raise NotPlain("a value of type " + kind.__qualname__)


def unpack(data: Any) -> Any:
    """The value of one MessagePack document. ValueError when it is malformed, too deep, or something follows it."""
    reader = _Reader(data)
    try:
        value = reader.value(DEPTH_MAX)
    except (struct.error, IndexError):
        raise ValueError("MessagePack ended early") from None
    if reader.at != len(data):
        raise ValueError("bytes after the end of a MessagePack document")
    return value


class _Reader:
    def __init__(self, data: Any) -> None:
        self.data = memoryview(data)
        self.at = 0

    def take(self, count: int) -> memoryview:
        if count > len(self.data) - self.at:
            raise ValueError("MessagePack ended early")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def value(self, depth: int) -> Any:
        head = self.number("B")
        if head < 0x80:
            return head
        if head >= 0xE0:
            return head - 256
        if head < 0x90:
            return self.items(head & 15, True, depth)
        if head < 0xA0:
            return self.items(head & 15, False, depth)
        if head < 0xC0:
            return str(self.take(head & 31), "utf-8")
        if head in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[head]
        if head in (0xCA, 0xCB):
            return self.number(">f" if head == 0xCA else ">d")
        if 0xCC <= head <= 0xD3:
            return self.number(">" + "BHIQbhiq"[head - 0xCC])
        if 0xC4 <= head <= 0xC6:
            return bytes(self.take(self.number(">" + "BHI"[head - 0xC4])))
        if 0xD9 <= head <= 0xDB:
            return str(self.take(self.number(">" + "BHI"[head - 0xD9])), "utf-8")
        if 0xDC <= head <= 0xDF:
            return self.items(self.number(">" + "HIHI"[head - 0xDC]), head >= 0xDE, depth)
        raise ValueError(f"unknown MessagePack type 0x{head:02x}")

    def items(self, count: int, pairs: bool, depth: int) -> Any:
        if depth == 0:
            raise ValueError("MessagePack nested too deeply")
        if count > len(self.data) - self.at:  # each item has at least a byte
            raise ValueError("MessagePack ended early")
        if not pairs:
            return [self.value(depth - 1) for _ in range(count)]
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self.value(0)
            if not isinstance(key, str):
                raise ValueError("a MessagePack key that is not text")
            found[key] = self.value(depth - 1)
        return found


# --- the channel -------------------------------------------------------------------------------------------------------


class Closed(ConnectionError):
    """The node is gone."""


class Refused(Exception):
    """The task cannot be run here; args are (message, hint)."""


class Channel:
    """Frames over the inherited socket; blocks."""

    def __init__(self, fd: int) -> None:
        self.socket = socket.socket(fileno=fd)
        self.socket.setblocking(True)
        self.waiting: deque[tuple[int, int, int, int, Any]] = deque()
        self.requests = 0
        self.taken: Any = lambda kind, run, body: False
        os.register_at_fork(after_in_child=self.socket.close)

    def send(self, kind: int, body: Any = b"", slot: int = 0, run: int = 0) -> None:
        try:
            self.socket.sendall(HEADER.pack(HEADER.size - 4 + len(body), kind, slot, 0, run) + body)
        except OSError as error:
            raise Closed(str(error)) from None

    def event(self, run: int, index: int, name: str, data: Any) -> None:
        self.send(EVENT, pack([index, name, data]), run=run)

    def read(self) -> tuple[int, int, int, int, Any]:
        """One frame as (kind, slot, flags, run, body)."""
        length, kind, slot, flags, run = HEADER.unpack(self._exactly(HEADER.size))
        if not HEADER.size - 4 <= length <= FRAME_BYTES_MAX:
            raise Closed(f"a frame of {length} bytes")
        return kind, slot, flags, run, memoryview(self._exactly(length - HEADER.size + 4))

    def next(self) -> tuple[int, int, int, int, Any]:
        while not self.waiting:
            self.pump()
        return self.waiting.popleft()

    def pump(self) -> None:
        frame = self.read()
        if not self.taken(frame[0], frame[3], frame[4]):
            self.waiting.append(frame)

    def request(self, method: str, *args: Any) -> Any:
        self.requests += 1
        number = self.requests & 0xFFFFFFFF
        self.send(REQUEST, pack([method, list(args)]), run=number)
        while True:
            frame = self.read()
            kind, _, flags, run, body = frame
            if kind == REPLY and run == number:
                answer = unpack(body) if len(body) else None
                if flags & ERROR:
                    said = answer if isinstance(answer, dict) else {}
                    raise OSError(f"{method}: {said.get('message', 'refused')}")
                return answer
            if not self.taken(kind, run, body):
                self.waiting.append(frame)

    def _exactly(self, count: int) -> bytearray:
        buffer = bytearray(count)
        view = memoryview(buffer)
        while len(view):
            try:
                done = self.socket.recv_into(view)
            except OSError as error:
                raise Closed(str(error)) from None
            if not done:
                raise Closed("the node closed the channel")
            view = view[done:]
        return buffer


# --- payloads ----------------------------------------------------------------------------------------------------------


class Payloads:
    """Reads and writes payloads as swarm/payload.py says; large buffers go by the node's segments."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.where = (0, 0)

    def decode(self, payload: Any, granted: bool) -> Any:
        tag, body = bytes(payload[:1]), payload[1:]
        if tag == b"M":
            return unpack(body)
        if tag == b"R":
            return unpack(self.open(unpack(body)))
        if tag not in (b"P", b"B"):
            raise ValueError(f"unknown payload tag {tag!r}")
        if not granted:
            raise PermissionError("this payload is a pickle, and its author is not granted `code`")
        if tag == b"P":
            return pickle.loads(body)  # noqa: S301 - granted
        head, refs = unpack(body)
        buffers = [memoryview(ref) if isinstance(ref, bytes) else self.open(ref) for ref in refs]
        return pickle.loads(head if isinstance(head, bytes) else self.open(head), buffers=buffers)  # noqa: S301

    def open(self, ref: Any) -> Any:
        name, size, flags = ref
        place = self.channel.request("blob.open", name, flags)
        if place["size"] != size:
            raise ValueError(f"a blob has {place['size']} bytes where its ref says {size}")
        if not size:
            return memoryview(b"")
        with open(place["path"], "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return memoryview(mapped)[place["offset"] : place["offset"] + size]

    def put(self, buffer: Any) -> list[Any]:
        place = self.channel.request("segment.alloc", len(buffer), *self.where)
        with open(place["path"], "r+b") as file:
            mapped = mmap.mmap(file.fileno(), 0)
        with memoryview(mapped) as view:
            view[place["offset"] : place["offset"] + len(buffer)] = buffer
        mapped.close()
        sealed = self.channel.request("segment.seal", place["id"])
        known = sealed if isinstance(sealed, dict) else place
        return [bytes(known.get("id", place["id"])), len(buffer), known.get("flags", place.get("flags", 0))]

    def encode(self, value: Any) -> bytes:
        try:
            plain = pack(value)
            if len(plain) < OUT_OF_BAND_BYTES:
                return b"M" + plain
        except (NotPlain, RecursionError):
            pass
        if type(value) in (bytes, bytearray) and len(value) > OUT_OF_BAND_BYTES:
            value = _Aside(value)
        buffers: list[Any] = []
        body = dump(value, lambda buffer: self._inband(buffer, buffers))
        if not buffers and len(body) < OUT_OF_BAND_BYTES:
            return b"P" + body
        refs = [self.put(buffer) for buffer in buffers]
        head = body if len(body) <= OUT_OF_BAND_BYTES else self.put(memoryview(body))
        return b"B" + pack([head, refs])

    @staticmethod
    def _inband(buffer: Any, buffers: list[Any]) -> bool:
        raw = buffer.raw()
        if len(raw) <= OUT_OF_BAND_BYTES:
            return True
        buffers.append(raw)
        return False


class _Aside:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce_ex__(self, protocol: Any) -> Any:
        return type(self.value), (pickle.PickleBuffer(self.value),)


class _ByValue(Exception):
    pass


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (type, types.FunctionType)) and obj.__module__ == "__main__":
            raise _ByValue(f"{obj.__qualname__} is defined in the script that sent this task")
        return NotImplemented


def dump(value: Any, callback: Any = None) -> bytes:
    """A pickle; cloudpickle's where it is installed and the standard one would not load elsewhere."""
    file = io.BytesIO()
    try:
        _Pickler(file, 5, buffer_callback=callback).dump(value)
    except Exception:
        try:
            import cloudpickle
        except ImportError:
            raise
        file = io.BytesIO()
        cloudpickle.Pickler(file, protocol=5, buffer_callback=callback).dump(value)
    return file.getvalue()


def name_of(kind: Any) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def clip(text: str) -> str:
    half = TEXT_MAX // 2
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= TEXT_MAX else text[:half] + "\n… left out …\n" + text[-half:]


def notice(message: str, hint: str = "", facts: Any = None) -> bytes:
    return b"F" + pack({"message": clip(message), "hint": clip(hint), "facts": facts or {}})


def failure(error: BaseException, node: str, attempt: int) -> bytes:
    trace = error.__traceback__
    ours = (__file__, getattr(sys.modules.get("swarm.transactions.calls"), "__file__", None))
    while trace is not None and trace.tb_frame.f_code.co_filename in ours:
        trace = trace.tb_next
    try:
        message = str(error)
    except Exception:
        message = "<its str() raised>"
    try:
        text = "".join(traceback.format_exception(type(error), error, trace))
    except Exception:
        text = name_of(type(error))
    try:
        body = dump(error)
        pickle.loads(body)  # noqa: S301 - written just now
    except Exception:
        body = None
    return b"F" + pack(
        {
            "type": name_of(type(error)),
            "mro": [name_of(kind) for kind in type(error).__mro__[:-1]][:64],
            "message": clip(message),
            "traceback": clip(text),
            "pickle": body if body is None or len(body) < OUT_OF_BAND_BYTES else None,
            "node": node,
            "attempt": attempt,
        }
    )


# --- the worker --------------------------------------------------------------------------------------------------------


class Guest:
    """One guest worker."""

    def __init__(self, options: dict[str, str]) -> None:
        self.node = os.environ.get("SWARM_NODE", "")
        self.channel = Channel(int(options["channel"]))
        self.channel.taken = self._taken
        self.payloads = Payloads(self.channel)
        self.modules = [name for name in options.get("modules", "").split(",") if name]
        self.limit = int(options.get("result-bytes-max", 0)) or INLINE_BYTES_MAX
        self.specs: OrderedDict[int, tuple[dict[str, Any], bool]] = OrderedDict()
        self.codes: OrderedDict[bytes, bytes] = OrderedDict()
        self.callables: OrderedDict[bytes, Any] = OrderedDict()
        self.credit: dict[tuple[int, int], int] = {}
        self.current: tuple[int, int, int, dict[str, Any], dict[str, Any]] | None = None
        self.reported: tuple[Any, float] = (None, 0.0)

    def serve(self) -> None:
        ready = {
            "pid": os.getpid(),
            "python": list(sys.version_info[:3]),
            "implementation": sys.implementation.name,
            "cloudpickle": importlib.util.find_spec("cloudpickle") is not None,
        }
        self.channel.send(READY, pack(ready))
        while True:
            kind, slot, flags, run, body = self.channel.next()
            if kind == STOP:
                return
            if kind == SPEC:
                self.specs[run] = (unpack(body), bool(flags & GRANTED))
                _bound(self.specs, SPECS_MAX)
            elif kind == RUN:
                self._run(slot, run, body)

    def _run(self, slot: int, run: int, body: Any) -> None:
        start, count, number, length = RUN_HEADER.unpack_from(body)
        extra = unpack(body[RUN_HEADER.size : RUN_HEADER.size + length]) if length else {}
        columns = body[RUN_HEADER.size + length :]
        lengths = struct.unpack_from(f"<{count}I", columns)
        at = 4 * count
        for i in range(count):
            self._task(run, start + i, slot, columns[at : at + lengths[i]], number, extra)
            at += lengths[i]
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass
        self.channel.send(DONE, slot=slot, run=run)

    def _task(self, run: int, index: int, slot: int, payload: Any, number: int, extra: dict[str, Any]) -> None:
        spec, granted = self.specs[number]
        began = time.monotonic()
        self.payloads.where = (run, index)
        self.current = (run, index, slot, spec, extra)
        try:
            status, said = self._outcome(run, index, payload, spec, granted, extra)
        finally:
            self.current = None
        run_us = min(int((time.monotonic() - began) * 1e6), 0xFFFFFFFF)
        row = struct.pack("<IIIIB3x", 1, index, len(said), run_us, status)
        self.channel.send(OUTCOMES, row + said, run=run)

    def _outcome(
        self, run: int, index: int, payload: Any, spec: dict[str, Any], granted: bool, extra: dict[str, Any]
    ) -> tuple[int, bytes]:
        try:
            fn = self._resolve(spec.get("fn"), granted)
        except Refused as refused:
            return REFUSED, notice(*refused.args)
        try:
            call = self.payloads.decode(payload, granted)
            args, kwargs = list(call[0]), dict(call[1]) if len(call) > 1 else {}
            for place, which in call[2] if len(call) > 2 else ():
                target = kwargs if isinstance(place, str) else args
                target[place] = self.payloads.decode(memoryview(extra["deps"][which]), granted)
            directory = transaction_of(spec, fn)
            if directory is not None:
                value = self._in_transaction(fn, directory)(*args, **kwargs)
            else:
                value = fn(*args, **kwargs)
            if spec.get("stream"):
                value = self._deliver(run, index, value)
            elif isinstance(value, types.CoroutineType):
                value = self._await(value)
        except Closed:
            raise
        except BaseException as error:
            wanted = spec.get("retry_on") or ["builtins:Exception"]
            retry = spec.get("retries") and any(name_of(kind) in wanted for kind in type(error).__mro__)
            return RETRY if retry else FAILED, failure(error, self.node, extra.get("attempt", 1))
        return self._result(value)

    def _in_transaction(self, fn: Any, directory: str) -> Any:
        import inspect

        asks = fn if hasattr(fn, "__code__") else getattr(fn, "__call__", fn)  # noqa: B004 - the method is wanted
        return transactions().transactional(
            fn, directory, is_coroutine=inspect.iscoroutinefunction(asks), seal=self._sealed
        )

    def _sealed(self, value: Any) -> Any:
        status, body = self._result(value)
        if status != OK:
            raise TypeError(unpack(body[1:])["message"])
        return _Sealed(body)

    def _result(self, value: Any) -> tuple[int, bytes]:
        if type(value) is _Sealed:
            return OK, value.body
        if isinstance(value, (types.GeneratorType, types.AsyncGeneratorType)):
            hint = "to deliver its items as they come, say stream=True; else return a list of them"
            facts: Any = {"error": "NotPicklable"}
            return FAILED, notice("the task returned a generator, which lives only in its worker", hint, facts)
        try:
            body = self.payloads.encode(value)
        except Closed:
            raise
        except Exception as error:
            kind = type(value).__qualname__
            hint = "return what it is made from: a path, plain data"
            if importlib.util.find_spec("cloudpickle") is None:
                hint += "; or install cloudpickle in " + sys.prefix
            said = f"the result, of type {kind}, cannot be pickled: {error}"
            return FAILED, notice(said, hint, {"error": "NotPicklable"})
        if len(body) > self.limit:
            facts = {"error": "PayloadTooLarge", "size_bytes": len(body), "limit_bytes": self.limit}
            said = f"the result takes {len(body)} bytes; at most {self.limit} are carried"
            return FAILED, notice(said, "return less, or write it to a file and return the path", facts)
        return OK, body

    def _deliver(self, run: int, index: int, items: Any) -> Any:
        if hasattr(items, "__aiter__") or isinstance(items, types.CoroutineType):
            return self._await(self._deliver_async(run, index, items))
        iterator = iter(items)
        number = 0
        self.credit[run, index] = WINDOW
        try:
            while True:
                try:
                    value = next(iterator)
                except StopIteration as end:
                    return end.value
                self._item(run, index, number, value)
                number += 1
        finally:
            del self.credit[run, index]

    async def _deliver_async(self, run: int, index: int, items: Any) -> None:
        if isinstance(items, types.CoroutineType):
            items = await items
        number = 0
        self.credit[run, index] = WINDOW
        try:
            async for value in items:
                self._item(run, index, number, value)
                number += 1
        finally:
            del self.credit[run, index]

    def _item(self, run: int, index: int, number: int, value: Any) -> None:
        while self.credit[run, index] <= 0:
            self.channel.pump()
        self.credit[run, index] -= 1
        status, body = self._result(value)
        if status != OK:
            raise TypeError(unpack(body[1:])["message"])
        self.channel.event(run, index, "item", [number, body])

    @staticmethod
    def _await(coroutine: Any) -> Any:
        import asyncio

        return asyncio.run(coroutine)

    def _taken(self, kind: int, run: int, body: Any) -> bool:
        if kind == CODE:
            self.codes[bytes(body[:32])] = bytes(body[32:])
            _bound(self.codes, CODE_MAX)
            return True
        if kind == ACK:
            index, items = struct.unpack_from("<II", body)
            if (run, index) in self.credit:
                self.credit[run, index] += items
            return True
        return False

    def _resolve(self, fn: Any, granted: bool) -> Any:
        if not fn:
            raise Refused("a guest worker runs callables; commands are run by the node's own workers", "")
        if fn[0] == "name":
            return self._named(fn[1])
        if not granted:
            raise Refused("callables by value are run only for those who are granted `code`", "")
        digest = fn[1]
        if digest not in self.callables:
            self.callables[digest] = self._valued(digest, fn[2])
            _bound(self.callables, CODE_MAX)
        return self.callables[digest]

    def _named(self, path: str) -> Any:
        module, _, qualname = path.partition(":")
        if not any(module == name or module.startswith(name + ".") for name in self.modules):
            hint = "add it to the node's modules: swarm node --modules " + module
            raise Refused(f"module {module!r} is not one that this node runs", hint)
        try:
            target: Any = importlib.import_module(module)
        except Exception as error:
            said = f"module {module!r} cannot be imported by {sys.executable}: {type(error).__name__}: {error}"
            raise Refused(said, f"install what is missing in {sys.prefix}") from error
        for part in qualname.split("."):
            target = getattr(target, part, None)
        if not callable(target):
            raise Refused(f"there is no callable {qualname!r} in module {module!r} here", "")
        return target

    def _valued(self, digest: bytes, name: str) -> Any:
        here = f"{sys.version_info[0]}.{sys.version_info[1]}"
        if importlib.util.find_spec("cloudpickle") is None:
            hint = f"{sys.executable} -m pip install cloudpickle; or run a callable by name"
            raise Refused(f"{name} is sent by value, and {sys.executable} has no cloudpickle", hint)
        code = self.codes.pop(digest, None)
        if code is None:
            try:
                code = self.channel.request("code.get", digest)
            except OSError as error:
                if isinstance(error, Closed):
                    raise
                raise Refused(f"the code of {name} could not be fetched: {error}", "") from error
        made = made_by(code)
        if made and made != here:
            hint = f"use a guest interpreter of Python {made}, or run a callable by name"
            raise Refused(f"{name} was made by Python {made}, and this guest is Python {here}", hint)
        try:
            fn = pickle.loads(code)  # noqa: S301 - granted
        except Exception as error:
            said = f"the code of {name} cannot be loaded by {sys.executable}: {type(error).__name__}: {error}"
            raise Refused(said, f"install what is missing in {sys.prefix}") from error
        if not callable(fn):
            raise Refused(f"the code of {name} is not callable", "")
        return fn

    # what task code sees as swarm.current_task() and so on

    def describe(self) -> dict[str, Any] | None:
        if self.current is None:
            return None
        _, index, _, spec, extra = self.current
        mine = extra.get("batch", b"") + struct.pack(">I", index)
        token = extra.get("token", ())
        return {
            "id": mine,
            "token": tuple(token) if isinstance(token, (list, tuple)) else (token,),
            "attempt": extra.get("attempt", 1),
            "lineage": (spec.get("root") or mine, spec.get("parent", b""), spec.get("depth", 0)),
            "name": spec.get("name", ""),
            "node": self.node,
            "priority": extra.get("priority", spec.get("priority", 1)),
            "retries": spec.get("retries", 0),
        }

    def progress(self, done: float, total: float | None, note: str) -> None:
        if self.current is not None:
            run, index = self.current[:2]
            now = time.monotonic()
            if self.reported[0] == (run, index) and now - self.reported[1] < PROGRESS_INTERVAL_S and done != total:
                return
            self.reported = ((run, index), now)
            self.channel.event(run, index, "progress", {"done": done, "total": total, "note": note[:200]})

    def lesson(self, said: Any) -> None:
        if self.current is not None:
            run, index = self.current[:2]
            self.channel.event(run, index, "lesson", dict(said))

    def restore(self, default: Any) -> Any:
        """A task of another interpreter is not moved: it begins."""
        return default

    def checkpoint(self, state: Any) -> None:
        """It has no safe points."""

    def told(self) -> list[bytes]:
        return []  # home workers alone hear

    def places_to_stand(self, begins: bool) -> None:
        """It is stopped where it stands."""

    def stand(self) -> float:
        return 0.0

    def waiting(self, begins: bool) -> None:
        if self.current is not None:
            self.channel.send(BLOCKED if begins else UNBLOCKED, slot=self.current[2], run=self.current[0])


class _Sealed:
    """A result that is written already: before what the task did was made to last."""

    def __init__(self, body: bytes) -> None:
        self.body = body


def transaction_of(spec: dict[str, Any], fn: Any) -> Any:
    """The directory on which calls are transactions: what the call says, else what the callable was marked with."""
    for candidate in (fn, getattr(fn, "__func__", None), getattr(fn, "func", None)):
        found = spec.get("transaction") or getattr(getattr(candidate, "__swarm_task__", None), "transaction", None)
        if found:
            return found
    return None


def transactions() -> Any:
    """swarm.transactions: of the installed library, else loaded from beside this file; it needs the standard library alone."""
    try:
        return importlib.import_module("swarm.transactions")
    except ImportError:
        pass
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    folder = os.path.join(root, "swarm", "transactions")
    spec = importlib.util.spec_from_file_location(
        "swarm.transactions", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules["swarm.transactions"] = module
    spec.loader.exec_module(module)
    return module


def _bound(table: OrderedDict[Any, Any], most: int) -> None:
    while len(table) > most:
        table.popitem(last=False)


def made_by(code: bytes) -> str:
    """The minor version of Python that a blob of code was made by, as "3.11"; "" when it does not say."""
    # written by swarm/payload_code.py: PROTO 5, SHORT_BINUNICODE of this text, POP
    length = code[3] if code[:3] == b"\x80\x05\x8c" else 0
    text = code[4 : 4 + length]
    return text[13:].decode() if text[:13] == b"swarm python " else ""


def offer_swarm(guest: Guest) -> None:
    """Make ``swarm.current_task`` and its like work: in the installed library, or in a stand-in for it."""
    if importlib.util.find_spec("swarm") is not None:
        try:
            from swarm import tasks

            tasks.bind(guest)
        except Exception:  # another package of that name, or one that cannot be imported here
            pass
        return
    module: Any = types.ModuleType("swarm", "What a task under a guest interpreter may use of nanoswarm.")

    def task(fn: Any = None, **options: Any) -> Any:
        def mark(function: Any) -> Any:
            if options.get("transaction") is not None:
                function.__swarm_task__ = types.SimpleNamespace(transaction=os.fspath(options["transaction"]))
            return function

        return mark if fn is None else mark(fn)

    class waiting:
        def __enter__(self) -> None:
            guest.waiting(True)

        def __exit__(self, *exc: Any) -> None:
            guest.waiting(False)

    def current_task() -> Any:
        facts = guest.describe()
        return None if facts is None else types.SimpleNamespace(**facts)

    def offered(name: str) -> Any:
        if name == "StateTransaction" or name.startswith("Transaction"):
            return getattr(transactions(), name)
        raise AttributeError(f"module 'swarm' has no attribute {name!r} under a guest interpreter without nanoswarm")

    class TaskOptions:
        """What @swarm.task of the sender said, in a function that comes by value."""

        transaction = None

        def __setstate__(self, state: Any) -> None:
            """The options came in the order that they have there; they hold for the sender, who has put them into the spec."""

    def lesson(cause: str, *, here: bool = True, wait_s: float = 0.0, require: str = "", ask: str = "") -> None:
        """As in the library."""
        if not cause or not (here or wait_s or require or ask) or (here and (wait_s or require)):
            raise ValueError("a lesson has a cause, and advises here=True alone, or with here=False wait_s or require")
        guest.lesson(
            {"cause": cause[:500], "here": here, "wait_s": float(wait_s), "require": require[:200], "ask": ask[:500]}
        )

    marks: Any = types.ModuleType("swarm.tasks", "The options of tasks that come by value.")
    marks.TaskOptions = TaskOptions
    marks.current_task = current_task
    sys.modules["swarm.tasks"] = marks
    module.task = task
    module.__getattr__ = offered
    module.waiting = waiting
    module.current_task = current_task
    module.progress = lambda done, total=None, note="": guest.progress(done, total, note)
    module.lesson = lesson
    sys.modules["swarm"] = module


def die_with_parent() -> None:
    if sys.platform == "linux":
        try:
            import ctypes

            prctl = ctypes.CDLL(None).prctl
            prctl(1, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
            prctl(36, ctypes.c_ulong(1), 0, 0, 0)  # what tasks leave in the background stays below us
        except (ImportError, OSError, AttributeError):
            pass  # the end of the channel is noticed between tasks


def main(arguments: list[str]) -> None:
    die_with_parent()
    # this file's folder comes first on the path of a script, and would hide the user's modules of the same names
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != here]
    options = {name.lstrip("-"): value for name, value in zip(arguments[::2], arguments[1::2])}
    guest = Guest(options)
    offer_swarm(guest)
    sys.modules["__main__"] = types.ModuleType("__main__")
    out: Any = sys.stdout
    out.reconfigure(line_buffering=True)
    while True:
        try:
            guest.serve()
            break
        except KeyboardInterrupt:
            continue
        except Closed:
            if os.getpgrp() == os.getpid():
                os.killpg(0, signal.SIGKILL)
            os._exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
