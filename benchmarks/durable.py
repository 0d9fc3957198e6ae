"""What a receipt costs: durable submits beside those that are kept nowhere, beside the disk, and beside peers that keep tasks.

``python -m benchmarks.durable`` starts three nodes on this machine that count as three (``--ledger-zone``), and a Redis and a
PostgreSQL of its own where Debian's packages are installed; Celery and psycopg come from the environment of the peers
(``make bench-nano`` makes it). Rounds are interleaved. All nodes and the client share this machine's cores and its disk, so three
machines do better.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import swarm
from benchmarks.fleet import connected, line, noop

NAMES = ("one", "two", "three")
ROUNDS = 5
TASKS = 200_000
"""Of one map: fewer are over in a few hundredths of a second, most of it the latency of the first commit."""
SUBMITS = 50_000
SINGLES = 300
PEER_TASKS = 5_000
PEERS = Path(__file__).parents[1] / ".venv-bench" / "bin" / "python"

CELERY = """
import sys, time
from celery import Celery
app = Celery("bench", broker="redis+socket://" + sys.argv[1])
@app.task(ignore_result=True)
def noop(x): pass
noop.apply_async((0,))
n = int(sys.argv[2])
began = time.perf_counter()
for i in range(n):
    noop.apply_async((i,))
print(n / (time.perf_counter() - began))
"""
POSTGRES = """
import sys, time, psycopg
with psycopg.connect(sys.argv[1], autocommit=True) as db:
    db.execute("create table if not exists task (id bigserial primary key, body bytea)")
    n = int(sys.argv[2])
    began = time.perf_counter()
    for i in range(n):
        db.execute("insert into task (body) values (%s)", (b"x" * 100,))
    print(n / (time.perf_counter() - began))
"""


@contextmanager
def three_nodes(
    folder: Path, entry: Callable[[str], Sequence[str]] = lambda name: ("nodes.cli",)
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Three nodes of one home, each with one worker. `entry` of a name is the module that starts it, with its first words."""
    os.environ["SWARM_HOME"] = str(folder)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    started = {}
    for name in NAMES:
        with open(folder / f"{name}.log", "wb") as log:
            started[name] = subprocess.Popen(
                [sys.executable, "-m", *entry(name), "node", "--name", name, "--workers", "1", "--ledger-zone", name],
                stdout=log, stderr=log,
            )  # fmt: skip
        time.sleep(0.5)
    try:
        yield started
    finally:
        for process in started.values():
            process.send_signal(signal.SIGTERM)
        for process in started.values():
            process.wait(30)


def formed(fleet: swarm.Fleet) -> None:
    """Wait until the asked node's log is kept by all three."""
    deadline = time.monotonic() + 60
    while True:
        groups = fleet.query("status")["ledger"]["groups"]
        if any(group["own"] and len(group["voters"]) == len(NAMES) for group in groups):
            return
        if time.monotonic() > deadline:
            raise SystemExit("the three nodes did not form a group in 60 s")
        time.sleep(0.1)


def tasks_per_s(fleet: swarm.Fleet, durability: str) -> float:
    """No-ops mapped in the client's own batches, submitted, run, and their outcomes here."""
    began = time.perf_counter()
    for _ in fleet.map(noop_of, range(TASKS), durability=durability):
        pass
    return TASKS / (time.perf_counter() - began)


def submits_per_s(fleet: swarm.Fleet, durability: str) -> float:
    """No-ops submitted one by one, in the batches that the client makes of them, run, and their outcomes here."""
    began = time.perf_counter()
    futures = [fleet.submit(noop_of, number, durability=durability) for number in range(SUBMITS)]
    for each in futures:
        each.result(timeout=60)
    return SUBMITS / (time.perf_counter() - began)


def noop_of(x: int) -> None:
    """The task of a map."""


def receipts_ms(fleet: swarm.Fleet, durability: str, count: int) -> list[float]:
    """From `submit` of one task to its receipt."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        future = fleet.submit(noop, durability=durability)
        future.receipt.result(timeout=60)
        took.append((time.perf_counter() - began) * 1e3)
        future.result(timeout=60)
    return took


def syncs_ms(folder: Path, count: int) -> list[float]:
    """4 KiB over what is there already, and fdatasync: what this disk takes."""
    took = []
    with open(folder / "synced", "w+b", buffering=0) as file:
        file.write(bytes(1 << 20))
        os.fsync(file.fileno())
        for number in range(count):
            began = time.perf_counter()
            os.pwrite(file.fileno(), bytes(4096), 4096 * (number % 256))
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - began) * 1e3)
    return took


def quantiles(values: list[float]) -> tuple[float, float]:
    """p50 and p99."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


@contextmanager
def redis(folder: Path) -> Iterator[Path | None]:
    """A Redis on a socket, with an append-only file synced every second; None where there is none."""
    binary = shutil.which("redis-server")
    if binary is None:
        yield None
        return
    socket = folder / "redis.sock"
    process = subprocess.Popen(
        [binary, "--port", "0", "--unixsocket", str(socket), "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
         "--dir", str(folder)], stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not socket.exists():
            time.sleep(0.05)
        yield socket
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def postgres(folder: Path) -> Iterator[str | None]:
    """A PostgreSQL on a socket, as it is configured by default (every commit is synced); None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if Path("/usr/lib/postgresql").is_dir() else []
    if not found:
        yield None
        return
    data = folder / "pg"
    data.mkdir()
    user: dict[str, Any] = {}
    if os.geteuid() == 0:  # which PostgreSQL refuses to run as
        import pwd

        entry = pwd.getpwnam("postgres")
        os.chown(data, entry.pw_uid, entry.pw_gid)
        os.chmod(folder, 0o755)
        user = {"user": entry.pw_uid, "group": entry.pw_gid}
    subprocess.run(
        [found[-1] / "initdb", "-D", data, "-A", "trust", "-U", "bench"],
        check=True,
        capture_output=True,
        cwd=data,
        **user,
    )
    process = subprocess.Popen(
        [found[-1] / "postgres", "-D", data, "-k", data, "-c", "listen_addresses="], cwd=data,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user,
    )  # fmt: skip
    try:
        where = f"host={data} user=bench dbname=postgres"
        while subprocess.run([found[-1] / "pg_isready", "-h", data], capture_output=True).returncode:
            time.sleep(0.1)
        yield where
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def peer(program: str, where: str) -> float | None:
    """What a peer's program prints, or None where its environment lacks something."""
    if not PEERS.exists():
        return None
    said = subprocess.run([PEERS, "-c", program, where, str(PEER_TASKS)], capture_output=True, text=True, timeout=300)
    return float(said.stdout) if said.returncode == 0 else None


def take_over_s(folder: Path, nodes: dict[str, subprocess.Popen[bytes]]) -> float:
    """From kill -9 of the owner to the first outcome by the node that took over."""
    with swarm.connect(timeout_s=10) as fleet:
        owner = fleet.query("status")["node"]["name"]
        futures = [fleet.submit(time.sleep, 0.05, durability="fleet") for _ in range(200)]
        for each in futures:
            each.receipt.result(timeout=60)
        done = sum(each.done() for each in futures)
        nodes[owner].kill()
        began = time.perf_counter()
        while sum(each.done() for each in futures) <= done + 2:  # what was on its way when it died may still come
            time.sleep(0.005)
        took = time.perf_counter() - began
        for each in futures:
            each.result(timeout=120)
    return took


def rows(say: Callable[..., None] = line) -> None:
    """Print them."""
    with tempfile.TemporaryDirectory(prefix="swarm-durable-") as temporary:
        folder = Path(temporary)
        with three_nodes(folder) as nodes:
            with connected() as fleet:
                formed(fleet)
                for level in ("none", "node", "fleet"):
                    tasks_per_s(fleet, level)
                rates: dict[str, list[float]] = {"none": [], "node": [], "fleet": []}
                submits: dict[str, list[float]] = {"none": [], "fleet": []}
                singles: dict[str, list[float]] = {"node": [], "fleet": []}
                raw: list[float] = []
                for _ in range(ROUNDS):
                    for level, into in rates.items():
                        into.append(tasks_per_s(fleet, level))
                    for level, into in submits.items():
                        into.append(submits_per_s(fleet, level))
                    for level, found in singles.items():
                        found += receipts_ms(fleet, level, SINGLES // ROUNDS)
                    raw += syncs_ms(folder, SINGLES // ROUNDS)
            none, fleet_rate = statistics.median(rates["none"]), statistics.median(rates["fleet"])
            node_rate = statistics.median(rates["node"])
            say("tasks of a map a second, kept nowhere", f"{none:,.0f}")
            say("... on the home's disk", f"{node_rate:,.0f}", f"{node_rate / none:.2f} x")
            say("... on two of three disks", f"{fleet_rate:,.0f}", f"{fleet_rate / none:.2f} x (>= 0.5)")
            each, each_kept = statistics.median(submits["none"]), statistics.median(submits["fleet"])
            say("submitted one by one, kept nowhere", f"{each:,.0f}")
            say("... on two of three disks", f"{each_kept:,.0f}", f"{each_kept / each:.2f} x (>= 0.5)")
            p50, p99 = quantiles(raw)
            say("4 KiB and fdatasync on this disk", f"{p50:.2f} ms (p50), {p99:.2f} ms (p99)")
            for level, found in singles.items():
                p50, p99 = quantiles(found)
                say(f"receipt of one task, {level}", f"{p50:.2f} ms (p50), {p99:.2f} ms (p99)", "(<= 3, <= 15)")
            with redis(folder) as socket:
                rate = None if socket is None else peer(CELERY, str(socket))
                told = "not here: redis-server, celery" if rate is None else f"{rate:,.0f}"
                say(
                    "Celery, Redis AOF everysec, submits/s",
                    told,
                    "" if rate is None else f"ours: {fleet_rate / rate:.0f} x (>= 20)",
                )
            with postgres(folder) as where:
                rate = None if where is None else peer(POSTGRES, where)
                told = "not here: postgresql, psycopg" if rate is None else f"{rate:,.0f}"
                say(
                    "PostgreSQL, INSERT and commit, rows/s",
                    told,
                    "" if rate is None else f"ours: {fleet_rate / rate:.0f} x (>= 20)",
                )
            say("take-over after kill -9, first outcome", f"{take_over_s(folder, nodes):.2f} s", "(<= 3)")


if __name__ == "__main__":
    rows()
