"""Measuring source files. Runs on workers: text in, plain values out, no files needed there.

Cyclomatic complexity (McCabe 1976), the maintainability index (Oman and Hagemeister 1992, in radon's scale of 0 to 100) and
raw counts are those of radon.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

VERSION = "2"
"""Changes when the same source would be measured differently; results of other versions are not used."""


def measure_source(source: str) -> dict[str, Any]:
    """The figures of one file: {"functions": [[name, line, complexity]…], "mi", "loc", "lloc", "sloc", "comments", "blank"}.

    A file that does not parse has {"error": message, "line": number} instead.
    """
    import ast

    from radon.metrics import h_visit_ast, mi_compute
    from radon.visitors import ComplexityVisitor

    from swarm.tools.audit.counts import analyze

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the source, about its own escapes
            # What cc_visit and mi_visit do, with one parse, one visit and one count between them: half the time.
            tree = ast.parse(source)
            visitor = ComplexityVisitor.from_ast(tree)
            raw = analyze(source)
            comments = (raw.comments + raw.multi) / raw.sloc * 100 if raw.sloc else 0
            volume = h_visit_ast(tree).total.volume
            maintainability = mi_compute(volume, visitor.total_complexity, raw.lloc, comments)
    except SyntaxError as error:
        return {"error": f"{type(error).__name__}: {error.msg}", "line": error.lineno or 0}
    except (
        Exception
    ) as error:  # any source whatever is given to radon: what it stumbles over costs one file, not the audit
        return {"error": f"{type(error).__name__}: {error}", "line": 0}
    functions = []
    for block in visitor.blocks:
        if block.letter in "FM":
            functions.append([block.fullname, int(block.lineno), int(block.complexity)])
    return {
        "functions": functions,
        "mi": float(maintainability),
        "loc": int(raw.loc),
        "lloc": int(raw.lloc),
        "sloc": int(raw.sloc),
        "comments": int(raw.comments),
        "blank": int(raw.blank),
    }


def measured_by() -> str:
    """What figures depend on beside the source: this module, radon, and the Python whose grammar it was parsed by."""
    import radon

    return f"{VERSION}/{radon.__version__}/{sys.version_info.major}.{sys.version_info.minor}"


def measure_many(sources: list[str]) -> dict[str, Any]:
    """Several files as one task; says which node measured them, in which attempt, and with what."""
    from swarm.tasks import current_task

    task = current_task()
    return {
        "node": "" if task is None else task.node,
        "attempt": 1 if task is None else task.attempt,
        "by": measured_by(),
        "files": [measure_source(source) for source in sources],
    }
