"""What a site gives and what it takes: against single runs; 0 where nothing can be, and in an affine model."""

from __future__ import annotations

import pytest
import torch
from support.zoo import LAYERS, small_model

from mechinterp import Prompt, UsageError, run
from mechinterp.analysis import interaction_effects, trace_both_ways
from mechinterp.patching import Gaussian, Run, attn, corrupt, embed, every, last, mlp, restore, subject

PROMPTS = [
    Prompt("the {} lives in the old town of", "ada bo", "rome"),
    Prompt("born with {} in the big red town", "dee", "oslo"),
    Prompt("{} works near the town", "gus hal", "paris"),
]
NOISE = corrupt(embed @ subject, Gaussian(draws=3))


def test_both_ways_are_the_runs_they_are_said_to_be() -> None:
    model = small_model(dtype=torch.float64)
    both = trace_both_ways(model, PROMPTS[:1], NOISE, [mlp.each @ subject[-1], attn.each @ last], progress=False)
    found = interaction_effects(*both)
    assert len(found) == 2 * LAYERS * 3
    for site, name, role in ((mlp[1] @ subject[-1], "mlp", "last subject"), (attn[2] @ last, "attn", "last")):
        given = run(model, PROMPTS[0], NOISE | restore(site)).indirect_effect
        removed = run(model, PROMPTS[0], restore(site, Run(NOISE)))
        taken = float((removed.clean.prob - removed.prob).mean())
        rows = found[
            (found["component"] == name) & (found["role"] == role) & (found["layer"] == site.component.layers.chosen[0])
        ]
        mine = rows.set_index("kind")["estimate"]
        assert mine["restored"] == pytest.approx(given, abs=1e-12)
        assert mine["removed"] == pytest.approx(taken, abs=1e-12)
        assert mine["interaction"] == pytest.approx(taken - given, abs=1e-12)
    assert both[1].frame.query("run == 'corrupted'").groupby("prompt").size().tolist() == [3]


def test_it_is_exactly_0_where_the_answer_cannot_be_reached() -> None:
    found = interaction_effects(*trace_both_ways(small_model(), PROMPTS, NOISE, mlp.each @ every, progress=False))
    idle = found[(found["role"] == "before") | ((found["layer"] == LAYERS - 1) & (found["role"] != "last"))]
    assert len(idle) > 0
    assert (idle["estimate"] == 0).all()
    assert (found["estimate"].abs() > 1e-4).any()


def test_it_vanishes_where_the_model_is_affine() -> None:
    """The smaller the noise, the more the model is its own tangent: effects fall with it, the interaction squared."""
    model, shares = small_model(dtype=torch.float64), []
    for level in (1e-2, 1e-4):
        noise = corrupt(embed @ subject, Gaussian(draws=2, level=level))
        both = trace_both_ways(model, PROMPTS[:1], noise, [mlp.each @ subject[-1], attn.each @ last], progress=False)
        found = interaction_effects(*both, "logit_diff").set_index("kind")["estimate"].abs()
        shares.append(found["interaction"].max() / found["restored"].max())
    assert shares[0] > 1e-6
    assert shares[1] < 0.05 * shares[0]


def test_what_cannot_be_compared() -> None:
    model = small_model()
    with pytest.raises(UsageError, match="is no corruption alone; give one such as corrupt"):
        trace_both_ways(model, PROMPTS, NOISE | restore(mlp[0] @ last), mlp.each @ last)
    one, _ = trace_both_ways(model, PROMPTS, NOISE, mlp.each @ last, progress=False)
    _, other = trace_both_ways(model, PROMPTS, NOISE, mlp.each @ subject[-1], progress=False)
    with pytest.raises(UsageError, match="different prompts or cells; take both from one trace_both_ways"):
        interaction_effects(one, other)
