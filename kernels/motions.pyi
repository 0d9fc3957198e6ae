"""Ready-made batch ticks over columns x and v of f64, at each level of what processors can do; see motions.h."""

NAMES: tuple[str, ...]
LEVELS: tuple[str, ...]
LEVEL: str

def tick_many(name: str, level: str = ...) -> int: ...
