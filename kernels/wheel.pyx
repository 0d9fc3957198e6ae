"""A hierarchical timer wheel: which of many ids is due, exactly in the order of (instant, id).

As Varghese and Lauck's sixth scheme ("Hashed and hierarchical timing wheels", SOSP 1987): seven levels of 256 slots, a
slot of the lowest 512 ns wide and one of each next level 256 times as wide, so all of 64 bits of ns are covered. An id goes
to the lowest level whose next 255 slots reach its instant; when the time of a slot has come it is spread over the
levels below. Those of the two lowest are sorted when they open, which makes the order exact: one of the second (131 µs)
by counting, as a whole, because that costs less than to spread it; what is added to its time meanwhile waits in slots
of the first and joins when they open. Occupied slots are bits, so empty time is skipped, however long.

Slots are lists of chunks of 31 keys out of one pool: what a wheel touches is about what waits in it. A key is the
offset in the slot and the id, so that sorting is comparing integers. To cancel is to forget the instant; the key that
stays behind is dropped when it is met, or with all the others once they outnumber those that wait.
"""

cimport cython
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from libc.stddef cimport size_t
from libc.stdint cimport UINT32_MAX, UINT64_MAX, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

cdef extern from *:
    """
    static inline int lowest_bit(uint64_t v) { return __builtin_ctzll(v); }
    static inline void soon(const void *at) { __builtin_prefetch(at, 1, 3); }
    #define WHEEL_UNLIKELY(x) __builtin_expect(!!(x), 0)
    """
    int lowest_bit(uint64_t) noexcept nogil
    void soon(const void*) noexcept nogil
    bint unlikely "WHEEL_UNLIKELY" (bint) noexcept nogil

cdef enum:
    GRAIN = 9                           # bits of a slot of the lowest level
    BITS = 8                            # slots of a level
    SLOTS = 1 << BITS
    WORDS = SLOTS // 64
    LEVELS = 7
    KEYS = 31                           # of a chunk, which so has 256 bytes
    FEW = 40                            # up to which inserting is faster than counting digits
    AHEAD = 16                          # keys by which instants are fetched before they are compared
    FINEST = 11                         # bits by which a slot of the second level is counted at most
    SPARE = LEVELS * SLOTS + 8          # chunks that may be partly filled

cdef uint32_t NONE = UINT32_MAX
cdef uint64_t LOW = 0xFFFFFFFF

cdef struct Chunk:
    uint64_t keys[KEYS]
    uint32_t next
    uint32_t unused

cdef struct Slot:
    uint32_t head                       # the chunk that is being filled; those behind it are full
    uint32_t fill                       # keys in it; KEYS while there is none


cdef inline int width(int level) noexcept nogil:
    return GRAIN + BITS * level


cdef void insertion_sort(uint64_t* keys, size_t n) noexcept nogil:
    cdef size_t i, j
    cdef uint64_t key
    for i in range(1, n):
        key = keys[i]
        j = i
        while j > 0 and keys[j - 1] > key:
            keys[j] = keys[j - 1]
            j -= 1
        keys[j] = key


cdef void sort(uint64_t* keys, uint64_t* scratch, size_t n) noexcept nogil:
    """In place: by inserting when there are few, else by digits of a byte, those left out in which no two keys differ."""
    cdef size_t count[256]
    cdef size_t i, sum, had
    cdef uint64_t differ = 0
    cdef uint64_t* source = keys
    cdef uint64_t* target = scratch
    cdef uint64_t* other
    cdef int shift
    cdef bint ordered = True
    if n <= FEW:
        insertion_sort(keys, n)
        return
    for i in range(1, n):
        differ |= keys[i] ^ keys[0]
        ordered &= keys[i - 1] <= keys[i]
    if ordered:
        return
    for shift in range(0, 64, 8):
        if not differ >> shift & 0xFF:
            continue
        memset(count, 0, sizeof(count))
        for i in range(n):
            count[source[i] >> shift & 0xFF] += 1
        sum = 0
        for i in range(256):
            had = count[i]
            count[i] = sum
            sum += had
        for i in range(n):
            had = source[i] >> shift & 0xFF
            target[count[had]] = source[i]
            count[had] += 1
        other = source
        source = target
        target = other
    if source != keys:
        memcpy(keys, source, n * 8)


cdef inline void place(Wheel self, uint32_t id, uint64_t at_ns) noexcept nogil:
    """Put a key where it belongs. at_ns is not before the open slot, and there is room."""
    cdef int level = 1
    cdef int bits = GRAIN + BITS
    cdef uint64_t number = at_ns >> bits
    cdef uint64_t ahead = number - (self.here >> bits)
    cdef uint64_t key
    cdef Slot* slot
    if ahead <= 1:                      # else it is beyond the lowest level
        ahead = (at_ns >> GRAIN) - (self.here >> GRAIN)
        if ahead == 0:
            if self.end == self.run_room:
                memmove(self.run, self.run + self.at, (self.end - self.at) * 8)
                self.ordered -= self.at
                self.end -= self.at
                self.at = 0
            self.run[self.end] = (at_ns - self.base) << 32 | id
            self.end += 1
            return
        if ahead < SLOTS:
            level = 0
            bits = GRAIN
            number = at_ns >> GRAIN
    else:
        while unlikely(ahead >= SLOTS):
            level += 1
            bits += BITS
            number = at_ns >> bits
            ahead = number - (self.here >> bits)
    key = id
    if bits <= 32:
        key |= (at_ns & ((<uint64_t> 1 << bits) - 1)) << 32
    slot = &self.slots[level * SLOTS + number % SLOTS]
    if unlikely(slot.fill == KEYS):
        self.extend(level, number)
    self.chunks[slot.head].keys[slot.fill] = key
    slot.fill += 1


cdef inline int insert(Wheel self, uint32_t id, uint64_t at_ns) noexcept nogil:
    cdef uint64_t had
    if unlikely(id >= self.ids) and self.reserve_ids(id):
        return -1
    if at_ns < self.now:
        at_ns = self.now
    had = ~self.missing[id]
    if unlikely(had == at_ns):
        return 0
    if unlikely(at_ns == UINT64_MAX):
        self.cancel(id)
        return 0
    if unlikely(2 * (self.entries + 1) > self.run_room) and self.reserve_entry():
        return -1
    if had == UINT64_MAX:
        self.count += 1
    elif had == self.soonest:
        self.soonest = 0
    if at_ns < self.soonest:
        self.soonest = at_ns
    self.missing[id] = ~at_ns
    place(self, id, at_ns)
    self.entries += 1
    if unlikely(self.entries > 2 * self.count + 4096):
        self.sweep()
    return 0


@cython.final
cdef class Wheel:
    """Ids (32 bits) and the instants (ns, 64 bits) at which they are due. An id waits once at most.

    Room is taken for all ids up to the greatest, 8 bytes each, so they should be numbers of rows. Time does not run
    backwards: an instant that lies before the last one that was asked about is due at that one.
    """

    def __cinit__(self, ids=1024):
        cdef int level
        cdef size_t i
        if not 1 <= ids <= 1 << 32:
            raise ValueError(f"room for {ids} ids; it is 1 to 2^32")
        self.ids = ids
        self.free = NONE
        self.upper = UINT64_MAX
        for level in range(8):
            self.starts[level] = UINT64_MAX
        self.missing = <uint64_t*> PyMem_RawCalloc(self.ids, 8)
        self.slots = <Slot*> PyMem_RawMalloc(LEVELS * SLOTS * sizeof(Slot))
        self.occupied = <uint64_t*> PyMem_RawCalloc(LEVELS * WORDS, 8)
        if self.missing == NULL or self.slots == NULL or self.occupied == NULL or self.reserve_entry():
            raise MemoryError(f"no memory for a timer wheel of {ids} ids")
        for i in range(LEVELS * SLOTS):
            self.slots[i].head = NONE
            self.slots[i].fill = KEYS

    def __dealloc__(self):
        PyMem_RawFree(self.missing)
        PyMem_RawFree(self.chunks)
        PyMem_RawFree(self.slots)
        PyMem_RawFree(self.occupied)
        PyMem_RawFree(self.run)
        PyMem_RawFree(self.scratch)
        PyMem_RawFree(self.wide)

    # -- room, taken when an id is added, so that nothing else can fail

    cdef int reserve_ids(self, uint32_t id) noexcept nogil:
        cdef size_t ids = self.ids * 2
        cdef uint64_t* missing
        if ids <= id:
            ids = <size_t> id + 1
        missing = <uint64_t*> PyMem_RawCalloc(ids, 8)   # not realloc: pages that no id needs stay untouched
        if missing == NULL:
            return -1
        memcpy(missing, self.missing, self.ids * 8)
        PyMem_RawFree(self.missing)
        self.missing = missing
        self.ids = ids
        return 0

    cdef int reserve_entry(self) noexcept nogil:
        cdef size_t keys = 2 * (self.entries + 1)
        cdef size_t chunks
        cdef void* grown
        keys += keys // 2 + 64
        chunks = keys // 2 // KEYS + 1 + SPARE
        if self.room < chunks:
            if chunks >= NONE:
                return -1
            grown = PyMem_RawRealloc(self.chunks, chunks * sizeof(Chunk))
            if grown == NULL:
                return -1
            self.chunks = <Chunk*> grown
            self.room = <uint32_t> chunks
        grown = PyMem_RawRealloc(self.run, keys * 8)
        if grown == NULL:
            return -1
        self.run = <uint64_t*> grown
        grown = PyMem_RawRealloc(self.wide, keys * 8)
        if grown == NULL:
            return -1
        self.wide = <uint64_t*> grown
        grown = PyMem_RawMalloc(keys * 8)
        if grown == NULL:
            return -1
        PyMem_RawFree(self.scratch)
        self.scratch = <uint64_t*> grown
        self.run_room = keys
        return 0

    # -- slots

    cdef void extend(self, int level, uint64_t number) noexcept nogil:
        """Begin another chunk of a slot."""
        cdef size_t index = number % SLOTS
        cdef Slot* slot = &self.slots[level * SLOTS + index]
        cdef uint32_t chunk = self.free
        cdef uint64_t start
        if chunk != NONE:
            self.free = self.chunks[chunk].next
        else:
            chunk = self.touched
            self.touched += 1
        self.chunks[chunk].next = slot.head
        if slot.head == NONE:
            self.occupied[level * WORDS + index // 64] |= <uint64_t> 1 << (index % 64)
            if level:
                start = number << width(level)
                if start < self.starts[level]:
                    self.starts[level] = start
                    if start < self.upper:
                        self.upper = start
        slot.head = chunk
        slot.fill = 0

    cdef uint64_t following(self, int level) noexcept nogil:
        """The number of the first occupied slot of a level, UINT64_MAX when there is none."""
        cdef uint64_t first = (self.here >> width(level)) + 1
        cdef uint64_t* words = &self.occupied[level * WORDS]
        cdef size_t bit = first % 64
        cdef size_t word = first % SLOTS // 64
        cdef uint64_t found = words[word] >> bit
        cdef size_t i
        if found:
            return first + lowest_bit(found)
        for i in range(1, WORDS + 1):
            found = words[(word + i) % WORDS]
            if found:
                return first - bit + 64 * i + lowest_bit(found)
        return UINT64_MAX

    cdef void begin(self, int level) noexcept nogil:
        """Look anew where the first occupied slot of an upper level begins."""
        cdef uint64_t number = self.following(level)
        self.starts[level] = UINT64_MAX if number == UINT64_MAX else number << width(level)
        self.upper = UINT64_MAX
        for level in range(1, LEVELS):
            self.upper = min(self.upper, self.starts[level])

    cdef uint32_t detach(self, int level, uint64_t number, uint32_t* fill) noexcept nogil:
        """Empty a slot: its chunks, of which the first has *fill keys."""
        cdef size_t index = number % SLOTS
        cdef Slot* slot = &self.slots[level * SLOTS + index]
        cdef uint32_t head = slot.head
        fill[0] = slot.fill
        slot.head = NONE
        slot.fill = KEYS
        self.occupied[level * WORDS + index // 64] &= ~(<uint64_t> 1 << (index % 64))
        return head

    cdef void give_back(self, uint32_t chunk) noexcept nogil:
        self.chunks[chunk].next = self.free
        self.free = chunk

    cdef void collect(self, uint64_t number) noexcept nogil:
        """Append the keys of a slot of the lowest level to the run."""
        cdef uint32_t fill, after
        cdef uint32_t chunk = self.detach(0, number, &fill)
        cdef uint32_t i
        cdef Chunk* keys
        while chunk != NONE:
            keys = &self.chunks[chunk]
            for i in range(fill):
                self.run[self.end + i] = keys.keys[i]
            self.end += fill
            fill = KEYS
            after = keys.next
            self.give_back(chunk)
            chunk = after

    cdef void take_wide(self, uint64_t last) noexcept nogil:
        """Append the keys of the wide slot up to this slot of the lowest level to the run."""
        cdef uint64_t ends = ((last + 1) << GRAIN) - self.wide_base
        cdef uint64_t less = (self.base - self.wide_base) << 32
        cdef size_t at = self.wide_at
        cdef size_t end = self.end
        ends = UINT64_MAX if ends > LOW else ends << 32
        while at < self.wide_end and self.wide[at] < ends:
            self.run[end] = self.wide[at] - less
            end += 1
            at += 1
        self.wide_at = at
        self.end = end

    cdef void open_wide(self) noexcept nogil:
        """Sort the slot of the second level that begins here."""
        cdef uint32_t count[1 << FINEST]
        cdef uint32_t fill, after, sum, had, most = 0
        cdef uint32_t chunk = self.detach(1, self.here >> (GRAIN + BITS), &fill)
        cdef uint64_t* keys = self.scratch
        cdef size_t n = 0, i
        cdef int bits = 6, shift
        while chunk != NONE:
            memcpy(keys + n, self.chunks[chunk].keys, fill * 8)
            n += fill
            fill = KEYS
            after = self.chunks[chunk].next
            self.give_back(chunk)
            chunk = after
        self.wide_base = self.here
        self.wide_at = 0
        self.wide_end = n
        if n > FEW:
            while bits < FINEST and n >> bits:
                bits += 1
            shift = 32 + GRAIN + BITS - bits
            memset(count, 0, sizeof(uint32_t) << bits)
            for i in range(n):
                count[keys[i] >> shift] += 1
            sum = 0
            for i in range(<size_t> 1 << bits):
                had = count[i]
                most = max(most, had)
                count[i] = sum
                sum += had
            if most <= FEW:
                for i in range(n):
                    had = <uint32_t> (keys[i] >> shift)
                    self.wide[count[had]] = keys[i]
                    count[had] += 1
                insertion_sort(self.wide, n)        # in which nothing has far to go
                return
        memcpy(self.wide, keys, n * 8)
        sort(self.wide, keys, n)

    cdef void expand(self, int level) noexcept nogil:
        """Spread the slot of a level that begins here over the levels below."""
        cdef int bits = width(level)
        cdef uint64_t number = self.here >> bits
        cdef uint32_t fill, after, id, i
        cdef uint32_t chunk = self.detach(level, number, &fill)
        cdef uint64_t at_ns
        while chunk != NONE:
            for i in range(fill):
                at_ns = self.chunks[chunk].keys[i]
                id = <uint32_t> at_ns
                if bits <= 32:
                    at_ns = self.here + (at_ns >> 32)
                else:
                    at_ns = ~self.missing[id]
                    if at_ns >> bits != number or at_ns == UINT64_MAX:
                        self.entries -= 1
                        continue
                place(self, id, at_ns)
            fill = KEYS
            after = self.chunks[chunk].next
            self.give_back(chunk)
            chunk = after

    cdef bint open_next(self) noexcept nogil:
        """Open the first slots that begin by now; False when there is none. The run must be used up."""
        cdef uint64_t number, start, last
        cdef int level
        self.at = self.ordered = self.end = 0
        while True:
            number = self.following(0)
            start = UINT64_MAX if number == UINT64_MAX else number << GRAIN
            if self.wide_at < self.wide_end:
                # All of it lies before anything of the levels above. Slots that have no other keys come at once.
                last = min(self.now, min(start, self.upper) - 1) >> GRAIN
                last = min(last, (self.wide_base >> GRAIN) + SLOTS - 1)     # offsets from its base fit a key
                self.base = self.wide_base
                self.take_wide(last)
                if self.end:
                    self.ordered = self.end
                    self.here = last << GRAIN
                    return True
            if self.upper <= start:
                if self.upper > self.now or self.upper == UINT64_MAX:
                    break
                self.here = self.base = start = self.upper
                for level in range(LEVELS - 1, 0, -1):
                    if self.starts[level] == start:
                        if level > 1:
                            self.expand(level)
                        else:
                            self.open_wide()
                        self.begin(level)
                if number == start >> GRAIN:
                    self.collect(number)
            elif start > self.now:
                break
            else:
                self.here = self.base = start
                self.collect(number)
            if self.wide_at < self.wide_end:
                self.take_wide(self.here >> GRAIN)
            if self.end:
                return True
        self.here = self.base = self.now >> GRAIN << GRAIN      # what waits begins later: nothing has to move
        return False

    cdef void order(self) noexcept nogil:
        """Sort what came to the run since, and merge it with what was sorted."""
        cdef uint64_t* fresh = self.scratch
        cdef size_t n = self.end - self.ordered
        cdef size_t i, write
        sort(self.run + self.ordered, self.scratch, n)
        if self.ordered > self.at and self.run[self.ordered - 1] > self.run[self.ordered]:
            memcpy(fresh, self.run + self.ordered, n * 8)
            i = self.ordered
            write = self.end
            while n:
                write -= 1
                if i > self.at and self.run[i - 1] > fresh[n - 1]:
                    i -= 1
                    self.run[write] = self.run[i]
                else:
                    n -= 1
                    self.run[write] = fresh[n]
        self.ordered = self.end

    cdef void sweep(self) noexcept nogil:
        """Build the wheel anew of those that wait, where room can be had for them; else later."""
        cdef size_t n = 0, i, index
        cdef uint32_t chunk, fill, k, id
        cdef int level
        cdef uint64_t at_ns
        cdef uint64_t* times = <uint64_t*> PyMem_RawMalloc(self.count * 8)
        cdef uint32_t* ids = <uint32_t*> PyMem_RawMalloc(self.count * 4)
        if times == NULL or ids == NULL:
            PyMem_RawFree(times)
            PyMem_RawFree(ids)
            return
        # An id is forgotten as soon as it is written down, so that a second key of it is not.
        for i in range(self.at, self.end):
            id = <uint32_t> self.run[i]
            if self.missing[id]:
                ids[n] = id
                times[n] = ~self.missing[id]
                self.missing[id] = 0
                n += 1
        for i in range(self.wide_at, self.wide_end):
            id = <uint32_t> self.wide[i]
            if self.missing[id]:
                ids[n] = id
                times[n] = ~self.missing[id]
                self.missing[id] = 0
                n += 1
        for index in range(LEVELS * SLOTS):
            chunk = self.slots[index].head
            fill = self.slots[index].fill
            while chunk != NONE:
                for k in range(fill):
                    id = <uint32_t> self.chunks[chunk].keys[k]
                    if self.missing[id]:
                        ids[n] = id
                        times[n] = ~self.missing[id]
                        self.missing[id] = 0
                        n += 1
                fill = KEYS
                chunk = self.chunks[chunk].next
            self.slots[index].head = NONE
            self.slots[index].fill = KEYS
        memset(self.occupied, 0, LEVELS * WORDS * 8)
        for level in range(LEVELS):
            self.starts[level] = UINT64_MAX
        self.upper = UINT64_MAX
        self.free = NONE
        self.touched = 0
        self.at = self.ordered = self.end = 0
        self.wide_at = self.wide_end = 0
        self.base = self.here
        for i in range(n):
            self.missing[ids[i]] = ~times[i]
            place(self, ids[i], times[i])
        self.entries = n
        PyMem_RawFree(times)
        PyMem_RawFree(ids)

    # -- for kernels

    cdef int add(self, uint32_t id, uint64_t at_ns) noexcept nogil:
        """Have an id due at an instant, and no longer at another one: 0, or -1 without memory (then nothing changed)."""
        return insert(self, id, at_ns)

    cdef int add_many(self, const uint32_t* ids, size_t n, const uint64_t* times) noexcept nogil:
        """add() of each; -1 without memory, when some of them may have been added."""
        cdef size_t i
        for i in range(n):
            if insert(self, ids[i], times[i]):
                return -1
        return 0

    cdef void cancel(self, uint32_t id) noexcept nogil:
        """Have an id not due at all."""
        if id >= self.ids or self.missing[id] == 0:
            return
        if ~self.missing[id] == self.soonest:
            self.soonest = 0
        self.missing[id] = 0
        self.count -= 1

    cdef size_t due(self, uint64_t now_ns, uint32_t* out, size_t most) noexcept nogil:
        """Take up to `most` ids whose instant is not after now_ns, by (instant, id): how many. They wait no longer."""
        cdef size_t n = 0, at, end
        cdef uint64_t key, limit, base
        cdef uint64_t* run
        cdef uint64_t* missing = self.missing
        cdef uint32_t id
        if now_ns > self.now:
            self.now = now_ns
        if self.now < self.soonest:
            return 0
        while n < most:
            if self.at == self.end:
                if not self.open_next():
                    break
            if self.ordered < self.end:
                self.order()
            limit = self.now - self.base
            # A key is due when its offset is not above the limit.
            limit = UINT64_MAX if limit >= LOW else ((limit + 1) << 32) - 1
            run = self.run
            base = self.base
            at = self.at
            end = self.end
            while at < end and n < most:
                key = run[at]
                if at + AHEAD < end:
                    soon(&missing[<uint32_t> run[at + AHEAD]])
                if key > limit:
                    break
                at += 1
                id = <uint32_t> key
                out[n] = id
                key = ~(base + (key >> 32)) ^ missing[id]
                if key == 0:                        # it waits, and for this instant
                    missing[id] = 0
                    n += 1
            self.entries -= at - self.at
            self.at = at
            if at < end and n < most:
                break
        self.count -= n
        self.soonest = 0
        return n

    cdef uint64_t earliest(self, int level, uint64_t number) noexcept nogil:
        """The first instant of a slot at which an id is due; UINT64_MAX, and an empty slot, when there is none."""
        cdef int bits = width(level)
        cdef Slot* slot = &self.slots[level * SLOTS + number % SLOTS]
        cdef uint32_t chunk = slot.head
        cdef uint32_t fill = slot.fill
        cdef uint32_t i, after
        cdef uint64_t at_ns, key
        cdef uint64_t least = UINT64_MAX
        while chunk != NONE:
            for i in range(fill):
                key = self.chunks[chunk].keys[i]
                at_ns = ~self.missing[<uint32_t> key]
                # Another key of an id that was moved inside the slot tells the same.
                if at_ns < least and at_ns >> bits == number:
                    least = at_ns
            fill = KEYS
            chunk = self.chunks[chunk].next
        if least == UINT64_MAX:
            chunk = self.detach(level, number, &fill)
            while chunk != NONE:
                self.entries -= fill
                fill = KEYS
                after = self.chunks[chunk].next
                self.give_back(chunk)
                chunk = after
        return least

    cdef uint64_t next_ns(self) noexcept nogil:
        """The first instant at which an id is due, UINT64_MAX when none waits. Opens no slot: it may lie far ahead."""
        cdef int level
        cdef uint64_t least = UINT64_MAX
        cdef uint64_t found, number, key
        if self.soonest:
            return self.soonest
        if self.ordered < self.end:
            self.order()
        while self.at < self.end:
            key = self.run[self.at]
            if ~self.missing[<uint32_t> key] == self.base + (key >> 32):
                self.soonest = self.base + (key >> 32)
                return self.soonest
            self.at += 1
            self.entries -= 1
        while self.wide_at < self.wide_end:
            key = self.wide[self.wide_at]
            if ~self.missing[<uint32_t> key] == self.wide_base + (key >> 32):
                least = self.wide_base + (key >> 32)
                break
            self.wide_at += 1
            self.entries -= 1
        number = self.following(0)
        while number != UINT64_MAX and number << GRAIN < least:
            found = self.earliest(0, number)
            if found != UINT64_MAX:
                least = min(least, found)
                break
            number = self.following(0)
        for level in range(1, LEVELS):
            while self.starts[level] < least:
                found = self.earliest(level, self.starts[level] >> width(level))
                if found != UINT64_MAX:
                    least = min(least, found)
                    break
                self.begin(level)
        self.soonest = least
        return least

    # -- for Python

    def __len__(self):
        return self.count

    def arm(self, uint32_t id, uint64_t at_ns):
        """Have an id due at an instant, ns; it is moved if it waits for another one. 2^64-1 is never."""
        if self.add(id, at_ns):
            raise MemoryError(f"no memory for id {id} in the timer wheel")

    def disarm(self, uint32_t id):
        """Have an id not due at all; tells whether it waited."""
        cdef size_t before = self.count
        self.cancel(id)
        return self.count < before

    def rearm(self, ids, times):
        """arm() of many: contiguous buffers of as many ids (4 bytes each) and instants (8 bytes each)."""
        cdef const uint32_t[::1] some_ids
        cdef const uint64_t[::1] some_times
        ids, times = memoryview(ids), memoryview(times)
        if len(ids) != len(times):
            raise ValueError(f"{len(ids)} ids and {len(times)} instants")
        if not len(ids):
            return
        some_ids, some_times = ids, times
        if self.add_many(&some_ids[0], some_ids.shape[0], &some_times[0]):
            raise MemoryError("no memory for the ids in the timer wheel")

    def waits_until(self, uint32_t id):
        """The instant, ns, at which an id is due; None when it does not wait."""
        if id >= self.ids or self.missing[id] == 0:
            return None
        return ~self.missing[id]

    def expired(self, uint64_t now_ns, out):
        """Take ids whose instant is not after now_ns, by (instant, id), into a writable buffer of 4-byte items.

        Returns how many, at most as many as there is room for; they wait no longer.
        """
        cdef uint32_t[::1] room = out
        return self.due(now_ns, &room[0] if room.shape[0] else NULL, room.shape[0])

    def next_due(self):
        """The first instant, ns, at which an id is due; None when none waits."""
        cdef uint64_t found = self.next_ns()
        return None if found == UINT64_MAX else found

    @property
    def footprint(self):
        """Bytes that the wheel has touched, about."""
        return (self.ids + LEVELS * (SLOTS + WORDS) + 3 * self.run_room) * 8 + self.touched * sizeof(Chunk)
