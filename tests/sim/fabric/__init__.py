"""The task fabric in the simulator: the node's own `Fabric`, `Ownership` and `Execution`, and the client's `Session`."""
