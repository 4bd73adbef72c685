"""What people hand over as a model: taken out of its wrapper, or named in one sentence."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import UsageError
from .model import Model

_WANTED = "give a name, a folder, a Hugging Face model with its tokenizer, or a TransformerBridge"


def unwrapped(source: object) -> str | Path | PreTrainedModel | TransformerBridge:
    """A model as it can be loaded: compiled and parallel ones are taken out of their wrappers.

    Raises:
        UsageError: what was given is no model, adds something to one, or lacks what a language model has.
    """
    if isinstance(source, str):
        return source
    if isinstance(source, os.PathLike):
        return Path(source)
    if isinstance(source, TransformerBridge):
        return source
    if isinstance(source, nn.Module):
        return _checked(_inner(source))
    raise UsageError(_no_model(source))


def plain_gguf(hf_model: Any) -> str:
    """Take the mark of being quantised off a model that transformers read from a GGUF file; of any other nothing.

    Its weights were turned into plain numbers as they were read, and yet transformers would not convert or save it.

    Returns:
        the name of its file without ".gguf"; "" for any other model.
    """
    config = hf_model.config
    quantisation = getattr(config, "quantization_config", None)
    if getattr(quantisation, "quant_method", None) != "gguf":
        return ""
    name = Path(str(getattr(quantisation, "gguf_file", None) or "gguf")).stem
    del config.quantization_config
    for mark in ("hf_quantizer", "is_quantized", "quantization_method"):
        if hasattr(hf_model, mark):
            delattr(hf_model, mark)
    config.name_or_path = name  # it was the folder of the file
    return name


def check_tokenizer(tokenizer: object) -> None:
    """Refuse what is no tokenizer of transformers.

    Raises:
        UsageError: what it is instead.
    """
    if tokenizer is not None and not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UsageError(
            f"tokenizer= is {_a(tokenizer)}; give a tokenizer of transformers, such as "
            "AutoTokenizer.from_pretrained(FOLDER)"
        )


def _inner(module: nn.Module) -> nn.Module:
    """The module inside what only changes how it is run: `torch.compile`, and copies on several devices."""
    parallel = isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel))
    inside = module.module if parallel else getattr(module, "_orig_mod", None)
    return _inner(inside) if isinstance(inside, nn.Module) else module


def _checked(module: nn.Module) -> PreTrainedModel:
    if not isinstance(module, PreTrainedModel):
        inside = next((name for name, one in module.named_children() if isinstance(one, PreTrainedModel)), None)
        if inside is None:
            raise UsageError(f"{_a(module)} is no model of transformers; {_WANTED}")
        raise UsageError(
            f"{_a(module)} wraps a {type(getattr(module, inside)).__name__} and may change what it says; merge it into "
            f"that model (PEFT: merge_and_unload()) and give the result, or give its .{inside} for the model without it"
        )
    name = type(module).__name__
    if getattr(module, "_hf_peft_config_loaded", False):
        raise UsageError(f"this {name} has an adapter (PEFT) added to it; merge it into the weights and load it again")
    for each in module.modules():
        kind = type(each)
        if kind.__module__.startswith(("torch.ao.nn", "torch.nn.quantized")):
            raise UsageError(
                f"this {name} was quantised in memory (it holds {kind.__module__}.{kind.__name__}), and quantised "
                "modules have no weights that could be read or edited; give the model as it was before"
            )
        if hasattr(each, "_orig_mod"):
            raise UsageError(f"parts of this {name} were compiled by torch.compile; give the model as it was before")
        _uncompile(each)
    if module.get_output_embeddings() is None:
        raise UsageError(
            f"{_a(module)} has no head that says the next token; load it with AutoModelForCausalLM (an "
            "encoder-decoder with AutoModelForSeq2SeqLM)"
        )
    if not getattr(module, "hf_device_map", None) and any(one.is_meta for one in module.parameters()):
        raise UsageError(f"the weights of this {name} are placeholders (on the device 'meta'); read them first")
    return module


def _uncompile(module: nn.Module) -> None:
    """Undo `model.compile()` and `model.forward = torch.compile(model.forward)`: hooks want the code as it stands."""
    module._compiled_call_impl = None
    if hasattr(module.__dict__.get("forward"), "_torchdynamo_orig_callable"):
        del module.forward


def _no_model(source: object) -> str:
    if source is None:
        return f"there is no model: None was given; {_WANTED}"
    if isinstance(source, Mapping):
        held = "weights without a model (a state_dict?)" if _is_state(source) else "no model"
        return f"{_a(source)} holds {held}; build the model and load them into it, then {_WANTED}"
    if isinstance(source, Model):
        return f"the model {source.name} is loaded already; use it as it is, or give its .bridge to load it another way"
    if isinstance(source, PreTrainedTokenizerBase):
        return f"{_a(source)} is a tokenizer and no model; pass it as tokenizer=, and {_WANTED}"
    return f"{_a(source)} is no model; {_WANTED}"


def _is_state(source: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, torch.Tensor) for value in source.values())


def _a(thing: object) -> str:
    name = type(thing).__name__
    return f"{'an' if name[:1] in 'AEIOUaeiou' else 'a'} {name}"
