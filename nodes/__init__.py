"""What runs: the node, its workers, and the command line."""
