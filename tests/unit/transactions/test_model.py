"""Any sequence of changes, nested in any way and ended in any way, against a table of names in memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from swarm.transactions import PathRefused, StateTransaction
from tests.unit.transactions.places import image

PARTS = ("a", "b", "c")
NAMES = st.lists(st.sampled_from(PARTS), min_size=1, max_size=3).map("/".join)
DATA = st.binary(max_size=6)
Table = dict[str, bytes | None]
"""Files by their names, folders as None; "" is the directory."""


def above(name: str) -> str:
    return name.rpartition("/")[0]


def below(table: Table, name: str) -> list[str]:
    return [other for other in table if other.startswith(f"{name}/")]


class Transactions(RuleBasedStateMachine):
    """`tables` has the disk's table first, then one for each transaction that is open."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="swarm-model-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
        self.tables: list[Table] = [{"": None}]
        self.open: list[StateTransaction] = []

    def teardown(self) -> None:
        while self.open:
            self.open.pop().rollback()
        shutil.rmtree(self.root)

    @initialize(files=st.dictionaries(NAMES, DATA, max_size=4))
    def begin_with(self, files: dict[str, bytes]) -> None:
        for name, data in sorted(files.items()):
            path = self.root / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            except OSError:
                continue  # one of its folders is a file, or it is a folder itself
        for path in self.root.rglob("*"):
            self.tables[0][str(path.relative_to(self.root))] = path.read_bytes() if path.is_file() else None

    @property
    def table(self) -> Table:
        return self.tables[-1]

    @property
    def tx(self) -> StateTransaction:
        return self.open[-1]

    # --- transactions

    @precondition(lambda self: len(self.open) < 4)
    @rule(implied=st.booleans())
    def begin(self, implied: bool) -> None:
        inner = StateTransaction(self.root) if implied or not self.open else self.tx.nested()
        self.open.append(inner.begin())
        self.tables.append(dict(self.table))

    @precondition(lambda self: self.open)
    @rule()
    def commit(self) -> None:
        self.open.pop().commit()
        made = self.tables.pop()
        self.tables[-1] = made

    @precondition(lambda self: self.open)
    @rule(by_error=st.booleans())
    def roll_back(self, by_error: bool) -> None:
        tx = self.open.pop()
        if by_error:
            error = ValueError("x")
            tx.__exit__(ValueError, error, None)
        else:
            tx.rollback()
        self.tables.pop()

    @precondition(lambda self: self.open)
    @rule()
    def all_end_with_the_outermost(self) -> None:
        self.open[0].rollback()
        self.open.clear()
        del self.tables[1:]

    # --- changes; each is told of the same mistakes as the table says

    @precondition(lambda self: self.open)
    @rule(name=NAMES, data=DATA, how=st.sampled_from(("write", "append", "path")))
    def write(self, name: str, data: bytes, how: str) -> None:
        table = self.table
        if table.get(name, b"") is None or table.get(above(name), b"") is not None:
            with pytest.raises((OSError, PathRefused)):
                self.tx.write_bytes(name, data)
            return
        if how == "path":
            with open(self.tx.path(name), "ab") as file:
                file.write(data)
        else:
            with self.tx.open(name, "ab" if how == "append" else "wb") as file:
                file.write(data)
        old = table.get(name) or b""
        table[name] = data if how == "write" else old + data

    @precondition(lambda self: self.open)
    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        if self.table.get(name) is None:
            with pytest.raises(OSError):
                self.tx.remove(name)
        else:
            self.tx.remove(name)
            del self.table[name]

    @precondition(lambda self: self.open)
    @rule(name=NAMES)
    def remove_tree(self, name: str) -> None:
        if self.table.get(name, b"") is not None:
            with pytest.raises(OSError):
                self.tx.remove_tree(name)
        else:
            self.tx.remove_tree(name)
            for one in [name, *below(self.table, name)]:
                del self.table[one]

    @precondition(lambda self: self.open)
    @rule(name=NAMES)
    def mkdir(self, name: str) -> None:
        if name in self.table or self.table.get(above(name), b"") is not None:
            with pytest.raises(OSError):
                self.tx.mkdir(name)
        else:
            self.tx.mkdir(name)
            self.table[name] = None

    @precondition(lambda self: self.open)
    @rule(old=NAMES, new=NAMES)
    def rename(self, old: str, new: str) -> None:
        table = self.table
        folder = table.get(old, b"") is None
        wrong = (
            old not in table
            or table.get(above(new), b"") is not None
            or (folder and (new in table or new.startswith(f"{old}/")))
            or (not folder and table.get(new, b"") is None)
        )
        if old == new and old in table:
            self.tx.rename(old, new)
        elif wrong:
            with pytest.raises((OSError, PathRefused)):
                self.tx.rename(old, new)
        else:
            self.tx.rename(old, new)
            for one in [old, *below(table, old)]:
                table[new + one[len(old) :]] = table.pop(one)

    @precondition(lambda self: self.open)
    @rule(name=NAMES, files=st.dictionaries(st.sampled_from(PARTS), DATA, max_size=2))
    def replace_tree(self, name: str, files: dict[str, bytes]) -> None:
        with tempfile.TemporaryDirectory() as source:
            for one, data in files.items():
                (Path(source) / one).write_bytes(data)
            if self.table.get(above(name), b"") is not None:
                with pytest.raises(OSError):
                    self.tx.replace_tree(name, source)
                return
            self.tx.replace_tree(name, source)
        for one in below(self.table, name):
            del self.table[one]
        self.table[name] = None
        for one, data in files.items():
            self.table[f"{name}/{one}"] = data

    # --- what holds at any time

    @invariant()
    def the_transaction_shows_its_changes(self) -> None:
        if not self.open:
            return
        tx = self.tx
        shown: Table = {"": None}
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            for one in tx.listdir(folder):
                name = f"{folder}/{one}" if folder else one
                shown[name] = None if tx.is_dir(name) else tx.read_bytes(name)
                if shown[name] is None:
                    waiting.append(name)
        assert shown == self.table

    @invariant()
    def the_disk_shows_what_was_committed(self) -> None:
        found: Table = {name: data if kind == "file" else None for name, (kind, _, data) in image(self.root).items()}
        assert {"": None, **found} == self.tables[0]


TestTransactions = Transactions.TestCase
TestTransactions.settings = settings(
    max_examples=int(os.environ.get("SWARM_TEST_ROUNDS", "40")), stateful_step_count=25, deadline=None
)
