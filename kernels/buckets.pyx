"""Token buckets and trees of them: rates and shares that hold exactly, in integers of ns.

See buckets.h for how (GCRA; hierarchical token buckets), and for the same without the GIL.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport UINT64_MAX, int64_t, uint32_t, uint64_t

RATE_MOST = 2**62 - 1
PER_NS_MOST = 2**61 - 1
FINE = 2**20                            # of a share: rates of nodes are fractions of so small a part of a token


def check(rate, per_ns, burst):
    """ValueError for what a bucket cannot be."""
    if not 1 <= rate <= RATE_MOST:
        raise ValueError(f"a rate of {rate} tokens; it is 1 to 2^62-1")
    if not 1 <= per_ns <= PER_NS_MOST:
        raise ValueError(f"a rate of {rate} tokens each {per_ns} ns; that is 1 to 2^61-1")
    if not 1 <= burst <= UINT64_MAX:
        raise ValueError(f"a bucket that holds {burst} tokens; it is 1 to 2^64-1")


cdef class TokenBucket:
    """`rate` tokens come in each per_ns, up to `burst`; full at first. Instants, ns, are of one clock of the caller's."""

    def __cinit__(self, rate, per_ns=1_000_000_000, *, burst):
        check(rate, per_ns, burst)
        self.state = <bucket*> PyMem_Calloc(1, sizeof(bucket))
        if self.state == NULL:
            raise MemoryError("no memory for a token bucket")
        self.burst = burst
        bucket_set(self.state, rate, per_ns, burst)

    def __dealloc__(self):
        PyMem_Free(self.state)

    def take(self, uint64_t now_ns, uint64_t tokens=1):
        """Take tokens if they are there; tells whether they were."""
        return bucket_take(self.state, now_ns, tokens)

    def charge(self, uint64_t now_ns, uint64_t tokens):
        """Take tokens whether they are there or not: what is missing is owed, and comes in first."""
        bucket_charge(self.state, now_ns, tokens)

    def level(self, uint64_t now_ns):
        """Tokens that are there; 0 while some are owed."""
        return bucket_level(self.state, now_ns)

    def wait_ns(self, uint64_t now_ns, uint64_t tokens=1):
        """ns until so many are there, if nobody takes any; None for more than it holds."""
        cdef uint64_t wait = bucket_wait_ns(self.state, now_ns, tokens)
        return None if wait == UINT64_MAX else wait


cdef class ShareTree:
    """A rate divided down a tree: node 0 has all of it, every other one its weight's part of its parent's.

    parents[i] and weights[i] are of node i + 1; a parent has a lower number than its children. What a node does not use,
    others under its ancestors may borrow. A bucket holds what comes in in burst_ns (at least one token).
    """

    def __cinit__(self, rate, per_ns=1_000_000_000, *, burst_ns, parents=(), weights=()):
        cdef uint32_t i
        parents, weights = list(parents), list(weights)
        if len(parents) != len(weights):
            raise ValueError(f"{len(parents)} parents and {len(weights)} weights")
        if len(parents) >= 2**31:
            raise ValueError("a tree of 2^31 nodes at most")
        check(rate, per_ns, 1)
        if not 1 <= burst_ns < 2**63:
            raise ValueError(f"a burst of {burst_ns} ns; it is 1 to 2^63-1")
        siblings = [0] * (len(parents) + 1)
        for node, (parent, weight) in enumerate(zip(parents, weights), 1):
            if not 0 <= parent < node:
                raise ValueError(f"node {node} under {parent}; a parent comes before its children")
            if not 1 <= weight < 2**32:
                raise ValueError(f"node {node} of weight {weight}; it is 1 to 2^32-1")
            siblings[parent] += weight
        fine = min(FINE, RATE_MOST // rate, PER_NS_MOST // per_ns)
        rates = [rate * fine]
        for parent, weight in zip(parents, weights):
            rates.append(max(1, (rates[parent] * weight + siblings[parent] // 2) // siblings[parent]))
        self.tree = <share*> PyMem_Calloc(len(rates), sizeof(share))
        if self.tree == NULL:
            raise MemoryError(f"no memory for a tree of {len(rates)} shares")
        self.nodes = len(rates)
        for i in range(self.nodes):
            burst = max(1, min(UINT64_MAX, rates[i] * burst_ns // (per_ns * fine)))
            bucket_set(&self.tree[i].bucket, rates[i], per_ns * fine, burst)
            self.tree[i].parent = parents[i - 1] if i else 0

    def __dealloc__(self):
        PyMem_Free(self.tree)

    cdef uint32_t known(self, node) except? 0xFFFFFFFF:
        if not 0 <= node < self.nodes:
            raise ValueError(f"node {node} of a tree of {self.nodes}")
        return node

    def take(self, node, uint64_t now_ns, uint64_t tokens=1):
        """Take tokens for a node: the number of who paid (itself, or the ancestor it borrowed from); None if nobody could."""
        cdef int64_t payer = share_take(self.tree, self.known(node), now_ns, tokens)
        return None if payer < 0 else payer

    def charge(self, node, uint64_t now_ns, uint64_t tokens):
        """Charge what was spent without asking to a node and all above it; it may be owed."""
        share_charge(self.tree, self.known(node), now_ns, tokens)

    def level(self, node, uint64_t now_ns):
        """Tokens that a node has of its own; 0 while it owes some."""
        return bucket_level(&self.tree[self.known(node)].bucket, now_ns)

    def wait_ns(self, node, uint64_t now_ns, uint64_t tokens=1):
        """ns until take() could give so many, if nobody takes any; None for more than any bucket on its way holds."""
        cdef uint64_t wait = share_wait_ns(self.tree, self.known(node), now_ns, tokens)
        return None if wait == UINT64_MAX else wait
