"""Payloads of tasks that did not end with a value (tag ``F``): failures, from an exception, and notices, from a node.

A failure is a MessagePack map {type, mro, message, traceback, pickle, node, attempt}: what happened can be read without
loading a pickle, and the exception itself comes along for those who may load one. A notice is {message, hint, facts}.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import CodeType, TracebackType
from typing import Any

import msgpack

from swarm.payload import PayloadError, dump
from transport.bounds import FAILURE_TEXT_CHARACTERS_MAX as TEXT_CHARACTERS_MAX
from transport.bounds import OUT_OF_BAND_BYTES

MRO_MAX = 64
_TAG = 0x46


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception of a task, as text, and as a pickle where there is one."""

    type: str
    mro: tuple[str, ...] = ()
    message: str = ""
    traceback: str = ""
    pickle: bytes | None = None
    node: str = ""
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Notice:
    """Why a task ended without having raised: one line, what to do, and the facts."""

    message: str
    hint: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def encode_failure(
    error: BaseException,
    *,
    node: str = "",
    attempt: int = 0,
    pickles: bool = True,
    ours: Iterable[CodeType] = (),
    by_value: Callable[[str], bool] | None = None,
) -> bytes:
    """The payload of an exception. Never raises for what the exception is or does.

    Leading frames of the traceback whose code is in `ours` are left out: a traceback is the task's.
    """
    fields = {
        "type": _name(type(error)),
        "mro": [_name(kind) for kind in type(error).__mro__[:MRO_MAX] if kind is not object],
        "message": _clip(_text(error)),
        "traceback": _clip(_format(error, frozenset(ours))),
        "pickle": _pickled(error, by_value) if pickles else None,
        "node": node,
        "attempt": attempt,
    }
    return b"F" + bytes(msgpack.packb(fields, unicode_errors="backslashreplace"))


def encode_notice(message: str, hint: str = "", facts: Mapping[str, Any] | None = None) -> bytes:
    """The payload of a notice; `facts` are plain values."""
    fields = {"message": _clip(message), "hint": _clip(hint), "facts": dict(facts or {})}
    return b"F" + bytes(msgpack.packb(fields, unicode_errors="backslashreplace"))


def decode_failure(payload: bytes | memoryview) -> Failure | Notice:
    """What an ``F`` payload says; loads no pickle. PayloadError when malformed; unknown keys are ignored."""
    view = memoryview(payload)
    if not len(view) or view[0] != _TAG:
        raise PayloadError("the payload of a failure does not begin with F")
    try:
        fields = msgpack.unpackb(view[1:])
    except Exception as error:
        raise PayloadError(f"the payload's body is not MessagePack: {error}") from None
    if not isinstance(fields, dict):
        raise PayloadError("the body of a failure is not a map")
    if "type" not in fields:
        facts = fields.get("facts")
        return Notice(_str(fields, "message"), _str(fields, "hint"), facts if isinstance(facts, dict) else {})
    mro = fields.get("mro")
    body = fields.get("pickle")
    attempt = fields.get("attempt")
    return Failure(
        type=_str(fields, "type"),
        mro=tuple(name for name in mro if isinstance(name, str)) if isinstance(mro, list) else (),
        message=_str(fields, "message"),
        traceback=_str(fields, "traceback"),
        pickle=body if isinstance(body, bytes) else None,
        node=_str(fields, "node"),
        attempt=attempt if isinstance(attempt, int) else 0,
    )


def error_of(status: int, payload: bytes | memoryview, *, trusted: bool = False, **facts: Any) -> BaseException:
    """The exception to raise for an outcome that is no value.

    A failure whose exception may be loaded (`trusted`: the fleet's nodes are granted ``code``) and can be, is that
    exception; else it is TaskFailed. Either way its cause is a RemoteTraceback. Notices become their status's error.
    """
    from swarm.errors import RemoteTraceback, TaskFailed

    said = decode_failure(payload)
    if isinstance(said, Notice):
        return _kind(status, said)(said.message, hint=said.hint, **(_readable(said.facts) | facts))
    error: BaseException | None = None
    if trusted and said.pickle is not None:
        try:
            loaded = pickle.loads(said.pickle)  # noqa: S301 - granted
        except Exception:
            loaded = None  # its class is not here: the text says what it was
        error = loaded if isinstance(loaded, BaseException) else None
    if error is None:
        shown = said.type.partition(":")[2] if said.type.startswith("builtins:") else said.type.replace(":", ".")
        about: dict[str, Any] = {"node": said.node, "attempt": said.attempt}
        about |= {"type": said.type, "mro": said.mro, "traceback": said.traceback, **facts}
        error = TaskFailed(f"{shown}: {said.message}" if said.message else shown, **about)
    if said.traceback:
        where = f"on {said.node}" if said.node else "remote"
        attempt = f", attempt {said.attempt}" if said.attempt else ""
        error.__cause__ = RemoteTraceback(f"({where}{attempt})\n{said.traceback}")
    return error


def _kind(status: int, said: Notice) -> Callable[..., BaseException]:
    from swarm import errors
    from swarm.protocol.states import Status

    if status == Status.FAILED:
        # raised by the worker itself over the result
        named = {"NotPicklable": errors.NotPicklable, "PayloadTooLarge": errors.PayloadTooLarge}
        return named.get(str(said.facts.get("error")), errors.TaskFailed)
    kinds: dict[int, Callable[..., BaseException]] = {
        Status.CANCELLED: errors.TaskCancelled,
        Status.TIMEOUT: errors.TaskTimeout,
        Status.CRASHED: errors.WorkerCrashed,
        Status.LOST: errors.TaskLost,
        Status.REFUSED: errors.TaskRefused,
        Status.DEPENDENCY: errors.DependencyFailed,
        Status.QUARANTINED: errors.TaskQuarantined,
        Status.EXPIRED: errors.TaskExpired,
    }
    return kinds.get(status, errors.TaskError)


def _readable(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value for key, value in facts.items() if isinstance(key, str) and key not in ("message", "hint", "self")
    }


def _str(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    return value if isinstance(value, str) else ""


def _name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:
        return f"<str() of this exception raised {type(broken).__name__}>"


def _format(error: BaseException, ours: frozenset[CodeType]) -> str:
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_code in ours:
        trace = trace.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except Exception as broken:
        return f"{_name(type(error))}: (its traceback could not be formatted: {type(broken).__name__})\n"


def _pickled(error: BaseException, by_value: Callable[[str], bool] | None) -> bytes | None:
    try:
        body = dump(error, None, by_value)
        # many exceptions can be written and not read back, since __init__ wants more than args: better said by text
        pickle.loads(body)  # noqa: S301 - written just now
    except Exception:
        return None
    return body if len(body) <= OUT_OF_BAND_BYTES else None


def _clip(text: str) -> str:
    if len(text) <= TEXT_CHARACTERS_MAX:
        return text
    half = TEXT_CHARACTERS_MAX // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
