"""Owners of durable batches over real ledgers, under every fault that those are tested with (`tests.sim.ledger`)."""
