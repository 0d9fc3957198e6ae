"""Power that goes off, calls that fail, in any order, also while an earlier failure is being dealt with: all or nothing."""

from __future__ import annotations

import errno
import os
from random import Random

import pytest

from swarm.transactions import TransactionDamaged, TransactionUndecided
from swarm.transactions.applying import commit, recover
from swarm.transactions.disk import JOURNAL, STAGE, VAULT, digest_of
from swarm.transactions.plan import Step, decode, encode
from tests.unit.transactions.disk import File, Power, SimDisk

ROUNDS = int(os.environ.get("SWARM_TEST_ROUNDS", "25"))
BEFORE: dict[str, bytes | None] = {
    "kept": b"kept", "changed": b"old", "same": b"same", "removed": b"old", "d": None, "d/one": b"1", "to-file": None, "to-folder": b"f",
    "closed": None,
}  # fmt: skip


OFF = (Power, TransactionUndecided)
"""How a commit ends that the power ends: whoever tries on finds that nothing can be done any more."""


def place(name: str, number: int, data: bytes, keep: bool) -> Step:
    kept = f"{VAULT}/{number}" if keep else ""
    return Step("place", name, f"{STAGE}/{number}", kept, size=len(data), digest=digest_of(data))


STEPS = [
    Step("remove", "removed", keep=f"{VAULT}/r1"),
    Step("remove", "d/one", keep=f"{VAULT}/r2"),
    Step("remove", "to-folder", keep=f"{VAULT}/r3"),
    Step("rmdir", "to-file", was=0o755),
    Step("rmdir", "d", was=0o755),
    Step("mkdir", "new"),
    Step("mkdir", "to-folder"),
    place("changed", 1, b"new", True),
    place("new/file", 2, b"file", False),
    place("same", 5, b"same", True),
    place("to-file", 3, b"inside", False),
    place("to-folder/x", 4, b"x", False),
    Step("chmod", "new", mode=0o755, was=0o700),
    Step("chmod", "closed", mode=0o500, was=0o755),
]
STAGED = {1: b"new", 2: b"file", 3: b"inside", 4: b"x"}


def disk() -> SimDisk:
    """Everything staged and synced."""
    found = SimDisk.of(BEFORE | {f"{STAGE}/{number}": data for number, data in STAGED.items()})
    # the new version of one is its original under a second name: it was renamed away and back
    found.shown[f"{STAGE}/5"] = found.durable[f"{STAGE}/5"] = found.shown["same"]
    return found


def images() -> tuple[dict[str, object], dict[str, object], int]:
    made = disk()
    before = made.image()
    commit(made, STEPS)
    assert not made.is_there(JOURNAL) and JOURNAL not in made.durable, "it does not come back with the power"
    assert made.image() == SimDisk(made.durable).image(), "what is committed is on the disk"
    return before, made.image(), made.calls


def test_the_power_goes_off_at_any_call_and_any_part_of_what_was_not_synced_is_lost() -> None:
    before, after, calls = images()
    completed = 0
    for at in range(1, calls + 1):
        for seed in range(ROUNDS):
            rng = Random(at * 1000 + seed)
            made = disk()
            made.links = seed % 4 != 0
            made.off_at = at
            with pytest.raises(OFF):
                commit(made, STEPS)
            made.power(rng)
            for _ in range(rng.choice((0, 0, 1, 2))):  # and again while it recovers
                made.off_at = rng.randrange(1, calls)
                try:
                    recover(made)
                except OFF:
                    pass
                made.power(rng)
            recover(made)
            assert made.image() in (before, after), (at, seed)
            assert SimDisk(made.durable).image() == made.image(), "what is recovered is on the disk"
            completed += made.image() == after
    assert completed > calls, "some were completed"


def test_a_call_that_fails_has_nothing_applied() -> None:
    before, after, calls = images()
    for at in range(1, calls + 1):
        for code in (errno.ENOSPC, errno.EIO):
            made = disk()
            made.fails = {at: code}
            try:
                commit(made, STEPS)
            except TransactionUndecided:
                # only its very end may fail after all was applied
                assert made.image() == after and at >= calls - 1
            except OSError as error:
                assert error.errno == code and made.image() == before, at
            else:
                raise AssertionError("a failure is told")
            made.fails = {}
            made.power(Random(at))
            recover(made)
            assert made.image() in (before, after)


def test_a_disk_that_fails_on_and_on_leaves_it_to_a_later_recovery() -> None:
    before, after, calls = images()
    undecided = 0
    for at in range(1, calls + 1):
        for seed in range(ROUNDS // 4 + 1):
            rng = Random(at * 1000 + seed)
            made = disk()
            made.fails = {call: errno.EIO for call in range(at, at + rng.randrange(1, 60))}
            try:
                commit(made, STEPS)
            except TransactionUndecided:
                undecided += 1
            except OSError:
                assert made.image() == before
            if rng.random() < 0.5:
                made.power(rng)
            made.fails, made.calls = {}, 0
            recover(made)
            assert made.image() in (before, after), (at, seed)
            assert SimDisk(made.durable).image() == made.image()
    assert undecided


def test_the_power_goes_off_while_a_failed_commit_is_taken_back() -> None:
    before, after, calls = images()
    for at in range(1, calls + 1):
        for seed in range(ROUNDS // 2):
            rng = Random(at * 1000 + seed)
            made = disk()
            made.fails, made.off_at = {at: errno.ENOSPC}, at + rng.randrange(1, 30)
            try:
                commit(made, STEPS)
            except (*OFF, OSError):
                pass
            made.power(rng)
            recover(made)
            assert made.image() in (before, after), (at, seed)
            assert SimDisk(made.durable).image() == made.image()


def test_a_recovery_that_finds_no_space_takes_it_all_back() -> None:
    before, after, calls = images()
    said = set()
    for at in range(6, calls):
        for other in range(1, 25, 3):
            made = disk()
            made.off_at = at
            with pytest.raises(OFF):
                commit(made, STEPS)
            made.power(Random(at))
            made.fails = {other: errno.ENOSPC}
            try:
                said.add(recover(made))
            except (OSError, TransactionUndecided):
                made.fails = {}
                recover(made)
            assert made.image() in (before, after)
    assert {"completed", "undone"} <= said


@pytest.mark.parametrize("number", sorted(STAGED))
def test_a_new_version_that_is_not_what_was_staged_is_not_put_in_place(number: int) -> None:
    before, _, calls = images()
    undone = 0
    for at in range(1, calls):
        made = disk()
        made.off_at = at
        with pytest.raises(OFF):
            commit(made, STEPS)
        made.off_at = 0
        # the disk had said that it was written, and it was not; wherever the file is by now
        for name, node in list(made.shown.items()):
            if isinstance(node, File) and node.data == STAGED[number] and "removed" not in name:
                node.data = bytes(len(node.data))
        if made.is_there(JOURNAL):
            assert recover(made) == "undone"
            assert made.image() == before
            undone += 1
    assert undone > 5


@pytest.mark.parametrize(
    "step",
    [
        Step("place", "../x", f"{STAGE}/1"),
        Step("place", "/etc/passwd", f"{STAGE}/1"),
        Step("place", "a//b", f"{STAGE}/1"),
        Step("place", ".swarm-transaction/lock", f"{STAGE}/1"),
        Step("remove", ".swarm-transaction/committed", keep=f"{VAULT}/1"),
        Step("place", "x", "kept"),
        Step("place", "x", f"{STAGE}/../../x"),
        Step("place", "x", ""),
        Step("remove", "x", keep=""),
        Step("remove", "x", keep="elsewhere"),
        Step("run", "x"),
        Step("chmod", "x", mode=1 << 20),
        Step("chmod", "x\0", mode=0o700),
    ],
)
def test_a_journal_that_names_what_it_may_not_is_refused(step: Step) -> None:
    with pytest.raises(TransactionDamaged):
        decode(encode([step]))


def test_a_journal_with_any_flipped_bit_is_refused_and_nothing_is_touched() -> None:
    whole = encode(STEPS[:2])
    assert decode(whole) == STEPS[:2]
    for bit in range(len(whole) * 8):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TransactionDamaged):
            decode(bytes(data))
    made = disk()
    made.write(JOURNAL, whole[:-3])
    image = made.image()
    with pytest.raises(TransactionDamaged) as told:
        recover(made)
    assert made.image() == image and "stage/" in told.value.hint
    for junk in (
        b"",
        b"\n",
        b"[1]\n" + digest_of(b"[1]").encode() + b"\n",
        b"{}\n" + digest_of(b"{}").encode() + b"\n",
    ):
        with pytest.raises(TransactionDamaged):
            decode(junk)
