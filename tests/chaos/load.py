"""A client on a host under chaos: hands over batches and single tasks, asks for those of others, and writes down what it is told.

    python -m tests.chaos.load load HOST FOLDER --rate 8 --seed 1
    python -m tests.chaos.load ask HOST FOLDER

The first goes on until a line comes on standard input, then waits for what is unfinished, at most as many seconds as
the line says. The second asks once for every batch of the other hosts' clients, as a later script would.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from swarm.client.attached import Attached
from swarm.client.futures import Future
from swarm.client.sync import Fleet, connect
from swarm.errors import FleetNotFound, NoQuorum, NotFound, SwarmError, TaskError
from tests.chaos.history import BATCH_HEX
from tests.chaos.work import attempt

OUTSTANDING_MAX = 100
"""Tasks of one client that have no outcome; it waits, rather than pile up what a cut-off fleet cannot do."""
SESSION_S = 25.0
"""After about so long a client makes a new connection: a node that was gone is its host's node again."""
PATIENCE_S = 3600.0
"""A client looks for a node for as long as the run lasts."""
ASK_EVERY_S = 0.7
ASKED_IN_PARALLEL = 4
LAST_ASK_S = 60.0


class Seen:
    """What this client writes down."""

    def __init__(self, host: str, path: Path) -> None:
        self.host = host
        self._file = open(path, "a", buffering=1)
        self._lock = threading.Lock()
        self._closed = False

    def __call__(self, event: str, **facts: Any) -> None:
        line = json.dumps({"event": event, "host": self.host, "at_s": round(time.monotonic(), 3), **facts})
        with self._lock:
            if not self._closed:
                self._file.write(line + "\n")

    def close(self) -> None:
        """Nothing more is written down."""
        with self._lock:
            self._closed = True
            self._file.close()


class Load:
    """Hands over tasks."""

    def __init__(self, seen: Seen, folder: Path, rate: float, rng: random.Random) -> None:
        self._seen = seen
        self._folder = folder
        self._pause_s = 4.0 / rate  # four tasks at a time on the average
        self._rng = rng
        self._open: set[Future] = set()
        self._lock = threading.Lock()
        self._sessions: list[tuple[Fleet, list[Future]]] = []
        self._renew_s = 0.0
        self._receipts: set[str] = set()

    def go(self, ended: threading.Event) -> None:
        """Until it is to end."""
        while not ended.wait(self._rng.expovariate(1 / self._pause_s)):
            if len(self._open) >= OUTSTANDING_MAX:
                continue
            try:
                self._submit(self._session())
            except SwarmError as error:
                self._seen("not submitted", why=f"{type(error).__name__}: {error}"[:300])

    def unfinished(self) -> int:
        """Tasks without an outcome."""
        return len(self._open)

    def _session(self) -> Fleet:
        now_s = time.monotonic()
        if now_s > self._renew_s:
            try:
                self._sessions.append(
                    (connect(timeout_s=2.0, reconnect_timeout_s=PATIENCE_S, submit_timeout_s=5.0), [])
                )
                self._renew_s = now_s + SESSION_S * self._rng.uniform(0.5, 1.5)
            except FleetNotFound:
                if not self._sessions:
                    raise
                self._renew_s = now_s + 1.0
            for old in self._sessions[:-1]:
                if all(future.done() for future in old[1]):
                    old[0].close(cancel=True)
                    self._sessions.remove(old)
        return self._sessions[-1][0]

    def _submit(self, fleet: Fleet) -> None:
        count = 1 if self._rng.random() < 0.6 else self._rng.randint(2, 15)
        futures = []
        try:
            for _ in range(count):
                seconds = 0.001 * 300 ** self._rng.random()
                futures.append(fleet.submit(attempt, seconds, str(self._folder), durability="fleet"))
        finally:
            self._watch(futures)
            self._sessions[-1][1].extend(futures)

    def _watch(self, futures: list[Future]) -> None:
        if not futures:
            return
        self._seen("submitted", tasks=[future.task_id.hex() for future in futures])
        with self._lock:
            self._open.update(futures)
        for future in futures:
            batch = future.task_id.hex()[:BATCH_HEX]
            if batch not in self._receipts:
                self._receipts.add(batch)
                future.receipt.add_done_callback(lambda it, batch=batch: self._receipt(batch, it))
            future.add_done_callback(self._outcome)

    def _receipt(self, batch: str, it: Any) -> None:
        error = it.exception()
        if error is not None:
            self._seen("no receipt", batch=batch, why=f"{type(error).__name__}: {error}"[:300])
        else:
            said = it.result()
            self._seen("receipt", batch=batch, copies=said.copies, hosts=said.hosts, epoch=said.epoch)

    def _outcome(self, future: Future) -> None:
        self._seen("outcome", task=future.task_id.hex(), said=said_of(lambda: future.result(0)))
        with self._lock:
            self._open.discard(future)


def said_of(result: Any) -> dict[str, Any]:
    """An outcome as it is written down; who could not find it out raises that."""
    try:
        return {"value": result()}
    except TaskError as error:
        return {"error": type(error).__name__, "text": str(error)[:300]}
    except (NotFound, NoQuorum, FleetNotFound, TimeoutError):
        raise
    except BaseException as error:
        return {"error": type(error).__name__, "text": f"no error of a task: {error}"[:300]}


def ask_now_and_then(seen: Seen, folder: Path, rng: random.Random, ended: threading.Event) -> None:
    """Ask, while all this goes on, for tasks that clients of other hosts handed over."""
    fleet: Fleet | None = None
    others = Others(folder, seen.host)
    while not ended.wait(rng.expovariate(1 / ASK_EVERY_S)):
        task = others.some_task(rng)
        if task is None:
            continue
        asked_s = round(time.monotonic(), 3)
        said: dict[str, Any] | str
        try:
            if fleet is None or rng.random() < 0.05:
                if fleet is not None:
                    fleet.close(cancel=True)
                fleet = None
                fleet = connect(timeout_s=2.0, reconnect_timeout_s=PATIENCE_S)
            said = _ask_for(fleet, task)
        except (NoQuorum, FleetNotFound, TimeoutError):
            said = "unknown"
        except NotFound:
            said = "none"
        except SwarmError as error:  # the node that was asked did not answer in time
            said = "unknown"
            seen("unanswered", task=task, why=f"{type(error).__name__}: {error}"[:300])
        seen("told", task=task, asked_s=asked_s, said=said)


def _ask_for(fleet: Fleet, task: str) -> dict[str, Any] | str:
    attached = fleet.attach(bytes.fromhex(task), timeout=2.0)
    if not attached.done():
        return "pending"
    return said_of(lambda: attached.result(5.0))


class Others:
    """The tasks that clients of other hosts have handed over, by what they wrote down so far."""

    def __init__(self, folder: Path, host: str) -> None:
        self._folder = folder
        self._host = host
        self._read: dict[Path, int] = {}
        self.tasks: list[str] = []

    def some_task(self, rng: random.Random) -> str | None:
        """One of the latest, most of the time."""
        self.tasks.extend(self._new())
        if not self.tasks:
            return None
        return rng.choice(self.tasks[-200:] if rng.random() < 0.7 else self.tasks)

    def _new(self) -> Iterator[str]:
        for path in sorted(self._folder.glob("*.seen")):
            if path.stem.startswith(self._host):
                continue
            with open(path, "rb") as file:
                file.seek(self._read.get(path, 0))
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in whole.splitlines():
                if b'"submitted"' in line:
                    yield from json.loads(line)["tasks"]


def ask_for_all(seen: Seen, folder: Path) -> None:
    """Ask once for every batch of the others, each row."""
    batches: dict[str, list[str]] = {}
    others = Others(folder, seen.host)
    others.some_task(random.Random(0))
    for task in others.tasks:
        batches.setdefault(task[:BATCH_HEX], []).append(task)
    fleet = connect(timeout_s=LAST_ASK_S, reconnect_timeout_s=PATIENCE_S)
    ends_s = time.monotonic() + LAST_ASK_S
    with ThreadPoolExecutor(ASKED_IN_PARALLEL) as pool:
        for _ in pool.map(lambda batch: _ask_for_batch(seen, fleet, batch, batches[batch], ends_s), sorted(batches)):
            pass
    seen("asked all")


def _ask_for_batch(seen: Seen, fleet: Fleet, batch: str, tasks: list[str], ends_s: float) -> None:
    asked_s = round(time.monotonic(), 3)
    left_s = max(1.0, ends_s - time.monotonic())
    rows = {int(task[BATCH_HEX:], 16): task for task in tasks}
    answer: str = "pending"
    try:
        attached: Attached = fleet.attach(bytes.fromhex(batch), timeout=left_s)
        for index, value in attached.outcomes(max(1.0, ends_s - time.monotonic())):
            if index in rows:
                seen("told", task=rows.pop(index), asked_s=asked_s, said=said_of(lambda value=value: _raised(value)))
        answer = "none"
    except NotFound:
        answer = "none"
    except (TimeoutError, NoQuorum, FleetNotFound) as error:
        answer = "pending" if isinstance(error, TimeoutError) else "unknown"
        seen("unanswered", task=batch, why=f"{type(error).__name__}: {error}"[:300])
    except SwarmError as error:
        answer = "unknown"
        seen("unanswered", task=batch, why=f"{type(error).__name__}: {error}"[:300])
    for task in rows.values():
        seen("told", task=task, asked_s=asked_s, said=answer)


def _raised(value: Any) -> Any:
    if isinstance(value, BaseException):
        raise value
    return value


def main() -> None:
    """Of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=("load", "ask"))
    parser.add_argument("host")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rate", type=float, default=8.0, help="tasks a second")
    parser.add_argument("--seed", default="0")
    given = parser.parse_args()
    seen = Seen(given.host, given.folder / f"{given.host}-{given.verb}.seen")
    if given.verb == "ask":
        ask_for_all(seen, given.folder)
        seen.close()
        os._exit(0)
    ended = threading.Event()
    broken: list[str] = []
    # An error that nobody foresaw ends this process with a status that says so.
    threading.excepthook = lambda it: (broken.append(repr(it.exc_value)), traceback.print_exception(it.exc_value))  # type: ignore[func-returns-value,assignment,arg-type]
    load = Load(seen, given.folder, given.rate, random.Random(f"{given.seed} {given.host} load"))
    asking = random.Random(f"{given.seed} {given.host} ask")
    threads = [
        threading.Thread(target=load.go, args=(ended,)),
        threading.Thread(target=ask_now_and_then, args=(seen, given.folder, asking, ended)),
    ]
    for thread in threads:
        thread.start()
    line = sys.stdin.readline()
    ended.set()
    threads[0].join()
    until_s = time.monotonic() + float(line or 0)
    while load.unfinished() and time.monotonic() < until_s:
        time.sleep(0.05)
    threads[1].join(10.0)
    if not load.unfinished():
        seen("settled")
    seen.close()
    # Nothing is cancelled: what is stuck is to be seen as it is.
    sys.stderr.flush()
    os._exit(1 if broken else 0)


if __name__ == "__main__":
    main()
