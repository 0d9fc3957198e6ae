from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "nano.h" nogil:
    ctypedef struct nano_line:
        uint16_t topic
        uint16_t kind
        uint32_t row
        uint8_t payload[56]

cdef extern from "lanes.h" nogil:
    ctypedef struct lane_spsc:
        uint64_t capacity

cdef extern from "topics.h" nogil:
    enum:
        BUS_TOPICS_MAX
        BUS_KINDS_MAX
        BUS_PAYLOAD_MAX
        BUS_DROP
        BUS_BLOCK
    const uint64_t BUS_LINES_MAX
    const uint16_t BUS_NO_TOPIC
    ctypedef struct bus_counters:
        uint64_t published
        uint64_t dropped
        uint64_t blocked
        uint64_t delivered
    ctypedef struct nano_topic:
        nano_line* outbox
        uint64_t count
        uint64_t lines_max
        bus_counters counters
        nano_line* inbox
        uint64_t inbox_count
        uint32_t full
        uint64_t arrived
        uint64_t lost
    ctypedef struct bus_link:
        lane_spsc* out
        lane_spsc* in_ "in"
        uint16_t* to
        uint32_t places
        uint16_t* from_ "from"
        uint32_t topics
        uint32_t damaged
        uint64_t sent
        uint64_t dropped
        uint64_t received
        uint64_t strange
        bus_link* next
    ctypedef struct nano_bus:
        uint32_t topics
        bus_link* links
        nano_topic* topic
    nano_bus* bus_new(uint32_t, const uint64_t*, const int*) noexcept
    void bus_free(nano_bus*) noexcept
    int bus_add(nano_bus*, uint64_t, int) noexcept
    int bus_publish(nano_bus*, uint16_t, uint16_t, uint32_t, const void*, size_t) noexcept
    size_t bus_publish_lines(nano_bus*, const nano_line*, size_t) noexcept
    void bus_carry(nano_bus*, const nano_line*, size_t) noexcept
    void bus_turn(nano_bus*) noexcept
    void bus_inbox(const nano_bus*, uint16_t, const nano_line**, uint64_t*) noexcept
    void bus_outbox(const nano_bus*, uint16_t, const nano_line**, uint64_t*) noexcept
    void bus_delivered(nano_bus*, uint16_t, uint64_t) noexcept
    int bus_subscribe(nano_bus*, uint16_t, uint16_t, int) noexcept
    int bus_subscribed(const nano_bus*, uint16_t, uint16_t) noexcept
    uint32_t bus_subscribers(const nano_bus*, uint16_t) noexcept
    int bus_arrive(nano_bus*, uint16_t, const nano_line*) noexcept
    int bus_restore(nano_bus*, uint16_t, const nano_line*, size_t, const bus_counters*) noexcept

cdef class Bus:
    cdef nano_bus* bus                   # for passes that run without the GIL; lives as long as this object
    cdef list joined                     # its links, which live as long as they are joined

    cdef int within(self, object topic) except -1
    cdef int set_subscription(self, object topic, object kind, bint on) except -1

cdef class BusLink:
    cdef bus_link link
    cdef object kept                     # the lanes
