"""`make bench`."""

from benchmarks import fleet, simulator

fleet.main()
simulator.rows(fleet.line)
