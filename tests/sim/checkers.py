"""What must hold in any run: safety over its whole length, liveness within a bound."""

from __future__ import annotations

from swarm.protocol.effects import Died, Joined
from swarm.protocol.member import State
from tests.sim.fleet import Fleet, id_of


def nobody_buried_alive(fleet: Fleet) -> None:
    """No node that ran and could be reached was declared dead by one of which the same is true."""
    for event in fleet.events:
        if event.kind is not Died:
            continue
        if fleet.is_excused(event.subject, event.at) or fleet.is_disturbed(event.observer, event.at):
            continue
        raise AssertionError(
            f"seed {fleet.seed}: at {event.at:.3f} s node {event.observer} buried node {event.subject} alive"
        )


def joins_alternate(fleet: Fleet) -> None:
    """To one boot of a node, a member that it saw die does not die again before it has joined again."""
    dead: set[tuple[int, int, int]] = set()
    for event in fleet.events:
        key = (event.observer, fleet.boot_at(event.observer, event.at), event.subject)
        if event.kind is Died:
            assert key not in dead, f"seed {fleet.seed}: at {event.at:.3f} s {key} died twice"
            dead.add(key)
        elif event.kind is Joined:
            dead.discard(key)


def death_known(fleet: Fleet, victim: int, within_s: float) -> float:
    """Runs until all running nodes hold a killed one dead; returns the seconds that took."""
    began = fleet.sim.now
    lost = id_of(victim)
    while True:
        believers = [
            number
            for number in sorted(fleet.nodes)
            if fleet.nodes[number].membership.state(lost) in (State.ALIVE, State.SUSPECT)
        ]
        if not believers:
            return fleet.sim.now - began
        assert fleet.sim.now - began < within_s, (
            f"seed {fleet.seed}: {within_s:.2f} s after the death of node {victim}, {believers} still believe in it"
        )
        fleet.run(0.01)


def all_quiet(fleet: Fleet, for_s: float) -> None:
    """Once agreed, and left alone, all stay agreed: no suspicion lasts, nothing flaps."""
    fleet.run(for_s)
    wrong = fleet.disagreement()
    assert wrong is None, f"seed {fleet.seed}: after {for_s} s of quiet: {wrong}"
