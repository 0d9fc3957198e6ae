"""Harvest: to which family of faults a failure belongs, what it is about, and what helps.

Only what can be helped by placing, waiting or asking for more is a lesson by itself. An ordinary exception (a ValueError, a
failed assertion) is a matter of the code and its data: no machine is to blame, and nothing is learned from it here.

A family says to what a lesson is tied: with a missing module it is interpreter and packages, so that machines that are set up alike are
avoided with it, and a machine that gets the module (other packages) is not; with a full disk it is the node, for a while.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from swarm.protocol.lessons.advice import (
    DELAY_MS_MAX,
    PARAMETERS,
    Advice,
    Ask,
    Avoid,
    Change,
    Quarantine,
    Require,
    RetryAfter,
)
from swarm.protocol.lessons.fingerprints import Failed, digest_of, fingerprint, normal
from swarm.protocol.lessons.patterns import Pattern

SUBJECT_CHARACTERS_MAX: Final = 120
CRASHES_OF_POISON: Final = 3
MEMORY_FIRST_BYTES: Final = float(1 << 30)
"""What a task is given that ran out of memory and had asked for none."""
MEMORY_FACTOR: Final = 2.0
TIMEOUT_FACTOR: Final = 2.0
MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
SIGNAL_SEGMENT: Final = 11
_CRASH_SIGNALS: Final = {
    4: "an illegal instruction",
    6: "an abort",
    7: "a bus error",
    8: "an arithmetic fault",
    11: "a segmentation fault",
}
_SIGKILL: Final = 9


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Where and with what an attempt failed, as the owner of the task knows it."""

    node: str
    interpreter: str = ""
    """As "cpython-3.11"."""
    packages: str = ""
    """Digest of what is installed, in hex; "" where it is not known."""
    needs: Mapping[str, float] | None = None
    timeout_s: float | None = None
    crashes: int = 0
    """Attempts of this very task that took a worker along, this one included."""
    crashed_on: int = 0
    """On so many different nodes."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a failure was.

    `ties` are what of the machine it depends on, a subset of `swarm.protocol.lessons.advice.TIES`; () when it is the same everywhere.
    `lasting_ms` is how long it is likely to be so: a lesson that is older is probed at once. `subject` is what it is about (a module, a
    host), "" where there is nothing to name.
    """

    family: str
    subject: str
    cause: str
    advice: tuple[Advice, ...]
    ties: tuple[str, ...]
    lasting_ms: int

    @property
    def pattern(self) -> bytes:
        """16 bytes: the same for this family and subject, whatever code met it."""
        return digest_of("family", self.family, self.subject)


Rule = Callable[[Failed, Circumstances], Diagnosis | None]


def harvest(failed: Failed, where: Circumstances) -> Diagnosis | None:
    """The diagnosis of a failure; None when there is nothing to learn from it for others."""
    for rule in _RULES:
        found = rule(failed, where)
        if found is not None:
            return found
    return None


def reflected(failed: Failed, cause: str, advice: tuple[Advice, ...], ties: tuple[str, ...] = ()) -> Diagnosis:
    """A lesson that a task, an agent or a person states about a failure: tied to its exact fingerprint."""
    subject = fingerprint(failed).digest.hex()
    return Diagnosis("reflected", subject, cause[:500], advice, ties, 30 * DAY_MS)


# --- rules, the most certain first ------------------------------------------------------------------------------------


def _poison(failed: Failed, where: Circumstances) -> Diagnosis | None:
    if failed.status != "quarantined" and not (where.crashes >= CRASHES_OF_POISON and where.crashed_on >= 2):
        return None
    cause = f"it took down {max(where.crashes, CRASHES_OF_POISON)} workers, one after the other"
    return Diagnosis(
        "poison-task",
        "",
        cause,
        (Quarantine(DAY_MS), Ask("this call ends its worker wherever it runs: what does it do?")),
        (),
        30 * DAY_MS,
    )


_NO_MODULE = Pattern(r"No module named '?([A-Za-z_][\w.]{0,100})")
_NO_PACKAGE = Pattern(
    r"(?:cannot import name '[^']{1,100}' from '([A-Za-z_][\w.]{0,100})'|is not installed[^\n]{0,50}?module '([\w.]{1,100})')"
)


def _module(failed: Failed, where: Circumstances) -> Diagnosis | None:
    named = failed.facts.get("module")
    refused = (
        isinstance(named, str)
        and failed.status == "refused"
        and ("not installed" in failed.message or "No module" in failed.message)
    )
    if not (
        failed.is_a("ModuleNotFoundError")
        or (failed.is_a("ImportError") and "No module named" in failed.message)
        or refused
    ):
        found = _NO_MODULE.search(failed.stderr[-4000:])
        if found is None or failed.exit_status in (None, 0):
            return None
    else:
        found = _NO_MODULE.search(failed.message)
    name = found.group(1).strip(".") if found else str(named or "")
    top = name.partition(".")[0]
    if not top:
        return None
    return _of_setup("missing-module", _subject(top), f"the module {top!r} is not installed there", where)


_LIBRARY = Pattern(
    r"(?:error while loading shared libraries: |^|ImportError: |OSError: )([\w.+-]{1,80}\.so[.\d]{0,20}|[\w.+-]{1,80}\.dylib): cannot open shared object",
    re.MULTILINE,
)
_SYMBOL_VERSION = Pattern(r"version [`'‘]([A-Z]{1,10}_[\d.]{1,12})[`'’] not found")


def _library(failed: Failed, where: Circumstances) -> Diagnosis | None:
    text = failed.text
    found = _LIBRARY.search(text) or _SYMBOL_VERSION.search(text)
    if found is None:
        return None
    return _tied(
        "missing-library", found.group(1), f"the library {found.group(1)} is not there", where, ("node",), DAY_MS
    )


_SHELL_NO_COMMAND = Pattern(
    r"(?:^|: )(?:line )?(?:\d{1,6}: )?([\w.+-]{1,80}): (?:command )?not found$"
    r"|^(?:/usr/bin/)?env: [‘'\"`]?([\w.+-]{1,80})[’'\"`]?: No such file or directory"
    r"|command not found: ([\w.+-]{1,80})$",
    re.MULTILINE,
)
_NO_PROGRAM = Pattern(r"\[Errno 2\] No such file or directory: '([^'/]{1,80})'")


def _command(failed: Failed, where: Circumstances) -> Diagnosis | None:
    name = ""
    if failed.is_a("FileNotFoundError") and (
        "_execute_child" in failed.traceback or "create_subprocess" in failed.traceback
    ):
        found = _NO_PROGRAM.search(failed.message)
        name = found.group(1) if found else "?"
    elif failed.exit_status == 127 or failed.status == "refused":
        shell = _SHELL_NO_COMMAND.search(failed.text)
        if shell is None and failed.exit_status != 127:
            return None
        name = next((group for group in shell.groups() if group), "?") if shell else "?"
    if not name:
        return None
    name = _subject(name)
    return _tied("missing-command", name, f"there is no program {name!r} there", where, ("node",), DAY_MS)


_MEMORY_WORDS = Pattern(
    r"\bMemoryError\b|std::bad_alloc|Cannot allocate memory|[Oo]ut of memory|OutOfMemory|oom[-_ ]?kill|Killed process|Unable to allocate",
    re.ASCII,
)
_DEVICE_MEMORY = Pattern(
    r"(?:CUDA|HIP|XPU|GPU)[^\n]{0,40}out of memory|torch\.(?:cuda\.)?OutOfMemoryError|RESOURCE_EXHAUSTED", re.IGNORECASE
)


def _memory(failed: Failed, where: Circumstances) -> Diagnosis | None:
    killed = failed.signal == _SIGKILL or failed.exit_status == 128 + _SIGKILL
    told = failed.facts.get("why") in ("memory", "oom") or failed.facts.get("oom") is True
    if _DEVICE_MEMORY.search(failed.text):
        return Diagnosis(
            "out-of-memory", "device", "the memory of its device did not suffice",
            (*_avoids(where, ("node",)), Ask("does it fit a larger device, or a smaller batch?")), ("node",), DAY_MS,
        )  # fmt: skip
    if not (
        failed.is_a("MemoryError")
        or told
        or (_MEMORY_WORDS.search(failed.text) and (killed or failed.exit_status or failed.type))
    ):
        return None
    had = (where.needs or {}).get("memory", 0.0)
    used = failed.facts.get("memory_bytes")
    most = max(had, float(used) if isinstance(used, int | float) else 0.0)
    wanted = max(MEMORY_FIRST_BYTES, most * MEMORY_FACTOR)
    return Diagnosis(
        "out-of-memory",
        "",
        "it needs more memory than was reserved for it",
        (Require("memory", min(wanted, 1e15)),),
        (),
        30 * DAY_MS,
    )


_DISK_WORDS = Pattern(
    r"No space left on device|Disk quota exceeded|\[Errno (?:28|122)\]|ENOSPC|disk full|not enough space on the disk",
    re.IGNORECASE,
)


def _disk(failed: Failed, where: Circumstances) -> Diagnosis | None:
    if not _DISK_WORDS.search(failed.text):
        return None
    return _tied("full-disk", "", "its disk is full", where, ("node",), 10 * MINUTE_MS)


_LIMIT_WORDS = Pattern(
    r"\b429\b|Too Many Requests|rate[- ]?limit(?:ed|s)?\b|RateLimit|quota exceeded|SlowDown|Throttl", re.IGNORECASE
)
_AFTER = Pattern(
    r"(?:retry[-_ ]after|try again in|retry in|wait)[\"':= ]{0,4}(\d{1,7}(?:\.\d{1,3})?) ?(ms|milliseconds|m|min|minutes?|h|hours?|s|sec|seconds?)?\b",
    re.IGNORECASE,
)
_UNIT_MS: Final = {
    "ms": 1,
    "milliseconds": 1,
    "m": MINUTE_MS,
    "min": MINUTE_MS,
    "minute": MINUTE_MS,
    "minutes": MINUTE_MS,
    "h": HOUR_MS,
    "hour": HOUR_MS,
    "hours": HOUR_MS,
}


def _rate(failed: Failed, where: Circumstances) -> Diagnosis | None:
    if not _LIMIT_WORDS.search(failed.text) or not (failed.type or failed.exit_status):
        return None
    delay_ms = _delay_of(failed, 30_000)
    host = _host_in(failed)
    return Diagnosis(
        "rate-limit",
        host,
        f"{host or 'the service'} limits how often it is asked",
        (RetryAfter(delay_ms),),
        (),
        max(delay_ms, MINUTE_MS),
    )


def _delay_of(failed: Failed, default_ms: int) -> int:
    told = failed.facts.get("retry_after_s")
    if isinstance(told, int | float) and 0 <= told < 1e6:
        return min(int(told * 1000), DELAY_MS_MAX)
    found = _AFTER.search(failed.text)
    if found is None:
        return default_ms
    return min(int(float(found.group(1)) * _UNIT_MS.get((found.group(2) or "s").lower(), 1000)), DELAY_MS_MAX)


_REFUSED_WORDS = Pattern(r"Connection refused|ECONNREFUSED|\[Errno 111\]|actively refused", re.IGNORECASE)


def _refused(failed: Failed, where: Circumstances) -> Diagnosis | None:
    if not failed.is_a("ConnectionRefusedError") and not _REFUSED_WORDS.search(failed.text):
        return None
    host = _host_in(failed)
    if not host or host in ("localhost", "address") or host.startswith(("localhost:", "127.")):
        # whatever it is on this machine, or an address that was not told
        return _tied(
            "refused-connection",
            host,
            f"nothing listens at {host or 'the address'} as seen from there",
            where,
            ("node",),
            15 * MINUTE_MS,
            RetryAfter(2_000),
        )
    return Diagnosis("refused-connection", host, f"nothing listens at {host}", (RetryAfter(5_000),), (), 2 * MINUTE_MS)


_DOWN_WORDS = Pattern(
    r"\b50[234]\b(?=:? (?:Bad Gateway|Service|Gateway|Server Error))|Bad Gateway|Service Unavailable|Gateway Time-?out|Temporary failure in name resolution"
    r"|Name or service not known|nodename nor servname|Connection reset by peer|No route to host|Network is unreachable|Remote end closed connection"
    r"|Could not resolve host|server closed the connection|Max retries exceeded",
    re.IGNORECASE,
)
_NETWORK = Pattern(
    r"File \"[^\"\n]*(?:urllib|http/client|socket|ssl|requests|httpx|aiohttp|urllib3|grpc|botocore)[^\"\n]*\""
)
_OF_THIS_MACHINE = Pattern(
    r"Network is unreachable|No route to host|Could not resolve host|name resolution|service not known|nodename nor",
    re.IGNORECASE,
)


def _service(failed: Failed, where: Circumstances) -> Diagnosis | None:
    slow = (
        failed.is_a("TimeoutError", "ReadTimeout", "ConnectTimeout", "Timeout")
        and _NETWORK.search(failed.traceback[-8000:]) is not None
    )
    said = bool(_DOWN_WORDS.search(failed.text)) and bool(failed.type or failed.exit_status)
    broken = failed.is_a("ConnectionResetError", "ConnectionAbortedError", "RemoteDisconnected", "gaierror")
    if not (slow or said or broken):
        return None
    host = _host_in(failed)
    if failed.is_a("gaierror") or _OF_THIS_MACHINE.search(failed.text):
        return _tied(
            "service-down",
            host,
            f"{host or 'the service'} is not reached from there",
            where,
            ("node",),
            5 * MINUTE_MS,
            RetryAfter(5_000),
        )
    return Diagnosis(
        "service-down",
        host,
        f"{host or 'the service'} does not answer",
        (RetryAfter(_delay_of(failed, 15_000)),),
        (),
        2 * MINUTE_MS,
    )


_VERSION_WORDS = Pattern(
    r"was made by Python [\d.]+, and this guest is Python [\d.]+|requires? (?:a different )?Python|Python [\d.]+ or (?:later|newer|higher)|bad magic number"
    r"|unsupported pickle protocol|undefined symbol: _?Py|Python version mismatch|needs Python|code\(\) (?:takes|argument)",
    re.IGNORECASE,
)


_FILE_OF_ANOTHER = Pattern(r"bad magic number|undefined symbol", re.IGNORECASE)


def _interpreter(failed: Failed, where: Circumstances) -> Diagnosis | None:
    found = _VERSION_WORDS.search(failed.text)
    if found is None:
        return None
    if _FILE_OF_ANOTHER.match(found[0]):
        cause = "a module there was compiled for another Python"
        return _tied("wrong-interpreter", "compiled", cause, where, ("node",), DAY_MS)
    return _tied(
        "wrong-interpreter",
        "",
        f"it does not run under {where.interpreter or 'the Python there'}",
        where,
        ("interpreter",),
        30 * DAY_MS,
    )


_DEVICE_WORDS = Pattern(
    r"no CUDA-capable device|CUDA driver (?:version|initialization)|Found no NVIDIA driver|No CUDA GPUs|libcuda\.so|No GPU",
    re.IGNORECASE,
)


def _device(failed: Failed, where: Circumstances) -> Diagnosis | None:
    if not _DEVICE_WORDS.search(failed.text):
        return None
    return _tied("missing-device", "gpu", "there is no device of the kind that it uses", where, ("node",), DAY_MS)


def _crash(failed: Failed, where: Circumstances) -> Diagnosis | None:
    number = failed.signal or (failed.exit_status - 128 if failed.exit_status and 128 < failed.exit_status < 160 else 0)
    if number not in _CRASH_SIGNALS:
        if "Segmentation fault" not in failed.stderr[-4000:] and "Segmentation fault" not in failed.message:
            return None
        number = SIGNAL_SEGMENT
    cause = f"it ends by {_CRASH_SIGNALS[number]} there"
    return _tied("segfault", f"signal {number}", cause, where, ("node",), 7 * DAY_MS)


def _timeout(failed: Failed, where: Circumstances) -> Diagnosis | None:
    if failed.status != "timeout" and not failed.is_a("TimeoutError", "TimeoutExpired"):
        return None
    if failed.status == "timeout" and where.timeout_s:
        low, high = PARAMETERS["timeout_s"]
        wanted = min(max(where.timeout_s * TIMEOUT_FACTOR, low), high)
        return Diagnosis(
            "timeout", "", "it takes longer than the time it was given", (Change("timeout_s", wanted),), (), 7 * DAY_MS
        )
    return Diagnosis(
        "timeout", "", "something that it waited for did not come in time", (RetryAfter(10_000),), (), 5 * MINUTE_MS
    )


_DENIED = Pattern(
    r"Permission denied|\[Errno 1?13?\] Operation not permitted|EACCES|Read-only file system", re.IGNORECASE
)
_NO_FILE = Pattern(r"No such file or directory")


def _files(failed: Failed, where: Circumstances) -> Diagnosis | None:
    named = _path_in(failed)
    if failed.is_a("PermissionError") or _DENIED.search(failed.text):
        return _tied("no-permission", named, f"it may not use {named or 'a file'} there", where, ("node",), HOUR_MS)
    if failed.is_a("FileNotFoundError", "NotADirectoryError") or (
        _NO_FILE.search(failed.stderr[-2000:]) and failed.exit_status
    ):
        return _tied("missing-file", named, f"{named or 'a file'} is not there", where, ("node",), HOUR_MS)
    return None


_RULES: Final[tuple[Rule, ...]] = (
    _poison, _module, _library, _interpreter, _device, _command, _memory, _disk, _rate, _refused, _service, _crash, _timeout, _files,
)  # fmt: skip

FAMILIES: Final = (
    "missing-module", "missing-library", "missing-command", "missing-file", "missing-device", "no-permission", "wrong-interpreter", "out-of-memory",
    "full-disk", "timeout", "refused-connection", "rate-limit", "service-down", "segfault", "poison-task", "reflected",
)  # fmt: skip
"""All that a diagnosis may be of."""
OF_DATA: Final = frozenset(("segfault", "missing-file", "no-permission", "refused-connection", "service-down"))
"""Of these a failure does not tell whether the machine is to blame, or what the call was given."""


# --- what rules have in common ----------------------------------------------------------------------------------------


def _avoids(where: Circumstances, ties: tuple[str, ...]) -> tuple[Advice, ...]:
    values = {"node": where.node, "interpreter": where.interpreter, "packages": where.packages}
    return tuple(Avoid(tie, values[tie]) for tie in ties if values.get(tie))


def _tied(
    family: str, subject: str, cause: str, where: Circumstances, ties: tuple[str, ...], lasting_ms: int, *more: Advice
) -> Diagnosis:
    avoids = _avoids(where, ties)
    if not avoids:  # what it depends on is not known of that machine: then it is the machine
        ties = ("node",)
        avoids = _avoids(where, ties)
    return Diagnosis(family, _subject(subject), cause[:500], (*avoids, *more), ties, lasting_ms)


def _of_setup(family: str, subject: str, cause: str, where: Circumstances) -> Diagnosis:
    """A fault of what is installed: of all machines that are set up alike, where that is known."""
    ties = ("interpreter", "packages") if where.packages and where.interpreter else ("node",)
    # What is avoided is that set of packages; the interpreter alone is not to blame.
    return Diagnosis(family, subject, cause, _avoids(where, ties[-1:]), ties, 30 * DAY_MS)


_HOST = Pattern(
    r"://(?:[^\s/@'\"]{1,100}@)?([A-Za-z0-9][\w.-]{0,100}(?::\d{1,5})?)"
    r"|host=['\"]?([A-Za-z0-9][\w.-]{0,100})['\"]?(?:, port=(\d{1,5}))?"
    r"|(?:[Cc]onnect(?:ion)? (?:call failed |to )\(?|Could not resolve host: |Cannot connect to host )['\"]?([A-Za-z0-9][\w.-]{0,100})['\"]?(?:(?:[, :]{1,2}|:| port )(\d{1,5}))?"
)


def _host_in(failed: Failed) -> str:
    """host:port as far as it is told, in lower case."""
    found = _HOST.search(failed.text)
    if found is None:
        return ""
    host = (found.group(1) or found.group(2) or found.group(4) or "").lower().rstrip(".")
    port = found.group(3) or found.group(5)
    return _subject(f"{host}:{port}" if port and ":" not in host else host)


_QUOTED_PATH = Pattern(
    r"['\"]([^'\"\n]{1,400})['\"]\s*$|^(?:[\w./+-]{1,60}: ){1,3}(?:cannot [a-z ]{1,30})?['‘\"]?([^\s'’\":]{1,400})['’\"]?: ",
    re.MULTILINE,
)


def _path_in(failed: Failed) -> str:
    """The folder of a path that is told: files in one folder are there together, or not. Numbers and temporary names are data."""
    found = _QUOTED_PATH.search(failed.message) or _QUOTED_PATH.search(failed.stderr[-1000:])
    path = (found.group(1) or found.group(2)) if found else ""
    folder = path.rpartition("/")[0]
    return _subject("/".join(normal(part) if part else "" for part in folder.split("/")[:4])) if folder else ""


def _subject(text: str) -> str:
    text = "".join(c for c in text if c.isprintable())[:SUBJECT_CHARACTERS_MAX]
    return text.encode("utf-8", "replace").decode()


_HOW_IT_DIED = Pattern(r"(signal|exit) (\d{1,3})(?:, out of memory)?")
"""What a node says of a worker that took its task along."""


def told_by(fields: Mapping[str, Any]) -> Failed:
    """A failure from the map of an ``F`` payload (see `swarm.payload_failure`), or from the result of a command."""
    facts = fields.get("facts")
    facts = facts if isinstance(facts, Mapping) else {}
    said: Mapping[str, Any] = {**facts, **fields}
    exit_status, signal = said.get("exit"), said.get("signal")
    why = said.get("why")
    how = _HOW_IT_DIED.fullmatch(why) if isinstance(why, str) else None
    if how is not None and signal is None and exit_status is None:
        signal, exit_status = (int(how[2]), None) if how[1] == "signal" else (None, int(how[2]))
    mro = said.get("mro")
    return Failed(
        type=_text(said, "type"),
        mro=tuple(name for name in mro if isinstance(name, str)) if isinstance(mro, list | tuple) else (),
        message=_text(said, "message"),
        traceback=_text(said, "traceback"),
        exit_status=exit_status if type(exit_status) is int else None,
        signal=signal if type(signal) is int and signal > 0 else None,
        stderr=_text(said, "stderr"),
        status=_text(said, "status") or "failed",
        facts=facts,
    )


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    return value if isinstance(value, str) else ""
