/* Agents that say something each pass, and one that counts what was said. */
#include "nano.h"

int talk(void **cols, const uint32_t *idx, size_t n, uint64_t now_ns, nano_ctx *ctx)
{
    uint64_t *said = cols[0];
    (void)now_ns;
    for (size_t k = 0; k < n; k++) {
        const uint32_t row = idx ? idx[k] : ctx->first + (uint32_t)k;
        said[idx ? idx[k] : k]++;
        nano_publish(ctx, 0, row, &ctx->pass, sizeof ctx->pass);
    }
    return NANO_WORKED;
}

int hear(void **cols, const uint32_t *idx, size_t n, uint64_t now_ns, nano_ctx *ctx)
{
    uint64_t *heard = cols[0];
    (void)now_ns;
    for (size_t k = 0; k < n; k++)
        heard[idx ? idx[k] : k] += ctx->inbox_count[0];
    return NANO_WORKED;
}
