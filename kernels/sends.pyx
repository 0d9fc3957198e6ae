"""The inner loop over agents that are generators: each is sent the instant, as `agent.send(value)` would.

`PyIter_Send` (PEP 380's protocol, in C since Python 3.10) resumes a generator without looking up its method, without a tuple
of arguments, and without an exception where it returns.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF

cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(object, object, PyObject**) except PYGEN_ERROR


def send_each(iterator, value):
    """Send a value to each generator that an iterator gives, until one yields something else than None: that, or None when
    the iterator is at its end. The iterator then stands behind that generator.

    Raises what a generator raises, and StopIteration when one returns.
    """
    cdef PyObject* outcome
    cdef bint returned
    for agent in iterator:
        outcome = NULL
        returned = PyIter_Send(agent, value, &outcome) == PYGEN_RETURN
        if outcome == <PyObject*> None and not returned:
            Py_DECREF(None)
            continue
        said = <object> outcome
        Py_DECREF(said)
        if not returned:
            return said
        raise StopIteration if said is None else StopIteration(said)
    return None
