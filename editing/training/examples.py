"""What networks are trained on, made of facts: an edit, the same in other words, and texts that it must not touch."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import UsageError
from ...facts.prompts import Fact, Prompt

Pair = tuple[Prompt, str]
"""A prompt, and what is to follow."""

_LEAST = 4
"""Subjects without which there is nothing to learn from and to validate on."""


@dataclass(frozen=True)
class Drawn:
    """Some edits, each with one rephrase and one other text."""

    edits: tuple[Pair, ...]
    rephrases: tuple[Pair, ...]
    others: tuple[Pair, ...]


@dataclass(frozen=True, eq=False)
class Examples:
    """Facts of some subjects, and how edits are drawn of them.

    The target is one that some fact of the same relation asks for, or the fact's own; the rephrase one of the fact's
    paraphrases; the other text a neighbour or another fact of the same subject, half of the time, or a fact of another
    subject with its true answer.
    """

    facts: tuple[Fact, ...]

    def draw(self, count: int, place: str) -> Drawn:
        """Edits of different subjects; the same for the same place, whatever was drawn before."""
        chance = random.Random(f"examples {place}")
        chosen: list[Fact] = []
        subjects: set[str] = set()
        for fact in chance.sample(self.facts, len(self.facts)):
            if len(chosen) < count and fact.prompt.subject not in subjects:
                chosen.append(fact)
                subjects.add(fact.prompt.subject)
        edits, rephrases, others = [], [], []
        for fact in chosen:
            target = self._target(fact, chance)
            edits.append((fact.prompt, target))
            words = chance.choice(fact.paraphrases).text
            rephrases.append((_asked(words, fact.prompt), target))
            others.append(self._other(fact, chance))
        return Drawn(tuple(edits), tuple(rephrases), tuple(others))

    def _target(self, fact: Fact, chance: random.Random) -> str:
        relation = fact.prompt.relation
        known = {other.target_new for other in self.facts if relation and other.prompt.relation == relation}
        choices = sorted(one for one in known | {fact.target_new} if one and one != fact.prompt.answer)
        return chance.choice(choices)

    def _other(self, fact: Fact, chance: random.Random) -> Pair:
        near = [(_asked(one.text, None), one.answer) for one in fact.neighbourhood if one.answer]
        near += [(one, one.answer) for one in fact.same_subject if one.answer]
        if near and chance.random() < 0.5:
            return chance.choice(near)
        while True:
            other = chance.choice(self.facts)
            if other.prompt.subject != fact.prompt.subject and other.prompt.answer:
                return other.prompt, other.prompt.answer


def _asked(text: str, like: Prompt | None) -> Prompt:
    """A sentence as a prompt; its subject plays no part in training."""
    escaped = text.replace("{", "").replace("}", "")
    subject = like.subject if like is not None and escaped.count(like.subject) == 1 else escaped.split()[0]
    return Prompt(escaped.replace(subject, "{}", 1), subject)


def split_subjects(facts: Sequence[Fact], share: float, seed: int) -> tuple[Examples, Examples]:
    """Facts to learn from and facts to validate on, no subject in both.

    Args:
        facts: with targets, answers and paraphrases; those without are left out.
        share: of subjects that are held out; which they are does not depend on the order of the facts.
        seed: of the split.

    Raises:
        UsageError: too few subjects that can be used.
    """
    usable = [
        fact
        for fact in facts
        if fact.target_new and fact.paraphrases and fact.prompt.answer and fact.target_new != fact.prompt.answer
    ]
    subjects = sorted(
        {fact.prompt.subject for fact in usable},
        key=lambda subject: hashlib.sha256(f"{seed} {subject}".encode()).hexdigest(),
    )
    if len(subjects) < _LEAST:
        raise UsageError(
            f"of {len(facts)} facts, those of {len(subjects)} subjects have a target_new, an answer and paraphrases; "
            f"training needs at least {_LEAST} such subjects"
        )
    held = set(subjects[: max(_LEAST // 2, round(share * len(subjects)))])
    return (
        Examples(tuple(fact for fact in usable if fact.prompt.subject not in held)),
        Examples(tuple(fact for fact in usable if fact.prompt.subject in held)),
    )
