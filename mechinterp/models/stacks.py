"""Encoder-decoders: which of the two stacks is patched, and what goes into the model.

A `Model` patches one stack.  Of a T5 this is the encoder, whose input is the prompt with its subject, or the decoder,
whose input begins with the start token; the answer is always what the decoder says next.
"""

from __future__ import annotations

from typing import Any

from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerBase

from ..errors import MechinterpError, UsageError
from ..facts.encoding import pieces

ENCODER = "encoder"
DECODER = "decoder"
STACKS = (ENCODER, DECODER)

SERVED = ("T5ForConditionalGeneration", "MT5ForConditionalGeneration")
"""Encoder-decoders whose hook points `layout.py` knows."""


def is_encoder_decoder(hf_model: Any) -> bool:
    """Whether the model has an encoder beside its decoder."""
    return bool(getattr(hf_model.config, "is_encoder_decoder", False))


def check_one_dtype(hf_model: Any, name: str) -> None:
    """Refuse a T5 that was read in float16: transformers keeps its down-projections in float32 then.

    Raises:
        MechinterpError: TransformerLens does not run such a mixture.
    """
    dtypes = {str(parameter.dtype).removeprefix("torch.") for parameter in hf_model.parameters()}
    if is_encoder_decoder(hf_model) and len(dtypes) > 1:
        raise MechinterpError(
            f"{name} ({type(hf_model).__name__}) has weights in {' and '.join(sorted(dtypes))}, because float16 is too "
            "narrow for some of them, and TransformerLens does not run the mixture; load it with dtype=torch.bfloat16"
        )


def stack_of(bridge: TransformerBridge, asked: str | None, name: str) -> str:
    """The stack that is patched; an empty string for a model that has only one.

    Raises:
        UsageError: a stack that does not exist.
        MechinterpError: an encoder-decoder that is not served.
    """
    hf_model: Any = bridge.original_model
    architecture = type(hf_model).__name__
    if not is_encoder_decoder(hf_model):
        if asked is not None:
            raise UsageError(f"{name} ({architecture}) has one stack of layers; leave out stack={asked!r}")
        return ""
    if architecture not in SERVED:
        raise MechinterpError(
            f"{name} ({architecture}) is an encoder-decoder, and of those only {' and '.join(SERVED)} are served"
        )
    if asked not in (None, *STACKS):
        raise UsageError(f"{asked!r} is no stack of {name}; choose {' or '.join(STACKS)}")
    return asked or ENCODER


def decoder_start(
    bridge: TransformerBridge, tokenizer: PreTrainedTokenizerBase, prefix: str, name: str
) -> tuple[int, ...]:
    """The decoder's first tokens, after which it says the answer; none for a model without an encoder.

    Args:
        bridge: the model.
        tokenizer: for the prefix.
        prefix: text fed to the decoder after its start token.
        name: for the message.

    Raises:
        UsageError: a prefix for a model without an encoder.
        MechinterpError: a configuration without a start token.
    """
    hf_model: Any = bridge.original_model
    if not is_encoder_decoder(hf_model):
        if prefix:
            raise UsageError(f"{name} has no encoder, so its prompt is all it is fed; leave out decoder_prefix")
        return ()
    start = hf_model.config.decoder_start_token_id
    if start is None:
        raise MechinterpError(f"the configuration of {name} has no decoder_start_token_id; set it and load again")
    return int(start), *pieces(tokenizer, prefix)
