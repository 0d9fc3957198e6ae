"""Snapshots: writing and verifying beside the disk and memcpy, opening beside LMDB, SQLite and JSON, keys a second.

``python -m benchmarks.snapshots [--mib 1024] [--keys 10000,1000000] [--directory DIR] [--json]``; ten million keys when asked for: ``--keys 10000000``.
What is measured is the disk of DIR as much as the snapshot, so the bare disk is measured in the same turn, over the same bytes. LMDB is
measured where it is installed (``pip install lmdb``).
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from blake3 import blake3

from swarm.snapshots import Snapshot, create
from swarm.snapshots.checking import verify

VALUE_BYTES = 1024
JSON_PART = 10
"""JSON is measured with a tenth: all of it has to be in memory."""
LOOKUPS = 300_000
ROUNDS = 3
MB = 1e6


def timed(call: Callable[[], Any]) -> float:
    gc.collect()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def records(count: int, value_bytes: int) -> list[tuple[bytes, bytes]]:
    """In the order of their keys; values of random bytes, a few thousand different ones."""
    draw = random.Random(1)
    values = [draw.randbytes(value_bytes) for _ in range(4096)]
    return [(b"key:%012d" % i, values[draw.randrange(4096)]) for i in range(count)]


def evict(folder: Path) -> None:
    """The files of a folder are no longer in memory: what is read next comes from the disk."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def disk_write(path: Path, size: int, block: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        for _ in range(size // len(block)):
            file.write(block)
        os.fsync(file.fileno())


def disk_read(path: Path) -> None:
    buffer = bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def rates(folder: Path, mib: int) -> Iterator[dict[str, Any]]:
    """Writing and verifying, each in turns with the disk."""
    size = mib << 20
    items = records(size // (VALUE_BYTES + 30), VALUE_BYTES)
    block = os.urandom(1 << 20)
    found: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}

    def took(name: str, call: Callable[[], Any]) -> None:
        before = time.process_time()
        found.setdefault(name, []).append(size / timed(call) / MB)
        cpu.setdefault(name, []).append((time.process_time() - before) / size * 1e9)

    source, target = memoryview(os.urandom(1 << 24)), memoryview(bytearray(1 << 24))

    def memcpy() -> None:
        for _ in range(size >> 24):
            target[:] = source

    for _ in range(ROUNDS):
        for name in ("raw", "s", "z", "i"):
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).unlink(missing_ok=True) if (folder / name).is_file() else None
        took("disk write and sync", lambda: disk_write(folder / "raw", size, block))
        took("write", lambda: create(folder / "s", {"s": items}, created_ms=0, compress=False, in_order=True))
        took("write, zstd", lambda: create(folder / "z", {"s": items}, created_ms=0, in_order=True))
        changed = list(items)
        for at in range(0, len(items), len(items) // 100):
            changed[at] = (changed[at][0], b"changed")
        took(
            "write, 100 changed",
            lambda: create(
                folder / "i", {"s": changed}, created_ms=0, compress=False, in_order=True, base=folder / "s"
            ),
        )
        took("memcpy", memcpy)
        took("blake3, one thread", lambda: [blake3(source).digest() for _ in range(size >> 24)])
        took("verify, in memory", lambda: verify(folder / "s"))
        evict(folder)
        took("disk read", lambda: disk_read(folder / "raw"))
        took("verify, from disk", lambda: verify(folder / "s"))
    wrote = sum(path.stat().st_size for path in (folder / "i").glob("*.shard") if path.stat().st_nlink == 1)
    for name, each in found.items():
        yield {
            "what": name,
            "MB/s": round(median(each)),
            "least": round(min(each)),
            "most": round(max(each)),
            "CPU s/GB": round(median(cpu[name]), 2),
        }
    yield {"what": "new bytes of 100 changed", "MB": round(wrote / MB, 1), "of": round(size / MB)}
    lower = min(median(found["disk write and sync"]), median(found["memcpy"]))
    yield {"what": "write / lower of disk and memcpy", "ratio": round(median(found["write"]) / lower, 2)}
    lower = min(median(found["disk read"]), median(found["memcpy"]))
    yield {"what": "verify / lower of disk and memcpy", "ratio": round(median(found["verify, from disk"]) / lower, 2)}


def lmdb_of(path: Path) -> Any:
    try:
        lmdb = importlib.import_module("lmdb")
    except ImportError:
        return None
    return lmdb.open(str(path), map_size=8 << 30, readonly=path.exists(), lock=False)


def openings(folder: Path, mib: int) -> Iterator[dict[str, Any]]:
    """Until it is open, and until the first value is there; with the file in memory, and from the disk."""
    items = records((mib << 20) // (VALUE_BYTES + 30), VALUE_BYTES)
    keys = [key for key, _ in items]
    create(folder / "s", {"s": items}, created_ms=0, compress=False, in_order=True)
    create(folder / "z", {"s": items}, created_ms=0, in_order=True)
    database = sqlite3.connect(folder / "q.db")
    database.execute("CREATE TABLE r (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID")
    database.executemany("INSERT INTO r VALUES (?, ?)", items)
    database.commit()
    database.close()
    environment = lmdb_of(folder / "l")
    if environment is not None:
        with environment.begin(write=True) as transaction:
            for key, value in items:
                transaction.put(key, value, append=True)
        environment.close()
    part = items[: len(items) // JSON_PART]
    (folder / "j.json").write_text(json.dumps({key.decode(): value.hex()[:VALUE_BYTES] for key, value in part}))

    def snapshot(name: str) -> tuple[Callable[[], Any], Callable[[Any, bytes], Any]]:
        def opened() -> Any:
            found = Snapshot.open(folder / name)
            found.shard("s")
            return found

        return opened, lambda found, key: found.shard("s").get(key)

    peers: dict[str, tuple[Callable[[], Any], Callable[[Any, bytes], Any]]] = {
        "snapshot": snapshot("s"),
        "snapshot, zstd": snapshot("z"),
        "sqlite": (
            lambda: sqlite3.connect(folder / "q.db"),
            lambda found, key: found.execute("SELECT v FROM r WHERE k = ?", (key,)).fetchone()[0],
        ),
    }
    if environment is not None:
        peers["lmdb"] = (lambda: lmdb_of(folder / "l"), lambda found, key: found.begin(buffers=False).get(key))
    draw = random.Random(3)
    for where in ("in memory", "from disk"):
        for name, (opening, read) in peers.items():
            opens, reads = [], []
            for _ in range(15):
                if where == "from disk":
                    evict(folder)
                key = draw.choice(keys)
                began = time.perf_counter()
                found = opening()
                between = time.perf_counter()
                value = read(found, key)
                reads.append(time.perf_counter() - between)
                opens.append(between - began)
                assert len(value) == VALUE_BYTES
                found.close()
            yield {
                "what": f"{name}, {where}", "open ms": round(median(opens) * 1e3, 3), "first read ms": round(median(reads) * 1e3, 3),
                "worst read ms": round(max(reads) * 1e3, 3),
            }  # fmt: skip
    took = timed(lambda: json.loads((folder / "j.json").read_text())[keys[0].decode()])
    yield {"what": f"json, a {JSON_PART}th of it", "open ms": round(took * 1e3), "first read ms": 0.0}


def lookups(folder: Path, count: int) -> Iterator[dict[str, Any]]:
    """Keys a second, of keys at random, each touched once before: by one thread through Python."""
    values = [b"value %d" % i * 8 for i in range(1000)]
    names = {"snapshot": False, "snapshot, zstd": True}
    for name, compress in names.items():
        create(
            folder / name,
            {"s": ((b"key:%012d" % i, values[i % 1000]) for i in range(count))},
            created_ms=0,
            compress=compress,
            in_order=True,
        )
    environment = lmdb_of(folder / "l")
    if environment is not None:
        with environment.begin(write=True) as transaction:
            for i in range(count):
                transaction.put(b"key:%012d" % i, values[i % 1000], append=True)
        environment.close()
    draw = random.Random(5)
    keys = [b"key:%012d" % draw.randrange(count) for _ in range(min(LOOKUPS, count * 10))]
    absent = [b"nokey:%012d" % i for i in range(len(keys))]

    def line(name: str, get: Callable[[bytes], Any]) -> dict[str, Any]:
        for key in keys:
            get(key)
        there = [len(keys) / timed(lambda: [get(key) for key in keys]) for _ in range(ROUNDS)]
        missing = [len(keys) / timed(lambda: [get(key) for key in absent]) for _ in range(ROUNDS)]
        return {"what": f"{name}, {count:,} keys", "found/s": round(median(there)), "absent/s": round(median(missing))}

    for name in names:
        with Snapshot.open(folder / name, cache_bytes_max=4 << 30) as snapshot:
            shard = snapshot.shard("s")
            yield line(name, shard.get)
            many = [len(keys) / timed(lambda shard=shard: shard.get_many(keys)) for _ in range(ROUNDS)]
            yield {"what": f"{name}, many, {count:,} keys", "found/s": round(median(many))}
    if environment is not None:
        opened = lmdb_of(folder / "l")
        with opened.begin(buffers=False) as transaction:
            yield line("lmdb", transaction.get)
        opened.close()


def show(title: str, lines: Iterator[dict[str, Any]], as_json: bool) -> None:
    if not as_json:
        print(f"\n{title}")
    for each in lines:
        if as_json:
            print(json.dumps(each), flush=True)
        else:
            print(
                f"  {each['what']:<36}"
                + "  ".join(f"{name} {value:,}" for name, value in each.items() if name != "what"),
                flush=True,
            )


def rows(
    mib: int, keys: tuple[int, ...], only: str | None = None, directory: str | None = None, as_json: bool = False
) -> None:
    """All of it, or ``only`` one part."""
    print(f"# {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {mib} MiB")
    for name, work in (("rates", rates), ("openings", openings)):
        if only in (None, name):
            with tempfile.TemporaryDirectory(dir=directory) as folder:
                show(name, work(Path(folder), mib), as_json)
    for count in keys if only in (None, "lookups") else ():
        with tempfile.TemporaryDirectory(dir=directory) as folder:
            show(f"lookups, {count:,} keys", lookups(Path(folder), count), as_json)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--keys", default="10000,1000000")
    parser.add_argument("--directory", default=None)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=["rates", "openings", "lookups"])
    args = parser.parse_args()
    rows(args.mib, tuple(map(int, args.keys.split(","))), args.only, args.directory, args.json)


if __name__ == "__main__":
    main()
