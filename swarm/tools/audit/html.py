"""The report as one page, with plots; nothing is loaded from elsewhere."""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import Any

from swarm.tools.audit.job import Report

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2330;--dim:#667085;--line:#e3e6ec;--bar:#3b6fd4;--bad:#c8452f;--paper:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9f0;--dim:#98a2b3;--line:#2c3444;--bar:#7ba4f4;--bad:#f0806c;--paper:#12161f}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.05rem;margin:2.2rem 0 .6rem}
.dim{color:var(--dim)}.cards{display:flex;flex-wrap:wrap;gap:1rem;margin:1.2rem 0}
.card{border:1px solid var(--line);border-radius:8px;padding:.6rem 1rem;min-width:8rem}.card b{display:block;font-size:1.35rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid var(--line)}
th{color:var(--dim);font-weight:500}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
svg text{fill:var(--dim);font:12px system-ui}rect{fill:var(--bar)}rect.bad{fill:var(--bad)}circle{fill:var(--bar);fill-opacity:.45}
line{stroke:var(--line)}code{font-size:.92em}
"""


def page(report: Report, title: str, worst: int = 40) -> str:
    """The whole page as text."""
    totals = report.totals()
    cards = [
        (f"{totals['files']:,}", "files"),
        (f"{totals['sloc']:,}", "lines of source"),
        (f"{totals['functions']:,}", "functions"),
        (f"{totals['mean_complexity']:g}", "mean complexity"),
        (f"{totals['mi']:g}", "mean maintainability"),
        (f"{totals['errors']:,}", "not parsed"),
    ]
    parts = [
        f"<!doctype html><meta charset=utf-8><title>{escape(title)}</title>",
        "<meta name=viewport content='width=device-width'>",
        f"<style>{_STYLE}</style><h1>Code health of {escape(title)}</h1>",
        f"<p class=dim>Measured by {_nodes(report)}. Complexity is McCabe's; maintainability 0 to 100, higher is better.</p>",
        "<div class=cards>",
        *(f"<div class=card><b>{value}</b><span class=dim>{name}</span></div>" for value, name in cards),
        "</div><h2>How complex functions are</h2>",
        _histogram(report),
        "<h2>Size and maintainability of files</h2>",
        _scatter(report),
        "<h2>The most complex functions</h2><table><tr><th class=n>complexity<th>function<th>where",
    ]
    for complexity, path, line, name in report.functions[:worst]:
        parts.append(f"<tr><td class=n>{complexity}<td><code>{escape(name)}</code><td class=dim>{escape(path)}:{line}")
    parts.append("</table><h2>Packages</h2><table><tr><th>package")
    parts.append(
        "<th class=n>files<th class=n>source<th class=n>functions<th class=n>mean complexity<th class=n>maintainability"
    )
    for row in report.packages()[:60]:
        parts.append(
            f"<tr><td>{escape(row['package'])}<td class=n>{row['files']}<td class=n>{row['sloc']:,}"
            f"<td class=n>{row['functions']:,}<td class=n>{row['mean']:g}<td class=n>{row['mi']:g}"
        )
    parts.append("</table>")
    if report.errors:
        parts.append("<h2>Not parsed</h2><table>")
        parts += [f"<tr><td>{escape(path)}<td class=dim>{escape(why)}" for path, why in report.errors.items()]
        parts.append("</table>")
    return "\n".join(parts)


def _nodes(report: Report) -> str:
    shares = ", ".join(f"{escape(node)} {count:,}" for node, count in report.nodes.most_common())
    known = f"{report.known:,} known from before" if report.known else ""
    return "; ".join(part for part in (shares, known) if part) or "nobody: there was nothing to measure"


def _histogram(report: Report) -> str:
    steps = [(1, 1), (2, 3), (4, 5), (6, 10), (11, 20), (21, 30), (31, 50), (51, 10**9)]
    counts: Counter[int] = Counter()
    for complexity, *_ in report.functions:
        counts[next(at for at, (low, high) in enumerate(steps) if complexity <= high)] += 1
    top = max(counts.values(), default=1)
    bars = []
    for at, (low, high) in enumerate(steps):
        height = 150 * counts[at] / top
        label = f"{low}" if low == high else f"{low}+" if high > 999 else f"{low}–{high}"
        x = 10 + at * 85
        klass = " class=bad" if low > 20 else ""
        bars.append(
            f"<rect{klass} x={x} y={170 - height:.1f} width=70 height={max(height, 0.5):.1f} rx=2><title>{counts[at]:,}</title></rect>"
        )
        bars.append(f"<text x={x + 35} y=188 text-anchor=middle>{label}</text>")
        bars.append(f"<text x={x + 35} y={164 - height:.1f} text-anchor=middle>{counts[at]:,}</text>")
    return f"<svg viewBox='0 0 700 195' role=img aria-label='functions by complexity'>{''.join(bars)}</svg>"


def _scatter(report: Report) -> str:
    files: list[tuple[str, dict[str, Any]]] = sorted(report.files.items(), key=lambda one: -one[1]["sloc"])[:1500]
    top = max((figures["sloc"] for _, figures in files), default=1) or 1
    dots = []
    for path, figures in files:
        x = 50 + 630 * (figures["sloc"] / top) ** 0.5
        y = 200 - 1.8 * figures["mi"]
        dots.append(
            f"<circle cx={x:.1f} cy={y:.1f} r=3><title>{escape(path)}: {figures['sloc']:,} lines, {figures['mi']:.0f}</title></circle>"
        )
    axis = "".join(
        f"<line x1=50 x2=690 y1={200 - 1.8 * mark} y2={200 - 1.8 * mark} /><text x=42 y={204 - 1.8 * mark} text-anchor=end>{mark}</text>"
        for mark in (0, 20, 50, 100)
    )
    words = f"<text x=690 y=220 text-anchor=end>lines of source, up to {top:,} →</text>"
    return (
        f"<svg viewBox='0 0 700 225' role=img aria-label='size and maintainability'>{axis}{''.join(dots)}{words}</svg>"
    )
