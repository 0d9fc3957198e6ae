/* The bus of a population of nano-agents: what is published in one pass is read in the next, in the order (kind, row,
 * sequence), whichever order the agents ran in.
 *
 * Each topic has room for a fixed number of lines, reserved when it is made: publishing allocates nothing, and a line
 * never moves while it can be read. One thread at a time: the bus has no atomics.
 */
#ifndef SWARM_TOPICS_H
#define SWARM_TOPICS_H

#include <stdlib.h>

#include "lanes.h"
#include "nano.h"

enum {
    BUS_TOPICS_MAX = 1024,
    BUS_KINDS_MAX = 1024, /* that can subscribe; any kind can publish */
    BUS_PAYLOAD_MAX = 56
};
#define BUS_LINES_MAX UINT32_MAX /* of one topic in one pass: positions are 32 bits */

enum bus_full {
    BUS_DROP = 0, /* a line without room is lost, and counted as dropped */
    BUS_BLOCK = 1 /* its publisher is told to come again in the next pass, and counted as blocked */
};

/* Counted in lines since the topic was made. */
typedef struct bus_counters {
    uint64_t published; /* that found room */
    uint64_t dropped;
    uint64_t blocked;
    uint64_t delivered; /* lines handed to readers; a line that two kinds read counts twice */
} bus_counters;

typedef struct nano_topic {
    nano_line *outbox; /* of this pass */
    uint64_t count;
    uint64_t lines_max;
    uint64_t last; /* key of the line before */
    bus_counters counters;
    /* one line of the cache up to here: what publishing touches */
    nano_line *inbox; /* of the pass before */
    uint64_t inbox_count;
    uint32_t full;
    uint32_t unsorted;
    uint64_t subscribers[BUS_KINDS_MAX / 64];
    nano_line *arrivals; /* that came from elsewhere during this pass */
    uint64_t arrived;
    uint64_t arrivals_room;
    uint64_t lost; /* of those, counted since the topic was made: for which there was no room */
    uint64_t unused[1];
} nano_topic;

#ifdef __cplusplus
static_assert(sizeof(nano_topic) % 64 == 0, "a topic begins on a line of the cache");
#else
_Static_assert(sizeof(nano_topic) % 64 == 0, "a topic begins on a line of the cache");
#endif

typedef struct bus_key {
    uint64_t key;
    uint32_t at;
} bus_key;

/* Two lanes that join topics to those of another bus. In the lanes a topic is named by its place in the list that both sides
 * agreed on; `to` and `from` translate. */
#define BUS_NO_TOPIC UINT16_MAX
typedef struct bus_link {
    lane_spsc *out;      /* NULL where nothing is sent */
    lane_spsc *in;       /* NULL where nothing is received */
    uint16_t *to;        /* place in the list -> topic here that receives it, or BUS_NO_TOPIC */
    uint32_t places;
    uint16_t *from;      /* topic here -> place in the list under which it is sent, or BUS_NO_TOPIC */
    uint32_t topics;
    uint32_t damaged;    /* a lane whose counters are none: it is used no further */
    uint64_t sent;
    uint64_t dropped;    /* there was no room in the lane */
    uint64_t received;
    uint64_t strange;    /* lines of no topic that is received */
    struct bus_link *next;
} bus_link;

typedef struct nano_bus {
    uint32_t topics;
    bus_link *links;
    bus_key *keys; /* two arrays of lines_max of the largest topic, for sorting */
    uint64_t keys_max;
    nano_topic *topic; /* BUS_TOPICS_MAX of them, of which the first `topics` are in use */
} nano_bus;

/* What lines are sorted by: kind, then row; equal ones stay in the order in which they were published. */
static inline uint64_t bus_key_of(uint16_t kind, uint32_t row)
{
    return (uint64_t)kind << 32 | row;
}

static inline void bus_free(nano_bus *bus)
{
    if (bus == NULL)
        return;
    for (uint32_t t = 0; t < bus->topics; t++) {
        free(bus->topic[t].outbox);
        free(bus->topic[t].inbox);
        free(bus->topic[t].arrivals);
    }
    free(bus->topic);
    free(bus->keys);
    free(bus);
}

/* One more topic, empty, with room for lines_max lines a pass. Its number, or -1: without memory, beyond
 * BUS_TOPICS_MAX, or lines_max not in 1..BUS_LINES_MAX. Memory is taken from the system as lines are first written. */
static inline int bus_add(nano_bus *bus, uint64_t lines_max, int full)
{
    nano_topic *topic;
    if (bus->topics == BUS_TOPICS_MAX || lines_max == 0 || lines_max > BUS_LINES_MAX
        || lines_max > SIZE_MAX / (2 * sizeof(nano_line)))
        return -1;
    if (lines_max > bus->keys_max) {
        bus_key *keys = (bus_key *)malloc(2 * (size_t)lines_max * sizeof(bus_key));
        if (keys == NULL)
            return -1;
        free(bus->keys);
        bus->keys = keys;
        bus->keys_max = lines_max;
    }
    topic = &bus->topic[bus->topics];
    memset(topic, 0, sizeof *topic);
    topic->outbox = (nano_line *)aligned_alloc(64, (size_t)lines_max * sizeof(nano_line));
    topic->inbox = (nano_line *)aligned_alloc(64, (size_t)lines_max * sizeof(nano_line));
    if (topic->outbox == NULL || topic->inbox == NULL) {
        free(topic->outbox);
        free(topic->inbox);
        return -1;
    }
    topic->lines_max = lines_max;
    topic->full = full == BUS_BLOCK ? BUS_BLOCK : BUS_DROP;
    return (int)bus->topics++;
}

/* A bus with these topics, or NULL; full: an enum bus_full each. */
static inline nano_bus *bus_new(uint32_t topics, const uint64_t *lines_max, const int *full)
{
    nano_bus *bus = (nano_bus *)calloc(1, sizeof(nano_bus));
    if (bus == NULL)
        return NULL;
    bus->topic = (nano_topic *)aligned_alloc(64, BUS_TOPICS_MAX * sizeof(nano_topic));
    if (bus->topic == NULL) {
        free(bus);
        return NULL;
    }
    for (uint32_t t = 0; t < topics; t++)
        if (bus_add(bus, lines_max[t], full[t]) < 0) {
            bus_free(bus);
            return NULL;
        }
    return bus;
}

static inline void bus_fill(nano_line *line, uint16_t topic, uint16_t kind, uint32_t row, const void *payload,
                            size_t size)
{
    line->topic = topic;
    line->kind = kind;
    line->row = row;
    if (size == BUS_PAYLOAD_MAX) {
        memcpy(line->payload, payload, BUS_PAYLOAD_MAX);
    } else {
        /* By words: a call of memcpy() for an unknown size costs more than the line. */
        const uint8_t *from = (const uint8_t *)payload;
        size_t at = 0;
        memset(line->payload, 0, BUS_PAYLOAD_MAX);
        for (; at + 8 <= size; at += 8)
            memcpy(line->payload + at, from + at, 8);
        for (; at < size; at++)
            line->payload[at] = from[at];
    }
}

/* Publish `size` bytes, at most 56; the rest of the line is zero. 1, or 0 when the topic is full for this pass, or -1 when
 * there is no such topic or the payload is too large. */
static inline int bus_publish(nano_bus *bus, uint16_t topic, uint16_t kind, uint32_t row, const void *payload,
                              size_t size)
{
    nano_topic *to;
    uint64_t key = bus_key_of(kind, row);
    if (topic >= bus->topics || size > BUS_PAYLOAD_MAX)
        return -1;
    to = &bus->topic[topic];
    if (to->count == to->lines_max) {
        if (to->full == BUS_BLOCK)
            to->counters.blocked++;
        else
            to->counters.dropped++;
        return 0;
    }
    if (key < to->last)
        to->unsorted = 1;
    to->last = key;
    bus_fill(&to->outbox[to->count++], topic, kind, row, payload, size);
    to->counters.published++;
    return 1;
}

/* Publish n lines as they are, in order. Returns how many were dealt with: taken or, where their topic is full and drops,
 * dropped. It is less than n where a line must wait (its topic is full and blocks), or where its topic does not exist. */
static inline size_t bus_publish_lines(nano_bus *bus, const nano_line *lines, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const nano_line *line = &lines[i];
        int taken = bus_publish(bus, line->topic, line->kind, line->row, line->payload, BUS_PAYLOAD_MAX);
        if (taken < 0 || (!taken && bus->topic[line->topic].full == BUS_BLOCK))
            return i;
    }
    return n;
}

/* Publish n lines of topics that drop, in order, as they are; what finds no room is counted as dropped. */
static inline void bus_carry(nano_bus *bus, const nano_line *lines, size_t n)
{
    for (size_t i = 0; i < n;) {
        nano_topic *to = &bus->topic[lines[i].topic];
        size_t run = 0;
        uint64_t last = to->last, room = to->lines_max - to->count;
        while (i + run < n && run < room && lines[i + run].topic == lines[i].topic) {
            uint64_t key = bus_key_of(lines[i + run].kind, lines[i + run].row);
            to->unsorted |= key < last;
            last = key;
            run++;
        }
        if (run == 0) {
            to->counters.dropped++;
            i++;
            continue;
        }
        memcpy(to->outbox + to->count, lines + i, run * sizeof *lines);
        to->last = last;
        to->count += run;
        to->counters.published += run;
        i += run;
    }
}

/* ---- the order of a pass ------------------------------------------------------------------------------------------ */

/* For a few lines; stable. */
static inline void bus_insertion_sort(bus_key *keys, uint64_t n)
{
    for (uint64_t i = 1; i < n; i++) {
        bus_key one = keys[i];
        uint64_t at = i;
        for (; at > 0 && keys[at - 1].key > one.key; at--)
            keys[at] = keys[at - 1];
        keys[at] = one;
    }
}

/* Sort by byte, least significant first, and leave out the bytes that are the same in all (Knuth, The Art of Computer
 * Programming 3, 5.2.5): stable. Returns which of the two arrays, of n each, holds the result. */
static inline bus_key *bus_radix_sort(bus_key *keys, bus_key *other, uint64_t n)
{
    enum { BYTES = 6, SHORT = 48 };
    uint32_t counts[BYTES][256];
    if (n <= SHORT) {
        bus_insertion_sort(keys, n);
        return keys;
    }
    memset(counts, 0, sizeof counts);
    for (uint64_t i = 0; i < n; i++)
        for (int byte = 0; byte < BYTES; byte++)
            counts[byte][keys[i].key >> (8 * byte) & 255]++;
    for (int byte = 0; byte < BYTES; byte++) {
        uint32_t *count = counts[byte], before = 0;
        if (count[keys[0].key >> (8 * byte) & 255] == n)
            continue;
        for (int value = 0; value < 256; value++) {
            uint32_t here = count[value];
            count[value] = before;
            before += here;
        }
        for (uint64_t i = 0; i < n; i++)
            other[count[keys[i].key >> (8 * byte) & 255]++] = keys[i];
        bus_key *swap = keys;
        keys = other;
        other = swap;
    }
    return keys;
}

/* ---- from and to elsewhere --------------------------------------------------------------------------------------- */

/* A line that was published elsewhere arrives: it is read with those of this pass, and not counted as published. 1, or 0 when
 * there is no room (counted as lost), or -1 when there is no such topic. */
static inline int bus_arrive(nano_bus *bus, uint16_t topic, const nano_line *line)
{
    nano_topic *to;
    if (topic >= bus->topics)
        return -1;
    to = &bus->topic[topic];
    if (to->arrived == to->arrivals_room) {
        uint64_t room = to->arrivals_room ? 2 * to->arrivals_room : 64;
        nano_line *grown = NULL;
        if (room > to->lines_max)
            room = to->lines_max;
        if (room > to->arrived)
            grown = (nano_line *)realloc(to->arrivals, (size_t)room * sizeof(nano_line));
        if (grown == NULL) {
            to->lost++;
            return 0;
        }
        to->arrivals = grown;
        to->arrivals_room = room;
    }
    to->arrivals[to->arrived] = *line;
    to->arrivals[to->arrived++].topic = topic;
    return 1;
}

/* What arrived goes behind what was published here. */
static inline void bus_take_in(nano_topic *topic)
{
    for (uint64_t i = 0; i < topic->arrived; i++) {
        const nano_line *line = &topic->arrivals[i];
        uint64_t key = bus_key_of(line->kind, line->row);
        if (topic->count == topic->lines_max) {
            topic->lost += topic->arrived - i;
            break;
        }
        if (key < topic->last)
            topic->unsorted = 1;
        topic->last = key;
        topic->outbox[topic->count++] = *line;
    }
    topic->arrived = 0;
}

/* Send what was published in this pass through a link, as far as there is room, and take what came. */
static inline void bus_exchange(nano_bus *bus, bus_link *link)
{
    if (link->damaged)
        return;
    for (uint32_t t = 0; link->out != NULL && t < link->topics && t < bus->topics; t++) {
        const nano_topic *topic = &bus->topic[t];
        uint64_t done = 0;
        if (link->from[t] == BUS_NO_TOPIC)
            continue;
        while (done < topic->count) {
            nano_line *at;
            int64_t room = lane_spsc_claim(link->out, (size_t)(topic->count - done), &at);
            if (room <= 0) {
                link->damaged = room < 0;
                break;
            }
            memcpy(at, topic->outbox + done, (size_t)room * sizeof(nano_line));
            for (int64_t i = 0; i < room; i++)
                at[i].topic = link->from[t];
            lane_spsc_publish(link->out, (size_t)room);
            done += (uint64_t)room;
        }
        link->sent += done;
        link->dropped += topic->count - done;
    }
    if (link->in != NULL) {
        /* No more than a ring of them: who sends without end holds up no pass. */
        uint64_t left = link->in->capacity;
        while (left) {
            const nano_line *at;
            int64_t n = lane_spsc_peek(link->in, (size_t)left, &at);
            if (n <= 0) {
                link->damaged = n < 0;
                break;
            }
            for (int64_t i = 0; i < n; i++) {
                /* A copy: who wrote it may write again, and what is checked must be what is used. */
                nano_line line = at[i];
                uint16_t topic = line.topic < link->places ? link->to[line.topic] : BUS_NO_TOPIC;
                if (topic == BUS_NO_TOPIC)
                    link->strange++;
                else
                    link->received += bus_arrive(bus, topic, &line) == 1;
            }
            lane_spsc_release(link->in, (size_t)n);
            left -= (uint64_t)n;
        }
    }
}

/* The pass is over: what was published in it is the inbox of the next. The inbox before is gone. */
static inline void bus_turn(nano_bus *bus)
{
    for (bus_link *link = bus->links; link != NULL; link = link->next)
        bus_exchange(bus, link);
    for (uint32_t t = 0; t < bus->topics; t++) {
        nano_topic *topic = &bus->topic[t];
        uint64_t n;
        if (topic->arrived)
            bus_take_in(topic);
        n = topic->count;
        if (topic->unsorted) {
            bus_key *keys = bus->keys;
            for (uint64_t i = 0; i < n; i++) {
                keys[i].key = bus_key_of(topic->outbox[i].kind, topic->outbox[i].row);
                keys[i].at = (uint32_t)i;
            }
            keys = bus_radix_sort(keys, keys + bus->keys_max, n);
            for (uint64_t i = 0; i < n; i++)
                topic->inbox[i] = topic->outbox[keys[i].at];
            topic->unsorted = 0;
        } else {
            /* Kinds run in their order and rows ascend, so that it is sorted already, unless a topology had it otherwise. */
            nano_line *lines = topic->inbox;
            topic->inbox = topic->outbox;
            topic->outbox = lines;
        }
        topic->inbox_count = n;
        topic->count = 0;
        topic->last = 0;
    }
}

/* The lines of the pass before, in order; they stay where they are until bus_turn(). Nothing of a topic that is not there. */
static inline void bus_inbox(const nano_bus *bus, uint16_t topic, const nano_line **lines, uint64_t *count)
{
    *lines = topic < bus->topics ? bus->topic[topic].inbox : NULL;
    *count = topic < bus->topics ? bus->topic[topic].inbox_count : 0;
}

/* The lines published in this pass so far, as they were published. */
static inline void bus_outbox(const nano_bus *bus, uint16_t topic, const nano_line **lines, uint64_t *count)
{
    *lines = topic < bus->topics ? bus->topic[topic].outbox : NULL;
    *count = topic < bus->topics ? bus->topic[topic].count : 0;
}

/* n lines of the topic were handed to readers. */
static inline void bus_delivered(nano_bus *bus, uint16_t topic, uint64_t n)
{
    if (topic < bus->topics)
        bus->topic[topic].counters.delivered += n;
}

/* ---- who reads what ------------------------------------------------------------------------------------------------ */

/* 1, or 0 when there is no such topic or the kind is not below BUS_KINDS_MAX. */
static inline int bus_subscribe(nano_bus *bus, uint16_t topic, uint16_t kind, int on)
{
    uint64_t bit = (uint64_t)1 << (kind & 63);
    if (topic >= bus->topics || kind >= BUS_KINDS_MAX)
        return 0;
    if (on)
        bus->topic[topic].subscribers[kind >> 6] |= bit;
    else
        bus->topic[topic].subscribers[kind >> 6] &= ~bit;
    return 1;
}

static inline int bus_subscribed(const nano_bus *bus, uint16_t topic, uint16_t kind)
{
    return topic < bus->topics && kind < BUS_KINDS_MAX
           && (bus->topic[topic].subscribers[kind >> 6] >> (kind & 63) & 1) != 0;
}

/* How many kinds read the topic. */
static inline uint32_t bus_subscribers(const nano_bus *bus, uint16_t topic)
{
    uint32_t kinds = 0;
    if (topic < bus->topics)
        for (int word = 0; word < BUS_KINDS_MAX / 64; word++)
            for (uint64_t bits = bus->topic[topic].subscribers[word]; bits; bits &= bits - 1)
                kinds++;
    return kinds;
}

/* ---- a bus as it was ----------------------------------------------------------------------------------------------- */

/* The topic as it was between two passes: n lines that its inbox then held, in that order, and its counters. 1, or 0 (and
 * nothing done) when there is no such topic, they do not fit, are of another topic, or are out of order. */
static inline int bus_restore(nano_bus *bus, uint16_t topic, const nano_line *lines, size_t n,
                              const bus_counters *counters)
{
    nano_topic *to;
    if (topic >= bus->topics || n > bus->topic[topic].lines_max)
        return 0;
    for (size_t i = 0; i < n; i++)
        if (lines[i].topic != topic
            || (i && bus_key_of(lines[i].kind, lines[i].row) < bus_key_of(lines[i - 1].kind, lines[i - 1].row)))
            return 0;
    to = &bus->topic[topic];
    if (n)
        memmove(to->inbox, lines, n * sizeof(nano_line));
    to->inbox_count = n;
    to->count = 0;
    to->last = 0;
    to->unsorted = 0;
    to->counters = *counters;
    return 1;
}

#endif
