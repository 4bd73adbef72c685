"""Wrapping a Hugging Face model in a TransformerLens bridge, without the hub and without a change of its numbers.

TransformerLens rebuilds attention from its parts, and where a rebuilt part differs (Falcon's ALiBi does, in 4.3) every
number that comes out is wrong in silence.  So the plain model answers once before it is wrapped, and the bridge after.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import MechinterpError
from .checkpoints import first_line
from .door import settled
from .placement import device_of
from .stacks import check_one_dtype, is_encoder_decoder

_LENGTH = 16
_COARSE = {torch.bfloat16: 0.2, torch.float16: 0.05}
_FINE = 1e-3
"""What another order of adding may cost, as a share of the largest logit; a wrong part costs far more."""


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


def some_logits(hf_model: Any, name: str) -> Float[Tensor, "pos vocab"]:
    """Logits of a few fixed tokens, as transformers runs the model (a bridged one through its bridge).

    Args:
        hf_model: the model.
        name: what messages call it.

    Raises:
        MechinterpError: the model does not run on token ids alone.
    """
    config = hf_model.config
    length = min(_LENGTH, int(getattr(config, "max_position_embeddings", None) or _LENGTH))
    ids = torch.randint(int(config.vocab_size), (1, length), generator=torch.Generator().manual_seed(0))
    ids = ids.to(device_of(hf_model))
    more = {"decoder_input_ids": ids.flip(1)} if is_encoder_decoder(hf_model) else {}
    try:
        with settled(hf_model):
            logits: Tensor = hf_model(ids, use_cache=False, **more).logits[0]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model of another kind trips over: the sentence is the same
        raise MechinterpError(
            f"{name} cannot be run on token ids, as a decoder is: {first_line(error)[:200]}"
        ) from error
    return logits


def check_faithful(plain: Float[Tensor, "pos vocab"], bridged: Float[Tensor, "pos vocab"], name: str) -> None:
    """Compare logits from before a model was bridged with those after.

    Raises:
        MechinterpError: they differ by more than rounding.
    """
    gap = float((bridged.float() - plain.float()).abs().max())
    limit = _COARSE.get(plain.dtype, _FINE) * max(1.0, float(plain.abs().max()))
    if not gap <= limit:
        raise MechinterpError(
            f"{name} cannot be served: bridged by TransformerLens it gives other logits than in transformers (they "
            f"differ by {gap:.2g}), so every number about it would be wrong"
        )
