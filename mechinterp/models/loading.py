"""Loading a model: the bundled ones, a hub name, a local folder, a Hugging Face model or a TransformerBridge.

Weights stay as they are on disk (TransformerLens' raw mode): compatibility mode folds and centres them, which changes
the very matrices that are edited.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import atlas
from ..errors import MechinterpError, UsageError
from ..facts.prepending import front_token, with_front
from .bridging import bridge_of, check_weights
from .bundled import bundled_name
from .checkpoints import locate, read_checkpoint
from .door import plainly
from .footprint import check_fits
from .layout import Layout
from .model import Model
from .placement import check_device, dtype_of, is_spread
from .preflight import preflight
from .stacks import decoder_start, stack_of
from .unwrapped import check_tokenizer, plain_gguf, unwrapped
from .weight_files import is_gguf


# Nine parameters: dtype, device_map and offload_folder are those of transformers' `from_pretrained` under its own
# names, where whoever comes from there looks for them; the last two are for encoder-decoders alone.
@plainly(grad=False)
def load(
    source: str | Path | PreTrainedModel | TransformerBridge,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: str | dict[str, Any] | None = None,
    offload_folder: str | Path | None = None,
    name: str | None = None,
    stack: str | None = None,
    decoder_prefix: str = "",
    prepend: str | None = None,
) -> Model:
    """Load a model for patching and editing, and prove by a preflight that its hooks do what they say.

    Args:
        source: `"atlas"` or `"atlas-plain"` (bundled, no network), a local folder, a GGUF file or a folder with one
            (llama.cpp's; its weights are turned into float32, or the dtype given), a Hugging Face hub name, a Hugging
            Face model (it is wrapped in place: deep-copy it first if you need it plain; a compiled or parallel one is
            taken out of its wrapper) or a TransformerBridge.  A bundled model is known by its weights, from wherever
            they were read.
        tokenizer: needed with a Hugging Face model; otherwise found beside the weights.
        device: where to put the model ("cpu", "cuda", "mps"); a model handed over stays where it is.
        dtype: e.g. `torch.float64`; default: the checkpoint's own (of the bundled models float32).
        device_map: for a model that does not fit on one device: "auto", or module name -> device, "cpu" or "disk"
            (accelerate's own).  Layers that wait in memory or on disk are traced like others and cannot be edited.
        offload_folder: where layers on "disk" are kept.
        name: how the model is called in tables; default: the name or folder it came from.
        stack: of an encoder-decoder (T5), the stack that is patched: "encoder" (the default), at the prompt's tokens,
            or "decoder", at the tokens with which it begins; the subject's embeddings are corrupted in either case.
        decoder_prefix: of an encoder-decoder, a text with which its decoder begins, before the answer; T5 that was
            only pre-trained answers "Paris is in <extra_id_0>" after "<extra_id_0>".
        prepend: for a model whose tokenizer adds no BOS: a token in front of every text, "bos", "eos" or one such as
            "<|endoftext|>".  It is in front of prompts, contexts and running text alike, and part of the fingerprint.

    Raises:
        UsageError: unknown name (near names are listed), something that is no model, a folder without weights, no
            tokenizer; a dtype or device that does not exist, or for a TransformerBridge; a device_map beside a device,
            or for a model in memory; an unknown stack, or a stack or decoder_prefix for a model with one stack; a
            `prepend` that is no token, or where the tokenizer adds one already.
        MechinterpError: weights larger than all memory, NaN or infinite weights, a compatibility-mode bridge, an
            architecture that TransformerLens does not bridge or that fails the preflight.
    """
    source = unwrapped(source)
    check_tokenizer(tokenizer)
    dtype = dtype_of(dtype)
    if isinstance(source, TransformerBridge):
        if dtype is not None or device is not None:
            raise UsageError("a TransformerBridge keeps its dtype and device; choose them where it is booted")
        return _with_front(_from_bridge(source, tokenizer, name, stack, decoder_prefix), prepend)
    hf_model: Any
    if device_map is not None and (device is not None or isinstance(source, PreTrainedModel)):
        raise UsageError(
            "a device_map says where the layers of a model that is read go; give it without device, and with a folder "
            "or hub name"
        )
    if isinstance(source, PreTrainedModel):
        if tokenizer is None:
            raise UsageError(f"a {type(source).__name__} was given without its tokenizer; pass tokenizer=...")
        check_device(device)
        plain_gguf(source)
        hf_model, called = source, name or source.config.name_or_path or type(source).__name__
    else:
        folder = locate(source)
        called = name or (
            Path(folder).stem if folder.endswith(Path(source).name) and is_gguf(folder) else Path(source).name
        )
        check_fits(folder, called, device, dtype, spread=device_map is not None)
        check_device(device)
        hf_model, tokenizer = read_checkpoint(
            folder,
            dtype,
            tokenizer=tokenizer,
            quiet=str(source) in atlas.names(),  # read from disk in a moment
            device_map=device_map,
            offload_folder=offload_folder,
        )
        plain_gguf(hf_model)
    if dtype is not None and hf_model.dtype != dtype:
        hf_model = hf_model.to(dtype)
    if device is not None:
        if is_spread(hf_model):
            raise UsageError("this model is spread over several places by its device_map; leave out device")
        hf_model = hf_model.to(device)
    bridge = bridge_of(hf_model, tokenizer, called)
    return _with_front(_finish(bridge, tokenizer, called, stack, decoder_prefix), prepend)


def _with_front(model: Model, prepend: str | None) -> Model:
    if prepend is None:
        return model
    if model.is_encoder_decoder:
        raise UsageError(
            f"{model.name} is an encoder-decoder, whose encoder is read without a first token; leave prepend out"
        )
    token = front_token(model.tokenizer, prepend, model.name)
    fronted = with_front(model.tokenizer, token)
    return replace(model, tokenizer=fronted, prepend=token, plain_tokenizer=model.tokenizer)


def _from_bridge(
    bridge: TransformerBridge,
    tokenizer: PreTrainedTokenizerBase | None,
    name: str | None,
    stack: str | None,
    decoder_prefix: str,
) -> Model:
    if getattr(bridge, "compatibility_mode", False):
        raise MechinterpError(
            "this TransformerBridge is in compatibility mode, which has rewritten its weights; boot it again and do "
            "not call enable_compatibility_mode()"
        )
    tokenizer = tokenizer or bridge.tokenizer
    if tokenizer is None:
        raise UsageError("this TransformerBridge has no tokenizer; pass tokenizer=...")
    plain_gguf(bridge.original_model)
    config: Any = bridge.original_model.config
    called = name or str(config.name_or_path) or type(bridge.original_model).__name__
    check_weights(bridge.original_model, called)
    return _finish(bridge, tokenizer, called, stack, decoder_prefix)


def _finish(
    bridge: TransformerBridge,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    stack: str | None,
    decoder_prefix: str,
) -> Model:
    patched, start = stack_of(bridge, stack, name), decoder_start(bridge, tokenizer, decoder_prefix, name)
    layout = Layout(bridge, preflight(bridge, name, patched), patched)
    return Model(bridge, tokenizer, layout, name, bundled_name(bridge.original_model), start)
