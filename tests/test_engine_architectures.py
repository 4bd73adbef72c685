"""The exact engine gives the plain executor's table on every architecture, whatever its attention, norms and blocks."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from support.tables import assert_same, spreads
from support.zoo import FAMILIES, KINDS, NOT_LOADED, small_model

import mechinterp as mi
from mechinterp.models.model import Model

# Thousands of short calls: checking the types of each would take ten times as long as the calls.
pytestmark = pytest.mark.usefixtures("unchecked_types")

PLAIN_ONLY = ("bloom", "gpt_bigcode", "xglm")
"""Their layers share what is made for a batch of fixed size, so no row can join."""
WITHOUT_PARTS = ("opt_350m",)
"""Attention and MLP do not add up to the residual stream (norms behind), so causal tracing has nothing to restore."""
EXACT = tuple(kind for kind in FAMILIES if kind not in (*PLAIN_ONLY, *WITHOUT_PARTS, *NOT_LOADED))

PROMPTS = [
    mi.Prompt("{} lives in the old town of", "ada bo", "oslo turku", id="subject first, two answer tokens"),
    mi.Prompt("born in the old red town {} works with", "dee eve fay", "rome", id="subject late, twice the window"),
    mi.Prompt("the big {}", "gus", "york bern lund", id="subject last, three answer tokens"),
]


def same_tables(model: Model, prompts: list[mi.Prompt], **options: Any) -> mi.Table:
    """Trace by both executors and compare every row; the exact table is returned."""
    exact, plain = (
        mi.trace(model, prompts, window=2, draws=2, engine=engine, progress=False, **options)
        for engine in ("exact", "plain")
    )
    assert_same(exact, plain)
    assert exact.meta["plain"] == {}
    assert len(plain.meta["plain"]) == len(plain.meta["programs"]) == 5
    return exact


def assert_it_compares_something(table: mi.Table) -> None:
    """Each program changes probabilities, and it changes what each prompt says."""
    by_program = spreads(table, "prob", ["component", "severed"])
    assert len(by_program) == 5
    assert by_program.min() > 2e-4, by_program
    by_prompt = spreads(table, "log_prob", ["component", "severed", "prompt"])
    assert len(by_prompt) == 5 * len(table.prompts)
    assert by_prompt.min() > 1e-3, by_prompt


@pytest.mark.parametrize("kind", EXACT)
def test_it_equals_the_plain_executor(kind: str) -> None:
    prompts = PROMPTS if kind in KINDS else PROMPTS[1:2]
    assert_it_compares_something(same_tables(small_model(kind), prompts))


@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_the_plain_executor_where_values_come_from_another_draw(kind: str) -> None:
    table = same_tables(small_model(kind), PROMPTS, reference=True, noise_level=0.5)
    assert table.meta["severed_within_draw"] is False
    assert_it_compares_something(table)


@pytest.mark.parametrize("kind", PLAIN_ONLY)
def test_what_cannot_grow_is_traced_plainly_and_says_why(kind: str) -> None:
    auto = mi.trace(small_model(kind), PROMPTS[:1], window=2, draws=2, progress=False)
    assert len(auto.meta["plain"]) == 5
    (reason,) = set(auto.meta["plain"].values())
    assert reason.startswith("this model does not allow a growing batch: ")
    plain = mi.trace(small_model(kind), PROMPTS[:1], window=2, draws=2, engine="plain", progress=False)
    pd.testing.assert_frame_equal(auto.frame, plain.frame)
