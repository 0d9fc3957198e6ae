"""Rows of a cohort, ascending: a range, or listed. Without the GIL; small enough to stand in each module that uses them."""

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove, memset

cdef struct Members:
    uint32_t* rows                      # ascending; NULL where they are first .. first + n - 1
    uint32_t first
    size_t n
    size_t room

cdef inline uint32_t member(const Members* m, Py_ssize_t i) noexcept nogil:
    return m.rows[i] if m.rows != NULL else m.first + <uint32_t> i


cdef inline void empty(Members* m) noexcept nogil:
    free(m.rows)
    memset(m, 0, sizeof(Members))


cdef inline bint room_for(Members* m, size_t n) noexcept nogil:
    cdef uint32_t* grown
    if m.rows != NULL and n <= m.room:
        return True
    n = max(<size_t> 16, n + n // 2)
    grown = <uint32_t*> realloc(m.rows, n * 4)
    if grown == NULL:
        return False
    m.rows = grown
    m.room = n
    return True


cdef inline bint own_rows(Members* m) noexcept nogil:
    """Have rows listed, where they were a range."""
    cdef size_t i
    if m.rows != NULL:
        return True
    if not room_for(m, m.n):
        return False
    for i in range(m.n):
        m.rows[i] = m.first + <uint32_t> i
    return True


cdef inline size_t lower_bound(const Members* m, uint32_t row) noexcept nogil:
    """The place of the first member that is not below a row."""
    cdef size_t low = 0, high = m.n, middle
    while low < high:
        middle = (low + high) // 2
        if member(m, <Py_ssize_t> middle) < row:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline bint is_member(const Members* m, uint32_t row) noexcept nogil:
    cdef size_t at = lower_bound(m, row)
    return at < m.n and member(m, <Py_ssize_t> at) == row


cdef inline bint leave_members(Members* m, uint32_t row) noexcept nogil:
    """Take a row out if it is in; False without memory."""
    cdef size_t at = lower_bound(m, row)
    if not is_member(m, row):
        return True
    if not own_rows(m):
        return False
    memmove(m.rows + at, m.rows + at + 1, (m.n - at - 1) * 4)
    m.n -= 1
    return True


cdef inline bint join_members(Members* m, const uint32_t* rows, size_t n) noexcept nogil:
    """Rows, ascending and not among the members, become members; False without memory."""
    cdef size_t at, i, j
    if n == 0:
        return True
    if not own_rows(m) or not room_for(m, m.n + n):
        return False
    at = m.n + n
    i = m.n
    j = n
    while j:
        at -= 1
        if i and m.rows[i - 1] > rows[j - 1]:
            i -= 1
            m.rows[at] = m.rows[i]
        else:
            j -= 1
            m.rows[at] = rows[j]
    m.n += n
    return True
