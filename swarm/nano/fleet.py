"""Populations in the fleet: submitted as tasks with progress, moved while they run, spread over nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from kernels.passes import NEVER
from swarm.nano.driving import RESTARTS_MAX, PopulationRun
from swarm.nano.errors import NanoError
from swarm.nano.fleet_reports import FleetReport, Stint
from swarm.nano.partition import By, cut
from swarm.nano.saving import parts
from swarm.nano.scheduling import NanoSwarm
from swarm.nano.sources import refuse_while_put, sources_of

if TYPE_CHECKING:
    from swarm.client.sync import Fleet

SAVE_EVERY_S: Final = 5.0

__all__ = ["RESTARTS_MAX", "SAVE_EVERY_S", "FleetReport", "PopulationRun", "Stint", "submit"]


def submit(
    fleet: Fleet,
    what: NanoSwarm | Any,
    *,
    seconds: float | None = None,
    passes: int | None = None,
    nodes: int | None = None,
    on: str | Sequence[str] | None = None,
    by: By | Mapping[str, int] = "kinds",
    save_every_s: float | None = SAVE_EVERY_S,
    progress: Callable[[dict[str, Any]], None] | None = None,
    bridge: Sequence[str] = (),
    balance: bool = True,
    send_modules: bool = True,
    **options: Any,
) -> PopulationRun:
    """Run a population (a NanoSwarm, or a saved one) in the fleet for a time of its own, or so many passes; a future.

    It is saved, and begins on another node as it is. With `nodes` above 1 it is spread: `by="kinds"` gives each node whole
    kinds, "rows" gives each a part of every kind, a mapping says which part (from 0) each kind is in. In virtual time all
    make each pass together, after which their messages cross; in real time each makes its own, and messages cross each
    millisecond, at most once. `on` names the nodes, one for each part. While it runs it is saved every `save_every_s` seconds
    (None: never), and goes on from there when a node is lost. `progress` is called, in a thread of its own, with what
    `PopulationRun.progress` has.

    With `balance`, a population that is spread by rows in virtual time is cut anew when all wait for one part that is 1.25
    times as busy as the mean: agents go from there to the others, so that a slow or loaded machine has fewer.

    `bridge` names topics that a swarm here may join by `PopulationRun.bridge`, for a population on one node.

    Kinds are found there by their names. Modules that are the caller's own go along as source, to nodes that grant `code`,
    unless `send_modules` is false. `options` are those of tasks: priority, needs, labels, nice, name, …

    NanoError names what cannot be saved; NotFound a node that is not there. When a node has a kind with other fields, or
    not at all, the future fails with SchemaMismatch.
    """
    refuse_while_put()
    blob = what.save() if isinstance(what, NanoSwarm) else what
    header, _ = parts(blob)
    for each in header["cohorts"]:
        if each["tick"] == "":
            kind = header["kinds"][each["kind"]]["name"]
            raise NanoError(
                f"the native tick of {kind} has no name by which another process finds it",
                hint=f"make it a name of the module {kind.partition(':')[0]!r}: `fall = library.fall`",
                kind=kind,
            )
    names = [on] if isinstance(on, str) else list(on or ())
    count = nodes if nodes is not None else max(1, len(names))
    if names and len(names) != count:
        raise NanoError(f"{len(names)} nodes are named for {count} parts", hint="name one node for each part")
    now_ns, made = header["now_ns"], header["passes"]
    if (seconds is None) == (passes is None) or not (seconds if seconds is not None else passes or 0) >= 0:
        raise NanoError("one of seconds and passes is wanted, not negative", hint="submit(fleet, flock, seconds=10)")
    if save_every_s is not None and not save_every_s > 0:
        raise NanoError(f"save_every_s={save_every_s!r}", hint="seconds above 0, or None for never")
    if bridge and (count > 1 or isinstance(bridge, str)):
        raise NanoError(f"bridge={bridge!r} with {count} nodes", hint="a list of topics, and a population on one node")
    for topic in bridge:
        if topic not in {each["name"] for each in header["topics"]}:
            raise NanoError(
                f"the population has no topic {topic!r}",
                hint=f"there are {', '.join(t['name'] for t in header['topics'])}",
            )
    unknown = {"rerun", "stream", "retries", "timeout_s", "python"} & options.keys()
    if unknown:
        raise NanoError(f"a population has no option {min(unknown)!r}", hint="it is begun again by itself")
    sources = sources_of(each["name"].partition(":")[0] for each in header["kinds"]) if send_modules else {}
    run = PopulationRun(
        fleet, blob, cut(blob, count, by), names, sources, options,
        until_ns=NEVER if seconds is None else now_ns + round(seconds * 1e9),
        passes=None if passes is None else made + passes, save_every_s=save_every_s, topics=tuple(bridge),
        balance=balance and by == "rows" and count > 1 and header["time"] == "virtual"
        and not all(each["whole"] for each in header["cohorts"]),
    )  # fmt: skip
    if progress is not None:
        run.add_progress_callback(progress)
    run._start()
    return run
