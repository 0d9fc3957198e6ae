"""Five hosts on a LAN, each with a node of its own, a small disk for its journal and a clock that can be set."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psutil

from nodes.journal.files import STATES, RealFiles, segment_name
from nodes.journal.format import HEADER_BYTES, Record, pack_commit, pack_entries
from nodes.journal.stamps import SECTOR
from nodes.journal.survey import Survey, survey
from swarm.errors import SwarmError
from swarm.paths import private_directory
from swarm.protocol.ids import decode32
from swarm.protocol.raft.entries import Entry, EntryKind
from tests.chaos.work import weigh
from tests.e2e.full_disks import fill
from tests.lab.lan import SWITCH, Lan
from tests.lan.drivers import ROOT
from tests.lan.fleets import PATIENCE_S, LanFleet, until

MIB = 1 << 20
NODE_ID_BYTES = 16
JOURNAL_BYTES = 64 * MIB
DISK_BYTES = 136 * MIB
"""Of the file system on which a journal is: a little more than the journal may take, twice, since one that has rotted is copied."""
BULK, BULK_BYTES = 12, 900_000
"""More than two files of a journal of that size take, and less than a message may have."""
BULKS_MAX = 2
"""What was accepted is kept for a day, on three of the disks: of a journal of that size this is half."""
CLOCK = """
import os, time

_real, _file = time.time, os.environ["CHAOS_CLOCK_FILE"]

def _set_time():
    try:
        with open(_file) as file:
            return _real() + float(file.read())
    except (OSError, ValueError):
        return _real()

time.time = _set_time
"""
"""For `sitecustomize`: this process's wall clock is off by what the file says, now and whenever it changes."""
ALARMS = (
    "Traceback",
    '"raft.violation"',
    '"peer.violation"',
    '"query.crashed"',
    "never retrieved",
    "was destroyed but",
)
SLOW = ("tbf", "rate", "400kbit", "burst", "16kb", "latency", "300ms")


class Hosts(LanFleet):
    """The fleet, and what is done to its hosts beside what a LAN can do."""

    def __init__(self, lan: Lan, root: Path, history: Path) -> None:
        super().__init__(lan, root)
        self.history = history
        self.names = lan.hosts
        self._site = root / "site"
        self._site.mkdir(parents=True)
        (self._site / "sitecustomize.py").write_text(CLOCK)
        self._mounts: list[Path] = []
        self._bulks = 0

    def env(self, host: str) -> dict[str, str]:
        """Of a host's node and clients."""
        path = f"{self._site}{os.pathsep}{ROOT}"
        more = {
            "PYTHONPATH": path, "CHAOS_CLOCK_FILE": str(self.root / f"{host}.clock"), "SWARM_LEDGER_ZONE": host,
            "SWARM_HTTP_ENABLED": "false", "SWARM_LEDGER_JOURNAL_BYTES": str(JOURNAL_BYTES),
            "PYTHONFAULTHANDLER": "1",
        }  # fmt: skip
        return super().env(host) | more

    def up(self) -> None:
        """A fleet of all hosts, whose nodes all know each other."""
        first, *others = self.names
        self.mount(first)
        self.start(first)
        token = self.token(first, "--uses", str(len(others)))
        for host in others:
            self.mount(host)
        self.join(token, *others)
        self.start(*others)
        self.all_know(self.names, PATIENCE_S)

    def ids(self) -> dict[str, bytes]:
        """The nodes' ids by their hosts."""
        return {
            str(member["name"]): decode32(str(member["id"]), NODE_ID_BYTES)
            for member in self.client(self.names[0]).members()
        }

    def groups(self, host: str) -> list[dict[str, Any]]:
        """The logs that a host's node takes part in, as it says; none when it does not answer."""
        try:
            ledger = self.client(host).query("status", timeout_s=5.0).get("ledger")
        except SwarmError:
            self._forget(host)
            return []
        return list(ledger["groups"]) if ledger else []

    def voters(self, host: str) -> int:
        """How many nodes vote in the group of a host's own log."""
        return max((len(group["voters"]) for group in self.groups(host) if group["own"]), default=0)

    def view(self, host: str, batch: str) -> dict[str, Any]:
        """What a host's node knows of a batch."""
        try:
            answer = self.client(host).query("batch.explain", batch=bytes.fromhex(batch), here=True, timeout_s=5.0)
        except SwarmError as error:
            self._forget(host)
            return {"node": host, "silent": str(error)}
        return dict(answer["views"][0])

    # -- disks ---------------------------------------------------------------------------------------------------------

    def journal(self, host: str) -> Path:
        """Where a host's journal is."""
        self.env(host)
        return self.home(host).node_dir(host) / "journal"

    def mount(self, host: str) -> None:
        """Give a host's journal a file system of its own."""
        where = self.journal(host)
        private_directory(where)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "journal", str(where)]
        subprocess.run(command, check=True, timeout=10)
        self._mounts.append(where)

    def fill(self, host: str) -> Path:
        """Fill that file system; the file that does it."""
        return fill(self.journal(host))

    def bulk(self, host: str) -> None:
        """Hand over more at a host than its journal has space for in the files that it has already; a few times at most."""
        if self._bulks == BULKS_MAX:
            return
        self._bulks += 1
        client = self.client(host)
        for number in range(BULK):
            client.submit(weigh, bytes((number,)) * BULK_BYTES, durability="fleet")

    def unmount(self, keep: bool) -> None:
        """Take the journals' file systems away; with `keep` their content stays where it was."""
        for number, where in enumerate(self._mounts):
            if keep:
                kept = self.root / f"journal-{number + 1}"
                shutil.copytree(where, kept, dirs_exist_ok=True)
            subprocess.run(["umount", "-l", str(where)], check=False, timeout=10)
        self._mounts.clear()

    def flip_bits(self, host: str, rng: random.Random) -> str:
        """Flip some bits in what has long been written; the node is down. What was done."""
        where = self.journal(host)
        if rng.random() < 0.2:
            name = rng.choice(STATES)
            return f"{name}: {_flip(where / name, 0, (where / name).stat().st_size, 1, rng)}"
        found = _survey(where)
        number = rng.choice(sorted(found.segments))
        segment = found.segments[number]
        end = found.last_offset if number == max(found.segments) else segment.end.offset
        if end <= HEADER_BYTES:
            return "nothing was written yet"
        return (
            f"{segment_name(number)}: {_flip(where / segment_name(number), HEADER_BYTES, end, rng.randint(1, 5), rng)}"
        )

    def tear(self, host: str, rng: random.Random) -> str:
        """Leave a write that broke off after the last one, as a power cut would; the node is down. What was done."""
        where = self.journal(host)
        found = _survey(where)
        number = max(found.segments, default=0)
        end = found.segments[number].end if number else None
        if end is None or end.previous is None or not found.tracks:
            return "nothing was written yet"
        entry = Entry(1, EntryKind.DATA, rng.randbytes(rng.randint(2_000, 40_000)))
        entries, size, form = pack_entries([entry])
        record = Record(min(found.tracks), first=1, count=1, entries=entries, entries_bytes=size, form=form)
        commit, _ = pack_commit(number, found.segments[number].header.salt, end.number, end.previous, [record])
        sectors = rng.randint(1, len(commit) // SECTOR // 2)  # what fills up the last block is no part of it
        with open(where / segment_name(number), "r+b") as file:
            file.seek(end.offset)
            file.write(commit[: sectors * SECTOR])
        return f"{sectors} of {len(commit) // SECTOR} sectors of a commit at {end.offset} of {segment_name(number)}"

    # -- clocks, workers, slow lines -----------------------------------------------------------------------------------

    def set_clock(self, host: str, ahead_s: float) -> None:
        """Set a host's wall clock, as its node and workers see it."""
        new = self.root / f"{host}.clock.new"
        new.write_text(str(ahead_s))
        new.rename(self.root / f"{host}.clock")

    def workers(self, host: str) -> list[psutil.Process]:
        """The processes below a host's node."""
        try:
            return list(psutil.Process(self.nodes[host].pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return []

    def slow(self, host: str, on: bool) -> bool:
        """Let what goes to a host pass through a thin line, with a queue before it. False where the kernel cannot."""
        switch = f"{self.lan.enter(host)[1].rpartition('/')[2].rpartition('-')[0]}-{SWITCH}"
        words = ["tc", "-n", switch, "qdisc", "add" if on else "del", "dev", host, "root"]
        done = subprocess.run([*words, *(SLOW if on else ())], capture_output=True, timeout=10, check=False)
        return done.returncode == 0

    def restart(self, host: str) -> None:
        """Start a host's node, and wait until it can be asked."""
        self.launch(host)
        socket = self.home(host).node_socket(host)
        until(lambda: socket.exists() or self.nodes[host].poll() is not None, PATIENCE_S, lambda: self.condition(host))

    def alarms(self) -> list[str]:
        """What nodes wrote that they never should."""
        found = []
        for host in self.names:
            text = (self.root / f"{host}.log").read_text(errors="replace")
            for alarm in ALARMS:
                at = text.find(alarm)
                if at >= 0:
                    found.append(f"{host} wrote, {text.count(alarm)} times: {text[max(0, at - 200) : at + 2000]}")
        return found

    def said(self, host: str, event: str) -> int:
        """How often a node's log has an event."""
        log = self.root / f"{host}.log"
        with contextlib.suppress(OSError):
            return log.read_bytes().count(f'"{event}"'.encode())
        return 0


def _survey(where: Path) -> Survey:
    files = RealFiles(where, read_only=True)
    try:
        found = survey(files, None)
    finally:
        files.close()
    assert found is not None, f"no journal in {where}"
    return found


def _flip(path: Path, start: int, end: int, count: int, rng: random.Random) -> str:
    places = sorted({rng.randrange(start, end) for _ in range(count)})
    with open(path, "r+b") as file:
        for at in places:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes((byte ^ 1 << rng.randrange(8),)))
    return f"bits flipped at {', '.join(map(str, places))}"
