"""Keys of attention sinks are shortened in second moments, the same ones however the text is read."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.running_text import running_text
from support.tokenizers import SENTENCES
from support.zoo import sentence_model
from test_moments import keys_one_by_one
from test_moments_resume import Killed, until

from mechinterp.editing import Convergence, Factors, SecondMoment, collect_moments
from mechinterp.editing.judging.change import layer_change
from mechinterp.editing.memory.null_space import NullSpace
from mechinterp.editing.moments.towering import check_towering, key_bounds
from mechinterp.errors import UsageError
from mechinterp.models.model import Model
from mechinterp.patching.plain.sinks import median_norms, random_rows

LAYER = 1
TEXTS = running_text(600)


@pytest.fixture(scope="module")
def sinking() -> Model:
    """At position 0, and nowhere else, one unit of one layer fires, and more than all others together."""
    model = sentence_model("gpt2")
    hf = model.bridge.original_model
    with torch.no_grad():
        hf.transformer.wpe.weight[0, 0] += 1e4
        up = hf.transformer.h[LAYER].mlp.c_fc
        up.weight[0, 0], up.bias[0] = 1e4, -5e4
    return model


@pytest.fixture(scope="module")
def rest(sinking: Model) -> SecondMoment:
    return SecondMoment.collect(sinking, SENTENCES, LAYER, progress=False)


def test_the_bound_is_a_multiple_of_the_median(sinking: Model) -> None:
    for layer in (0, LAYER):
        norms = torch.cat([keys_of_ids(sinking, ids, layer).norm(dim=-1) for ids in random_rows(sinking)])
        middle = norms.sort().values[(len(norms) - 1) // 2]
        assert median_norms(sinking, [layer])[layer] == pytest.approx(float(middle), rel=1e-5)
        assert key_bounds(sinking, [layer], 3)[layer] == pytest.approx(3 * float(middle), rel=1e-5)
    assert key_bounds(sinking, [LAYER], None) == {LAYER: math.inf}


def keys_of_ids(model: Model, ids: list[int], layer: int) -> torch.Tensor:
    found = []
    handle = model.bridge.get_submodule(f"blocks.{layer}.mlp.out").register_forward_pre_hook(
        lambda module, args: found.append(args[0][0].double())
    )
    with torch.no_grad():
        model.bridge.original_model(torch.tensor([ids]))
    handle.remove()
    return found[0]


def test_random_rows_begin_with_bos_where_the_model_does() -> None:
    model = sentence_model("llama", adds_bos=True)
    assert {row[0] for row in random_rows(model)} == {model.encode("a")[0]}
    assert {len(row) for row in random_rows(model, rows=3, length=10**6)} == {model.n_ctx}
    assert random_rows(model) == random_rows(model)


def shortened(model: Model, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Every key, those of sinks at the median length, and which these are; one by one."""
    keys, found, which = keys_one_by_one(model, texts, LAYER), [], []
    median = median_norms(model, [LAYER])[LAYER]
    for key in keys:
        which.append(float(key.norm()) > 5 * median)
        found.append(key * median / key.norm() if which[-1] else key)
    return torch.stack(found), torch.tensor(which)


def test_it_is_the_mean_over_keys_of_ordinary_length(sinking: Model, rest: SecondMoment) -> None:
    keys, which = shortened(sinking, [*SENTENCES])
    assert rest.shortened == int(which.sum()) == len(SENTENCES)
    assert (rest.tokens, rest.documents) == (len(keys), len(SENTENCES))
    assert (rest.towering, rest.bound) == (5, pytest.approx(key_bounds(sinking, [LAYER], 5)[LAYER]))
    wanted = keys.T @ keys / len(keys)
    assert (rest.matrix - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert rest.fourth_moment == pytest.approx(float(keys.square().sum(1).square().mean()), rel=1e-5)
    assert f"{len(SENTENCES)} keys of attention sinks (" in repr(rest)
    assert "shortened to the median: they were longer than 5 times that" in rest.sinks


def test_off_counts_every_key(sinking: Model, rest: SecondMoment) -> None:
    keys = keys_one_by_one(sinking, [*SENTENCES], LAYER)
    whole = SecondMoment.collect(sinking, SENTENCES, LAYER, towering=None, progress=False)
    assert (whole.tokens, whole.shortened, whole.towering, whole.bound) == (len(keys), 0, None, None)
    assert (whole.matrix - keys.T @ keys / len(keys)).abs().max() < 1e-5 * whole.matrix.abs().max()
    assert whole.spectrum[-1] > 0.99 * whole.spectrum.sum()
    assert rest.spectrum[-1] < 0.9 * rest.spectrum.sum()
    assert whole.sinks == ""


def test_parts_of_a_text_shorten_the_same(sinking: Model, rest: SecondMoment) -> None:
    parts = [SecondMoment.collect(sinking, texts, LAYER, progress=False) for texts in (SENTENCES[4:], SENTENCES[:4])]
    merged = SecondMoment.merge(parts)
    assert (merged.tokens, merged.shortened, merged.bound) == (rest.tokens, rest.shortened, rest.bound)
    assert (merged.matrix - rest.matrix).abs().max() < 1e-6 * rest.matrix.abs().max()
    for other, words in ((None, "of no length"), (7.0, "longer than")):
        apart = SecondMoment.collect(sinking, SENTENCES[:2], LAYER, towering=other, progress=False)
        with pytest.raises(UsageError, match=f"shortens keys longer than .* and the other those {words}.*towering="):
            SecondMoment.merge([parts[0], apart])


def test_a_killed_collection_goes_on_with_its_counts(sinking: Model, tmp_path: Path, monkeypatch) -> None:
    from mechinterp.editing.moments import unfinished

    monkeypatch.setattr(unfinished, "_SHARE", float("inf"))
    asked = {"batch_tokens": 128, "write_every": 0.0, "progress": False}
    whole = collect_moments(sinking, TEXTS, [0, LAYER], **asked)
    with pytest.raises(Killed):
        collect_moments(sinking, until(300), [0, LAYER], out=tmp_path, **asked)
    with pytest.raises(UsageError, match=r"differs in towering \(5.0, not 6\)"):
        collect_moments(sinking, TEXTS, [0, LAYER], out=tmp_path, towering=6, **asked)
    found = collect_moments(sinking, TEXTS, [0, LAYER], out=tmp_path, watch=Convergence(), **asked)
    assert found[LAYER].shortened == len(TEXTS)
    for layer, wanted in whole.items():
        loaded = SecondMoment.load(tmp_path / f"layer-{layer}.safetensors")
        for one in (found[layer], loaded):
            assert (one.matrix - wanted.matrix).abs().max() <= 1e-12 * wanted.matrix.abs().max()
            for name in ("tokens", "shortened", "bound", "towering", "documents", "texts"):
                assert getattr(one, name) == getattr(wanted, name)


@pytest.mark.parametrize("towering", [1, 0.5, -3, math.nan, "five", True])
def test_a_multiple_is_above_one(towering: object, unchecked_types: None) -> None:
    with pytest.raises(UsageError, match="towering"):
        check_towering(towering)


def test_what_is_scaled_by_the_trace_does_not_see_the_sink(sinking: Model, rest: SecondMoment) -> None:
    """The level of the shrinkage, the null space and the share of the output that an edit changes."""
    whole = SecondMoment.collect(sinking, SENTENCES, LAYER, towering=None, progress=False)
    weight = sinking.layout.down_projection(LAYER).detach()
    keys, which = shortened(sinking, [*SENTENCES])
    ordinary = keys[~which]
    u, v = ordinary[3][None] / ordinary[3].norm(), weight[5][None].double()
    added, before = ordinary @ u.T @ v, ordinary @ weight.double()
    wanted = float((added.square().sum() / before.square().sum()).sqrt())
    seen = layer_change(LAYER, weight, Factors(u, v), rest).disturbance
    assert seen == pytest.approx(wanted, rel=0.2)
    assert layer_change(LAYER, weight, Factors(u, v), whole).disturbance < 0.05 * seen
    assert NullSpace.of(rest, 0.05).dimension < NullSpace.of(whole, 0.05).dimension
    assert float(rest.matrix.trace()) == pytest.approx(float(ordinary.square().sum(1).mean()), rel=0.2)


def test_an_edit_still_keeps_off_the_sink(sinking: Model, rest: SecondMoment) -> None:
    """Left out, a direction is nobody's; shortened, it is somebody's, as it is with the sink as it was."""
    keys, which = keys_one_by_one(sinking, [*SENTENCES], LAYER), shortened(sinking, [*SENTENCES])[1]
    sink, ordinary = keys[0], keys[~which]
    without = replace(rest, matrix=ordinary.T @ ordinary / len(ordinary))
    whole = SecondMoment.collect(sinking, SENTENCES, LAYER, towering=None, progress=False)

    def reach(moments: SecondMoment) -> float:
        u = moments.repaired("ridge", 1e-3).solve(ordinary[3])
        return abs(float((sink @ u) / (ordinary[3] @ u)))

    assert reach(rest) < 0.2 * reach(without)
    assert reach(whole) < reach(rest)
