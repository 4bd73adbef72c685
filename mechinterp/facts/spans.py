"""Where the subject stands among the tokens, and the role of every other token.

Spans come from the tokenizer's offset mapping of the whole sentence, so that merges across word borders, characters of
several bytes, a BOS token in front and any padding side cannot shift them.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ..errors import UsageError
from .prompts import Prompt

FIRST_SUBJECT = "first subject"
MIDDLE_SUBJECT = "middle subject"
LAST_SUBJECT = "last subject"
FIRST_SUBSEQUENT = "first subsequent"
FURTHER = "further"
LAST = "last"
BEFORE = "before"

ROLES = (FIRST_SUBJECT, MIDDLE_SUBJECT, LAST_SUBJECT, FIRST_SUBSEQUENT, FURTHER, LAST)
"""The six token roles of Meng et al. 2022 (Figure 2), in reading order."""

_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "IDEOGRAPHIC", "FULLWIDTH")


def is_spaced_letter(char: str) -> bool:
    """Whether the character belongs to a script that puts spaces between words (so that words can contain words).

    Combining marks count: they are part of the letter before them, as the vowel signs of Hindi are.
    """
    letter = char.isalnum() or unicodedata.category(char).startswith("M")
    return letter and not unicodedata.name(char, "").startswith(_UNSPACED)


def _occurrences(text: str, subject: str) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Where the subject stands in the text: as whole words, and inside longer ones."""
    whole: list[tuple[int, int]] = []
    inside: list[tuple[int, int]] = []
    for match in re.finditer(re.escape(subject), text):
        start, end = match.span()
        glued_left = start > 0 and is_spaced_letter(text[start - 1]) and is_spaced_letter(subject[0])
        glued_right = end < len(text) and is_spaced_letter(text[end]) and is_spaced_letter(subject[-1])
        (inside if glued_left or glued_right else whole).append((start, end))
    return whole, inside


def find_subject(text: str, subject: str) -> tuple[int, int]:
    """Character span [start, end) of the subject, found as whole words.

    Raises:
        UsageError: not there, there only inside a longer word, or there several times.
    """
    if not subject.strip():
        raise UsageError(f"the subject of {text!r} is empty; give the words it consists of")
    whole, inside = _occurrences(text, subject)
    if len(whole) == 1:
        return whole[0]
    if whole:
        raise UsageError(
            f"the subject {subject!r} stands {len(whole)} times in {text!r} (at characters "
            f"{', '.join(str(start) for start, _ in whole)}); give a template with '{{}}' at the one you mean"
        )
    if inside:
        raise UsageError(f"the subject {subject!r} stands only inside a longer word in {text!r}; give the whole word")
    raise UsageError(f"the subject {subject!r} does not stand in {text!r}; check spelling and capitals")


def stands_in(text: str, subject: str) -> bool:
    """Whether the text names the subject in whole words, once or more often."""
    return subject in text and bool(_occurrences(text, subject)[0])


@dataclass(frozen=True)
class TokenisedPrompt:
    """A prompt as the model sees it.

    Args:
        prompt: where it came from.
        ids: token ids of the sentence (BOS in front where the tokenizer adds one), without the answer.
        subject: token span [start, end) of the subject.
        answer_ids: ids of the answer as it continues the sentence; empty when the prompt has no answer.
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
    answer_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    exact: bool = True
    mentions: int = 1
    decoder: TokenisedPrompt | None = None

    @property
    def patched(self) -> TokenisedPrompt:
        """The tokens of the stack that is patched."""
        return self if self.decoder is None else self.decoder

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
    return TokenisedPrompt(prompt, ids, (len(ids) - 1, len(ids) - 1), (), tokens)


def encode(
    tokenizer: PreTrainedTokenizerBase, text: str, *, closed: bool = False
) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids and their character spans; BOS stays where the tokenizer adds one.

    A closing EOS is dropped unless `closed`: a decoder would not go on after it, an encoder is used to it.
    """
    if not tokenizer.is_fast:
        raise UsageError(
            f"{type(tokenizer).__name__} gives no character offsets; load the fast tokenizer of this model instead"
        )
    out = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, padding=False)
    ids, offsets, special = list(out["input_ids"]), list(out["offset_mapping"]), out["special_tokens_mask"]
    while not closed and ids and special[len(ids) - 1] and offsets[-1][1] <= offsets[-1][0] and len(ids) > 1:
        ids.pop()
        offsets.pop()
    return ids, [(int(a), int(b)) for a, b in offsets]


def needs_space(text: str, answer: str) -> bool:
    """Whether a space belongs between a text and the answer that continues it.

    It does where the answer begins with a letter or digit of a script with spaces, unless the text ends with a space,
    an opening bracket or quote, a hyphen or dash that hangs on its word, or a script without spaces.
    """
    if not text or not is_spaced_letter(answer[0]):
        return False
    end, before = text[-1], text[-2:-1]
    kind = unicodedata.category(end)
    if end.isspace() or kind == "Ps" or unicodedata.name(end, "").startswith(_UNSPACED):
        return False
    after_gap = not before or before.isspace() or unicodedata.category(before) == "Ps"
    if kind in ("Pi", "Pf") or end in "\"'":  # one mark may open here and close there
        return not after_gap
    if kind == "Pd":
        return after_gap
    return True


def answer_ids(tokenizer: PreTrainedTokenizerBase, text: str, answer: str) -> tuple[int, ...]:
    """Ids of an answer as it continues the text, after a space where one belongs (`needs_space`).

    Raises:
        UsageError: the vocabulary cannot spell the answer.
    """
    tail = (" " if needs_space(text, answer) else "") + answer
    prefix, _ = encode(tokenizer, text)
    whole, offsets = encode(tokenizer, text + tail)
    if whole[: len(prefix)] == prefix:
        ids = whole[len(prefix) :]
    else:  # a merge across the border: score the answer as a word of its own, as the published code does
        ids = list(tokenizer(tail, add_special_tokens=False)["input_ids"])
    if not ids or _leaves_out(text + tail, offsets) or _has_unknown(tokenizer, ids, tail):
        raise UsageError(f"the answer {answer!r} cannot be spelt in this model's vocabulary; choose another answer")
    return tuple(ids)


def lone_answer_ids(tokenizer: PreTrainedTokenizerBase, answer: str) -> tuple[int, ...]:
    """Ids of an answer that is a text of its own, as an encoder-decoder gives it.

    Raises:
        UsageError: the vocabulary cannot spell the answer.
    """
    ids = list(tokenizer(answer, add_special_tokens=False)["input_ids"])
    if not ids or _leaves_out(answer, encode(tokenizer, answer)[1]) or _has_unknown(tokenizer, ids, answer):
        raise UsageError(f"the answer {answer!r} cannot be spelt in this model's vocabulary; choose another answer")
    return tuple(ids)


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
    if _leaves_out(text, offsets):
        raise UsageError(
            f"this model's vocabulary cannot spell all of {text!r} and leaves letters out, so that no token's place is "
            "certain; choose other words"
        )
    inside = [i for i, (a, b) in enumerate(offsets) if b > a and b > start and a < end]
    # Some tokenizers give a word's leading space as a token of its own that only touches the subject's border.
    if not inside:
        raise UsageError(f"no token of {text!r} covers the subject {prompt.subject!r}; the vocabulary cannot spell it")
    first, last = inside[0], inside[-1]
    if _has_unknown(tokenizer, ids[first : last + 1], prompt.subject):
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
    answer: tuple[int, ...] = ()
    if prompt.answer is not None and for_encoder:
        answer = lone_answer_ids(tokenizer, prompt.answer)
    elif prompt.answer is not None:
        answer = answer_ids(tokenizer, text, prompt.answer)
    return TokenisedPrompt(
        prompt=prompt,
        ids=tuple(ids),
        subject=(first, last + 1),
        answer_ids=answer,
        tokens=tuple(str(tokenizer.decode([i])) for i in ids),
        exact=not before.strip() and not after,
        mentions=len({(start, end), *_occurrences(text, prompt.subject)[0]}),
    )


def _has_unknown(tokenizer: PreTrainedTokenizerBase, ids: list[int], text: str) -> bool:
    """Whether an unknown-token id stands in for letters (GPT-2 shares that id with the end of text: then it cannot)."""
    unknown = tokenizer.unk_token_id
    return unknown is not None and unknown in ids and str(tokenizer.unk_token) not in text


def _leaves_out(text: str, offsets: list[tuple[int, int]]) -> bool:
    """Whether letters or digits of the text are in no token.

    A BPE without an unknown token leaves out what it cannot spell and counts the offsets of all that follows too low,
    so that letters at the end of the text are the ones that seem to be missing.
    """
    covered = {at for start, end in offsets for at in range(start, end)}
    return any(char.isalnum() and at not in covered for at, char in enumerate(text))
