"""Saved populations go on bit for bit, and what does not fit is refused."""

from __future__ import annotations

import ctypes

import pytest

from swarm import nano
from swarm.nano import saving
from tests.unit.nano.kinds_to_save import Counting, CountingSaved, Falling, Pacer, Tally, Walker, counted, fall


def grown() -> nano.NanoSwarm:
    flock = nano.NanoSwarm(seed=99)
    flock.spawn(Walker, 12, rate_hz=100_000)
    flock.spawn(Walker, 6, rate_hz=[1000 * (n + 1) for n in range(6)], group="own")
    falling = flock.spawn(Falling.native(fall), 9, rate_hz=20_000, budget=nano.Budget(500, "sampled"))
    falling.v[:] = 1.5
    falling.on[::2] = True
    flock.run_for(ns=333_000)
    falling.kill([2, 3])
    falling.suspend([5])
    return flock


def state(flock: nano.NanoSwarm) -> list[object]:
    """All there is to see of it."""
    found: list[object] = [flock.now_ns, flock.passes.made, flock.agents]
    for kind, it in flock.kinds.items():
        for index in range(len(kind.fields)):
            found.append(memoryview(it.population.column(index)).tolist())
        found.append(bytes(memoryview(it.population.bookkeeping("states"))))
    found.append([flock.passes.statistics(number)["ticks"] for number in range(3)])
    found.append({name: flock.bus.counters(number) for name, number in flock.topics.items()})
    return found


def test_saved_and_loaded_it_goes_on_bit_for_bit():
    flock = grown()
    blob = flock.save()
    again = nano.load(blob)
    assert state(again) == state(flock)
    assert again.save() == blob
    reports = [each.run_for(ns=700_000) for each in (flock, again)]
    assert state(again) == state(flock)
    assert reports[0].ticks == reports[1].ticks > 200
    assert [each.ticks for each in reports[0].cohorts] == [each.ticks for each in reports[1].cohorts]
    assert [each.group for each in reports[1].cohorts] == ["", "own", ""]


def test_a_native_tick_that_has_no_name_is_given_when_loading():
    address = ctypes.cast(fall, ctypes.c_void_p).value
    flock = nano.NanoSwarm()
    flock.spawn(Falling.native(address), 2, rate_hz=10)
    blob = flock.save()
    with pytest.raises(nano.SchemaMismatch, match="native tick of Falling") as failed:
        nano.load(blob)
    assert "ticks={'Falling'" in failed.value.hint
    for ticks in ({"Falling": address}, {"Falling": Falling.native(fall)}):
        again = nano.load(blob, ticks=ticks)
        again.run_for(seconds=0.2)
        assert [agent.x for agent in again.cohorts[0]] == [2.0, 4.0]
    with pytest.raises(nano.SchemaMismatch, match="saved with the form native"):
        nano.load(blob, ticks={"Falling": Falling.native_many(fall)})


def test_what_cannot_be_saved_is_refused_by_name():
    class Local(nano.Kind, capacity=4):
        x: nano.f64

        def tick(self, now_ns, bus):
            pass

    def forever(agent, bus):
        while True:
            yield

    for what, name in (
        (Local, "Local"), (Walker.generators(forever), "generators of Walker"),
        (Walker.objects(lambda: Walker), "objects of Walker"),
    ):  # fmt: skip
        flock = nano.NanoSwarm()
        try:
            flock.spawn(what, 1, rate_hz=1)
        except nano.BadTick:
            continue
        with pytest.raises(nano.NanoError, match=name):
            flock.save()


def test_what_agents_keep_beside_their_fields_is_saved_by_them_or_refused():
    flock = nano.NanoSwarm()
    flock.spawn(Counting, 2, rate_hz=10)
    flock.save()  # there is nothing yet
    flock.run_for(seconds=0.5)
    with pytest.raises(nano.NanoError, match="Counting cannot be saved: its agents keep turns beside their fields"):
        flock.save()
    flock = nano.NanoSwarm()
    flock.spawn(CountingSaved, 2, rate_hz=10)
    flock.run_for(seconds=0.5)
    again = nano.load(flock.save())
    for each in (flock, again):
        each.run_for(seconds=0.5)
    assert [agent.x for agent in again.cohorts[0]] == [agent.x for agent in flock.cohorts[0]] == [10.0, 10.0]


def ordinary(seed, capacity=16):
    flock = nano.NanoSwarm(seed=seed)
    flock.spawn(Pacer, 4, rate_hz=[100, 200, 300, 400])
    flock.spawn(Pacer.generators(counted), 3, rate_hz=250)
    flock.spawn(Pacer.objects(Tally), 3, rate_hz=250)
    return flock


def told(flock):
    return [[(agent.x, agent.turns) for agent in agents] for agents in flock.cohorts]


def test_agents_that_save_and_restore_themselves_go_on_where_they_stood():
    flock, alone = ordinary(3), ordinary(3)
    flock.run_for(seconds=0.105)
    again = nano.load(flock.save())
    for each in (flock, again):
        each.run_for(seconds=0.2)
    alone.run_for(seconds=0.305)
    assert told(flock) == told(again) == told(alone)
    assert told(flock)[0][0][0] > 0 and told(flock)[1][0][0] == 77 * 0.5
    assert again.save() == flock.save()


def test_they_are_cut_into_parts_with_their_own_state():
    from swarm.nano import partition

    flock = ordinary(4)
    flock.run_for(seconds=0.1)
    blob = flock.save()
    how = partition.cut(blob, 2, "rows")
    pieces = partition.split(blob, how)
    assert {row for piece in pieces for row in rows_of(piece)} == rows_of(blob) != rows_of(pieces[0])
    assert nano.load(partition.gather(blob, how, pieces)).save() == blob


def rows_of(blob):
    header, sections = saving.parts(blob)
    return {(each["tick"], row) for each in header["cohorts"] for row in saving.unpack_own(sections[each["own"]])}


def test_what_they_keep_must_be_plain_and_what_raises_is_named(monkeypatch):
    flock = ordinary(5)
    flock.run_for(seconds=0.01)
    blob = flock.save()
    monkeypatch.setattr(Tally, "save", lambda self: object())
    with pytest.raises(nano.NanoError, match="what save.. of Pacer returns cannot be saved"):
        flock.save()
    monkeypatch.setattr(Tally, "save", lambda self: 1 / 0)
    with pytest.raises(nano.NanoError, match="save.. of .*Pacer.* raised ZeroDivisionError"):
        flock.save()
    monkeypatch.setattr(Tally, "restore", lambda self, value: 1 / 0)
    with pytest.raises(nano.SchemaMismatch, match="restore.. of .*Pacer.* raised ZeroDivisionError"):
        nano.load(blob)
    from tests.unit.nano import kinds_to_save

    monkeypatch.delattr(kinds_to_save, "Tally")
    with pytest.raises(nano.SchemaMismatch, match="Tally, which makes the agents of Pacer, is not found"):
        nano.load(blob)


def test_another_schema_is_refused(monkeypatch):
    blob = grown().save()
    monkeypatch.setitem(Falling.fields, "v", nano.fields.BY_NAME["f64"])
    with pytest.raises(nano.SchemaMismatch, match="declares other fields"):
        nano.load(blob)


def test_a_kind_that_is_gone_is_refused(monkeypatch):
    from tests.unit.nano import kinds_to_save

    blob = grown().save()
    monkeypatch.delattr(kinds_to_save, "Falling")
    with pytest.raises(nano.SchemaMismatch, match="Falling is not found"):
        nano.load(blob)


@pytest.mark.parametrize("where", [0, 3, 20, 200, -40, -1])
def test_one_flipped_bit_is_found(where):
    blob = bytearray(grown().save())
    blob[where] ^= 4
    with pytest.raises(nano.SchemaMismatch):
        nano.load(blob)


def test_what_is_no_blob_is_refused():
    good = bytes(grown().save())
    for wrong in (b"", b"x" * 200, good[:-1], good[:100], saving.MARK + bytes(40)):
        with pytest.raises(nano.SchemaMismatch):
            nano.load(wrong)
    later = bytearray(good)
    later[15] = 2
    with pytest.raises(nano.SchemaMismatch, match="format 2"):
        nano.load(later)
