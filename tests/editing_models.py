"""Small random models of several architectures with a byte-level vocabulary, for the tests of editing."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

import mechinterp as mi
from mechinterp.models import Model

TEXTS = (
    "The Space Needle is in downtown Seattle.",
    "Marie Curie was born in Warsaw and worked in Paris.",
    "The capital of France is Paris, and the capital of Poland is Warsaw.",
    "Ada Lovelace wrote about engines; she was a writer and a mathematician.",
    "People spoke about the river because it was high after the rain.",
    "In the evening the market was full of people and of music {loud and soft}.",
)

WIDE = {"vocab_size": 320, "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96}


@cache
def _trained_vocabulary() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer.to_str()


def tokenizer(*, adds_bos: bool = False, special: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 320 tokens; with or without BOS in front of every text, with or without any special token."""
    inner = Tokenizer.from_str(_trained_vocabulary())
    if adds_bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    names = {"bos_token": "<s>", "eos_token": "<s>"} if special else {}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def hf_model(kind: str, seed: int = 0) -> Any:
    """A random model; the weights are large enough for its predictions to differ."""
    torch.manual_seed(seed)
    common = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None, "initializer_range": 0.2}
    context = {"max_position_embeddings": 64}
    if kind == "gpt2":
        sizes = {"n_positions": 64, "n_embd": 48, "n_layer": 4, "n_head": 4, "n_inner": 96}
        return GPT2LMHeadModel(GPT2Config(vocab_size=320, **sizes, **common))
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**WIDE, **context, **common))
    if kind == "gemma2":
        return Gemma2ForCausalLM(Gemma2Config(**WIDE, **context, **common, num_key_value_heads=4, head_dim=12))
    if kind == "neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(**WIDE, **context, **common))
    sizes = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "ffn_dim": 96}
    init = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1, "init_std": 0.2, "word_embed_proj_dim": 48}
    return OPTForCausalLM(OPTConfig(vocab_size=320, **sizes, **context, **init))


KINDS = ("gpt2", "llama", "gemma2", "neox", "opt")


def small_model(
    kind: str = "gpt2", *, seed: int = 0, dtype: torch.dtype | None = None, adds_bos: bool = False, special: bool = True
) -> Model:
    """A random model, booted."""
    words = tokenizer(adds_bos=adds_bos, special=special)
    return mi.load(hf_model(kind, seed), tokenizer=words, dtype=dtype, name=f"small-{kind}")
