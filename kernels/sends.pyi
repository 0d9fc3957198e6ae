"""The inner loop over agents that are generators."""

from collections.abc import Iterator
from typing import Any

def send_each(iterator: Iterator[Any], value: object) -> Any: ...
