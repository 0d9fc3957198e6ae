"""Populations on a fleet of real nodes: submitted, moved, spread, and gone on with after kill -9; always the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

import swarm
from swarm import nano
from swarm.client.sync import Fleet
from swarm.nano.fleet import RESTARTS_MAX
from tests.e2e.fleets import ROOT, Nodes, until
from tests.unit.nano import kinds_to_save, kinds_to_spread
from tests.unit.nano import test_bridge as bridged
from tests.unit.nano.kinds_to_spread import population
from tests.unit.nano.test_partition import content

END_S = 0.01
LONG_S = 3.0
"""Of a population whose run takes so long that something can happen meanwhile."""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path_factory.mktemp("p"))
    for name in ("oak", "elm", "ash"):
        nodes.start(name, "--workers", "2")
    yield nodes
    assert set(nodes.stop_all().values()) == {0}


def all_there(fleet: Fleet, count: int = 3) -> None:
    until(lambda: sum(each["state"] == "alive" for each in fleet.members()) == count, 60, "the members")


@pytest.fixture(scope="module")
def fleet(nodes: Nodes) -> Iterator[Fleet]:
    with nodes.connect("oak") as fleet:
        all_there(fleet)
        yield fleet


@pytest.fixture(scope="module")
def alone() -> nano.NanoSwarm:
    """What comes of it in one process."""
    flock = population()
    flock.run_for(seconds=END_S)
    return flock


def slow(seconds_a_pass: float = 0.01, mark: int = 0) -> nano.NanoSwarm:
    """A population that takes a while: its passes are slow, and few."""
    flock = nano.NanoSwarm(seed=8)
    agents = flock.spawn(kinds_to_spread.Slow, 12, rate_hz=100)
    agents.pause_s[:1] = seconds_a_pass
    agents.mark[:1] = mark
    flock.spawn(kinds_to_spread.Singer, 3, rate_hz=100)
    return flock


def test_submitted_it_runs_elsewhere_and_comes_back(fleet, alone):
    said: list[dict[str, object]] = []
    run = nano.submit(fleet, population(), seconds=END_S, on="elm", progress=said.append)
    report = run.result(60)
    assert content(report.blob) == content(alone.save())
    assert report.nodes == ("elm",)
    assert (report.passes, report.now_ns) == (alone.passes.made, alone.now_ns)
    assert report.ticks == sum(alone.passes.statistics(n)["ticks"] for n in range(4))
    assert said[-1]["passes"] == report.passes
    assert report.load().agents == alone.agents
    json.dumps(report.to_dict())


def test_so_many_passes(fleet):
    flock = population()
    flock.run_for(passes=7)
    report = nano.submit(fleet, flock.save(), passes=50).result(60)
    flock.run_for(passes=50)
    assert content(report.blob) == content(flock.save())


@pytest.mark.parametrize(("parts", "by"), [(2, "kinds"), (3, "kinds"), (2, "rows"), (3, "rows")])
def test_spread_it_is_the_same(fleet, alone, parts, by):
    report = nano.submit(fleet, population(), seconds=END_S, nodes=parts, by=by).result(120)
    assert content(report.blob) == content(alone.save())
    assert len(report.nodes) == parts
    assert report.lines > 100


def test_it_moves_while_it_runs(fleet):
    flock = slow()
    run = nano.submit(fleet, flock, seconds=LONG_S, on="oak")
    until(lambda: run.progress["passes"] > 10, 60, "progress")
    assert run.move("ash") == ("ash",) == run.nodes
    taken = nano.load(run.save())
    report = run.result(90)
    assert [stint.node for stint in report.stints] == ["oak", "ash"]
    assert all(stint.passes > 0 for stint in report.stints)
    assert report.moves == 1
    flock.run_for(seconds=LONG_S)
    assert content(report.blob) == content(flock.save())
    taken.run_for(ns=flock.now_ns - taken.now_ns)
    assert content(taken.save()) == content(flock.save()), "what was saved on the way leads to the same"
    with pytest.raises(nano.NanoError, match="ended"):
        run.move("elm", timeout=10)


def test_a_spread_one_moves_too(fleet):
    flock = slow()
    run = nano.submit(fleet, flock, seconds=LONG_S, on=["oak", "elm"], by="rows", balance=False)
    until(lambda: run.progress["passes"] > 10, 60, "progress")
    assert run.move(["elm", "ash"]) == ("elm", "ash")
    report = run.result(90)
    flock.run_for(seconds=LONG_S)
    assert content(report.blob) == content(flock.save())


def uneven() -> nano.NanoSwarm:
    """A population the first quarter of which takes nearly all the time, where it runs in the fleet."""
    flock = nano.NanoSwarm(seed=9)
    agents = flock.spawn(kinds_to_spread.Slow, 40, rate_hz=100)
    agents.pause_s[:10] = 0.001
    flock.spawn(kinds_to_spread.Singer, 4, rate_hz=100)
    return flock


def test_agents_go_from_a_part_that_all_wait_for_to_the_others(fleet):
    said: list[dict[str, object]] = []
    run = nano.submit(fleet, uneven(), seconds=6, on=["oak", "elm"], by="rows", progress=said.append)
    report = run.result(120)
    assert report.balanced >= 1 and report.restarts == report.moves == 0
    assert said[-1]["agents"] == 44
    agents = [each.report.cohorts[0].ticks / each.passes for each in report.stints]
    assert agents[0] == agents[1] == 20, "the first stint, in both parts"
    assert 0 < min(agents[-2:]) < 20 < max(agents[-2:]), "the last one"
    flock = uneven()
    flock.cohorts[0].pause_s[:] = 0.0
    flock.run_for(seconds=6)
    flock.cohorts[0].pause_s[:10] = 0.001
    assert content(report.blob) == content(flock.save()), "nobody can tell from the result"


def test_where_a_few_take_all_the_time_it_is_not_cut_for_ever(fleet):
    report = nano.submit(fleet, slow(0.02), seconds=6, on=["oak", "elm"], by="rows").result(120)
    assert report.balanced <= 2


@pytest.mark.parametrize("parts", [1, 2])
def test_a_worker_that_is_killed_costs_what_was_not_saved(fleet, parts):
    mark = int(time.monotonic() * 1000) % (1 << 31) + 1
    flock = slow(mark=mark)
    run = nano.submit(fleet, flock, seconds=LONG_S, nodes=parts, by="rows", save_every_s=0.2, balance=False)
    until(lambda: run.progress["passes"] > 50, 60, "progress")
    left = list(kinds_to_spread.marker().glob(f"{mark}-*"))
    assert len(left) == 1, "one worker ticks it"
    os.kill(int(left[0].name.partition("-")[2]), signal.SIGKILL)
    report = run.result(120)
    assert report.restarts == 1
    flock.cohorts[0].mark[:] = 0
    flock.run_for(seconds=LONG_S)
    flock.cohorts[0].mark[:1] = mark
    for each in kinds_to_spread.marker().glob(f"{mark}-*"):
        each.unlink()
    assert content(report.blob) == content(flock.save())


def test_a_node_that_is_killed_costs_what_was_not_saved(tmp_path):
    nodes = Nodes(tmp_path)
    try:
        for name in ("oak", "elm", "ash"):
            nodes.start(name, "--workers", "2")
        with nodes.connect("oak") as fleet:
            all_there(fleet)
            flock = slow()
            run = nano.submit(
                fleet, flock, seconds=LONG_S, on=["elm", "ash"], by="rows", save_every_s=0.2, balance=False
            )
            until(lambda: run.progress["passes"] > 50, 60, "progress")
            nodes.kill("elm")
            with pytest.raises(swarm.SwarmError, match="elm"):
                run.move(["elm", "ash"])  # whether it is known to be gone yet, or not
            report = run.result(120)
            assert report.restarts == 1
            assert "elm" not in run.nodes
            assert report.nodes[:2] == ("elm", "ash"), "what was saved before counts"
            flock.run_for(seconds=LONG_S)
            assert content(report.blob) == content(flock.save())
    finally:
        nodes.stop_all()


def test_what_crashes_each_time_is_given_up(fleet):
    flock = nano.NanoSwarm()
    flock.spawn(kinds_to_spread.Deadly, 1, rate_hz=100)
    with pytest.raises(swarm.TaskError, match=f"lost {RESTARTS_MAX + 1} times after the same pass") as failed:
        nano.submit(fleet, flock, seconds=1).result(120)
    assert failed.value.hint


def test_stop_ends_it_with_what_there_is_and_cancel_without(fleet):
    run = nano.submit(fleet, slow(), seconds=1e6)
    until(lambda: run.progress["passes"] > 3, 60, "progress")
    run.stop()
    report = run.result(60)
    assert report.stopped
    assert 3 < report.passes < 10_000
    run = nano.submit(fleet, slow(), seconds=1e6)
    until(lambda: run.progress["passes"] > 3, 60, "progress")
    assert run.cancel()
    assert run.cancelled()
    until(lambda: all(each["busy"] == 0 for each in fleet.members()), 60, "the workers are free again")


def test_real_time_runs_in_real_time_and_moves(fleet):
    flock = population(time="real")
    began = time.monotonic()
    run = nano.submit(fleet, flock, seconds=4, on="elm")
    until(lambda: run.progress["passes"] > 0, 60, "progress")
    run.move("oak")
    report = run.result(60)
    assert report.now_ns == 4_000_000_000
    assert time.monotonic() - began >= 3.5
    assert {stint.node for stint in report.stints} == {"elm", "oak"}


def test_in_real_time_parts_run_by_themselves_and_hear_one_another(fleet):
    flock = bridged.swarm_of(bridged.Asks, 5)
    flock.spawn(bridged.Answers, 1, rate_hz=500)
    run = nano.submit(fleet, flock, seconds=4, on=["elm", "ash"], by={"Asks": 0, "Answers": 1}, save_every_s=0.5)
    until(lambda: run.progress["passes"] > 100, 60, "progress")
    taken = nano.load(run.save())
    assert taken.agents == 6
    assert run.move(["oak", "elm"]) == ("oak", "elm")
    report = run.result(60)
    asks, answers = report.load().cohorts
    assert sum(asks.asked) > 1000
    assert answers[0].heard > 100
    assert sum(asks.answered) > 100
    assert report.lines >= answers[0].heard
    assert report.now_ns == 4_000_000_000
    assert report.moves == 1


def test_what_cannot_travel_is_refused_by_name(fleet, monkeypatch):
    def forever(agent, bus):
        while True:
            yield

    flock = nano.NanoSwarm()
    flock.spawn(kinds_to_save.Walker.generators(forever), 1, rate_hz=1)
    with pytest.raises(nano.NanoError, match="generators of Walker cannot be saved"):
        nano.submit(fleet, flock, seconds=1)
    nameless = nano.NanoSwarm()
    nameless.spawn(kinds_to_spread.Stone.native_many(kinds_to_spread.TICKS["move_many"]), 1, rate_hz=1)
    with pytest.raises(nano.NanoError, match="native tick of .*Stone has no name"):
        nano.submit(fleet, nameless, seconds=1)
    with pytest.raises(swarm.SwarmError, match="no node 'birch'") as failed:
        nano.submit(fleet, population(), seconds=1, on="birch")
    assert "elm" in failed.value.hint
    for wrong in (
        {"seconds": -1},
        {},
        {"seconds": 1, "passes": 1},
        {"seconds": 1, "save_every_s": 0},
        {"seconds": 1, "retries": 2},
    ):
        with pytest.raises(nano.NanoError):
            nano.submit(fleet, population(), **wrong)


def test_a_kind_that_is_not_there_and_one_with_other_fields_are_told_by_the_node(fleet, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text(
        "from swarm import nano\n"
        "class Snail(nano.Kind, capacity=4):\n"
        "    x: nano.f64\n"
        "    def tick(self, now_ns, bus):\n"
        "        self.x += 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here  # type: ignore[import-not-found]

    snails = nano.NanoSwarm()
    snails.spawn(only_here.Snail, 2, rate_hz=10)
    with pytest.raises(nano.KindNotThere, match="on elm: the kind only_here:Snail is not found") as failed:
        nano.submit(fleet, snails, seconds=1, on="elm", send_modules=False).result(60)
    assert "importable" in failed.value.hint
    assert nano.submit(fleet, snails, seconds=1, on="elm").result(60).ticks == 20
    run = nano.submit(fleet, population(), passes=1, on="elm")
    assert run.result(60).passes == 1
    blob = population().save()
    changed = {
        name: source._replace(text=source.text.replace("    heard: nano.u64", "    heard: nano.u32"))
        for name, source in run._sources.items()
    }
    assert changed != run._sources
    from swarm.nano.part_task import Plan, run_part

    stream = fleet.stream(run_part, Plan(0, 1, 1000, None, None, changed), blob, labels=["node:elm"])
    with pytest.raises(nano.KindNotThere, match=r"hash of its schema is [0-9a-f]{32}, saved was [0-9a-f]{32}"):
        list(stream)


def test_on_the_command_line(nodes, fleet, tmp_path):
    script = tmp_path / "flies.py"
    script.write_text(
        "from swarm import nano\n"
        "class Fly(nano.Kind, capacity=100):\n"
        "    x: nano.f64\n"
        "    def tick(self, now_ns, bus):\n"
        "        self.x += bus.uniform()\n"
        "def population():\n"
        "    flock = nano.NanoSwarm(seed=1)\n"
        "    flock.spawn(Fly, 10, rate_hz=100)\n"
        "    return flock\n"
    )
    saved = tmp_path / "flies.blob"
    done = nodes.cli("nano", "spawn", str(script), "--seconds", "2s", "--on", "ash", "--save", str(saved), "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["nodes"], said["ticks"], said["now_s"]) == (["ash"], 2000, 2.0)
    shown = nodes.cli("nano", "spawn", str(script), "--nodes", "2", "--by", "rows")
    assert shown.returncode == 0, shown.stderr
    assert b"NODE" in shown.stdout
    assert b"runs on" in shown.stderr
    for words, status in (
        ((str(script), "--on", "birch"), 6), ((str(tmp_path / "none.py"),), 2), ((str(script), "--nodes", "0"), 2),
        ((str(script), "--nodes", "5"), 1),
    ):  # fmt: skip
        refused = nodes.cli("nano", "spawn", *words)
        assert refused.returncode == status, refused.stderr
        assert b"hint" in refused.stderr
    env = {**nodes.env, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    go_on = subprocess.run(
        [sys.executable, "-m", "nodes.cli", "nano", "spawn", str(saved), "--seconds", "1s", "--json"],
        env=env, cwd=tmp_path, capture_output=True, timeout=60,
    )  # fmt: skip
    assert go_on.returncode == 0, go_on.stderr
    assert json.loads(go_on.stdout)["now_s"] == 3.0


def test_ctrl_c_saves_what_there_is(nodes, fleet, tmp_path):
    script = tmp_path / "endless.py"
    script.write_text("from tests.e2e.test_nano_fleet import slow\npopulation = slow\n")
    saved = tmp_path / "saved"
    running = subprocess.Popen(
        [sys.executable, "-m", "nodes.cli", "nano", "spawn", str(script), "--seconds", "100000s", "--save", str(saved)],
        env={**nodes.env, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert running.stderr is not None
    assert b"runs on" in running.stderr.readline()
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert b"saved at" in err
    assert nano.load(saved.read_bytes()).agents == 15


def test_a_swarm_here_joins_a_population_there_and_follows_it(fleet):
    asks = bridged.swarm_of(bridged.Asks, 5)
    there = bridged.swarm_of(bridged.Answers)
    with pytest.raises(nano.NanoError, match="no topic 'prices'"):
        nano.submit(fleet, there, seconds=1, bridge=["prices"])
    run = nano.submit(fleet, there, seconds=300, on="elm", bridge=["questions", "answers"])
    with run.bridge(asks) as bridge:
        until(lambda: bridge.joined, 60, "the other side")

        def answered(more_than: int) -> bool:
            asks.run_for(seconds=0.5)
            return sum(asks.cohorts[0].answered) > more_than

        until(lambda: answered(20), 60, "answers")
        run.move("ash")
        until(lambda: bridge.joined, 60, "the other side, elsewhere")
        before = sum(asks.cohorts[0].answered)
        until(lambda: answered(before + 20), 60, "answers from there")
    run.stop()
    report = run.result(60)
    assert {stint.node for stint in report.stints} == {"elm", "ash"}
    assert report.load().cohorts[0][0].heard > 40


def test_what_makes_way_stands_still_between_two_passes_and_real_time_with_it(tmp_path):
    nodes = Nodes(tmp_path / "n", settings={"SWARM_HOLD_S": "30"})
    nodes.start("oak", "--workers", "1")
    with nodes.connect("oak") as fleet:
        flock = nano.NanoSwarm(seed=8, time="real")
        flock.spawn(kinds_to_spread.Singer, 3, rate_hz=100)
        run = nano.submit(fleet, flock, seconds=5, priority=swarm.LOW)
        until(lambda: run.progress["passes"] > 0, 60, "progress")
        began = time.monotonic()
        urgent = fleet.submit(time.sleep, 4, priority=swarm.CRITICAL)
        until(lambda: fleet.query("status")["tasks"]["suspended"] == 1, 60, "it makes way")
        urgent.result(60)
        report = run.result(60)
        assert time.monotonic() - began > 4.0
        assert report.now_ns == 5_000_000_000
        (line,) = report.stints[0].report.cohorts
        assert line.late_ns.quantile(1.0) < 3e9, "the seconds for which it stood are not its own"
    assert set(nodes.stop_all().values()) == {0}
