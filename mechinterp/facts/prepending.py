"""A token in front of every text, for models whose tokenizer adds none: a choice of tokenisation, made once at loading.

Such models have an attention sink at position 0, whatever stands there; where that is the first token of a subject, a
trace corrupts the sink and an edit writes at it.  A token in front of every text takes the sink upon itself.
"""

from __future__ import annotations

import copy
from typing import Any

from tokenizers import processors
from transformers import PreTrainedTokenizerBase

from ..errors import UsageError
from .encoding import encode

NAMED = {"bos": "bos_token", "eos": "eos_token"}
"""What stands for a tokenizer's own special tokens."""


def front_token(tokenizer: PreTrainedTokenizerBase, wanted: str, name: str) -> str:
    """The token that is meant, as the vocabulary writes it.

    Args:
        tokenizer: of the model.
        wanted: "bos", "eos", or a token such as "<|endoftext|>".
        name: of the model, for messages.

    Raises:
        UsageError: the tokenizer has no such token, or puts a token in front of every text already.
    """
    if not isinstance(wanted, str) or not wanted:
        raise UsageError(f"prepend is {wanted!r:.60}; give 'bos', 'eos' or a token of the vocabulary, or None")
    ids, offsets = encode(tokenizer, "a")
    if len(ids) > 1 and offsets[0][0] == offsets[0][1]:
        own = tokenizer.convert_ids_to_tokens(ids[0])
        raise UsageError(f"the tokenizer of {name} puts {own!r} in front of every text already; leave prepend out")
    token = getattr(tokenizer, NAMED[wanted]) if wanted in NAMED else wanted
    if token is None:
        has = ", ".join(repr(one) for one in tokenizer.all_special_tokens) or "none"
        raise UsageError(f"the tokenizer of {name} has no {wanted.upper()} token (its special tokens: {has})")
    if str(token) not in tokenizer.get_vocab():
        raise UsageError(f"{token!r} is no token of {name}; give 'bos', 'eos' or a token of its vocabulary as prepend")
    return str(token)


def with_front(tokenizer: PreTrainedTokenizerBase, token: str) -> PreTrainedTokenizerBase:
    """A copy of a tokenizer that puts a token in front of every text, and nothing in front of words by themselves."""
    made: Any = copy.deepcopy(tokenizer)
    special = {"id": token, "ids": [made.get_vocab()[token]], "tokens": [token]}
    front = processors.TemplateProcessing(single=[token, "$A"], special_tokens=[special])
    own = made.backend_tokenizer.post_processor
    made.backend_tokenizer.post_processor = front if own is None else processors.Sequence([own, front])
    return made
