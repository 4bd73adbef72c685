"""A bridge that computes something else than the model is refused, before a number comes out of it."""

from __future__ import annotations

import pytest
import torch
from support.tokenizers import words
from support.zoo import hf_model
from transformers import BertConfig, BertForMaskedLM

import mechinterp as mi
from mechinterp import MechinterpError
from mechinterp.models.bridging import check_faithful, some_logits


def test_an_attention_that_the_bridge_rebuilds_wrongly_is_refused() -> None:
    """TransformerLens 4.3 leaves the scale out of Falcon's ALiBi."""
    sentence = r"refalcon \(FalconForCausalLM\) cannot be served: bridged by TransformerLens it gives other logits"
    with pytest.raises(MechinterpError, match=sentence):
        mi.load(hf_model("falcon_alibi"), tokenizer=words(), name="refalcon")


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_rounding_is_told_from_another_computation(dtype: torch.dtype, rounding: float) -> None:
    plain = torch.linspace(-20, 20, 60).view(3, 20).to(dtype)
    check_faithful(plain, (plain.float() * (1 + rounding)).to(dtype), "it")
    for wrong in (plain.flip(1), plain + float("nan")):
        with pytest.raises(MechinterpError, match="it cannot be served"):
            check_faithful(plain, wrong, "it")


def test_a_model_that_is_no_decoder_says_what_it_is() -> None:
    network = hf_model()
    network.forward = lambda nothing: None  # type: ignore[method-assign]
    with pytest.raises(MechinterpError, match="^it cannot be run on token ids, as a decoder is: .*<lambda>"):
        some_logits(network, "it")
    config = BertConfig(vocab_size=34, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    with pytest.raises(MechinterpError, match=r"two-way \(BertForMaskedLM\) is no decoder: what it says at a token"):
        mi.load(BertForMaskedLM(config), tokenizer=words(), name="two-way")


def test_a_bridge_that_does_not_run_is_told_from_a_model_that_does_not() -> None:
    """TransformerLens 4.3 asks the OPT without a norm at its end for that norm."""
    network = hf_model("opt_post_norm")
    sentence = r"odd \(OPTForCausalLM\), bridged by TransformerLens, cannot be run on token ids, .*final_layer_norm"
    with pytest.raises(MechinterpError, match=sentence):
        mi.load(network, tokenizer=words(), name="odd")


@pytest.mark.parametrize("kind", ["gptj", "bloom"])
def test_what_transformers_cannot_make_a_bridge_of_is_one_sentence(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def trip(*given: object, **named: object) -> None:
        raise RuntimeError("split_with_sizes expects something else\nand more lines")

    monkeypatch.setattr("mechinterp.models.bridging.TransformerBridge.boot_transformers", trip)
    with pytest.raises(MechinterpError, match=r"^TransformerLens cannot bridge odd \(\w+\): split_with_sizes .* else$"):
        mi.load(hf_model(kind), tokenizer=words(), name="odd")
