"""Ranks: which of many executors gets the next tasks of one kind, judged column by column.

What is decided here, and why, stands in `swarm.protocol.placement`, in Python; this comes to the same, for hundreds of executors in a
few microseconds. A row is one executor, and rows are in the order of the executors' ids. Nothing is judged twice for the same mean
run time, and when that is another all rows are judged anew in one loop.
"""

from functools import cmp_to_key

from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.math cimport floor, fma, fmod, rint
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memmove, memset

cdef enum:
    SHOWN = 16                # rows of which a decision keeps on record what it thought of them
    DIRTY = 16                # rows that are judged one by one; of more, all are
    CLASSES = 3               # of work that may make way for other work
    # Flags of a row
    LINKED = 1
    LOCAL = 2
    DRAINING = 4
    SUSPECT = 8
    NEVER = 16                # no task of this kind fits there
    # Why a row has no room, or whose it is; also places in `words`
    ROOM = 0
    DRAINS = 1
    SILENT = 2
    FULL = 3
    WAY = 4                   # less urgent work makes way: and its class
    UNFIT = 7                 # what the row itself says

    BOUND = 1 << 24           # slots, and tasks that wait: with it no product of these overflows

SHOWN_MAX = SHOWN

cdef int64_t FAR = 1099511627776                # 2^40: tasks
cdef double EXACT = 4503599627370496.0          # 2^52: from here on doubles are integers


cdef struct Row:
    double withheld, others, speed, free
    double low[CLASSES]
    int64_t fitting, blocked, ours, here
    uint8_t flags


cdef struct Judged:
    double late               # wait and lag, in ms, rounded: what orders them
    double wait, lag          # seconds
    int64_t room
    int32_t grade             # whether there is room, and whether somebody gives it up: the least is best
    uint8_t code, gives, away, far, fits


cdef double in_ms(double seconds) noexcept nogil:
    """As round(seconds, 3) orders them: to whole ms, half to even by the exact value."""
    cdef double product = seconds * 1000.0, whole, rest
    if not -EXACT < product < EXACT:
        return product
    whole = rint(product)
    rest = product - whole
    if rest == 0.5 or rest == -0.5:
        # What the product lost in rounding says on which side of the half it is.
        seconds = fma(seconds, 1000.0, -product)
        if seconds > 0.0 and rest > 0.0:
            whole += 1.0
        elif seconds < 0.0 and rest < 0.0:
            whole -= 1.0
    return whole


cdef double floor_divided(double a, double b) noexcept nogil:
    """a // b as Python has it, for a >= 0 and b > 0."""
    cdef double quotient = (a - fmod(a, b)) / b
    cdef double whole = floor(quotient)
    return whole + 1.0 if quotient - whole > 0.5 else whole


cdef class Ranked:
    """What was thought of the best rows when it was decided: rendered when somebody asks."""

    cdef object names, words
    cdef dict never
    cdef Py_ssize_t count
    cdef int64_t rooms[SHOWN]
    cdef double waits[SHOWN]
    cdef uint8_t codes[SHOWN]

    def lines(self):
        """[(name, room in tasks, wait in seconds, why there is none or whose it is), ...], the best first."""
        return [
            (
                self.names[i], self.rooms[i], round(self.waits[i], 3),
                self.never[i] if self.codes[i] == UNFIT else self.words[self.codes[i]],
            )
            for i in range(self.count)
        ]

    def __len__(self):
        return self.count

    def __iter__(self):
        return iter(self.lines())

    def __repr__(self):
        return repr(self.lines())


cdef class Ranks:
    """Rows for tasks that take `cpu` slots each.

    `words` are the texts for: room, draining, not answering, full, and work of each of three classes making way. `ways` says whose
    work makes way, a bit a class, 0 for none. The rest are constants of the policy: `slack` in slots, `deep_below_s`, `horizon_s` and
    `window_max` of windows.
    """

    cdef Row* rows
    cdef Judged* judged
    cdef Py_ssize_t size, space
    cdef Py_ssize_t top[SHOWN]
    cdef list names
    cdef list nevers
    cdef object words
    cdef double cpu, slack, deep_below, horizon, mean
    cdef int64_t window_max
    cdef int ways
    cdef Py_ssize_t dirty[DIRTY]
    cdef Py_ssize_t dirty_count
    cdef bint known, all_dirty
    cdef readonly int64_t room
    """Of all together, in tasks, as last judged."""
    cdef readonly bint passed_over
    """Whether, in the last decision, somebody was better than who got it, and has no link."""

    def __init__(self, double cpu, int ways, words, double slack, double deep_below_s, double horizon_s, int64_t window_max):
        if not cpu >= 0.0 or not slack > 0.0 or len(words) != UNFIT or not 0 <= ways < 1 << CLASSES:
            raise ValueError(f"no such kind of tasks: {cpu} slots each, {ways:#b} make way, {len(words)} words")
        self.cpu, self.ways, self.words, self.slack = cpu, ways, tuple(words), slack
        self.deep_below, self.horizon, self.window_max = deep_below_s, horizon_s, window_max
        self.names, self.nevers = [], []
        self.all_dirty = True

    def __dealloc__(self):
        PyMem_Free(self.rows)
        PyMem_Free(self.judged)

    def __len__(self):
        return self.size

    def insert(self, Py_ssize_t row):
        """One more row, before this one; it is to be `put` before the next decision."""
        cdef Py_ssize_t space
        cdef void* grown
        if not 0 <= row <= self.size:
            raise IndexError(f"row {row} of {self.size}")
        if self.size == self.space:
            space = 2 * self.space + 16
            grown = PyMem_Realloc(self.rows, space * sizeof(Row))
            if grown == NULL:
                raise MemoryError()
            self.rows = <Row*> grown
            grown = PyMem_Realloc(self.judged, space * sizeof(Judged))
            if grown == NULL:
                raise MemoryError()
            self.judged = <Judged*> grown
            self.space = space
        self.names.insert(row, "")
        self.nevers.insert(row, "")
        memmove(self.rows + row + 1, self.rows + row, (self.size - row) * sizeof(Row))
        memset(self.rows + row, 0, sizeof(Row))
        self.rows[row].speed = 1.0
        self.size += 1
        self.all_dirty = True

    def remove(self, Py_ssize_t row):
        """A row less."""
        self.check(row)
        del self.names[row], self.nevers[row]
        memmove(self.rows + row, self.rows + row + 1, (self.size - row - 1) * sizeof(Row))
        self.size -= 1
        self.all_dirty = True

    def put(
        self, Py_ssize_t row, name, never, bint linked, bint local, bint draining, bint suspect, int64_t fitting,
        int64_t blocked, double withheld, double others, int64_t ours, int64_t here, double speed, double free, low,
    ):
        """What is known of an executor now. `never`: why no such task fits there, or ""; `fitting`: how many do at a time, or `here`
        are there, of `ours`; `low`: slots there whose tasks make way, by class. ValueError for what is beyond 2^24."""
        cdef Row* it
        self.check(row)
        if not (
            0 <= fitting <= BOUND and 0 <= blocked <= BOUND and 0.0 <= withheld <= BOUND and 0.0 <= others <= BOUND
            and -FAR <= ours <= FAR and -FAR <= here <= FAR and 0.0 < speed <= BOUND
        ):
            raise ValueError(f"no executor is like this: {(fitting, blocked, withheld, others, ours, here, speed)}")
        it = self.rows + row
        self.names[row] = name
        self.nevers[row] = never
        it.flags = (
            (LINKED if linked else 0) | (LOCAL if local else 0) | (DRAINING if draining else 0)
            | (SUSPECT if suspect else 0) | (NEVER if never else 0)
        )
        it.fitting, it.blocked, it.withheld, it.others = fitting, blocked, withheld, others
        it.ours, it.here, it.speed, it.free = ours, here, speed, free
        self.give(row, low)

    def give(self, Py_ssize_t row, low):
        """Slots there whose tasks make way are these now."""
        cdef Row* it
        cdef int i = 0
        self.check(row)
        it = self.rows + row
        memset(it.low, 0, sizeof(it.low))
        for slots in low:
            if i == CLASSES:
                break
            it.low[i] = min(<double> slots, <double> BOUND)
            i += 1
        self.touch(row)

    def sent(self, Py_ssize_t row, int64_t count):
        """So many tasks of this kind were sent to an executor."""
        self.check(row)
        self.rows[row].ours += count
        self.rows[row].here += count
        self.touch(row)

    def is_short(self, Py_ssize_t row, mean_s):
        """Whether urgent tasks would find no free slot at an executor where they fit, unless somebody makes way."""
        cdef Judged found
        self.check(row)
        self.believe(mean_s)
        found.room = 0
        self.judge_plainly(self.rows + row, &found)
        return bool(self.ways and found.fits and not (found.room and self.rows[row].free >= self.cpu))

    def best(self, mean_s, int64_t waiting, int64_t step_max):
        """Who gets how many of so many waiting tasks, of `mean_s` seconds each (None: unknown): (row, tasks, whether others are
        suspended for them, what was thought of the best). Row -1 when nobody has room who can be reached."""
        cdef Py_ssize_t best = -1, i
        cdef int64_t count = 0
        cdef Judged* it
        self.refresh(mean_s)
        waiting = min(waiting, BOUND)
        with nogil:
            self.select()
            self.passed_over = False
            for i in range(min(self.size, SHOWN)):
                if self.judged[self.top[i]].room == 0:
                    break
                if not self.judged[self.top[i]].far:
                    best = self.top[i]
                    break
                self.passed_over = True
            else:
                for i in range(self.size):
                    if self.judged[i].room and not self.judged[i].far and (best < 0 or self.before(i, best)):
                        best = i
        if best < 0:
            return -1, 0, False, self.shown()
        it = self.judged + best
        # Several executors with room share what is left, so that all of them end at about the same time.
        count = waiting
        if self.room > it.room:
            count = (waiting * it.room + self.room - 1) / self.room
        count = max(1, min(count, it.room, step_max))
        return best, count, it.code >= WAY and it.code != UNFIT, self.shown()

    def unreached(self, Py_ssize_t best):
        """Rows with room that stand before this one (-1: all with room) and have no link, the best first."""
        return [row for row in self.order() if self.judged[row].room and self.judged[row].far
                and (best < 0 or self.before(row, best))]

    def order(self):
        """All rows as last judged, the best first."""
        return sorted(range(self.size), key=cmp_to_key(lambda a, b: -1 if self.before(a, b) else 1))

    def verdict(self, Py_ssize_t row):
        """What was thought of a row: (room in tasks, wait in s, why, whether it fits, lag in s, whether others are suspended, the
        lowest class of these)."""
        cdef Judged* it
        self.check(row)
        it = self.judged + row
        why = self.nevers[row] if it.code == UNFIT else self.words[it.code]
        return it.room, it.wait, why, bool(it.fits), it.lag, it.code >= WAY and it.code != UNFIT, it.gives

    def refresh(self, mean_s):
        """Judge whatever has changed, or all when the mean run time has."""
        cdef Py_ssize_t i, row
        self.believe(mean_s)
        with nogil:
            if self.all_dirty:
                self.room = 0
                for row in range(self.size):
                    self.judge(self.rows + row, self.judged + row)
                    self.room += self.judged[row].room
            else:
                for i in range(self.dirty_count):
                    row = self.dirty[i]
                    self.room -= self.judged[row].room
                    self.judge(self.rows + row, self.judged + row)
                    self.room += self.judged[row].room
        self.all_dirty = False
        self.dirty_count = 0

    # --- inside -------------------------------------------------------------------------------------------------------

    cdef int check(self, Py_ssize_t row) except -1:
        if not 0 <= row < self.size:
            raise IndexError(f"row {row} of {self.size}")
        return 0

    cdef void touch(self, Py_ssize_t row) noexcept:
        if self.dirty_count == DIRTY:
            self.all_dirty = True
        else:
            self.dirty[self.dirty_count] = row
            self.dirty_count += 1

    cdef int believe(self, mean_s) except -1:
        cdef bint known = mean_s is not None
        cdef double mean = mean_s if known else 1.0
        if known != self.known or mean != self.mean:
            self.known, self.mean, self.all_dirty = known, mean, True
        return 0

    cdef void judge_plainly(self, Row* it, Judged* out) noexcept nogil:
        """As `_judge` of the policy."""
        cdef int64_t width, mine, window
        cdef double queued, ahead, wide
        out.room, out.wait, out.lag, out.fits, out.gives = 0, 0.0, 0.0, False, 0
        if it.flags & (DRAINING | NEVER | SUSPECT):
            out.code = DRAINS if it.flags & DRAINING else UNFIT if it.flags & NEVER else SILENT
            return
        out.fits = True
        width = it.fitting + it.blocked
        if it.withheld != 0.0:
            if self.cpu > 0.0:
                width -= <int64_t> (it.withheld / max(self.cpu, self.slack))
            width = max(1, width)
        wide = <double> max(width, 1)
        queued = <double> it.ours + it.others - <double> width + 1.0
        if queued > 0.0:
            out.wait = queued / wide * self.mean / it.speed
        if self.known and it.speed != 1.0:
            out.lag = self.mean / it.speed - self.mean
        if self.known and self.mean < self.deep_below:
            ahead = <double> width * it.speed * self.horizon / max(self.mean, 1e-6)
            window = self.window_max * width
            if ahead < <double> window:
                window = <int64_t> ahead
            window = max(2 * width, window)
            out.room = max(0, window - it.here)
        else:
            mine = max(it.here, min(it.ours, width))
            out.room = max(0, width - mine - <int64_t> it.others)
        out.code = ROOM if out.room else FULL

    cdef void judge(self, Row* it, Judged* out) noexcept nogil:
        """As `judge` of the policy, and `order`."""
        cdef double slots = 0.0, late
        cdef int64_t room
        cdef int running, gives = CLASSES
        self.judge_plainly(it, out)
        if self.ways and out.fits and self.cpu > 0.0 and not (out.room and it.free >= self.cpu):
            for running in range(CLASSES):
                if it.low[running] > 0.0 and self.ways >> running & 1:
                    slots += it.low[running]
                    gives = min(gives, running)
            room = <int64_t> floor_divided(slots + self.slack, max(self.cpu, self.slack))
            if room > 0:
                out.room, out.wait, out.lag, out.gives = room, 0.0, 0.0, gives
                out.code = WAY + gives
        late = out.wait + out.lag
        out.late = in_ms(late) if late != 0.0 else 0.0
        out.grade = (out.room == 0) << 8 | (WAY <= out.code < UNFIT) << 4 | out.gives
        out.away = not it.flags & LOCAL
        out.far = not it.flags & LINKED

    cdef inline bint before(self, Py_ssize_t a, Py_ssize_t b) noexcept nogil:
        """Whether a row is better than another."""
        cdef Judged* one = self.judged + a
        cdef Judged* other = self.judged + b
        if one.grade != other.grade:
            return one.grade < other.grade
        if one.late != other.late:
            return one.late < other.late
        if one.away != other.away:
            return other.away
        if self.rows[a].speed != self.rows[b].speed:
            return self.rows[a].speed > self.rows[b].speed
        if one.room != other.room:
            return one.room > other.room
        return a < b

    cdef void select(self) noexcept nogil:
        """The best rows into `top`, by insertion: few of many rows come before the last of these."""
        cdef Py_ssize_t row, place, count = 0
        for row in range(self.size):
            if count == SHOWN:
                if not self.before(row, self.top[SHOWN - 1]):
                    continue
                place = SHOWN - 1
            else:
                place = count
                count += 1
            while place and self.before(row, self.top[place - 1]):
                self.top[place] = self.top[place - 1]
                place -= 1
            self.top[place] = row

    cdef Ranked shown(self):
        cdef Ranked out = Ranked.__new__(Ranked)
        cdef Py_ssize_t i, row, count = min(self.size, SHOWN)
        cdef list names = [None] * count
        for i in range(count):
            row = self.top[i]
            names[i] = self.names[row]
            out.rooms[i] = self.judged[row].room
            out.waits[i] = self.judged[row].wait
            out.codes[i] = self.judged[row].code
            if out.codes[i] == UNFIT:
                if out.never is None:
                    out.never = {}
                out.never[i] = self.nevers[row]
        out.count, out.names, out.words = count, names, self.words
        return out
