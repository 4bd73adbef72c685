"""The tokens of an answer: what the tokenizer makes of text and answer as one text, behind the tokens of the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UsageError
from .encoding import encode, has_unknown, leaves_out, pieces
from .words import check_answer, check_join, check_text, tail_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BORDERS = ("\n", ".", ":", "0", "\u3002")
"""What an answer is spelt behind to stand in the middle of a text; the first that merges with nothing is taken."""


@dataclass(frozen=True)
class Continuation:
    """An answer behind a text.

    Args:
        text: what is scored, the space in front of it included (" Seattle").
        ids: its tokens.
        splits: whether the tokenizer, given text and answer as one, splits them at the border; where it does not (a
            token would hold the end of the one and the beginning of the other, or the text be split otherwise), the
            model has not seen this answer behind these tokens, and its probability says less.
    """

    text: str
    ids: tuple[int, ...]
    splits: bool = True


def continuation(tokenizer: PreTrainedTokenizerBase, text: str, answer: str, join: str | None = None) -> Continuation:
    """An answer as it continues a text.

    Args:
        tokenizer: with character offsets.
        text: what is continued; its tokens are those of `encode`, whatever the answer.
        answer: the words.
        join: what stands between them; None: a space where one belongs (`words.needs_space`).

    Raises:
        UsageError: a text or an answer with blanks around it, or one the vocabulary cannot spell.
    """
    check_join(join, answer)
    check_text(text, join=join)
    check_answer(answer, f"the answer to {text[-60:]!r}", "give a word")
    tail = tail_of(text, answer, join)
    prefix, _ = encode(tokenizer, text)
    whole, offsets = encode(tokenizer, text + tail)
    splits = whole[: len(prefix)] == prefix
    ids = whole[len(prefix) :] if splits else _behind(tokenizer, prefix, whole, tail)
    if not ids or leaves_out(text + tail, offsets) or has_unknown(tokenizer, ids, tail):
        raise UsageError(f"the answer {answer!r} cannot be spelt in this model's vocabulary; choose another answer")
    return Continuation(tail, tuple(ids), splits)


def lone_answer(tokenizer: PreTrainedTokenizerBase, answer: str) -> Continuation:
    """An answer that is a text of its own, as an encoder-decoder gives it.

    Raises:
        UsageError: an answer with blanks around it, or one the vocabulary cannot spell.
    """
    check_answer(answer, "the answer", "give a word")
    word = answer.removeprefix(" ")
    ids = pieces(tokenizer, word)
    if not ids or leaves_out(word, encode(tokenizer, word)[1]) or has_unknown(tokenizer, ids, word):
        raise UsageError(f"the answer {answer!r} cannot be spelt in this model's vocabulary; choose another answer")
    return Continuation(word, tuple(ids))


def _behind(tokenizer: PreTrainedTokenizerBase, prefix: list[int], whole: list[int], tail: str) -> list[int]:
    """Tokens that spell the answer behind those of the text, where the two merge.

    First the answer as a word of its own, as the published code does.  A vocabulary that begins every text with a blank
    would put one between them that is not there; then the answer is spelt behind another character.
    """
    wanted = _spelt(tokenizer, whole)
    for border in ("", *_BORDERS):
        before = pieces(tokenizer, border) if border else []
        both = pieces(tokenizer, border + tail)
        found = both[len(before) :]
        if both[: len(before)] == before and found and _spelt(tokenizer, [*prefix, *found]) == wanted:
            return found
    return []


def _spelt(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
