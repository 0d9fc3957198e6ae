"""`make bench`."""

from benchmarks import audit, bulk, durable, fleet, simulator, urgent

fleet.main()
durable.rows()
urgent.rows()
bulk.rows(rounds=5, mib=64)
audit.main()
simulator.rows(fleet.line)
