"""Where the subject stands among the tokens, and the role of every other token.

Spans come from the tokenizer's offset mapping of the whole sentence, so that merges across word borders, characters of
several bytes, a BOS token in front and any padding side cannot shift them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UsageError
from .answers import Continuation, continuation, lone_answer
from .encoding import encode, has_unknown, leaves_out
from .prompts import Prompt
from .words import is_spaced_letter, occurrences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FIRST_SUBJECT = "first subject"
MIDDLE_SUBJECT = "middle subject"
LAST_SUBJECT = "last subject"
FIRST_SUBSEQUENT = "first subsequent"
FURTHER = "further"
LAST = "last"
BEFORE = "before"

ROLES = (FIRST_SUBJECT, MIDDLE_SUBJECT, LAST_SUBJECT, FIRST_SUBSEQUENT, FURTHER, LAST)
"""The six token roles of Meng et al. 2022 (Figure 2), in reading order."""


@dataclass(frozen=True)
class TokenisedPrompt:
    """A prompt as the model sees it.

    Args:
        prompt: where it came from.
        ids: token ids of the sentence (BOS in front where the tokenizer adds one), without the answer.
        subject: token span [start, end) of the subject.
        answer: the answer as it continues the sentence; None when the prompt has none.
        tokens: the text of each token, for tables and figures.
        exact: False when the subject's last token also holds characters that follow it (a closing quote, say).
        mentions: how often the subject stands in the sentence as whole words; only the template's place counts as
            subject.
        decoder: where the decoder of an encoder-decoder is patched, its own first tokens: every component but the
            embedding is written at these.
    """

    prompt: Prompt
    ids: tuple[int, ...]
    subject: tuple[int, int]
    answer: Continuation | None
    tokens: tuple[str, ...]
    exact: bool = True
    mentions: int = 1
    decoder: TokenisedPrompt | None = None

    @property
    def patched(self) -> TokenisedPrompt:
        """The tokens of the stack that is patched."""
        return self if self.decoder is None else self.decoder

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """Tokens of the answer; empty when the prompt has none."""
        return () if self.answer is None else self.answer.ids

    def __len__(self) -> int:
        return len(self.ids)

    def role(self, position: int) -> str:
        """The role of a token: one of `ROLES`, or "before" for tokens (BOS among them) before the subject.

        The last token of the sentence is "last" unless it belongs to the subject.

        Raises:
            UsageError: there is no such token (negative positions are not counted from the end here).
        """
        start, end = self.subject
        if not 0 <= position < len(self.ids):
            raise UsageError(f"there is no token {position} in {self.prompt.text!r}, which has {len(self.ids)} tokens")
        if position < start:
            return BEFORE
        if position < end:
            if position == end - 1:
                return LAST_SUBJECT
            return FIRST_SUBJECT if position == start else MIDDLE_SUBJECT
        if position == len(self.ids) - 1:
            return LAST
        return FIRST_SUBSEQUENT if position == end else FURTHER

    def positions(self, role: str) -> tuple[int, ...]:
        """All token positions with this role; `"subject"` and `"all"` are understood too.

        Raises:
            UsageError: a name that is no role, or a role this prompt does not have.
        """
        if role == "all":
            return tuple(range(len(self.ids)))
        if role == "subject":
            if self.subject[0] == self.subject[1]:
                raise UsageError(
                    f"the subject of {self.prompt.text!r} stands in the encoder's input, and the decoder is patched; "
                    "corrupt embed @ subject, and write the decoder at `last`, `everywhere` or at(0)"
                )
            return tuple(range(*self.subject))
        if role not in (*ROLES, BEFORE):
            raise UsageError(
                f"{role!r} is no token role; the roles are {', '.join((*ROLES, BEFORE, 'subject', 'all'))}"
            )
        found = tuple(p for p in range(len(self.ids)) if self.role(p) == role)
        if role == LAST and not found:  # the sentence ends with the subject: its last token is also the last
            found = (len(self.ids) - 1,)
        if not found:
            raise UsageError(
                f"the prompt {self.prompt.text!r} has no token with the role {role!r}; its tokens are "
                + " ".join(f"{token!r}:{self.role(p)}" for p, token in enumerate(self.tokens))
            )
        return found


def first_tokens(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, ids: tuple[int, ...]) -> TokenisedPrompt:
    """The tokens with which a decoder begins, as a prompt without a subject; the last of them predicts the answer."""
    tokens = tuple(str(tokenizer.decode([i])) for i in ids)
    return TokenisedPrompt(prompt, ids, (len(ids) - 1, len(ids) - 1), None, tokens)


def tokenise(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, *, for_encoder: bool = False) -> TokenisedPrompt:
    """Tokenise a prompt and find its subject, to the character.

    Args:
        tokenizer: with character offsets.
        prompt: what to tokenise.
        for_encoder: keep a closing EOS, and take the answer as a text of its own.

    Raises:
        UsageError: the vocabulary cannot spell the subject or the answer, or leaves letters out; the subject shares a
            token with the letters of a longer word.
    """
    text, (start, end) = prompt.text, prompt.subject_chars
    ids, offsets = encode(tokenizer, text, closed=for_encoder)
    if leaves_out(text, offsets):
        raise UsageError(
            f"this model's vocabulary cannot spell all of {text!r} and leaves letters out, so that no token's place is "
            "certain; choose other words"
        )
    inside = [i for i, (a, b) in enumerate(offsets) if b > a and b > start and a < end]
    # Some tokenizers give a word's leading space as a token of its own that only touches the subject's border.
    if not inside:
        raise UsageError(f"no token of {text!r} covers the subject {prompt.subject!r}; the vocabulary cannot spell it")
    first, last = inside[0], inside[-1]
    if has_unknown(tokenizer, ids[first : last + 1], prompt.subject):
        raise UsageError(
            f"the subject {prompt.subject!r} cannot be spelt in this model's vocabulary (unknown token); "
            "choose another subject"
        )
    before, after = text[offsets[first][0] : start], text[end : offsets[last][1]]
    for glued in (before[-1:], after[:1]):
        if glued and is_spaced_letter(glued):
            raise UsageError(
                f"the subject {prompt.subject!r} is part of a longer word in {text!r} (it shares a token with "
                f"{glued!r}); give the whole word as subject"
            )
    answer: Continuation | None = None
    if prompt.answer is not None and for_encoder:
        answer = lone_answer(tokenizer, prompt.answer)
    elif prompt.answer is not None:
        answer = continuation(tokenizer, text, prompt.answer, prompt.join)
    return TokenisedPrompt(
        prompt=prompt,
        ids=tuple(ids),
        subject=(first, last + 1),
        answer=answer,
        tokens=tuple(str(tokenizer.decode([i])) for i in ids),
        exact=not before.strip() and not after,
        mentions=len({(start, end), *occurrences(text, prompt.subject)[0]}),
    )
