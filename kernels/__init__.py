"""Kernels: the few loops that every task passes through, in Cython.

Buffers and scalars in, values out, no I/O. Each module has a readable twin of the same interface in
:mod:`kernels.reference`, and the tests hold one against the other.
"""
