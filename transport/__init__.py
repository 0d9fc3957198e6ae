"""Bytes between processes: who may connect, how they are found, and links with credit, batching and encryption."""
