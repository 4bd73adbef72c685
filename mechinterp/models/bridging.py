"""Wrapping a Hugging Face model in a TransformerLens bridge, without the hub and without a change of its numbers."""

from __future__ import annotations

import copy

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import MechinterpError
from .checkpoints import first_line
from .faithful import check_faithful, some_logits
from .placement import device_of
from .stacks import check_one_dtype


def bridge_of(hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> TransformerBridge:
    """The bridge of a model, which is wrapped in place.

    Raises:
        MechinterpError: NaN or infinite weights, a model that TransformerLens does not bridge, or one that it bridges
            to something else.
    """
    hf_model.eval()
    check_weights(hf_model, name)
    check_one_dtype(hf_model, name)
    called = f"{name} ({type(hf_model).__name__})"
    plain = some_logits(hf_model, called)
    bridge = _boot(hf_model, tokenizer, name)
    check_faithful(plain, some_logits(hf_model, f"{called}, bridged by TransformerLens,"), called)
    return bridge


def check_weights(hf_model: torch.nn.Module, name: str) -> None:
    """Refuse NaN and infinite weights, and those that can take part in no gradient.

    Raises:
        MechinterpError: which of them.
    """
    if any(parameter.is_inference() for parameter in hf_model.parameters()):
        raise MechinterpError(
            f"the weights of {name} were made inside torch.inference_mode(), so they can neither be changed nor passed "
            "by a gradient; make the model outside of it"
        )
    for parameter, tensor in hf_model.state_dict().items():
        if tensor.is_floating_point() and not tensor.is_meta and not bool(torch.isfinite(tensor).all()):
            raise MechinterpError(
                f"the weights {parameter.replace('._original_component', '')!r} of {name} hold NaN or infinite values; "
                "load sound ones"
            )


def _boot(hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> TransformerBridge:
    """Wrap a Hugging Face model without touching the hub.

    TransformerLens reloads any tokenizer whose `init_kwargs` do not say `add_bos_token`; it gets a copy that does, and
    we tokenise with the original.
    """
    hf_model.config.architectures = [type(hf_model).__name__]
    theirs = copy.deepcopy(tokenizer)
    theirs.init_kwargs.update(name_or_path=tokenizer.name_or_path or name, add_bos_token=True)
    try:
        return TransformerBridge.boot_transformers(
            f"mechinterp/{name}",
            hf_model=hf_model,
            tokenizer=theirs,
            device=None if getattr(hf_model, "hf_device_map", None) else str(device_of(hf_model)),
            dtype=hf_model.dtype,
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a bridge that does not fit the model trips over: the sentence is the same
        raise MechinterpError(
            f"TransformerLens cannot bridge {name} ({type(hf_model).__name__}): {first_line(error)[:200]}"
        ) from error
