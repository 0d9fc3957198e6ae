"""`make bench`."""

from benchmarks import audit, bulk, fleet, simulator

fleet.main()
bulk.rows(rounds=5, mib=64)
audit.main()
simulator.rows(fleet.line)
