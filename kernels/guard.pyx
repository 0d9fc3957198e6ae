"""Guards over agents' ticks: a reading of the counter each (chained), now and then (sampled), or for many at once (span).

guard.h is for loops without the GIL; a Guard owns one, and the histogram, in ns, that it ends in. A guard counts and never
acts: what happens to an agent that overruns its budget is for its scheduler to say.
"""

from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t

from kernels.histogram cimport Histogram
from kernels.ticks cimport Calibration, ticks_duration_ns, ticks_of_ns


cdef void empty(guard* state) noexcept nogil:
    (<Guard> state.owner).flush()


cdef class Guard:
    """Counts how long ticks take (`times`, ns) and those over budget_ns. Without a budget nothing is over it.

    `every` is the mean distance of agents that a sampled guard measures, `seed` where it begins. Keep the clock's rate as
    it is, or flush first by asking for `times`: ticks become ns when they are flushed.
    """

    def __cinit__(self, Calibration clock not None, budget_ns=None, uint32_t every=64, uint64_t seed=1):
        if every < 1:
            raise ValueError("a sampled guard that measures every 0 agents")
        if budget_ns is not None and not 0 <= budget_ns < 2**64:
            raise ValueError(f"a budget of {budget_ns} ns; it is 0 to 2^64-1")
        self.clock = clock
        self.counted = Histogram()
        self.state.clock = &clock.clock
        self.state.budget = UINT64_MAX if budget_ns is None else ticks_of_ns(&clock.clock, budget_ns)
        self.state.every = every
        self.state.left = 1
        self.state.draw = seed * 2 + 1          # which is never 0
        self.state.full = empty
        self.state.owner = <void*> self

    cdef void flush(self) noexcept nogil:
        """Put what was counted into the histogram."""
        cdef uint32_t i
        for i in range(GUARD_NEAR):
            if self.state.near[i]:
                self.counted.note_many(ticks_duration_ns(&self.clock.clock, i), self.state.near[i])
                self.state.near[i] = 0
        for i in range(self.state.far_count):
            self.counted.note_many(
                ticks_duration_ns(&self.clock.clock, self.state.far[i].ticks), self.state.far[i].agents
            )
        self.state.far_count = 0

    @property
    def times(self):
        """The histogram of all that was measured, ns."""
        self.flush()
        return self.counted

    @property
    def measured(self):
        """Agents that were measured."""
        return self.state.measured

    @property
    def violations(self):
        """Those of them that were over budget."""
        return self.state.violations

    @property
    def worst_ns(self):
        """The longest that was measured, ns."""
        return ticks_duration_ns(&self.clock.clock, self.state.worst)

    @property
    def backwards(self):
        """How often the counter was behind what it was before: counted as nothing."""
        return self.state.backwards

    @property
    def budget_ticks(self):
        """The budget as it is compared; None where there is none."""
        return None if self.state.budget == UINT64_MAX else self.state.budget

    def take(self, uint64_t ticks, uint64_t agents=1):
        """Count that agents took so many ticks together; tells whether that is over their budget."""
        if agents == 1:
            return guard_take(&self.state, ticks) == 1
        return guard_take_many(&self.state, ticks, agents) == 1

    def begin(self):
        """An agent, or many at once, begin now."""
        guard_begin(&self.state)

    def chain(self):
        """The agent has ended and the next one begins; tells whether it was over budget."""
        return guard_chain(&self.state) == 1

    def span(self, uint64_t agents):
        """So many have ended since begin(); tells whether they were over their budgets together."""
        return guard_span(&self.state, agents) == 1

    def look(self):
        """Whether a sampled guard measures the agent that begins now; say so to seen()."""
        return guard_look(&self.state) == 1

    def seen(self, bint looked):
        """The agent has ended; tells whether it was measured and over budget."""
        return guard_seen(&self.state, looked) == 1
