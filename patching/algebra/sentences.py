"""Sources that are other sentences: one about another subject, one of the user's choice, one drawn from several."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...errors import UsageError
from ...facts.prompts import Fact, Prompt, prompt_of
from ...facts.words import check_spelling, check_subject, check_text
from ...given import is_several, seed_of, whole
from ...runs.hashing import json_hash, short
from .sources import Source

ALIGNED = ("position", "role")
"""How the tokens of two sentences are matched: by their number, or by token role and place within it."""

Saying = str | Prompt
"""A text, or a prompt, of which the subject is known too."""


@dataclass(frozen=True)
class Sentence(Source):
    """Base of the sources that read the activation of another sentence, at the token that is matched to each."""

    @property
    def aligned(self) -> str:
        """One of `ALIGNED`."""
        return "position"


@dataclass(frozen=True)
class OtherSubject(Sentence):
    """Symmetric token replacement: the activation from the same sentence about another subject (Zhang & Nanda 2024).

    Args:
        replacements: the other subject, or pairs (subject, other subject) when several prompts are run.  The two
            sentences must have the same token length and the same subject span.
    """

    replacements: str | tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        if isinstance(self.replacements, str):
            check_subject(self.replacements, "{}")
            return
        given = self.replacements
        pairs = given.items() if isinstance(given, Mapping) else given
        try:
            found = tuple((one, other) for one, other in pairs)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"OtherSubject takes another subject or pairs (subject, other subject), not {given!r:.60}"
            ) from error
        for pair in found:
            for word in pair:
                check_subject(word, "{}")
        object.__setattr__(self, "replacements", found)

    def prompt_for(self, prompt: Prompt) -> Prompt:
        """The prompt with the subject replaced.

        Raises:
            UsageError: no replacement for this subject.
        """
        if isinstance(self.replacements, str):
            other = self.replacements
        else:
            pairs = dict(self.replacements)
            if prompt.subject not in pairs:
                raise UsageError(f"there is no replacement for the subject {prompt.subject!r}; add it to OtherSubject")
            other = pairs[prompt.subject]
        return replace(prompt, subject=other)


@dataclass(frozen=True)
class OtherPrompt(Sentence):
    """The activation from another sentence, such as the ABC sentences of the IOI experiments (Wang et al. 2023).

    Args:
        others: the other sentence, a text or a prompt, or one for each prompt that is run: a mapping, or pairs, from
            prompts (or their names or texts) to sentences.
        by: "position", the tokens of one number, where both sentences have as many; or "role", the tokens of one role
            and the same place in it, of which both must have as many (the other sentences are then prompts).

    Raises:
        UsageError: something else; texts where roles are wanted.
    """

    others: Saying | Mapping[Any, Saying] | Sequence[tuple[Any, Saying]]
    by: str = "position"

    def __post_init__(self) -> None:
        given: Any = self.others
        if isinstance(given, (str, Prompt, Fact)):
            object.__setattr__(self, "others", _saying(given, self.by, "OtherPrompt"))
            return
        pairs = given.items() if isinstance(given, Mapping) else given
        try:
            found = tuple((one, other) for one, other in pairs)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"OtherPrompt takes another sentence, or pairs (prompt, other sentence), not {given!r:.60}"
            ) from error
        named = [(one if isinstance(one, str) else prompt_of(one).name, other) for one, other in found]
        object.__setattr__(
            self, "others", tuple((name, _saying(other, self.by, "OtherPrompt")) for name, other in named)
        )

    @property
    def aligned(self) -> str:
        return self.by

    @property
    def _pairs(self) -> dict[str, Saying]:
        """A prompt's name or text -> its other sentence."""
        pairs: Any = self.others
        return dict(pairs)

    def prompt_for(self, prompt: Prompt) -> Saying:
        """The other sentence.

        Raises:
            UsageError: there is none for this prompt.
        """
        if isinstance(self.others, (str, Prompt)):
            return self.others
        pairs = self._pairs
        for key in (prompt.name, prompt.text):
            if key in pairs:
                return pairs[key]
        raise UsageError(f"there is no other sentence for the prompt {prompt.name!r}; add it to OtherPrompt")

    def __str__(self) -> str:
        how = "" if self.by == "position" else f", by={self.by!r}"
        if isinstance(self.others, (str, Prompt)):
            return f"OtherPrompt({text_of(self.others)!r}{how})"
        return f"OtherPrompt({len(self._pairs)} sentences, {digest_of(self._pairs.values())}{how})"


@dataclass(frozen=True)
class Resample(Sentence):
    """The activation from a sentence that is drawn anew for every prompt and draw (resample ablation).

    All that is written in one draw comes from the same sentence, whichever site it is for.  A prompt does not stand in
    for itself.

    Args:
        texts: the sentences, texts or prompts.
        draws: how many are drawn for each prompt.
        seed: with the prompt's name, what decides which.
        by: how tokens are matched, see `OtherPrompt`.

    Raises:
        UsageError: no texts, one string in their place, no draws; texts where roles are wanted.
    """

    texts: Sequence[Saying]
    draws: int = 10
    seed: int = 0
    by: str = "position"

    def __post_init__(self) -> None:
        object.__setattr__(self, "texts", sayings_of(self.texts, self.by, "Resample"))
        object.__setattr__(self, "draws", whole(self.draws, "draws", least=1))
        object.__setattr__(self, "seed", seed_of(self.seed))

    @property
    def aligned(self) -> str:
        return self.by

    def drawn_for(self, prompt: Prompt) -> list[Saying]:
        """The sentence of each draw.

        Raises:
            UsageError: there is none but the prompt itself.
        """
        others = [one for one in self.texts if text_of(one) != prompt.text]
        if not others:
            raise UsageError(f"Resample has no sentence besides {prompt.text!r} itself; give others")
        key = f"{self.seed}\0{prompt.name}"
        digests = (hashlib.sha256(f"{key}\0{draw}".encode()).digest() for draw in range(self.draws))
        return [others[int.from_bytes(digest[:8], "big") % len(others)] for digest in digests]

    def __str__(self) -> str:
        how = "" if self.by == "position" else f", by={self.by!r}"
        texts = f"{len(self.texts)} sentences, {digest_of(self.texts)}"
        return f"Resample({texts}, draws={self.draws}, seed={self.seed}{how})"


def text_of(saying: Saying) -> str:
    """Its words."""
    return saying if isinstance(saying, str) else saying.text


def digest_of(sayings: Iterable[Saying]) -> str:
    """What tells these from other sentences, in twelve digits."""
    return short(json_hash([text_of(one) for one in sayings]))


def sayings_of(given: Any, by: str, name: str) -> tuple[Saying, ...]:
    """Several texts or prompts.

    Raises:
        UsageError: none, one string, something else among them; texts where roles are wanted.
    """
    if isinstance(given, (str, bytes)) or not is_several(given):
        what = "one string" if isinstance(given, (str, bytes)) else f"{given!r:.60}, which is no list of texts"
        raise UsageError(f"texts is {what}; give {name} a list of texts or prompts")
    found = tuple(_saying(one, by, name) for one in given)
    if not found:
        raise UsageError(f"{name} needs texts, and there are none; give at least one")
    return found


def _saying(given: Any, by: str, name: str) -> Saying:
    if by not in ALIGNED:
        raise UsageError(f"{name} matches tokens by {' or '.join(ALIGNED)}, not {by!r:.40}")
    if isinstance(given, str):
        if by == "role":
            raise UsageError(f"the roles of tokens need a subject, and {given!r:.60} is a text; give {name} prompts")
        check_spelling(given, f"a text of {name}")
        check_text(given, f"a text of {name}")
        return given
    return prompt_of(given)
