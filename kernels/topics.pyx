"""The bus of a population: topics whose lines of 64 bytes, published in one pass, are read in the next in the order
(kind, row, sequence).

A line is a header of 8 bytes, `u16 topic | u16 kind | u32 row` of who published it, little endian, and 56 bytes of payload.
Passes publish and read through kernels/topics.h without the GIL; this class is the same bus from Python. One thread at a
time.
"""

from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, Py_buffer, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
)

from libc.stdlib cimport free, malloc
from libc.string cimport memset

from kernels.lanes cimport SpscLane

cdef enum:
    LINE_BYTES = 64
cdef dict POLICIES = {"drop": BUS_DROP, "block": BUS_BLOCK}


cdef class _Inbox:
    """What a memoryview of an inbox, or of an outbox, keeps alive."""

    cdef Bus owner
    cdef const nano_line* lines
    cdef Py_ssize_t count

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, <void*> self.lines, self.count * LINE_BYTES, 1, flags)


cdef class Bus:
    """A bus without topics; at most TOPICS_MAX can be added. MemoryError when there is none for it.

    Every method that takes a topic raises ValueError when there is no such one.
    """

    LINE = LINE_BYTES
    PAYLOAD_MAX = BUS_PAYLOAD_MAX
    TOPICS_MAX = BUS_TOPICS_MAX
    KINDS_MAX = BUS_KINDS_MAX

    def __cinit__(self):
        self.bus = bus_new(0, NULL, NULL)
        if self.bus == NULL:
            raise MemoryError("no memory for a bus")
        self.joined = []

    def __dealloc__(self):
        bus_free(self.bus)

    @property
    def topics(self):
        """How many topics there are; they are numbered from 0."""
        return self.bus.topics

    def add(self, lines_max, full="drop"):
        """A new topic with room for so many lines in a pass; returns its number.

        `full` is what happens to a line without room: "drop", or "block": its publisher shall come again in the next pass.
        Address space is reserved for twice as many lines; memory is taken as they are written. ValueError for another
        `full`, for a number of lines that is not in 1..2**32-1 and beyond TOPICS_MAX; MemoryError.
        """
        cdef int number
        if full not in POLICIES:
            raise ValueError(f'a full topic does "drop" or "block", not {full!r}')
        if not 0 < lines_max <= BUS_LINES_MAX:
            raise ValueError(f"a topic has room for 1 to {BUS_LINES_MAX} lines, not {lines_max}")
        if self.bus.topics == BUS_TOPICS_MAX:
            raise ValueError(f"a bus has at most {BUS_TOPICS_MAX} topics")
        number = bus_add(self.bus, lines_max, POLICIES[full])
        if number < 0:
            raise MemoryError(f"no memory for {lines_max} lines")
        return number

    cdef int within(self, object topic) except -1:
        if not 0 <= topic < self.bus.topics:
            raise ValueError(f"no topic {topic}: there are {self.bus.topics}")
        return 0

    def publish(self, topic, kind, row, payload=b""):
        """Publish a payload of at most 56 bytes, filled up with zeros; False when the topic is full for this pass.

        ValueError for a larger one; OverflowError for a kind or row that does not fit 16 or 32 bits.
        """
        cdef Py_buffer raw
        cdef int taken
        cdef uint16_t of_kind = kind
        cdef uint32_t of_row = row
        self.within(topic)
        PyObject_GetBuffer(payload, &raw, PyBUF_SIMPLE)
        try:
            taken = bus_publish(self.bus, topic, of_kind, of_row, raw.buf, <size_t> raw.len)
        finally:
            PyBuffer_Release(&raw)
        if taken < 0:
            raise ValueError(f"a payload of {raw.len} bytes; a line carries {BUS_PAYLOAD_MAX}")
        return taken == 1

    def publish_many(self, lines):
        """Publish whole lines (a contiguous buffer of 64 bytes each), in order; each goes to the topic in its header.

        Returns how many were dealt with: taken, or dropped where their topic is full and drops. Where it is full and
        blocks, the line and all after it are left to be published again. ValueError when the buffer does not hold whole
        lines or one names a topic that is not there: then those before it are published.
        """
        cdef Py_buffer raw
        cdef const nano_line* at
        cdef size_t n, done
        cdef uint16_t topic
        PyObject_GetBuffer(lines, &raw, PyBUF_SIMPLE)
        try:
            if raw.len % LINE_BYTES:
                raise ValueError(f"{raw.len} bytes are not lines of {LINE_BYTES}")
            at = <const nano_line*> raw.buf
            n = <size_t> raw.len // LINE_BYTES
            with nogil:
                done = bus_publish_lines(self.bus, at, n)
            if done < n:
                topic = at[done].topic
                self.within(topic)
            return done
        finally:
            PyBuffer_Release(&raw)

    def turn(self):
        """The pass is over: what was published in it becomes the inbox of the next; the inbox before is gone."""
        with nogil:
            bus_turn(self.bus)

    def inbox(self, topic):
        """The lines of the pass before in the order (kind, row, sequence): a read-only view of 64 bytes each, no copy.

        What it shows changes with turn(): copy what must stay. The memory lives as long as the view.
        """
        cdef _Inbox inbox = _Inbox.__new__(_Inbox)
        cdef uint64_t count
        self.within(topic)
        bus_inbox(self.bus, topic, &inbox.lines, &count)
        inbox.count = <Py_ssize_t> count
        inbox.owner = self
        return memoryview(inbox)

    def outbox(self, topic):
        """The lines published in this pass so far, as they were published: a view as `inbox` gives. Those that arrived from
        elsewhere are not among them."""
        cdef _Inbox outbox = _Inbox.__new__(_Inbox)
        self.within(topic)
        outbox.lines = self.bus.topic[<uint16_t> topic].outbox
        outbox.count = <Py_ssize_t> self.bus.topic[<uint16_t> topic].count
        outbox.owner = self
        return memoryview(outbox)

    def arrive(self, lines):
        """Lines that were published elsewhere, each for the topic in its header: they are read in the next pass, in their
        place among those published here, and are not counted as published.

        Returns how many found room so far; those for which there is none, now or at the end of the pass, count as `lost`.
        ValueError when the buffer does not hold whole lines or one names a topic that is not there: then those before it
        have arrived.
        """
        cdef Py_buffer raw
        cdef const nano_line* at
        cdef size_t n, i, taken = 0
        cdef int how = 1
        PyObject_GetBuffer(lines, &raw, PyBUF_SIMPLE)
        try:
            if raw.len % LINE_BYTES:
                raise ValueError(f"{raw.len} bytes are not lines of {LINE_BYTES}")
            at = <const nano_line*> raw.buf
            n = <size_t> raw.len // LINE_BYTES
            with nogil:
                for i in range(n):
                    how = bus_arrive(self.bus, at[i].topic, &at[i])
                    if how < 0:
                        break
                    taken += <size_t> how
            if how < 0:
                self.within(at[i].topic)
            return taken
        finally:
            PyBuffer_Release(&raw)

    def lost(self, topic):
        """Lines that arrived from elsewhere and found no room, since the topic was made."""
        self.within(topic)
        return self.bus.topic[<uint16_t> topic].lost

    def join(self, BusLink link not None):
        """From the next turn on, send and receive through a link. RuntimeError when it is joined already."""
        if link in self.joined:
            raise RuntimeError("the link is joined already")
        if link.link.topics != self.bus.topics:
            raise ValueError(f"a link for a bus of {link.link.topics} topics; this one has {self.bus.topics}")
        for i in range(link.link.places):
            if link.link.to[i] != BUS_NO_TOPIC:
                self.within(link.link.to[i])
        link.link.next = self.bus.links
        self.bus.links = &link.link
        self.joined.append(link)

    def part(self, BusLink link not None):
        """Send and receive through it no more."""
        cdef bus_link** at = &self.bus.links
        while at[0] != NULL:
            if at[0] == &link.link:
                at[0] = link.link.next
                link.link.next = NULL
                self.joined.remove(link)
                return
            at = &at[0].next

    def pending(self, topic):
        """Lines that were published in this pass so far."""
        self.within(topic)
        return self.bus.topic[<uint16_t> topic].count

    def counters(self, topic):
        """(published, dropped, blocked, delivered), in lines since the topic was made."""
        cdef bus_counters* counters
        self.within(topic)
        counters = &self.bus.topic[<uint16_t> topic].counters
        return counters.published, counters.dropped, counters.blocked, counters.delivered

    def delivered(self, topic, lines):
        """Count lines that were handed to readers."""
        self.within(topic)
        bus_delivered(self.bus, topic, lines)

    def subscribe(self, topic, kind):
        """The kind reads the topic. ValueError for a kind that is not below KINDS_MAX."""
        self.set_subscription(topic, kind, True)

    def unsubscribe(self, topic, kind):
        """The kind no longer reads the topic."""
        self.set_subscription(topic, kind, False)

    cdef int set_subscription(self, object topic, object kind, bint on) except -1:
        self.within(topic)
        if not 0 <= kind < BUS_KINDS_MAX:
            raise ValueError(f"kind {kind} cannot subscribe: kinds are numbered from 0 to {BUS_KINDS_MAX - 1}")
        bus_subscribe(self.bus, topic, kind, on)
        return 0

    def subscribers(self, topic):
        """The kinds that read the topic, ascending."""
        self.within(topic)
        return [kind for kind in range(BUS_KINDS_MAX) if bus_subscribed(self.bus, topic, kind)]

    def restore(self, topic, lines, counters):
        """The topic as it was between two passes: what its inbox held then (a buffer of lines) and its counters.

        ValueError, and nothing is done, when these are not lines of this topic in order, or more than it has room for.
        """
        cdef Py_buffer raw
        cdef bus_counters wanted
        self.within(topic)
        wanted.published, wanted.dropped, wanted.blocked, wanted.delivered = counters
        PyObject_GetBuffer(lines, &raw, PyBUF_SIMPLE)
        try:
            if raw.len % LINE_BYTES or not bus_restore(self.bus, topic, <const nano_line*> raw.buf,
                                                       <size_t> raw.len // LINE_BYTES, &wanted):
                raise ValueError(
                    f"{raw.len} bytes are not the inbox of topic {topic}: lines of {LINE_BYTES} bytes with its number, "
                    f"ordered by kind and row, at most {self.bus.topic[<uint16_t> topic].lines_max}"
                )
        finally:
            PyBuffer_Release(&raw)


cdef class BusLink:
    """Two lanes that join topics of a bus to those of another, each turn of a pass, without the GIL.

    Both sides agree on a list of topics, and a line in a lane names its topic by the place in that list. `sends` maps a
    topic here to its place, `receives` a place to the topic here. A lane that is None is not used. `topics` is how many topics
    the bus has. ValueError for a place that does not fit 16 bits.
    """

    def __cinit__(self, topics, sends, receives, SpscLane out=None, SpscLane back=None):
        cdef Py_ssize_t i
        cdef Py_ssize_t places = max(receives, default=-1) + 1
        if not 0 <= topics <= BUS_TOPICS_MAX or places > BUS_TOPICS_MAX:
            raise ValueError(f"a bus has at most {BUS_TOPICS_MAX} topics")
        memset(&self.link, 0, sizeof(bus_link))
        self.link.to = <uint16_t*> malloc(2 * max(<Py_ssize_t> 1, places))
        self.link.from_ = <uint16_t*> malloc(2 * max(1, <Py_ssize_t> topics))
        if self.link.to == NULL or self.link.from_ == NULL:
            raise MemoryError("no memory for a link")
        for i in range(places):
            self.link.to[i] = receives.get(i, BUS_NO_TOPIC)
        for i in range(topics):
            self.link.from_[i] = sends.get(i, BUS_NO_TOPIC)
        self.link.places = <uint32_t> places
        self.link.topics = topics
        self.kept = (out, back)
        if out is not None:
            out.check()
            self.link.out = <lane_spsc*> out.lane
        if back is not None:
            back.check()
            self.link.in_ = <lane_spsc*> back.lane

    def __dealloc__(self):
        free(self.link.to)
        free(self.link.from_)

    def counters(self):
        """(sent, dropped, received, strange): lines; `dropped` found no room in the lane, `strange` are of no topic that is
        received. ValueError when a lane was found damaged: it is used no further."""
        if self.link.damaged:
            raise ValueError("a lane of this link is damaged: its counters are not those of a ring")
        return self.link.sent, self.link.dropped, self.link.received, self.link.strange
