"""Tables of two executors side by side."""

from __future__ import annotations

import pandas as pd

from mechinterp import Table
from mechinterp.patching import METRICS

TOLERANCES = {"prob": 2e-6, "log_prob": 2e-4, "logit_diff": 2e-4, "kl": 2e-4}
"""What float32 may cost; ranks are left out, since those of equal logits may change places."""


def assert_same(exact: Table, plain: Table) -> None:
    """The same rows in the same order, with the same scores in each."""
    keys = exact.frame.columns.difference(list(METRICS))
    pd.testing.assert_frame_equal(exact.frame[keys], plain.frame[keys])
    for metric, tolerance in TOLERANCES.items():
        gap = (exact.frame[metric] - plain.frame[metric]).abs()
        assert gap.max() <= tolerance, f"{metric} differs by {gap.max():.2g} in\n{exact.frame.loc[gap.idxmax()]}"


def spreads(table: Table, metric: str, by: list[str]) -> pd.Series:
    """By how much the cells of one program differ from each other, at most, within a prompt and a draw.

    Where nothing is changed by what is restored, all cells are equal; so are the tables of two executors then, and
    prove nothing.
    """
    patched = table.frame[table.frame["run"] == "patched"]
    cells = patched.groupby(["component", "window", "severed", "prompt", "draw"])[metric]
    return (cells.max() - cells.min()).groupby(by).max()
