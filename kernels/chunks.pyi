"""Chunks: the arguments of many calls in one payload, and the loop that makes these calls where it arrives."""

from collections.abc import Callable, Iterable
from typing import Any

WIDTH_MAX: int

def pack(
    items: Iterable[Any], width: int, count_max: int, bytes_max: int, limit_ns: int = 0
) -> tuple[bytes, int, list[Any]]: ...
def unpack(items: bytes | bytearray | memoryview, width: int) -> list[Any]: ...
def call_each(
    fn: Callable[..., Any], items: bytes | bytearray | memoryview | Iterable[Any], width: int, values: list[Any]
) -> None: ...
