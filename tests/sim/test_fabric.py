"""The task fabric in the simulator: what must hold of tasks under every schedule of faults, and that the checkers see it."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from kernels.batch import OutcomeBuilder
from swarm.protocol.execution import Execution
from swarm.protocol.executor.ending import Ending
from swarm.protocol.executor.waiting import Waiting
from swarm.protocol.messages import Kind
from swarm.protocol.outbound import Tell
from swarm.protocol.owner import admission
from swarm.protocol.owner.admission import Admission
from swarm.protocol.owner.attempts import Attempts
from swarm.protocol.owner.heeding import Heeding
from swarm.protocol.owner.moving import Moving
from swarm.protocol.owner.placing import Placing
from swarm.protocol.ownership import Ownership
from swarm.protocol.resources import Capacity
from swarm.protocol.session import Session
from swarm.protocol.spec import Spec
from swarm.protocol.states import CRASHES_MAX, Status
from tests.sim.fabric import checkers, programs
from tests.sim.fabric.client import SimClient
from tests.sim.fabric.host import Host
from tests.sim.fabric.links import Cables, LinkWeather, PeerIdentity
from tests.sim.fabric.programs import Program
from tests.sim.fabric.scenarios import SCHEDULES, Run, run
from tests.sim.fabric.truth import Truth, value_of
from tests.sim.fabric.world import World
from tests.sim.simulator import Simulator
from transport.links import LinkClosed

SEEDS = 12
"""Of each schedule, in CI: 240 runs. `make sim SEEDS=…` runs more."""
FOUND = [
    # A guest's task was never ended by its timeout; a node that dialled before it was heard of was no executor.
    ("work", 6),
    ("workers", 3),
    # Two links between the same processes, of which one broke: what it lost was not asked for.
    ("links", 14),
    ("storm", 5),
    # A task that depends on one that has ended, which depends on another: the next node knew only the second.
    ("kills", 14),
    # What a worker had in hand for an owner that was lost was queued again.
    ("storm", 7),
    # A cancel of what a full node had refused and was asked again to take.
    ("full", 46),
    # A run for an owner that had taken its node for dead stayed there for ever; a client went to another node and back.
    ("storm", 23),
    ("storm", 9601),
    # Tasks in a class of their own were taken for such as wait for their client's word, and queued twice.
    ("links", 800046),
    # Two live attempts of one number, of two owners, had the same session for what they submitted to one node.
    ("drains", 71016),
    # What may not be repeated, and had not begun when its client was gone for long, ended as CANCELLED when it was back.
    ("apart", 801054),
    # A client gave up what had not begun, and with it what had ended and was being made again for others that waited for it.
    ("relieving", 741021),
    # A task whose attempt failed while it was to leave was moved again at once.
    ("relieving", 742014),
]


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("kind", sorted(SCHEDULES))
def test_a_handful_of_each_fault_schedule(kind: str, seed: int) -> None:
    assert run(kind, seed).events > 0


@pytest.mark.parametrize(("kind", "seed"), FOUND)
def test_seeds_that_found_something_once(kind: str, seed: int) -> None:
    assert run(kind, seed).events > 0


@pytest.mark.parametrize("kind", ["storm", "members"])
def test_one_seed_is_one_run(kind: str) -> None:
    assert run(kind, 3) == run(kind, 3)


# --- links ------------------------------------------------------------------------------------------------------------


class Recorder:
    def __init__(self) -> None:
        self.log: list[Any] = []

    def link_up(self, link: Any) -> None:
        self.log.append("up")

    def link_messages(self, link: Any, messages: list[bytes]) -> None:
        self.log += messages

    def link_down(self, link: Any, reason: str) -> None:
        self.log.append(("down", reason))


class Pair:
    def __init__(self, weather: LinkWeather | None = None) -> None:
        self.sim = Simulator(self)
        self.cables = Cables(self.sim, Random(1), weather or LinkWeather())
        self.hosts = [Host(self.sim, place, 50.0) for place in ("one", "other")]
        self.logs = [Recorder(), Recorder()]
        ends = [
            (h, r, PeerIdentity(b"%16d" % n, "x", "node"), b"boot")
            for n, (h, r) in enumerate(zip(self.hosts, self.logs))
        ]
        self.near, self.far = self.cables.link(ends[0], ends[1])

    def delays(self, source: Any, destination: Any) -> tuple[float, ...]:
        raise AssertionError

    def run(self, for_s: float) -> None:
        self.sim.run(self.sim.now + for_s)


def test_a_link_brings_messages_in_order_and_once_whatever_the_weather() -> None:
    pair = Pair(LinkWeather(0.001, 0.05, loss=0.3))
    pair.run(5.0)
    for number in range(200):
        pair.near.send(b"%d" % number)
        pair.run(0.003)
    pair.run(30.0)
    assert pair.logs[1].log == ["up", *(b"%d" % number for number in range(200))]


def test_what_is_sent_in_one_turn_comes_together_and_a_close_comes_after_it() -> None:
    pair = Pair()
    pair.run(1.0)
    pair.near.send(b"a", b"b")
    pair.near.send(b"c")
    pair.near.close("enough")
    pair.run(1.0)
    assert pair.logs[1].log == ["up", b"ab", b"c", ("down", "disconnected")]
    assert pair.logs[0].log == ["up", ("down", "closed: enough")]
    with pytest.raises(LinkClosed):
        pair.near.send(b"d")


def test_a_cut_of_one_direction_holds_back_and_then_takes_both_sides_down() -> None:
    pair = Pair()
    pair.run(1.0)
    pair.cables.cut("one", "other")
    pair.near.send(b"held back")
    pair.far.send(b"the way back is free")
    pair.run(1.5)
    assert pair.logs[1].log == ["up"]
    assert pair.logs[0].log == ["up", b"the way back is free"]
    pair.cables.mend()
    pair.run(1.0)
    assert pair.logs[1].log == ["up", b"held back"]
    pair.cables.cut("one", "other")
    pair.near.send(b"never comes")
    pair.run(6.0)
    assert pair.logs[1].log[2:] == [("down", "silent")]
    assert pair.logs[0].log[2:] == [("down", "disconnected")]


def test_a_break_loses_what_had_not_come_and_each_side_sees_it_once() -> None:
    lost = 0
    for seed in range(50):
        pair = Pair()
        pair.cables.rng.seed(seed)
        pair.run(1.0)
        pair.near.send(b"on its way")
        pair.near.wire.sever()
        pair.run(6.0)
        assert [entry for entry in pair.logs[1].log if entry != b"on its way"] == ["up", ("down", "disconnected")]
        assert pair.logs[0].log == ["up", ("down", "disconnected")]
        lost += b"on its way" not in pair.logs[1].log
    assert 0 < lost < 50


def test_a_process_that_stands_still_reads_later_and_one_that_is_killed_never() -> None:
    pair = Pair()
    pair.run(1.0)
    pair.hosts[1].pause()
    pair.near.send(b"1")
    pair.run(1.0)
    assert pair.logs[1].log == ["up"]
    pair.hosts[1].resume()
    assert pair.logs[1].log == ["up", b"1"]
    pair.near.send(b"2")
    pair.hosts[1].kill()
    pair.cables.reset(pair.hosts[1])
    pair.run(1.0)
    assert pair.logs[1].log == ["up", b"1"]
    assert pair.logs[0].log[-1] == ("down", "disconnected")


# --- single statements ------------------------------------------------------------------------------------------------


def fleet(count: int = 2, seed: int = 0, slots: float = 2.0) -> World:
    world = World(seed)
    for number in range(count):
        world.start(number, Capacity({"cpu": slots, "memory": 1000.0}))
    world.run(2.0)
    return world


def hand(client: SimClient, what: str, run_s: float, count: int = 1, times: int = 0, **options: Any) -> Any:
    spec = Spec("call", ("name", "m:f", "f"), what, **options)
    return client.submit(spec, [Program(what, run_s, times).encode()] * count)


def report_of(rows: dict[int, Status]) -> bytes:
    builder = OutcomeBuilder()
    for index, status in rows.items():
        builder.add(index, status, 0, b"")
    return builder.take()


def statuses(batch: Any) -> list[int]:
    return [batch.ended[index][0] for index in range(batch.count)]


def test_work_is_shared_by_all_nodes() -> None:
    world = fleet(3)
    client = world.client(0)
    world.run(0.1)
    batch = hand(client, "fine", 0.1, 30)
    world.run_until_done(5.0)
    assert statuses(batch) == [Status.OK] * 30
    assert {attempt.node for attempt in world.truth.attempts} == {0, 1, 2}


def test_tasks_that_wait_for_tasks_of_theirs_do_not_deadlock_on_one_slot() -> None:
    world = fleet(1, slots=1.0)
    client = world.client(0)
    batch = hand(client, programs.NESTS, 0.01, 10, times=3)
    world.run_until_done(20.0)
    assert statuses(batch) == [Status.OK] * 10
    client.leave()
    world.clients.clear()
    world.run(15.0)
    checkers.at_rest(world)


def test_a_cancel_reaches_what_hangs_elsewhere_although_the_link_broke_with_it_on_the_way() -> None:
    for seed in range(10):
        world = fleet(2, seed, slots=1.0)
        client = world.client(0)
        world.run(0.1)
        batch = hand(client, programs.HANGS, 0.0, 2)
        world.run(0.5)
        assert {attempt.node for attempt in world.truth.attempts} == {0, 1}
        client.cancel(batch)
        world.run(0.0003 * seed / 10 + 0.0004)
        for wire in world.cables.wires:
            if {end.host.place for end in wire.ends} == {("node", 0), ("node", 1)}:
                wire.sever()
        world.run_until_done(5.0)
        assert statuses(batch) == [Status.CANCELLED] * 2
        world.run(5.0)
        checkers.at_rest(world)


def test_what_an_owner_gave_up_with_a_node_it_took_for_dead_ends_there_when_it_is_linked_again() -> None:
    world = fleet(2, slots=1.0)
    client = world.client(0)
    world.run(0.1)
    batch = hand(client, programs.HANGS, 0.0, 2)
    world.run(0.5)
    world.nodes[0].member_lost(world.nodes[1].id, "dead")
    assert world.nodes[1].execution.running == 1
    client.cancel(batch)
    world.run_until_done(5.0)
    world.run(8.0)
    checkers.at_rest(world)


def test_what_waits_for_room_that_another_owner_has_is_placed_when_that_is_dead() -> None:
    world = World(0)
    for number, totals in enumerate(({"cpu": 1.0, "gpu": 1.0}, {"cpu": 1.0})):
        world.start(number, Capacity(totals))
    world.run(2.0)
    there, here = world.client(1), world.client(0)
    world.run(0.1)
    hand(there, programs.HANGS, 0.0, needs={"gpu": 1})
    world.run(1.0)
    there.kill()
    world.clients.remove(there)
    batch = hand(here, "fine", 0.1, needs={"gpu": 1})
    world.run(0.5)
    assert len(world.truth.attempts) == 1 and not batch.ended
    world.kill(1)
    world.run_until_done(15.0)
    assert statuses(batch) == [Status.OK]


def test_what_comes_by_a_second_link_is_not_ended_by_what_was_said_before_it_by_the_first() -> None:
    world = fleet(2, slots=1.0)
    client = world.client(0)
    here, there = ((it.host, it, it.identity, it.link_boot) for it in (world.nodes[0], world.nodes[1]))
    for wire in world.cables.wires:
        if {end.host.place for end in wire.ends} == {("node", 0), ("node", 1)}:
            wire.sever()
    world.run(0.003)
    assert not world.nodes[0].is_linked(world.nodes[1].id) and not world.nodes[1].is_linked(world.nodes[0].id)
    first, _ = world.cables.link(here, there)
    first.arrives_at += 0.5  # a lost segment: the question what is there, which says that nothing is out, comes late
    world.run(0.003)
    assert first.up
    world.cables.link(here, there)
    world.run(0.003)
    batch = hand(client, "fine", 2.0, 2)
    world.run_until_done(10.0)
    assert statuses(batch) == [Status.OK] * 2
    assert sorted(attempt.node for attempt in world.truth.attempts) == [0, 1], "each was run once"


def test_a_second_link_takes_over_when_the_first_breaks_and_nothing_is_lost() -> None:
    for seed in range(10):
        world = fleet(2, seed)
        client = world.client(0)
        world.run(0.1)
        for _ in range(3):
            world.dial_again()
        world.run(0.1)
        batch = hand(client, "fine", 0.01, 200)
        for _ in range(6):
            world.run(0.05)
            wires = [
                w for w in world.cables.wires if w.ends[0].host.place[0] == w.ends[1].host.place[0] and not w.broken
            ]
            if len(wires) > 1:
                world.rng.choice(wires).sever()
        world.run_until_done(10.0)
        assert statuses(batch) == [Status.OK] * 200


def test_a_guest_has_its_timeout_too() -> None:
    world = World(0)
    world.start(0, Capacity({"cpu": 1.0}, pythons=frozenset(("guest",))))
    client = world.client(0)
    batch = hand(client, programs.HANGS, 0.0, 1, python="guest", timeout_s=0.5)
    world.run_until_done(3.0)
    assert statuses(batch) == [Status.TIMEOUT]


def test_a_batch_larger_than_the_node_may_hold_is_refused_for_good() -> None:
    world = fleet(1)
    world.bounds.tasks_max = 10
    node = world.nodes[0].ownership
    node._holdings.config = type(node.config)(tasks_max=10)
    batch = hand(world.client(0), "fine", 0.01, 11)
    world.run_until_done(3.0)
    assert statuses(batch) == [Status.REFUSED] * 11
    assert b"never holds so much" in batch.ended[0][1]


def test_a_chain_of_dependent_tasks_survives_its_node() -> None:
    world = fleet(2)
    client = world.client(0)
    world.run(0.1)
    before = hand(client, "fine", 0.05)
    for _ in range(6):
        spec = Spec("call", ("name", "m:f", "f"), "link")
        before = client.submit(spec, [Program("fine", 0.3).encode()], [before.key + bytes(4)])
    world.run(1.0)
    assert 2 < sum(not batch.left for batch in client.batches.values()) < 6
    world.kill(0)
    world.run_until_done(15.0)
    assert [statuses(batch) for batch in client.batches.values()] == [[Status.OK]] * 7


def test_a_node_that_dials_before_it_was_heard_of_gets_work() -> None:
    world = World(0)
    capacity = Capacity({"cpu": 1.0})
    one, other = world.start(0, capacity), world.start(1, capacity)
    world.cables.link(
        (other.host, other, other.identity, other.link_boot), (one.host, one, one.identity, one.link_boot)
    )
    world.run(0.01)
    assert one.is_linked(other.id)
    assert other.id not in one.members
    world.run(2.0)
    client = world.client(0)
    world.run(0.1)
    hand(client, "fine", 0.5, 2)
    world.run_until_done(5.0)
    assert {attempt.node for attempt in world.truth.attempts} == {0, 1}


SKEWED = [0.0002] * 500 + [0.5] * 36
"""Short tasks, that are handed out far ahead; what follows them is long, and lies where it was sent."""


def skewed(seed: int = 0, **options: Any) -> tuple[World, SimClient, Any]:
    world = fleet(3, seed)
    client = world.client(0)
    world.run(0.1)
    spec = Spec("call", ("name", "m:f", "f"), "f", **options)
    return world, client, client.submit(spec, [Program("fine", run_s).encode() for run_s in SKEWED])


def stolen(world: World) -> list[tuple[int, int, str]]:
    return [
        (start, stop, node)
        for one in world.nodes.values()
        for batch in one.ownership.batches.values()
        for _, what, start, stop, node, _ in batch.trace
        if what == "stolen"
    ]


def test_idle_nodes_pull_what_waits_behind_long_tasks_elsewhere() -> None:
    bound = sum(SKEWED) / 6
    world, _, batch = skewed()
    took = world.run_until_done(20.0)
    assert statuses(batch) == [Status.OK] * len(SKEWED)
    assert stolen(world) and took < 1.1 * bound, (took, bound)
    assert len(world.truth.attempts) == len(SKEWED), "nothing ran twice"


def test_what_waits_on_a_node_that_has_become_hot_is_pulled_by_the_others() -> None:
    world = fleet(2, slots=4.0)
    client = world.client(0)
    world.run(0.1)
    world.cut(("node", 0), ("node", 1), both=True)
    world.run(5.0)
    spec = Spec("call", ("name", "m:f", "f"), "f")
    hand(client, "fine", 0.001, 100)
    world.run_until_done(5.0)
    batch = client.submit(spec, [Program("fine", run_s).encode() for run_s in [0.001] * 100 + [1.0] * 24])
    world.run(0.5)
    node = world.nodes[0]
    assert node.execution.waiting and not world.nodes[1].execution.running
    node.execution.offer(node.host.now(), 1)
    node.fabric.turn()
    world.mend()
    world.run_until_done(12.0)
    assert statuses(batch) == [Status.OK] * 124
    ran = [sum(1 for one in world.truth.attempts if one.node == number and one.at > 6.0) for number in (0, 1)]
    assert stolen(world) and ran[1] > ran[0] - 200, ran


def test_a_faster_node_runs_in_proportion() -> None:
    world = World(0)
    for number, speed in enumerate((1.0, 3.0)):
        world.start(number, Capacity({"cpu": 4.0}), speed)
    world.run(2.0)
    client = world.client(0)
    world.run(0.1)
    for run_s in (0.002, 0.08):
        began = len(world.truth.attempts)
        hand(client, "fine", run_s, 800)
        took = world.run_until_done(60.0)
        ran = [sum(1 for one in world.truth.attempts[began:] if one.node == number) for number in (0, 1)]
        assert 2.0 < ran[1] / ran[0] < 4.5, ran
    assert took < 1.15 * 800 * 0.08 / 16
    paces = {it.name: it.pace.speed for it in world.nodes[0].ownership.executors.values()}
    assert paces["node1"] / paces["node0"] > 2, paces


def behind_a_cold_start(believed: float | None = None) -> tuple[World, Any]:
    """A lone node ran short tasks of a kind, the first of them slowly; then come long ones, and two idle nodes."""
    world = World(0)
    world.start(0, Capacity({"cpu": 1.0}))
    world.run(1.0)
    client = world.client(0)
    world.run(0.1)
    spec = Spec("call", ("name", "m:f", "f"), "f")
    for run_s in [0.5] + [0.0001] * 299:
        client.submit(spec, [Program("fine", run_s).encode()])
    world.run_until_done(10.0)
    (it,) = world.nodes[0].ownership.executors.values()
    assert it.pace.speed == 1.0, "of a kind that ran on one node alone nobody can tell how fast it is"
    if believed is not None:
        it.pace.speed = believed
    for _ in range(30):
        client.submit(spec, [Program("fine", 20.0).encode()])
    world.run(0.05)
    world.start(1, Capacity({"cpu": 5.0}))
    world.start(2, Capacity({"cpu": 5.0}))
    world.run(3.0)
    return world, client


@pytest.mark.parametrize("believed", [None, 16.0, 1 / 16])
def test_idle_nodes_are_not_left_idle_by_a_wrong_speed(believed: float | None) -> None:
    world, _ = behind_a_cold_start(believed)
    assert [world.nodes[number].execution.running for number in (0, 1, 2)] == [1, 5, 5]


def test_what_is_stolen_is_cancelled_where_it_went() -> None:
    world, client, batch = skewed()
    while not stolen(world):
        world.run(0.005)
    client.cancel(batch)
    world.run_until_done(5.0)
    assert {status for status, _ in batch.ended.values()} == {Status.OK, Status.CANCELLED}
    world.run(1.0)
    checkers.at_rest(world)


@pytest.mark.parametrize("who", ["thief", "victim", "owner's link"])
def test_a_theft_that_is_cut_short_loses_nothing(who: str) -> None:
    for seed in range(4):
        world, _, batch = skewed(seed)
        while not (
            open_ := {n: a for n, node in world.nodes.items() for a in node.ownership._approvals._open.values()}
        ):
            world.run(0.0002)
        (owner, approvals), *_ = open_.items()
        dispatch = next(iter(world.nodes[owner].ownership._approvals._open))
        victim = world.nodes[owner].ownership.dispatches[dispatch].executor.id
        ids_of = {node.id: number for number, node in world.nodes.items()}
        doomed = ids_of[approvals[0].thief if who == "thief" else victim]
        if who == "owner's link" or doomed == owner:
            world.break_link()
        else:
            world.kill(doomed)
        world.run_until_done(40.0)
        assert statuses(batch) == [Status.OK] * len(SKEWED)


# --- that the checkers see --------------------------------------------------------------------------------------------


def some_run_fails(kind: str, match: str, seeds: int = 12) -> None:
    for seed in range(seeds):
        try:
            run(kind, seed)
        except AssertionError as error:
            if match in str(error):
                return
    raise AssertionError(f"no run of {kind} noticed: {match}")


def test_the_checker_sees_a_theft_that_keeps_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Placing.pass_on

    def careless(self: Placing, now: float, dispatch: Any, it: Any, start: int, stop: int) -> None:
        self._number = dispatch.number - 1
        honest(self, now, dispatch, it, start, stop)

    monkeypatch.setattr(Placing, "pass_on", careless)
    some_run_fails("steals", "hands out token")


def test_the_checker_sees_a_theft_that_does_not_wait_for_what_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(self: Placing, dispatch: Any, wanted: list[tuple[int, int]], kill: bool) -> None:
        ((start, stop),) = wanted
        back = report_of({index: Status.RETURNED for index in range(start, stop)})
        self._holdings.emit(Tell(self._me, Kind.OUTCOMES, {"d": dispatch.number, "n": stop - start}, (back,)))

    monkeypatch.setattr(Placing, "recall", hasty)
    monkeypatch.setattr(Placing, "out", lambda self, number, executor: self.dispatches.get(number))
    with pytest.raises(AssertionError, match="not repeatable, began again"):
        for seed in range(6):
            skewed(seed, rerun=False)[0].run_until_done(40.0)


def test_the_checker_sees_a_task_that_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Waiting, "requeue", lambda self, run, start, stop: None)
    some_run_fails("workers", "no worker has task")


def test_the_checker_sees_what_may_not_be_repeated_begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: Attempts, now: float, dispatch: Any, indices: list[int], why: str) -> None:
        for index in indices:
            dispatch.batch.columns.release(index)
        self._placing.push(dispatch.batch, now, len(indices))

    monkeypatch.setattr(Attempts, "lost", careless)
    some_run_fails("once", "not repeatable, began again")


def test_the_checker_sees_a_token_that_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Ownership.__init__

    def forgetful(self: Ownership, *args: Any, epoch: int = 0, **others: Any) -> None:
        honest(self, *args, epoch=epoch >> 12 << 12, **others)

    monkeypatch.setattr(Ownership, "__init__", forgetful)
    some_run_fails("kills", "hands out token")


def test_the_checker_sees_a_cancel_that_does_not_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ending, "kill_running", lambda *_: None)
    some_run_fails("work", "tasks without an outcome")


def test_the_checker_sees_resources_that_are_not_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: Execution, worker: Any) -> None:
        worker.shape = None

    monkeypatch.setattr(Execution, "_let_go", careless)
    some_run_fails("work", "in use")


def test_the_checker_sees_a_run_that_stays_as_urgent_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Execution, "reprioritize", lambda self, *change: None)
    some_run_fails("work", "a run of another class than it has")


def test_the_checker_sees_tasks_that_wait_as_if_nobody_had_changed_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Placing, "_set_apart", lambda self, batch, since: None)
    some_run_fails("work", "in the queue of the others")


def test_the_checker_sees_an_outcome_that_is_delivered_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Session.on_message

    def twice(self: Session, now: float, kind: int, header: dict[str, Any], body: memoryview) -> None:
        honest(self, now, kind, header, body)
        if kind == Kind.OUTCOMES:
            for number in list(self._batches):
                self._batches[number].done[:] = bytes(self._batches[number].count)

    monkeypatch.setattr(Session, "on_message", twice)
    some_run_fails("links", "the first of their task")


def test_the_checker_sees_a_node_that_takes_all_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Admission, "_full", lambda self, *_: None)
    some_run_fails("flood", "unfinished batches")


def test_the_checker_sees_room_of_urgent_work_given_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "RESERVE", 1 << 20)
    some_run_fails("flood", "batches that are not urgent", 48)


def test_the_checker_sees_the_value_of_a_stale_attempt() -> None:
    truth = Truth()
    key = bytes(12)
    truth.dispatched(0, 1, 7, key, 0, 1)
    old = truth.began((key, 0), 0, 1, 7, 1.0)
    old.status = Status.OK
    truth.check_ok((key, 0), value_of(old))
    truth.dispatched(0, 1, 8, key, 0, 1)
    with pytest.raises(AssertionError, match="though 8 was given later"):
        truth.check_ok((key, 0), value_of(old))


def test_the_checker_sees_an_outcome_that_nothing_explains() -> None:
    world = fleet(1)
    client = world.client(0)
    world.run(0.1)
    batch = hand(client, "fine", 5.0)
    world.run(0.5)
    for status in (Status.FAILED, Status.CANCELLED, Status.TIMEOUT, Status.CRASHED, Status.LOST, Status.QUARANTINED):
        with pytest.raises(AssertionError):
            checkers.explained(world, client, batch, 0, status, b"")


def test_a_dependency_may_have_ended_badly_at_one_of_its_owners_only_if_that_saw_it_end_so() -> None:
    truth, task, spec = Truth(), (bytes(12), 0), Spec("call", ("name", "m:f", "f"), "crashes")
    for token in range(1, 6):
        node = token > CRASHES_MAX  # three crash at the one owner, one at the other, where the next is fine
        truth.dispatched(int(node), 1, token, task[0], 0, 1)
        attempt = truth.began(task, 0, token, token, float(token))
        attempt.worker_died = token < 5
        at_both = token > CRASHES_MAX
        assert checkers.ended_otherwise_elsewhere(truth, spec, task) == at_both
    for one in truth.begun(task)[:1]:
        one.worker_died = False
    assert not checkers.ended_otherwise_elsewhere(truth, spec, task)


# --- moves ------------------------------------------------------------------------------------------------------------


def test_tasks_are_moved_while_others_take_their_slots_and_go_on_from_their_states() -> None:
    moves: Counter[str] = Counter()
    resumed = suspensions = evicted = 0
    for seed in range(8):
        it = Run("moves", seed)
        it.go()
        moves.update(it.world.truth.moves)
        resumed += it.world.truth.resumed
        suspensions += it.world.truth.suspensions
        evicted += it.world.truth.facts.get("suspended.evicted", 0)
    assert evicted > 2, "of what stood still some left for its memory"
    assert moves["moved"] > 20 and resumed >= moves["moved"] / 2 and suspensions, (moves, resumed, suspensions)


def test_the_checker_sees_a_task_that_is_handed_on_before_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Moving._ask

    def hasty(self: Moving, move: Any) -> None:
        honest(self, move)
        move.batch.columns.release(move.index)
        self._placing.push(move.batch, 0.0, 1)
        self._placing.returned(move.dispatch, 1)

    monkeypatch.setattr(Moving, "_ask", hasty)
    some_run_fails("moves", "runs twice, under two tokens")


def test_the_checker_sees_a_state_that_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Moving.saved

    def forgetful(self: Moving, now: float, batch: Any, index: int, *said: Any) -> bool:
        again = honest(self, now, batch, index, *said)
        del batch.saved[index]
        return again

    monkeypatch.setattr(Moving, "saved", forgetful)
    some_run_fails("moves", "began anew")
    some_run_fails("moves", "does not go on from its state")


def test_the_checker_sees_a_state_of_an_earlier_time(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Moving.saved

    def stale(self: Moving, now: float, batch: Any, index: int, *said: Any) -> bool:
        return index in batch.saved or honest(self, now, batch, index, *said)

    monkeypatch.setattr(Moving, "saved", stale)
    some_run_fails("moves", "saved later")


def test_the_checker_sees_a_slot_that_is_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: Moving, it: Any) -> None:
        it.target = None

    monkeypatch.setattr(Moving, "_give_back", careless)
    some_run_fails("moves", "slots are kept there")


def test_a_cancel_of_what_lent_its_urgency_leaves_the_queue_as_long_as_there_is_work() -> None:
    """Those who waited had their urgency back in the midst of the cancel, and what was left of the batch was queued twice."""
    run("flood", 43)


# --- lessons ----------------------------------------------------------------------------------------------------------


def _nothing(*args: object) -> None:
    return None


@pytest.mark.parametrize("part", ["over", "_let_go"])
def test_a_batch_that_waits_because_of_a_lesson_and_is_forgotten_is_found(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Heeding, part, _nothing)
    with pytest.raises(AssertionError, match=r"nothing will end that|without an outcome"):
        for seed in range(SEEDS):
            run("lessons", seed)


def test_lessons_are_heeded_given_doubted_and_refused_there() -> None:
    facts: Counter[str] = Counter()
    for seed in range(6):
        it = Run("lessons", seed)
        it.go()
        facts.update(it.world.truth.facts)
    for name in ("learned", "heeded", "given", "probed", "refused"):
        assert facts[f"lesson.{name}"], name
