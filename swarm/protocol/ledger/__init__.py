"""The ledger: what was acknowledged of tasks, kept in replicated logs, as pure state machines over `swarm.protocol.raft`."""
