"""`make bench-nano`: what nano-agents cost, beside peers that are measured in the same run, in rounds that alternate."""
