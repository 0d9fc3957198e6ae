"""The pattern of a failure: what stays the same when the same fault meets other data, and its digest.

An exception is its type, its message without what is data in it, and the functions of the user's code that it came through.
A command is its exit status or signal and the end of its standard error, likewise. Line numbers, numbers, paths, addresses, ids
and quoted values are data; names of modules, attributes and types, HTTP statuses, errno and exit statuses are the fault.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from blake3 import blake3

from kernels.plain import encode_plain
from swarm.protocol.lessons.patterns import Pattern

VERSION: Final = 1
"""Of the rules below. Digests of different versions have nothing to do with each other."""
DIGEST_BYTES: Final = 16
MESSAGE_CHARACTERS_MAX: Final = 2000
TRACEBACK_CHARACTERS_MAX: Final = 32_000
STDERR_LINES_MAX: Final = 6
FRAMES_MAX: Final = 12

_NAMES_ARE_CODE: Final = frozenset(
    ("ModuleNotFoundError", "ImportError", "AttributeError", "NameError", "UnboundLocalError", "TypeError")
)
"""In their messages a quoted identifier is a name of the program; elsewhere what is quoted is data."""


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that did not end well, as far as it is known. Texts come as they were reported; nothing in them is trusted.

    `type` and `mro` are "module:QualName"; `traceback` is as Python prints it. Of a command: `exit_status` or `signal`, and the end
    of its `stderr`. `status` is the name of its `swarm.protocol.states.Status` in lower case ("failed", "timeout", "crashed" and so on), `facts` is what
    a notice says besides.
    """

    type: str = ""
    mro: tuple[str, ...] = ()
    message: str = ""
    traceback: str = ""
    exit_status: int | None = None
    signal: int | None = None
    stderr: str = ""
    status: str = "failed"
    facts: Mapping[str, Any] = field(default_factory=dict)

    def is_a(self, *names: str) -> bool:
        """Whether it is an exception of one of these classes, named without their modules, or of one derived from them."""
        return any(name.rpartition(":")[2] in names for name in (self.type, *self.mro))

    @property
    def text(self) -> str:
        """Message and standard error, for rules that look for words."""
        return f"{self.message[:MESSAGE_CHARACTERS_MAX]}\n{self.stderr[-MESSAGE_CHARACTERS_MAX:]}"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a digest is made of."""

    kind: str
    """The type of the exception, "exit 3", "signal 11" or a status."""
    message: str
    """Without data."""
    frames: tuple[str, ...]
    """"module:function", outermost first; each once."""

    @property
    def digest(self) -> bytes:
        """16 bytes (BLAKE3) over all of it and the version."""
        return digest_of("fingerprint", self.kind, self.message, *self.frames)


def digest_of(*parts: str) -> bytes:
    """16 bytes (BLAKE3) over texts in this order, and the version."""
    body = encode_plain([VERSION, *(part.encode("utf-8", "backslashreplace").decode() for part in parts)])
    assert body is not None
    return blake3(body).digest(length=DIGEST_BYTES)


def fingerprint(failed: Failed) -> Fingerprint:
    """The pattern of a failure."""
    name = failed.type.rpartition(":")[2]
    if failed.type:
        message = failed.message
        return Fingerprint(failed.type, normal(message, keeps_names=name in _NAMES_ARE_CODE), frames(failed.traceback))
    if failed.signal:
        return Fingerprint(f"signal {failed.signal}", normal(_tail(failed.stderr)), ())
    if failed.exit_status is not None:
        return Fingerprint(f"exit {failed.exit_status}", normal(_tail(failed.stderr)), ())
    return Fingerprint(failed.status, normal(failed.message), ())


# --- messages ---------------------------------------------------------------------------------------------------------

_ESCAPES = Pattern(r"\x1b\[[0-9;?]{0,20}[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
_KEPT_NUMBERS = Pattern(
    r"(?i)(?<=\[errno )\d{1,4}"
    r"|(?<=winerror )\d{1,5}"
    r"|(?:(?<=status )|(?<=status code )|(?<=status: )|(?<=status=)|(?<=code )|(?<=code: )|(?<=code=)|(?<=http )|(?<=error )|(?<=http/1\.1 )|(?<=http/2 ))[1-5]\d\d\b"
    r"|\b[45]\d\d(?=:? (?:client error|server error|too many|bad gateway|service unavailable|gateway time|internal server|not found|forbidden|unauthorized))"
    r"|(?:(?<=signal )|(?<=exit status )|(?<=exited with )|(?<=exit code ))\d{1,3}"
)
_URL = Pattern(r"\b([a-z][a-z0-9+.-]{1,15})://([^\s/'\"<>?#)\]]{1,200})(?:[/?#][^\s'\"<>)\]]*)?", re.IGNORECASE)
_CREDENTIALS = Pattern(r"^[^@]{0,200}@")
_STAMP = Pattern(
    r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?\b|\b\d{1,2}:\d\d:\d\d(?:[.,]\d+)?\b"
)
_UUID = Pattern(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.IGNORECASE)
_PATH = Pattern(
    r"(?<![\w<>/])(?:~|\.{1,2}|[A-Za-z]:)?[/\\](?:[^\s'\"<>:;,()\[\]{}|/\\]+[/\\]?)+|(?<![\w<>/.])[\w.+-]+(?:/[\w.+-]+)+"
)
_QUOTED = Pattern(
    r"(?<!\w)[bru]?'((?:\\.|[^'\\\n])*)'(?!\w)|[bru]?\"((?:\\.|[^\"\\\n])*)\"|`([^`\n]*)`|‘([^’\n]*)’|“([^”\n]*)”"
)
_IDENTIFIER = Pattern(r"[A-Za-z_][A-Za-z0-9_.]{0,100}")
_HEX = Pattern(r"\b0x[0-9a-f]+\b|\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8,}\b", re.IGNORECASE)
_ADDRESS = Pattern(
    r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b|\[?\b(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{0,4}\b\]?(?::\d{1,5})?",
    re.IGNORECASE,
)
_DECIMAL = Pattern(r"(?<![\w.])[+-]?\d+(?:(?:\.\d+)+(?:[eE][+-]?\d+)?|[eE][+-]?\d+)(?![\w.]*\w)")
_TEMPORARY = Pattern(r"\b(?:tmp|temp)[._-]?[A-Za-z0-9_]{6,}\b")
_TOKEN = Pattern(r"\b(?=[A-Za-z_-]*\d)(?=[0-9_-]*[A-Za-z])[A-Za-z0-9_-]{20,}\b")
_KINDS_WITH_SIZE = Pattern(
    r"(?i)(?:u?int|float|complex|bfloat|fp|bf|utf|latin|sha|md|base|cp|py|python|ipv|http|cuda|x|h|v|s|p)$"
)
_NUMBER = Pattern(r"([A-Za-z]*)([+-]?\d[\d_,]*(?:\.\d+)*(?:[eE][+-]?\d+)?)%?")
_REPEATED = Pattern(r"(<[a-z]+>)(?:(?:\s*[,;]\s*|\s+|x)\1)+")
_SPACES = Pattern(r"\s+")
_HIDDEN = 0xE000  # a digit that is to stay is put there while others are taken out


def normal(text: str, *, keeps_names: bool = False) -> str:
    """A message without what is data in it. The work is bounded by MESSAGE_CHARACTERS_MAX."""
    if len(text) > MESSAGE_CHARACTERS_MAX:
        half = MESSAGE_CHARACTERS_MAX // 2
        text = text[:half] + " " + text[-half:]
    text = _ESCAPES.sub(" ", text)
    text = _KEPT_NUMBERS.sub(lambda match: _hidden(match.group()), text)
    text = _STAMP.sub("<time>", text)
    text = _UUID.sub("<id>", text)
    text = _QUOTED.sub(lambda match: _quoted(match, keeps_names), text)
    text = _URL.sub(lambda match: f"{match.group(1).lower()}:{_hidden(_host(match.group(2)))}", text)
    text = _ADDRESS.sub("<address>", text)
    text = _PATH.sub("<path>", text)
    text = _TEMPORARY.sub("<name>", text)
    text = _DECIMAL.sub("<n>", text)
    text = _HEX.sub("<hex>", text)
    text = _TOKEN.sub("<id>", text)
    text = _NUMBER.sub(_number, text)
    text = _REPEATED.sub(r"\1", text)
    return _SPACES.sub(" ", _shown(text)).strip()


def _hidden(text: str) -> str:
    return "".join(chr(_HIDDEN + ord(c)) if (c.isascii() and c.isalnum()) or c in ".-" else c for c in text)


def _shown(text: str) -> str:
    return "".join(chr(ord(c) - _HIDDEN) if _HIDDEN <= ord(c) < _HIDDEN + 128 else c for c in text)


def _host(text: str) -> str:
    text = _CREDENTIALS.sub("", text).lower()
    return "address" if _ADDRESS.search(text) else text


def _quoted(match: re.Match[str], keeps_names: bool) -> str:
    inside = next((group for group in match.groups() if group is not None), "")
    if keeps_names and _IDENTIFIER.fullmatch(inside) and not _TEMPORARY.fullmatch(inside):
        return "'" + _hidden(inside) + "'"
    if "://" in inside and len(inside) < 300 and " " not in inside:
        return inside  # the host of an address is not data
    return "<str>"


def _number(match: re.Match[str]) -> str:
    before = match.group(1)
    if before and _KINDS_WITH_SIZE.search(before):
        return match.group()
    return before + "<n>"


def _tail(stderr: str) -> str:
    lines = [line.strip() for line in stderr[-4 * MESSAGE_CHARACTERS_MAX :].splitlines()]
    return "\n".join([line for line in lines if line][-STDERR_LINES_MAX:])


# --- frames -----------------------------------------------------------------------------------------------------------

_FRAME = Pattern(r'^[ \t|+-]{0,80}File "([^"\n]{1,1000})", line \d+(?:, in ([^\n]{1,200}))?$', re.MULTILINE)
_BEGINS = Pattern(r"^[ \t|+-]{0,80}(?:Exception Group )?Traceback \(most recent call last\):", re.MULTILINE)
_INSTALLED = Pattern(r"[/\\](?:site|dist)-packages[/\\]([^/\\]+)")
_STANDARD = Pattern(r"[/\\](?:lib|Lib)(?:64)?[/\\](?:python\d[\d.]*t?[/\\])|^<frozen |python\d+\.zip[/\\]")


def frames(traceback: str) -> tuple[str, ...]:
    """The functions that an exception came through: those of the user, and which packages they called.

    "module:function", outermost first, each once (recursion goes as deep as its data), the innermost FRAMES_MAX. The standard
    library is left out: its insides change from one release to the next. Of a chain of exceptions the last one counts.
    """
    text = traceback[-TRACEBACK_CHARACTERS_MAX:]
    starts = [match.start() for match in _BEGINS.finditer(text)]
    found: dict[str, None] = {}
    for match in _FRAME.finditer(text, starts[-1] if starts else 0):
        path, function = match.group(1), (match.group(2) or "<module>").strip()
        if _STANDARD.search(path) and not _INSTALLED.search(path):
            continue
        package = _INSTALLED.search(path)
        if package is not None:
            name = f"{package.group(1).removesuffix('.py')}:"
        else:
            stem = re.split(r"[/\\]", path)[-1].removesuffix(".py")
            name = f"{normal(stem)}:{normal(function)}"
        found.setdefault(name)  # where it came first: how deep two that call each other go depends on the data
    return tuple(found)[-FRAMES_MAX:]
