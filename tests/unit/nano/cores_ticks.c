/* Ticks for tests of several cores: they draw, read, publish, sleep, fail and end, each as its own draws say. */
#include "nano.h"

static int fate(nano_ctx *ctx, uint32_t row, uint64_t *wake_ns)
{
    uint64_t draw = nano_random(ctx, row, 7) % 1000;
    if (draw < 30) {
        *wake_ns = ctx->now_ns + 1000 + draw * 977;
        return NANO_SLEEP;
    }
    if (draw < 33)
        return NANO_FAILED;
    if (draw < 36)
        return NANO_DONE;
    return draw < 500 ? NANO_IDLE : NANO_WORKED;
}

static void step(double *x, uint32_t *n, uint32_t row, nano_ctx *ctx)
{
    for (uint32_t t = 0; t < ctx->topics; t++)
        for (uint64_t i = 0; i < ctx->inbox_count[t] && i < 3; i++)
            *x = *x * 0.5 + ctx->inbox[t][i].row + ctx->inbox[t][i].payload[0];
    *x += nano_uniform(ctx, row, 0);
    *n += 1;
    for (uint32_t again = 0; again < row % 3; again++)
        if (nano_uniform(ctx, row, 1 + again) < 0.02) {
            uint32_t said[2] = {*n, again};
            *n += 100 * (uint32_t)nano_publish(ctx, again, row, said, sizeof said);
        }
}

/* One agent: x, n. */
int lone(void **cols, uint32_t row, uint64_t now_ns, nano_ctx *ctx)
{
    uint64_t wake_ns = 0;
    (void)now_ns;
    step((double *)cols[0] + row, (uint32_t *)cols[1] + row, row, ctx);
    int came_to = fate(ctx, row, &wake_ns);
    return came_to == NANO_SLEEP ? nano_sleep(ctx, wake_ns) : came_to;
}

/* Many: the same. */
int crowd(void **cols, const uint32_t *idx, size_t n, uint64_t now_ns, nano_ctx *ctx)
{
    (void)now_ns;
    for (size_t i = 0; i < n; i++) {
        uint32_t row = idx ? idx[i] : ctx->first + (uint32_t)i, at = idx ? row : (uint32_t)i;
        step((double *)cols[0] + at, (uint32_t *)cols[1] + at, row, ctx);
        ctx->outcomes[i] = (uint8_t)fate(ctx, row, &ctx->wake_ns[i]);
    }
    return NANO_EACH;
}

/* Work that takes its time: a chain of `n` steps for each agent, from x. */
int grind(void **cols, const uint32_t *idx, size_t n, uint64_t now_ns, nano_ctx *ctx)
{
    double *x = cols[0];
    const uint32_t *steps = cols[1];
    (void)now_ns, (void)ctx;
    for (size_t i = 0; i < n; i++) {
        size_t at = idx ? idx[i] : i;
        double value = x[at];
        for (uint32_t k = 0; k < steps[at]; k++)
            value = value * 0.999 + 0.5 / (1.0 + value * value);
        x[at] = value;
    }
    return NANO_WORKED;
}

/* Needs all rows of a call together: each becomes the mean of all. Columns: x, n. */
int mean(void **cols, const uint32_t *idx, size_t n, uint64_t now_ns, nano_ctx *ctx)
{
    double *x = cols[0], sum = 0.0;
    uint32_t *calls = cols[1];
    (void)now_ns, (void)ctx;
    if (idx != NULL)
        return NANO_FAILED;
    for (size_t i = 0; i < n; i++)
        sum += x[i];
    for (size_t i = 0; i < n; i++) {
        x[i] = x[i] * 0.5 + sum / (double)n;
        calls[i] = (uint32_t)n;
    }
    return NANO_WORKED;
}

/* Says the number of the pass to topic 0, and counts what is said to it. Columns: heard. */
int beat(void **cols, uint32_t row, uint64_t now_ns, nano_ctx *ctx)
{
    (void)now_ns;
    ((uint64_t *)cols[0])[row] += ctx->topics ? ctx->inbox_count[0] : 0;
    nano_publish(ctx, 0, row, &ctx->pass, sizeof ctx->pass);
    return NANO_WORKED;
}
