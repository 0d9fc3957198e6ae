"""Commands with placeholders as in GNU parallel: ``{}``, ``{.}``, ``{/}``, ``{//}``, ``{/.}``, ``{#}``, ``{2}``.

Source: GNU parallel's manual, "Replacement strings" (O. Tange, parallel(1)).
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

SOURCE: Final = ":::"
_PLACEHOLDER: Final = re.compile(r"\{(?P<place>\d*)(?P<part>/\.|//|/|\.|)\}|\{(?P<number>#)\}")
_SHELL: Final = re.compile(r"[\s|&;<>()$`\\\"'*?\[\]~#=%!{}]")


@dataclass(frozen=True, slots=True)
class Job:
    """One command of many. ``number`` counts from 1."""

    number: int
    inputs: tuple[str, ...]
    argv: tuple[str, ...]
    files_in: tuple[str, ...]
    files_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Template:
    """What to make commands from.

    One word with blanks or characters of the shell in it is a line for ``sh -c``, and what replaces a placeholder in it
    is quoted. Several words are an argument list; no shell sees them. Without any placeholder the input comes last.
    """

    words: tuple[str, ...]
    files_in: tuple[str, ...] = ()
    files_out: tuple[str, ...] = ()

    @property
    def through_shell(self) -> bool:
        """Whether the command is a line for the shell."""
        return len(self.words) == 1 and _SHELL.search(_PLACEHOLDER.sub("", self.words[0])) is not None

    def job(self, number: int, inputs: Sequence[str]) -> Job:
        """The command for one input (or one of each source)."""
        words = self.words
        if not any(_PLACEHOLDER.search(word) for word in words):
            words = (f"{words[0]} {{}}",) if self.through_shell else (*words, "{}")
        if self.through_shell:
            argv: tuple[str, ...] = ("sh", "-c", fill(words[0], number, inputs, quoted=True))
        elif words == ("{}",):
            argv = ("sh", "-c", " ".join(inputs))  # without a command the inputs are commands
        else:
            argv = tuple(
                filled for word in words for filled in (list(inputs) if word == "{}" else [fill(word, number, inputs)])
            )
        return Job(
            number,
            tuple(inputs),
            argv,
            tuple(fill(each, number, inputs) for each in self.files_in),
            tuple(fill(each, number, inputs) for each in self.files_out),
        )


def fill(text: str, number: int, inputs: Sequence[str], *, quoted: bool = False) -> str:
    """``text`` with its placeholders replaced; those of a source that there is not stay as they are."""

    def replace(match: re.Match[str]) -> str:
        if match["number"]:
            return str(number)
        if match["place"]:
            place = int(match["place"]) - 1
            if not 0 <= place < len(inputs):
                return match[0]
            chosen: Sequence[str] = (inputs[place],)
        else:
            chosen = inputs
        parts = (_part(each, match["part"]) for each in chosen)
        return " ".join(shlex.quote(part) if quoted else part for part in parts)

    return _PLACEHOLDER.sub(replace, text)


def split_sources(words: Sequence[str]) -> tuple[tuple[str, ...], list[list[str]]]:
    """``cmd {} ::: a b ::: c`` -> (``cmd {}``, [[a, b], [c]])."""
    if SOURCE not in words:
        return tuple(words), []
    first = words.index(SOURCE)
    sources: list[list[str]] = []
    for word in words[first:]:
        if word == SOURCE:
            sources.append([])
        else:
            sources[-1].append(word)
    return tuple(words[:first]), sources


def combine(sources: Sequence[Iterable[str]]) -> Iterator[tuple[str, ...]]:
    """Each of the first source with each of the second, and so on; one source is read as it comes."""
    if len(sources) == 1:
        return ((each,) for each in sources[0])
    return itertools.product(*sources)


def _part(text: str, part: str) -> str:
    match part:
        case ".":
            head, name = os.path.split(text)
            return os.path.join(head, os.path.splitext(name)[0])
        case "/":
            return os.path.basename(text)
        case "//":
            return os.path.dirname(text) or "."
        case "/.":
            return os.path.splitext(os.path.basename(text))[0]
    return text
