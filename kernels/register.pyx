"""A register of up to 20 qubits, simulated exactly: 2^n complex amplitudes, gates in place, measurement by a seed.

The state-vector (Schrödinger) simulation of Nielsen and Chuang, "Quantum Computation and Quantum Information", ch.
4: a gate on one qubit combines the pairs of amplitudes that differ in its bit, a control leaves out the pairs in
which its bit is 0. Qubit 0 is the lowest bit of a basis state's number. It is arithmetic on an ordinary processor:
a gate costs O(2^n), so nothing here is faster than a classical method would be.

Measurement draws from a counter-based generator (Philox4x32-10, see nano.h): the outcome depends on the seed, the
stream and the number of the draw, and on nothing that ran before. A register is for one thread at a time.
"""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_WRITABLE
from libc.math cimport M_PI, asin, cos, fabs, round, sin, sqrt
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

cdef extern from "nano.h" nogil:
    uint64_t nano_random_at(uint64_t, uint32_t, uint32_t, uint64_t, uint32_t) noexcept

cdef enum:
    MOST = 20
    KIND = 0xFFFF              # of the random numbers: beyond those of kinds of agents, so that none is drawn twice

QUBITS_MAX = MOST
SHOTS_MAX = 1 << 24
cdef double UNITARY = 1e-9     # how far a gate's U U* may be from 1, and a loaded state's norm
cdef size_t GIL_WORTH = 4096   # amplitudes from which the GIL is given back for a gate


# ---- loops over amplitudes: re and im in turns --------------------------------------------------------------------

cdef inline size_t spread(size_t i, const int* at, int count) noexcept nogil:
    """The i-th number that has a 0 in each of these bits (ascending)."""
    cdef int k
    cdef size_t low
    for k in range(count):
        low = i & ((<size_t> 1 << at[k]) - 1)
        i = ((i - low) << 1) | low
    return i


cdef inline void rotate_pair(double* zero, double* one, const double* m) noexcept nogil:
    cdef double a = zero[0], b = zero[1], c = one[0], d = one[1]
    zero[0] = (m[0] * a - m[1] * b) + (m[2] * c - m[3] * d)
    zero[1] = (m[0] * b + m[1] * a) + (m[2] * d + m[3] * c)
    one[0] = (m[4] * a - m[5] * b) + (m[6] * c - m[7] * d)
    one[1] = (m[4] * b + m[5] * a) + (m[6] * d + m[7] * c)


cdef void gate(double* amp, size_t size, int target, size_t controls, const int* fixed, int count,
               const double* m) noexcept nogil:
    """m (row by row) on each pair that differs in target and has all the controls; fixed: their bits, ascending."""
    cdef size_t i, j, block = 0, stride = <size_t> 1 << target
    if count == 1:
        while block < size:
            for j in range(block, block + stride):
                rotate_pair(amp + 2 * j, amp + 2 * (j + stride), m)
            block += 2 * stride
        return
    for i in range(size >> count):
        j = spread(i, fixed, count) | controls
        rotate_pair(amp + 2 * j, amp + 2 * (j | stride), m)


cdef void turn(double* amp, size_t size, size_t ones, const int* fixed, int count, double re, double im) noexcept nogil:
    """Multiply the amplitudes that have all of these bits by re + i im."""
    cdef size_t i, j
    cdef double a, b
    for i in range(size >> count):
        j = 2 * (spread(i, fixed, count) | ones)
        a = amp[j]
        b = amp[j + 1]
        amp[j] = re * a - im * b
        amp[j + 1] = re * b + im * a


cdef void exchange(double* amp, size_t size, size_t left, size_t right, size_t controls, const int* fixed,
                   int count) noexcept nogil:
    """Swap the amplitudes at `left` and at `right` (bits among the fixed ones) wherever all the controls are 1."""
    cdef size_t i, j, k, base
    cdef double a, b
    for i in range(size >> count):
        base = spread(i, fixed, count) | controls
        j = 2 * (base | left)
        k = 2 * (base | right)
        a = amp[j]
        b = amp[j + 1]
        amp[j] = amp[k]
        amp[j + 1] = amp[k + 1]
        amp[k] = a
        amp[k + 1] = b


cdef double weight_of(const double* amp, size_t size, size_t bit) noexcept nogil:
    """The sum of |amplitude|^2 of the states that have this bit; of all where bit is 0. In the order of the states."""
    cdef size_t i
    cdef double total = 0.0
    for i in range(size):
        if bit == 0 or i & bit:
            total += amp[2 * i] * amp[2 * i] + amp[2 * i + 1] * amp[2 * i + 1]
    return total


cdef void keep(double* amp, size_t size, size_t bit, size_t value, double scale) noexcept nogil:
    """Project on the states whose `bit` equals `value`, and scale."""
    cdef size_t i
    for i in range(size):
        if i & bit == value:
            amp[2 * i] *= scale
            amp[2 * i + 1] *= scale
        else:
            amp[2 * i] = amp[2 * i + 1] = 0.0


cdef void reflect(double* amp, size_t size) noexcept nogil:
    """Inversion about the mean, 2|s><s| - 1: the second half of one of Grover's rounds."""
    cdef size_t i
    cdef double re = 0.0, im = 0.0
    for i in range(size):
        re += amp[2 * i]
        im += amp[2 * i + 1]
    re = 2.0 * re / <double> size
    im = 2.0 * im / <double> size
    for i in range(size):
        amp[2 * i] = re - amp[2 * i]
        amp[2 * i + 1] = im - amp[2 * i + 1]


cdef size_t where(const double* amp, size_t size, double wanted) noexcept nogil:
    """The first state at which the running sum of probabilities is over `wanted`; the last possible one otherwise."""
    cdef size_t i, last = 0
    cdef double total = 0.0, p
    for i in range(size):
        p = amp[2 * i] * amp[2 * i] + amp[2 * i + 1] * amp[2 * i + 1]
        total += p
        if p > 0.0:
            last = i
            if wanted < total:
                return i
    return last


cdef void cumulate(const double* amp, size_t size, double* out) noexcept nogil:
    cdef size_t i
    cdef double total = 0.0
    for i in range(size):
        total += amp[2 * i] * amp[2 * i] + amp[2 * i + 1] * amp[2 * i + 1]
        out[i] = total


cdef size_t first_over(const double* sums, size_t size, double wanted) noexcept nogil:
    cdef size_t low = 0, high = size, middle
    while low < high:
        middle = (low + high) >> 1
        if wanted < sums[middle]:
            high = middle
        else:
            low = middle + 1
    return low


# ---- the class ----------------------------------------------------------------------------------------------------

cdef double ROOT_HALF = sqrt(0.5)


def grover_rounds(Py_ssize_t states, Py_ssize_t marked):
    """How many rounds bring Grover's search nearest to certainty: the integer nearest to pi / (4 theta) - 1/2.

    theta = asin(sqrt(marked / states)), after Boyer, Brassard, Høyer and Tapp, "Tight bounds on quantum searching"
    (1998). ValueError unless 1 <= marked <= states.
    """
    if not 1 <= marked <= states:
        raise ValueError(f"{marked} marked of {states} states; at least one and at most all of them can be")
    return max(0, <Py_ssize_t> round(M_PI / (4.0 * asin(sqrt(<double> marked / <double> states))) - 0.5))


cdef class Register:
    """`qubits` (1 to 20) in the state |0...0>; `seed` and `stream` say which random numbers its measurements take.

    The amplitudes are read through the buffer protocol, without a copy and read-only: ``numpy.asarray(register)`` is an
    array of 2^n complex128 that follows every gate. Gates take qubits by number; ValueError for one that is not there
    or is named twice in a gate.
    """

    cdef double* amp
    cdef size_t size
    cdef readonly int qubits
    cdef readonly uint64_t seed
    cdef readonly uint32_t stream
    cdef public uint64_t draws        # how many random numbers measurements have taken; may be set, to repeat or go on
    cdef Py_ssize_t[1] shape
    cdef Py_ssize_t[1] strides

    def __cinit__(self, int qubits, uint64_t seed=0, uint32_t stream=0):
        if not 1 <= qubits <= MOST:
            raise ValueError(f"a register of {qubits} qubits; it can have 1 to {MOST}")
        self.qubits = qubits
        self.seed = seed
        self.stream = stream
        self.size = <size_t> 1 << qubits
        self.amp = <double*> calloc(self.size, 16)
        if self.amp == NULL:
            raise MemoryError(f"no memory for {self.size} amplitudes")
        self.amp[0] = 1.0
        self.shape[0] = <Py_ssize_t> self.size
        self.strides[0] = 16

    def __dealloc__(self):
        free(self.amp)

    def __getbuffer__(self, Py_buffer* view, int flags):
        if flags & PyBUF_WRITABLE == PyBUF_WRITABLE:
            raise BufferError("amplitudes are read-only; use load()")
        view.buf = self.amp
        view.obj = self
        view.len = <Py_ssize_t> self.size * 16
        view.readonly = 1
        view.itemsize = 16
        view.format = NULL
        if flags & PyBUF_FORMAT:
            view.format = "Zd"
        view.ndim = 1
        view.shape = self.shape
        view.strides = self.strides
        view.suboffsets = NULL
        view.internal = NULL

    def __len__(self):
        return <Py_ssize_t> self.size

    # ---- state

    def reset(self, Py_ssize_t state=0):
        """Back to one basis state."""
        self.check_state(state)
        memset(self.amp, 0, self.size * 16)
        self.amp[2 * state] = 1.0

    def load(self, amplitudes):
        """Take a state: a contiguous buffer of 2^n complex128. ValueError unless it fits and its norm is 1 to 1e-9."""
        cdef const double[::1] raw = memoryview(amplitudes).cast("B").cast("d")
        cdef double total
        if raw.shape[0] != 2 * <Py_ssize_t> self.size:
            raise ValueError(f"{raw.shape[0] * 8} bytes for {self.size} amplitudes of 16 bytes")
        total = weight_of(&raw[0], self.size, 0)
        if not fabs(total - 1.0) <= UNITARY:
            raise ValueError(f"the probabilities of that state sum to {total}, not to 1")
        memcpy(self.amp, &raw[0], self.size * 16)

    def amplitude(self, Py_ssize_t state):
        """One amplitude."""
        self.check_state(state)
        return complex(self.amp[2 * state], self.amp[2 * state + 1])

    def probability(self, Py_ssize_t state):
        """That of measuring this basis state (Born's rule)."""
        self.check_state(state)
        return self.amp[2 * state] * self.amp[2 * state] + self.amp[2 * state + 1] * self.amp[2 * state + 1]

    def probability_of_one(self, int qubit):
        """That of measuring 1 in this qubit."""
        self.check_qubit(qubit)
        return weight_of(self.amp, self.size, <size_t> 1 << qubit)

    def norm(self):
        """The sum of all probabilities: 1 but for rounding."""
        return weight_of(self.amp, self.size, 0)

    # ---- gates

    def apply(self, matrix, int target, controls=()):
        """Any gate of one qubit, ((u00, u01), (u10, u11)), where all the controls are 1. ValueError if not unitary."""
        cdef double[8] m
        cdef int i
        cdef double complex a, b, c, d
        (u00, u01), (u10, u11) = matrix
        a, b, c, d = u00, u01, u10, u11
        for i, entry in enumerate((a, b, c, d)):
            m[2 * i] = entry.real
            m[2 * i + 1] = entry.imag
        if not (fabs(m[0] * m[0] + m[1] * m[1] + m[2] * m[2] + m[3] * m[3] - 1.0) <= UNITARY
                and fabs(m[4] * m[4] + m[5] * m[5] + m[6] * m[6] + m[7] * m[7] - 1.0) <= UNITARY
                and fabs(m[0] * m[4] + m[1] * m[5] + m[2] * m[6] + m[3] * m[7]) <= UNITARY
                and fabs(m[1] * m[4] - m[0] * m[5] + m[3] * m[6] - m[2] * m[7]) <= UNITARY):
            raise ValueError(f"not unitary: {matrix!r}")
        self.combine(target, controls, m)

    def h(self, int target):
        """Hadamard."""
        self.real_gate(target, ROOT_HALF, ROOT_HALF, ROOT_HALF, -ROOT_HALF)

    def x(self, int target):
        """Not."""
        self.flip(target, ())

    def y(self, int target):
        """Pauli's Y."""
        cdef double[8] m
        m[:] = [0.0, 0.0, 0.0, -1.0, 0.0, 1.0, 0.0, 0.0]
        self.combine(target, (), m)

    def z(self, int target):
        """Pauli's Z."""
        self.phase_where((target,), -1.0, 0.0)

    def s(self, int target):
        """A quarter of a turn: phase i."""
        self.phase_where((target,), 0.0, 1.0)

    def t(self, int target):
        """An eighth of a turn."""
        self.phase_where((target,), ROOT_HALF, ROOT_HALF)

    def phase(self, double angle, int target, controls=()):
        """exp(i angle) on 1, angle in radians; with controls, where these are 1, too."""
        self.phase_where((target, *controls), cos(angle), sin(angle))

    def rx(self, double angle, int target):
        """A rotation about x by angle, radians."""
        cdef double c = cos(angle / 2.0), s = sin(angle / 2.0)
        cdef double[8] m
        m[:] = [c, 0.0, 0.0, -s, 0.0, -s, c, 0.0]
        self.combine(target, (), m)

    def ry(self, double angle, int target):
        """A rotation about y by angle, radians."""
        cdef double c = cos(angle / 2.0), s = sin(angle / 2.0)
        self.real_gate(target, c, -s, s, c)

    def rz(self, double angle, int target):
        """A rotation about z by angle, radians."""
        cdef double c = cos(angle / 2.0), s = sin(angle / 2.0)
        cdef double[8] m
        m[:] = [c, -s, 0.0, 0.0, 0.0, 0.0, c, s]
        self.combine(target, (), m)

    def cnot(self, int control, int target):
        """Not, where the control is 1."""
        self.flip(target, (control,))

    def toffoli(self, int first, int second, int target):
        """Not, where both controls are 1."""
        self.flip(target, (first, second))

    def cz(self, int one, int other):
        """The sign turns where both are 1."""
        self.phase_where((one, other), -1.0, 0.0)

    def swap(self, int one, int other):
        """Exchange two qubits."""
        cdef int[MOST] fixed
        cdef int count = 0
        self.bits_of((one, other), fixed, &count)
        self.exchanged(<size_t> 1 << one, <size_t> 1 << other, 0, fixed, count)

    # ---- search

    def mark(self, states):
        """Turn the sign of these basis states (each of them once): the oracle of a search."""
        cdef Py_ssize_t state
        cdef set chosen = set(states)
        for found in chosen:
            self.check_state(found)
        for found in chosen:
            state = found
            self.amp[2 * state] = -self.amp[2 * state]
            self.amp[2 * state + 1] = -self.amp[2 * state + 1]

    def reflect(self):
        """Inversion about the mean: what follows the oracle in each of Grover's rounds."""
        if self.size < GIL_WORTH:
            reflect(self.amp, self.size)
        else:
            with nogil:
                reflect(self.amp, self.size)

    def grover(self, states, rounds=None):
        """Grover's search from the uniform superposition; how many rounds (oracle calls) were made.

        L. K. Grover, "A fast quantum mechanical algorithm for database search", STOC 1996. Without `rounds` as many as
        `grover_rounds` says for that many marked states; with none marked, ValueError.
        """
        cdef set chosen = set(states)
        cdef Py_ssize_t most, done
        cdef int qubit
        for found in chosen:
            self.check_state(found)
        most = grover_rounds(<Py_ssize_t> self.size, len(chosen)) if rounds is None else rounds
        if most < 0:
            raise ValueError(f"{most} rounds")
        self.reset()
        for qubit in range(self.qubits):
            self.h(qubit)
        for done in range(most):
            self.mark(chosen)
            self.reflect()
        return most

    # ---- measurement

    def measure(self):
        """Measure all qubits: the basis state, to which the register collapses. Takes one draw."""
        cdef double wanted = self.draw() * weight_of(self.amp, self.size, 0)
        cdef size_t state = where(self.amp, self.size, wanted)
        memset(self.amp, 0, self.size * 16)
        self.amp[2 * state] = 1.0
        return state

    def measure_qubit(self, int qubit):
        """Measure one qubit: 0 or 1, on which the register is projected. Takes one draw."""
        cdef double one, total
        cdef size_t bit
        cdef bint value
        self.check_qubit(qubit)
        bit = <size_t> 1 << qubit
        total = weight_of(self.amp, self.size, 0)
        one = weight_of(self.amp, self.size, bit)
        value = self.draw() * total < one
        if not value and one >= total:            # 0 has no weight but for rounding
            value = True
        keep(self.amp, self.size, bit, bit if value else 0, 1.0 / sqrt(one if value else total - one))
        # total - one is off by rounding where it is small; what is left is brought to norm 1
        total = weight_of(self.amp, self.size, 0)
        keep(self.amp, self.size, 0, 0, 1.0 / sqrt(total))
        return int(value)

    def sample(self, Py_ssize_t shots):
        """What `shots` measurements of fresh copies of this state give: a list of basis states. One draw each."""
        cdef list out = []
        cdef double* sums
        cdef double total
        cdef size_t found
        cdef Py_ssize_t i
        if not 0 <= shots <= SHOTS_MAX:
            raise ValueError(f"{shots} shots; 0 to {SHOTS_MAX} can be taken")
        sums = <double*> calloc(self.size, 8)
        if sums == NULL:
            raise MemoryError(f"no memory for {self.size} probabilities")
        try:
            cumulate(self.amp, self.size, sums)
            total = sums[self.size - 1]
            for i in range(shots):
                found = first_over(sums, self.size, self.draw() * total)
                out.append(found if found < self.size else where(self.amp, self.size, total))
        finally:
            free(sums)
        return out

    # ---- within

    cdef inline double draw(self) noexcept:
        """Uniform in [0, 1), 53 bits."""
        cdef uint64_t bits = nano_random_at(self.seed, KIND, self.stream, self.draws, 0)
        self.draws += 1
        return <double> (bits >> 11) * (1.0 / 9007199254740992.0)

    cdef int check_qubit(self, int qubit) except -1:
        if not 0 <= qubit < self.qubits:
            raise ValueError(f"qubit {qubit} of a register of {self.qubits}")
        return 0

    cdef int check_state(self, Py_ssize_t state) except -1:
        if not 0 <= state < <Py_ssize_t> self.size:
            raise ValueError(f"basis state {state} of {self.size}")
        return 0

    cdef size_t bits_of(self, qubits, int* fixed, int* count) except? 0:
        """The bits of these qubits as a mask; their numbers ascending in `fixed`."""
        cdef size_t mask = 0
        cdef int qubit, i
        for item in qubits:
            qubit = item
            self.check_qubit(qubit)
            if mask >> qubit & 1:
                raise ValueError(f"qubit {qubit} twice in one gate")
            mask |= <size_t> 1 << qubit
        count[0] = 0
        for i in range(self.qubits):
            if mask >> i & 1:
                fixed[count[0]] = i
                count[0] += 1
        return mask

    cdef int combine(self, int target, controls, const double* m) except -1:
        cdef int[MOST] fixed
        cdef int count = 0
        cdef size_t mask = self.bits_of((target, *controls), fixed, &count) & ~(<size_t> 1 << target)
        if self.size < GIL_WORTH:
            gate(self.amp, self.size, target, mask, fixed, count, m)
        else:
            with nogil:
                gate(self.amp, self.size, target, mask, fixed, count, m)
        return 0

    cdef int real_gate(self, int target, double a, double b, double c, double d) except -1:
        cdef double[8] m
        m[:] = [a, 0.0, b, 0.0, c, 0.0, d, 0.0]
        return self.combine(target, (), m)

    cdef int flip(self, int target, controls) except -1:
        cdef int[MOST] fixed
        cdef int count = 0
        cdef size_t bit, mask
        mask = self.bits_of((target, *controls), fixed, &count)
        bit = <size_t> 1 << target
        return self.exchanged(0, bit, mask & ~bit, fixed, count)

    cdef int exchanged(self, size_t left, size_t right, size_t controls, const int* fixed, int count) except -1:
        if self.size < GIL_WORTH:
            exchange(self.amp, self.size, left, right, controls, fixed, count)
        else:
            with nogil:
                exchange(self.amp, self.size, left, right, controls, fixed, count)
        return 0

    cdef int phase_where(self, qubits, double re, double im) except -1:
        cdef int[MOST] fixed
        cdef int count = 0
        cdef size_t mask = self.bits_of(qubits, fixed, &count)
        if self.size < GIL_WORTH:
            turn(self.amp, self.size, mask, fixed, count, re, im)
        else:
            with nogil:
                turn(self.amp, self.size, mask, fixed, count, re, im)
        return 0
