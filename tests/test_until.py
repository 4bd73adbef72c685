"""Prompts until the intervals are narrow: when it stops, what it says, that it goes on, and that its rule holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support.zoo import small_model

from mechinterp import Prompt, UsageError, trace
from mechinterp.analysis import role_effects, trace_until
from mechinterp.patching import Zero, corrupt, embed, last, mlp, restore, subject

NAMES = [f"{first} {second}" for first in ("ada", "bo", "cy", "dee") for second in ("eve", "fay", "gus", "hal", "ida")]
PROMPTS = [Prompt("the {} lives in the old town of", name, "rome", id=name) for name in NAMES]
PROGRAM = corrupt(embed @ subject, Zero()) | restore(mlp.each @ last)


def test_it_stops_when_the_asked_intervals_are_narrow() -> None:
    model = small_model()
    table = trace_until(model, PROMPTS, PROGRAM, points=1e9, first=8, progress=False)
    until = table.meta["until"]
    assert until["reached"]
    assert (until["prompts_run"], until["prompts_given"], until["factor_saved"]) == (8, 20, 2.5)
    assert table.prompts == [name for name in NAMES if name in table.prompts]
    assert table.prompts != NAMES[:8]
    whole = trace(model, [prompt for prompt in PROMPTS if prompt.id in table.prompts], PROGRAM, progress=False)
    pd.testing.assert_frame_equal(table.frame, whole.frame, atol=2e-6)


def test_it_runs_all_where_that_is_not_enough_and_says_so(tmp_path: Path) -> None:
    model = small_model()
    table = trace_until(model, PROMPTS, PROGRAM, points=1e-6, first=4, out=tmp_path, progress=False)
    until = table.meta["until"]
    assert not until["reached"]
    assert [look["prompts"] for look in until["looks"]] == [4, 8, 16, 20]
    assert table.prompts == NAMES
    assert table.meta["prompts"] == 20
    effects = role_effects(table).groupby("layer")["effect"]
    quantile = stats.t.ppf(1 - 0.05 / 2**4 / (2 * effects.ngroups), 19)
    assert until["looks"][-1]["widest"] == pytest.approx(100 * (quantile * effects.std() / np.sqrt(20)).max())
    again = trace_until(model, PROMPTS, PROGRAM, points=1e-6, first=4, out=tmp_path, progress=False)
    assert again.frame.equals(table.frame)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lot-0", "lot-1", "lot-2", "lot-3"]


@pytest.mark.parametrize(("kind", "allowed"), [("normal", 0.05), ("exponential", 0.1)])
def test_the_rule_holds_under_looking(kind: str, allowed: float) -> None:
    """How many sequences of 4 looks at the means of 6 cells ever leave the truth outside; more where t is off."""
    generator = np.random.default_rng(0)
    missed = 0
    for _ in range(400):
        skewed = kind == "exponential"
        values = generator.exponential(1.0, (512, 6)) - 1.0 if skewed else generator.normal(size=(512, 6))
        outside = False
        for look, count in enumerate((64, 128, 256, 512), start=1):
            part = values[:count]
            quantile = stats.t.ppf(1 - 0.05 / 2**look / 12, count - 1)
            outside |= bool((np.abs(part.mean(0)) > quantile * part.std(0, ddof=1) / np.sqrt(count)).any())
        missed += outside
    assert missed <= allowed * 400


def test_what_is_refused() -> None:
    model = small_model()
    with pytest.raises(UsageError, match="points is 0 and level 0.95; give points above 0"):
        trace_until(model, PROMPTS, PROGRAM, points=0)
    with pytest.raises(UsageError, match="no cell has the role 'middle subject'; the trace has last"):
        trace_until(model, PROMPTS, PROGRAM, roles="middle subject", first=4, progress=False)
