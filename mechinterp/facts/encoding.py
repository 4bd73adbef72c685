"""The one door from text to tokens: whatever a model reads goes through `encode`, or, without what tokenizers add of
their own, through `pieces`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UsageError
from .words import check_spelling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Offsets = list[tuple[int, int]]
"""Character span [start, end) of each token; an empty one for a token that stands for no text."""


def encode(tokenizer: PreTrainedTokenizerBase, text: str, *, closed: bool = False) -> tuple[list[int], Offsets]:
    """Token ids and their character spans, with BOS in front where the tokenizer adds one.

    There is one BOS, also where the text brings it (as every rendered chat does).  A closing EOS is dropped unless
    `closed`: a decoder would not go on after it, an encoder is used to it.

    Raises:
        UsageError: no text, half a character in it, or a tokenizer without offsets.
    """
    check_spelling(text)
    if not tokenizer.is_fast:
        raise UsageError(
            f"{type(tokenizer).__name__} gives no character offsets; load the fast tokenizer of this model instead"
        )
    out = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, padding=False)
    ids, special = list(out["input_ids"]), list(out["special_tokens_mask"])
    offsets: Offsets = [(int(a), int(b)) for a, b in out["offset_mapping"]]
    added = [bool(special[i]) and b <= a for i, (a, b) in enumerate(offsets)]
    while not closed and len(ids) > 1 and added[len(ids) - 1]:
        ids.pop()
        offsets.pop()
    front = next((i for i in range(len(ids)) if not added[i]), len(ids))
    if front:
        while ids[front : 2 * front] == ids[:front] and len(ids) > front:  # the text brought them too
            del ids[:front], offsets[:front]
    return ids, offsets


def pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of words by themselves, without BOS or EOS.

    Raises:
        UsageError: no text, or half a character in it.
    """
    check_spelling(text)
    return list(tokenizer(text, add_special_tokens=False, padding=False)["input_ids"])


def has_unknown(tokenizer: PreTrainedTokenizerBase, ids: list[int], text: str) -> bool:
    """Whether an unknown-token id stands in for letters (GPT-2 shares that id with the end of text: then it cannot)."""
    unknown = tokenizer.unk_token_id
    return unknown is not None and unknown in ids and str(tokenizer.unk_token) not in text


def leaves_out(text: str, offsets: Offsets) -> bool:
    """Whether letters or digits of the text are in no token.

    A BPE without an unknown token leaves out what it cannot spell and counts the offsets of all that follows too low,
    so that letters at the end of the text are the ones that seem to be missing.
    """
    covered = {at for start, end in offsets for at in range(start, end)}
    return any(char.isalnum() and at not in covered for at, char in enumerate(text))
