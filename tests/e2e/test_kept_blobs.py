"""Large arguments, results and files of durable tasks: on two disks before anybody is told, and there when hosts are not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm.client.sync import Fleet
from swarm.errors import TaskRefused
from tests.e2e.fleets import Nodes
from tests.e2e.test_durable_nodes import NAMES, formed, group_of, groups, until

MIB = 1 << 20


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path / "home", settings={"SWARM_HTTP_ENABLED": "false"})
    yield made
    made.stop_all()


def start(nodes: Nodes, *names: str) -> None:
    """Each is a machine of its own, and can be asked for by its name."""
    for name in names:
        nodes.start(name, "--workers", "1", "--ledger-zone", f"zone-{name}", "--label", name)


def kept(nodes: Nodes, name: str) -> dict[str, int]:
    """What a node keeps beside its logs."""
    with nodes.connect(name) as fleet:
        return dict(fleet.query("status")["kept"])


def files(nodes: Nodes, name: str) -> list[Path]:
    return sorted(nodes.home.node_dir(name).joinpath("kept").iterdir())


def value(fleet: Fleet, text: str) -> Any:
    return fleet.attach(text).result(timeout=60)


def test_a_large_argument_and_its_large_result_outlive_the_node_that_took_and_ran_it(nodes: Nodes) -> None:
    start(nodes, *NAMES)
    formed(nodes)
    given = os.urandom(5_000_000)
    with nodes.connect("ash") as fleet:
        busy = fleet.submit(time.sleep, 600, durability="fleet", labels=["oak"])
        waits = fleet.submit(bytes.upper, given, durability="fleet", labels=["oak"])
        future = fleet.submit(bytes.upper, given, durability="fleet", labels=["ash"])
        for each in (future, waits):
            receipt = each.receipt.result(timeout=60)
            assert receipt.copies >= 2 and receipt.hosts >= 2
        assert future.result(timeout=60) == given.upper()
        done, later, first = future.id, waits.id, busy.id
        fleet.detach()
    nodes.kill("ash")
    for name in ("elm", "oak"):
        with nodes.connect(name) as fleet:
            assert value(fleet, done) == given.upper()
    with nodes.connect("elm") as fleet:
        fleet.attach(first).cancel()
        assert value(fleet, later) == given.upper(), "its argument came from those who keep it"


def test_what_another_node_returned_is_kept_by_those_who_keep_the_log(nodes: Nodes) -> None:
    names = (*NAMES, "fir")
    start(nodes, *names)
    for name in names:
        until(lambda name=name: len(group_of(nodes, name, name).get("voters", ())) == 3)
    voters = group_of(nodes, "ash", "ash")["voters"]
    stranger = next(name for name in names if name not in voters)
    with nodes.connect("ash") as fleet:
        future = fleet.submit(bytes, 4_000_000, durability="fleet", labels=[stranger])
        command = fleet.submit_command(
            ["sh", "-c", "head -c 3000000 /dev/zero > left"], files_out=["left"], durability="fleet", labels=[stranger]
        )
        assert future.result(timeout=60) == bytes(4_000_000)
        assert command.result(timeout=60)["exit"] == 0
        texts = future.id, command.id
    nodes.kill(stranger)
    nodes.kill("ash")
    with nodes.connect(next(name for name in voters if name != "ash")) as fleet:
        assert value(fleet, texts[0]) == bytes(4_000_000)
        ((name, blob, size, _),) = value(fleet, texts[1])["out"]
        assert (name, size) == ("left", 3_000_000) and fleet.fetch_file(blob, size) == bytes(3_000_000)


def test_files_that_were_damaged_or_removed_while_a_node_was_down_are_had_again(nodes: Nodes) -> None:
    start(nodes, *NAMES)
    formed(nodes)
    with nodes.connect("ash") as fleet:
        texts = [fleet.submit(bytes, 2_000_000 + n, durability="fleet", labels=["ash"]) for n in range(3)]
        assert [len(each.result(timeout=60)) for each in texts] == [2_000_000, 2_000_001, 2_000_002]
        ids = [each.id for each in texts]
    until(lambda: all(len(files(nodes, name)) == 3 for name in NAMES))
    assert nodes.stop("oak") == 0
    first, second, _ = files(nodes, "oak")
    first.unlink()
    with open(second, "r+b") as file:
        file.seek(1_000_000)
        file.write(b"x")
    start(nodes, "oak")
    until(lambda: len(files(nodes, "oak")) == 3 and kept(nodes, "oak")["missing"] == 0)
    with nodes.connect("oak") as fleet:
        assert [len(value(fleet, text)) for text in ids] == [2_000_000, 2_000_001, 2_000_002]
        assert all(value(fleet, text).count(0) == 2_000_000 + n for n, text in enumerate(ids)), (
            "nobody sees what rotted"
        )
    until(lambda: b"x" not in second.read_bytes())


def test_members_that_come_later_fetch_what_their_log_names(nodes: Nodes) -> None:
    start(nodes, "ash")
    until(lambda: group_of(nodes, "ash", "ash").get("leads"))
    with nodes.connect("ash") as fleet:
        future = fleet.submit(bytes, 3_000_000, durability="fleet")
        receipt = future.receipt.result(timeout=60)
        assert (receipt.copies, receipt.hosts) == (1, 1)
        assert future.result(timeout=60) == bytes(3_000_000)
        text = future.id
    start(nodes, "oak", "elm")
    formed(nodes)
    until(lambda: all(kept(nodes, name)["bytes"] == 3_000_000 for name in NAMES))
    nodes.kill("ash")
    with nodes.connect("elm") as fleet:
        assert value(fleet, text) == bytes(3_000_000)


def test_who_takes_the_place_of_a_member_has_its_files_before_it_votes(nodes: Nodes) -> None:
    names = (*NAMES, "fir")
    start(nodes, *names)
    for name in names:
        until(lambda name=name: len(group_of(nodes, name, name).get("voters", ())) == 3)
    voters, home = (group_of(nodes, "ash", "ash")[key] for key in ("voters", "home"))
    successor = next(name for name in names if name not in voters)
    with nodes.connect("ash") as fleet:
        future = fleet.submit(bytes, 3_000_000, durability="fleet", labels=["ash"])
        assert future.result(timeout=60) == bytes(3_000_000)
        text = future.id
    done = nodes.cli("fleet", "remove", "ash", timeout_s=180)
    assert done.returncode == 0, done.stderr
    until(lambda: any(one["home"] == home and successor in one["voters"] for one in groups(nodes, successor)))
    assert [path.stat().st_size for path in files(nodes, successor)] == [3_000_000]
    nodes.stop("ash")
    with nodes.connect(successor) as fleet:
        assert value(fleet, text) == bytes(3_000_000)


def test_what_is_more_than_a_node_keeps_is_refused_and_said_to_be(nodes: Nodes) -> None:
    nodes.env["SWARM_LEDGER_KEPT_BYTES"] = "4MiB"
    start(nodes, "ash")
    until(lambda: group_of(nodes, "ash", "ash").get("leads"))
    with nodes.connect("ash") as fleet:
        assert fleet.submit(len, bytes(2 * MIB), durability="fleet").result(timeout=60) == 2 * MIB
        with pytest.raises(TaskRefused, match="more than this node keeps"):
            fleet.submit(len, bytes(5 * MIB), durability="fleet").result(timeout=60)
        with pytest.raises(TaskRefused, match="more than this node keeps"):
            fleet.submit(bytes, 5 * MIB, durability="fleet").result(timeout=60)
        assert fleet.submit(len, bytes(5 * MIB)).result(timeout=60) == 5 * MIB, (
            "what is not durable needs no room there"
        )
