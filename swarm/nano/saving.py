"""A population as one binary blob, to be continued bit for bit, here or on another machine.

Layout: 16 bytes of mark and version, u64 length of the header, the header (MessagePack), then sections of raw columns at
multiples of 64 bytes, whose places the header tells, and a blake3 digest of all before it at the very end. Numbers are little
endian. A blob holds no code and no pickle: a kind is named by module and name and checked by the hash of its schema.
"""

from __future__ import annotations

import importlib
import operator
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import blake3
import msgpack

from kernels.population import Population
from swarm.errors import SwarmError
from swarm.nano.budget import Budget
from swarm.nano.errors import NanoError, SchemaMismatch
from swarm.nano.kinds import Form, Kind, form_of
from swarm.nano.watching import Watch

if TYPE_CHECKING:
    from swarm.nano.scheduling import NanoSwarm

MARK: Final = b"SWARMNANO\x00\x00\x00\x00\x00\x00\x01"
MADE_SO: Final = "its digest is right, so it was made so: by another program, or another version of this one"
_ALIGN: Final = 64
_DIGEST: Final = 32
_COUNTERS: Final = 4


def schema_of(kind: type[Kind]) -> bytes:
    """16 bytes that change with anything that the columns of a kind depend on."""
    said = [kind.layout, [[name, type.code] for name, type in kind.fields.items()]]
    return blake3.blake3(bytes(msgpack.packb(said))).digest(16)


def name_of(thing: Any) -> str | None:
    """`module:name` by which it is found again, or None."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if isinstance(module, str) and isinstance(name, str) and _found(f"{module}:{name}") is thing:
        return f"{module}:{name}"
    return None


def save(swarm: NanoSwarm) -> bytes:
    """The blob. NanoError naming what cannot be saved."""
    sections: list[memoryview | bytes] = []
    lengths: list[int] = []

    def section(content: Any) -> int:
        view = memoryview(content)
        sections.append(view.cast("B") if view.contiguous and view.nbytes else view.tobytes())
        lengths.append(len(sections[-1]))
        return len(sections) - 1

    kinds = []
    for kind, state in swarm.kinds.items():
        name = name_of(kind)
        if name is None:
            raise NanoError(
                f"{kind.__qualname__} cannot be saved: it is not found by its name",
                hint="define the kind at the top of a module that can be imported where it is loaded",
            )
        population = state.population
        kinds.append({
            "name": name, "schema": schema_of(kind), "capacity": population.capacity, "top": population.top,
            "states": section(population.bookkeeping("states")),
            "generations": section(population.bookkeeping("generations")),
            "fields": [section(population.column(index)) for index in range(len(kind.fields))],
        })  # fmt: skip
    cohorts = []
    for number, it in enumerate(swarm._cohorts):
        saved = swarm.passes.save_cohort(number)
        for name in ("rows", "awake", "waiting", "wakes", "periods"):
            saved[name] = section(saved[name])
        own = it.python.own() if it.python is not None else None
        budget = it.budget and [it.budget.ns, it.budget.guard, it.budget.on_overrun]
        cohorts.append({
            "own": None if own is None else section(pack_own(own, it.form.kind)),
            "kind": it.state.number, "form": it.form.name, "tick": _tick_of(it.form), "group": it.group,
            "budget": budget, "period_ns": it.period_ns, "demoted": it.demoted, "whole": it.form.whole, "state": saved,
        })  # fmt: skip
    topics = [
        {"name": name, "full": swarm._declared.full.get(name), "counters": swarm.bus.counters(number),
         "inbox": section(swarm.bus.inbox(number))}
        for name, number in sorted(swarm.topics.items(), key=lambda item: item[1])
    ]  # fmt: skip
    header = {
        "seed": swarm.seed, "time": swarm.time, "resolution_ns": swarm.passes.resolution_ns, "now_ns": swarm.now_ns,
        "passes": swarm.passes.made, "topic_lines": swarm.topic_lines, "spin_ns": swarm.passes.spin_ns,
        "cores": swarm.cores, "capacity": swarm.capacity, "python_thread": swarm.python_thread,
        "topology": swarm.topology.save() if swarm.topology is not None else None,
        "window_ns": swarm._window_ns,
        "watched": swarm.watched.save(name_of) if swarm.watched is not None else None,
        "kinds": kinds, "cohorts": cohorts, "topics": topics, "sections": lengths,
    }  # fmt: skip
    return _joined(bytes(msgpack.packb(header)), sections)


def load(blob: Any, *, ticks: Mapping[str, Any] | None = None, cores: int | None = None) -> NanoSwarm:
    """A swarm that goes on where `save` left it.

    Kinds are imported by the names in the blob, so load only what you trust as much as the modules that you have. `ticks` gives
    forms (or addresses) by name of the kind, where native ticks are not found as an attribute of a module. It runs on as many
    `cores` as it did, or on so many. SchemaMismatch for
    a blob that is damaged, or does not fit the kinds of this program.
    """
    header, sections = parts(blob)
    try:
        return _loaded(header, sections, ticks or {}, cores)
    except SwarmError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise SchemaMismatch(
            f"the blob does not hold together: {type(error).__name__}: {error}",
            hint=MADE_SO,
        ) from error


def _loaded(
    header: dict[str, Any], sections: list[memoryview], ticks: Mapping[str, Any], cores: int | None
) -> NanoSwarm:
    from swarm.nano import topologies
    from swarm.nano.scheduling import NanoSwarm

    swarm = NanoSwarm(
        seed=header["seed"], time=header["time"], resolution_ns=header["resolution_ns"],
        topic_lines=header["topic_lines"], spin_s=header["spin_ns"] / 1e9, capacity=header["capacity"], python_thread=header["python_thread"],
        window_s=header.get("window_ns", 100_000_000) / 1e9,
        topology=topologies.load(header["topology"]) if header["topology"] is not None else None,
    )  # fmt: skip
    swarm.cores = header["cores"] if cores is None else cores
    kinds = [_kind(each) for each in header["kinds"]]
    for kind, each in zip(kinds, header["kinds"], strict=True):
        state = swarm._declared.kind(kind, each["capacity"])
        _fill(state.population, each, sections)
    for each in header["topics"]:
        number = swarm.topics.get(each["name"])
        if number is None or swarm._declared.full.get(each["name"]) != each["full"]:
            raise SchemaMismatch(f"the kinds of this program know the topic {each['name']!r} otherwise, or not at all")
        swarm.bus.restore(number, sections[each["inbox"]], each["counters"])
    swarm.passes.restore(header["now_ns"], header["passes"])
    for each in header["cohorts"]:
        kind = kinds[each["kind"]]
        form = _form(kind, each, ticks)
        saved = dict(each["state"])
        for name in ("rows", "awake", "waiting", "wakes", "periods"):
            saved[name] = sections[saved[name]]
        budget = Budget(*each["budget"]) if each["budget"] else None
        own = unpack_own(sections[each["own"]]) if each.get("own") is not None else None
        swarm._restore(form, kind, each, saved, budget, own)
    if header.get("watched") is not None:
        swarm.watched = Watch.restore(header["watched"], _function)
    return swarm


def _function(name: str) -> Any:
    found = _found(name, load=True)
    if not callable(found):
        raise SchemaMismatch(f"the function {name} of an alert is not found", hint="its module must be importable here")
    return found


def parts(blob: Any) -> tuple[dict[str, Any], list[memoryview]]:
    """Header and sections of a blob. SchemaMismatch when it is none, or damaged."""
    view = memoryview(blob).cast("B")
    if len(view) < len(MARK) + 8 + _DIGEST or view[: len(MARK) - 1] != MARK[:-1]:
        raise SchemaMismatch("this is no saved population", hint="it begins otherwise than what NanoSwarm.save() gives")
    if view[len(MARK) - 1] != MARK[-1]:
        raise SchemaMismatch(
            f"a population saved in format {view[len(MARK) - 1]}; this version reads format {MARK[-1]}",
            hint="load it with the version of nanoswarm that saved it",
        )
    if _digest(view[:-_DIGEST]) != view[-_DIGEST:]:
        raise SchemaMismatch(
            "the saved population is damaged: its digest is another", hint="save it again, or copy it anew"
        )
    length = int.from_bytes(view[len(MARK) : len(MARK) + 8], "little")
    at = len(MARK) + 8
    try:
        header = msgpack.unpackb(view[at : at + length], strict_map_key=False)
        lengths = [operator.index(size) for size in header["sections"]]
    except (ValueError, LookupError, TypeError, msgpack.UnpackException) as error:
        raise SchemaMismatch(f"the header of the saved population cannot be read: {error}", hint=MADE_SO) from error
    at = _aligned(at + length)
    sections = []
    for size in lengths:
        sections.append(view[at : at + size])
        at = _aligned(at + size)
    return header, sections


def _digest(content: memoryview) -> bytes:
    threads = blake3.blake3.AUTO if len(content) > 1 << 20 else 1
    return blake3.blake3(content, max_threads=threads).digest()


def _joined(header: bytes, sections: list[Any]) -> bytes:
    size = _aligned(len(MARK) + 8 + len(header))
    for each in sections:
        size = _aligned(size + len(each))
    out = bytearray(size + _DIGEST)
    out[: len(MARK)] = MARK
    out[len(MARK) : len(MARK) + 8] = len(header).to_bytes(8, "little")
    out[len(MARK) + 8 : len(MARK) + 8 + len(header)] = header
    at = _aligned(len(MARK) + 8 + len(header))
    with memoryview(out) as view:  # a bytearray would copy each section once more before it takes it
        for each in sections:
            view[at : at + len(each)] = each
            at = _aligned(at + len(each))
        digest = _digest(view[:-_DIGEST])
    out[-_DIGEST:] = digest
    return out  # type: ignore[return-value]


def _aligned(at: int) -> int:
    return -(-at // _ALIGN) * _ALIGN


def _fill(population: Population, said: dict[str, Any], sections: list[memoryview]) -> None:
    try:
        population.restore(sections[said["states"]], sections[said["generations"]])
        first, stop = said.get("first", 0), said.get("stop", population.top)  # a part has a stretch of them
        for index, number in enumerate(said["fields"]):
            column = memoryview(population.column(index, first, stop))
            saved = sections[number].cast(column.format)
            if len(saved) != len(column):
                raise ValueError(f"field {index} has {len(saved)} values for {len(column)} rows")
            if column.contiguous and len(column):
                column.cast("B")[:] = saved.cast("B")
            else:
                for row, value in enumerate(saved):
                    column[row] = value
    except (ValueError, TypeError, IndexError) as error:
        raise SchemaMismatch(f"the columns of {said['name']} do not fit: {error}") from error


def _kind(said: dict[str, Any]) -> type[Kind]:
    kind = _found(said["name"], load=True)
    if not isinstance(kind, type) or not issubclass(kind, Kind):
        raise SchemaMismatch(
            f"the kind {said['name']} is not found", hint="its module must be importable here", kind=said["name"]
        )
    schema = schema_of(kind)
    if schema != said["schema"]:
        raise SchemaMismatch(
            f"{said['name']} declares other fields than when the population was saved: the hash of its schema is "
            f"{schema.hex()}, saved was {said['schema'].hex()}",
            hint="load it with the fields of then, and copy what is needed into a new population",
            kind=said["name"], schema=schema.hex(), saved=said["schema"].hex(),
        )  # fmt: skip
    return kind


def _tick_of(form: Form) -> str | None:
    """By what name its tick is found again; None for the kind's own `tick`, "" for what must be given to `load`."""
    kind = form.kind
    if form.name in ("native", "native_many"):
        module = sys.modules.get(kind.__module__)
        for name, value in vars(module).items() if module is not None else ():
            if value is form.keep:  # an address, too: the module finds its own where it is imported
                return f"{kind.__module__}:{name}"
        return ""
    if form.make is None or form.make is getattr(kind, "tick", None):
        return None
    maker = name_of(form.make)
    if maker is None:
        raise NanoError(
            f"{form.make!r}, which makes the agents of {kind.__qualname__}, cannot be saved: it is not found by its name",
            hint="make it a function or class at the top of a module that can be imported where it is loaded",
        )
    return maker


def pack_own(own: Mapping[int, Any], kind: type[Kind]) -> bytes:
    """What agents keep of themselves, by row. NanoError for what MessagePack has no form for."""
    try:
        return bytes(msgpack.packb([list(own), list(own.values())]))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise NanoError(
            f"what save() of {kind.__qualname__} returns cannot be saved: {error}",
            hint="return numbers, texts, bytes, lists and mappings of them",
        ) from error


def unpack_own(section: Any) -> dict[int, Any]:
    """By row, what `pack_own` packed."""
    rows, values = msgpack.unpackb(section, strict_map_key=False)
    return dict(zip(rows, values, strict=True))


def _form(kind: type[Kind], said: dict[str, Any], ticks: Mapping[str, Any]) -> Form:
    if said["form"] not in ("native", "native_many"):
        form = form_of(kind)
        if said["tick"]:
            make = _found(said["tick"], load=True)
            if not callable(make):
                raise SchemaMismatch(
                    f"{said['tick']}, which makes the agents of {kind.__name__}, is not found",
                    hint="its module must be importable here",
                )
            form = kind.generators(make) if said["form"] == "generator" else kind.objects(make)
        if form.name != said["form"]:
            raise SchemaMismatch(
                f"{kind.__name__} was saved with the form {said['form']}, and has the form {form.name} here"
            )
        return form
    given = ticks.get(kind.__name__)
    if isinstance(given, Form):
        if given.kind is not kind or given.name != said["form"]:
            raise SchemaMismatch(f"{kind.__name__} was saved with the form {said['form']}, not {given.name}")
        return given
    if given is None and said["tick"]:
        given = _found(said["tick"], load=True)
    if given is None:
        raise SchemaMismatch(
            f"the native tick of {kind.__name__} is not found",
            hint=f"give it: nano.load(blob, ticks={{{kind.__name__!r}: address}})",
        )
    make = kind.native if said["form"] == "native" else kind.native_many
    return make(given, whole=said["whole"])


def _found(name: str, *, load: bool = False) -> Any:
    """What `module:name` names, or None. Imports the module only with `load`."""
    module_name, _, path = name.partition(":")
    module = sys.modules.get(module_name)
    if module is None and load:
        try:
            module = importlib.import_module(module_name)
        except (ImportError, ValueError, TypeError):
            return None  # there is none, or what is named is no name
        except Exception as error:
            raise SchemaMismatch(
                f"the module {module_name} cannot be imported: {type(error).__name__}: {error}",
                hint="mend it, or its path",
            ) from error
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    return found
