"""What a transaction does for those who use it: reading one's own changes, nesting, exclusion, refusals."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import swarm
from swarm.transactions import PathRefused, StateTransaction, TransactionBusy, TransactionError
from tests.unit.transactions.places import change, fill, image

ROOT = Path(__file__).parents[3]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fill(tmp_path / "dir")
    return tmp_path / "dir"


def test_nothing_is_seen_outside_before_the_end_and_everything_after(root: Path) -> None:
    before = image(root)
    with swarm.StateTransaction(root) as tx:
        change(tx)
        assert image(root) == before
        assert tx.read_text("changed") == "new" and not tx.exists("removed") and tx.is_dir("file-to-folder")
        assert tx.read_text("moved/one") == "1" and tx.read_text("moved/deep/two") == "two"
        assert tx.listdir() == [
            "changed", "closed", "file-to-folder", "folder-to-file", "kept", "made", "moved",
        ]  # fmt: skip
        assert list(tx.walk("moved")) == ["moved/deep/two", "moved/one"]
    assert (root / "changed").read_text() == "new" and not (root / "tree").exists() and not (root / "link").is_symlink()
    assert (root / "changed").stat().st_mode & 0o777 == 0o640, "a file that is written anew keeps its mode"
    assert (root / "closed").stat().st_mode & 0o777 == 0o700
    assert (root / "moved" / "deep" / "two").read_text() == "two"
    assert (root / "file-to-folder" / "inside").read_text() == "inside" and (root / "folder-to-file").is_file()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
def test_whatever_ends_the_block_by_force_leaves_all_as_it_was(root: Path, error: type[BaseException]) -> None:
    before = image(root)
    with pytest.raises(error), StateTransaction(root) as tx:
        change(tx)
        raise error
    assert image(root) == before
    assert sorted(os.listdir(root / ".swarm-transaction")) == ["lock"], "nothing staged is left"


def test_by_hand(root: Path) -> None:
    tx = StateTransaction(root).begin()
    tx.write_text("x", "1")
    tx.rollback()
    tx.rollback()
    assert not (root / "x").exists()
    with pytest.raises(TransactionError, match="rolled back"):
        tx.write_text("x", "1")
    with pytest.raises(TransactionError, match="rolled back"):
        tx.begin()
    with StateTransaction(root) as tx:
        tx.write_text("x", "2")
        tx.commit()
        with pytest.raises(TransactionError, match="committed"):
            tx.exists("x")
    assert (root / "x").read_text() == "2"


def test_an_inner_failure_takes_back_only_its_own_changes(root: Path) -> None:
    with StateTransaction(root) as outer:
        outer.write_text("a", "outer")
        outer.write_text("changed", "outer")
        with pytest.raises(ZeroDivisionError), outer.nested() as inner:
            inner.write_text("a", "inner")
            inner.remove("changed")
            inner.rename("tree", "elsewhere")
            inner.write_text("b", "inner")
            with pytest.raises(TransactionError, match="nested"):
                outer.write_text("a", "x")
            raise ZeroDivisionError
        assert outer.read_text("a") == "outer" and outer.read_text("changed") == "outer"
        assert outer.is_dir("tree") and not outer.exists("b")
        with StateTransaction(root) as inner:  # the same directory: within the one that is open here
            assert StateTransaction.current() is inner
            inner.write_text("a", "inner")
            with StateTransaction(root) as innermost:
                innermost.rename("a", "c")
                innermost.remove("removed")
        assert StateTransaction.current() is outer
        assert outer.read_text("c") == "inner" and not outer.exists("a")
        with pytest.raises(ValueError), StateTransaction(root):
            outer_again = StateTransaction.current()
            assert outer_again is not None
            outer_again.write_text("c", "gone")
            raise ValueError
    assert StateTransaction.current() is None
    assert (root / "c").read_text() == "inner" and not (root / "removed").exists()
    assert (root / "changed").read_text() == "outer"


def test_what_an_inner_one_renames_is_still_the_outers_when_it_fails(root: Path) -> None:
    with StateTransaction(root) as outer:
        outer.write_text("a", "outer")
        outer.chmod("a", 0o400)
        with pytest.raises(ValueError), outer.nested() as inner:
            inner.rename("a", "b")
            with inner.open("b", "a") as file:
                file.write(" and inner")
            raise ValueError
        assert outer.read_text("a") == "outer"
        with outer.nested() as inner:
            inner.rename("a", "b")
    assert (root / "b").read_text() == "outer" and (root / "b").stat().st_mode & 0o777 == 0o400


def test_an_outer_failure_takes_back_what_inner_ones_committed(root: Path) -> None:
    before = image(root)
    with pytest.raises(ValueError), StateTransaction(root) as outer:
        with outer.nested() as inner:
            change(inner)
        raise ValueError
    assert image(root) == before


def test_files_are_opened_as_with_open(root: Path) -> None:
    with StateTransaction(root) as tx:
        with tx.open("log", "x") as file:
            file.write("1\n")
        with pytest.raises(FileExistsError):
            tx.open("log", "x")
        with tx.open("log", "a") as file:
            file.write("2\n")
        with tx.open("log", "r+b") as file:
            file.seek(0)
            file.write(b"9")
        with tx.open("kept", "r+") as file:
            assert file.read() == "kept"
            file.write(" and more")
        left = tx.open("left-open", "w")
        left.write("flushed at the end")
        for mode in ("r", "r+"):
            with pytest.raises(FileNotFoundError):
                tx.open("gone", mode)
        with pytest.raises(FileNotFoundError):
            tx.open("no/folder", "w")
        with pytest.raises(NotADirectoryError):
            tx.open("kept/inside", "w")
        for mode in ("r", "w"):
            with pytest.raises(IsADirectoryError):
                tx.open("tree", mode)
    assert (root / "log").read_text() == "9\n2\n" and (root / "kept").read_text() == "kept and more"
    assert (root / "left-open").read_text() == "flushed at the end" and left.closed


def test_a_path_for_code_that_wants_one(root: Path) -> None:
    with StateTransaction(root) as tx:
        path = tx.path("changed")
        assert os.path.basename(path) == "changed"
        assert tx.path("changed") == path
        with open(path, "a") as file:
            file.write(" and new")
        os.replace(_made(root.parent / "other", "replaced"), tx.path("kept"))
        os.unlink(tx.path("removed"))
        tx.path("never-made")
        assert tx.read_text("changed") == "old and new" and not tx.exists("removed") and not tx.exists("never-made")
        with pytest.raises(PathRefused, match="folder"):
            tx.path("tree")
    assert (root / "changed").read_text() == "old and new" and (root / "kept").read_text() == "replaced"
    assert not (root / "removed").exists() and not (root / "never-made").exists()


def _made(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_renamed_original_is_not_written_through(root: Path) -> None:
    before = image(root)
    with pytest.raises(ValueError), StateTransaction(root) as tx:
        tx.rename("changed", "moved")
        with tx.open("moved", "a") as file:
            file.write(" more")
        tx.chmod("moved", 0o600)
        tx.rename("kept", "away")
        with open(tx.path("away"), "w") as file:
            file.write("other")
        tx.rename("tree", "forest")
        tx.write_text("forest/one", "x")
        raise ValueError
    assert image(root) == before
    with StateTransaction(root) as tx:
        tx.rename("changed", "x")
        tx.rename("x", "changed")
        tx.rename("tree", "t")
        tx.rename("t", "tree")
    assert image(root) == before


def test_a_tree_is_replaced_as_one(root: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "x").write_text("x")
    (source / "tool").write_text("#!")
    (source / "tool").chmod(0o755)
    with StateTransaction(root) as tx:
        tx.replace_tree("tree", source)
        tx.replace_tree("made", source)
        assert tx.read_text("tree/deep/x") == "x" and not tx.exists("tree/one")
        (source / "link").symlink_to("tool")
        with pytest.raises(PathRefused, match="symbolic link"):
            tx.replace_tree("tree", source)
        assert tx.read_text("tree/deep/x") == "x", "it was not half replaced"
        with pytest.raises(PathRefused, match="inside"):
            tx.replace_tree("y", root / "tree")
    assert image(root / "tree") == image(root / "made")
    assert (root / "tree" / "tool").stat().st_mode & 0o777 == 0o755 and sorted(os.listdir(root / "tree")) == [
        "deep",
        "tool",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "tree/../../x",
        "/etc/passwd",
        "out/x",
        "chain/x",
        "file-out",
        ".swarm-transaction/lock",
        "a\0b",
        "loop/x",
    ],
)
def test_names_that_lead_elsewhere_are_refused(root: Path, name: str) -> None:
    (root / "out").symlink_to("/tmp")
    (root / "chain").symlink_to("second")
    (root / "second").symlink_to("tree/../..")
    (root / "file-out").symlink_to("../secret")
    (root / "loop").symlink_to("loop")
    (root.parent / "secret").write_text("secret")
    with StateTransaction(root) as tx:
        for act in (tx.exists, tx.read_bytes, tx.path, tx.mkdir, lambda one: tx.write_text(one, "x")):
            with pytest.raises(PathRefused):
                act(name)
        tx.remove("file-out")  # the link itself is in the directory
    assert (root.parent / "secret").read_text() == "secret" and not (root / "file-out").is_symlink()


def test_links_within_the_directory_are_followed(root: Path) -> None:
    (root / "to-tree").symlink_to("tree")
    (root / "absolute").symlink_to(root / "tree" / "one")
    with StateTransaction(root) as tx:
        tx.write_text("to-tree/deep/two", "through")
        tx.write_text("absolute", "one")
        tx.write_text(root / "tree" / "three", "3")
        with pytest.raises(PathRefused, match="not renamed"):
            tx.rename("absolute", "y")
        with pytest.raises(PathRefused, match="not renamed"):
            (root / "tree" / "inner").symlink_to("one")
            tx.rename("tree", "y")
        tx.remove_tree("closed")
    assert (root / "tree" / "deep" / "two").read_text() == "through" and (root / "tree" / "one").read_text() == "one"
    assert (root / "absolute").is_symlink() and (root / "tree" / "three").read_text() == "3"


def test_a_folder_that_becomes_a_link_meanwhile_is_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    before = None
    with pytest.raises(OSError), StateTransaction(root) as tx:
        tx.write_text("tree/one", "new")
        tx.write_text("changed", "new")
        os.rename(root / "tree", root / "was")
        (root / "tree").symlink_to(outside)
        before = image(root)
    assert image(root) == before and not os.listdir(outside), "nothing was applied, and nothing outside"


def test_what_others_put_into_a_folder_that_goes_is_not_taken_along(root: Path) -> None:
    with pytest.raises(OSError), StateTransaction(root) as tx:
        tx.write_text("changed", "new")
        tx.remove_tree("tree")
        (root / "tree" / "theirs").write_text("theirs")
    assert (root / "tree" / "theirs").read_text() == "theirs" and (root / "tree" / "one").read_text() == "1"
    assert (root / "changed").read_text() == "old"


def test_special_files_are_refused(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with StateTransaction(root) as tx:
        for act in (tx.read_bytes, tx.path, lambda name: tx.write_text(name, "x"), lambda name: tx.rename(name, "y")):
            with pytest.raises(PathRefused):
                act("pipe")
        tx.remove("pipe")
    assert not (root / "pipe").exists()


def test_errors_of_everyday(root: Path) -> None:
    with StateTransaction(root) as tx:
        for act in (
            tx.remove,
            tx.listdir,
            tx.remove_tree,
            lambda name: tx.chmod(name, 0o600),
            lambda name: tx.rename(name, "y"),
        ):
            with pytest.raises(FileNotFoundError):
                act("gone")
        with pytest.raises(IsADirectoryError):
            tx.remove("tree")
        with pytest.raises(NotADirectoryError):
            tx.listdir("kept")
        for name in ("kept", "tree"):
            with pytest.raises(FileExistsError):
                tx.mkdir(name)
        tx.mkdir("tree", exist_ok=True)
        with pytest.raises(FileNotFoundError):
            tx.mkdir("a/b")
        with pytest.raises(FileExistsError):
            tx.rename("tree", "closed")
        with pytest.raises(IsADirectoryError):
            tx.rename("kept", "tree")
        for bad in ("tree", "tree/deep/inside"):
            if bad != "tree":
                with pytest.raises(PathRefused, match="into itself"):
                    tx.rename("tree", bad)
        with pytest.raises(PathRefused, match="itself"):
            tx.remove_tree("")
    with pytest.raises(TransactionError, match="not a directory"):
        StateTransaction(root / "gone").begin()
    with pytest.raises(TransactionError, match="not a directory"):
        StateTransaction.recover(root / "gone")
    assert StateTransaction.recover(root) == "nothing"


def test_a_second_one_waits_and_says_for_whom(root: Path) -> None:
    with StateTransaction(root) as tx:
        tx.write_text("n", "1")
        seen: list[object] = []

        def other() -> None:
            with pytest.raises(TransactionBusy, match=f"process {os.getpid()} on") as told:
                StateTransaction(root, timeout_s=0.05).begin()
            seen.append(told.value.directory)
            with StateTransaction(root) as theirs:
                seen.append(theirs.read_text("n"))

        thread = threading.Thread(target=other)
        thread.start()
        while not seen:
            time.sleep(0.01)
    thread.join()
    assert seen == [str(root), "1"]


def test_coroutines_wait_for_each_other_without_holding_up_the_loop(root: Path) -> None:
    async def add() -> None:
        async with StateTransaction(root) as tx:
            count = int(tx.read_text("n")) if tx.exists("n") else 0
            await asyncio.sleep(0.001)
            tx.write_text("n", str(count + 1))

    async def fail() -> None:
        with pytest.raises(asyncio.TimeoutError):
            async with asyncio.timeout(0.01):
                async with StateTransaction(root) as tx:
                    tx.write_text("n", "1000")
                    await asyncio.sleep(10)

    async def main() -> None:
        await asyncio.gather(*(add() for _ in range(5)), fail(), *(add() for _ in range(5)))

    asyncio.run(main())
    assert (root / "n").read_text() == "10"


def test_a_process_that_a_fork_made_does_not_end_its_parents_transaction(root: Path) -> None:
    with StateTransaction(root) as tx:
        tx.write_text("x", "parent")
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                with pytest.raises(TransactionError, match="forked"):
                    tx.write_text("x", "child")
                tx.__exit__(None, None, None)
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert not (root / "x").exists()
        assert tx.read_text("x") == "parent"
    assert (root / "x").read_text() == "parent"


def test_the_death_of_its_process_takes_it_back(root: Path) -> None:
    before = image(root)
    code = (
        "import sys, time; from swarm.transactions import StateTransaction\n"
        f"tx = StateTransaction({str(root)!r}).begin(); tx.write_text('changed', 'new'); print(1, flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout is not None and child.stdout.readline() == b"1\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert image(root) == before
    with StateTransaction(root, timeout_s=5) as tx:
        assert tx.read_text("changed") == "old"


def test_names_that_are_no_utf8(root: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    with StateTransaction(root) as tx:
        tx.write_text(name, "x")
        tx.rename("kept", "kaf\xe9")
    assert (root / name).read_text() == "x" and (root / "kaf\xe9").read_text() == "kept"
    with StateTransaction(root) as tx:
        tx.remove(name)
    assert not (root / name).exists()
