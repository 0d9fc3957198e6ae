"""`make bench`."""

from benchmarks import audit, bulk, durable, fleet, makespan, overload, placement, simulator, urgent

fleet.main()
durable.rows()
urgent.rows()
placement.main()
overload.rows()
makespan.rows()
bulk.rows(rounds=5, mib=64)
audit.main()
simulator.rows(fleet.line)
