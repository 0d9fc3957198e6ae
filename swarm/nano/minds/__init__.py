"""Minds: agents that forecast, choose, evolve, criticise and model themselves. Each is a plain class.

Whoever drives one calls its methods, or spawns it as an agent: `tick(now_ns, bus)` reads and publishes messages.
"""
