"""Twin of :mod:`kernels.plain`, by the msgpack library: what is plain, and how it looks on the wire."""

from __future__ import annotations

import msgpack

TAG = b"M"
PLAIN_DEPTH_MAX = 32
PLAIN_BYTES_MAX = 65536
ENVELOPE = 2  # the two arrays that a call puts around its arguments


def is_plain(value: object, depth: int = 0) -> bool:
    """Would this value arrive unchanged?"""
    kind = type(value)
    if value is None or kind is bool or kind is float or kind is bytes:
        return True
    if isinstance(value, int) and kind is int:
        return -(2**63) <= value < 2**64
    if isinstance(value, str) and kind is str:
        return not any("\ud800" <= letter <= "\udfff" for letter in value)
    if depth == PLAIN_DEPTH_MAX:
        return False
    if isinstance(value, list) and kind is list:
        return all(is_plain(item, depth + 1) for item in value)
    if isinstance(value, dict) and kind is dict:
        return all(type(key) is str and is_plain(key) and is_plain(item, depth + 1) for key, item in value.items())
    return False


def _bounded(payload: bytes, bytes_max: int = PLAIN_BYTES_MAX) -> bytes | None:
    return payload if len(payload) <= bytes_max else None


def encode_plain(value: object, bytes_max: int = PLAIN_BYTES_MAX) -> bytes | None:
    """The payload of a result, or None when it is not plain or too big."""
    return _bounded(TAG + bytes(msgpack.packb(value)), bytes_max) if is_plain(value) else None


def encode_call(args: tuple[object, ...], kwargs: dict[str, object] | None) -> bytes | None:
    """The payload of a call, or None when it is not plain or too big."""
    if not all(is_plain(item) for item in args) or not is_plain(kwargs or {}):
        return None
    return _bounded(TAG + bytes(msgpack.packb([list(args), kwargs] if kwargs else [list(args)])))


def _check(value: object, depth: int) -> None:
    if isinstance(value, list | dict) and depth == PLAIN_DEPTH_MAX + ENVELOPE:
        raise ValueError("malformed payload: nested too deep")
    if isinstance(value, list):
        for item in value:
            _check(item, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise ValueError("malformed payload: a key that is not a string")
            _check(item, depth + 1)
    elif isinstance(value, msgpack.ExtType | msgpack.Timestamp):
        raise ValueError("malformed payload: an extension type")


def decode_plain(payload: bytes | bytearray | memoryview) -> object:
    """The value of a payload with tag M; ValueError when it is malformed."""
    data = bytes(payload)
    if data[:1] != TAG:
        raise ValueError("malformed payload: not tagged as plain")
    try:
        value: object = msgpack.unpackb(data[1:], strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:  # TypeError: a key that cannot be hashed
        raise ValueError(f"malformed payload: {error}") from error
    _check(value, 0)
    return value


def decode_call(payload: bytes | bytearray | memoryview) -> tuple[tuple[object, ...], dict[str, object]]:
    """The (args, kwargs) of a call's payload; ValueError when it is malformed or not a call."""
    match decode_plain(payload):
        case [list() as args]:
            return tuple(args), {}
        case [list() as args, dict() as kwargs]:
            return tuple(args), kwargs
    raise ValueError("malformed payload: not a call")
