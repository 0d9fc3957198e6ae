"""What a guest says of tasks that did not go well."""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from typing import Any

from .payloads import OUT_OF_BAND_BYTES, dump
from .plain import pack

TEXT_MAX = 16 * 1024
HERE = os.path.dirname(__file__)


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
    ours = getattr(sys.modules.get("swarm.transactions.calls"), "__file__", None)
    while trace is not None and (
        trace.tb_frame.f_code.co_filename == ours or os.path.dirname(trace.tb_frame.f_code.co_filename) == HERE
    ):
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
