"""The ledger in the simulator: clients, owners and executors on nodes with disks and clocks of their own, under every fault."""
