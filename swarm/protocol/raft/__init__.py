"""Consensus of one small group over its log, for many groups on one node: Raft as published, as pure state machines."""
