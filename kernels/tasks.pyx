"""The owner's record of a batch: a column each of state, token, attempts and crashes, instead of an object a task."""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr

from kernels.batch cimport Outcomes

cdef enum:
    S_READY = 0
    S_DISPATCHED = 1
    S_DONE = 2
    S_HELD = 3
    MARK = 0x80                         # over a state, while accepts() looks for duplicates
    INTERNAL = 16                       # statuses from here on do not end a task
cdef uint64_t COUNT_MAX = 0xFFFFFFFF


cdef class TaskColumns:
    """State of each task of one batch, and the fencing token under which it was handed out.

    READY (waits to be handed out), DISPATCHED (handed out under a token), DONE (has its outcome, for good), HELD (waits
    for something else: a backoff, a dependency).
    """

    READY = S_READY
    DISPATCHED = S_DISPATCHED
    DONE = S_DONE
    HELD = S_HELD

    cdef uint8_t* states
    cdef uint64_t* tokens
    cdef uint32_t* tries
    cdef uint32_t* deaths
    cdef Py_ssize_t frontier            # from here on nothing was handed out yet
    cdef Py_ssize_t returned            # how many below the frontier are READY
    cdef Py_ssize_t low                 # and none of these is below this
    cdef Py_ssize_t tally[4]
    cdef readonly Py_ssize_t count

    def __init__(self, count):
        cdef Py_ssize_t n
        if self.states != NULL:
            raise TypeError("a record is made once")
        if type(count) is not int or not 0 <= count <= COUNT_MAX:
            raise ValueError(f"a batch of {count!r} tasks")
        n = count
        self.states = <uint8_t*> PyMem_Calloc(n + 1, 1)
        self.tokens = <uint64_t*> PyMem_Calloc(n + 1, 8)
        self.tries = <uint32_t*> PyMem_Calloc(n + 1, 4)
        self.deaths = <uint32_t*> PyMem_Calloc(n + 1, 4)
        if not (self.states and self.tokens and self.tries and self.deaths):
            raise MemoryError(f"no memory for the record of {n} tasks")
        self.count = n
        self.tally[S_READY] = n

    def __dealloc__(self):
        PyMem_Free(self.states)
        PyMem_Free(self.tokens)
        PyMem_Free(self.tries)
        PyMem_Free(self.deaths)

    @property
    def ready(self):
        """How many are READY."""
        return self.tally[S_READY]

    @property
    def dispatched(self):
        """How many are DISPATCHED."""
        return self.tally[S_DISPATCHED]

    @property
    def done(self):
        """How many are DONE."""
        return self.tally[S_DONE]

    @property
    def held(self):
        """How many are HELD."""
        return self.tally[S_HELD]

    cdef int within(self, Py_ssize_t i) except -1:
        if i < 0 or i >= self.count:
            raise IndexError(f"task {i} of a batch of {self.count}")
        return 0

    cdef void change(self, Py_ssize_t i, int to) noexcept:
        cdef int was = self.states[i]
        self.tally[was] -= 1
        self.tally[to] += 1
        self.states[i] = <uint8_t> to
        if i < self.frontier:
            if was == S_READY:
                self.returned -= 1
            if to == S_READY:
                if self.returned == 0 or i < self.low:
                    self.low = i
                self.returned += 1

    def take(self, Py_ssize_t limit, uint64_t token):
        """Hand out the lowest READY tasks that lie side by side, at most limit: (start, count), or None.

        They become DISPATCHED under the token. What came back is found by memchr, the rest lies at the frontier, so a
        batch that only goes forward costs a few ns a task and nothing is looked at twice.
        """
        cdef Py_ssize_t start, stop, most
        cdef uint8_t* found
        if limit < 1:
            raise ValueError(f"limit is {limit}; at least 1 task must be asked for")
        if self.tally[S_READY] == 0:
            return None
        start = self.low if self.returned else self.frontier
        found = <uint8_t*> memchr(self.states + start, S_READY, self.count - start)
        start = found - self.states
        most = self.count if limit > self.count - start else start + limit
        stop = start
        while stop < most and self.states[stop] == S_READY:
            self.states[stop] = S_DISPATCHED
            self.tokens[stop] = token
            self.tries[stop] += 1
            stop += 1
        self.tally[S_READY] -= stop - start
        self.tally[S_DISPATCHED] += stop - start
        if start < self.frontier:
            self.returned -= min(stop, self.frontier) - start
            self.low = stop
        if stop > self.frontier:
            self.frontier = stop
        return start, stop - start

    def pass_on(self, Py_ssize_t index, uint64_t token, uint64_t to):
        """Hand out a task that is DISPATCHED under this token once more, under another one; False when it is not."""
        if not self.holds(index, token):
            return False
        self.tokens[index] = to
        self.tries[index] += 1
        return True

    def take_at(self, Py_ssize_t index, uint64_t token):
        """Hand out this very task, if it is READY: DISPATCHED under the token. Whether it was."""
        cdef Py_ssize_t i
        self.within(index)
        if self.states[index] != S_READY:
            return False
        if index >= self.frontier:
            # what lies before it was not handed out yet, and is found by the search for what came back
            for i in range(self.frontier, index + 1):
                if self.states[i] == S_READY:
                    if self.returned == 0:
                        self.low = i
                    self.returned += 1
            self.frontier = index + 1
        self.change(index, S_DISPATCHED)
        self.tokens[index] = token
        self.tries[index] += 1
        return True

    def settle(self, Outcomes outcomes not None, uint64_t token, Py_ssize_t first=0):
        """DONE for each row that is DISPATCHED under this token and has a final status; returns how many.

        first is the index that the outcomes give to task 0 of this record, which may be of a part of a batch only.
        """
        cdef Py_ssize_t i, n = outcomes.count, accepted = 0
        cdef Py_ssize_t index
        for i in range(n):
            index = <Py_ssize_t> outcomes.index_at(i) - first
            if (
                0 <= index < self.count
                and self.states[index] == S_DISPATCHED
                and self.tokens[index] == token
                and outcomes.status_at(i) < INTERNAL
            ):
                self.states[index] = S_DONE
                accepted += 1
        self.tally[S_DISPATCHED] -= accepted
        self.tally[S_DONE] += accepted
        return accepted

    def accepts(self, Outcomes outcomes not None, uint64_t token):
        """Would settle() take every row? In range, DISPATCHED under this token, a final status, none twice."""
        cdef Py_ssize_t i, marked = 0, n = outcomes.count
        cdef uint32_t index
        for i in range(n):
            index = outcomes.index_at(i)
            if (
                index >= self.count
                or self.states[index] != S_DISPATCHED
                or self.tokens[index] != token
                or outcomes.status_at(i) >= INTERNAL
            ):
                break
            self.states[index] |= MARK          # so that a second row for it is not DISPATCHED any more
            marked += 1
        for i in range(marked):
            self.states[outcomes.index_at(i)] = S_DISPATCHED
        return marked == n

    def holds(self, Py_ssize_t index, uint64_t token):
        """Is this task DISPATCHED under this token? False for an index beyond the batch."""
        return (
            0 <= index < self.count and self.states[index] == S_DISPATCHED and self.tokens[index] == token
        )

    def finish(self, Py_ssize_t index):
        """DONE, whatever it was; False when it was DONE already."""
        self.within(index)
        if self.states[index] == S_DONE:
            return False
        self.change(index, S_DONE)
        return True

    def release(self, Py_ssize_t index):
        """DISPATCHED or HELD becomes READY again; any other state stays."""
        self.within(index)
        if self.states[index] == S_DISPATCHED or self.states[index] == S_HELD:
            self.change(index, S_READY)

    def hold(self, Py_ssize_t index):
        """READY or DISPATCHED becomes HELD; any other state stays."""
        self.within(index)
        if self.states[index] == S_READY or self.states[index] == S_DISPATCHED:
            self.change(index, S_HELD)

    def outstanding(self, uint64_t token):
        """The ranges (start, count) that are DISPATCHED under this token, ascending."""
        cdef Py_ssize_t i = 0, start
        cdef list ranges = []
        while i < self.frontier:
            if self.states[i] != S_DISPATCHED or self.tokens[i] != token:
                i += 1
                continue
            start = i
            while i < self.frontier and self.states[i] == S_DISPATCHED and self.tokens[i] == token:
                i += 1
            ranges.append((start, i - start))
        return ranges

    def pending(self):
        """The ranges (start, count) that are not DONE, ascending."""
        cdef Py_ssize_t i = 0, start
        cdef list ranges = []
        while i < self.count:
            if self.states[i] == S_DONE:
                i += 1
                continue
            start = i
            while i < self.count and self.states[i] != S_DONE:
                i += 1
            ranges.append((start, i - start))
        return ranges

    def state(self, Py_ssize_t index):
        """READY, DISPATCHED, DONE or HELD."""
        self.within(index)
        return self.states[index]

    def token(self, Py_ssize_t index):
        """The token of the last time that it was handed out; 0 before the first."""
        self.within(index)
        return self.tokens[index]

    def attempts(self, Py_ssize_t index):
        """How often it was handed out."""
        self.within(index)
        return self.tries[index]

    def crashed(self, Py_ssize_t index):
        """Count one more death of a worker under this task; returns how many there were."""
        self.within(index)
        self.deaths[index] += 1
        return self.deaths[index]
