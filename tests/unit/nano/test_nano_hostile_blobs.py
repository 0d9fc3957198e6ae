"""Saved populations whose digest is right and whose content is not: refused with a clear error, or loaded; nothing else."""

from __future__ import annotations

import copy
import random

import msgpack
import pytest

from swarm import nano
from swarm.errors import SwarmError
from swarm.nano import saving
from tests.unit.nano.test_nano_saving import grown

VALUES = [
    None, -1, 0, 1, 2**32, 2**63, 2**64 - 1, 10**6, 1.5, float("nan"), True, "x", "", b"x", [], {}, [1, 2], "builtins:print",
]  # fmt: skip


@pytest.fixture(scope="module")
def opened():
    """Header and sections of a good one."""
    blob = bytes(grown().save())
    start = len(saving.MARK) + 8
    length = int.from_bytes(blob[start - 8 : start], "little")
    return blob[start : start + length], [bytes(each) for each in saving.parts(blob)[1]]


def places(value, path=()):
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from places(each, (*path, key))


def put(header, path, value):
    at = header
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value


def joined(header, sections):
    return bytes(saving._joined(bytes(msgpack.packb(header)), sections))


def spoilt(opened, seed):
    """One or two things of it are others, or gone."""
    choice = random.Random(seed)
    header, sections = msgpack.unpackb(opened[0], strict_map_key=False), list(opened[1])
    for _ in range(choice.choice([1, 1, 2])):
        path = choice.choice(list(places(header)))
        if choice.random() < 0.2 and isinstance(path[-1], str):
            at = header
            for key in path[:-1]:
                at = at[key]
            del at[path[-1]]
        else:
            put(header, path, copy.deepcopy(choice.choice(VALUES)))
    if choice.random() < 0.3:
        which = choice.randrange(len(sections))
        content = bytearray(sections[which])
        if content and choice.random() < 0.6:
            content[choice.randrange(len(content))] ^= 1 << choice.randrange(8)
        else:
            content = content[: choice.randrange(len(content) + 1)] if choice.random() < 0.5 else content + bytes(8)
        sections[which] = bytes(content)
        if isinstance(header.get("sections"), list) and len(header["sections"]) > which:
            header["sections"][which] = len(content)
    return joined(header, sections)


def test_what_was_spoilt_is_refused_or_loaded(opened):
    refused = 0
    for seed in range(400):
        try:
            flock = nano.load(spoilt(opened, seed))
        except SwarmError as error:
            refused += 1
            assert error.message
            continue
        flock.run_for(passes=3)
        flock.save()
    assert 150 < refused < 400


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("cohorts", 1, "state", "made"), []), (("cohorts", 1, "state", "made"), [1] * 9), (("passes",), 2**64 - 1),
        (("now_ns",), 2**63), (("kinds",), 5), (("sections",), None), (("sections", 0), -1), (("seed",), "x"),
        (("kinds", 0, "name"), 7), (("topology",), {"name": "no such"}), (("topics", 0, "counters"), [1]),
        (("cohorts", 0, "kind"), 99), (("spin_ns",), []), (("cohorts", 0, "budget"), ["x", 1, 2]),
    ],
)  # fmt: skip
def test_what_does_not_hold_together_is_said(opened, path, value):
    header = msgpack.unpackb(opened[0], strict_map_key=False)
    put(header, path, value)
    with pytest.raises(SwarmError):
        nano.load(joined(header, opened[1]))


def test_rows_that_nobody_has_are_refused(opened):
    header, sections = msgpack.unpackb(opened[0], strict_map_key=False), list(opened[1])
    which = header["cohorts"][0]["state"]["rows"]
    sections[which] = b"".join(int.to_bytes(each, 4, "little") for each in (1, 2**31, 2**32 - 1))
    header["sections"][which] = len(sections[which])
    with pytest.raises(nano.SchemaMismatch, match="does not hold together"):
        nano.load(joined(header, sections))


def test_a_header_that_is_none_is_refused(opened):
    for header in (None, 5, [], "x", {}, {"sections": 3}):
        with pytest.raises(nano.SchemaMismatch, match="cannot be read"):
            nano.load(joined(header, opened[1]))
