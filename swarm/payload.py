"""How arguments and results are written: one tag byte, then a body.

===== ==================================================== ========== ==========================================
tag   body                                                 needs code used for
===== ==================================================== ========== ==========================================
``M`` MessagePack                                          no         small values of plain builtin types
``R`` MessagePack of a ref; the blob holds MessagePack     no         large ones, where pickles are not allowed
``P`` pickle, protocol 5, in band                          yes        all else that is small
``B`` MessagePack [pickle or its ref, [refs of buffers]]   yes        pickle with out-of-band buffers (PEP 574)
``F`` MessagePack map, see :mod:`swarm.payload_failure`    in part    exceptions and notices
===== ==================================================== ========== ==========================================

A call is ``[args]``, ``[args, kwargs]`` or ``[args, kwargs, fills]``; a fill ``[position or keyword, n]`` says that
this argument is the result of the task's n-th dependency. A ref is ``[id (32 bytes), size in bytes, flags]``. Buffers
and pickles over 64 KiB go out of band when there is a :class:`BlobSink` to take them, and come back as read-only views
without a copy.

Nothing here loads a pickle unless the caller says `trusted`: that the author is granted ``code``.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, NamedTuple, Protocol

import msgpack

from kernels.plain import PLAIN_DEPTH_MAX, decode_plain, encode_plain
from kernels.windows import Window
from transport.bounds import INLINE_BYTES_MAX, OUT_OF_BAND_BYTES
from transport.bounds import PAYLOAD_BUFFERS_MAX as BUFFERS_MAX

REF_ID_BYTES = 32

_CODE_HINT = "grant the author `code` (swarm fleet token --grant code), or use plain values and commands"


class Ref(NamedTuple):
    """Where a buffer is: the id of a blob or segment (32 bytes), its size in bytes, and flags of the store."""

    id: bytes
    size: int
    flags: int = 0


class BlobSink(Protocol):
    """Takes large buffers out of payloads."""

    def put(self, buffer: memoryview) -> Ref:
        """Store a contiguous buffer of bytes. May raise what the store raises when it is full."""
        ...


class BlobSource(Protocol):
    """Gives the buffers back."""

    def open(self, ref: Ref) -> memoryview | Window:
        """A read-only view of ``ref.size`` bytes. KeyError when the blob is nowhere to be found."""
        ...


class PayloadError(ValueError):
    """A payload that is malformed, or that may not be loaded here. ``hint`` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Call(NamedTuple):
    """A decoded call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def encode_call(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    sink: BlobSink | None = None,
    *,
    fills: Sequence[tuple[int | str, int]] = (),
    pickles: bool = True,
    by_value: Callable[[str], bool] | None = None,
    limit_bytes: int = INLINE_BYTES_MAX,
) -> bytes:
    """The payload of a call.

    `fills` says which arguments are results of dependencies. `pickles` is whether the author may send pickles; without
    it only plain values are taken. `by_value` tells of a module's name whether what it defines must be sent by value.
    Raises NotPicklable, or PayloadTooLarge beyond `limit_bytes` (blobs not counted).
    """
    keywords = dict(kwargs) if kwargs else None
    aside = pickles and _any_aside(args, keywords, sink)
    if not aside:
        call: list[Any] = [list(args), keywords or {}, [list(fill) for fill in fills]] if fills else [list(args)]
        if keywords and not fills:
            call.append(keywords)
        plain = encode_plain(call)
        if plain is None and not pickles:
            plain = _large_plain(call, sink, limit_bytes, "the arguments")
        if plain is not None:
            return plain
    shell = tuple(_aside(value, sink) for value in args) if aside else args
    named = {key: _aside(value, sink) for key, value in (keywords or {}).items()} if aside else keywords or {}
    content = (shell, named, [list(fill) for fill in fills]) if fills else (shell, named)
    try:
        return _encode_pickled(content, sink, pickles, by_value, limit_bytes, "the arguments")
    except _Refused as refused:
        raise _not_picklable(refused, _blame(args, keywords, by_value, pickles)) from refused.__cause__


def encode_value(
    value: Any,
    sink: BlobSink | None = None,
    *,
    pickles: bool = True,
    by_value: Callable[[str], bool] | None = None,
    limit_bytes: int = INLINE_BYTES_MAX,
    total_bytes_max: int | None = None,
) -> bytes:
    """The payload of a result.

    Raises NotPicklable, or PayloadTooLarge beyond `limit_bytes` (blobs not counted) or `total_bytes_max` (all counted).
    """
    aside = pickles and _goes_aside(value, sink)
    if not aside:
        plain = encode_plain(value)
        if plain is None and not pickles:
            plain = _large_plain(value, sink, limit_bytes, "the result")
        if plain is not None:
            return plain
    try:
        return _encode_pickled(
            _aside(value, sink) if aside else value, sink, pickles, by_value, limit_bytes, "the result", total_bytes_max
        )
    except _Refused as refused:
        raise _not_picklable(refused, f"the result, of type {_type_name(value)},") from refused.__cause__


def decode_call(
    payload: bytes | memoryview,
    source: BlobSource | None = None,
    *,
    trusted: bool = False,
    dependencies: Sequence[Any] = (),
) -> Call:
    """The arguments of a call. PayloadError when malformed or not to be loaded here; else what a pickle raises."""
    content = decode_value(payload, source, trusted=trusted)
    if not isinstance(content, list | tuple) or not 1 <= len(content) <= 3 or not isinstance(content[0], list | tuple):
        raise PayloadError("the payload is not a call: [args, kwargs] was expected")
    args = content[0]
    kwargs = content[1] if len(content) > 1 else None
    if kwargs is None:
        kwargs = {}
    elif not isinstance(kwargs, dict):
        raise PayloadError("the payload is not a call: its keyword arguments are not a map")
    if len(content) == 3:
        args, kwargs = _filled(list(args), kwargs, content[2], dependencies)
    return Call(tuple(args), kwargs)


def decode_value(payload: bytes | memoryview, source: BlobSource | None = None, *, trusted: bool = False) -> Any:
    """The value of a payload. PayloadError when malformed or not to be loaded here; else what a pickle raises."""
    view = memoryview(payload)
    if not len(view):
        raise PayloadError("an empty payload")
    tag = view[0]
    if tag == 0x4D:  # M
        return decode_plain(payload)
    if tag == 0x52:  # R
        return _unpack(_open(_ref(_unpack(view[1:])), source))
    if tag not in b"PB":
        raise PayloadError(f"unknown payload tag {bytes([tag])!r}; this version reads M, R, P, B and F")
    if not trusted:
        raise PayloadError("this payload is a pickle, and its author is not granted `code`", _CODE_HINT)
    if tag == 0x50:  # P
        return pickle.loads(view[1:])  # noqa: S301 - granted
    parts = _unpack(view[1:])
    if not isinstance(parts, list) or len(parts) != 2 or not isinstance(parts[1], list) or len(parts[1]) > BUFFERS_MAX:
        raise PayloadError("a payload with buffers is not [pickle, buffers]")
    head, refs = parts
    body = head if isinstance(head, bytes) else _open(_ref(head), source)
    buffers = [memoryview(ref) if isinstance(ref, bytes) else _open(_ref(ref), source) for ref in refs]
    return pickle.loads(body, buffers=buffers)  # noqa: S301 - granted


def refs_of(payload: bytes | memoryview) -> list[Ref]:
    """The blobs that a payload needs, without loading it: what to stage, what to hold. PayloadError when malformed."""
    view = memoryview(payload)
    if not len(view) or view[0] not in b"RB":
        return []
    parts = _unpack(view[1:])
    if view[0] == 0x52:
        return [_ref(parts)]
    if not isinstance(parts, list) or len(parts) != 2 or not isinstance(parts[1], list) or len(parts[1]) > BUFFERS_MAX:
        raise PayloadError("a payload with buffers is not [pickle, buffers]")
    return [_ref(part) for part in (parts[0], *parts[1]) if not isinstance(part, bytes)]


def dump(
    value: Any,
    buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
    by_value: Callable[[str], bool] | None = None,
) -> bytes:
    """A pickle of protocol 5: the standard one where it would load elsewhere, else cloudpickle's.

    The standard pickler is asked first, since it is at hand. It writes classes and functions by name, which says
    nothing elsewhere when they are of ``__main__`` or of a module for which `by_value` is true.
    """
    file = io.BytesIO()
    try:
        _Pickler(file, buffer_callback, by_value).dump(value)
    except (pickle.PicklingError, AttributeError, TypeError, _ByValue):
        from swarm.payload_code import dump_by_value

        return dump_by_value(value, buffer_callback, by_value)
    return file.getvalue()


class _ByValue(Exception):
    """Met something that has to be sent by value."""


class _Refused(Exception):
    """Could not be pickled; the reason is its cause or its text."""


class _Pickler(pickle.Pickler):
    def __init__(
        self,
        file: io.BytesIO,
        buffer_callback: Callable[[pickle.PickleBuffer], Any] | None,
        by_value: Callable[[str], bool] | None,
    ) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)
        self._by_value = by_value

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, FunctionType | type):
            module = getattr(obj, "__module__", None)
            if module == "__main__" or (self._by_value is not None and module and self._by_value(module)):
                raise _ByValue
        return NotImplemented


class _Aside:
    """Stands for bytes, a bytearray or a memoryview that shall leave the pickle as a buffer."""

    __slots__ = ("value",)

    def __init__(self, value: bytes | bytearray | memoryview) -> None:
        self.value = value

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        kind: Any = type(self.value)
        return kind, (pickle.PickleBuffer(self.value),)


def _encode_pickled(
    content: Any,
    sink: BlobSink | None,
    pickles: bool,
    by_value: Callable[[str], bool] | None,
    limit_bytes: int,
    what: str,
    total_bytes_max: int | None = None,
) -> bytes:
    if not pickles:
        raise _Refused("is not plain (None, bool, int of 64 bits, float, str, bytes, list, dict with text keys)")
    outside: list[memoryview] = []

    def aside(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if len(raw) <= OUT_OF_BAND_BYTES or len(outside) >= BUFFERS_MAX:
            return True
        outside.append(raw)
        return False

    def attempt(callback: Callable[[pickle.PickleBuffer], bool] | None) -> bytes:
        del outside[:]  # a pickler that gave up may have left some
        return dump(content, callback, by_value)

    try:
        body = attempt(aside if sink is not None else None)
    except Exception as error:
        raise _Refused(str(error) or type(error).__name__) from error
    total = len(body) + sum(map(len, outside))
    if total_bytes_max is not None and total > total_bytes_max:
        raise _too_large(what, total, total_bytes_max)
    if sink is None or (not outside and len(body) <= OUT_OF_BAND_BYTES):
        if len(body) >= limit_bytes:
            raise _too_large(what, len(body), limit_bytes)
        return b"P" + body
    refs = [list(sink.put(raw)) for raw in outside]
    head: Any = body if len(body) <= OUT_OF_BAND_BYTES else list(sink.put(memoryview(body)))
    payload = b"B" + bytes(msgpack.packb([head, refs]))
    if len(payload) > limit_bytes:
        raise _too_large(what, len(payload), limit_bytes)
    return payload


def _large_plain(value: Any, sink: BlobSink | None, limit_bytes: int, what: str) -> bytes | None:
    if not _is_plain(value, PLAIN_DEPTH_MAX + 2):  # the envelope of a call is two arrays
        return None
    body = bytes(msgpack.packb(value))
    if sink is not None:
        return b"R" + bytes(msgpack.packb(list(sink.put(memoryview(body)))))
    raise _too_large(what, len(body), min(limit_bytes, OUT_OF_BAND_BYTES))


def _is_plain(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind is list or kind is dict:
        if depth == 0 or (kind is dict and not all(type(key) is str for key in value)):
            return False
        return all(_is_plain(item, depth - 1) for item in (value if kind is list else value.values()))
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
        return True
    if kind is int:
        return bool(-(1 << 63) <= value < 1 << 64)
    return kind in (type(None), bool, float, bytes)


def _goes_aside(value: Any, sink: BlobSink | None) -> bool:
    if type(value) is memoryview:
        return bool(value.contiguous)  # never plain, and no pickler takes it as it is
    return sink is not None and type(value) in (bytes, bytearray) and len(value) > OUT_OF_BAND_BYTES


def _any_aside(args: tuple[Any, ...], kwargs: dict[str, Any] | None, sink: BlobSink | None) -> bool:
    return any(_goes_aside(value, sink) for value in (*args, *(kwargs or {}).values()))


def _aside(value: Any, sink: BlobSink | None) -> Any:
    return _Aside(value) if _goes_aside(value, sink) else value


def _filled(
    args: list[Any], kwargs: dict[str, Any], fills: Any, dependencies: Sequence[Any]
) -> tuple[list[Any], dict[str, Any]]:
    try:
        for place, number in fills:
            if isinstance(place, str):
                kwargs[place] = dependencies[number]
            else:
                args[place] = dependencies[number]
    except (TypeError, ValueError, IndexError) as error:
        raise PayloadError(f"the call's dependencies do not fit it: {error}") from None
    return args, kwargs


def _unpack(body: memoryview | Window) -> Any:
    try:
        return msgpack.unpackb(body)
    except Exception as error:
        raise PayloadError(f"the payload's body is not MessagePack: {error}") from None


def _ref(value: Any) -> Ref:
    match value:
        case [bytes(name), int(size), int(flags)] if len(name) == REF_ID_BYTES and size >= 0 and flags >= 0:
            return Ref(name, size, flags)
    raise PayloadError("a ref in the payload is not [id of 32 bytes, size, flags]")


def _open(ref: Ref, source: BlobSource | None) -> Any:
    if source is None:
        raise PayloadError("the payload refers to a blob, and there is no store here to take it from")
    view = source.open(ref)
    size = len(view) if isinstance(view, Window) else view.nbytes
    if size != ref.size:
        raise PayloadError(f"a blob has {size} bytes where its ref says {ref.size}")
    return view if isinstance(view, Window) else view.toreadonly()


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _blame(
    args: tuple[Any, ...], kwargs: dict[str, Any] | None, by_value: Callable[[str], bool] | None, pickles: bool
) -> str:
    named: list[tuple[str, Any]] = [(f"argument {i}", value) for i, value in enumerate(args)]
    named += [(f"argument {key!r}", value) for key, value in (kwargs or {}).items()]
    for name, value in named:
        try:
            if pickles:
                dump(value, None, by_value)
            elif not _is_plain(value, PLAIN_DEPTH_MAX):
                raise TypeError
        except Exception:
            return f"{name}, of type {_type_name(value)},"
    return "the arguments, taken together,"


def _not_picklable(refused: _Refused, what: str) -> Exception:
    from swarm.errors import NotPicklable

    if refused.__cause__ is None:
        return NotPicklable(f"{what} {refused}", hint=_CODE_HINT)
    hint = "send what it is made from (a path, an address, plain data) and open it in the task"
    return NotPicklable(f"{what} cannot be pickled: {refused}", hint=hint)


def _too_large(what: str, size_bytes: int, limit_bytes: int) -> Exception:
    from swarm.errors import PayloadTooLarge

    return PayloadTooLarge(
        f"{what}: {size_bytes} bytes, and at most {limit_bytes} are carried",
        hint="send less, write it to a file and send the path, or raise the limit",
        size_bytes=size_bytes,
        limit_bytes=limit_bytes,
    )
