"""Records as lines of JSON, one file a shard: what snapshots are made of and restored to on the command line. Nothing is lost on the way.

A line is ``{"key": TEXT, "value": JSON}``. A key that is no UTF-8 stands as ``key64``, and a value that JSON cannot say as it is (bytes,
numbers beyond its reach, MessagePack written in another way) as ``value64``: base64 of the record's own bytes.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgpack

from swarm.errors import NotFound, SwarmError
from swarm.exit_codes import ExitCode
from swarm.snapshots.replaying import LogEntry

SUFFIX: Final = ".jsonl"


class BadRecords(SwarmError, ValueError):
    """A line is no record (``path``, ``line``)."""

    exit_code = ExitCode.DATA


def shard_files(folder: Path) -> dict[str, Path]:
    """Shard -> its file, of a folder with ``SHARD.jsonl`` files. NotFound when it has none."""
    found = (
        {path.name.removesuffix(SUFFIX): path for path in sorted(folder.glob(f"*{SUFFIX}"))} if folder.is_dir() else {}
    )
    if not found:
        raise NotFound(
            f"{folder} has no files of records",
            hint='one file a shard: facts.jsonl, with lines {"key": "a", "value": 1}',
        )
    return found


def read_records(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of each line. BadRecords, OSError."""
    for number, fields in _lines(path):
        yield _key(fields, path, number), _value(fields, path, number)


def read_log(path: Path) -> Iterator[LogEntry]:
    """Entries of a log: records with ``shard`` and ``stamp`` (milliseconds since 1970) beside; no value takes the key away. BadRecords."""
    for number, fields in _lines(path):
        stamp, shard = fields.get("stamp"), fields.get("shard")
        if type(stamp) is not int or type(shard) is not str:
            raise _bad(path, number, "an entry of a log has a whole stamp and a shard")
        there = "value" in fields or "value64" in fields
        yield LogEntry(stamp, shard, _key(fields, path, number), _value(fields, path, number) if there else None)


def write_records(path: Path, records: Iterable[tuple[bytes, bytes]]) -> int:
    """Write them; how many there were. OSError."""
    count = 0
    with path.open("x", encoding="utf-8") as file:
        for key, value in records:
            file.write(json.dumps(line_of(key, value), ensure_ascii=False, separators=(",", ":")) + "\n")
            count += 1
    return count


def line_of(key: bytes, value: bytes) -> dict[str, Any]:
    """What stands for a record."""
    try:
        line: dict[str, Any] = {"key": key.decode()}
    except UnicodeDecodeError:
        line = {"key64": base64.b64encode(key).decode()}
    plain = _plain(value)
    return line | ({"value64": base64.b64encode(value).decode()} if plain is None else {"value": plain[0]})


def _plain(value: bytes) -> list[Any] | None:
    """[what JSON says], when that makes the same bytes again."""
    try:
        found = msgpack.unpackb(value, strict_map_key=True)
        if msgpack.packb(json.loads(json.dumps(found, allow_nan=False))) == value:
            return [found]
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
        pass
    return None


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8") as file:
        try:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    fields = json.loads(line)
                except (ValueError, RecursionError):
                    raise _bad(path, number, "it is no JSON") from None
                if not isinstance(fields, dict):
                    raise _bad(path, number, "it is no object")
                yield number, fields
        except UnicodeDecodeError:
            raise _bad(path, 0, "it is no UTF-8") from None


def _key(fields: dict[str, Any], path: Path, number: int) -> bytes:
    key = fields.get("key")
    if type(key) is str:
        try:
            return key.encode()
        except UnicodeEncodeError:
            raise _bad(path, number, "its key is no text") from None
    if "key64" in fields:
        return _bytes(fields["key64"], path, number)
    raise _bad(path, number, "it has no key, which is text")


def _value(fields: dict[str, Any], path: Path, number: int) -> bytes:
    if "value64" in fields:
        return _bytes(fields["value64"], path, number)
    if "value" not in fields:
        raise _bad(path, number, "it has no value")
    try:
        packed: bytes = msgpack.packb(fields["value"])
    except (ValueError, OverflowError, RecursionError) as error:
        raise _bad(path, number, f"its value cannot be kept ({error})") from None
    return packed


def _bytes(text: Any, path: Path, number: int) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise _bad(path, number, "it has base64 that is none") from None


def _bad(path: Path, line: int, what: str) -> BadRecords:
    return BadRecords(
        f"{path}, line {line}: {what}" if line else f"{path}: {what}",
        hint='a line is {"key": "a", "value": 1}',
        path=str(path),
        line=line,
    )
