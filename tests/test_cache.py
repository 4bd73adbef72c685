"""What is read: against `read` and plain PyTorch hooks, in memory and on disk; attention patterns; the logit lens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.zoo import HEADS, LAYERS, WIDTH, hf_model, small_model

from mechinterp import Prompt, UsageError, cache, run
from mechinterp.analysis import logit_lens
from mechinterp.patching import (
    Zero,
    attn,
    every,
    k,
    last,
    mlp,
    nothing,
    read,
    resid,
    restore,
    subject,
    z,
)

PROMPTS = [
    Prompt("the {} lives in the old town of", "ada bo", "rome"),
    Prompt("born with {} in red", "dee", "oslo turku"),
    Prompt("{} works near", "gus", None),
]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_arrays_hold_what_is_read_one_by_one(kind: str, tmp_path: Path) -> None:
    model = small_model(kind, dtype=torch.float64)
    sites = [resid.each @ last, z.each_head @ every, mlp[1:] @ subject, k[2].heads(-1) @ subject[-1]]
    found = cache(model, PROMPTS, sites)
    on_disk = cache(model, PROMPTS, sites, out=tmp_path / "runs")
    assert list(found) == [str(site) for site in sites]
    for site in sites:
        np.testing.assert_array_equal(found[site].values, on_disk[site].values)
        assert isinstance(on_disk[site].values, np.memmap)
    np.testing.assert_array_equal(np.load(tmp_path / "runs" / "0.npy"), found[sites[0]].values)
    stream = found["resid.each @ last"]
    assert (stream.axes, stream.values.shape) == (("token", "layer", "width"), (3, LAYERS, WIDTH))
    np.testing.assert_allclose(stream.values[:, 1], read(model, PROMPTS, resid[1] @ last).numpy(), atol=1e-12)
    heads = found[z.each_head @ every]
    lengths = [len(prompt.text.split()) for prompt in PROMPTS]
    assert (heads.axes, heads.values.shape[:3]) == (("token", "layer", "head", "width"), (sum(lengths), LAYERS, HEADS))
    at_last = heads.tokens["role"] == "last"
    np.testing.assert_allclose(heads.values[at_last][:, 2], read(model, PROMPTS, z[2] @ last).numpy(), atol=1e-12)
    assert heads.tokens["token"].str.strip().tolist() == " ".join(prompt.text for prompt in PROMPTS).split()
    assert found[mlp[1:] @ subject].layers == (1, 2)
    assert found[mlp[1:] @ subject].tokens["prompt"].value_counts()[PROMPTS[0].name] == 2
    kv = model.layout.n_kv_heads
    np.testing.assert_allclose(
        found[sites[3]].values[:, 0], read(model, PROMPTS, k[2].heads(kv - 1) @ subject[-1]).numpy(), atol=1e-12
    )
    assert "token 3, layer 3, width 16; 3 prompts" in repr(found)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_attention_patterns_are_those_of_transformers(kind: str) -> None:
    model = small_model(kind, dtype=torch.float64)
    site = attn.pattern.each @ every
    found = cache(model, PROMPTS, site)[site]
    longest = max(len(prompt.text.split()) for prompt in PROMPTS)
    assert found.axes == ("token", "layer", "head", "key")
    assert found.values.shape[1:] == (LAYERS, HEADS, longest)
    np.testing.assert_allclose(found.values.sum(-1), 1.0, atol=1e-6)  # llama's softmax is in float32
    network = hf_model(kind).double().eval()
    network.set_attn_implementation("eager")
    ids = model.tokenizer.convert_tokens_to_ids(PROMPTS[1].text.split())
    with torch.no_grad():
        wanted = network(torch.tensor([ids]), output_attentions=True).attentions
    mine = found.values[(found.tokens["prompt"] == PROMPTS[1].name).to_numpy()]
    for layer in range(LAYERS):
        np.testing.assert_allclose(mine[:, layer, :, : len(ids)], wanted[layer][0].transpose(0, 1), atol=1e-6)
    assert (mine[..., len(ids) :] == 0).all()


def test_patterns_are_not_written_and_windows_not_read() -> None:
    with pytest.raises(UsageError, match="attention patterns are read and not written: .*; write z, q, k, v or attn"):
        restore(attn.pattern[1] @ last)
    with pytest.raises(UsageError, match="'mlp' has no attention pattern; write attn.pattern"):
        mlp.pattern  # noqa: B018
    model = small_model()
    with pytest.raises(UsageError, match="is a window, which is restored as a whole; read mlp.each"):
        cache(model, PROMPTS, mlp.window(3) @ last)
    with pytest.raises(UsageError, match="nothing to read: give at least one prompt and one site"):
        cache(model, [], mlp.each @ last)
    with pytest.raises(UsageError, match=r"attn.each @ last is not in this cache; it has mlp.each @ last"):
        cache(model, PROMPTS, mlp.each @ last)[attn.each @ last]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_logit_lens_ends_in_the_models_own_prediction(kind: str) -> None:
    model = small_model(kind)
    found = logit_lens(model, PROMPTS)
    assert len(found) == 3 * LAYERS
    own = found[found["layer"] == LAYERS - 1].set_index("prompt")
    clean = run(model, PROMPTS[0], nothing).clean
    assert own.loc[PROMPTS[0].name, "prob"] == pytest.approx(clean.prob[0], abs=1e-6)
    assert own.loc[PROMPTS[0].name, "rank"] == clean.rank[0]
    assert own.loc[PROMPTS[2].name, ["prob", "rank"]].isna().all()
    assert own.loc[PROMPTS[2].name, "top"].strip() == run(model, PROMPTS[2], nothing).answer.strip()
    # Without the last layer's attention and MLP the model is what the lens sees one layer earlier.
    cut = restore(attn[LAYERS - 1] @ last, Zero()) | restore(mlp[LAYERS - 1] @ last, Zero())
    before = found[(found["layer"] == LAYERS - 2) & (found["prompt"] == PROMPTS[0].name)]
    assert before["prob"].item() == pytest.approx(run(model, PROMPTS[0], cut).prob[0], abs=1e-6)
