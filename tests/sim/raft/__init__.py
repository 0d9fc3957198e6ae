"""Consensus in the simulator: nodes with disks and clocks of their own, every fault, and what must hold in every step."""
