"""A saved population cut into parts that run side by side, and put together again.

A part holds the whole population's rows by number, but only its own of them live there: so random numbers, messages and
native ticks see the same numbers as in one process. What belongs to a part is settled when it is cut and never changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgpack

from kernels.passes import NEVER
from swarm.nano.arrays import numpy
from swarm.nano.errors import NanoError, SchemaMismatch
from swarm.nano.saving import _joined, parts, unpack_own

By = Literal["kinds", "rows"]
PARTS_MAX: Final = 255
LINE: Final = 64
NOBODY: Final = 255
"""Owner of a row in which no agent lives."""
_COLUMNS: Final = ("rows", "awake", "waiting", "wakes", "periods")
_COUNTED: Final = ("calls", "ticks", "over", "missed")


@dataclass(frozen=True, slots=True)
class Cut:
    """Who has what: for each cohort its rows in each part (arrays of u32, ascending), and which parts have it at all."""

    parts: int
    cohorts: tuple[tuple[Any, ...], ...]
    has: tuple[frozenset[int], ...]
    kinds: tuple[int, ...]
    """The kind of each cohort."""

    def agents(self, part: int) -> int:
        """How many agents a part has, as it was cut."""
        return sum(len(rows[part]) for rows in self.cohorts)

    def owners(self, kind: int, top: int) -> Any:
        """The part of each row of a kind, or NOBODY."""
        np = numpy()
        found = np.full(top, NOBODY, dtype="u1")
        for number, rows in zip(self.kinds, self.cohorts, strict=True):
            if number == kind:
                for part, mine in enumerate(rows):
                    found[mine] = part
        return found


def cut(blob: Any, count: int, by: By | Mapping[str, int] = "kinds", weights: Sequence[float] | None = None) -> Cut:
    """Say who gets what. "kinds" leaves each kind whole, the busiest to the part with the least to do; "rows" gives each part
    as many neighbouring agents of each cohort, or as many as its weight says (one that is ``whole`` stays so); a mapping names the part (from 0) of each kind. NanoError when there are not
    enough kinds, or the mapping is not about those there are."""
    np = numpy()
    header, sections = parts(blob)
    if not isinstance(count, int) or not 1 <= count <= PARTS_MAX:
        raise NanoError(f"{count!r} parts", hint=f"a population is spread over 1 to {PARTS_MAX} parts")
    refused = _cannot_be_cut(header) if count > 1 else None
    if refused is not None:
        raise refused
    cohorts = header["cohorts"]
    rows = [np.frombuffer(sections[each["state"]["rows"]], dtype="<u4") for each in cohorts]
    kinds = tuple(each["kind"] for each in cohorts)
    if by == "rows":
        pieces = _by_rows(cohorts, rows, count, weights)
        has = [frozenset(part for part, piece in enumerate(each) if len(piece)) or frozenset({0}) for each in pieces]
        return Cut(count, tuple(pieces), tuple(has), kinds)
    if by == "kinds":
        where = _by_load(header, rows, kinds, count)
    elif isinstance(by, Mapping):
        where = _by_name(header, by, count)
    else:
        raise NanoError(f"by={by!r}", hint="by is 'kinds', 'rows', or a mapping of kinds to parts")
    none = np.zeros(0, dtype="<u4")
    return Cut(
        count,
        tuple(
            tuple(mine if part == where[kind] else none for part in range(count))
            for kind, mine in zip(kinds, rows, strict=True)
        ),
        tuple(frozenset({where[kind]}) for kind in kinds),
        kinds,
    )


def _cannot_be_cut(header: Mapping[str, Any]) -> NanoError | None:
    if header["topology"] is not None:
        return NanoError(
            f"a population with the topology {header['topology'].get('topology')!r} cannot be spread: it decides over all who are due",
            hint="run it on one node (nodes=1), or without a topology: each part has a core of its own",
        )
    return None


def _by_rows(
    cohorts: Sequence[Mapping[str, Any]], rows: Sequence[Any], count: int, weights: Sequence[float] | None
) -> list[tuple[Any, ...]]:
    """A stretch of each cohort for each part, equal or by weight; one whose tick looks at others of its kind is left whole."""
    np = numpy()
    ends = np.cumsum(weights)[:-1] / sum(weights) if weights is not None else None
    none = np.zeros(0, dtype="<u4")
    load = [0.0] * count
    pieces = []
    for each, mine in zip(cohorts, rows, strict=True):
        if each["whole"]:
            part = load.index(min(load))
            load[part] += len(mine) / (weights[part] if weights is not None else 1.0)
            pieces.append(tuple(mine if number == part else none for number in range(count)))
        elif ends is None:
            pieces.append(tuple(np.array_split(mine, count)))
        else:
            pieces.append(tuple(np.split(mine, np.round(ends * len(mine)).astype(int))))
    return pieces


def _by_load(header: Mapping[str, Any], rows: Sequence[Any], kinds: Sequence[int], count: int) -> dict[int, int]:
    work: dict[int, float] = dict.fromkeys(range(len(header["kinds"])), 0.0)
    for each, mine, kind in zip(header["cohorts"], rows, kinds, strict=True):
        period_ns = each["state"]["period"] or each["period_ns"]
        work[kind] += len(mine) * (1e9 / period_ns if period_ns else 1.0)
    if len(work) < count:
        raise NanoError(
            f"{len(work)} {'kind' if len(work) == 1 else 'kinds'} cannot be spread over {count} nodes by kinds",
            hint="by='rows' gives each node a part of each kind, whose ticks then see only the rows of their own part",
        )
    load = [0.0] * count
    where: dict[int, int] = {}
    for kind in sorted(work, key=lambda number: (-work[number], number)):
        # whoever has nothing yet comes first, so that no part stays empty
        part = min(range(count), key=lambda at: (at in where.values(), load[at], at))
        where[kind] = part
        load[part] += work[kind]
    return where


def _by_name(header: Mapping[str, Any], by: Mapping[str, int], count: int) -> dict[int, int]:
    names = {each["name"]: number for number, each in enumerate(header["kinds"])}
    short = {name.rpartition(":")[2]: number for name, number in names.items()}
    where = {}
    for name, part in by.items():
        number = names.get(name, short.get(name))
        if number is None:
            raise NanoError(
                f"there is no kind {name!r} in the population", hint=f"there are {', '.join(sorted(names))}"
            )
        if not isinstance(part, int) or not 0 <= part < count:
            raise NanoError(f"{name} cannot be in part {part!r}", hint=f"parts are numbered from 0 to {count - 1}")
        where[number] = part
    left = sorted(set(range(len(names))) - set(where))
    if left:
        raise NanoError(f"it is not said where {header['kinds'][left[0]]['name']} goes", hint="name every kind in by=")
    return where


def split(blob: Any, how: Cut) -> list[Any]:
    """A saved population for each part."""
    if how.parts == 1:
        return [blob]
    header, sections = parts(blob)
    owners = [how.owners(number, each["top"]) for number, each in enumerate(header["kinds"])]
    return [_part(header, sections, how, owners, number) for number in range(how.parts)]


def _part(header: dict[str, Any], sections: Sequence[Any], how: Cut, owners: Sequence[Any], me: int) -> Any:
    np = numpy()
    out: list[Any] = []

    def section(content: Any) -> int:
        out.append(memoryview(content).cast("B") if len(content) else b"")
        return len(out) - 1

    kinds = []
    for each, owner in zip(header["kinds"], owners, strict=True):
        mine = np.flatnonzero(owner == me)
        first, stop = (int(mine[0]), int(mine[-1]) + 1) if len(mine) else (0, 0)
        states = np.where(owner == me, np.frombuffer(sections[each["states"]], dtype="u1"), 0).astype("u1")
        kinds.append(each | {
            "states": section(states), "generations": section(sections[each["generations"]]), "first": first, "stop": stop,
            "fields": [section(_rows(sections[number], each["top"], first, stop)) for number in each["fields"]],
        })  # fmt: skip
    cohorts = []
    for each, rows, has in zip(header["cohorts"], how.cohorts, how.has, strict=True):
        state = dict(each["state"])
        columns = {name: np.frombuffer(sections[state[name]], dtype=_type(name)) for name in _COLUMNS}
        inside = np.isin(columns["rows"], rows[me])
        waiting = np.isin(columns["waiting"], rows[me])
        state["rows"] = section(columns["rows"][inside])
        state["awake"] = section(columns["awake"][np.isin(columns["awake"], rows[me])])
        state["waiting"], state["wakes"] = section(columns["waiting"][waiting]), section(columns["wakes"][waiting])
        state["periods"] = section(columns["periods"][inside] if len(columns["periods"]) else b"")
        if me:
            state |= dict.fromkeys(_COUNTED, 0) | {"made": [0] * len(state["made"])}
        if me not in has:
            state |= {"next": NEVER, "period": 0}
        part = each | {"state": state, "absent": me not in has}
        if each.get("own") is not None:
            own = unpack_own(sections[each["own"]])
            part["own"] = section(_own({row: own[row] for row in rows[me].tolist() if row in own}))
        cohorts.append(part)
    topics = [
        each | {"inbox": section(sections[each["inbox"]]), "counters": each["counters"] if me == 0 else [0, 0, 0, 0]}
        for each in header["topics"]
    ]
    made = header | {"kinds": kinds, "cohorts": cohorts, "topics": topics, "sections": [len(each) for each in out]}
    return _joined(bytes(msgpack.packb(made)), out)


def gather(whole: Any, how: Cut, blobs: Sequence[Any]) -> Any:
    """The population that was `whole` when it was cut, as its parts are now: all after the same pass, or in real time."""
    np = numpy()
    if how.parts == 1:
        return blobs[0]
    base, was = parts(whole)
    found = [parts(blob) for blob in blobs]
    ends = {(header["now_ns"], header["passes"]) for header, _ in found}
    if len(found) != how.parts or (len(ends) != 1 and base["time"] != "real"):
        raise SchemaMismatch(
            f"{len(found)} of {how.parts} parts, at {len(ends)} different instants, make no population"
        )
    out: list[Any] = []

    def section(content: Any) -> int:
        out.append(memoryview(content).cast("B") if len(content) else b"")
        return len(out) - 1

    kinds, owners = [], []
    for number, each in enumerate(base["kinds"]):
        owner = how.owners(number, each["top"])
        owners.append(owner)
        masks = [owner == part for part in range(how.parts)]
        kinds.append(each | {
            "states": section(_merged(was[each["states"]], "u1", found, masks, number, "states")),
            "generations": section(_merged(was[each["generations"]], "<u4", found, masks, number, "generations")),
            "fields": [
                section(_merged_field(was[at], each["top"], found, masks, number, field))
                for field, at in enumerate(each["fields"])
            ],
        })  # fmt: skip
    cohorts = [_merged_cohort(number, each, found, how, section) for number, each in enumerate(base["cohorts"])]
    topics = []
    for number, each in enumerate(base["topics"]):
        lines = []
        for part, (header, sections) in enumerate(found):
            inbox = np.frombuffer(sections[header["topics"][number]["inbox"]], dtype=_LINE())
            mine = np.zeros(len(inbox), dtype=bool)
            for kind, owner in enumerate(owners):
                of = np.flatnonzero(inbox["kind"] == kind)
                mine[of] = owner[inbox["row"][of]] == part
            lines.append(inbox[mine])
        together = np.concatenate(lines)
        order = np.argsort(together["kind"].astype("u8") << 32 | together["row"], kind="stable")
        counters = [sum(header["topics"][number]["counters"][at] for header, _ in found) for at in range(4)]
        topics.append(each | {"inbox": section(together[order].tobytes()), "counters": counters})
    # in real time each is where it is; those who are behind have missed what came between
    now_ns, passes = max(now for now, _ in ends), max(made for _, made in ends)
    made = base | {
        "kinds": kinds, "cohorts": cohorts, "topics": topics, "now_ns": now_ns, "passes": passes,
        "sections": [len(each) for each in out],
    }  # fmt: skip
    return _joined(bytes(msgpack.packb(made)), out)


def _merged(base: Any, type: str, found: Sequence[Any], masks: Sequence[Any], kind: int, name: str) -> Any:
    np = numpy()
    merged = np.frombuffer(base, dtype=type).copy()
    for mask, (header, sections) in zip(masks, found, strict=True):
        merged[mask] = np.frombuffer(sections[header["kinds"][kind][name]], dtype=type)[mask]
    return merged


def _merged_field(base: Any, top: int, found: Sequence[Any], masks: Sequence[Any], kind: int, field: int) -> Any:
    np = numpy()
    if not top:
        return b""
    type = np.dtype(("V", len(base) // top))
    merged = np.frombuffer(base, dtype=type).copy()
    for mask, (header, sections) in zip(masks, found, strict=True):
        # a part that runs saves all rows up to the top, one that was only cut the stretch with its own
        said = header["kinds"][kind]
        first, stop = said.get("first", 0), said.get("stop", said["top"])
        there = np.frombuffer(sections[said["fields"][field]], dtype=type)
        merged[first:stop][mask[first:stop]] = there[mask[first:stop]]
    return merged


def _merged_cohort(number: int, base: dict[str, Any], found: Sequence[Any], how: Cut, section: Any) -> dict[str, Any]:
    np = numpy()
    mine = [(part, header["cohorts"][number], sections) for part, (header, sections) in enumerate(found)]
    leader = next(said["state"] for part, said, _ in mine if part in how.has[number])
    state = dict(leader)

    def column(name: str) -> Any:
        return np.concatenate([np.frombuffer(at[said["state"][name]], dtype=_type(name)) for _, said, at in mine])

    for keys, others in (("rows", ("periods",)), ("awake", ()), ("waiting", ("wakes",))):
        rows = column(keys)
        order = np.argsort(rows, kind="stable")
        state[keys] = section(rows[order])
        for other in others:
            values = column(other)
            state[other] = section(values[order] if len(values) else b"")
    for name in _COUNTED:
        state[name] = sum(said["state"][name] for _, said, _ in mine)
    state["made"] = [sum(said["state"]["made"][at] for _, said, _ in mine) for at in range(len(leader["made"]))]
    state["size"] = base["state"]["size"]
    if base.get("own") is not None:
        base = base | {
            "own": section(_own({k: v for _, said, at in mine for k, v in unpack_own(at[said["own"]]).items()}))
        }
    return {name: value for name, value in base.items() if name != "absent"} | {"state": state}


def _own(own: dict[int, Any]) -> bytes:
    return bytes(msgpack.packb([sorted(own), [own[row] for row in sorted(own)]]))


def _rows(section: Any, top: int, first: int, stop: int) -> Any:
    width = len(section) // top if top else 0
    return section[first * width : stop * width]


def _type(name: str) -> str:
    return "<u8" if name in ("wakes", "periods") else "<u4"


def _LINE() -> Any:
    return numpy().dtype([("topic", "<u2"), ("kind", "<u2"), ("row", "<u4"), ("payload", "V56")])
