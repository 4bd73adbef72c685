"""Small random models of every architecture, made in a moment and without a network.

A freshly initialised model answers nearly the same to everything; here every matrix is scaled up, so that the logits
depend on what is written anywhere.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

import mechinterp as mi
from mechinterp.models.model import Model

from . import tokenizers


@dataclass(frozen=True)
class Size:
    """Sizes by the names that Hugging Face configurations share, and by how much each matrix is scaled up."""

    vocab_size: int
    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    special: int
    scale: float

    @property
    def window(self) -> int:
        """Of sliding attention: shorter than the prompts."""
        return self.max_position_embeddings // 8


LAYERS, WIDTH, HEADS, MLP_WIDTH = 3, 16, 4, 24
VOCABULARY = len(tokenizers.words())
WORDS = Size(VOCABULARY, LAYERS, WIDTH, HEADS, MLP_WIDTH, 32, special=1, scale=12.0)
SENTENCES = Size(len(tokenizers.sentences()), 4, 48, 4, 96, 64, special=0, scale=10.0)

KINDS = ("gpt2", "llama", "neox", "gemma2", "opt")
"""Learned positions; rotary with grouped queries and a gated MLP; parallel blocks; norms after each part; ReLU."""

FAMILIES = {
    "gpt2": "GPT-2",
    "gpt_neo": "GPT-Neo",
    "neox": "GPT-NeoX, Pythia",
    "neox_sequential": "GPT-NeoX, sequential blocks",
    "gptj": "GPT-J",
    "opt": "OPT",
    "opt_350m": "OPT-350m, projected embeddings",
    "opt_post_norm": "OPT, norms behind",
    "bloom": "BLOOM",
    "falcon": "Falcon",
    "falcon_alibi": "Falcon with ALiBi",
    "falcon_new": "Falcon, new decoder",
    "phi": "Phi",
    "phi3": "Phi-3",
    "llama": "Llama, grouped queries",
    "llama_mha": "Llama, multi-head, tied, biases",
    "mistral": "Mistral",
    "mixtral": "Mixtral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
    "gemma2": "Gemma-2",
    "gemma3": "Gemma-3 text",
    "gemma4": "Gemma-4 text",
    "olmo2": "OLMo-2",
    "stablelm": "StableLM",
    "gpt_bigcode": "GPT-BigCode",
    "codegen": "CodeGen",
    "mpt": "MPT",
    "xglm": "XGLM",
    "starcoder2": "Starcoder2",
    "olmo": "OLMo",
    "olmo3": "OLMo-3",
    "granite": "Granite",
    "cohere2": "Cohere2",
    "glm4": "GLM-4",
    "nemotron": "Nemotron",
    "smollm3": "SmolLM3",
    "exaone4": "EXAONE-4",
    "seed_oss": "Seed-OSS",
    "ministral3": "Ministral-3",
    "apertus": "Apertus",
    "nanochat": "nanochat",
    "qwen3_moe": "Qwen3-MoE",
    "gpt_oss": "gpt-oss",
    "deepseek2": "DeepSeek-V2",
}
"""Kind -> what people call it."""

NOT_LOADED = ("opt_post_norm", "falcon_alibi", "falcon_new", "gemma4")
"""Refused as a whole: TransformerLens computes something else, cannot bridge it, or bridges it to another residual."""


def _own(kind: str, size: Size) -> tuple[str, dict[str, Any]]:
    """What Hugging Face calls a kind of model, and what its configuration needs besides the shared names."""
    width, mlp = size.hidden_size // size.num_attention_heads, size.intermediate_size
    heads, inner, length = {"head_dim": width}, {"n_inner": mlp}, size.max_position_embeddings
    grouped, sliding = {"num_key_value_heads": 2}, {"sliding_window": size.window}
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1}
    local = {"attention_types": [[["global"], 1], [["local"], size.num_hidden_layers - 1]], "window_size": size.window}
    post_norm = {"ffn_dim": mlp, "pad_token_id": 1, "do_layer_norm_before": False}
    latent = {"q_lora_rank": None, "kv_lora_rank": 8, "first_k_dense_replace": size.num_hidden_layers}
    latent |= dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), width)
    return {
        "gpt2": ("gpt2", inner),
        "llama": ("llama", grouped),
        "llama_mha": ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
        "neox": ("gpt_neox", {"rotary_pct": 0.5}),
        "neox_sequential": ("gpt_neox", {"rotary_pct": 0.5, "use_parallel_residual": False}),
        "gemma2": ("gemma2", grouped | heads | sliding),
        "opt": ("opt", {"ffn_dim": mlp, "word_embed_proj_dim": size.hidden_size, "pad_token_id": 1}),
        "opt_post_norm": ("opt", post_norm | {"word_embed_proj_dim": size.hidden_size}),
        "opt_350m": ("opt", post_norm | {"word_embed_proj_dim": size.hidden_size // 2}),
        "qwen2": ("qwen2", grouped),
        "qwen3": ("qwen3", grouped | heads),
        "mistral": ("mistral", grouped | sliding),
        "phi": ("phi", {}),
        "phi3": ("phi3", grouped),
        "gptj": ("gptj", inner | {"rotary_dim": width}),
        "bloom": ("bloom", {}),
        "gpt_neo": ("gpt_neo", local),
        "gemma": ("gemma", grouped | heads),
        "gemma3": ("gemma3_text", grouped | heads | sliding | {"sliding_window_pattern": 2}),
        "falcon": ("falcon", {"ffn_hidden_size": mlp}),
        "falcon_alibi": ("falcon", {"ffn_hidden_size": mlp, "alibi": True, "parallel_attn": False, "bias": True}),
        "falcon_new": ("falcon", {"ffn_hidden_size": mlp, "new_decoder_architecture": True, "num_kv_heads": 2}),
        "gemma4": ("gemma4_text", grouped | heads | {"vocab_size_per_layer_input": size.vocab_size}),
        "olmo2": ("olmo2", grouped),
        "stablelm": ("stablelm", grouped | {"partial_rotary_factor": 0.5}),
        "mixtral": ("mixtral", grouped | experts),
        "gpt_bigcode": ("gpt_bigcode", inner),
        "codegen": ("codegen", inner | {"rotary_dim": width, "n_ctx": length}),
        "mpt": ("mpt", {"max_seq_len": length}),
        "xglm": ("xglm", {"ffn_dim": mlp}),
        "starcoder2": ("starcoder2", grouped),
        "olmo": ("olmo", {}),
        "olmo3": ("olmo3", grouped | sliding),
        "granite": ("granite", grouped | {"residual_multiplier": 0.5, "logits_scaling": 2.0}),
        "cohere2": ("cohere2", grouped | heads | sliding | {"logit_scale": 1.0}),
        "glm4": ("glm4", grouped | heads),
        "nemotron": ("nemotron", grouped),
        "smollm3": ("smollm3", grouped),
        "exaone4": ("exaone4", grouped | sliding),
        "seed_oss": ("seed_oss", grouped | heads),
        "ministral3": ("ministral3", grouped | heads),
        "apertus": ("apertus", grouped),
        "nanochat": ("nanochat", {}),
        "qwen3_moe": ("qwen3_moe", grouped | heads | experts | {"moe_intermediate_size": mlp}),
        "gpt_oss": ("gpt_oss", grouped | heads | sliding | experts),
        "deepseek2": ("deepseek_v2", latent),
    }[kind]


def hf_model(kind: str = "gpt2", size: Size = WORDS, *, seed: int = 0) -> Any:
    """A random Hugging Face model with every matrix scaled up, and biases that are not zero."""
    torch.manual_seed(seed)
    model_type, own = _own(kind, size)
    shared = asdict(size)
    scale, special = shared.pop("scale"), shared.pop("special")
    config = AutoConfig.for_model(
        model_type, **{**shared, "bos_token_id": special, "eos_token_id": special, "pad_token_id": None, **own}
    )
    network = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
    return network


@cache
def small_model(kind: str = "gpt2", *, dtype: torch.dtype = torch.float32, adds_bos: bool = False) -> Model:
    """A model of words, booted once per process: nothing may change its weights."""
    words = tokenizers.words(adds_bos=adds_bos)
    return mi.load(hf_model(kind), tokenizer=words, dtype=dtype, name=f"small-{kind}")


ENCODER_DECODERS = ("t5", "t5_gated")
"""T5 with a plain MLP (relu) and with a gated one."""
DECODER_LAYERS = LAYERS - 1
PREFIX = "the"
"""Fed to the decoder after its start token, so that its queries and keys have something to choose from."""


def hf_encoder_decoder(kind: str = "t5", size: Size = WORDS, *, seed: int = 0) -> Any:
    """A random T5 of Hugging Face with matrices scaled up and another number of layers in its decoder."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        "t5", vocab_size=size.vocab_size, d_model=size.hidden_size, d_kv=size.hidden_size // size.num_attention_heads,
        d_ff=size.intermediate_size, num_layers=size.num_hidden_layers, num_decoder_layers=DECODER_LAYERS,
        num_heads=size.num_attention_heads, feed_forward_proj={"t5": "relu", "t5_gated": "gated-gelu"}[kind],
        decoder_start_token_id=0, eos_token_id=size.special,
    )  # fmt: skip
    network = AutoModelForSeq2SeqLM.from_config(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                # T5 does not scale attention's scores: queries and keys stay small, or one token would get it all.
                mild = name.endswith(("q.weight", "k.weight", "bias.weight"))
                std = 1.0 if name == "shared.weight" else parameter.shape[-1] ** -0.5
                parameter.normal_(0, std if mild else 2 * std)
    return network


def encoder_decoder(
    kind: str = "t5", stack: str = "encoder", *, dtype: torch.dtype = torch.float32, prefix: str = PREFIX
) -> Model:
    """A model of words, booted anew: it may be edited."""
    words = tokenizers.words(adds_eos=True)
    network = hf_encoder_decoder(kind)
    return mi.load(network, tokenizer=words, dtype=dtype, name=f"small-{kind}", stack=stack, decoder_prefix=prefix)


def sentence_model(
    kind: str = "gpt2", *, seed: int = 0, dtype: torch.dtype | None = None, adds_bos: bool = False, special: bool = True
) -> Model:
    """A larger model of any text, booted anew: it may be edited."""
    text = tokenizers.sentences(adds_bos=adds_bos, special=special)
    return mi.load(hf_model(kind, SENTENCES, seed=seed), tokenizer=text, dtype=dtype, name=f"small-{kind}")


def chat_model(*, adds_bos: bool = False) -> Model:
    """One whose tokenizer has a chat template."""
    text = tokenizers.chatting(tokenizers.sentences(adds_bos=adds_bos))
    return mi.load(hf_model("gpt2", SENTENCES), tokenizer=text, dtype=torch.float64, name="chatty")
