/* SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012): 64 bits of a key of 16 bytes and a message. */
#ifndef SIPHASH_H
#define SIPHASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "wire.h"

static inline uint64_t sip_word(const uint8_t *at) { uint64_t v; memcpy(&v, at, 8); return v; }

static inline uint64_t sip_rotated(uint64_t x, int by) { return x << by | x >> (64 - by); }

static inline void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = sip_rotated(v[1], 13) ^ v[0];
    v[3] = sip_rotated(v[3], 16) ^ v[2];
    v[0] = sip_rotated(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = sip_rotated(v[1], 17) ^ v[2];
    v[3] = sip_rotated(v[3], 21) ^ v[0];
    v[2] = sip_rotated(v[2], 32);
}

/* `secret` are 16 bytes. */
static inline uint64_t siphash(const uint8_t *secret, const uint8_t *message, size_t size)
{
    uint64_t k0 = sip_word(secret), k1 = sip_word(secret + 8), word;
    uint64_t v[4] = {k0 ^ 0x736f6d6570736575u, k1 ^ 0x646f72616e646f6du, k0 ^ 0x6c7967656e657261u, k1 ^ 0x7465646279746573u};
    const uint8_t *end = message + (size & ~(size_t)7);
    for (; message < end; message += 8) {
        word = sip_word(message);
        v[3] ^= word;
        sip_round(v);
        sip_round(v);
        v[0] ^= word;
    }
    word = (uint64_t)(size & 255) << 56;
    for (size_t i = 0; i < (size & 7); i++)
        word |= (uint64_t)message[i] << 8 * i;
    v[3] ^= word;
    sip_round(v);
    sip_round(v);
    v[0] ^= word;
    v[2] ^= 255;
    for (int i = 0; i < 4; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

#endif
