"""Prompts with their answers as token ids, and which of them can share a forward."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import UsageError
from ...facts.prompts import Prompt
from ...facts.spans import TokenisedPrompt
from ...models.model import Model


@dataclass(eq=False)
class Asked:
    """A prompt with its answer, ready to run: `ids` are its tokens and, behind them, all answer tokens but the last."""

    prompt: TokenisedPrompt
    answer: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return self.prompt.ids + self.answer[:-1]


def ask(model: Model, prompts: Sequence[Prompt], *, answer_from_model: bool = False) -> list[Asked]:
    """Tokenise prompts; those without an answer (or all, `answer_from_model`) get the model's own next token.

    Raises:
        UsageError: see `Model.tokenise`.
    """
    asked = []
    for prompt in prompts:
        if not isinstance(prompt, Prompt):
            raise UsageError(f"{prompt!r} is no prompt; give Prompt(template, subject) or Prompt.find(text, subject)")
        tokenised = model.tokenise(prompt)
        answer = tokenised.answer_ids
        if answer_from_model or not answer:
            answer = (model.next_token(tokenised.ids),)
        asked.append(Asked(tokenised, answer))
    return asked


def buckets(asked: Sequence[Asked], size: int) -> list[list[int]]:
    """Indices of prompts grouped by their tokens and their answers' tokens, at most `size` in a group."""
    by_length: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, one in enumerate(asked):
        by_length[len(one.ids), len(one.answer)].append(index)
    return [group[i : i + size] for _, group in sorted(by_length.items()) for i in range(0, len(group), size)]
