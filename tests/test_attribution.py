"""Attribution patching: its estimates against differences by hand, its computed cells against the trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.zoo import LAYERS, small_model

from mechinterp import Prompt, UsageError, trace
from mechinterp.analysis import attribution_error, average_indirect_effects
from mechinterp.patching import (
    METRICS,
    Gaussian,
    HookWrite,
    Zero,
    attn,
    attribution,
    corrupt,
    embed,
    every,
    forward,
    last,
    mlp,
    resid,
    restore,
    subject,
    z,
)
from mechinterp.patching.algebra.programs import nothing
from mechinterp.patching.plain.asked import ask
from mechinterp.patching.plain.session import Session

PROMPTS = [
    Prompt("the {} lives in the old town of", "ada bo", "rome"),
    Prompt("born with {} in red", "dee", "oslo turku"),
]
NOISE = corrupt(embed @ subject, Gaussian(draws=2))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_an_estimate_is_the_slope_of_a_small_step(kind: str) -> None:
    """A hundredth of the way from the corrupted to the clean value and back, by hand (llama norms in float32)."""
    model = small_model(kind, dtype=torch.float64)
    site, layer, head = z.each_head @ subject[-1], 1, 2
    table = attribution(model, PROMPTS[:1], NOISE | restore(site), exact=3)
    rows = table.frame.query("run == 'estimated' and layer == @layer and head == @head")
    [asked] = ask(model, PROMPTS[:1])
    session = Session(model, [asked])
    address, step = ("z", layer), 1e-2
    old = session.run(NOISE, [address]) and session.activation(NOISE, 0, address)
    new = session.run(nothing, [address]) and session.activation(nothing, 0, address)
    values = session.values(0, *_embedding(model, asked))
    hook, start = model.layout.hook("z", layer), asked.prompt.subject
    at = torch.arange(*start)
    noise = HookWrite(
        model.layout.hook("embed"),
        torch.arange(2).repeat_interleave(len(at)),
        at.repeat(2),
        values.flatten(0, 1),
        add=True,
    )
    ids, found = torch.tensor([asked.ids]).expand(2, -1), []
    for way in (step, -step):
        moved = (old + way * (new - old))[:, 2, head]
        write = HookWrite(hook, torch.arange(2), torch.tensor([2, 2]), moved, heads=torch.tensor([head, head]))
        found.append(forward(model, ids, [noise, write]).logits[:, -1].log_softmax(-1)[:, asked.answer[0]])
    base = table.frame.query("run == 'corrupted'")["log_prob"].to_numpy()
    slope = ((found[0] - found[1]) / (2 * step)).numpy()
    np.testing.assert_allclose(rows["log_prob"].to_numpy() - base, slope, rtol=1e-2, atol=1e-4)


def _embedding(model, asked):  # type: ignore[no-untyped-def]
    from mechinterp.patching.algebra.cells import place

    return place(NOISE, model.layout, asked.prompt)[0], NOISE


def test_estimates_of_all_cells_and_exact_values_of_the_strongest() -> None:
    model = small_model(dtype=torch.float64)
    programs = [NOISE | restore(mlp.each @ every), NOISE | restore(attn.each @ every)]
    table = attribution(model, PROMPTS, programs, exact=5)
    whole = trace(model, PROMPTS, programs, progress=False)
    estimated = table.frame[table.frame["run"] == "estimated"]
    keys = [name for name in table.frame.columns if name not in (*METRICS, "run")]
    patched = whole.frame[whole.frame["run"] == "patched"]
    assert set(map(tuple, estimated[keys].to_numpy())) == set(map(tuple, patched[keys].to_numpy()))
    assert estimated[["rank", "kl"]].isna().all().all()
    computed = table.frame[table.frame["run"] == "patched"].merge(patched, on=keys, suffixes=("", "_whole"))
    assert len(computed) == (table.frame["run"] == "patched").sum() > 0
    np.testing.assert_allclose(computed["log_prob"], computed["log_prob_whole"], atol=1e-9)
    places = computed[["component", "role", "layer"]].drop_duplicates()
    assert len(places) == 5
    assert table.meta["token_layers"] < whole.meta["token_layers"]
    assert len(average_indirect_effects(table)) == 5  # estimates are no effects


def test_the_last_residual_stream_is_estimated_well_and_the_error_is_said() -> None:
    model = small_model(dtype=torch.float64)
    noise = corrupt(embed @ subject, Gaussian(draws=2, level=1e-4))  # so little that the model is affine
    error = attribution_error(attribution(model, PROMPTS, noise | restore(resid.each @ every), exact=30), "logit_diff")
    assert set(error["layer"]) == set(range(LAYERS))
    assert (error["ratio"] - 1).abs().max() < 0.02
    assert (error["correlation"] > 0.99).all()


def test_what_cannot_be_estimated() -> None:
    model = small_model()
    with pytest.raises(UsageError, match="cannot be estimated: its value is that of no run; use trace"):
        attribution(model, PROMPTS, NOISE | restore(mlp.each @ last, Zero()))
    with pytest.raises(UsageError, match="cannot be estimated: it corrupts something else than the embeddings"):
        attribution(model, PROMPTS, corrupt(mlp[0] @ subject, Zero()) | restore(attn.each @ last))
    table = trace(model, PROMPTS, NOISE | restore(mlp.each @ last), progress=False)
    with pytest.raises(UsageError, match="has no estimates of 'log_prob' beside exact values"):
        attribution_error(table)
