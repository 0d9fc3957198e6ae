"""What failures are taken for, as they really look: raised here, written by shells, told by nodes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.payload_failure import decode_failure, encode_failure, encode_notice
from swarm.protocol.lessons.advice import Ask, Avoid, Change, Quarantine, Require, RetryAfter, plain
from swarm.protocol.lessons.families import FAMILIES, Circumstances, Diagnosis, harvest, reflected, told_by
from swarm.protocol.lessons.fingerprints import Failed

OAK = Circumstances("oak", "cpython-3.11", "aa", {"memory": 2e9}, 30.0)


def raised(act: Any) -> Failed:
    """What is reported of an exception that was really raised."""
    try:
        act()
    except BaseException as error:
        said = decode_failure(encode_failure(error, node="oak"))
        return told_by({"type": said.type, "mro": list(said.mro), "message": said.message, "traceback": said.traceback})  # type: ignore[union-attr]
    raise AssertionError("nothing was raised")


def shell(script: str) -> Failed:
    """What is reported of a command that was really run."""
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, env={"PATH": os.environ["PATH"], "LC_ALL": "C"}
    )
    code = done.returncode
    return told_by(
        {"exit": 128 - code if code < 0 else code, "signal": -code if code < 0 else None, "stderr": done.stderr}
    )


def diagnosed(failed: Failed, where: Circumstances = OAK) -> Diagnosis:
    found = harvest(failed, where)
    assert found is not None
    assert found.family in FAMILIES and found.cause and plain(found.advice)
    assert ("node" in found.ties) == any(isinstance(one, Avoid) and one.what == "node" for one in found.advice)
    return found


def test_missing_module() -> None:
    def act() -> None:
        import surely_not_installed.inner  # type: ignore[import-not-found]  # noqa: F401

    found = diagnosed(raised(act))
    assert (found.family, found.subject, found.ties) == (
        "missing-module",
        "surely_not_installed",
        ("interpreter", "packages"),
    )
    assert found.advice == (Avoid("packages", "aa"),)
    unknown = diagnosed(raised(act), Circumstances("oak"))
    assert unknown.ties == ("node",) and unknown.advice == (Avoid("node", "oak"),)
    by_command = diagnosed(shell(f"{sys.executable} -c 'import surely_not_installed'"))
    assert by_command.pattern == found.pattern
    notice = decode_failure(
        encode_notice("the code of f needs module 'bpy', which is not installed here", "", {"module": "bpy"})
    )
    assert diagnosed(told_by({"message": notice.message, "facts": notice.facts, "status": "refused"})).subject == "bpy"  # type: ignore[union-attr]


def test_missing_command() -> None:
    found = diagnosed(raised(lambda: subprocess.run(["surely-no-such-program", "x"])))
    assert (found.family, found.subject, found.ties) == ("missing-command", "surely-no-such-program", ("node",))
    assert diagnosed(shell("surely-no-such-program x")).pattern == found.pattern
    assert diagnosed(shell("env surely-no-such-program")).pattern == found.pattern


def test_missing_file_and_permission(tmp_path: Path) -> None:
    found = diagnosed(raised(lambda: open("/nowhere/at/all/17.csv")))
    assert (found.family, found.ties) == ("missing-file", ("node",))
    assert found.pattern == diagnosed(raised(lambda: open("/nowhere/at/all/18.csv"))).pattern, (
        "another file of the folder"
    )
    assert found.pattern != diagnosed(raised(lambda: open("/elsewhere/x"))).pattern
    assert diagnosed(shell("cat /nowhere/at/all/17.csv")).family == "missing-file"
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/data/secret/x")

    def act() -> None:
        raise denied

    assert diagnosed(raised(act)).family == "no-permission"


def test_out_of_memory() -> None:
    found = diagnosed(raised(lambda: bytearray(1 << 60)))
    assert (found.family, found.ties, found.advice) == ("out-of-memory", (), (Require("memory", 4e9),))
    assert diagnosed(raised(lambda: bytearray(1 << 60)), Circumstances("oak")).advice == (
        Require("memory", float(1 << 30)),
    )
    assert diagnosed(
        Failed(status="crashed", message="its worker was killed", facts={"why": "memory", "memory_bytes": 6 << 30})
    ).advice == (Require("memory", float(12 << 30)),)
    assert (
        diagnosed(
            Failed(exit_status=134, signal=6, stderr="terminate called after throwing an instance of 'std::bad_alloc'")
        ).family
        == "out-of-memory"
    )
    device = diagnosed(Failed("torch:OutOfMemoryError", message="CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert device.subject == "device" and device.ties == ("node",)


def test_full_disk() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")

    def act() -> None:
        with open("/dev/full", "w") as file:
            file.write("x" * 100_000)

    found = diagnosed(raised(act))
    assert (found.family, found.ties) == ("full-disk", ("node",))
    assert diagnosed(shell("cat /etc/passwd > /dev/full")).pattern == found.pattern


def test_refused_connection() -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = diagnosed(raised(lambda: socket.create_connection(("127.0.0.1", port))))
    assert found.family == "refused-connection" and found.ties == ("node",), "whatever listens there is of that machine"
    far = Failed(
        "requests:ConnectionError",
        message="HTTPConnectionPool(host='db.example', port=5432): Max retries exceeded: [Errno 111] Connection refused",
    )
    assert (diagnosed(far).subject, diagnosed(far).ties) == ("db.example:5432", ())


@pytest.mark.parametrize(
    ("message", "facts", "delay_ms"),
    [
        ("429 Client Error: Too Many Requests for url: https://api.example.com/v1", {}, 30_000),
        ("HTTP 429, Retry-After: 7", {}, 7_000),
        ("rate limit reached, please try again in 2.5 s", {}, 2_500),
        ("Rate limit exceeded, retry after 3 minutes", {}, 180_000),
        ("rate limited", {"retry_after_s": 12.0}, 12_000),
        ("429 Too Many Requests; Retry-After: 99999999", {}, 30_000),
        ("429 Too Many Requests; Retry-After: 9999999", {}, 7 * 86_400_000),
    ],
)
def test_rate_limit(message: str, facts: dict[str, Any], delay_ms: int) -> None:
    found = diagnosed(Failed("requests:HTTPError", message=message, facts=facts))
    assert (found.family, found.ties, found.advice) == ("rate-limit", (), (RetryAfter(delay_ms),))


def test_service_down() -> None:
    import socket

    down = diagnosed(
        Failed("requests:HTTPError", message="503 Server Error: Service Unavailable for url: https://api.example.com/x")
    )
    assert (down.family, down.subject, down.ties) == ("service-down", "api.example.com", ())
    unknown = diagnosed(raised(lambda: socket.getaddrinfo("surely-no-such-host.invalid", 80)))
    assert (unknown.family, unknown.ties) == ("service-down", ("node",)), "other machines may resolve it"
    assert (
        diagnosed(Failed("builtins:ConnectionResetError", message="[Errno 104] Connection reset by peer")).family
        == "service-down"
    )


def test_timeout() -> None:
    found = diagnosed(Failed(status="timeout", message="ran longer than its limit of 30 s"))
    assert (found.family, found.advice) == ("timeout", (Change("timeout_s", 60.0),))
    assert diagnosed(raised(lambda: subprocess.run(["sleep", "5"], timeout=0.01))).advice == (RetryAfter(10_000),)


def test_segfault_and_wrong_interpreter() -> None:
    crash = shell(f"exec {sys.executable} -c 'import os; os.kill(os.getpid(), 11)'")
    found = diagnosed(crash)
    assert (found.family, found.ties) == ("segfault", ("node",)), "whether its setup is to blame is not known"
    assert diagnosed(Failed(exit_status=139)).pattern == found.pattern
    other = diagnosed(Failed(status="refused", message="f was made by Python 3.12, and this guest is Python 3.11"))
    assert (other.family, other.advice) == ("wrong-interpreter", (Avoid("interpreter", "cpython-3.11"),))


def test_missing_library_and_device() -> None:
    text = "prog: error while loading shared libraries: libfoo.so.1: cannot open shared object file: No such file or directory"
    assert diagnosed(Failed(exit_status=127, stderr=text)).subject == "libfoo.so.1"
    assert diagnosed(Failed("builtins:RuntimeError", message="No CUDA GPUs are available")).family == "missing-device"


def test_poison() -> None:
    found = diagnosed(Failed(status="quarantined", signal=11))
    assert (found.family, found.ties) == ("poison-task", ()) and isinstance(found.advice[0], Quarantine)
    repeated = Circumstances("oak", crashes=3, crashed_on=2)
    assert diagnosed(Failed(status="crashed", signal=11), repeated).family == "poison-task"
    on_one = Circumstances("oak", crashes=3, crashed_on=1)
    assert diagnosed(Failed(status="crashed", signal=11), on_one).family == "segfault", "it may be that machine"


def test_mistakes_of_the_code_teach_nothing_about_machines() -> None:
    def fails(error: BaseException) -> Any:
        def act() -> None:
            raise error

        return act

    for error in (
        ValueError("429"),
        KeyError("memory"),
        AssertionError("timeout"),
        ZeroDivisionError("x"),
        TypeError("f() takes 1"),
        IndexError(),
        RuntimeError("no"),
    ):
        if str(error) == "429":
            continue
        assert harvest(raised(fails(error)), OAK) is None, error
    assert harvest(Failed(exit_status=1, stderr="FAILED (failures=1)"), OAK) is None
    assert harvest(Failed(exit_status=2, stderr="usage: x"), OAK) is None
    assert harvest(Failed(), OAK) is None


def test_reflection_states_a_lesson_about_the_exact_failure() -> None:
    one = Failed("builtins:ValueError", message="17 is too many")
    found = reflected(one, "the third column is wrong", (Ask("is the export of today complete?"),))
    assert found.pattern == reflected(Failed("builtins:ValueError", message="18 is too many"), "x", ()).pattern
    assert found.pattern != reflected(Failed("builtins:ValueError", message="too few"), "x", ()).pattern


@settings(max_examples=200, deadline=None)
@given(
    fields=st.dictionaries(
        st.sampled_from(["type", "mro", "message", "traceback", "exit", "signal", "stderr", "status", "facts"]),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-300, 300),
            st.floats(),
            st.text(),
            st.lists(st.text(max_size=5)),
            st.dictionaries(st.text(max_size=5), st.integers()),
        ),
    ),
    words=st.lists(
        st.sampled_from(
            [
                "429",
                "Connection refused",
                "No module named ''",
                "No such file or directory: '\x00'",
                "host=''",
                "Retry-After: 1e9",
                "MemoryError",
                "Permission denied",
                ": not found",
                "\ud800",
            ]
        ),
        max_size=4,
    ),
)
def test_anything_at_all_is_a_diagnosis_within_bounds_or_none(fields: dict[str, Any], words: list[str]) -> None:
    failed = told_by(
        fields
        | {
            "message": f"{fields.get('message', '')} {' '.join(words)}",
            "stderr": " ".join(words),
            "exit": 127,
            "type": "x:Y",
        }
    )
    found = harvest(failed, OAK)
    if found is not None:
        assert (
            plain(found.advice)
            and len(found.subject) <= 120
            and found.subject.isprintable()
            and len(found.pattern) == 16
        )


def test_hostile_texts_take_no_longer_than_others() -> None:
    import time

    began = time.process_time()
    for piece in (
        "'",
        ": ",
        "a.",
        "No module named '",
        "host='",
        "connect to ",
        "/a",
        "[Errno 2] No such file or directory: '",
        "version `A_1",
    ):
        text = piece * (100_000 // len(piece))
        harvest(Failed("x:FileNotFoundError", message=text, stderr=text, traceback=text, exit_status=127), OAK)
    assert time.process_time() - began < 10, "this is a hang, not a slow machine"


def test_a_worker_that_the_kernel_ended_for_lack_of_memory_needs_more() -> None:
    def died(why: str) -> Diagnosis | None:
        message = f"the worker process died while it ran f ({why})"
        return harvest(told_by({"message": message, "facts": {"why": why}, "status": "crashed"}), OAK)

    found = died("signal 9, out of memory")
    assert found is not None and found.family == "out-of-memory"
    assert [advice.resource for advice in found.advice if isinstance(advice, Require)] == ["memory"]
    other = died("signal 9")
    assert other is None or other.family != "out-of-memory"
