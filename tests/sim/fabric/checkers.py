"""What must hold of the task fabric in any run: of each node at any moment, of each outcome, and at the end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from kernels.tasks import TaskColumns
from swarm.protocol.owner.admission import RESERVE
from swarm.protocol.owner.attempts import RETRY
from swarm.protocol.ownership import Ownership
from swarm.protocol.spec import Spec
from swarm.protocol.states import CRASHES_MAX, Priority, Status
from tests.sim.fabric import programs
from tests.sim.fabric.lessons import held_back
from tests.sim.fabric.programs import read_program
from tests.sim.fabric.truth import shown

if TYPE_CHECKING:
    from tests.sim.fabric.client import SimClient, Submitted
    from tests.sim.fabric.node import SimNode
    from tests.sim.fabric.truth import Truth
    from tests.sim.fabric.world import World

ROUNDING = 1e-6
RETAINED_FEW = 10
"""Where a node keeps fewer ended batches than this, one may be forgotten before what depends on it is taken."""


# --- at any moment ----------------------------------------------------------------------------------------------------


def sound(node: SimNode) -> None:
    """Nothing is forgotten and nothing counted twice in a node's owner and executor."""
    owner_sound(node)
    executor_sound(node)


def owner_sound(node: SimNode) -> None:
    """Each task of each batch is in one state, and something will move it on; the sums are those of the parts."""
    ownership = node.ownership
    unfinished = ready = outcome_bytes = 0
    out: Counter[int] = Counter()
    of: Counter[bytes] = Counter()
    classes = [0] * 4
    back = held_back(ownership)
    for batch in ownership.batches.values():
        columns = batch.columns
        where = f"{node.name}, batch {batch.key[:3].hex()}…{batch.number}"
        assert columns.ready + columns.dispatched + columns.done + columns.held == columns.count, where
        assert (batch.finished_at is not None) == (columns.done == columns.count), f"{where}: done, not finished"
        if batch.finished_at is not None:
            continue
        unfinished += columns.count - columns.done
        if batch.held_back:
            assert batch in back, f"{where} waits because of a lesson, and nothing will end that"
        waits = 0 if batch.held_back else columns.ready
        ready += waits
        outcome_bytes += sum(report.nbytes for report, _ in batch.outcomes)
        of[ownership._admission._by[batch.number][0]] += columns.count
        classes[batch.priority] += waits
        apart = {index: lane for lane in batch.lanes.values() for index in lane.waiting}
        for lane in batch.lanes.values():
            ready += len(lane.waiting)
            classes[lane.priority] += len(lane.waiting)
        for index in batch.apart:
            lies = columns.state(index) == TaskColumns.READY and not batch.held_back
            assert not lies, f"{where}: task {index} is in the queue of the others"
        for index, lane in apart.items():
            assert batch.urgency(index) == (lane.priority, lane.nice), f"{where}: task {index} is in the wrong lane"
            assert columns.state(index) == TaskColumns.HELD, f"{where}: task {index} waits, and does not"
        for index in range(columns.count):
            state = columns.state(index)
            if state == TaskColumns.DISPATCHED:
                out[columns.token(index)] += 1
            elif state == TaskColumns.HELD and index not in apart:
                assert _is_awaited(node, batch, index), f"{where}: task {index} is held, and nobody will release it"
    assert ownership.unfinished == unfinished, f"{node.name}: {ownership.unfinished} tasks counted, {unfinished} there"
    assert ownership.waiting == ready, f"{node.name}: {ready} tasks are ready, {ownership.waiting} wait in the queue"
    assert ownership._holdings.outcome_bytes == outcome_bytes, f"{node.name}: bytes of outcomes"
    assert ownership._admission._of == dict(of), (
        f"{node.name}: {ownership._admission._of} held by clients, {dict(of)} there"
    )
    queue = ownership._placing.ready
    assert [queue.waiting(priority) for priority in range(4)] == classes, f"{node.name}: {classes} wait by class"
    assert ownership._holdings.bytes >= 0 and ownership._holdings.retained_bytes >= 0, node.name
    dispatches = ownership.dispatches
    assert {number: one.left for number, one in dispatches.items()} == dict(out), f"{node.name}: {dict(out)}"
    for executor in ownership.executors.values():
        mine = {number: one for number, one in dispatches.items() if one.executor is executor}
        assert mine == executor.dispatches, f"{node.name}: dispatches at {executor.name}"
        moves = [one for one in ownership._moving._moves.values() if one.target is executor]
        urgent = sum(one.left for one in mine.values() if one.priority >= Priority.HIGH)
        urgent += sum(1 for one in moves if one.batch.spec.priority >= Priority.HIGH)
        assert urgent == executor.urgent, (
            f"{node.name}: {urgent} urgent tasks at {executor.name}, not {executor.urgent}"
        )
        kept = [one.batch.shape for one in moves]
        assert executor.ours == sum(one.left for one in mine.values()) + len(kept), (
            f"{node.name}: {executor.name} has {executor}, and slots are kept there for {len(kept)}"
        )
        inflight: Counter[object] = Counter(kept)
        for one in mine.values():
            inflight[one.batch.shape] += one.left
        assert executor.inflight == dict(inflight), f"{node.name}: in flight at {executor.name}"
        assert executor.others >= 0 and executor.blocked >= 0
    for run in node.execution.runs:
        one = dispatches.get(run.dispatch) if run.owner == node.id else None
        if one is not None and one.sent:
            assert (run.priority, run.nice) == (one.priority, one.nice), (
                f"{node.name}: a run of another class than it has"
            )


def bounded(ownership: Ownership) -> None:
    """An owner holds no more than it may, whatever is handed to it; and the last part of its room is for urgent work."""
    config, holdings = ownership.config, ownership._holdings
    assert holdings.tasks <= config.tasks_max, f"{holdings.tasks} unfinished tasks"
    assert len(holdings.by_number) <= config.batches_max, f"{len(holdings.by_number)} unfinished batches"
    assert holdings.bytes <= config.bytes_max, f"{holdings.bytes} bytes of calls"
    # What a client may come back for is kept whatever the bound, as long as its lease is.
    kept = sum(not ownership._ending.waits(holdings.batches[key].client or b"") for key in holdings.retained)
    assert kept <= config.retained_batches_max + len(holdings.wanted), f"{kept} batches are kept"
    usual = sum(
        1 for batch in holdings.by_number.values() if batch.spec.priority < Priority.HIGH and not batch.spec.depth
    )
    assert usual <= config.batches_max - config.batches_max // RESERVE, f"{usual} batches that are not urgent"


def has_room(ownership: Ownership, count: int, nbytes: int) -> bool:
    """Whether there is room for a batch, whosever it is."""
    config, holdings = ownership.config, ownership._holdings
    return (
        holdings.tasks + count <= config.tasks_max
        and len(holdings.by_number) < config.batches_max
        and holdings.bytes + holdings.outcome_bytes + nbytes <= config.bytes_max
    )


def refused(ownership: Ownership, client: bytes, spec: Spec, count: int) -> None:
    """A batch was refused although there was room: only what is not urgent, for the sake of what is, or of others."""
    assert spec.priority < Priority.HIGH and not spec.depth, f"{spec.name} is urgent, there is room, and it is refused"
    config, holdings = ownership.config, ownership._holdings
    nearly_full = (
        RESERVE * (config.tasks_max - holdings.tasks) <= config.tasks_max + RESERVE
        or RESERVE * (config.batches_max - len(holdings.by_number)) <= config.batches_max + RESERVE
    )
    assert nearly_full or ownership._admission.held(client), f"{spec.name} is its client's first, and is refused"


def _is_awaited(node: SimNode, batch: object, index: int) -> bool:
    """Whether a held task waits for a timer, for another task, or for its client's word."""
    ownership = node.ownership
    if any(value is None for value in batch.deps.values()):  # type: ignore[attr-defined]
        return True
    if not batch.spec.rerun and index not in batch.may_start:  # type: ignore[attr-defined]
        return batch.client is not None  # type: ignore[attr-defined]
    return (batch, index) in ownership._holdings.timers.waiting(RETRY)


def executor_sound(node: SimNode) -> None:
    """What runs fits into the machine, and what is counted as being here is here."""
    execution = node.execution
    waiting = here = 0
    of: Counter[bytes] = Counter()
    for run in execution.runs:
        columns = run.columns
        where = f"{node.name}, run {run.number}"
        assert columns.ready + columns.dispatched + columns.done + columns.held == columns.count, where
        assert columns.held == 0, where
        assert columns.done < columns.count, f"{where} is over, and kept"
        assert run.left == columns.count - columns.done, (
            f"{where}: {run.left} counted, {columns.count - columns.done} left"
        )
        waiting += columns.ready
        here += run.left
        of[run.owner] += run.left
        slices = {part.token for it in execution.workers.values() for part in it.slices.values() if part.run is run}
        for start, stop in run.pending():
            for index in range(start, stop):
                if columns.state(index - run.first) == TaskColumns.DISPATCHED:
                    assert columns.token(index - run.first) in slices, f"{where}: no worker has task {index}"
    assert execution.waiting == waiting, f"{node.name}: {waiting} tasks are ready, {execution.waiting} in the queue"
    assert execution.others(b"") == here, f"{node.name}: {execution.others(b'')} tasks counted, {here} here"
    for owner, count in of.items():
        assert execution.others(owner) == here - count, node.name
    taken: Counter[str] = Counter()
    for worker in execution.workers.values():
        if worker.shape is not None and worker.state != "blocked":
            for name, amount in worker.shape.needs:
                if worker.state != "suspended" or name not in execution.config.releasable:
                    taken[name] += amount  # type: ignore[assignment]
    for worker in execution.workers.values():
        standing = worker.state == "suspended"
        assert standing == (worker.suspension is not None), f"{node.name}, worker {worker.number}: {worker.state}"
        process = node.pool.workers.get(worker.number)
        if process is not None and process.alive and worker.state != "stopping":
            assert standing == (process.stopped_at is not None), f"{node.name}, worker {worker.number}: {worker.state}"
        if standing and not execution.waiting:
            assert worker.shape is not None and not execution.account.fits_again(
                worker.shape, execution.config.releasable
            ), f"{node.name}: worker {worker.number} stands still for nobody"
    for name, amount in execution.account.used.items():
        assert amount >= -ROUNDING, f"{node.name}: {amount} of {name} taken"
        assert abs(amount - taken[name]) < ROUNDING, f"{node.name}: {amount} of {name} taken, {taken[name]} in use"


# --- of each outcome --------------------------------------------------------------------------------------------------


def explained(world: World, client: SimClient, batch: Submitted, index: int, status: Status, payload: bytes) -> None:
    """A task's outcome is what its program, its spec, its client or a fault made of it."""
    spec, task, truth = batch.spec, (batch.key, index), world.truth
    begun = truth.begun(task)
    where = f"{shown(task)} of client {client.number} ended as {status.name}"
    match status:
        case Status.OK:
            truth.check_ok(task, payload)
        case Status.FAILED:
            assert any(one.status in (Status.FAILED, Status.RETRY) for one in begun), where
        case Status.CANCELLED:
            assert index in batch.cancelled, f"{where}, and nobody cancelled it: {begun}"
        case Status.TIMEOUT:
            assert spec.timeout_s is not None, where
            # Its worker may have died of itself just before its node ended it.
            over = [one for one in begun if world.sim.now - one.at >= spec.timeout_s - ROUNDING]
            assert any(one.killed or one.worker_died for one in over), where
        case Status.CRASHED:
            assert not spec.rerun, where
            assert any(one.worker_died and not one.killed for one in begun), f"{where}: {begun}"
        case Status.QUARANTINED:
            crashed = sum(one.worker_died for one in begun)
            assert spec.rerun and crashed >= CRASHES_MAX, f"{where} after {crashed} crashes: {begun}"
        case Status.LOST:
            assert not spec.rerun, where
            assert world.faults, f"{where}, and nothing had gone wrong"
        case Status.DEPENDENCY:
            # Refused by a full node until what it depends on had ended, and was kept no longer.
            forgotten = world.bounds.retained_max < RETAINED_FEW and b"is not known here" in bytes(payload)
            assert (forgotten and _some_dependency_ended(client, batch)) or _some_dependency_failed(client, batch), (
                where
            )
        case Status.EXPIRED:
            assert spec.deadline is not None and world.wall() >= spec.deadline - ROUNDING, where
        case Status.REFUSED:
            too_large = batch.count > world.bounds.tasks_max or (world.bounds.lessons and b"lesson" in bytes(payload))
            assert too_large or (spec.python and world.workers_fail), where
        case _:
            raise AssertionError(where)


def _some_dependency_failed(client: SimClient, batch: Submitted) -> bool:
    """Whether a task that it depends on did not end as OK, or may not when it has to be made again by another node."""
    by_key = {one.key: one for one in client.batches.values()}
    for dep in batch.deps:
        source = by_key[dep[:12]]
        ended = source.ended.get(int.from_bytes(dep[12:], "big"))
        if ended is None or ended[0] != Status.OK:
            return True
        spec = source.spec
        if not spec.rerun or spec.deadline is not None or spec.timeout_s is not None:
            return True
        if ended_otherwise_elsewhere(client.world.truth, spec, (source.key, int.from_bytes(dep[12:], "big"))):
            return True
        if _some_dependency_failed(client, source):
            return True
    return False


def _some_dependency_ended(client: SimClient, batch: Submitted) -> bool:
    """Whether a task that it depends on has its outcome: one that has none is forgotten by nobody."""
    by_key = {one.key: one for one in client.batches.values()}
    return any(int.from_bytes(dep[12:], "big") in by_key[dep[:12]].ended for dep in batch.deps)


def ended_otherwise_elsewhere(truth: Truth, spec: Spec, task: tuple[bytes, int]) -> bool:
    """Whether one of several owners of a task saw it end badly. Each counts crashes and retries for itself: a client that goes
    to another node and back finds at the first what had become of its tasks there, though it has their outcomes of the other."""
    crashes: Counter[tuple[int, int]] = Counter()
    tries: Counter[tuple[int, int]] = Counter()
    owners = set()
    for one in truth.begun(task):
        it = truth.owner_of_token[one.token]
        owner = (it.node, it.boot)
        owners.add(owner)
        crashes[owner] += one.worker_died
        tries[owner] += one.status == Status.RETRY
    badly = any(crashes[owner] >= CRASHES_MAX or tries[owner] > spec.retries for owner in owners)
    return len(owners) > 1 and badly


# --- at the end -------------------------------------------------------------------------------------------------------


def stuck(world: World, clients: list[SimClient], within_s: float) -> str:
    """Who still waits, for the reader."""
    lines = [f"all faults are over, and for {within_s:.0f} s none came of the tasks without an outcome:"]
    for client in clients[:3]:
        link = client.link.identity.name if client.link is not None else "no node"
        for batch in client.batches.values():
            if batch.left:
                left = [index for index in range(batch.count) if index not in batch.ended]
                lines.append(
                    f"client {client.number} at {link}: batch {batch.key[:3].hex()}…{batch.number} {batch.spec.name}: "
                    f"{left[:5]} of {batch.count}, submitted at {batch.at:.2f} s"
                )
    for node in world.running():
        lines.append(
            f"{node.name}: owns {node.ownership.unfinished}, {node.ownership.waiting} wait, runs {node.execution.running}, "
            f"{node.execution.load()}, sees {[one.name for one in node.ownership.executors.values()]}"
        )
    return "\n".join(lines)


def at_rest(world: World) -> None:
    """When all is done, nobody holds anything any more: no task, no resource, no worker that waits."""
    for node in world.running():
        sound(node)
        assert not node.ownership._moving, f"{node.name} still moves tasks"
        assert node.ownership.unfinished == 0, f"{node.name} still owns {node.ownership.unfinished} tasks"
        assert node.execution.idle, f"{node.name} still runs {list(node.execution.held(node.id).items())[:3]}"
        assert not any(node.execution.account.used.values()), f"{node.name}: {node.execution.account.used}"
        assert node.execution.load()["blocked"] == 0, node.name
        assert not any(one.suspension for one in node.execution.workers.values()), f"{node.name} has somebody suspended"
        ready = sum(1 for one in node.execution.workers.values() if one.state == "ready" and not one.python)
        assert ready >= node.execution.slots, f"{node.name} has {ready} workers for {node.execution.slots} slots"


def all_ended(world: World) -> None:
    """Each task of a client that lived to the end has one outcome, and what could only end well did."""
    for client in world.clients:
        assert client.session.tasks == 0 and client.session.bytes == 0, (
            f"client {client.number}: {client.session.tasks}"
        )
        for batch in client.batches.values():
            assert sorted(batch.ended) == list(range(batch.count))


def certain(spec: Spec, payload: bytes) -> bool:
    """Whether a task can only end as OK when nothing goes wrong around it."""
    program = read_program(payload)
    return program.what in (programs.FINE, programs.STREAMS) or (
        program.what == programs.RETRIES and spec.retries >= program.times
    )
