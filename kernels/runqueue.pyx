"""What is ready to run here: runs of tasks in four classes, with ageing.

A run is a number of tasks of one batch under one key. The head is the run of the highest class; in a class the lowest
nice value, then the longest wait. A run rises by one class for each `ageing_ns` that it waited, up to HIGH, so nothing
starves (priority scheduling with ageing: Silberschatz, Galvin, Gagne, "Operating System Concepts", chapter 5), and
nothing but CRITICAL itself runs as CRITICAL. Each class is a binary heap with positions, and one more heap holds when
the next run rises: a push, pop or removal is O(log runs) and looks at nothing else.
"""

from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport INT64_MAX, INT64_MIN, int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memset

cdef enum:
    CLASSES = 4
    HIGH = 2
    CRITICAL = 3
    RISING = 4                          # the fifth heap: by the instant of the next rise
    HEAPS = 5
    NICE_MIN = -20
    NICE_MAX = 19

LOW_CLASS = 0
STANDARD_CLASS = 1
HIGH_CLASS = HIGH
CRITICAL_CLASS = CRITICAL

cdef struct Run:
    uint64_t key
    uint64_t order                      # of pushing, breaks ties
    int64_t since                       # ns: waits since then
    int64_t rises                       # ns: instant of the next rise; meaningless in HIGH and CRITICAL
    Py_ssize_t count
    int32_t place[2]                    # position in the heap of its class, and in RISING
    int32_t nice
    uint8_t klass                       # as pushed
    uint8_t level                       # as it stands now
    uint8_t used

cdef struct Heap:
    int32_t* items                      # of runs
    Py_ssize_t size
    Py_ssize_t room


cdef class RunQueue:
    """Runs that wait here, the head first. Times are ns of one clock of the caller's; it may not run backwards."""

    cdef Run* table
    cdef Py_ssize_t room
    cdef list free
    cdef dict where                     # key -> place in the table
    cdef Heap heaps[HEAPS]
    cdef Py_ssize_t per_class[CLASSES]
    cdef uint64_t pushed
    cdef int64_t now
    cdef int64_t ageing
    cdef readonly Py_ssize_t tasks

    def __init__(self, int64_t ageing_ns=10_000_000_000):
        if ageing_ns <= 0:
            raise ValueError(f"ageing_ns is {ageing_ns}; it must be positive")
        self.ageing = ageing_ns
        self.now = INT64_MIN
        self.free = []
        self.where = {}

    def __dealloc__(self):
        cdef int which
        PyMem_Free(self.table)
        for which in range(HEAPS):
            PyMem_Free(self.heaps[which].items)

    @property
    def runs(self):
        """How many runs wait."""
        return len(self.where)

    # -- heaps

    cdef inline bint before(self, int which, int32_t a, int32_t b) noexcept nogil:
        cdef Run* x = &self.table[a]
        cdef Run* y = &self.table[b]
        if which == RISING:
            return x.rises < y.rises or (x.rises == y.rises and x.order < y.order)
        if x.nice != y.nice:
            return x.nice < y.nice
        if x.since != y.since:
            return x.since < y.since
        return x.order < y.order

    cdef inline void put(self, int which, Py_ssize_t at, int32_t run) noexcept nogil:
        self.heaps[which].items[at] = run
        self.table[run].place[which == RISING] = <int32_t> at

    cdef void sift(self, int which, Py_ssize_t at) noexcept nogil:
        """Move the item at this position up or down to where it belongs."""
        cdef Heap* heap = &self.heaps[which]
        cdef int32_t run = heap.items[at]
        cdef Py_ssize_t child, parent
        while at > 0:
            parent = (at - 1) >> 1
            if not self.before(which, run, heap.items[parent]):
                break
            self.put(which, at, heap.items[parent])
            at = parent
        while True:
            child = 2 * at + 1
            if child >= heap.size:
                break
            if child + 1 < heap.size and self.before(which, heap.items[child + 1], heap.items[child]):
                child += 1
            if not self.before(which, heap.items[child], run):
                break
            self.put(which, at, heap.items[child])
            at = child
        self.put(which, at, run)

    cdef int reserve(self, int which) except -1:
        """Room for one more, so that insert() cannot fail."""
        cdef Heap* heap = &self.heaps[which]
        cdef Py_ssize_t room
        cdef void* items
        if heap.size < heap.room:
            return 0
        room = heap.room * 2 if heap.room else 16
        items = PyMem_Realloc(heap.items, room * sizeof(int32_t))
        if items == NULL:
            raise MemoryError("no memory for the run queue")
        heap.items = <int32_t*> items
        heap.room = room
        return 0

    cdef void insert(self, int which, int32_t run) noexcept nogil:
        cdef Py_ssize_t at = self.heaps[which].size
        self.heaps[which].size += 1
        self.put(which, at, run)
        self.sift(which, at)

    cdef void discard(self, int which, int32_t run) noexcept nogil:
        cdef Heap* heap = &self.heaps[which]
        cdef Py_ssize_t at = self.table[run].place[which == RISING]
        heap.size -= 1
        if at != heap.size:
            self.put(which, at, heap.items[heap.size])
            self.sift(which, at)

    # -- runs

    cdef int age(self, int64_t now_ns) except -1:
        """Raise every run whose time has come. Each rises twice at most, so this is amortised over its pushes."""
        cdef Heap* rising = &self.heaps[RISING]
        cdef Run* run
        cdef int32_t at
        if now_ns > self.now:
            self.now = now_ns
        while rising.size and self.table[rising.items[0]].rises <= self.now:
            at = rising.items[0]
            run = &self.table[at]
            self.reserve(run.level + 1)
            self.discard(run.level, at)
            self.discard(RISING, at)
            run.level += 1
            self.insert(run.level, at)
            if run.level < HIGH:
                run.rises = later(run.rises, self.ageing)
                self.insert(RISING, at)
        return 0

    cdef int32_t head(self) noexcept:
        cdef int which
        for which in range(CRITICAL, -1, -1):
            if self.heaps[which].size:
                return self.heaps[which].items[0]
        return -1

    cdef Py_ssize_t shorten(self, int32_t at, Py_ssize_t limit) except -1:
        """Take up to limit tasks off a run, and the run away with the last."""
        cdef Run* run = &self.table[at]
        cdef Py_ssize_t taken = limit if limit < run.count else run.count
        run.count -= taken
        self.tasks -= taken
        self.per_class[run.klass] -= taken
        if run.count == 0:
            self.discard(run.level, at)
            if run.level < HIGH:
                self.discard(RISING, at)
            run.used = 0
            del self.where[run.key]
            self.free.append(at)
        return taken

    cdef int32_t place(self) except -1:
        cdef Py_ssize_t room, i
        cdef void* table
        if not self.free:
            room = self.room * 2 if self.room else 16
            if room > 0x7FFFFFFF:
                raise MemoryError("the run queue holds 2^31 runs at most")
            table = PyMem_Realloc(self.table, room * sizeof(Run))
            if table == NULL:
                raise MemoryError("no memory for the run queue")
            self.table = <Run*> table
            memset(self.table + self.room, 0, (room - self.room) * sizeof(Run))
            self.free.extend(range(room - 1, self.room - 1, -1))
            self.room = room
        return self.free.pop()

    def push(self, uint64_t key, int klass, int nice, int64_t now_ns, Py_ssize_t count):
        """Queue a run of `count` tasks under a key of its own, waiting since now_ns (an earlier one keeps its age).

        klass is 0 LOW to 3 CRITICAL, nice -20 to 19. ValueError for others, for an empty run and for a key that waits
        already.
        """
        cdef int32_t at
        cdef Run* run
        if not 0 <= klass < CLASSES:
            raise ValueError(f"class {klass}; there are 0 (LOW) to 3 (CRITICAL)")
        if not NICE_MIN <= nice <= NICE_MAX:
            raise ValueError(f"nice {nice}; it goes from {NICE_MIN} to {NICE_MAX}")
        if count < 1:
            raise ValueError(f"a run of {count} tasks")
        if key in self.where:
            raise ValueError(f"run {key} waits already")
        self.reserve(klass)
        self.reserve(RISING)
        at = self.place()
        self.where[key] = at
        run = &self.table[at]
        run.key = key
        run.order = self.pushed
        run.since = now_ns
        run.rises = later(now_ns, self.ageing)
        run.count = count
        run.nice = nice
        run.klass = run.level = <uint8_t> klass
        run.used = 1
        self.pushed += 1
        self.tasks += count
        self.per_class[klass] += count
        self.insert(klass, at)
        if klass < HIGH:
            self.insert(RISING, at)

    def pop(self, int64_t now_ns, Py_ssize_t limit):
        """Take up to limit tasks off the head: (key, how many), or None. The rest of the run stays where it is."""
        cdef int32_t at
        cdef uint64_t key
        if limit < 1:
            raise ValueError(f"limit is {limit}; at least 1 task must be asked for")
        self.age(now_ns)
        at = self.head()
        if at < 0:
            return None
        key = self.table[at].key
        return key, self.shorten(at, limit)

    def peek(self, int64_t now_ns):
        """The head as (key, how many wait in it), or None."""
        cdef int32_t at
        self.age(now_ns)
        at = self.head()
        if at < 0:
            return None
        return self.table[at].key, self.table[at].count

    def take_from(self, uint64_t key, Py_ssize_t limit):
        """Take up to limit tasks off the run of this key; returns how many, 0 when it does not wait."""
        at = self.where.get(key)
        if limit < 1 or at is None:
            return 0
        return self.shorten(at, limit)

    def remove(self, uint64_t key):
        """Take the whole run of this key away; returns how many tasks waited in it, 0 when it does not wait."""
        at = self.where.get(key)
        if at is None:
            return 0
        return self.shorten(at, self.table[<int32_t> at].count)

    def waiting(self, int klass):
        """How many tasks wait that were pushed with this class."""
        if not 0 <= klass < CLASSES:
            raise ValueError(f"class {klass}; there are 0 (LOW) to 3 (CRITICAL)")
        return self.per_class[klass]

    def oldest_ns(self, int klass):
        """Since when the longest-waiting run pushed with this class waits, or None. Looks at every run once."""
        cdef Py_ssize_t i
        cdef bint any_run = False
        cdef int64_t oldest = 0
        if not 0 <= klass < CLASSES:
            raise ValueError(f"class {klass}; there are 0 (LOW) to 3 (CRITICAL)")
        if self.per_class[klass] == 0:
            return None
        for i in range(self.room):
            if self.table[i].used and self.table[i].klass == klass and (not any_run or self.table[i].since < oldest):
                oldest = self.table[i].since
                any_run = True
        return oldest


cdef inline int64_t later(int64_t at, int64_t by) noexcept nogil:
    """at + by, not beyond the end of time."""
    return at + by if at <= INT64_MAX - by else INT64_MAX
