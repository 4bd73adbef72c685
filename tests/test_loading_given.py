"""What people hand to `load`: taken out of its wrapper, or named in one sentence."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from support.tokenizers import words
from support.zoo import hf_encoder_decoder, hf_model, small_model
from torch import nn
from transformers import GPT2ForSequenceClassification

import mechinterp as mi
from mechinterp import Prompt, UsageError
from mechinterp.models.unwrapped import unwrapped
from mechinterp.patching import nothing, run

pytestmark = pytest.mark.usefixtures("unchecked_types")
PROMPT = Prompt("the {} lives in town", "ada bo", "rome")


class Adapter(nn.Module):
    """As PEFT's: not a model of transformers, but it has one inside and answers for it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.base_model, self.config = inner, inner.config


def compiled_forward(network: Any) -> Any:
    network.forward = torch.compile(network.forward, backend="eager")
    return network


def compiled_in_place(network: Any) -> Any:
    network.compile(backend="eager")
    return network


@pytest.mark.parametrize(
    "wrap",
    [
        lambda network: torch.compile(network, backend="eager"),
        nn.DataParallel,
        lambda network: nn.DataParallel(torch.compile(network, backend="eager")),
        compiled_in_place,
        compiled_forward,
    ],
)
def test_wrappers_that_only_change_how_a_model_is_run_are_taken_off(wrap: Any) -> None:
    network = hf_model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its compiler
        wrapped = wrap(network)
    model = mi.load(wrapped, tokenizer=words(), name="small-gpt2")
    assert model.bridge.original_model is network
    assert run(model, PROMPT, nothing).clean.prob == run(small_model(), PROMPT, nothing).clean.prob


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (lambda: None, "there is no model: None was given; give a name, a folder, a Hugging Face model with its token"),
        (
            lambda: Adapter(hf_model()),
            r"an Adapter wraps a GPT2LMHeadModel and .*; merge .* or give its .base_model",
        ),
        (lambda: nn.Linear(2, 2), "a Linear is no model of transformers; give"),
        (lambda: hf_model().state_dict(), "an OrderedDict holds weights without a model"),
        (dict, "a dict holds no model"),
        (words, "is a tokenizer and no model; pass it as tokenizer="),
        (lambda: hf_model().config, "a GPT2Config is no model; give"),
        (lambda: 3, "an int is no model"),
        (lambda: hf_model().transformer, "a GPT2Model has no head that says the next token; load it with AutoModelFor"),
        (lambda: hf_encoder_decoder().encoder, "a T5Stack has no head that says the next token"),
        (lambda: GPT2ForSequenceClassification(hf_model().config), "a GPT2ForSequenceClassification has no head that"),
        (small_model, "the model small-gpt2 is loaded already; use it as it is, or give its .bridge"),
        (lambda: "", "'' is no name of a model; the bundled models are"),
        (lambda: "  ", "'  ' is no name of a model"),
    ],
)
def test_what_is_no_model_is_named(source: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as said:
        mi.load(source(), tokenizer=words(), name="it")
    assert len(str(said.value)) < 400


def quantised(kind: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to move this elsewhere
        return torch.ao.quantization.quantize_dynamic(hf_model(kind), {nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])  # all matrices, and the head alone
def test_what_was_quantised_in_memory_is_refused(kind: str) -> None:
    with pytest.raises(UsageError, match=r"this \w+ was quantised in memory \(it holds torch.ao.nn.quantized.dynamic"):
        mi.load(quantised(kind), tokenizer=words(), name="it")


def test_parts_that_cannot_be_taken_apart_are_named() -> None:
    network = hf_model()
    network.transformer.h[1] = torch.compile(network.transformer.h[1], backend="eager")
    with pytest.raises(UsageError, match="parts of this GPT2LMHeadModel were compiled by torch.compile"):
        unwrapped(network)
    network = hf_model()
    network._hf_peft_config_loaded = True
    with pytest.raises(UsageError, match=r"this GPT2LMHeadModel has an adapter \(PEFT\) added to it; merge"):
        unwrapped(network)
    with torch.device("meta"):
        network = hf_model()
    with pytest.raises(UsageError, match=r"the weights of this GPT2LMHeadModel are placeholders \(on the device 'meta"):
        unwrapped(network)


def test_a_tokenizer_that_is_none() -> None:
    for wrong, name in (("gpt2", "a str"), (words().backend_tokenizer, "a Tokenizer"), (hf_model(), "a GPT2LMHead")):
        with pytest.raises(UsageError, match=f"tokenizer= is {name}.*; give a tokenizer of transformers"):
            mi.load(hf_model(), tokenizer=wrong)  # type: ignore[arg-type]


def test_dtypes_and_devices_by_name() -> None:
    assert mi.load(hf_model(), tokenizer=words(), dtype="float64", device="cpu").dtype == torch.float64
    for wrong, sentence in (
        ("float3", "there is no dtype 'float3'; choose float32"),
        (torch.int8, "a model does not run in torch.int8"),
        (torch.float8_e4m3fn, "a model does not run in torch.float8_e4m3fn"),
        (32, "there is no dtype 32"),
    ):
        with pytest.raises(UsageError, match=sentence):
            mi.load("atlas", dtype=wrong)  # type: ignore[arg-type]
    for device in ("gpu", "cuda:99", "meta", torch.device("meta")):
        with pytest.raises(UsageError, match=f"there is no device '{device}' here; choose cpu"):
            mi.load("atlas", device=device)
