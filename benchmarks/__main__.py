"""`make bench`."""

from benchmarks import audit, bulk, durable, fleet, simulator

fleet.main()
durable.rows()
bulk.rows(rounds=5, mib=64)
audit.main()
simulator.rows(fleet.line)
