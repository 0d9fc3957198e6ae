/* Ticks for tests of the crew: as somebody outside would write them, against the public header alone. */
#include "nano.h"

/* A state of two fields, moved by random numbers; those above a bound publish. */
int walk(void **cols, const uint32_t *idx, size_t n, uint64_t now_ns, nano_ctx *ctx)
{
    double *x = cols[0];
    uint32_t *steps = cols[1];
    if (ctx->abi != NANO_ABI || idx != NULL || ctx->now_ns != now_ns)
        return NANO_FAILED;
    for (size_t i = 0; i < n; i++) {
        uint32_t row = ctx->first + (uint32_t)i;
        x[i] = x[i] * 0.9 + nano_uniform(ctx, row, 0) - 0.5;
        steps[i] += 1;
        for (uint32_t again = 0; x[i] > 0.4 && again < 1 + row % 2; again++) {
            double payload[2] = {x[i], (double)again};
            nano_publish(ctx, row % 3, row, payload, sizeof payload); /* topic 2 is not the kind's */
        }
        ctx->outcomes[i] = (uint8_t)(row % 2 ? NANO_WORKED : NANO_SLEEP);
        ctx->wake_ns[i] = now_ns + row;
    }
    return NANO_EACH;
}

int count(void **cols, const uint32_t *idx, size_t n, uint64_t now_ns, nano_ctx *ctx)
{
    (void)idx, (void)now_ns, (void)ctx;
    uint64_t *counts = cols[0];
    for (size_t i = 0; i < n; i++)
        counts[i] += 1;
    return NANO_WORKED;
}
