"""The client: futures, the engine that speaks to a node, and the faces of it (sync, async, executor, joblib)."""
