"""Radon's raw counts in linear time.

`radon.raw.analyze` finds where a statement ends by tokenizing it again from its beginning with each line that it adds: a
table of two thousand lines takes it most of a minute. Here the ends are found by tokenizing the source once; the counting
is radon's own code, given whole statements.
"""

from __future__ import annotations

import io
import tokenize
from bisect import bisect_left
from collections.abc import Iterator
from types import FunctionType
from typing import Any

from radon import raw


def analyze(source: str) -> Any:
    """As `radon.raw.analyze`: a named tuple of loc, lloc, sloc, comments, multi, blank, single_comments. SyntaxError."""
    ends = _ends([line.strip() for line in source.splitlines()])
    row = 0

    def whole_statement(line: str, lines: Iterator[str]) -> tuple[list[Any], list[str]]:
        nonlocal row
        at = bisect_left(ends, row)
        used = [line]
        for _ in range(ends[at] - row if at < len(ends) else 0):
            used.append(next(lines))
        # radon has the last word: where it finds the statement unfinished it goes on, line by line
        tokens, more = raw._get_all_tokens("\n".join(used), lines)
        used += more[1:]
        row += len(used)
        return tokens, used

    # Radon's function with another name bound in it: nothing is changed for others in this process.
    count = FunctionType(raw.analyze.__code__, {**raw.analyze.__globals__, "_get_all_tokens": whole_statement})
    return count(source)


def _ends(lines: list[str]) -> list[int]:
    """The lines, from 0, with which statements (or comments, or blank lines between them) end; none if that is unclear."""
    ends: list[int] = []
    depth = 0
    try:
        for kind, text, _, (row, _), _ in tokenize.generate_tokens(io.StringIO("\n".join(lines)).readline):
            if kind == tokenize.OP:
                if text in "([{":
                    depth += 1
                elif text in ")]}":
                    depth -= 1
                    if depth < 0:
                        return []  # nothing opened it: what tokenizers make of that differs between Pythons
            elif kind == tokenize.ERRORTOKEN:
                return []
            elif kind == tokenize.NEWLINE or (kind == tokenize.NL and depth == 0):
                ends.append(row - 1)
    except (tokenize.TokenError, SyntaxError):
        return []
    return ends
