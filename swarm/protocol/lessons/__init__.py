"""Lessons: what a fleet learns from failures, as pure functions.

`fingerprints`: the pattern of a failure. `families`: its diagnosis, harvested from how an attempt ended. `advice`: what helps, as typed values.
`records`: what became of a lesson, and when it is probed. `heeding`: lessons, and what placement and retry make of them.
"""
