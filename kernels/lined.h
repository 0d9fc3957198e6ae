/* Memory that begins at a line of the cache, zeroed. */
#ifndef SWARM_LINED_H
#define SWARM_LINED_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static inline void *lined_new(size_t nbytes)
{
    void *at = NULL;
    size_t rounded = (nbytes + 127) / 128 * 128; /* two lines: a neighbour is often fetched with its pair */
    if (rounded < nbytes || posix_memalign(&at, 128, rounded ? rounded : 128) != 0)
        return NULL;
    return memset(at, 0, rounded);
}

static inline void lined_free(void *at) { free(at); }

#endif
