"""Raw counts: radon's figures, whatever the source, without radon's tokenizing of a statement once for each of its lines."""

from __future__ import annotations

import html.entities
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from radon import raw

from swarm.tools.audit.counts import analyze

PIECES = [
    "x = 1", "x = [", "    1, 2,  # two", "]", "", "   ", "# alone", "def f(a,", "      b): return a; b", "    pass",
    '"""text', "  more 'quoted'", '"""', 'y = """a', 'b""" + \\', "  z", "s = 'a\\", "b'", "if x: y", "class C: x = {",
    "}", "f'{x!r}'", 'f"""{', 'x}"""', "$", "\x0c", "g(lambda: 1)", "'one line'", "x = 'a\x0cb'",
]  # fmt: skip


def outcome(count: Any, source: str) -> Any:
    try:
        return tuple(count(source))
    except Exception as error:
        return type(error), str(error)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12))
@example(["      b): return a; b", "# alone", "x = 1"])
@example(["}", "x = [", "# alone", "x = 1"])
def test_they_are_those_of_radon_for_any_lines(lines: list[str]) -> None:
    source = "\n".join(lines)
    assert outcome(analyze, source) == outcome(raw.analyze, source)


def test_a_long_table_is_tokenized_a_statement_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    generate = raw._generate

    def counting(code: str) -> Any:
        nonlocal calls
        calls += 1
        return generate(code)

    monkeypatch.setattr(raw, "_generate", counting)
    source = Path(html.entities.__file__).read_text()
    assert analyze(source).loc == len(source.splitlines())
    assert calls < 100  # radon alone: one for each of 2,500 lines, each from the beginning of the statement


def test_radon_itself_is_left_as_it_was() -> None:
    before = raw._get_all_tokens
    analyze("x = 1\n")
    assert raw._get_all_tokens is before
    assert raw.analyze.__globals__["_get_all_tokens"] is before
