"""`make bench`."""

from benchmarks import (
    audit,
    bulk,
    decay,
    durable,
    fleet,
    knowledge,
    lessons,
    makespan,
    overload,
    placement,
    simulator,
    snapshots,
    urgent,
)

fleet.main()
durable.rows()
urgent.rows()
placement.main()
overload.rows()
makespan.rows()
lessons.rows()
bulk.rows(rounds=5, mib=64)
snapshots.rows(mib=1024, keys=(10_000, 1_000_000))
audit.main()
simulator.rows(fleet.line)
knowledge.rows(fleet.line)
decay.rows(fleet.line)
