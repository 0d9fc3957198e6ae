"""The agents of one kind: their fields, as columns or as rows, and which rows are in use.

Address space for the whole capacity is reserved at once, so growth never moves a column: an address or an array that
somebody holds stays good. A freed row is a tombstone: its generation tells an old handle from the next agent there. Rows
that were never used are handed out first, then freed ones, the lowest first; so the same calls give the same rows.
"""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES, PyBUF_WRITABLE, Py_buffer
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset

cdef extern from "reserve.h" nogil:
    void* reserve(size_t) noexcept
    void* reserve_in(int, size_t) noexcept
    void expect(void*, size_t) noexcept
    void release(void*, size_t) noexcept

cdef enum:
    LINE = 64
    LARGE = 1 << 22                     # bytes of a column from which it is asked to lie in large pages
    SKEWS = 16                          # columns begin on different lines of their pages: else they share sets of the cache
    FIELDS_MAX = 256

FORMATS = {"d": 8, "f": 4, "q": 8, "i": 4, "h": 2, "b": 1, "Q": 8, "I": 4, "H": 2, "B": 1, "?": 1}
"""Formats of fields, as `struct` names them, and their bytes."""
CAPACITY_MAX = (1 << 32) - 2


SHARE = None


def share(places):
    """Have populations that are made from now on lie where other processes can see them; None ends that.

    `places.place(nbytes)` returns the descriptor of a file of memory of that size for a column, and
    `places.placed(address, nbytes)` is told where that was put.
    """
    global SHARE
    SHARE = places


cdef int ascending(const void* a, const void* b) noexcept nogil:
    cdef uint32_t x = (<const uint32_t*> a)[0], y = (<const uint32_t*> b)[0]
    return (x > y) - (x < y)


cdef class Population:
    """Rows of `fields`, a sequence of (name, format), for at most `capacity` agents.

    `layout` is "columns" (an array a field) or "rows" (64-byte aligned records, fields in the order of their size).
    ValueError for a format, capacity or layout that is none; MemoryError when the address space is not to be had.
    """

    def __cinit__(self, capacity, fields, str layout="columns"):
        cdef Py_ssize_t i, n
        cdef size_t offset, size, skew
        cdef char* start
        if not 1 <= capacity <= CAPACITY_MAX:
            raise ValueError(f"a capacity of {capacity} agents; it lies between 1 and {CAPACITY_MAX:,}")
        if layout not in ("columns", "rows"):
            raise ValueError(f"layout {layout!r}; there are 'columns' and 'rows'")
        self.fields = tuple((str(name), str(code)) for name, code in fields)
        for name, code in self.fields:
            if code not in FORMATS:
                raise ValueError(f"field {name!r} has the format {code!r}; there are {' '.join(FORMATS)}")
        n = len(self.fields)
        if not 1 <= n <= FIELDS_MAX:
            raise ValueError(f"{n} fields; a kind has 1 to {FIELDS_MAX}")
        self.capacity = capacity
        self.layout = layout
        self.fields_n = <uint32_t> n
        self.bases = <void**> PyMem_Calloc(n, sizeof(void*))
        self.steps = <size_t*> PyMem_Calloc(n, sizeof(size_t))
        self.widths = <size_t*> PyMem_Calloc(n, sizeof(size_t))
        self.blocks = <void**> PyMem_Calloc(n + 3, sizeof(void*))
        self.sizes = <size_t*> PyMem_Calloc(n + 3, sizeof(size_t))
        if self.bases == NULL or self.steps == NULL or self.widths == NULL or self.blocks == NULL or self.sizes == NULL:
            raise MemoryError("no memory for a population")
        for i in range(n):
            self.widths[i] = FORMATS[self.fields[i][1]]
        self.generations = <uint32_t*> self.block(<size_t> self.capacity * 4)
        self.states = <uint8_t*> self.block(self.capacity)
        self.freed = <uint32_t*> self.block(<size_t> self.capacity * 4)
        if layout == "columns":
            for i in range(n):
                size = self.widths[i]
                skew = <size_t> (i % SKEWS) * LINE
                self.bases[i] = <char*> self.block(<size_t> self.capacity * size + skew) + skew
                self.steps[i] = size
            return
        offset = 0
        offsets = {}
        for i in sorted(range(n), key=lambda at: -FORMATS[self.fields[at][1]]):  # so every field is aligned
            offsets[i] = offset
            offset += self.widths[i]
        self.row_bytes = (offset + LINE - 1) // LINE * LINE
        start = <char*> self.block(<size_t> self.capacity * self.row_bytes)
        for i in range(n):
            self.bases[i] = start + <size_t> offsets[i]
            self.steps[i] = self.row_bytes

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.blocks_n):
            release(self.blocks[i], self.sizes[i])
        PyMem_Free(self.blocks)
        PyMem_Free(self.sizes)
        PyMem_Free(self.bases)
        PyMem_Free(self.steps)
        PyMem_Free(self.widths)

    cdef void* block(self, size_t nbytes) except NULL:
        cdef void* start
        if SHARE is None:
            start = reserve(nbytes)
        else:
            start = reserve_in(SHARE.place(nbytes), nbytes)
            SHARE.placed(<uintptr_t> start, nbytes)
        if start == NULL:
            raise MemoryError(f"no address space for {nbytes:,} bytes of a population of {self.capacity:,} agents")
        self.blocks[self.blocks_n] = start
        self.sizes[self.blocks_n] = nbytes
        self.blocks_n += 1
        return start

    cdef void grow(self, uint32_t top) noexcept:
        """So many rows are about to be in use."""
        cdef Py_ssize_t i
        cdef size_t used
        for i in range(self.blocks_n):
            used = self.sizes[i] // self.capacity * top
            if used >= LARGE:
                expect(self.blocks[i], used)

    cdef int need(self, Py_ssize_t field) except -1:
        if not 0 <= field < <Py_ssize_t> self.fields_n:
            raise IndexError(f"field {field} of {self.fields_n}")
        return 0

    cdef bint drop(self, uint32_t row) noexcept nogil:
        """Free a row; False if it was free."""
        if row >= self.top or self.states[row] == FREE:
            return False
        self.states[row] = FREE
        self.generations[row] += 1
        self.freed[self.freed_n] = row
        self.freed_n += 1
        self.freed_sorted = False
        self.alive -= 1
        return True

    @property
    def free(self):
        """Rows that are not in use."""
        return self.capacity - self.alive

    def claim(self, count):
        """Take `count` rows, zeroed: a range where they follow each other, else an ascending view of u32 ("I").

        OverflowError, with nothing taken, where there are not so many.
        """
        cdef uint32_t n, i, row
        if not 0 <= count <= self.capacity - self.alive:
            raise OverflowError(
                f"{count:,} more agents in a population of {self.alive:,}; its capacity is {self.capacity:,}"
            )
        n = count
        if n <= self.capacity - self.top:
            first = self.top
            self.grow(first + n)
            for i in range(n):
                self.states[self.top + i] = READY
            self.top += n
            self.alive += n
            return range(first, first + n)
        from array import array

        if not self.freed_sorted:
            qsort(self.freed, self.freed_n, 4, ascending)
            self.freed_sorted = True
        i = min(self.freed_n, n)
        rows = array("I", [self.freed[at] for at in range(i)])
        rows.extend(range(self.top, self.top + n - i))
        for row in rows:
            self.states[row] = READY
            self.clear(row)
        for at in range(self.freed_n - i):
            self.freed[at] = self.freed[at + i]
        self.freed_n -= i
        self.top += n - i
        self.alive += n
        return memoryview(rows)

    cdef void clear(self, uint32_t row) noexcept nogil:
        cdef uint32_t i
        for i in range(self.fields_n):
            memset(<char*> self.bases[i] + <size_t> row * self.steps[i], 0, self.widths[i])

    def release(self, row):
        """Free a row; False if it was free. What names it by its generation knows from now on that it is gone."""
        return 0 <= row < self.top and self.drop(row)

    def generation(self, uint32_t row):
        """How many agents this row had before. IndexError for a row that was never used."""
        if row >= self.top:
            raise IndexError(f"row {row} of a population that has used {self.top}")
        return self.generations[row]

    def state(self, uint32_t row):
        """0 free, 1 ready, 2 sleeping, 3 suspended."""
        return self.states[row] if row < self.top else FREE

    def set_state(self, uint32_t row, uint8_t state):
        """Mark a row in use as ready, sleeping or suspended. ValueError for anything else."""
        if row >= self.top or self.states[row] == FREE or not READY <= state <= SUSPENDED:
            raise ValueError(f"row {row} cannot be put in the state {state}")
        self.states[row] = state

    def address(self, Py_ssize_t field, uint32_t row=0):
        """Where a field of a row lies in this process's memory."""
        self.need(field)
        return <uintptr_t> (<char*> self.bases[field] + <size_t> row * self.steps[field])

    def column(self, Py_ssize_t field, uint32_t start=0, stop=None):
        """A field of the rows [start, stop), as a writable buffer over the very memory."""
        cdef uint32_t end = self.top if stop is None else stop
        self.need(field)
        if start > end or end > self.capacity:
            raise IndexError(f"rows {start} to {end} of a population with room for {self.capacity}")
        return Column(self, field, start, end - start)

    def bookkeeping(self, which):
        """The rows' "states" (B) or "generations" (I) up to `top`, as a writable buffer: for saving and loading."""
        if which not in ("states", "generations"):
            raise ValueError(f"{which!r}; there are 'states' and 'generations'")
        return Column(self, -1 if which == "states" else -2, 0, self.top)

    def restore(self, states, generations):
        """Take over which rows are in use from what `bookkeeping` gave. ValueError when it does not fit, or is not new."""
        cdef const uint8_t[::1] used = memoryview(states).cast("B")
        cdef const uint8_t[::1] lives = memoryview(generations).cast("B")
        cdef uint32_t n = <uint32_t> used.shape[0], i
        if self.top:
            raise ValueError("only a population that was never used can be restored")
        if used.shape[0] > self.capacity or lives.shape[0] != 4 * used.shape[0]:
            raise ValueError(f"the state of {used.shape[0]:,} rows for a capacity of {self.capacity:,}")
        for i in range(n):
            if used[i] > SUSPENDED:
                raise ValueError(f"row {i} has the unknown state {used[i]}")
        if n:
            self.grow(n)
            memcpy(self.states, &used[0], n)
            memcpy(self.generations, &lives[0], 4 * <size_t> n)
        self.top = n
        for i in range(n):
            if used[i] == FREE:
                self.freed[self.freed_n] = i
                self.freed_n += 1
            else:
                self.alive += 1
        self.freed_sorted = True


cdef class Column:
    """A field of a range of rows (PEP 3118): what NumPy and memoryview look through. It keeps the population alive."""

    cdef Population population
    cdef char* start
    cdef Py_ssize_t shape[1]
    cdef Py_ssize_t strides[1]
    cdef Py_ssize_t itemsize
    cdef char code[2]

    def __cinit__(self, Population population not None, Py_ssize_t field, uint32_t start, uint32_t count):
        self.population = population
        self.shape[0] = count
        if field >= 0:
            self.code[0] = <char> ord(population.fields[field][1])
            self.itemsize = <Py_ssize_t> population.widths[field]
            self.strides[0] = <Py_ssize_t> population.steps[field]
            self.start = <char*> population.bases[field] + <size_t> start * population.steps[field]
        else:
            self.code[0] = c"B" if field == -1 else c"I"
            self.itemsize = 1 if field == -1 else 4
            self.strides[0] = self.itemsize
            self.start = <char*> population.states if field == -1 else <char*> population.generations

    def __getbuffer__(self, Py_buffer* view, int flags):
        if self.strides[0] != self.itemsize and not flags & PyBUF_STRIDES:
            raise BufferError("the fields of rows are not contiguous")
        view.buf = self.start
        view.obj = self
        view.len = self.shape[0] * self.itemsize
        view.itemsize = self.itemsize
        view.readonly = 0
        view.ndim = 1
        view.format = NULL
        if flags & PyBUF_FORMAT:
            view.format = self.code
        view.shape = self.shape if flags & PyBUF_ND else NULL
        view.strides = self.strides if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL

    def __len__(self):
        return self.shape[0]
