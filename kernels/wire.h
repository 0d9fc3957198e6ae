/* Unaligned loads and stores of the wire's integers. Columns are little endian, MessagePack is big endian. */
#ifndef SWARM_WIRE_H
#define SWARM_WIRE_H

#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "nanoswarm passes columns on as they lie in memory: it needs a little-endian machine"
#endif

static inline uint32_t load_le32(const void *at) { uint32_t v; memcpy(&v, at, 4); return v; }
static inline void store_le32(void *at, uint32_t v) { memcpy(at, &v, 4); }

static inline uint16_t load_be16(const void *at) { uint16_t v; memcpy(&v, at, 2); return __builtin_bswap16(v); }
static inline uint32_t load_be32(const void *at) { uint32_t v; memcpy(&v, at, 4); return __builtin_bswap32(v); }
static inline uint64_t load_be64(const void *at) { uint64_t v; memcpy(&v, at, 8); return __builtin_bswap64(v); }
static inline void store_be16(void *at, uint16_t v) { v = __builtin_bswap16(v); memcpy(at, &v, 2); }
static inline void store_be32(void *at, uint32_t v) { v = __builtin_bswap32(v); memcpy(at, &v, 4); }
static inline void store_be64(void *at, uint64_t v) { v = __builtin_bswap64(v); memcpy(at, &v, 8); }

static inline float load_be_float(const void *at) { uint32_t v = load_be32(at); float f; memcpy(&f, &v, 4); return f; }
static inline double load_be_double(const void *at) { uint64_t v = load_be64(at); double d; memcpy(&d, &v, 8); return d; }
static inline void store_be_double(void *at, double d) { uint64_t v; memcpy(&v, &d, 8); store_be64(at, v); }

#endif
