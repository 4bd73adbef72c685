"""Every architecture, every component, every primitive: it works, or it is refused with a sentence.

A cell fails if its effect is zero, so nothing is served in silence.  `make matrix` writes what is found here to
`mechinterp/architectures.json` and `docs/architectures.md`; the last tests hold the two files to it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.matrix import family
from support.matrix_editing import editing_figures
from support.matrix_patching import NOISE, PROMPTS, causal_gaps, patching_cells
from support.zoo import FAMILIES, NOT_LOADED, small_model

from mechinterp import MechinterpError, SecondMoment, rome
from mechinterp.models.architectures import FILE, PRIMITIVES, markdown, read_families, write_families
from mechinterp.models.layout import COMPONENTS
from mechinterp.patching import Component, corrupt, everywhere, restore, run, sever
from mechinterp.patching.algebra.sources import Zero

# Thousands of short calls: checking the types of each would take ten times as long as the calls.
pytestmark = pytest.mark.usefixtures("unchecked_types")

PAGE = Path(__file__).parent.parent / "docs" / "architectures.md"
LOADED = [kind for kind in FAMILIES if kind not in NOT_LOADED]

EFFECT = 3e-3
"""Nats.  The weakest effect found is 0.01 (queries, keys)."""
ROUNDING = 1e-5
"""Nats.  The largest miss of a law found is 2e-6."""
EXACT = 1e-5
"""Of editing: relative errors, and differences of logits."""


@pytest.mark.parametrize("primitive", PRIMITIVES)
@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("kind", LOADED)
def test_a_cell_is_served_or_refused(kind: str, component: str, primitive: str) -> None:
    cell = patching_cells(kind)[component, primitive]
    if cell.refused:
        assert small_model(kind).architecture in cell.refused
        assert repr(component) in cell.refused
        site = Component(component)[1] @ everywhere
        verb = {"corrupt": lambda site: corrupt(site, Zero()), "restore": restore, "sever": sever}[primitive]
        with pytest.raises(MechinterpError) as refusal:
            run(small_model(kind), PROMPTS[0], NOISE | verb(site))
        assert str(refusal.value) == cell.refused
        return
    assert min(cell.effects) > EFFECT, "a write changes nothing"
    assert len(cell.effects) >= (1 if component == "embed" else small_model(kind).n_layers)
    assert max(cell.broken.values()) < ROUNDING, dict(cell.broken)
    assert cell.apart < ROUNDING, "alone it is another number than in a batch"


@pytest.mark.parametrize("kind", LOADED)
def test_a_write_reaches_its_token_and_no_earlier_one(kind: str) -> None:
    gaps = causal_gaps(small_model(kind))
    assert set(gaps) == set(COMPONENTS) - small_model(kind).layout.refused.keys()
    for component, (before, after) in gaps.items():
        assert before < ROUNDING, component
        assert after > EFFECT, component


@pytest.mark.parametrize("kind", NOT_LOADED)
def test_a_model_that_would_give_wrong_numbers_is_not_loaded(kind: str) -> None:
    with pytest.raises(MechinterpError, match=rf"small-{kind} \({family(kind).architecture}\)"):
        small_model(kind)


@pytest.mark.parametrize("kind", LOADED)
def test_editing_is_exact_or_refused(kind: str) -> None:
    figures = editing_figures(kind)
    if figures.refused:
        model = small_model(kind)
        assert (
            "has no single MLP down-projection (mixture of experts?); it can be traced, not edited" in figures.refused
        )
        with pytest.raises(MechinterpError, match="has no single MLP down-projection"):
            rome(model, PROMPTS[0], 1, moments=SecondMoment.identity(model, 1), target="paris", contexts=("{}",))
        return
    assert figures.pair < EXACT
    assert figures.inserted < EXACT
    assert figures.rome < EXACT
    assert figures.on_changes > 100 * EXACT
    assert figures.on_baked < EXACT
    assert figures.exported < EXACT
    assert figures.undone


def test_at_least_ten_dense_families_and_eighteen_in_all() -> None:
    assert len({family(kind).architecture for kind in LOADED}) >= 18
    assert sum(not editing_figures(kind).refused for kind in LOADED) >= 10


def test_the_files_say_what_the_tests_found() -> None:
    found = [family(kind) for kind in FAMILIES]
    if os.environ.get("MECHINTERP_WRITE_MATRIX"):
        write_families(found)
        PAGE.write_text(markdown(found), encoding="utf-8")
    assert read_families() == found, f"run `make matrix`, which writes {FILE.name} anew, and look at what changed"
    assert PAGE.read_text(encoding="utf-8") == markdown(found), f"run `make matrix`, which writes {PAGE.name} anew"
