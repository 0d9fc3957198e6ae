"""Transactions of files: changes under one directory that become true together, or not at all.

Standard library of Python 3.9 alone, and no import of anything else of ours that must succeed: guest workers load this
folder by its path.
"""

from __future__ import annotations

from .calls import CODES, transactional
from .errors import (
    PathRefused,
    TransactionBusy,
    TransactionDamaged,
    TransactionError,
    TransactionFenced,
    TransactionUndecided,
)
from .transaction import StateTransaction

__all__ = [
    "CODES",
    "PathRefused",
    "StateTransaction",
    "TransactionBusy",
    "TransactionDamaged",
    "TransactionError",
    "TransactionFenced",
    "TransactionUndecided",
    "transactional",
]
