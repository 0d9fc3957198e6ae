"""What is ready to run here: runs of tasks in four classes, with ageing.

A run is a number of tasks of one batch under one key. The head is the run of the highest class; in a class the one that waits
longest, where each step of nice counts as a tenth of `ageing_ns` of waiting, more or less. So nothing in a class is passed for ever
either. A run rises by one class for each `ageing_ns` that it waited, up to HIGH (priority scheduling with ageing: Silberschatz, Galvin,
Gagne, "Operating System Concepts", chapter 5), and nothing but CRITICAL itself runs as CRITICAL.

Nearly all runs come in the order in which they wait. For these a class has a list for each nice value, so a push or a pop is O(1):
the head of a class is the first of 40 lists. A run that comes late, since it waited elsewhere before, or that has risen, goes into a
binary heap of its class, O(log of those). Keys are found by hashing with linear probing (Knuth, "The Art of Computer Programming", vol. 3,
6.4, algorithms L and R).
"""

from libc.stdint cimport INT32_MAX, INT64_MAX, INT64_MIN, int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    static inline int queue_lowest_bit(uint64_t v) { return __builtin_ctzll(v); }
    static inline void queue_soon(const void *at) { __builtin_prefetch(at, 1, 3); }
    """
    int lowest_bit "queue_lowest_bit" (uint64_t) noexcept nogil
    void soon "queue_soon" (const void*) noexcept nogil

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void**, size_t, size_t)

cdef enum:
    CLASSES = 4
    HIGH = 2
    CRITICAL = 3
    RISING = 4                          # the fifth heap: by the instant of the next rise
    HEAPS = 5
    NICE_MIN = -20
    NICE_MAX = 19
    NICES = 40
    NICES_A_CLASS = 10                  # steps of nice that weigh as much as a class
    LINE = 64

LOW_CLASS = 0
STANDARD_CLASS = 1
HIGH_CLASS = HIGH
CRITICAL_CLASS = CRITICAL

cdef struct Run:                        # a line of memory
    uint64_t key
    uint64_t order                      # of pushing, breaks ties
    int64_t since                       # ns: waits since then
    int64_t rank                        # ns: since, later by its nice
    int64_t rises                       # ns: instant of the next rise; meaningless in HIGH and CRITICAL
    Py_ssize_t count
    int32_t place[2]                    # in a list: those before and behind; else: in the heap of its class, and in RISING
    int8_t nice
    uint8_t klass                       # as pushed
    uint8_t level                       # as it stands now
    uint8_t listed                      # it is in a list
    uint8_t used

cdef struct List:
    int32_t first
    int32_t last

cdef struct Heap:
    int32_t* items                      # of runs
    Py_ssize_t size
    Py_ssize_t room

cdef struct Bucket:
    uint32_t hash
    int32_t run                         # + 1; 0: nothing


cdef inline int64_t later(int64_t at, int64_t by) noexcept nogil:
    """at + by, not beyond the ends of time."""
    if by >= 0:
        return at + by if at <= INT64_MAX - by else INT64_MAX
    return at + by if at >= INT64_MIN - by else INT64_MIN


cdef inline uint32_t hash_of(uint64_t key) noexcept nogil:
    """Keys are mostly numbers in a row: eight of them share a line of buckets."""
    cdef uint64_t lines = key >> 3
    return <uint32_t> ((lines ^ lines >> 29) * <uint64_t> 0x9E3779B97F4A7C15 >> 32) << 3 | <uint32_t> (key & 7)


cdef class RunQueue:
    """Runs that wait here, the head first. Times are ns of one clock of the caller's; it may not run backwards."""

    cdef Run* table
    cdef Py_ssize_t room
    cdef int32_t free                   # the first place that is free, linked by place[0]
    cdef Bucket* buckets
    cdef uint32_t mask
    cdef List lists[CLASSES][NICES]
    cdef uint64_t occupied[CLASSES]     # a bit a list
    cdef int64_t firsts[CLASSES][NICES] # the rank of the first in each list
    cdef Heap heaps[HEAPS]
    cdef Py_ssize_t per_class[CLASSES]
    cdef uint64_t pushed
    cdef int64_t now
    cdef int64_t ageing
    cdef int64_t step
    cdef int64_t next_rise              # nobody rises before
    cdef readonly Py_ssize_t runs       # how many runs wait
    cdef readonly Py_ssize_t tasks

    def __cinit__(self):
        self.free = -1

    def __init__(self, int64_t ageing_ns=10_000_000_000):
        if ageing_ns <= 0:
            raise ValueError(f"ageing_ns is {ageing_ns}; it must be positive")
        self.ageing = ageing_ns
        self.step = ageing_ns // NICES_A_CLASS
        self.now = INT64_MIN
        self.next_rise = INT64_MAX

    def __dealloc__(self):
        cdef int which
        free(self.table)
        free(self.buckets)
        for which in range(HEAPS):
            free(self.heaps[which].items)

    # -- heaps, of those that come late

    cdef inline bint before(self, int which, int32_t a, int32_t b) noexcept nogil:
        cdef Run* x = &self.table[a]
        cdef Run* y = &self.table[b]
        if which == RISING:
            return x.rises < y.rises or (x.rises == y.rises and x.order < y.order)
        return x.rank < y.rank or (x.rank == y.rank and x.order < y.order)

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
        items = realloc(heap.items, room * sizeof(int32_t))
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

    # -- lists, of those that come in order

    cdef inline void append(self, int32_t at) noexcept nogil:
        cdef Run* run = &self.table[at]
        cdef int nice = run.nice - NICE_MIN
        cdef List* it = &self.lists[run.klass][nice]
        cdef uint64_t bit = <uint64_t> 1 << nice
        run.listed = 1
        run.place[1] = -1
        if self.occupied[run.klass] & bit:
            run.place[0] = it.last
            self.table[it.last].place[1] = at
        else:
            run.place[0] = -1
            it.first = at
            self.occupied[run.klass] |= bit
            self.firsts[run.klass][nice] = run.rank
        it.last = at

    cdef inline void unlink(self, int32_t at) noexcept nogil:
        cdef Run* run = &self.table[at]
        cdef int nice = run.nice - NICE_MIN
        cdef List* it = &self.lists[run.klass][nice]
        cdef int32_t before = run.place[0]
        cdef int32_t behind = run.place[1]
        if behind >= 0:
            self.table[behind].place[0] = before
        else:
            it.last = before
        if before >= 0:
            self.table[before].place[1] = behind
            return
        it.first = behind
        if behind < 0:
            self.occupied[run.klass] &= ~(<uint64_t> 1 << nice)
        else:
            self.firsts[run.klass][nice] = self.table[behind].rank
            if self.table[behind].place[1] >= 0:    # whose line is needed when that one goes
                soon(&self.table[self.table[behind].place[1]])

    # -- keys

    cdef inline uint32_t bucket_of(self, uint64_t key) noexcept nogil:
        """Where a key is, or where it would be."""
        cdef uint32_t hash = hash_of(key)
        cdef uint32_t at = hash & self.mask
        while self.buckets[at].run:
            if self.buckets[at].hash == hash and self.table[self.buckets[at].run - 1].key == key:
                break
            at = (at + 1) & self.mask
        return at

    cdef inline int32_t find(self, uint64_t key) noexcept nogil:
        return self.buckets[self.bucket_of(key)].run - 1 if self.buckets != NULL else -1

    cdef inline void forget(self, int32_t run) noexcept nogil:
        """Take the key of a run out of the table; those behind it close up."""
        cdef uint32_t at = hash_of(self.table[run].key) & self.mask
        cdef uint32_t to, home
        while self.buckets[at].run != run + 1:
            at = (at + 1) & self.mask
        to = at
        while True:
            to = (to + 1) & self.mask
            if not self.buckets[to].run:
                break
            home = self.buckets[to].hash & self.mask
            if (to - home & self.mask) >= (to - at & self.mask):
                self.buckets[at] = self.buckets[to]
                at = to
        self.buckets[at].run = 0

    cdef int grow(self) except -1:
        """Room for more runs."""
        cdef Py_ssize_t room = self.room * 2 if self.room else 16
        cdef Py_ssize_t i
        cdef uint32_t mask = <uint32_t> (2 * room - 1)
        cdef uint32_t at
        cdef void* table = NULL
        cdef Bucket* buckets
        if room > INT32_MAX // 2:
            raise MemoryError("the run queue holds 2^30 runs at most")
        buckets = <Bucket*> calloc(2 * room, sizeof(Bucket))
        if buckets == NULL or posix_memalign(&table, LINE, room * sizeof(Run)):
            free(buckets)
            raise MemoryError("no memory for the run queue")
        if self.room:
            memcpy(table, self.table, self.room * sizeof(Run))
        memset(<Run*> table + self.room, 0, (room - self.room) * sizeof(Run))
        free(self.table)
        free(self.buckets)
        self.table = <Run*> table
        self.buckets = buckets
        self.mask = mask
        for i in range(self.room):          # all are in use: else there were no need to grow
            at = hash_of(self.table[i].key) & mask
            while buckets[at].run:
                at = (at + 1) & mask
            buckets[at].hash = hash_of(self.table[i].key)
            buckets[at].run = <int32_t> i + 1
        for i in range(room - 1, self.room - 1, -1):
            self.table[i].place[0] = self.free
            self.free = <int32_t> i
        self.room = room
        return 0

    # -- runs

    cdef int age(self, int64_t now_ns) except -1:
        """Raise every run whose time has come. Each rises twice at most, so this is amortised over its pushes."""
        cdef Heap* rising = &self.heaps[RISING]
        cdef int32_t at
        cdef int level, nice
        cdef uint64_t bits
        if now_ns > self.now:
            self.now = now_ns
        if self.now < self.next_rise:
            return 0
        for level in range(HIGH):
            bits = self.occupied[level]
            while bits:
                nice = lowest_bit(bits)
                bits &= bits - 1
                while self.occupied[level] >> nice & 1 and self.table[self.lists[level][nice].first].rises <= self.now:
                    at = self.lists[level][nice].first
                    self.reserve(level + 1)
                    self.reserve(RISING)
                    self.unlink(at)
                    self.table[at].listed = 0
                    self.rise(at)
        while rising.size and self.table[rising.items[0]].rises <= self.now:
            at = rising.items[0]
            self.reserve(self.table[at].level + 1)
            self.discard(self.table[at].level, at)
            self.discard(RISING, at)
            self.rise(at)
        self.next_rise = self.table[rising.items[0]].rises if rising.size else INT64_MAX
        for level in range(HIGH):
            bits = self.occupied[level]
            while bits:
                at = self.lists[level][lowest_bit(bits)].first
                bits &= bits - 1
                self.next_rise = min(self.next_rise, self.table[at].rises)
        return 0

    cdef void rise(self, int32_t at) noexcept nogil:
        """A run that was taken out stands one class higher from now on."""
        cdef Run* run = &self.table[at]
        run.level += 1
        self.insert(run.level, at)
        if run.level < HIGH:
            run.rises = later(run.rises, self.ageing)
            self.insert(RISING, at)

    cdef int32_t head(self) noexcept nogil:
        cdef int level, nice
        cdef int32_t found, at
        cdef int64_t rank = 0
        cdef uint64_t bits
        for level in range(CRITICAL, -1, -1):
            found = -1
            if self.heaps[level].size:
                found = self.heaps[level].items[0]
                rank = self.table[found].rank
            bits = self.occupied[level]
            while bits:
                nice = lowest_bit(bits)
                bits &= bits - 1
                if found >= 0 and self.firsts[level][nice] > rank:
                    continue
                at = self.lists[level][nice].first
                if found < 0 or self.firsts[level][nice] < rank or self.table[at].order < self.table[found].order:
                    found = at
                    rank = self.firsts[level][nice]
            if found >= 0:
                return found
        return -1

    cdef Py_ssize_t shorten(self, int32_t at, Py_ssize_t limit) noexcept nogil:
        """Take up to limit tasks off a run, and the run away with the last."""
        cdef Run* run = &self.table[at]
        cdef Py_ssize_t taken = limit if limit < run.count else run.count
        run.count -= taken
        self.tasks -= taken
        self.per_class[run.klass] -= taken
        if run.count == 0:
            if run.listed:
                self.unlink(at)
            else:
                self.discard(run.level, at)
                if run.level < HIGH:
                    self.discard(RISING, at)
            self.forget(at)
            run.used = 0
            run.place[0] = self.free
            self.free = at
            self.runs -= 1
        return taken

    def push(self, uint64_t key, int klass, int nice, int64_t now_ns, Py_ssize_t count, start_ns=None):
        """Queue a run of `count` tasks under a key of its own, waiting since now_ns (an earlier one keeps its age).

        In its class its place is by `start_ns` (ns of any clock of the caller's: the same one for all), by now_ns if that is
        not given.

        klass is 0 LOW to 3 CRITICAL, nice -20 to 19. ValueError for others, for an empty run and for a key that waits
        already.
        """
        cdef int32_t at
        cdef Run* run
        cdef Run* last
        cdef uint32_t bucket
        if not 0 <= klass < CLASSES:
            raise ValueError(f"class {klass}; there are 0 (LOW) to 3 (CRITICAL)")
        if not NICE_MIN <= nice <= NICE_MAX:
            raise ValueError(f"nice {nice}; it goes from {NICE_MIN} to {NICE_MAX}")
        if count < 1:
            raise ValueError(f"a run of {count} tasks")
        if self.free < 0:
            self.grow()
        bucket = self.bucket_of(key)
        if self.buckets[bucket].run:
            raise ValueError(f"run {key} waits already")
        if self.heaps[klass].size == self.heaps[klass].room:
            self.reserve(klass)
        if self.heaps[RISING].size == self.heaps[RISING].room:
            self.reserve(RISING)
        at = self.free
        run = &self.table[at]
        self.free = run.place[0]
        self.buckets[bucket].hash = hash_of(key)
        self.buckets[bucket].run = at + 1
        run.key = key
        run.order = self.pushed
        run.since = now_ns
        run.rank = later(now_ns if start_ns is None else <int64_t> start_ns, nice * self.step)
        run.rises = later(now_ns, self.ageing)
        run.count = count
        run.nice = <int8_t> nice
        run.klass = run.level = <uint8_t> klass
        run.used = 1
        run.listed = 0
        self.pushed += 1
        self.tasks += count
        self.runs += 1
        self.per_class[klass] += count
        if klass < HIGH and run.rises < self.next_rise:
            self.next_rise = run.rises
        if self.occupied[klass] >> (nice - NICE_MIN) & 1:
            last = &self.table[self.lists[klass][nice - NICE_MIN].last]
            if last.since > now_ns or last.rank > run.rank:
                self.insert(klass, at)
                if klass < HIGH:
                    self.insert(RISING, at)
                return
        self.append(at)

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
        cdef int32_t at = self.find(key)
        if limit < 1 or at < 0:
            return 0
        return self.shorten(at, limit)

    def remove(self, uint64_t key):
        """Take the whole run of this key away; returns how many tasks waited in it, 0 when it does not wait."""
        cdef int32_t at = self.find(key)
        if at < 0:
            return 0
        return self.shorten(at, self.table[at].count)

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


assert sizeof(Run) == LINE
