"""The parts of an owner (`swarm.protocol.ownership`): one module a concern, over the same holdings."""
