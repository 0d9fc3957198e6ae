"""Large arguments, results and files between hosts: two homes on one machine, which share no memory with each other."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.blobs import LINGER_S, TIDY_EVERY_S
from swarm.client.sync import Fleet, connect
from swarm.errors import SwarmError
from tests.contract.bulk_sides import CutWire
from tests.e2e.fleets import Nodes, until
from transport.bulk import BulkFailed, Memory
from transport.tls_wires import TlsWires

MIB = 1 << 20

pytestmark = pytest.mark.timeout(240)


class Homes:
    """Node `oak` in one home; in another one, which came in by a token, node `elm` and a user."""

    def __init__(self, root: Path, **settings: str) -> None:
        self.near = Nodes(root / "near", settings=settings)
        self.near.start("oak", "--workers", "1", "--label", "oak")
        token = self.near.cli("fleet", "token", "--uses", "1")
        assert token.returncode == 0, token.stderr
        self.far = Nodes(root / "far")
        joined = self.far.cli("fleet", "join", token.stdout.decode().strip(), "--name", "elm")
        assert joined.returncode == 0, joined.stderr
        self.also: tuple[str, ...] = ()
        self.seeds = (self.far.home.fleet_dir / "seeds").read_text().split()

    def user(self) -> Fleet:
        """A client of the far home that uses oak, over the network."""
        fleet = connect(self.far.home, seeds=self.seeds, timeout_s=60)
        link = fleet._engine.link
        assert link is not None and link.reach == "lan", link
        return fleet

    def stop(self) -> None:
        assert self.far.stop_all() | self.near.stop_all() == dict.fromkeys(("oak", *self.also), 0)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homes]:
    made = Homes(tmp_path_factory.mktemp("b"))
    yield made
    made.stop()


@pytest.fixture
def user(homes: Homes) -> Iterator[Fleet]:
    with homes.user() as fleet:
        yield fleet


def digest(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()


def failures(nodes: Nodes, name: str) -> list[str]:
    return [line for line in nodes.log(name).splitlines() if "bulk.failed" in line or "bulk.refused" in line]


def test_a_result_is_kept_while_its_user_looks_into_it_and_no_longer(homes: Homes, user: Fleet) -> None:
    def made() -> Any:
        return np.full(2 * MIB, 9, dtype="u1")

    def held() -> int:
        value, _ = user._engine.query("status", {})
        return int(value["blob_bytes"])

    # What tests before this one left goes first, should there be any.
    until(lambda: held() < MIB, 60)
    first, second = user.submit(made), user.submit(made)
    assert first.result(60).nbytes == second.result(60).nbytes == 2 * MIB
    time.sleep(LINGER_S + 2 * TIDY_EVERY_S + 1)  # what nobody holds is gone by then
    assert held() >= 4 * MIB
    del first
    until(lambda: held() < 4 * MIB, 60)
    assert held() >= 2 * MIB
    assert user.submit(lambda array: int(array[-1]), second).result(60) == 9


def test_arguments_and_results_of_any_size_cross_hosts(homes: Homes, user: Fleet) -> None:
    for size in (300_000, 40 * MIB + 13):
        data = np.frombuffer(os.urandom(size), dtype="u1")
        assert user.submit(lambda a: hashlib.sha256(a).hexdigest(), data).result(60) == digest(data)
        back = user.submit(lambda a: a[::-1].copy(), data).result(60)
        assert np.array_equal(back, data[::-1])
    assert failures(homes.near, "oak") == []


def test_the_node_goes_on_while_a_large_blob_arrives(homes: Homes, user: Fleet) -> None:
    data = memoryview(bytearray(256 * MIB))
    answers: list[float] = []
    ended = threading.Event()

    def ask() -> None:
        with homes.near.connect("oak") as other:
            while not ended.is_set():
                other._engine.query("status", {})  # answered by the node's loop itself
                answers.append(time.monotonic())

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        until(lambda: answers, 60)
        # A machine that is busy may have no time for one or the other just then: not each time.
        assert any(answered_throughout(user, data, answers) for _ in range(8))
    finally:
        ended.set()
        asking.join(60)


def answered_throughout(user: Fleet, data: memoryview, answers: list[float]) -> bool:
    """Put a blob on the node. Whether many answers came meanwhile, and none was waited for through half of the time."""
    began_s = time.monotonic()
    blob, _ = user._engine.bulk().put(Memory(data))
    ended_s = time.monotonic()
    user._engine.post("segment.release", {"ids": [blob]})
    times = [began_s, *(at for at in list(answers) if began_s <= at <= ended_s), ended_s]
    longest_s, took_s = max(after - before for before, after in zip(times, times[1:])), ended_s - began_s
    print(f"256 MiB in {took_s:.2f} s; {len(times) - 2} answers meanwhile, the longest pause {longest_s * 1e3:.0f} ms")
    return len(times) > 20 and longest_s < took_s / 2


def test_where_only_the_control_port_is_open_blobs_go_by_it(
    homes: Homes, user: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled = []

    def nowhere(self: Any, route: Any) -> Any:
        dialled.append(route)
        raise BulkFailed("unreachable", "a firewall")

    monkeypatch.setattr(TlsWires, "dial", nowhere)
    data = np.frombuffer(os.urandom(3 * MIB + 7), dtype="u1")
    assert np.array_equal(user.submit(lambda a: a.copy(), data).result(60), data)
    assert len(dialled) == 1, "what was found shut is not tried again at once"


def test_a_cut_in_the_middle_is_gone_over(homes: Homes, user: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    real, cuts = TlsWires.dial, [5 * MIB, 20 * MIB]

    def dial(self: Any, route: Any) -> Any:
        return CutWire(real(self, route), cuts.pop(0)) if cuts else real(self, route)

    monkeypatch.setattr(TlsWires, "dial", dial)
    data = np.frombuffer(os.urandom(48 * MIB), dtype="u1")
    assert user.submit(lambda a: hashlib.sha256(a).hexdigest(), data).result(60) == digest(data)
    assert not cuts


def test_files_over_the_old_limit_are_staged(homes: Homes, user: Fleet, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(30 * MIB))
    wanted = digest(path.read_bytes())
    with homes.near.connect("oak") as local:
        for fleet in (user, local):
            ended = fleet.submit_command(
                ["cp", "large", "copy"], files_in=[("large", path)], files_out=["copy"]
            ).result(60)
            assert ended["exit"] == 0
            _, blob, size, _ = ended["out"][0][:4]
            assert digest(fleet.fetch_file(bytes(blob), size)) == wanted


def test_what_is_more_than_a_node_keeps_is_said_so(tmp_path: Path) -> None:
    homes = Homes(tmp_path, SWARM_LIMITS_BLOB_BYTES="8MiB")
    with homes.user() as user:
        with pytest.raises(SwarmError, match="more than this node keeps") as caught:
            user.submit(len, bytes(9 * MIB))
        assert "limits.blob_bytes" in caught.value.hint
        assert user.submit(len, bytes(3 * MIB)).result(60) == 3 * MIB
    homes.stop()


@pytest.fixture
def pair(homes: Homes) -> Iterator[Fleet]:
    """A client of oak on its own host, when elm is a member too. elm keeps 64 MiB, and has one worker."""
    if "elm" not in homes.far.processes:
        homes.far.start("elm", "--workers", "1", "--label", "elm", "--limits-blob-bytes", "64MiB")
        homes.also = ("elm",)
    with homes.near.connect("oak") as fleet:
        until(lambda: sum(one["state"] == "alive" for one in fleet.members()) == 2, 60)
        yield fleet


def wait_for(path: str) -> None:
    """A task that says that it has begun, and holds its slot until a file is there."""
    Path(path + ".began").touch()
    deadline = time.monotonic() + 60
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.02)


def test_what_a_waiting_task_needs_is_there_before_its_turn(homes: Homes, pair: Fleet, tmp_path: Path) -> None:
    on_elm = pair.options(labels=["elm"])

    def look(array: Any) -> tuple[int, int]:
        return int(array[0]), array.nbytes

    # What is known to be quick is sent ahead; the rest waits at its owner.
    assert [one.result(60) for one in [on_elm.submit(look, np.zeros(8, "u1")) for _ in range(50)]] == [(0, 8)] * 50
    first = on_elm.submit(wait_for, str(tmp_path / "go"))
    until((tmp_path / "go.began").exists, 60)
    arrays = [np.full(6 * MIB, n, dtype="u1") for n in range(8)]
    futures = [on_elm.submit(look, array) for array in arrays]
    with homes.far.connect("elm") as elm:

        def held() -> int:
            value, _ = elm._engine.query("status", {})
            return int(value["blob_bytes"])

        # A quarter of what it keeps, and not more: two of these, while no worker has asked for any.
        until(lambda: held() >= 12 * MIB, 60)
        time.sleep(0.5)
        assert held() < 18 * MIB
        assert not first.done()
        (tmp_path / "go").touch()
        assert [future.result(60) for future in futures] == [(n, 6 * MIB) for n in range(8)]
        assert first.result(60) is None


def test_nodes_bring_each_other_what_tasks_need(homes: Homes, pair: Fleet) -> None:
    data = np.frombuffer(os.urandom(30 * MIB + 1), dtype="u1")

    def there(array: Any) -> tuple[str, Any]:
        return os.environ["SWARM_NODE"], array[::-1].copy()

    where, back = pair.options(labels=["elm"]).submit(there, data).result(60)
    assert where == "elm"
    assert np.array_equal(back, data[::-1])
    for nodes, name in ((homes.near, "oak"), (homes.far, "elm")):
        assert failures(nodes, name) == []
