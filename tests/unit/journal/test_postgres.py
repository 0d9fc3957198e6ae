"""A journal in PostgreSQL: a server that goes away, commits in doubt, other processes, other databases, and secrets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from urllib.parse import quote

import psycopg
import pytest

from nodes.cli.command_line import run
from nodes.journal.errors import JournalRefused, Reason
from nodes.journal.files import WITNESS
from nodes.journal.format import JournalId
from nodes.journal.interface import AnyJournal
from nodes.journal.postgres.books import together
from nodes.journal.postgres.database import Database, Fence, described
from nodes.journal.postgres.journal import PostgresJournal
from nodes.journal.postgres.witness import Witness
from nodes.ledger import journal_in, open_journal
from nodes.settings import LedgerSection
from swarm.errors import ConfigError
from swarm.exit_codes import ExitCode
from swarm.protocol.raft.effects import Write
from swarm.protocol.raft.entries import Entry, Vote
from tests.e2e.test_full_disks import missing
from tests.lab.fixtures import require
from tests.postgres import PASSWORD, Cluster, needed
from tests.unit.journal.disk import Power
from tests.unit.journal.model import ID, SMALL, Machine
from tests.unit.journal.places import GROUP, PostgresPlace, reason_of
from tests.unit.journal.test_files import entries
from tests.unit.journal.test_machine import GROUPS

ROOT = Path(__file__).resolve().parents[3]
OTHER = JournalId(ID.fleet, b"o" * 16)


@pytest.fixture
def place(tmp_path: Path, postgres: Cluster) -> PostgresPlace:
    return PostgresPlace(tmp_path, postgres)


@pytest.fixture
def alone(tmp_path: Path, postgres: Cluster) -> Iterator[PostgresPlace]:
    """On a server that a test may stop."""
    yield PostgresPlace(tmp_path, postgres)
    postgres.stop()
    postgres.start()


def opened(place: PostgresPlace) -> PostgresJournal:
    journal = place.open()
    assert isinstance(journal, PostgresJournal)
    journal.again_s = 60.0
    return journal


def end_backends(place: PostgresPlace) -> None:
    """The server ends all other connections to the database, as an administrator can."""
    place.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


# A server that goes away.


@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGINT])
def test_a_server_that_was_restarted_has_left_nothing_in_doubt(alone: PostgresPlace, how: signal.Signals) -> None:
    journal = opened(alone)
    assert not journal.commit([entries(1, 3)])
    alone.cluster.stop(how)
    alone.cluster.start()
    assert not journal.commit([entries(4, 3)])
    journal.close()
    assert len(opened(alone).take_recovered()[GROUP].entries) == 6


def test_a_server_that_comes_back_in_time_is_waited_for(alone: PostgresPlace) -> None:
    journal = opened(alone)
    journal.commit([entries(1, 3)])
    alone.cluster.stop()
    later = threading.Timer(1.0, alone.cluster.start)
    later.start()
    try:
        assert not journal.commit([entries(4, 3)])
    finally:
        later.join()
    assert len(journal.read(GROUP).entries) == 6
    journal.close()


def test_a_server_that_stays_away_ends_it(alone: PostgresPlace) -> None:
    journal = opened(alone)
    journal.commit([entries(1, 3)])
    alone.cluster.stop()
    journal.again_s = 0.3
    with pytest.raises(OSError, match="can not be reached") as caught:
        journal.commit([entries(4, 3)])
    assert not isinstance(caught.value, JournalRefused)
    journal.abandon()
    alone.patience_s = 0.3
    assert reason(alone.open).reason is Reason.AWAY


def reason(opens: Callable[[], AnyJournal]) -> JournalRefused:
    with pytest.raises(JournalRefused) as caught:
        opens().close()
    assert caught.value.hint
    return caught.value


def test_a_start_waits_for_the_server_and_says_so(alone: PostgresPlace) -> None:
    opened(alone).close()
    alone.cluster.stop()
    said: list[str] = []

    def waiting(where: str) -> None:
        said.append(where)
        alone.cluster.start()

    PostgresJournal.open(alone.url, ID, alone.directory, SMALL.bytes_max, within_s=120, waiting=waiting).close()
    assert said == [described(alone.url)]


def test_a_connection_that_breaks_during_a_commit_is_in_doubt(place: PostgresPlace) -> None:
    """The commit waits in the server when the connection is cut: whether it was done only a new process finds out."""
    journal = opened(place)
    journal.commit([entries(1, 1)])
    place.sql("""
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(30); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON swarm_journal.records DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION slow();
    """)

    def cut() -> None:
        while not place.sql("SELECT 1 FROM pg_stat_activity WHERE query = 'COMMIT' AND wait_event = 'PgSleep'"):
            time.sleep(0.02)
        end_backends(place)

    cutting = threading.Thread(target=cut)
    cutting.start()
    with pytest.raises(OSError, match="during a commit"):
        journal.commit([entries(2, 1)])
    cutting.join()
    journal.abandon()
    place.sql("DROP FUNCTION slow CASCADE")
    found = opened(place).take_recovered()[GROUP]
    assert len(found.entries) in (1, 2) and not found.damaged


_FAILING = """
import asyncio, psycopg, sys
from nodes.journal.writer import JournalWriter
from tests.unit.journal.test_files import entries
{opens}
async def main():
    told = asyncio.Event()
    writer = JournalWriter(journal, asyncio.get_running_loop(), lambda *_: told.set(), print)
    writer.submit(1, [entries(1, 1)])
    await told.wait()
    journal.again_s = 0.2
    print("written", flush=True)
    sys.stdin.readline()
    writer.submit(2, [entries(2, 1)])
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_a_process_without_its_database_ends(alone: PostgresPlace) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _FAILING.format(opens=alone.opens)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "written\n"
    alone.cluster.stop()
    _, stderr = process.communicate("\n", timeout=60)
    assert process.returncode == ExitCode.SYSTEM, stderr
    assert stderr.startswith("error: the journal can not be written: the database of the journal can not be reached")
    assert len(stderr.splitlines()) == 1
    alone.cluster.start()
    assert len(opened(alone).take_recovered()[GROUP].entries) == 1


# Other processes.


def test_who_lost_the_lock_to_another_process_writes_nothing_more(place: PostgresPlace) -> None:
    journal = opened(place)
    journal.commit([entries(1, 1)])
    end_backends(place)
    other = opened(place)
    journal.again_s = 0.2
    with pytest.raises(OSError, match="another process"):
        journal.commit([entries(2, 1)])
    assert not other.commit([entries(2, 1)])
    other.close()
    with pytest.raises(OSError, match="not as this process left it"):
        journal.commit([entries(2, 1)])
    journal.abandon()


def test_without_a_lock_that_holds_the_second_process_ends_the_first(place: PostgresPlace) -> None:
    """Behind a pooler of connections a session's lock may be anybody's: the rows themselves tell whose they are."""
    journal = opened(place)
    journal.commit([entries(1, 1)])
    journal._database.connection.execute("SELECT pg_advisory_unlock_all()")
    other = opened(place)
    assert not other.commit([entries(2, 1)])
    with pytest.raises(OSError, match="another process has taken over"):
        journal.commit([entries(2, 1)])
    assert len(other.read(GROUP).entries) == 2
    journal.abandon()
    other.close()


def test_two_nodes_in_one_database(place: PostgresPlace, tmp_path: Path) -> None:
    """They begin at the same moment, and have logs of the same groups."""

    def other() -> PostgresJournal:
        return PostgresJournal.open(place.url, OTHER, tmp_path / "other", SMALL.bytes_max)

    made: list[PostgresJournal] = []
    beginning = threading.Thread(target=lambda: made.append(other()))
    beginning.start()
    journal = opened(place)
    beginning.join()
    journal.commit([entries(1, 3)])
    made[0].commit([entries(1, 5)])
    journal.compact()
    journal.close()
    made[0].close()
    assert len(opened(place).take_recovered()[GROUP].entries) == 3
    again = other()
    assert len(again.take_recovered()[GROUP].entries) == 5
    again.close()


# Other databases, and other times.


def test_an_earlier_state_of_the_database_is_not_taken_for_the_latest(place: PostgresPlace) -> None:
    journal = opened(place)
    journal.commit([entries(1, 3)])
    journal.close()
    name = place.url.partition("@/")[2].partition("?")[0]
    place.cluster.execute(f"CREATE DATABASE {name}_backup TEMPLATE {name}", "postgres")
    journal = opened(place)
    journal.commit([entries(4, 3)])
    journal.idle()
    journal.abandon()
    place.url = place.cluster.url(f"{name}_backup")
    error = reason_of(place)
    assert error.reason is Reason.LOST and "backup" in error.hint


def test_another_database_is_not_begun(place: PostgresPlace) -> None:
    opened(place).close()
    place.url = place.cluster.database()
    assert reason_of(place).reason is Reason.MISSING
    assert place.sql("SELECT to_regnamespace('swarm_journal')") == [(None,)]


def test_a_journal_of_the_same_node_that_was_begun_again(place: PostgresPlace) -> None:
    opened(place).close()
    place.sql("DELETE FROM swarm_journal.nodes")
    (place.directory / WITNESS).rename(place.directory / "kept")
    opened(place).close()
    (place.directory / "kept").rename(place.directory / WITNESS)
    assert reason_of(place).reason is Reason.LOST


def test_a_witness_that_can_not_be_read(place: PostgresPlace) -> None:
    opened(place).close()
    (place.directory / WITNESS).write_text("{")
    assert reason_of(place).reason is Reason.UNREADABLE


def test_a_schema_of_somebody_else(place: PostgresPlace) -> None:
    place.sql("CREATE SCHEMA swarm_journal; CREATE TABLE swarm_journal.thesis (years int)")
    assert reason_of(place).reason is Reason.FOREIGN


def test_without_the_right_to_make_tables(place: PostgresPlace) -> None:
    place.sql("CREATE ROLE guest LOGIN")
    place.url = place.url.replace("swarm@", "guest@")
    try:
        assert reason_of_guest(place).reason is Reason.READ_ONLY
    finally:
        place.cluster.execute("DROP ROLE guest", "postgres")


def reason_of_guest(place: PostgresPlace) -> JournalRefused:
    return reason(place.open)


def test_tables_of_version_1_are_brought_up(place: PostgresPlace) -> None:
    journal = opened(place)
    journal.commit([entries(1, 2), Write(b"h", Vote(3, None), None, False, False, 0, ())])
    journal.close()
    place.sql("ALTER TABLE swarm_journal.groups DROP COLUMN left_term, DROP COLUMN left_index")
    place.sql("UPDATE swarm_journal.about SET version = 1")
    journal = opened(place)
    found = journal.take_recovered()
    assert found[b"h"].vote == Vote(3, None) and len(found[GROUP].entries) == 2 and not journal.damaged_at_start
    journal.commit([Write(b"h", Vote(3, None, (2, 5)), None, True, True, 0, ())])
    journal.close()
    journal = opened(place)
    assert journal.take_recovered()[b"h"].vote == Vote(3, None, (2, 5))
    journal.close()


def test_a_row_that_was_changed_is_damage_of_all_that_it_may_have_been(place: PostgresPlace) -> None:
    journal = opened(place)
    for index in range(1, 5):
        journal.commit([entries(index, 1), Write(b"h", Vote(1, None), None, False, False, index, [Entry(1, 1, b"")])])
    journal.close()
    place.sql("UPDATE swarm_journal.records SET grp = 'x' WHERE number = 5")
    journal = opened(place)
    found = journal.take_recovered()
    assert journal.damaged_at_start == (GROUP, b"h")
    assert [len(found[group].entries) for group in (GROUP, b"h")] == [2, 2]
    journal.close()
    journal = opened(place)
    assert not journal.damaged_at_start and journal.take_recovered() == found
    journal.close()


def test_a_vote_that_was_changed_ends_an_identity(place: PostgresPlace) -> None:
    journal = opened(place)
    journal.commit([entries(1, 1)])
    journal.close()
    place.sql("UPDATE swarm_journal.groups SET term = term + 1")
    assert reason_of(place).reason is Reason.LOST


def test_rot_that_a_running_journal_comes_upon(place: PostgresPlace) -> None:
    journal = opened(place)
    for index in range(1, 6):
        journal.commit([entries(index, 1)])
    place.rot()
    place.fill(True)
    again = journal.commit([entries(6, 1)])
    # Without space for what can be read of it there is the mark alone.
    assert again[GROUP].damaged and not again[GROUP].entries and again[GROUP].vote.term == 1
    place.fill(False)
    assert journal.try_again()
    journal.close()
    found = opened(place).take_recovered()[GROUP]
    assert found == again[GROUP]


# The server's side.


def test_commits_are_synced_whatever_the_server_does_for_others(place: PostgresPlace) -> None:
    assert place.sql("SHOW synchronous_commit") == [("off",)]
    journal = opened(place)
    assert journal._database.one("SHOW synchronous_commit") == ("on",)
    journal.close()


def test_a_server_that_does_not_sync_is_refused(alone: PostgresPlace) -> None:
    alone.sql("ALTER SYSTEM SET fsync = off")
    alone.sql("SELECT pg_reload_conf()")
    deadline = time.monotonic() + 30
    while alone.sql("SHOW fsync") == [("on",)]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    try:
        assert reason_of(alone).reason is Reason.UNSAFE
    finally:
        alone.sql("ALTER SYSTEM RESET fsync")


def test_a_commit_that_no_standby_confirmed_is_not_acknowledged(place: PostgresPlace) -> None:
    """PostgreSQL says only by a warning that it gave up waiting for one; here another warning of a commit stands for it."""
    journal = opened(place)
    journal.commit([entries(1, 1)])
    place.sql("""
        CREATE FUNCTION warns() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'canceling wait'; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER warns AFTER INSERT ON swarm_journal.records DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION warns();
    """)
    with pytest.raises(OSError, match="does not warrant"):
        journal.commit([entries(2, 1)])
    journal.abandon()


def test_a_disk_that_is_full_for_certain(tmp_path: Path) -> None:
    """A database on a small file system that others fill."""
    needed()
    require(missing())
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "tests.unit.journal.full_database", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


# Secrets.


def test_a_password_is_not_told(place: PostgresPlace) -> None:
    name = place.url.partition("@/")[2].partition("?")[0]
    right = f"postgresql://swarm:{quote(PASSWORD, safe='')}@127.0.0.1:{place.cluster.port}/{name}"
    place.url = right
    journal = opened(place)
    assert (
        PASSWORD not in journal.where and journal.where == f"postgresql://swarm@127.0.0.1:{place.cluster.port}/{name}"
    )
    journal.close()
    assert PASSWORD not in (place.directory / WITNESS).read_text()
    assert Witness.read(place.directory) is not None
    began = time.monotonic()
    for url in (right.replace("swarm:", "nobody:"), right.replace(f"/{name}", "/nothing")):
        with pytest.raises(JournalRefused) as caught:
            PostgresJournal.open(url, ID, place.directory, SMALL.bytes_max, within_s=60)
        assert caught.value.reason is Reason.AWAY
        said = f"{caught.value} {caught.value.hint} {caught.value.facts}"
        assert PASSWORD not in said and quote(PASSWORD, safe="") not in said
    assert time.monotonic() - began < 30, "what waiting does not mend is not waited for"
    with pytest.raises(ConfigError) as wrong:
        Database.look(f"postgresql://swarm:{PASSWORD}%zz@127.0.0.1:x/y")
    assert PASSWORD not in f"{wrong.value} {wrong.value.hint}" and wrong.value.__cause__ is None


_WITHOUT = """
import sys
sys.modules["psycopg"] = None
import nodes.ledger, nodes.journal, nodes.node, nodes.cli.journal
try:
    import nodes.journal.postgres.journal
except Exception as error:
    print(type(error).__name__, error, error.hint)
"""


def test_what_speaks_to_it_is_needed_only_when_it_is_used() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT], capture_output=True, text=True, cwd=ROOT, timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.startswith("ConfigError") and "nanoswarm[postgres]" in done.stdout, done


# Lives of a journal, held against the model.


class PostgresMachine(Machine):
    """As on a simulated disk; a process may end before or after the commit of a transaction."""

    def __init__(self, seed: int, place: PostgresPlace) -> None:
        self.place = place
        self.compacts = 0
        super().__init__(seed)

    def _opened(self) -> AnyJournal:
        return self.place.open()

    def kill(self) -> None:
        self.journal.abandon()

    def cut(self, after: bool) -> None:
        """The next transaction is the process's last."""
        assert isinstance(self.journal, PostgresJournal)
        database = self.journal._database
        transact = database.transact

        def broken(queue: Callable[[psycopg.Connection[tuple[object, ...]]], Fence]) -> None:
            if after:
                transact(queue)
            else:
                database.connection.execute("BEGIN")
                queue(database.connection)
                database.connection.close()
            raise Power

        database.transact = broken  # type: ignore[method-assign]


@pytest.mark.parametrize("seed", range(6))
def test_what_was_committed_is_found_or_said_to_be_damaged(place: PostgresPlace, seed: int) -> None:
    rng = Random(seed)
    machine = PostgresMachine(rng.randrange(1 << 30), place)
    full = False
    for _ in range(80):
        what = rng.random()
        alive = True
        if what < 0.65:
            groups = rng.sample(GROUPS, rng.randint(1, len(GROUPS)))
            if rng.random() < 0.08:
                machine.cut(rng.random() < 0.5)
            alive = machine.commit([machine.write(group) for group in groups])
        elif what < 0.7:
            alive = machine.idle()
        elif what < 0.76:
            full = not full
            place.fill(full)
        elif what < 0.82:
            end_backends(place)
        elif what < 0.85 and not full:
            machine.journal.compact()
        elif what < 0.9:
            machine.close()
            alive = False
        elif what < 0.93:
            alive = False
        elif not machine.flips and place.sql("SELECT count(*) FROM swarm_journal.records") != [(0,)] and not full:
            machine.kill()
            machine.flips = 1
            place.sql(
                "UPDATE swarm_journal.records SET contents = set_bit(contents, 3, 1 - get_bit(contents, 3)) WHERE number = "
                f"(SELECT number FROM swarm_journal.records ORDER BY number OFFSET {rng.randrange(10)} LIMIT 1)"
            )
            machine.open()
        if not alive:
            if full:
                place.fill(False)
                full = False
            machine.kill()
            machine.open()
    machine.kill()


def test_entries_that_follow_each_other_become_one_record(place: PostgresPlace) -> None:
    journal = opened(place)
    journal.commit([entries(index, 1) for index in range(1, 65)])
    assert place.sql("SELECT count(*), max(entries) FROM swarm_journal.records") == [(1, 64)]
    journal.close()
    other = Write(b"h", None, None, False, False, 1, [Entry(1, 1, b"")])
    joined = together([entries(1, 1), other, entries(2, 2), entries(5, 1), entries(4, 1)])
    assert [(write.group, write.first, len(write.entries)) for write in joined] == [
        (GROUP, 1, 3), (b"h", 1, 1), (GROUP, 5, 1), (GROUP, 4, 1)
    ]  # fmt: skip


def test_the_thread_ends_when_another_process_took_over(place: PostgresPlace) -> None:
    from tests.unit.journal.test_writer import Shell

    async def go() -> None:
        shell = Shell(opened(place))
        shell.writer.submit(1, [entries(1, 1)])
        await shell.until(lambda: shell.numbers == [1])
        place.sql("UPDATE swarm_journal.nodes SET session = 'another'")
        shell.writer.submit(2, [entries(2, 1)])
        await shell.writer.close()
        assert shell.numbers == [1] and isinstance(shell.errors[0], OSError)

    asyncio.run(go())


# Where a node's settings say that it is.


def test_a_journal_stays_where_it_was_begun(place: PostgresPlace, tmp_path: Path) -> None:
    in_database = LedgerSection(journal_url=place.url)
    with closing(open_journal(place.directory, *ID.key, in_database)) as journal:
        assert journal.where == described(place.url)
    assert journal_in(place.directory)
    assert reason(lambda: open_journal(place.directory, *ID.key, LedgerSection())).reason is Reason.MISSING
    with closing(open_journal(tmp_path / "files", *ID.key, LedgerSection())) as journal:
        assert journal.where == "files"
    assert reason(lambda: open_journal(tmp_path / "files", *ID.key, in_database)).reason is Reason.FOREIGN


def swarm_journal(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = run(["journal", *words])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_swarm_journal(
    place: PostgresPlace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SWARM_LEDGER_JOURNAL_URL", raising=False)
    where = str(place.directory)
    journal = opened(place)
    for index in range(1, 21):
        journal.commit([entries(index, 1)])
    status, out, _ = swarm_journal(capsys, "verify", where, "--url", place.url, "--json")  # while its node runs
    report = json.loads(out)
    assert status == ExitCode.OK and report["whole"] and report["records"] == 20
    assert [(one["group"], one["entries"]) for one in report["groups"]] == [(GROUP.hex(), 20)]
    status, _, err = swarm_journal(capsys, "compact", "--url", place.url)
    assert status == ExitCode.SYSTEM and "another process" in err
    journal.close()
    status, _, err = swarm_journal(capsys, "verify", where)
    assert status == ExitCode.CONFIG and "--url" in err and place.cluster.url("")[:8] in err
    monkeypatch.setenv("SWARM_LEDGER_JOURNAL_URL", place.url)
    status, out, _ = swarm_journal(capsys, "verify", where)
    assert status == ExitCode.OK and "whole:" in out and GROUP.hex() in out
    status, out, _ = swarm_journal(capsys, "export", where)
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == ExitCode.OK and [line["index"] for line in lines[1:]] == list(range(1, 21))
    status, out, _ = swarm_journal(capsys, "compact", where, "--json")
    said = json.loads(out)
    assert status == ExitCode.OK and said["after_bytes"] < said["before_bytes"]
    assert json.loads(swarm_journal(capsys, "verify", where, "--json")[1])["records"] == 1
    place.rot_first()
    status, out, _ = swarm_journal(capsys, "verify", "--url", place.url)
    assert status == ExitCode.FAILED and "DAMAGED" in out and "have rotted" in out
    status, out, _ = swarm_journal(capsys, "export", "--url", place.url)
    assert status == ExitCode.OK and json.loads(out.splitlines()[0])["damaged"]
    PostgresJournal.open(place.url, OTHER, tmp_path / "other", SMALL.bytes_max).close()
    status, _, err = swarm_journal(capsys, "verify", "--url", place.url)
    assert status == ExitCode.NOT_FOUND and "--node" in err
    status, _, _ = swarm_journal(capsys, "verify", "--url", place.url, "--node", OTHER.node.hex()[:6])
    assert status == ExitCode.OK
    place.lose_votes()
    status, out, _ = swarm_journal(capsys, "verify", where)
    assert status == ExitCode.FAILED and "new identity" in out
    place.later()
    assert swarm_journal(capsys, "verify", where)[0] == ExitCode.SYSTEM
    assert swarm_journal(capsys, "verify", "--url", place.cluster.url("postgres"))[0] == ExitCode.NOT_FOUND
