"""Where the agents of a cohort stand, to be saved, and put back."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from kernels.cohorts cimport Cohort, Kind
from kernels.members cimport *
from kernels.population cimport SUSPENDED, Population
from kernels.schedule cimport Schedule


def save_cohort(Schedule self not None, Py_ssize_t cohort):
    """What `restore_cohort` wants, by name: rows as bytes of u32, instants as bytes of u64. Between two passes."""
    cdef Cohort* c = self.at(cohort)
    cdef Kind* kind = &self.kinds[c.ctx.kind]
    cdef Population population = self.populations[c.ctx.kind]
    cdef uint32_t row, n = 0, waits = 0
    cdef size_t i = 0
    cdef uint32_t* rows_at
    cdef uint32_t* waiting_at
    cdef uint64_t* wakes_at
    cdef uint64_t* periods_at
    cdef uint32_t* awake_at

    self.still()
    if self.inside:
        raise RuntimeError("a pass waits to be finished")
    for row in range(population.top):
        if kind.owner[row] == <uint32_t> cohort and population.states[row] != 0:
            n += 1
            if i < c.awake.n and member(&c.awake, i) == row:
                i += 1
            elif population.states[row] != SUSPENDED:
                waits += 1
    rows, awake = bytearray(4 * n), bytearray(4 * c.awake.n)
    periods = bytearray(8 * n if c.turns != NULL else 0)
    waiting, wakes = bytearray(4 * waits), bytearray(8 * waits)
    rows_at, awake_at = <uint32_t*> <char*> rows, <uint32_t*> <char*> awake
    waiting_at, wakes_at = <uint32_t*> <char*> waiting, <uint64_t*> <char*> wakes
    periods_at = <uint64_t*> <char*> periods
    n = waits = 0
    i = 0
    for row in range(population.top):
        if kind.owner[row] != <uint32_t> cohort or population.states[row] == 0:
            continue
        rows_at[n] = row
        if c.turns != NULL:
            periods_at[n] = c.turns[row].period
        n += 1
        if i < c.awake.n and member(&c.awake, i) == row:
            awake_at[i] = row
            i += 1
        elif population.states[row] != SUSPENDED:
            waiting_at[waits] = row
            wakes_at[waits] = c.next if is_member(&c.joining, row) else c.turns[row].wake if c.turns != NULL else kind.wakes[row]
            waits += 1
    return {
        "rows": rows, "awake": awake, "waiting": waiting, "wakes": wakes, "periods": periods,
        "next": c.next, "period": c.period, "size": c.size, "calls": c.calls, "ticks": c.ticks, "over": c.over,
        "missed": c.missed, "owed": c.owed, "cursor": c.cursor, "since": c.since, "made": [c.made.outcomes[i] for i in range(5)],
    }


def restore_cohort(Schedule self not None, Py_ssize_t cohort, saved):
    """Put a cohort, just added with the saved rows, into the saved state. ValueError when that does not fit."""
    cdef Cohort* c = self.at(cohort)
    cdef Kind* kind = &self.kinds[c.ctx.kind]
    cdef Population population = self.populations[c.ctx.kind]
    cdef bytes rows = bytes(saved["rows"]), awake = bytes(saved["awake"]), waiting = bytes(saved["waiting"])
    cdef bytes wakes = bytes(saved["wakes"]), periods = bytes(saved["periods"])
    cdef const uint32_t* rows_at = <const uint32_t*> <const char*> rows
    cdef const uint32_t* awake_at = <const uint32_t*> <const char*> awake
    cdef const uint32_t* waiting_at = <const uint32_t*> <const char*> waiting
    cdef const uint64_t* wakes_at = <const uint64_t*> <const char*> wakes
    cdef const uint64_t* periods_at = <const uint64_t*> <const char*> periods
    cdef size_t n = len(rows) // 4, awakes = len(awake) // 4, waits = len(waiting) // 4, i, a = 0, w = 0

    if len(rows) % 4 or len(awake) % 4 or len(waiting) % 4 or len(wakes) != 2 * len(waiting):
        raise ValueError("columns of rows and instants that do not fit each other")
    made = tuple(saved["made"])
    if len(made) != 5:
        raise ValueError(f"{len(made)} counts of outcomes, of which there are 5")
    if len(periods) != (2 * len(rows) if c.turns != NULL else 0):
        raise ValueError("periods that do not fit the agents")
    for i in range(n):
        if rows_at[i] >= population.top or kind.owner[rows_at[i]] != <uint32_t> cohort:
            raise ValueError(f"row {rows_at[i]} is not of this cohort")
        if i and rows_at[i] <= rows_at[i - 1]:
            raise ValueError("the rows of a cohort ascend")
        if a < awakes and awake_at[a] == rows_at[i]:
            a += 1
        elif w < waits and waiting_at[w] == rows_at[i]:
            w += 1
    if a != awakes or w != waits:
        raise ValueError("agents that are awake or wait, and are not of this cohort")
    if c.turns != NULL:  # else nobody of a cohort just added waits in the wheel
        for i in range(n):
            self.wheel.cancel(kind.base + rows_at[i])
            c.turns[rows_at[i]].period = max(periods_at[i], self.resolution_ns)
    empty(&c.awake)
    if awakes and awake_at[awakes - 1] - awake_at[0] == awakes - 1:
        c.awake.first = awake_at[0]
        c.awake.n = awakes
    elif awakes:
        if not room_for(&c.awake, awakes):
            raise MemoryError("no memory for the rows of a cohort")
        memcpy(c.awake.rows, awake_at, 4 * awakes)
        c.awake.n = awakes
    for i in range(waits):
        if self.wait(c, waiting_at[i], self.ceil(max(wakes_at[i], self.now_ns))) < 0:
            raise MemoryError("no memory in the timer wheel")
    c.owed, c.cursor, c.since = min(<uint64_t> saved["owed"], c.awake.n), saved["cursor"], saved["since"]
    c.next = saved["next"]
    self.nexts[cohort] = c.next
    c.period = saved["period"]
    c.size = saved["size"]
    c.calls, c.ticks, c.over, c.missed = saved["calls"], saved["ticks"], saved["over"], saved["missed"]
    for i, times in enumerate(made):
        c.made.outcomes[i] = times
    c.version += 1
