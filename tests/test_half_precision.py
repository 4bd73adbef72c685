"""bf16 and fp16: the engine checks itself within the dtype's rounding, and effects come with their resolution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import mechinterp as mi
from mechinterp import analysis
from mechinterp.patching.plain.precision import check_tolerance, resolution

FACTS = mi.atlas.known_facts()[:4]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_effects_are_reported_with_their_resolution(dtype: torch.dtype) -> None:
    model = mi.load("atlas", dtype=dtype)
    half = mi.trace(model, FACTS, draws=2, engine="exact", progress=False)
    full = mi.trace(mi.load("atlas"), FACTS, draws=2, engine="exact", progress=False)
    in_prob, in_nats = check_tolerance(dtype)
    assert half.meta["checked_cells"] > 0
    assert 0 < half.meta["largest_difference"] <= in_prob
    assert half.meta["resolution"] > 1000 * full.meta["resolution"] > 0
    # Rounding moves single cells, by a few steps of a logit at most, and not the picture.
    moved = np.abs(half.frame["prob"] - full.frame["prob"])
    assert moved.mean() < half.meta["resolution"]
    (finding,) = [one for one in analysis.diagnose(half) if one.code == "resolution"]
    assert str(dtype).removeprefix("torch.") in finding.sentence
    assert finding.value == half.meta["resolution"]
    assert not [one for one in analysis.diagnose(full) if one.code == "resolution"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_resolution_is_the_step_of_the_largest_logit(dtype: torch.dtype) -> None:
    logits = torch.tensor([[[-9.0, 3.0]]], dtype=dtype)
    step = abs(float(torch.nextafter(torch.tensor(-9.0, dtype=dtype), torch.tensor(-20.0, dtype=dtype))) + 9)
    assert math.isclose(resolution(logits, dtype), step / 4)
    assert resolution(torch.zeros(1, 1, 2), dtype) == 0.0


def test_the_check_tightens_with_the_precision() -> None:
    order = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    for exact, coarse in zip(order, order[1:], strict=False):
        assert all(a < b for a, b in zip(check_tolerance(exact), check_tolerance(coarse), strict=True))
