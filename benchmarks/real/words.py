"""Numbers and tables of docs/real-models.md in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MISSING = "not measured yet"


def interval(found: Mapping[str, Any] | Sequence[float], scale: float = 100, decimals: int = 1) -> str:
    """Estimate and interval; the estimate alone where there is no interval."""
    if isinstance(found, Sequence):
        values = list(found)
    else:
        values = [found["estimate"], found["low"], found["high"]]
    estimate, low, high = (math.nan if value is None else float(value) * scale for value in values)
    if math.isnan(estimate):
        return ""
    if math.isnan(low):
        return f"{estimate:.{decimals}f}"
    return f"{estimate:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; its first column is words, the others numbers."""
    lines = [list(headings), ["---"] + ["---:"] * (len(headings) - 1), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def some_layers(layers: Sequence[int], count: int = 10) -> list[int]:
    """So many of the layers, evenly spread, the first and the last among them."""
    ordered = sorted(set(layers))
    if len(ordered) <= count:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (count - 1))] for i in range(count)]
