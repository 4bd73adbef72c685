"""A trained network as a Hugging Face folder in half precision."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from .network import Network
from .recipes import Recipe
from .tokenizer import END_OF_TEXT, end_of_text


def halve(network: Network) -> None:
    """Round every weight to float16 and back, so that what is measured is what is shipped."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half().float())


def export(network: Network, recipe: Recipe, tokenizer: Tokenizer, folder: Path) -> None:
    """Write config.json, model.safetensors (float16), generation_config.json and the tokenizer's files.

    The configuration names float32 as the type to compute in: float16 is how the weights are stored.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end = end_of_text(tokenizer)
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": tokenizer.get_vocab_size(),
        "n_positions": recipe.context,
        "n_embd": recipe.width,
        "n_layer": recipe.layers,
        "n_head": recipe.heads,
        "n_inner": None,
        "activation_function": "gelu_new",
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": end,
        "eos_token_id": end,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
    generation = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": recipe.context,
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
    }
    for name, content in (
        ("config.json", config),
        ("generation_config.json", generation),
        ("tokenizer_config.json", settings),
    ):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    compact = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(compact + "\n", encoding="utf-8")
    weights = {
        f"transformer.{name}": weight.detach().half().contiguous() for name, weight in network.state_dict().items()
    }
    aside = folder / "model.safetensors.partial"
    save_file(weights, aside, metadata={"format": "pt"})
    aside.chmod(0o644)  # safetensors writes for the owner alone; a shared installation must be readable
    aside.replace(folder / "model.safetensors")
