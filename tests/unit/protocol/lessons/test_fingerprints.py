"""The same fault on other data has the same fingerprint, different faults have different ones."""

from __future__ import annotations

import string
import time
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.protocol.lessons.fingerprints import FRAMES_MAX, Failed, Fingerprint, fingerprint, frames, normal

WORDS = st.text(string.ascii_letters, min_size=1, max_size=8)
DATA = {
    "n": st.one_of(st.integers(-(10**12), 10**12).map(str), st.floats(-1e6, 1e6, allow_nan=False).map(str)),
    "path": st.lists(
        st.text(string.ascii_letters + string.digits + "_-.", min_size=1, max_size=8), min_size=2, max_size=5
    ).map(lambda parts: "/" + "/".join(parts)),
    "hex": st.integers(0, 1 << 64).map(hex),
    "uuid": st.uuids().map(str),
    "text": st.text(max_size=30).map(repr),
    "ip": st.tuples(*[st.integers(0, 255)] * 4, st.integers(1, 65535)).map(lambda p: "{}.{}.{}.{}:{}".format(*p)),
    "tmp": st.text(string.ascii_lowercase + string.digits + "_", min_size=8, max_size=8).map("tmp{}".format),
    "time": st.datetimes().map(lambda at: at.isoformat()),
}
TEMPLATES = [
    "could not convert string to float: {text}",
    "invalid literal for int() with base 10: {text}",
    "index {n} is out of bounds for axis {n} with size {n}",
    "[Errno 2] No such file or directory: '{path}'",
    "[Errno 13] Permission denied: '{path}'",
    "cannot open {path}: broken at byte {n}",
    "object at {hex} is gone",
    "job {uuid} was lost after {n} s",
    "connect to {ip} failed",
    "folder {tmp} was removed",
    "at {time}: value {n} is above {n}",
    "expected {n} rows, got {n}",
]  # fmt: skip


def filled(draw: st.DataObject, template: str) -> str:
    parts = template
    for name, strategy in DATA.items():
        while "{" + name + "}" in parts:
            parts = parts.replace("{" + name + "}", draw.draw(strategy), 1)
    return parts


@settings(max_examples=150, deadline=None)
@given(data=st.data(), template=st.sampled_from(TEMPLATES))
def test_other_data_gives_the_same_fingerprint(data: st.DataObject, template: str) -> None:
    one = Failed("builtins:ValueError", message=filled(data, template))
    other = Failed("builtins:ValueError", message=filled(data, template))
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one).digest == fingerprint(other).digest


def test_different_faults_have_different_fingerprints() -> None:
    messages = [
        template.format(**{name: "7" if name == "n" else "'x'" if name == "text" else f"/a/{name}" for name in DATA})
        for template in TEMPLATES
    ]
    digests = {fingerprint(Failed("builtins:ValueError", message=message)).digest for message in messages}
    assert len(digests) == len(TEMPLATES)
    others = [
        Failed("builtins:KeyError", message="x"),
        Failed("builtins:IndexError", message="x"),
        Failed("builtins:ModuleNotFoundError", message="No module named 'bpy'"),
        Failed("builtins:ModuleNotFoundError", message="No module named 'numpy'"),
        Failed("builtins:AttributeError", message="'NoneType' object has no attribute 'read'"),
        Failed("builtins:AttributeError", message="'NoneType' object has no attribute 'write'"),
        Failed(
            "requests:HTTPError",
            message="429 Client Error: Too Many Requests for url: https://api.example.com/v1/x?id=7",
        ),
        Failed(
            "requests:HTTPError",
            message="503 Server Error: Service Unavailable for url: https://api.example.com/v1/y?id=8",
        ),
        Failed(
            "requests:HTTPError",
            message="503 Server Error: Service Unavailable for url: https://other.example.com/v1/y",
        ),
        Failed("builtins:OSError", message="[Errno 28] No space left on device"),
        Failed("builtins:OSError", message="[Errno 122] Disk quota exceeded"),
        Failed("builtins:TypeError", message="expected float32, got float64"),
        Failed("builtins:TypeError", message="expected float64, got float32"),
        Failed(exit_status=1, stderr="boom"),
        Failed(exit_status=2, stderr="boom"),
        Failed(signal=11),
        Failed(signal=9),
        Failed(status="timeout"),
    ]
    digests |= {fingerprint(one).digest for one in others}
    assert len(digests) == len(TEMPLATES) + len(others)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("HTTPError: 404 for https://a.example/x/1?k=2", "HTTPError: 404 for https://a.example/y/z"),
        ("shape (3, 224, 224) is not (1, 2)", "shape (64, 64) is not (4, 5, 6)"),
        ("could not read s3://bucket/one/two.csv", "could not read s3://bucket/three"),
        ("\x1b[31mfailed\x1b[0m at 12%", "failed at 99%"),
        (
            "user:secret in postgres://bob:pw1@db.example:5432/x",
            "user:secret in postgres://eve:other@db.example:5432/y",
        ),
        ("worker-17 died", "worker-2 died"),
        ("disk 80 % full,  17 GB", "disk 93 % full,\n3 GB"),
        ("KeyError: 'a'", 'KeyError: "it\'s"'),
    ],
)
def test_examples_that_are_the_same(one: str, other: str) -> None:
    assert normal(one) == normal(other)


def test_what_is_secret_in_an_address_is_left_out() -> None:
    assert "pw1" not in normal("postgres://bob:pw1@db.example:5432/x") and "db.example:5432" in normal(
        "postgres://bob:pw1@db.example:5432/x"
    )


TRACE = """Traceback (most recent call last):
  File "/home/{user}/job.py", line {line}, in main
    load(x)
  File "/home/{user}/job.py", line {more}, in load
    return json.loads(text)
  File "{lib}/json/__init__.py", line 346, in loads
    return _default_decoder.decode(s)
  File "/opt/env/lib/python3.11/site-packages/pandas/io/common.py", line 12, in read
ValueError: x
"""


def test_frames_are_functions_of_the_user_and_packages_without_lines_and_places() -> None:
    one = frames(TRACE.format(user="ann", line=3, more=9, lib="/usr/lib/python3.11"))
    other = frames(TRACE.format(user="bob/work", line=30, more=90, lib="/opt/python/lib/python3.12"))
    assert one == other == ("job:main", "job:load", "pandas:")
    first = 'Traceback (most recent call last):\n  File "/x/a.py", line 1, in f\nKeyError: 1\n\nDuring handling of the above exception, another exception occurred:\n\n'
    assert frames(first + TRACE.format(user="a", line=1, more=2, lib="/usr/lib/python3.11")) == one
    deep = (
        "Traceback (most recent call last):\n"
        + "".join(f'  File "/x/a.py", line {n}, in walk\n' for n in range(50))
        + "E\n"
    )
    assert frames(deep) == frames(deep.replace("line 4", "line 5")) == ("a:walk",)
    mutual = [
        "Traceback (most recent call last):\n" + '  File "/x/a.py", line 1, in f\n  File "/x/b.py", line 2, in g\n' * n
        for n in (1, 7)
    ]
    assert (
        frames(mutual[0])
        == frames(mutual[1])
        == frames(mutual[1] + '  File "/x/a.py", line 1, in f\n')
        == ("a:f", "b:g")
    )
    many = "Traceback (most recent call last):\n" + "".join(
        f'  File "/x/a.py", line 1, in {"f" * n}\n' for n in range(1, 50)
    )
    assert len(frames(many)) == FRAMES_MAX


def test_a_real_traceback() -> None:
    def inner(value: object) -> None:
        raise ValueError(f"bad {value}")

    found = []
    for value in (1, 22):
        try:
            inner(value)
        except ValueError as error:
            text = "".join(traceback.format_exception(error))
            found.append(fingerprint(Failed("builtins:ValueError", message=str(error), traceback=text)))
    assert found[0] == found[1] and found[0].frames[-1] == "test_fingerprints:inner"


def test_stderr_is_its_end_without_data() -> None:
    one = fingerprint(Failed(exit_status=1, stderr="progress 1\n" * 100 + "error: cannot read /data/a.csv: line 7\n"))
    other = fingerprint(
        Failed(exit_status=1, stderr="progress 2\n" * 200 + "error: cannot read /data/b/c.csv: line 70000\n\n")
    )
    assert one == other and one.kind == "exit 1"


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300), st.text(max_size=300))
def test_any_text_is_bounded_and_settles(message: str, trace: str) -> None:
    found = fingerprint(Failed("x:Y", message=message, traceback=trace, stderr=message))
    assert isinstance(found, Fingerprint) and len(found.digest) == 16
    assert len(found.message) <= 4 * max(len(message), 8)


@pytest.mark.parametrize(
    "piece",
    ["'", "/", "1", "a1", "0x", "(", "tmp", ":", "://", "1.", "-", "a/", "\\", "f" * 7, "1:1:", "`", 'File "', " \n"],
)
def test_hostile_texts_take_no_longer_than_others(piece: str) -> None:
    began = time.process_time()
    text = piece * (200_000 // len(piece))
    fingerprint(Failed("x:Y", message=text, traceback=text))
    fingerprint(Failed(exit_status=1, stderr=text))
    assert time.process_time() - began < 10, "this is a hang, not a slow machine"


def test_digests_are_what_they_were() -> None:
    # other nodes have them on their disks: a change of the rules is a new VERSION
    found = fingerprint(
        Failed(
            "builtins:KeyError",
            message="'a'",
            traceback=TRACE.format(user="a", line=1, more=2, lib="/usr/lib/python3.11"),
        )
    )
    assert found.digest.hex() == "add3420da7e61d32dc781314d60b04e1"
