"""The journal on real files: killed processes, what the disk had between write and sync, directories that are not right."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nodes.journal.errors import JournalRefused, Reason
from nodes.journal.files import File, RealFile, RealFiles
from nodes.journal.format import VERSION, JournalId, SegmentHeader
from nodes.journal.journal import Journal
from nodes.journal.state import State
from swarm.exit_codes import ExitCode
from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Entry, Members, Recovered, Snapshot, Vote
from tests.unit.journal.model import ID, NODES, SMALL

GROUP = b"g" * 16


def entries(first: int, count: int, size: int = 100) -> Write:
    data = [Entry(1, 1, b"%08d" % index + bytes(size)) for index in range(first, first + count)]
    return Write(GROUP, Vote(1, NODES[0]) if first == 1 else None, None, False, False, first, data)


def opened(directory: Path, id: JournalId = ID, **options: bool) -> Journal:
    return Journal.open(RealFiles(directory), id, SMALL, **options)


def filled(directory: Path, count: int = 60) -> Path:
    """A journal of several segments."""
    journal = opened(directory)
    for index in range(1, count + 1):
        journal.commit([entries(index, 1, 4000)])
    journal.close()
    return directory


def recovered(directory: Path) -> Recovered:
    journal = opened(directory)
    try:
        return journal.take_recovered()[GROUP]
    finally:
        journal.close()


def refused(directory: Path, reason: Reason, id: JournalId = ID) -> JournalRefused:
    """It is not opened, and nothing in it is changed."""
    before = image(directory)
    with pytest.raises(JournalRefused) as caught:
        opened(directory, id)
    assert caught.value.reason is reason and caught.value.hint
    assert image(directory) == before
    return caught.value


def image(directory: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file() and path.name != "lock"
    }


def test_it_is_small_again_when_nothing_is_needed(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    slow = b"slow"
    journal.commit([Write(slow, Vote(3, NODES[0]), None, False, False, 1, [Entry(1, 1, b"kept")])])
    for index in range(1, 250):
        snapshot = Snapshot(index - 5, 1, Members(), b"s") if index % 10 == 0 else None
        write = entries(index, 1, 4000)
        journal.commit([Write(GROUP, write.vote, snapshot, False, False, index, write.entries)])
        assert journal.bytes <= SMALL.bytes_max
    files = sum(path.stat().st_size for path in (tmp_path / "j").glob("s[ep]*"))
    assert files == journal.bytes < 250 * 4000 * 0.8
    journal.close()
    journal = opened(tmp_path / "j")
    found = journal.take_recovered()
    assert found[slow] == Recovered(Vote(3, NODES[0]), Snapshot(), (Entry(1, 1, b"kept"),))
    assert found[GROUP].snapshot.index == 235 and len(found[GROUP].entries) == 14
    journal.close()


def test_many_small_commits_are_packed_together(tmp_path: Path) -> None:
    """Each takes a block, so they would not fit by far; none is refused, and all of them are needed."""
    journal = opened(tmp_path / "j")
    for index in range(1, 401):
        assert not journal.commit([entries(index, 1, 50)])
    assert 400 * 4096 > 2 * SMALL.bytes_max > 2 * journal.bytes
    assert len(journal._store.tracks[GROUP].chunks) < 200
    assert journal.live_bytes < 400 * 300
    whole = journal.read(GROUP)
    journal.close()
    assert recovered(tmp_path / "j") == whole and len(whole.entries) == 400 and not whole.damaged


def test_of_another_fleet_or_node(tmp_path: Path) -> None:
    filled(tmp_path / "j", 3)
    refused(tmp_path / "j", Reason.FOREIGN, JournalId(b"another", ID.node))
    refused(tmp_path / "j", Reason.OTHER_NODE, JournalId(ID.fleet, b"m" * 16))
    assert len(recovered(tmp_path / "j").entries) == 3


def test_a_directory_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "j").mkdir()
    (tmp_path / "j" / "thesis.tex").write_text("years of work")
    refused(tmp_path / "j", Reason.FOREIGN)


def test_of_a_later_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "segments", 3)
    filled(tmp_path / "states", 3)
    for module in ("nodes.journal.format.VERSION", "nodes.journal.state.VERSION"):
        monkeypatch.setattr(module, VERSION + 1)
    path = next((tmp_path / "segments").glob("segment-*"))
    data = bytearray(path.read_bytes())
    fleet, node = ID.key
    header = SegmentHeader(fleet, node, 1, bytes(16), 1, False).pack()
    data[: len(header)] = header
    path.write_bytes(data)
    for name in ("state-a", "state-b"):
        (tmp_path / "states" / name).write_bytes(State(fleet, node, 99).pack())
    monkeypatch.undo()
    refused(tmp_path / "segments", Reason.NEWER)
    refused(tmp_path / "states", Reason.NEWER)


@pytest.mark.parametrize("which", [0, 1, -1])
def test_half_deleted(tmp_path: Path, which: int) -> None:
    filled(tmp_path / "j")
    gone = sorted((tmp_path / "j").glob("segment-*"))[which]
    gone.unlink()
    assert gone.name in str(refused(tmp_path / "j", Reason.HALF_DELETED).facts["missing"])


def test_all_segments_or_all_states_deleted(tmp_path: Path) -> None:
    filled(tmp_path / "segments")
    for path in (tmp_path / "segments").glob("segment-*"):
        path.unlink()
    refused(tmp_path / "segments", Reason.HALF_DELETED)
    filled(tmp_path / "states")
    for path in (tmp_path / "states").glob("state-*"):
        path.unlink()
    refused(tmp_path / "states", Reason.LOST)


def test_one_state_file_is_enough(tmp_path: Path) -> None:
    for name in ("state-a", "state-b"):
        filled(tmp_path / name, 5)
        (tmp_path / name / name).unlink()
        found = recovered(tmp_path / name)
        assert found.vote == Vote(1, NODES[0]) and len(found.entries) == 5 and not found.damaged
        assert (tmp_path / name / name).exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cut_short(tmp_path: Path, share: float) -> None:
    """A file that was truncated has lost what was synced: damage, not a torn end."""
    filled(tmp_path / "j", 6)
    path = next((tmp_path / "j").glob("segment-*"))
    os.truncate(path, int(share * 6 * 8192) + 8192)
    found = recovered(tmp_path / "j")
    assert found.damaged and 0 <= len(found.entries) < 6 and found.vote == Vote(1, NODES[0])
    assert recovered(tmp_path / "j").damaged, "the mark stays until it is repaired"


def test_not_a_journal(tmp_path: Path) -> None:
    filled(tmp_path / "j", 3)
    next((tmp_path / "j").glob("segment-*")).write_bytes(b"something else")
    refused(tmp_path / "j", Reason.UNREADABLE)


def test_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "j", 3)

    def write(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(RealFile, "write", write)
        refused(tmp_path / "j", Reason.READ_ONLY)
    assert len(recovered(tmp_path / "j").entries) == 3


class Snapshotting:
    """Real files of which a copy is made before each sync: what a disk may show that has nothing of it yet, or all of it."""

    def __init__(self, files: RealFiles, copies: Path) -> None:
        self.files, self.copies, self.count = files, copies, 0

    def copy(self) -> None:
        shutil.copytree(self.files.directory, self.copies / str(self.count))
        self.count += 1

    def __getattr__(self, name: str) -> object:
        return getattr(self.files, name)

    def create(self, name: str, size: int) -> File:
        return SnapshottingFile(self.files.create(name, size), self)  # type: ignore[return-value]

    def open(self, name: str, write: bool) -> File:
        return SnapshottingFile(self.files.open(name, write), self)  # type: ignore[return-value]


class SnapshottingFile:
    def __init__(self, file: File, files: Snapshotting) -> None:
        self.file, self.files = file, files

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)

    def sync(self) -> None:
        self.files.copy()
        self.file.sync()


def test_what_the_disk_has_between_write_and_sync(tmp_path: Path) -> None:
    """Each copy opens: with all that was acknowledged when it was made, and perhaps with what was being written."""
    files = Snapshotting(RealFiles(tmp_path / "j"), tmp_path / "copies")
    (tmp_path / "copies").mkdir()
    journal = Journal.open(files, ID, SMALL)  # type: ignore[arg-type]
    acknowledged: list[tuple[int, int]] = []
    for index in range(1, 40):
        vote = Vote(index // 5 + 1, NODES[0]) if index % 5 == 0 else None
        journal.commit([Write(GROUP, vote, None, False, False, index, [Entry(1, 1, bytes(4000))])])
        acknowledged.append((files.count, index))
    journal.close()
    assert files.count > 45
    for number in range(acknowledged[0][0], files.count):
        done = max(index for count, index in acknowledged if count <= number)
        copy = opened(tmp_path / "copies" / str(number))
        found = copy.take_recovered()[GROUP]
        copy.close()
        assert not found.damaged and done <= len(found.entries) <= done + 1, number
        assert found.vote.term in (0 if done < 5 else done // 5 + 1, (done + 1) // 5 + 1), number


_FAILING = """
import asyncio, sys
from pathlib import Path
from nodes.journal.files import RealFile
from nodes.journal.writer import JournalWriter
from tests.unit.journal.test_files import entries, opened

async def main():
    told = asyncio.Event()
    writer = JournalWriter(opened(Path(sys.argv[1])), asyncio.get_running_loop(), lambda *_: told.set(), print)
    writer.submit(1, [entries(1, 1)])
    await told.wait()
    def sync(self):
        raise OSError(5, "Input/output error")
    RealFile.sync = sync
    writer.submit(2, [entries(2, 1)])
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_a_failed_sync_ends_the_process(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", _FAILING, str(tmp_path / "j")], capture_output=True, text=True, cwd=root, timeout=120,
        env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == ExitCode.SYSTEM, done
    assert done.stderr.startswith("error: the journal can not be written: Input/output error")
    assert len(done.stderr.splitlines()) == 1
    assert len(recovered(tmp_path / "j").entries) in (1, 2)
