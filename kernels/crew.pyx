"""Threads that run a pass together, stealing from one another: kernels/crew.h, and plans of batch ticks for it.

What comes out of a plan does not depend on the number of threads: chunks are cut by rows and not by threads, each writes its
own rows and publishes into an outbox of its own, and outboxes are read in the order of the plan, so messages come in the order
(kind, row, sequence).
"""

from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES, PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free

import os

cdef extern from *:
    """
    static uint64_t tally_read(const crew_member *member, int which)
    {
        crew_tally *tally = (crew_tally *)&member->tally;
        _Atomic uint64_t *at = which == 0 ? &tally->chunks : which == 1 ? &tally->steals : which == 2 ? &tally->lost
                                                                                         : &tally->busy_ns;
        return atomic_load_explicit(at, memory_order_relaxed);
    }
    """
    uint64_t tally_read(const crew_member*, int) noexcept nogil

cdef extern from "nano.h" nogil:
    enum:
        NANO_ABI
    ctypedef struct context "nano_ctx":
        uint32_t abi
        uint32_t kind
        uint64_t number "pass"
        uint64_t seed
        uint64_t now_ns
        uint32_t first
        uint32_t topics
        uint8_t* outcomes
        uint64_t* wake_ns
        int (*publish)(nano_ctx*, uint32_t, uint32_t, const void*, size_t) noexcept nogil
        void* bus
    enum:
        NANO_LINE "sizeof(nano_line)"

THREADS_MAX = CREW_MAX
SPIN_NS = 20_000
"""How long a thread looks for the next pass, and for the end of this one, before it sleeps, where each has a core."""


def deal(costs, uint32_t threads):
    """Which thread each chunk is dealt to, by declared costs."""
    cdef double total = 0.0, before = 0.0, cost
    cdef list out = []
    if threads < 1:
        raise ValueError("a crew of no threads")
    for declared in costs:
        total += crew_cost(declared)
    for declared in costs:
        cost = crew_cost(declared)
        out.append(crew_part(before, cost, total, threads))
        before += cost
    return out


cdef int32_t* numbers(values, Py_ssize_t n, str name) except? NULL:
    cdef int32_t* out
    cdef Py_ssize_t i
    if values is None:
        return NULL
    if len(values) != n:
        raise ValueError(f"{len(values)} {name} for {n} threads")
    out = <int32_t*> calloc(n, sizeof(int32_t))
    if out == NULL:
        raise MemoryError("no memory for a crew")
    try:
        for i in range(n):
            out[i] = values[i]
    except BaseException:
        free(out)
        raise
    return out


cdef class Plan:
    """Batch ticks of a pass, cut into chunks. It may be run again and again; the buffers are held while it lives.

    `seed` is the population's. A chunk may publish `lines` messages at most; what is more is refused and counted.
    """

    cdef crew_chunk* chunks
    cdef crew_tick* ticks
    cdef context* contexts
    cdef crew_outbox* outboxes
    cdef uint8_t* lines
    cdef uint8_t* outcomes
    cdef uint64_t* wakes
    cdef void** cols
    cdef uint16_t* topics
    cdef Py_buffer* held
    cdef Py_ssize_t held_n
    cdef size_t n
    cdef bint running
    cdef list added
    cdef readonly uint64_t seed
    cdef readonly size_t lines_max

    def __init__(self, uint64_t seed=0, size_t lines=0):
        if lines > 1 << 24:
            raise ValueError(f"{lines} lines a chunk; there may be {1 << 24}")
        if self.added is not None:
            raise TypeError("a plan is made once")
        self.added = []
        self.seed = seed
        self.lines_max = lines

    def __dealloc__(self):
        self.drop()

    cdef void drop(self):
        cdef Py_ssize_t i
        for i in range(self.held_n):
            PyBuffer_Release(&self.held[i])
        for block in (<uintptr_t> self.chunks, <uintptr_t> self.ticks, <uintptr_t> self.contexts,
                      <uintptr_t> self.outboxes, <uintptr_t> self.lines, <uintptr_t> self.outcomes,
                      <uintptr_t> self.wakes, <uintptr_t> self.cols, <uintptr_t> self.topics, <uintptr_t> self.held):
            free(<void*> <uintptr_t> block)
        self.chunks = NULL
        self.ticks = NULL
        self.contexts = NULL
        self.outboxes = NULL
        self.lines = self.outcomes = NULL
        self.wakes = NULL
        self.cols = NULL
        self.topics = NULL
        self.held = NULL
        self.held_n = 0
        self.n = 0

    def add(self, uintptr_t tick, columns, uint32_t start, uint32_t stop, uint32_t kind=0, topics=(),
            uint32_t rows=4096, uint64_t cost=1):
        """Rows start to stop of a kind, in chunks of at most `rows`.

        tick: address of a nano_tick_many. columns: writable contiguous buffers of one dimension, a field each. topics:
        numbers on the bus of what the kind writes. cost: declared of an agent. ValueError for what does not fit.
        """
        if tick == 0:
            raise ValueError("a tick at address 0")
        if self.n:
            raise ValueError("the plan was run already: make another")
        if kind >= 0x10000 or any(not 0 <= topic < 0x10000 for topic in topics):
            raise ValueError("kinds and topics are numbers below 65536")
        if rows < 1 or start > stop:
            raise ValueError(f"rows {start} to {stop} in chunks of {rows}")
        for column in columns:
            view = memoryview(column)
            if view.ndim != 1 or not view.c_contiguous or view.readonly or view.shape[0] < stop:
                raise ValueError(f"a column is a writable contiguous buffer of one dimension and, here, {stop} rows")
        self.added.append((tick, tuple(columns), start, stop, kind, tuple(topics), rows, cost))

    cdef int build(self) except -1:
        """Lay all out in memory that does not move afterwards."""
        cdef size_t n = 0, agents = 0, columns_n = 0, topics_n = 0, held_n = 0, at = 0, agent = 0, column = 0, topic = 0
        cdef size_t first, last, base, width, i
        cdef uint16_t* of_kind
        self.drop()
        for _, columns, start, stop, _, topics, rows, _ in self.added:
            chunks = -(-(stop - start) // rows)
            n += chunks
            agents += stop - start
            columns_n += chunks * len(columns)
            topics_n += len(topics)
            held_n += len(columns)
        self.chunks = <crew_chunk*> calloc(n + 1, sizeof(crew_chunk))
        self.ticks = <crew_tick*> calloc(n + 1, sizeof(crew_tick))
        self.contexts = <context*> calloc(n + 1, sizeof(context))
        self.outboxes = <crew_outbox*> calloc(n + 1, sizeof(crew_outbox))
        self.lines = <uint8_t*> calloc(n * self.lines_max + 1, NANO_LINE)
        self.outcomes = <uint8_t*> calloc(agents + 1, 1)
        self.wakes = <uint64_t*> calloc(agents + 1, sizeof(uint64_t))
        self.cols = <void**> calloc(columns_n + 1, sizeof(void*))
        self.topics = <uint16_t*> calloc(topics_n + 1, sizeof(uint16_t))
        self.held = <Py_buffer*> calloc(held_n + 1, sizeof(Py_buffer))
        if (self.chunks == NULL or self.ticks == NULL or self.contexts == NULL or self.outboxes == NULL
                or self.lines == NULL or self.outcomes == NULL or self.wakes == NULL or self.cols == NULL
                or self.topics == NULL or self.held == NULL):
            self.drop()
            raise MemoryError("no memory for a plan")
        for tick, columns, start, stop, kind, topics, rows, cost in self.added:
            base = self.held_n
            width = len(columns)
            for buffer in columns:
                PyObject_GetBuffer(buffer, &self.held[self.held_n], PyBUF_WRITABLE | PyBUF_ND | PyBUF_FORMAT | PyBUF_STRIDES)
                self.held_n += 1
                if self.held[self.held_n - 1].shape[0] < <Py_ssize_t> stop:
                    self.drop()
                    raise ValueError("a column has become shorter than it was when it was added")
            of_kind = self.topics + topic
            for number in topics:
                self.topics[topic] = number
                topic += 1
            first = start
            while first < <size_t> stop:
                last = min(first + <size_t> rows, <size_t> stop)
                self.contexts[at].abi = NANO_ABI
                self.contexts[at].kind = kind
                self.contexts[at].seed = self.seed
                self.contexts[at].first = <uint32_t> first
                self.contexts[at].outcomes = self.outcomes + agent
                self.contexts[at].wake_ns = self.wakes + agent
                self.contexts[at].publish = crew_publish
                self.contexts[at].bus = &self.outboxes[at]
                self.outboxes[at].lines = <nano_line*> (self.lines + at * self.lines_max * NANO_LINE)
                self.outboxes[at].most = self.lines_max
                self.outboxes[at].topics = of_kind
                self.outboxes[at].topics_n = len(topics)
                self.outboxes[at].kind = kind
                self.ticks[at].tick = <nano_tick_many> <uintptr_t> tick
                self.ticks[at].cols = self.cols + column
                self.ticks[at].n = last - first
                self.ticks[at].ctx = <nano_ctx*> &self.contexts[at]
                for i in range(width):
                    self.cols[column] = <uint8_t*> self.held[base + i].buf + first * <size_t> self.held[base + i].itemsize
                    column += 1
                self.chunks[at].work = crew_tick_run
                self.chunks[at].what = &self.ticks[at]
                self.chunks[at].cost = <uint64_t> cost * (last - first)
                agent += last - first
                at += 1
                first = last
        self.n = n
        return 0

    def outcomes_of(self):
        """After a pass: (kind, first row, agents, outcome) of each chunk, in the order of the plan."""
        cdef size_t i
        return [(self.contexts[i].kind, self.contexts[i].first, self.ticks[i].n, self.ticks[i].outcome)
                for i in range(self.n)]

    def messages(self):
        """After a pass: the lines that were published, 64 bytes each, by kind, row and sequence."""
        cdef size_t i
        cdef list parts = []
        for i in range(self.n):
            parts.append(PyBytes_FromStringAndSize(<char*> self.outboxes[i].lines, self.outboxes[i].n * NANO_LINE))
        return b"".join(parts)

    @property
    def refused(self):
        """Lines of the last pass for which a chunk had no room."""
        cdef size_t i
        cdef uint64_t total = 0
        for i in range(self.n):
            total += self.outboxes[i].refused
        return total

    def ran(self):
        """After a pass: (thread, ns) of each chunk."""
        cdef size_t i
        return [(self.chunks[i].thread, self.chunks[i].ns) for i in range(self.n)]


cdef class Crew:
    """`threads` threads, the caller's included.

    cpus: of each thread, -1 for anywhere; the first one, the caller's, is never moved. nodes: of memory, of each thread:
    those of the same node are stolen from first. spin_ns: how long to look before sleeping; by default SPIN_NS, and 0 when
    there are more threads than cores. ValueError for numbers that do not fit, OSError when no more threads are started.
    """

    def __init__(self, int64_t threads, cpus=None, nodes=None, spin_ns=None):
        cdef int32_t* on = NULL
        cdef int32_t* of = NULL
        cdef int64_t spin
        cdef int why = 0
        if self.it != NULL:
            raise TypeError("a crew is made once")
        if not 1 <= threads <= CREW_MAX:
            raise ValueError(f"a crew of {threads} threads; there may be 1 to {CREW_MAX}")
        if spin_ns is None:
            spin_ns = SPIN_NS if threads <= cores() else 0
        spin = spin_ns
        if spin < 0:
            raise ValueError(f"spin_ns is {spin}; it is 0 or more")
        try:
            on = numbers(cpus, threads, "cpus")
            of = numbers(nodes, threads, "nodes")
            self.it = crew_new(<uint32_t> threads, on, of, spin, &why)
        finally:
            free(on)
            free(of)
        if self.it == NULL:
            raise OSError(why, f"no crew of {threads} threads: {os.strerror(why)}")

    def __dealloc__(self):
        crew_free(self.it)

    cdef void run(self, crew_chunk* chunks, size_t n) noexcept nogil:
        """Run the chunks; back when all have run."""
        crew_run(self.it, chunks, n)

    def tick(self, Plan plan not None, uint64_t now_ns=0, uint64_t number=0):
        """One pass of a plan, without the GIL: its instant, and how many passes were before.

        RuntimeError when another thread is running the same plan.
        """
        cdef size_t i
        if plan.running:
            raise RuntimeError("this plan is being run by another thread")
        if self.it == NULL:
            raise ValueError("the crew was not made")
        if plan.n == 0:
            plan.build()
        plan.running = True
        for i in range(plan.n):
            plan.ticks[i].now_ns = plan.contexts[i].now_ns = now_ns
            plan.contexts[i].number = number
            plan.outboxes[i].n = 0
            plan.outboxes[i].refused = 0
        with nogil:
            crew_run(self.it, plan.chunks, plan.n)
        plan.running = False

    def close(self):
        """End the threads; passes go on in the caller alone. Twice is allowed."""
        if self.it != NULL:
            with nogil:
                crew_close(self.it)

    @property
    def threads(self):
        """How many run a pass now: 1 after close()."""
        return self.it.started + 1 if self.it != NULL else 0

    @property
    def chunks(self):
        """Chunks that each thread has run."""
        return tallies(self.it, 0)

    @property
    def steals(self):
        """Those among them that had been dealt to another."""
        return tallies(self.it, 1)

    @property
    def lost(self):
        """Attempts of each thread to steal at which another was faster."""
        return tallies(self.it, 2)

    @property
    def busy_ns(self):
        """Time that each thread has spent in chunks."""
        return tallies(self.it, 3)


cdef tuple tallies(crew* it, int which):
    cdef uint32_t i
    return tuple([tally_read(&it.members[i], which) for i in range(it.n)]) if it != NULL else ()


def cores():
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
