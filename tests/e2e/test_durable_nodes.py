"""Durable tasks on real nodes: three processes of one home that count as three machines (`--ledger-zone`)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.fleets import Nodes

NAMES = ("ash", "oak", "elm")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path / "home", settings={"SWARM_HTTP_ENABLED": "false"})
    yield made
    made.stop_all()


def begin(nodes: Nodes, names: tuple[str, ...] = NAMES) -> None:
    for name in names:
        nodes.start(name, "--workers", "1", "--ledger-zone", f"zone-{name}")


def until(condition: Callable[[], Any], within_s: float = 60.0) -> Any:
    deadline = time.monotonic() + within_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.1)


def groups(nodes: Nodes, asked: str) -> list[dict[str, Any]]:
    with nodes.connect(asked) as fleet:
        return list(fleet.query("status")["ledger"]["groups"])


def group_of(nodes: Nodes, asked: str, home: str) -> dict[str, Any]:
    return next((one for one in groups(nodes, asked) if one["home_name"] == home), {})


def formed(nodes: Nodes, names: tuple[str, ...] = NAMES) -> None:
    """The log of each is kept by all three."""
    for name in names:
        until(lambda name=name: sorted(group_of(nodes, name, name).get("voters", ())) == sorted(names))


def test_a_node_that_is_killed_loses_nothing_and_any_other_tells_the_outcomes(nodes: Nodes) -> None:
    begin(nodes)
    formed(nodes)
    with nodes.connect("ash") as fleet:
        futures = [fleet.submit(time.sleep, 0.2, durability="fleet") for _ in range(30)]
        receipt = futures[0].receipt.result(timeout=60)
        assert (receipt.copies >= 2, receipt.hosts >= 2) == (True, True)
        for each in futures:
            each.receipt.result(timeout=60)
        ids = [each.id for each in futures]
        nodes.kill("ash")
        assert [each.result(timeout=90) for each in futures] == [None] * 30
    with nodes.connect("elm") as later:
        assert [later.attach(each).result(timeout=60) for each in ids] == [None] * 30
    leads = until(lambda: [name for name in ("oak", "elm") if group_of(nodes, name, "ash").get("leads")])
    assert len(leads) == 1
    nodes.start("ash", "--workers", "1", "--ledger-zone", "zone-ash")
    until(lambda: group_of(nodes, "ash", "ash").get("leads"))
    with nodes.connect("ash") as again:
        assert again.attach(ids[0]).result(timeout=60) is None


def test_a_receipt_covers_files_and_buffers(nodes: Nodes, tmp_path: Path) -> None:
    begin(nodes)
    formed(nodes)
    text = tmp_path / "text"
    text.write_bytes(b"line\n" * 30_000)
    with nodes.connect("ash") as fleet:
        busy = [fleet.submit(time.sleep, 1.0, durability="fleet") for _ in range(6)]
        buffer = bytes(range(256)) * 2_000
        counted = [fleet.submit(len, buffer, durability="fleet") for _ in range(8)]
        command = fleet.submit_command(["wc", "-c", "text"], files_in=[("text", text)], durability="fleet")
        for each in (*busy, *counted, command):
            each.receipt.result(timeout=60)
        ids = [each.id for each in counted]
        nodes.kill("ash")
        assert [each.result(timeout=90) for each in counted] == [512_000] * 8
        assert command.result(timeout=90)["exit"] == 0
    with nodes.connect("elm") as later:
        assert [later.attach(each).result(timeout=60) for each in ids] == [512_000] * 8


def test_what_is_drained_hands_its_log_over_and_what_is_removed_its_copies(nodes: Nodes) -> None:
    begin(nodes)
    formed(nodes)
    with nodes.connect("ash") as fleet:
        future = fleet.submit(pow, 2, 10, durability="fleet")
        assert future.result(timeout=60) == 1024
        text = future.id
    said = json.loads(nodes.cli("node", "drain", "ash", "--json").stdout)
    assert said["handed_over"] and said["left"] == [] and said["running"] == 0
    assert not group_of(nodes, "ash", "ash")["leads"]
    assert b"any one of them may fail" in nodes.cli("status").stdout
    until(lambda: any(group_of(nodes, name, "ash").get("leads") for name in ("oak", "elm")))
    with nodes.connect("oak") as later:
        assert later.attach(text).result(timeout=60) == 1024
    assert nodes.cli("node", "drain", "nobody").returncode == 6


def test_what_is_removed_has_handed_over_its_copies_first(nodes: Nodes) -> None:
    names = (*NAMES, "fir")
    begin(nodes, names)
    for name in names:
        until(lambda name=name: len(group_of(nodes, name, name).get("voters", ())) == 3)
    with nodes.connect("ash") as fleet:
        future = fleet.submit(pow, 2, 10, durability="fleet")
        assert future.result(timeout=60) == 1024
        text = future.id
    done = nodes.cli("fleet", "remove", "ash", timeout_s=180)
    assert done.returncode == 0, done.stderr
    nodes.stop("ash")
    for name in names[1:]:
        voters = until(
            lambda name=name: (found := group_of(nodes, name, name).get("voters", ())) and "ash" not in found and found
        )
        assert len(voters) == 3
    with nodes.connect("oak") as later:
        assert later.attach(text).result(timeout=60) == 1024


def test_a_majority_lost_for_good_is_recovered_from_with_the_loss_accepted(nodes: Nodes) -> None:
    begin(nodes)
    formed(nodes)
    with nodes.connect("ash") as fleet:
        futures = fleet.map(pow, range(100), [2] * 100, durability="fleet")
        assert list(futures) == [each**2 for each in range(100)]
        one = fleet.submit(pow, 3, 3, durability="fleet")
        assert one.result(timeout=60) == 27
        text = one.id
    for name in ("ash", "oak"):
        nodes.kill(name)
    refused = nodes.cli("fleet", "recover", "ash")
    assert refused.returncode == 2 and b"--accept-loss" in refused.stderr
    said = until(
        lambda: (
            (done := nodes.cli("fleet", "recover", "ash", "--accept-loss", "--json")).returncode == 0
            and json.loads(done.stdout)
        )
    )
    assert len(said["gone"]) == 2 and said["batches"] >= 1
    with nodes.connect("elm") as later:
        assert later.attach(text).result(timeout=60) == 27


def slow_square(x: int) -> int:
    time.sleep(0.2)
    return x * x


def test_three_hosts_keep_what_nobody_said_anything_of_and_two_do_not(nodes: Nodes) -> None:
    begin(nodes, ("ash", "oak"))
    with nodes.connect("ash") as fleet:
        assert fleet.durability == "none", "two could not go on without one of them"
        assert fleet.submit(slow_square, 3, timeout_s=30).receipt.result(60).copies == 0
    begin(nodes, ("elm",))
    formed(nodes)
    with nodes.connect("ash") as fleet:
        assert fleet.durability == "fleet"
        kept = [fleet.submit(slow_square, x, timeout_s=30) for x in range(20)]
        receipt = kept[0].receipt.result(60)
        assert receipt.copies >= 2 and receipt.hosts >= 2
        fleet.detach()
    batches = {future.batch_id for future in kept}
    nodes.kill("ash")
    with nodes.connect("oak") as fleet:
        assert fleet.query("task", task=kept[7].id)["id"] == kept[7].id, "nobody leads its log, but it is not gone"
        found: set[int] = set()
        for batch in batches:
            found.update(fleet.attach(batch).result(60))
    assert found == {x * x for x in range(20)}


def test_what_nobody_asked_to_be_kept_is_run_when_two_of_three_are_gone(nodes: Nodes) -> None:
    begin(nodes)
    formed(nodes)
    with nodes.connect("ash") as fleet:
        assert fleet.durability == "fleet"
        nodes.kill("oak")
        nodes.kill("elm")
        time.sleep(2)
        future = fleet.submit(slow_square, 7, timeout_s=30)
        assert future.result(60) == 49
        assert future.receipt.result(60).copies == 0
