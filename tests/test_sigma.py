"""The unit of noise: the spread of embedding activations."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from support.tokenizers import words
from support.zoo import KINDS, VOCABULARY, encoder_decoder, hf_model, small_model

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


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "t5"])
def test_no_layer_runs(kind: str) -> None:
    model, ran = (encoder_decoder() if kind == "t5" else small_model(kind)), []
    handles = [
        block.register_forward_hook(lambda *given: ran.append(1))
        for name, block in model.bridge.original_model.named_modules()
        if name.rpartition(".")[0].endswith(("blocks", "layers", ".h", ".block")) and name[-1].isdigit()
    ]
    try:
        assert embedding_sigma(model, ["ada bo", "cy"]) > 0
        inputs, answer = model.inputs(model.encode("ada"), ())
        model.logits(torch.tensor([inputs]), decoder_ids=model.fed([answer]))
    finally:
        for handle in handles:
            handle.remove()
    assert len(handles) == len(ran) > 2  # of the plain forward alone


def test_rows_that_belong_to_no_token_do_not_count() -> None:
    network = hf_model("llama")
    wanted = embedding_sigma(mi.load(network, tokenizer=words(), name="plain"))
    padded = hf_model("llama")
    padded.resize_token_embeddings(2 * VOCABULARY, mean_resizing=False)
    with torch.no_grad():
        padded.get_input_embeddings().weight[VOCABULARY:] = 7.0
    model = mi.load(padded, tokenizer=words(), name="padded")
    assert model.vocab_size == 2 * VOCABULARY
    assert embedding_sigma(model) == wanted


def test_tokens_without_a_row_do_not_count_either() -> None:
    more = deepcopy(words())
    more.add_tokens(["zanzibar"])
    assert embedding_sigma(mi.load(hf_model(), tokenizer=more, name="more")) == embedding_sigma(small_model())


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
