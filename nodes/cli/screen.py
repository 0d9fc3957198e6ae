"""What people see: tables of at most 80 columns, a line of progress, colour. All of it only where a person looks."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TextIO

from swarm.units import format_duration

COLUMNS: Final = 80
COLUMNS_MAX: Final = 140
SHORT_ID: Final = 6
REFRESH_S: Final = 0.1
QUIET_S: Final = 1.0  # what is done by then needs no progress bar
_COLOURS: Final = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36, "dim": 2, "bold": 1}


def colourful(stream: TextIO) -> bool:
    """Whether colour is wanted: on a terminal, unless NO_COLOR (no-color.org) or a dumb terminal says otherwise."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM", "") != "dumb"


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """``text`` in a colour, where there is colour."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if colourful(stream or sys.stdout) else text


def to_json(value: object) -> str:
    """One line of JSON; ids and other bytes as text."""
    return json.dumps(value, ensure_ascii=False, default=_plain, separators=(", ", ": "))


def print_json(value: object) -> None:
    """One JSON value on standard output."""
    print(to_json(value))


def print_accepted(found: Sequence[str], copies: int, hosts: int, json: bool) -> None:
    """Ids of what was accepted, one a line, and on standard error where it is kept."""
    if json:
        print_json({"ids": list(found), "copies": copies, "hosts": hosts})
        return
    for text in found:
        print(text)
    say(f"accepted: on {copies} disk{'s' * (copies != 1)} of {hosts} host{'s' * (hosts != 1)}. Next: swarm batch list")


def table(titles: Sequence[str], rows: Sequence[Sequence[object]], *, width: int | None = None) -> str:
    """Columns side by side; numbers to the right, the widest text cut where it would not fit on a terminal.

    A column whose title ends in ``>`` holds numbers: it is aligned to the right, and never cut. What goes to a file or another
    program is whole.
    """
    right = [title.endswith(">") for title in titles]
    cells = [[title.rstrip(">") for title in titles], *([_cell(value) for value in row] for row in rows)]
    widths = [max(_width(row[column]) for row in cells) for column in range(len(titles))]
    texts = [column for column in range(len(titles)) if not right[column]]
    room = (width or screen_columns()) - 2 * (len(titles) - 1)
    while texts and sum(widths) > room and (width or sys.stdout.isatty()):
        widest = max(texts, key=widths.__getitem__)
        if widths[widest] <= 4:
            break
        widths[widest] -= 1
    lines = []
    for row in cells:
        parts = [_pad(_cut(text, widths[i]), widths[i], to_right=right[i]) for i, text in enumerate(row)]
        lines.append("  ".join(parts).rstrip())
    return "\n".join([paint(lines[0], "bold"), *lines[1:]])


def screen_columns() -> int:
    """Columns of the terminal, within reason; 80 where there is none."""
    if not sys.stdout.isatty():
        return COLUMNS
    return max(40, min(COLUMNS_MAX, shutil.get_terminal_size((COLUMNS, 24)).columns))


def ago(seconds: float | None) -> str:
    """How long ago, on screens."""
    return "" if seconds is None else f"{format_duration(max(0.0, seconds))} ago"


def short(identity: object) -> str:
    """An id as it is shown: its first characters."""
    return str(identity or "")[:SHORT_ID]


class Progress:
    """One line on standard error that is drawn over itself; silent where that is no terminal."""

    def __init__(self, total: int | None = None, *, stream: TextIO | None = None, wanted: bool = True) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._wanted = wanted and self._stream.isatty() and os.environ.get("TERM", "") != "dumb"
        self._began = time.monotonic()
        self._drawn = 0.0
        self._shown = False
        self.total = total
        self.done = 0
        self.failed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def update(self, done: int | None = None, *, failed: int | None = None, note: str = "") -> None:
        """Draw again, at most ten times a second, and not before a second has gone by."""
        self.done = self.done if done is None else done
        self.failed = self.failed if failed is None else failed
        now = time.monotonic()
        if not self._wanted or now - self._began < QUIET_S or now - self._drawn < REFRESH_S:
            return
        self._drawn = now
        self._shown = True
        line = _cut(self.line(now - self._began, note), shutil.get_terminal_size((COLUMNS, 24)).columns - 1)
        self._stream.write(f"\r{line}\x1b[K")
        self._stream.flush()

    def line(self, elapsed_s: float, note: str = "") -> str:
        """What is drawn."""
        parts = []
        if self.total:
            filled = min(24, 24 * self.done // self.total)
            parts.append("━" * filled + "╌" * (24 - filled))
        parts.append(f"{self.done:,}/{self.total:,}" if self.total is not None else f"{self.done:,}")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        rate = self.done / elapsed_s if elapsed_s > 0 else 0.0
        parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s")
        if self.total and 0 < self.done < self.total and rate > 0:
            parts.append(f"{format_duration((self.total - self.done) / rate)} left")
        if note:
            parts.append(note)
        return "  ".join(parts)

    def clear(self) -> None:
        """Take the line away, so that what comes next stands alone."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = False


def say(text: str) -> None:
    """One line for the person, on standard error."""
    print(text, file=sys.stderr, flush=True)


def _plain(value: object) -> Any:
    match value:
        case bytes() | bytearray() | memoryview():
            from swarm.protocol.ids import encode32  # only where there are ids

            return encode32(bytes(value)) if len(value) <= 32 else bytes(value).decode("utf-8", "replace")
        case Mapping():
            return dict(value)
        case set() | frozenset():
            return sorted(value)
        case tuple():
            return list(value)
    return str(value)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, list | tuple | set | frozenset):
        return " ".join(str(each) for each in value)
    # a name may come from a peer: no control characters reach the terminal
    return "".join(c if c.isprintable() else "�" for c in str(value))


def _width(text: str) -> int:
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _cut(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    kept = text
    while kept and _width(kept) > width - 1:
        kept = kept[:-1]
    return kept + "…"


def _pad(text: str, width: int, *, to_right: bool) -> str:
    space = " " * max(0, width - _width(text))
    return space + text if to_right else text + space
