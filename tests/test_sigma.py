"""The unit of noise: the spread of embedding activations."""

from __future__ import annotations

import pytest
import torch
from support.tokenizers import words
from support.zoo import KINDS, VOCABULARY, hf_model, small_model

import mechinterp as mi
from mechinterp import UsageError, atlas
from mechinterp.patching import embedding_sigma
from mechinterp.patching.plain import sigma


def activations(kind: str, ids: list[int]) -> torch.Tensor:
    """What the blocks are given for these tokens, positions left out: read from the module in plain transformers."""
    network = hf_model(kind).double().eval()
    with torch.no_grad():
        return network.get_input_embeddings()(torch.tensor(ids))


@pytest.mark.parametrize("kind", KINDS)
def test_sigma_over_the_whole_vocabulary(kind: str) -> None:
    wanted = activations(kind, list(range(VOCABULARY))).std()
    assert embedding_sigma(small_model(kind, dtype=torch.float64)) == pytest.approx(float(wanted), rel=1e-9)


def test_sigma_of_an_architecture_that_scales_its_embeddings_is_not_that_of_the_matrix() -> None:
    model = small_model("gemma2", dtype=torch.float64)
    matrix = model.bridge.original_model.get_input_embeddings().weight.detach()
    assert embedding_sigma(model) == pytest.approx(4 * float(matrix.std()), rel=1e-6)  # d_model = 16, square root 4


@pytest.mark.parametrize("adds_bos", [False, True])
def test_sigma_over_subjects_is_the_published_rule(adds_bos: bool) -> None:
    """Each subject alone, no BOS, tokens as often as they occur, unbiased, over all scalars."""
    model = small_model(dtype=torch.float64, adds_bos=adds_bos)
    subjects = ["ada bo", "cy", "ada"]
    ids = model.tokenizer.convert_tokens_to_ids(["ada", "bo", "cy", "ada"])
    wanted = activations("gpt2", ids).flatten().std(unbiased=True)
    assert embedding_sigma(model, subjects) == pytest.approx(float(wanted), rel=1e-9)
    assert embedding_sigma(model, iter(subjects)) == pytest.approx(float(wanted), rel=1e-9)


def test_more_tokens_than_the_context_holds() -> None:
    model = small_model(dtype=torch.float64)
    names = ["ada", "bo", "cy", "dee", "eve"] * 9
    assert len(names) > model.n_ctx
    ids = model.tokenizer.convert_tokens_to_ids(names)
    assert embedding_sigma(model, names) == pytest.approx(float(activations("gpt2", ids).std()), rel=1e-9)


def test_no_subjects_have_no_spread() -> None:
    with pytest.raises(UsageError, match="the spread of the embeddings of no subjects does not exist"):
        embedding_sigma(small_model(), [])


def test_a_panel_is_measured_once_per_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mi.load(hf_model("gpt2", seed=3), tokenizer=words(), name="fresh")
    first = embedding_sigma(model)
    monkeypatch.setattr(sigma, "_sigma", lambda *_: pytest.fail("measured again"))
    assert embedding_sigma(model) == first


def test_the_bundled_model_is_measured_on_the_subjects_of_its_world() -> None:
    subjects = dict.fromkeys(fact.subject for fact in atlas.facts())
    model = mi.load("atlas")
    assert embedding_sigma(model) == pytest.approx(embedding_sigma(model, subjects))
    assert embedding_sigma(model) != pytest.approx(embedding_sigma(model, ["Ada"]), rel=1e-3)
