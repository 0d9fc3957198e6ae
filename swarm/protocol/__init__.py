"""The protocol as pure state machines: (input, now) -> effects. No clock, no socket, no randomness of its own."""
