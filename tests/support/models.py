"""Small random models of five architectures over a vocabulary of words, made in a moment and without a network.

A freshly initialised model answers nearly the same to everything; here every matrix is scaled up, so that the logits
depend on what is written anywhere.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

import mechinterp as mi
from mechinterp.models import Model

WORDS = (
    "ada", "bo", "cy", "dee", "eve", "fay", "gus", "hal", "ida", "jo", "lives", "works", "was", "born", "in", "near",
    "the", "old", "big", "red", "town", "of", "and", "with", "seattle", "rome", "paris", "oslo", "turku", "lund",
    "york", "bern",
)  # fmt: skip
SPECIAL = ("<unk>", "<s>")
VOCABULARY = len(SPECIAL) + len(WORDS)
LAYERS, WIDTH, HEADS, MLP_WIDTH = 3, 16, 4, 24
KINDS = ("gpt2", "llama", "neox", "gemma2", "opt")
"""Learned positions; rotary with grouped queries and a gated MLP; parallel blocks; norms after each part; ReLU."""


@cache
def tokenizer(*, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """One token per word, with character offsets; with or without BOS in front of every text."""
    ids = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    inner = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if adds_bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="<s>")


def _network(kind: str) -> Any:
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "intermediate_size": MLP_WIDTH, "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 1,
        "pad_token_id": None,
    }  # fmt: skip
    grouped = {"num_key_value_heads": 2}
    if kind == "gpt2":
        sizes = {"n_positions": 32, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_inner": MLP_WIDTH}
        return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=1, **sizes))
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**common, **grouped))
    if kind == "neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(**common))
    if kind == "gemma2":
        return Gemma2ForCausalLM(Gemma2Config(**common, **grouped, head_dim=WIDTH // HEADS))
    if kind == "opt":
        sizes = {"ffn_dim": MLP_WIDTH, "word_embed_proj_dim": WIDTH}
        return OPTForCausalLM(OPTConfig(**(common | sizes | {"pad_token_id": 1})))
    if kind == "mixtral":
        return MixtralForCausalLM(MixtralConfig(**common, **grouped, num_local_experts=2, num_experts_per_tok=1))
    raise ValueError(kind)


def hf_model(kind: str = "gpt2", *, seed: int = 0, scale: float = 12.0) -> Any:
    """A random Hugging Face model with every matrix multiplied by `scale`, and biases that are not zero."""
    torch.manual_seed(seed)
    network = _network(kind)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
    return network


@cache
def small_model(kind: str = "gpt2", *, dtype: torch.dtype = torch.float32, adds_bos: bool = False) -> Model:
    """A booted model, made once per test run: nothing may change its weights."""
    words = tokenizer(adds_bos=adds_bos)
    return mi.load(hf_model(kind), tokenizer=words, dtype=dtype, name=f"small-{kind}")
