"""The parts of the executor: see `swarm.protocol.execution`."""
