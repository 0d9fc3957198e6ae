"""Twelve families of faults planted into five real nodes: how often they are run into, with lessons and without.

``python -m benchmarks.lessons --families``. Each node lacks something that the others have; some faults are the same everywhere. Of each
family one call fails first, and is known; then all five nodes submit calls. Counted is by the calls themselves (`benchmarks.lesson_faults`):
what began and did not go well. Then each callable is submitted for each single node where nothing is wrong with it: what is refused there
is kept away wrongly.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import resource
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from benchmarks import lesson_faults as faults
from swarm.client.sync import Fleet
from swarm.errors import SwarmError
from tests.e2e.fleets import Nodes, until

NAMES: Final = ("ash", "elm", "fir", "oak", "yew")
OUTAGE_S: Final = 3.0
LIMITED_BYTES: Final = 5 << 29
"""Addresses of the node with little memory."""
SPREAD_LESSONS: Final = 100
MANY_CALLS: Final = 800
"""Of each node."""
WAIT_S: Final = 60.0
Options = dict[str, Any]


@dataclass(frozen=True)
class Plant:
    """A family: what is called, where it fails, and how many calls each node submits."""

    family: str
    call: Callable[[str, int], int]
    where: frozenset[str]
    """Names of the nodes where it fails; all of them when it fails everywhere."""
    calls: int = 40
    options: Options = field(default_factory=dict)
    same: bool = False
    """Whether it is the same call each time."""
    healed: bool = False
    """Whether what lessons give makes it go well where it failed."""


EVERYWHERE: Final = frozenset(NAMES)
PLANTS: Final = (
    Plant("missing-module", faults.missing_module, frozenset({"oak"})),
    Plant("missing-command", faults.missing_command, frozenset({"elm"})),
    Plant("missing-library", faults.missing_library, frozenset({"fir"})),
    Plant("wrong-interpreter", faults.wrong_interpreter, frozenset({"yew"})),
    Plant("no-permission", faults.no_permission, frozenset({"ash"})),
    Plant("full-disk", faults.full_disk, frozenset({"oak", "yew"})),
    Plant("refused-connection", faults.refused_connection, frozenset({"elm"})),
    Plant("segfault", faults.segfault, frozenset({"ash"})),
    Plant("out-of-memory", faults.out_of_memory, frozenset({"fir"}), options={"needs": {"memory": "2GB"}}),
    Plant("timeout", faults.timeout, EVERYWHERE, 12, {"timeout_s": 0.25, "timeout_max_s": 10.0}, healed=True),
    Plant("rate-limit", faults.rate_limit, EVERYWHERE, 20, healed=True),
    Plant("poison-task", faults.poison_task, EVERYWHERE, 6, same=True),
)
HEALTHY: Final = (
    Plant("healthy", faults.healthy, frozenset()),
    Plant("one-bad-apple", faults.one_bad_apple, frozenset()),
    Plant("one-bad-name", faults.one_bad_name, frozenset()),
)
"""Of two of these one call was as bad as can be, wherever it ran: the others are well."""


class Service(http.server.BaseHTTPRequestHandler):
    """Takes no questions at /limited until it opens."""

    opens: float = 0.0

    def do_GET(self) -> None:
        """429 with Retry-After, or 200."""
        left_s = type(self).opens - time.monotonic()
        shut = self.path == "/limited" and left_s > 0
        self.send_response(429 if shut else 200)
        if shut:
            self.send_header("Retry-After", str(int(left_s) + 1))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is written."""


@contextlib.contextmanager
def service() -> Iterator[int]:
    """The service, on a port of loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def environments(root: Path, port: int) -> dict[str, dict[str, str]]:
    """What each of the five nodes has, and lacks."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = closed.getsockname()[1]
    found: dict[str, dict[str, str]] = {}
    for name in NAMES:
        here = root / f"machine-{name}"
        modules, tools, libraries = here / "modules", here / "tools", here / "libraries"
        for each in (modules, tools, libraries):
            each.mkdir(parents=True)
        if name != "oak":
            (modules / "planted_module.py").write_text("VALUE = 7\n")
        _compile(modules, "VALUE = 8\n", of_another=name == "yew")
        if name != "elm":
            _script(tools / faults.TOOL, 0o755)
        _script(tools / "owned-tool", 0o600 if name == "ash" else 0o755)
        if name != "fir":
            import _socket

            shutil.copy(_socket.__file__, libraries / "libplanted.so.1")
        scratch = "/dev/full" if name in ("oak", "yew") else str(here / "scratch")
        found[name] = {
            "PYTHONPATH": str(modules), "PATH": f"{tools}:{os.environ['PATH']}", "LD_LIBRARY_PATH": str(libraries),
            "PLANTED_TOOLS": str(tools), "PLANTED_SCRATCH": scratch, "PLANTED_MARKS": str(root / "marks"),
            "PLANTED_PORT": str(nobody if name == "elm" else port), "PLANTED_SERVICE": f"http://127.0.0.1:{port}/limited",
            "PLANTED_DRIVER": "broken" if name == "ash" else "fine",
            "SWARM_RESOURCES": f"memory={5 << 29 if name == 'fir' else 64 << 30}",
        }  # fmt: skip
    return found


def _script(path: Path, mode: int) -> None:
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(mode)


def _compile(modules: Path, source: str, *, of_another: bool) -> None:
    """A module without its source, as this Python or another one compiles it."""
    import importlib.util
    import marshal

    magic = importlib.util.MAGIC_NUMBER
    if of_another:
        magic = (int.from_bytes(magic[:2], "little") + 50).to_bytes(2, "little") + magic[2:]
    body = magic + bytes(12) + marshal.dumps(compile(source, "planted_compiled.py", "exec"))
    (modules / "planted_compiled.pyc").write_bytes(body)


@dataclass
class Outcome:
    """What came of one family in one mode."""

    began: int = 0
    failed: int = 0
    """Attempts that began after the lesson was known and did not go well."""
    well: int = 0
    submitted: int = 0
    asked: int = 0
    """Calls for single nodes where nothing is wrong with them."""
    refused: int = 0
    """Of these kept away."""


class Five:
    """Five nodes, with a client each."""

    def __init__(self, root: Path, mode: str, port: int) -> None:
        settings = {
            "SWARM_HTTP_ENABLED": "false", "SWARM_WORKERS": "2", "SWARM_SPARE_WORKERS": "0", "SWARM_LESSONS_MODE": mode,
            "SWARM_KNOWLEDGE_SYNC_EVERY_S": "1", "SWARM_LEDGER_ENABLED": "false",
        }  # fmt: skip
        self.marks = root / "marks"
        self.nodes = Nodes(root / "home", settings=settings)
        self.clients: dict[str, Fleet] = {}
        plain = dict(self.nodes.env)
        for name, environment in environments(root, port).items():
            self.nodes.env = {**plain, **environment}
            self.nodes.start(name)
            if name == "fir":
                _limit(self.nodes.processes[name].pid)
        self.nodes.env = plain
        for name in NAMES:
            self.clients[name] = self.nodes.connect(name)
        for client in self.clients.values():
            until(lambda client=client: len(client.members()) == len(NAMES), 30, "members")

    def close(self) -> None:
        for client in self.clients.values():
            client.close()
        self.nodes.stop_all()

    def counts(self, phase: str) -> dict[str, Counter[str]]:
        """Of each family what began, and what went well, in a phase."""
        found: dict[str, Counter[str]] = {}
        for line in self.marks.read_text().splitlines() if self.marks.exists() else ():
            what, family, at, *_ = line.split()
            if at == phase:
                found.setdefault(family, Counter())[what] += 1
        return found

    def lessons(self, name: str) -> dict[str, Any]:
        """What a node knows."""
        return {key: value["lesson"] for key, value in self.clients[name].knowledge.query("lessons")}

    def known_everywhere(self, family: str) -> None:
        """Wait until all have a lesson of this family, and the same ones."""

        def have() -> bool:
            keys = [{key for key, lesson in self.lessons(name).items() if lesson["family"] == family} for name in NAMES]
            return bool(keys[0]) and all(other == keys[0] for other in keys)

        until(have, 20, f"a lesson of the family {family} on all nodes")


def _limit(process: int) -> None:
    """Give a node and the workers that it has, and starts, few addresses."""
    import psutil

    node = psutil.Process(process)
    for each in (node, *node.children(recursive=True)):
        resource.prlimit(each.pid, resource.RLIMIT_AS, (LIMITED_BYTES, LIMITED_BYTES))


def _ended(future: Any) -> SwarmError | BaseException | None:
    try:
        return future.exception(WAIT_S)  # type: ignore[no-any-return]
    except TimeoutError:
        return TimeoutError(f"{future.id} has no outcome")


def teach(five: Five, plant: Plant) -> None:
    """One call of a family fails, on each node where it does."""
    where = sorted(plant.where) if plant.where != EVERYWHERE else ["fir"]
    if plant.family == "rate-limit":
        Service.opens = time.monotonic() + OUTAGE_S
    client = five.clients["ash"]
    for name in where:
        pinned = {} if plant.where == EVERYWHERE else {"labels": [f"node:{name}"]}
        future = client.submit(plant.call, "teach", 0, **plant.options, **pinned)
        if plant.family in ("rate-limit", "timeout"):
            until(lambda: five.counts("teach").get(plant.family, Counter())["begun"], 30, "the first call")
            time.sleep(0.6)
        else:
            _ended(future)


def work(five: Five, plant: Plant) -> int:
    """All nodes submit calls of a family; how many in all."""
    futures = [
        client.submit(plant.call, *(("teach", 0) if plant.same else ("work", number)), **plant.options)
        for number in range(plant.calls) for client in five.clients.values()
    ]  # fmt: skip
    for future in futures:
        _ended(future)
    return len(futures)


def check(five: Five, plant: Plant, each: int) -> tuple[int, int]:
    """Calls for single nodes where nothing is wrong with them: how many there were, and how many were kept away."""
    where = EVERYWHERE if plant.healed else EVERYWHERE - plant.where
    futures = [
        client.submit(plant.call, "check", number, **plant.options, labels=[f"node:{name}"])
        for name in sorted(where) for client in five.clients.values() for number in range(each)
    ]  # fmt: skip
    away = sum(_ended(future) is not None for future in futures)
    return len(futures), away


def run(mode: str, plants: tuple[Plant, ...] = PLANTS) -> dict[str, Outcome]:
    """All families, in one mode."""
    found: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory(prefix="swarm-lessons-") as made, service() as port:
        five = Five(Path(made), mode, port)
        try:
            for plant in plants:
                if sys.stderr.isatty():
                    print(f"{mode}: {plant.family}", file=sys.stderr)
                teach(five, plant)
                if mode == "obey":
                    five.known_everywhere(plant.family)
                before = five.counts("teach")[plant.family]
                found[plant.family] = Outcome(submitted=work(five, plant))
                if plant.same:
                    after = five.counts("teach")[plant.family]
                    found[plant.family].began = after["begun"] - before["begun"]
            for plant in HEALTHY:
                _ended(five.clients["elm"].submit(plant.call, "teach", -1))
                found[plant.family] = Outcome(submitted=work(five, plant))
            if mode == "obey":
                for plant in (*plants, *HEALTHY):
                    outcome = found[plant.family]
                    outcome.asked, outcome.refused = check(five, plant, 4)
            counts = five.counts("work")
            for family, outcome in found.items():
                one = counts.get(family, Counter())
                outcome.began, outcome.well = outcome.began + one["begun"], one["well"]
                outcome.failed = outcome.began - outcome.well
            if os.environ.get("LESSONS_SHOWN"):
                for key, lesson in five.lessons("ash").items():
                    print(key[:8], lesson["family"], lesson["ties"], lesson["cause"], lesson["advice"])
        finally:
            five.close()
    return found


# --- how fast ---------------------------------------------------------------------------------------------------------


def spread_ms(lessons: int = SPREAD_LESSONS) -> list[float]:
    """From a failed attempt to the last of five nodes that knows the lesson, in milliseconds, of so many, sorted."""
    arrived: dict[str, dict[str, float]] = {name: {} for name in NAMES}
    with tempfile.TemporaryDirectory(prefix="swarm-lessons-") as made, service() as port:
        root = Path(made)
        five = Five(root, "advise", port)
        watches = {name: client.knowledge.watch("lessons") for name, client in five.clients.items()}
        over = threading.Event()

        def follow(name: str) -> None:
            while not over.is_set():
                for change in watches[name].read(0.5):
                    arrived[name].setdefault(change.key, time.time())

        try:
            with ThreadPoolExecutor(len(NAMES)) as threads:
                following = [threads.submit(follow, name) for name in NAMES]
                try:
                    for number in range(lessons):
                        client = five.clients[NAMES[number % len(NAMES)]]
                        _ended(client.submit(_lacking(number), number, labels=["node:oak"]))
                    until(lambda: min(len(each) for each in arrived.values()) >= lessons, 20, "all lessons")
                finally:
                    over.set()
                for each in following:
                    each.result()
            began = {
                int(parts[3]): float(parts[5])
                for parts in map(str.split, five.marks.read_text().splitlines()) if parts[1] == "spread"
            }  # fmt: skip
            of = {key: lesson["subject"] for key, lesson in five.lessons("ash").items()}
        finally:
            five.close()
    numbers = {key: int(subject.rpartition("_")[2]) for key, subject in of.items()}
    return sorted(1000 * (max(arrived[name][key] for name in NAMES) - began[number]) for key, number in numbers.items())


def _lacking(module: int) -> Callable[[int], None]:
    """A callable that needs a module of its own that nobody has."""

    def lacks(number: int) -> None:
        import importlib

        faults._mark("begun", "spread", "work", number)
        importlib.import_module(f"planted_{number}")

    lacks.__qualname__ = lacks.__name__ = f"lacks_{module}"
    return lacks


def lines(modes: dict[str, dict[str, Outcome]]) -> Iterator[str]:
    """What was found, for people."""
    without, obeyed = modes["off"], modes["obey"]
    yield "five real nodes, twelve planted families        attempts that failed, of those begun after the first"
    yield f"  {'family':<20} {'calls':>6} {'without lessons':>20} {'with':>14} {'kept away wrongly':>20}"
    total = Counter[str]()
    for family, one in without.items():
        other = obeyed[family]
        yield (
            f"  {family:<20} {one.submitted:>6} {one.failed:>9} of {one.began:>7} {other.failed:>5} of {other.began:>5}"
            f" {other.refused:>10} of {other.asked:>5}"
        )
        if family in {plant.family for plant in PLANTS}:
            total.update(failed=one.failed, repeats=other.failed)
        total.update(asked=other.asked, refused=other.refused, lost=other.submitted - other.well)
    yield (
        f"  of {total['failed']} repeats without lessons {total['repeats']} are left: {100 * total['repeats'] / max(total['failed'], 1):.2f} in 100;"
        f" kept away wrongly: {100 * total['refused'] / max(total['asked'], 1):.2f} in 100"
    )


def probed() -> None:
    """So many calls of two families that lessons are probed meanwhile, which fails each time: print what that costs."""
    plants = tuple(replace(plant, calls=MANY_CALLS) for plant in PLANTS[:2])
    failed = {mode: sum(run(mode, plants)[plant.family].failed for plant in plants) for mode in ("off", "obey")}
    print(
        f"  {len(plants) * MANY_CALLS * len(NAMES)} calls more of two of them, so that lessons are probed: {failed['off']} failed without lessons, "
        f"{failed['obey']} with: {100 * failed['obey'] / max(failed['off'], 1):.2f} in 100"
    )


def report() -> None:
    """Run all of it and print it."""
    modes = {mode: run(mode) for mode in ("off", "obey")}
    for line in lines(modes):
        print(line)
    probed()
    times = spread_ms()
    p99 = times[min(len(times) - 1, int(0.99 * len(times)))]
    print(
        f"  a lesson from the failed attempt to all five nodes: p50 {statistics.median(times):.0f} ms, p99 {p99:.0f} ms ({len(times)} lessons)"
    )


if __name__ == "__main__":
    report()
