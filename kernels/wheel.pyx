"""A hierarchical timer wheel: which of many ids is due by now, in the order of their numbers.

As Varghese and Lauck's sixth scheme ("Hashed and hierarchical timing wheels", SOSP 1987): seven levels of 1024 slots, a
slot of the lowest for one instant (a multiple of the grain) and one of each next level 1024 times as wide, so all of 64
bits are covered. An id goes to the lowest level whose next 1023 slots reach its instant; when the time of a slot has come it
is spread over the level below. What the lowest level gives is sorted by id, by setting bits where ids are dense, else by
digits: so who uses them touches memory in order. Occupied slots are bits, so empty time is skipped, however long.

Slots are lists of chunks of ids out of one pool: what a wheel touches is about what waits in it. To cancel is to forget the
instant; the id that stays behind is dropped when it is met, or with all the others once they outnumber those that wait.
"""

cimport cython
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from libc.stddef cimport size_t
from libc.stdint cimport UINT32_MAX, UINT64_MAX, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

cdef extern from *:
    """
    static inline int lowest_bit(uint64_t v) { return __builtin_ctzll(v); }
    #define WHEEL_UNLIKELY(x) __builtin_expect(!!(x), 0)
    #define WHEEL_LAST ((uint64_t)1 << 63)
    """
    int lowest_bit(uint64_t) noexcept nogil
    bint unlikely "WHEEL_UNLIKELY" (bint) noexcept nogil
    uint64_t LAST "WHEEL_LAST"

cdef extern from "soon.h" nogil:
    enum:
        SOON_FAR
    void soon(const void*) noexcept

cdef enum:
    BITS = 10                           # slots of a level
    SLOTS = 1 << BITS
    WORDS = SLOTS // 64
    LEVELS = 7
    IDS = 63                            # of a chunk, which so has 256 bytes
    FEW = 24                            # up to which inserting is faster than anything else
    STEPS = 3                           # bits of a word that are taken without a question
    DENSE = 2                           # ids a word of bits, from which on there often are more
    DIGIT = 11
    SPARE = LEVELS * SLOTS + 8          # chunks that may be partly filled

cdef uint32_t NONE = UINT32_MAX

cdef struct Chunk:
    uint32_t ids[IDS]
    uint32_t next

cdef struct Slot:
    uint32_t head                       # the chunk that is being filled; those behind it are full
    uint32_t fill                       # ids in it; IDS while there is none


cdef void insertion_sort(uint32_t* ids, size_t n) noexcept nogil:
    cdef size_t i, j
    cdef uint32_t id
    for i in range(1, n):
        id = ids[i]
        j = i
        while j > 0 and ids[j - 1] > id:
            ids[j] = ids[j - 1]
            j -= 1
        ids[j] = id


cdef void digit_sort(uint32_t* ids, uint32_t* scratch, size_t n, uint32_t low, uint32_t high) noexcept nogil:
    """In place: by as few digits of at most 11 bits as their range needs."""
    cdef uint32_t count[1 << DIGIT]
    cdef uint32_t* source = ids
    cdef uint32_t* target = scratch
    cdef uint32_t* other
    cdef uint32_t sum, had, digit, mask
    cdef size_t i
    cdef int bits = 1, digits, width, shift = 0
    while bits < 32 and (high - low) >> bits:
        bits += 1
    digits = (bits + DIGIT - 1) // DIGIT
    width = (bits + digits - 1) // digits
    mask = (<uint32_t> 1 << width) - 1
    while digits:
        memset(count, 0, sizeof(uint32_t) << width)
        for i in range(n):
            count[(source[i] - low) >> shift & mask] += 1
        sum = 0
        for i in range(<size_t> 1 << width):
            had = count[i]
            count[i] = sum
            sum += had
        for i in range(n):
            digit = (source[i] - low) >> shift & mask
            target[count[digit]] = source[i]
            count[digit] += 1
        other = source
        source = target
        target = other
        shift += width
        digits -= 1
    if source != ids:
        memcpy(ids, source, n * 4)


cdef inline void place(Wheel self, uint32_t id, uint64_t number) noexcept nogil:
    """Put an id where it belongs. Its instant, by number, is not before this one, and there is room."""
    cdef int level = 0
    cdef uint64_t here = self.here
    cdef Slot* slot
    while unlikely(number - here >= SLOTS):
        level += 1
        number >>= BITS
        here >>= BITS
    slot = &self.slots[level * SLOTS + number % SLOTS]
    if unlikely(slot.fill == IDS):
        self.extend(level, number)
    self.chunks[slot.head].ids[slot.fill] = id
    slot.fill += 1


cdef inline uint64_t number_of(Wheel self, uint64_t at_ns) noexcept nogil:
    """How many grains a multiple of the grain is: an exact division is a product with the inverse."""
    return (at_ns >> self.twos) * self.inverse


cdef inline int insert(Wheel self, uint32_t id, uint64_t at_ns) noexcept nogil:
    cdef uint64_t had, number
    if unlikely(id >= self.ids) and self.reserve_ids(id):
        return -1
    if unlikely(at_ns == UINT64_MAX):
        self.cancel(id)
        return 0
    number = number_of(self, at_ns)
    if unlikely(number < self.here):
        number = self.here
        if number == UINT64_MAX:            # the end of time, which is never
            self.cancel(id)
            return 0
    had = ~self.missing[id]
    if unlikely(had == number):
        return 0
    if unlikely(self.entries + 1 > self.run_room) and self.reserve_entry(self.entries + 1):
        return -1
    if had == UINT64_MAX:
        self.count += 1
    elif had == self.soonest:
        self.known = False
    if number < self.soonest:
        self.soonest = number               # right if it is known, else not used
    self.missing[id] = ~number
    place(self, id, number)
    self.entries += 1
    if unlikely(self.entries > 2 * self.count + 4096):
        self.sweep()
    return 0


@cython.final
cdef class Wheel:
    """Ids (32 bits) and the instants (ns, 64 bits) at which they are due. An id waits once at most.

    Instants are multiples of `grain_ns`. Room is taken for all ids up to the greatest, 8 bytes each, so they should be numbers
    of rows. Time does not run backwards: an instant that lies before the last one that was asked about is due at that one.
    """

    def __cinit__(self, ids=1024, uint64_t grain_ns=1):
        cdef int level
        cdef size_t i
        cdef uint64_t odd
        if not 1 <= ids <= 1 << 32:
            raise ValueError(f"room for {ids} ids; it is 1 to 2^32")
        if grain_ns == 0:
            raise ValueError("a grain of 0 ns; it is 1 ns or longer")
        self.grain_ns = grain_ns
        odd = grain_ns
        while odd % 2 == 0:
            odd //= 2
            self.twos += 1
        self.inverse = odd              # right to 3 bits; Newton's method doubles them
        for i in range(5):
            self.inverse *= 2 - odd * self.inverse
        self.ids = ids
        self.free = NONE
        self.upper = UINT64_MAX
        self.soonest = UINT64_MAX
        self.known = True
        for level in range(8):
            self.starts[level] = UINT64_MAX
        self.missing = <uint64_t*> PyMem_RawCalloc(self.ids, 8)
        self.bits = <uint64_t*> PyMem_RawCalloc(self.ids // 64 + 1, 8)
        self.slots = <Slot*> PyMem_RawMalloc(LEVELS * SLOTS * sizeof(Slot))
        self.occupied = <uint64_t*> PyMem_RawCalloc(LEVELS * WORDS, 8)
        if (self.missing == NULL or self.bits == NULL or self.slots == NULL or self.occupied == NULL
                or self.reserve_entry(1)):
            raise MemoryError(f"no memory for a timer wheel of {ids} ids")
        for i in range(LEVELS * SLOTS):
            self.slots[i].head = NONE
            self.slots[i].fill = IDS

    def __dealloc__(self):
        PyMem_RawFree(self.missing)
        PyMem_RawFree(self.bits)
        PyMem_RawFree(self.chunks)
        PyMem_RawFree(self.slots)
        PyMem_RawFree(self.occupied)
        PyMem_RawFree(self.run)
        PyMem_RawFree(self.scratch)

    # -- room, taken when an id is added, so that nothing else can fail

    cdef int reserve_ids(self, uint32_t id) noexcept nogil:
        cdef size_t ids = self.ids * 2
        cdef uint64_t* missing
        cdef uint64_t* bits
        if ids <= id:
            ids = <size_t> id + 1
        missing = <uint64_t*> PyMem_RawCalloc(ids, 8)   # not realloc: pages that no id needs stay untouched
        bits = <uint64_t*> PyMem_RawCalloc(ids // 64 + 1, 8)
        if missing == NULL or bits == NULL:
            PyMem_RawFree(missing)
            PyMem_RawFree(bits)
            return -1
        memcpy(missing, self.missing, self.ids * 8)
        PyMem_RawFree(self.missing)
        PyMem_RawFree(self.bits)
        self.missing = missing
        self.bits = bits
        self.ids = ids
        return 0

    cdef int reserve_entry(self, size_t ids) noexcept nogil:
        cdef size_t chunks
        cdef void* grown
        ids += ids // 2 + 64
        chunks = ids // IDS + 1 + SPARE
        if self.room < chunks:
            if chunks >= NONE:
                return -1
            grown = PyMem_RawRealloc(self.chunks, chunks * sizeof(Chunk))
            if grown == NULL:
                return -1
            self.chunks = <Chunk*> grown
            self.room = <uint32_t> chunks
        grown = PyMem_RawRealloc(self.run, (ids + 1) * 4)   # and one that a step for nothing writes
        if grown == NULL:
            return -1
        self.run = <uint32_t*> grown
        grown = PyMem_RawMalloc(ids * 4)
        if grown == NULL:
            return -1
        PyMem_RawFree(self.scratch)
        self.scratch = <uint32_t*> grown
        self.run_room = ids
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
                start = number << BITS * level
                if start < self.starts[level]:
                    self.starts[level] = start
                    if start < self.upper:
                        self.upper = start
        slot.head = chunk
        slot.fill = 0

    cdef uint64_t following(self, int level) noexcept nogil:
        """The number of the first occupied slot of a level, of the lowest from this instant on; UINT64_MAX when there is none."""
        cdef uint64_t first = (self.here >> BITS * level) + (level > 0)
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
        self.starts[level] = UINT64_MAX if number == UINT64_MAX else number << BITS * level
        self.upper = UINT64_MAX
        for level in range(1, LEVELS):
            self.upper = min(self.upper, self.starts[level])

    cdef uint32_t detach(self, int level, uint64_t number, uint32_t* fill) noexcept nogil:
        """Empty a slot: its chunks, of which the first has *fill ids."""
        cdef size_t index = number % SLOTS
        cdef Slot* slot = &self.slots[level * SLOTS + index]
        cdef uint32_t head = slot.head
        fill[0] = slot.fill
        slot.head = NONE
        slot.fill = IDS
        self.occupied[level * WORDS + index // 64] &= ~(<uint64_t> 1 << (index % 64))
        return head

    cdef void give_back(self, uint32_t chunk) noexcept nogil:
        self.chunks[chunk].next = self.free
        self.free = chunk

    cdef void collect(self) noexcept nogil:
        """Append the ids of this instant's slot to the run."""
        cdef uint32_t fill, after
        cdef uint32_t chunk = self.detach(0, self.here, &fill)
        while chunk != NONE:
            memcpy(self.run + self.end, self.chunks[chunk].ids, fill * 4)
            self.end += fill
            fill = IDS
            after = self.chunks[chunk].next
            self.give_back(chunk)
            chunk = after

    cdef void expand(self, int level) noexcept nogil:
        """Spread the slot of a level that begins here over the levels below."""
        cdef uint64_t number = self.here >> BITS * level
        cdef uint32_t fill, after, id, i
        cdef uint32_t chunk = self.detach(level, number, &fill)
        cdef uint64_t at
        cdef Chunk* it
        while chunk != NONE:
            it = &self.chunks[chunk]
            after = it.next
            for i in range(fill):
                soon(&self.missing[it.ids[i]])
            for i in range(fill):
                id = it.ids[i]
                at = ~self.missing[id]
                if at >> BITS * level != number or at == UINT64_MAX:
                    self.entries -= 1
                    continue
                place(self, id, at)             # which takes chunks that are free: this one is not yet
            fill = IDS
            self.give_back(chunk)
            chunk = after

    cdef void open_until(self, uint64_t now) noexcept nogil:
        """Open the slots of all instants up to now; the run has what was in them."""
        cdef uint64_t next
        cdef size_t had
        cdef int level
        if self.at == self.end:
            self.at = self.end = 0
        elif self.at:
            memmove(self.run, self.run + self.at, (self.end - self.at) * 4)
            self.end -= self.at
            self.at = 0
        had = self.end
        while True:
            next = self.following(0)
            if self.upper <= next:
                next = self.upper
                if next > now or next == UINT64_MAX:
                    break
                self.here = next
                for level in range(LEVELS - 1, 0, -1):
                    if self.starts[level] == next:
                        self.expand(level)
                        self.begin(level)
                continue
            if next > now:
                break
            self.here = next
            self.collect()
        self.here = now                         # what waits begins later: nothing has to move
        if self.end > had:
            self.order()

    cdef void order(self) noexcept nogil:
        """Sort the run by id; an id that was in it twice may be so still."""
        cdef size_t n = self.end, i, words, w
        cdef int step
        cdef uint32_t id, low = UINT32_MAX, high = 0
        cdef uint32_t* run = self.run
        cdef uint64_t* bits
        cdef uint64_t word
        if n <= FEW:
            insertion_sort(run, n)
            return
        for i in range(n):
            id = run[i]
            low = min(low, id)
            high = max(high, id)
        words = high // 64 - low // 64 + 1
        if 2 * n < words:
            digit_sort(run, self.scratch, n, low, high)
            return
        # Bits, out of which they come in order.
        bits = self.bits + low // 64
        low = low // 64 * 64
        for i in range(n):
            id = run[i] - low
            bits[id // 64] |= <uint64_t> 1 << id % 64
        n = 0
        if self.end < DENSE * words:
            # How many a word has cannot be guessed: some steps are taken for each of them, those for nothing too.
            for w in range(words):
                word = bits[w]
                bits[w] = 0
                id = low + <uint32_t> (64 * w)
                for step in range(STEPS):
                    run[n] = id + <uint32_t> lowest_bit(word | LAST)
                    n += word != 0
                    word &= word - 1
                while unlikely(word):
                    run[n] = id + <uint32_t> lowest_bit(word)
                    n += 1
                    word &= word - 1
        else:
            for w in range(words):
                word = bits[w]
                bits[w] = 0
                id = low + <uint32_t> (64 * w)
                while word:
                    run[n] = id + <uint32_t> lowest_bit(word)
                    n += 1
                    word &= word - 1
        self.entries -= self.end - n
        self.end = n

    cdef void sweep(self) noexcept nogil:
        """Build the wheel anew of those that wait, where room can be had for them; else later."""
        cdef size_t n = 0, kept = 0, i, index
        cdef uint32_t chunk, fill, k, id
        cdef int level
        cdef uint64_t* times = <uint64_t*> PyMem_RawMalloc(self.count * 8)
        cdef uint32_t* ids = <uint32_t*> PyMem_RawMalloc(self.count * 4)
        if times == NULL or ids == NULL:
            PyMem_RawFree(times)
            PyMem_RawFree(ids)
            return
        # What is overdue stays where it is: in the run, in order.
        for i in range(self.at, self.end):
            id = self.run[i]
            if self.missing[id] and ~self.missing[id] <= self.here:
                self.run[kept] = id
                kept += 1
        # An id is forgotten as soon as it is written down, so that it is not a second time.
        for index in range(LEVELS * SLOTS):
            chunk = self.slots[index].head
            fill = self.slots[index].fill
            while chunk != NONE:
                for k in range(fill):
                    id = self.chunks[chunk].ids[k]
                    if self.missing[id] and ~self.missing[id] >= self.here:
                        ids[n] = id
                        times[n] = ~self.missing[id]
                        self.missing[id] = 0
                        n += 1
                fill = IDS
                chunk = self.chunks[chunk].next
            self.slots[index].head = NONE
            self.slots[index].fill = IDS
        memset(self.occupied, 0, LEVELS * WORDS * 8)
        for level in range(LEVELS):
            self.starts[level] = UINT64_MAX
        self.upper = UINT64_MAX
        self.free = NONE
        self.touched = 0
        self.at = 0
        self.end = kept
        for i in range(n):
            self.missing[ids[i]] = ~times[i]
            place(self, ids[i], times[i])
        self.entries = kept + n
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

    cdef int add_taken(self, const uint32_t* ids, size_t n, const uint64_t* times) noexcept nogil:
        """add() of each where none of them waits, as those that `due` has just given; -1 without memory, when some may have been
        added. What they waited for is not looked at: it would be waited for."""
        cdef size_t i, added = 0
        cdef uint64_t number, soonest = self.soonest
        while unlikely(self.entries + n > self.run_room):
            if self.reserve_entry(self.entries + n):
                return -1
        for i in range(n):
            number = number_of(self, times[i])
            if unlikely(times[i] == UINT64_MAX or number < self.here or ids[i] >= self.ids):
                if insert(self, ids[i], times[i]):
                    return -1
                soonest = min(soonest, self.soonest)
                continue
            if number < soonest:
                soonest = number
            self.missing[ids[i]] = ~number
            place(self, ids[i], number)
            added += 1
        self.entries += added
        self.count += added
        self.soonest = soonest
        if unlikely(self.entries > 2 * self.count + 4096):
            self.sweep()
        return 0

    cdef void cancel(self, uint32_t id) noexcept nogil:
        """Have an id not due at all."""
        if id >= self.ids or self.missing[id] == 0:
            return
        if ~self.missing[id] == self.soonest:
            self.known = False
        self.missing[id] = 0
        self.count -= 1

    cdef size_t due(self, uint64_t now_ns, uint32_t* out, size_t most) noexcept nogil:
        """Take those whose instant is not after now_ns, the `most` lowest ids of them, ascending: how many. They wait no longer."""
        cdef size_t n = 0, at, end
        cdef uint64_t now = now_ns // self.grain_ns
        cdef uint32_t id
        cdef uint64_t* missing = self.missing
        cdef uint32_t* run
        if now < self.here:
            now = self.here
        self.open_until(now)
        now = max(~now, <uint64_t> 1)
        run = self.run
        at = self.at
        end = self.end
        while at < end and n < most:
            if at + SOON_FAR < end:
                soon(&missing[run[at + SOON_FAR]])
            id = run[at]
            at += 1
            if missing[id] >= now:              # it waits, and not for later; complements are the other way round
                missing[id] = 0
                out[n] = id
                n += 1
        self.entries -= at - self.at
        self.at = at
        self.count -= n
        self.known = False
        return n

    cdef uint64_t earliest(self, int level, uint64_t number) noexcept nogil:
        """The first instant of a slot at which an id is due; UINT64_MAX, and an empty slot, when there is none."""
        cdef Slot* slot = &self.slots[level * SLOTS + number % SLOTS]
        cdef uint32_t chunk = slot.head
        cdef uint32_t fill = slot.fill
        cdef uint32_t i, after
        cdef uint64_t at
        cdef uint64_t least = UINT64_MAX
        while chunk != NONE:
            for i in range(fill):
                at = ~self.missing[self.chunks[chunk].ids[i]]
                # Another entry of an id that was moved inside the slot tells the same.
                if at < least and at >> BITS * level == number:
                    least = at
                    if level == 0:
                        return least
            fill = IDS
            chunk = self.chunks[chunk].next
        if least == UINT64_MAX:
            chunk = self.detach(level, number, &fill)
            while chunk != NONE:
                self.entries -= fill
                fill = IDS
                after = self.chunks[chunk].next
                self.give_back(chunk)
                chunk = after
        return least

    cdef uint64_t next_ns(self) noexcept nogil:
        """The first instant at which an id is due, UINT64_MAX when none waits. Opens no slot: it may lie far ahead."""
        cdef int level
        cdef uint64_t least = UINT64_MAX
        cdef uint64_t found, number
        cdef size_t i
        if not self.known:
            for i in range(self.at, self.end):
                least = min(least, ~self.missing[self.run[i]])
            while least > self.here:
                number = self.following(0)
                if number >= least:
                    break
                found = self.earliest(0, number)
                if found != UINT64_MAX:
                    least = found
                    break
            for level in range(1, LEVELS):
                while self.starts[level] < least:
                    found = self.earliest(level, self.starts[level] >> BITS * level)
                    if found != UINT64_MAX:
                        least = min(least, found)
                        break
                    self.begin(level)
            self.soonest = least
            self.known = True
        return UINT64_MAX if self.soonest == UINT64_MAX else self.soonest * self.grain_ns

    # -- for Python

    def __len__(self):
        return self.count

    def arm(self, uint32_t id, uint64_t at_ns):
        """Have an id due at an instant, ns; it is moved if it waits for another one. 2^64-1 is never."""
        if at_ns != UINT64_MAX and at_ns % self.grain_ns:
            raise ValueError(f"an instant of {at_ns} ns is no multiple of the wheel's grain, {self.grain_ns} ns")
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
        cdef size_t i
        ids, times = memoryview(ids), memoryview(times)
        if len(ids) != len(times):
            raise ValueError(f"{len(ids)} ids and {len(times)} instants")
        if not len(ids):
            return
        some_ids, some_times = ids, times
        if self.grain_ns > 1:
            for i in range(<size_t> some_times.shape[0]):
                if some_times[i] != UINT64_MAX and some_times[i] % self.grain_ns:
                    raise ValueError(
                        f"an instant of {some_times[i]} ns is no multiple of the wheel's grain, {self.grain_ns} ns"
                    )
        if self.add_many(&some_ids[0], some_ids.shape[0], &some_times[0]):
            raise MemoryError("no memory for the ids in the timer wheel")

    def waits_until(self, uint32_t id):
        """The instant, ns, at which an id is due; None when it does not wait."""
        if id >= self.ids or self.missing[id] == 0:
            return None
        return ~self.missing[id] * self.grain_ns

    def expired(self, uint64_t now_ns, out):
        """Take those whose instant is not after now_ns into a writable buffer of 4-byte items: the lowest ids, ascending.

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
        return (self.ids + self.ids // 64 + LEVELS * (SLOTS + WORDS) + self.run_room) * 8 + self.touched * sizeof(Chunk)
