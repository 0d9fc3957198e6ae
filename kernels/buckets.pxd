from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "buckets.h" nogil:
    struct bucket:
        uint64_t rate
        uint64_t per_ns
    struct share:
        bucket bucket
        uint32_t parent
    void bucket_set(bucket*, uint64_t rate, uint64_t per_ns, uint64_t burst) noexcept
    bint bucket_has(const bucket*, uint64_t now_ns, uint64_t tokens) noexcept
    bint bucket_take(bucket*, uint64_t now_ns, uint64_t tokens) noexcept
    void bucket_charge(bucket*, uint64_t now_ns, uint64_t tokens) noexcept
    uint64_t bucket_level(const bucket*, uint64_t now_ns) noexcept
    uint64_t bucket_wait_ns(const bucket*, uint64_t now_ns, uint64_t tokens) noexcept
    int64_t share_take(share*, uint32_t node, uint64_t now_ns, uint64_t tokens) noexcept
    void share_charge(share*, uint32_t node, uint64_t now_ns, uint64_t tokens) noexcept
    uint64_t share_wait_ns(const share*, uint32_t node, uint64_t now_ns, uint64_t tokens) noexcept

cdef class TokenBucket:
    cdef bucket* state
    cdef readonly uint64_t burst

cdef class ShareTree:
    cdef share* tree                    # for kernels: share_take(tree, node, …) without the GIL
    cdef readonly uint32_t nodes
    cdef uint32_t known(self, node) except? 0xFFFFFFFF
