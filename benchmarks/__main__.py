"""`make bench`."""

from benchmarks.fleet import main

main()
