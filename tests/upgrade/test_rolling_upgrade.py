"""A fleet is upgraded one node at a time with work in flight, by two builds of this software, and one node goes back."""

from __future__ import annotations

import base64
import json
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import swarm
from nodes.releases import text_of
from swarm.client.sync import Fleet
from swarm.exit_codes import ExitCode
from tests.e2e.fleets import until
from tests.upgrade.builds import MixedNodes, build

NAMES = ("oak", "elm", "fir")
MAJOR, MINOR = (int(part) for part in swarm.__version__.split(".")[:2])
NEXT, FAR = (f"{MAJOR}.{MINOR + more}.0" for more in (1, 2))
LATER_RECORD = b"a record of a later release"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """This release, the next minor one, and the one after that."""
    root = tmp_path_factory.mktemp("builds")
    return {
        "old": build(root, swarm.__version__, changed=False),
        "new": build(root, NEXT, changed=True),
        "far": build(root, FAR, changed=True),
    }


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[MixedNodes]:
    made = MixedNodes(tmp_path)
    yield made
    made.stop_all()


def once(index: int, for_s: float) -> tuple[int, str]:
    """What it returns differs from attempt to attempt."""
    time.sleep(for_s)
    return index, uuid.uuid4().hex


class Work(threading.Thread):
    """Submits durable tasks all the time, some of them long, until it is told to stop."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(name="work")
        self.fleet = fleet
        self.futures: list[Any] = []
        self.failure: BaseException | None = None
        self._enough = threading.Event()

    def run(self) -> None:
        """Submit."""
        try:
            while not self._enough.wait(0.15):
                index = len(self.futures)
                for_s = 3.0 if index % 10 == 0 else 0.02
                self.futures.append(self.fleet.submit(once, index, for_s, durability="fleet"))
        except BaseException as error:
            self.failure = error

    def stop(self) -> None:
        """All is submitted."""
        self._enough.set()
        self.join(60)
        assert not self.is_alive() and self.failure is None, self.failure


def status_of(nodes: MixedNodes, name: str) -> dict[str, Any]:
    with nodes.connect(name) as fleet:
        return fleet.query("status")


def formed(nodes: MixedNodes, name: str) -> None:
    """The log of a node is kept by all three, and the node leads it."""

    def whole() -> bool:
        groups = status_of(nodes, name)["ledger"]["groups"]
        own = next((one for one in groups if one["own"]), {})
        return len(own.get("voters", ())) == 3 and bool(own["leads"]) and not own["absent"]

    until(whole, 90, nodes.log(name))


def replace(nodes: MixedNodes, name: str, place: Path, asked: Path) -> None:
    """One node gives way to one of another release with the same home, as the how-to has it."""
    said = nodes.of(asked, "node", "drain", name, "--json", node=name, timeout_s=120)
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["left"] == [], said.stdout
    assert nodes.stop(name) == 0, nodes.log(name)
    nodes.builds[name] = place
    nodes.start(name)
    formed(nodes, name)


def versions(nodes: MixedNodes, name: str) -> dict[str, str]:
    """What a node says of the members' releases."""
    return {each["name"]: each["version"] for each in status_of(nodes, name)["members"] if each["state"] == "alive"}


def unknown_messages(nodes: MixedNodes, name: str) -> float:
    """How many messages a node got of kinds that it does not know."""
    with urllib.request.urlopen(f"{status_of(nodes, name)['node']['http']}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("swarm_messages_unknown_total"))


def exported(nodes: MixedNodes, place: Path, name: str) -> bytes:
    """All that a stopped node's journal has, by the command of a build."""
    done = nodes.of(place, "journal", "export", "--name", name)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return b"".join(base64.b64decode(line["data"] if "data" in line else line["snapshot"]["data"]) for line in lines)


def test_one_node_after_the_other_and_one_of_them_back(nodes: MixedNodes, builds: dict[str, Path]) -> None:
    old, new = builds["old"], builds["new"]
    assert f"swarm {NEXT} " in nodes.of(new, "version").stdout
    assert f"swarm {swarm.__version__} " in nodes.of(old, "version").stdout
    for name in NAMES:
        nodes.builds[name] = old
        nodes.start(name)
    for name in NAMES:
        formed(nodes, name)
    this, later = text_of(MAJOR * 256 + MINOR), text_of(MAJOR * 256 + MINOR + 1)
    assert versions(nodes, "elm") == dict.fromkeys(NAMES, this) and status_of(nodes, "elm")["releases"] == ""
    with nodes.connect("oak") as fleet:
        work = Work(fleet)
        work.start()
        for number, name in enumerate(NAMES):
            replace(nodes, name, new, old)
            assert not work.failure, work.failure
            expected = {each: later if each in NAMES[: number + 1] else this for each in NAMES}
            for asked in NAMES:
                until(lambda asked=asked, expected=expected: versions(nodes, asked) == expected, 60)
            mixed = status_of(nodes, "fir")["releases"]
            assert mixed == ("" if number == 2 else mixed) and (number == 2 or "an upgrade is under way" in mixed)
            shown = nodes.of(new if number % 2 else old, "status", node="fir").stdout
            assert ("under way" in shown) == (number < 2), shown
            if number == 0:
                # A command of the next release at a node of this one, and the other way round.
                assert (
                    nodes.of(new, "run", "--durability", "fleet", "--", "echo", "hello", node="elm").stdout == "hello\n"
                )
                assert (
                    nodes.of(old, "run", "--durability", "fleet", "--", "echo", "hello", node="oak").stdout == "hello\n"
                )
                until(lambda: unknown_messages(nodes, "elm") > 0, 60, "a message of a kind that is not known came")
        # The way back, with what the next release has written in between.
        replace(nodes, "fir", old, new)
        until(lambda: "under way" in status_of(nodes, "oak")["releases"], 60)
        time.sleep(1.0)
        work.stop()
        found = [future.result(120) for future in work.futures]
        receipts = [future.receipt.result(1) for future in work.futures]
    assert [index for index, _ in found] == list(range(len(found))) and len(found) > 50
    assert min((receipt.copies, receipt.hosts) for receipt in receipts) >= (2, 2)
    ids = [future.id for future in work.futures]
    for name in NAMES:  # one outcome a task, and all nodes tell the same
        with nodes.connect(name) as fleet:
            assert [tuple(fleet.attach(id).result(60)) for id in ids] == [tuple(each) for each in found], name
    assert nodes.stop("fir") == 0
    assert LATER_RECORD in exported(nodes, old, "fir"), "what is not known is kept"
    verified = nodes.of(old, "journal", "verify", "--name", "fir")
    assert verified.returncode == 0, verified.stdout


def image(root: Path) -> dict[str, bytes]:
    """What a node has on disk."""
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file() and path.name != "lock"}


def test_releases_too_far_apart_are_refused_before_anything_is_written(
    nodes: MixedNodes, builds: dict[str, Path]
) -> None:
    old, new, far = builds["old"], builds["new"], builds["far"]
    nodes.builds["oak"] = old
    nodes.start("oak")
    with nodes.connect("oak") as fleet:
        future: Future[Any] = fleet.submit(once, 7, 0.0, durability="node")
        outcome = future.result(60)
        task = future.id
    assert nodes.stop("oak") == 0
    directory = nodes.home.node_dir("oak")
    before = image(directory)
    refused = nodes.of(far, "node", "--name", "oak")
    assert refused.returncode == ExitCode.SYSTEM and swarm.__version__ in refused.stderr, refused
    assert f"{MAJOR}.{MINOR + 1}" in refused.stderr, "it says which release comes in between"
    assert image(directory) == before
    # One after the other it goes, and then not back in one step.
    for place in (new, far):
        nodes.builds["oak"] = place
        nodes.start("oak")
        with nodes.connect("oak") as fleet:
            assert fleet.attach(task).result(60) == outcome
        assert nodes.stop("oak") == 0
    before = image(directory)
    refused = nodes.of(old, "node", "--name", "oak")
    assert refused.returncode == ExitCode.SYSTEM and FAR in refused.stderr, refused
    assert image(directory) == before
    # A new node that is too far from the others is a member, and everybody is told.
    nodes.start("oak")
    nodes.builds["ash"] = old
    nodes.start("ash")
    for name in ("oak", "ash"):
        until(lambda name=name: "too far apart" in status_of(nodes, name)["releases"], 60, nodes.log(name))
        until(lambda name=name: "member.far" in nodes.log(name), 60, nodes.log(name))
