"""Prompts with their answers as token ids, and which of them can share a forward."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ...facts.encoding import has_unknown
from ...facts.prompts import Prompts, prompts_of
from ...facts.spans import TokenisedPrompt
from ...facts.words import check_answer
from ...models.model import Model
from .sinks import first_token_sinks, told


@dataclass(eq=False)
class Asked:
    """A prompt with its answer, ready to run: `ids` are its tokens and, behind them, all answer tokens but the last."""

    prompt: TokenisedPrompt
    answer: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return self.prompt.ids + self.answer[:-1]


def ask(model: Model, prompts: Prompts, *, answer_from_model: bool = False) -> list[Asked]:
    """Tokenise prompts; those without an answer (or all, `answer_from_model`) get the model's own next token.

    Raises:
        UsageError: something that is no prompt and has none; see `Model.tokenise`.
    """
    asked = []
    for prompt in prompts_of(prompts):
        tokenised = model.tokenise(prompt)
        answer = tokenised.answer_ids
        if answer_from_model or not answer:
            answer = (model.next_token(tokenised.ids),)
        asked.append(Asked(tokenised, answer))
    return asked


def check_foil(foil: object) -> None:
    """Refuse a foil that is no words; None stands for the strongest competitor.

    Raises:
        UsageError: no text, an empty one, or one with blanks around it.
    """
    if foil is not None:
        check_answer(foil, "the foil", "give a word, or None for the answer's strongest competitor")


def warnings_of(model: Model, asked: Asked, foil: str | None = None) -> tuple[str, ...]:
    """What to know of a prompt before believing its numbers."""
    tokenised, found = asked.prompt, []
    text = tokenised.prompt.text
    if tokenised.mentions > 1:
        found.append(
            f"{text!r} names its subject {tokenised.mentions} times; only the one at the template's '{{}}' is corrupted"
        )
    if not tokenised.exact:
        found.append(f"the last subject token of {text!r} also holds what follows the subject")
    if has_unknown(model.tokenizer, model.pieces(text), text):
        found.append(
            f"the tokenizer cannot spell all of {text!r}: what it has no tokens for, the model reads as "
            f"{model.tokenizer.unk_token!r}"
        )
    scored = [] if tokenised.answer is None else [("answer", tokenised.answer)]
    scored += [] if foil is None else [("foil", model.continuation(tokenised.prompt, foil))]
    for name, answer in scored:
        if not answer.splits:
            found.append(
                f"the {name} {answer.text!r} merges with the end of {text!r}: given both as one text, the tokenizer "
                "does not split them there, so the model has hardly seen these tokens in a row"
            )
    return tuple(found)


def sink_warning(model: Model, asked: Sequence[Asked]) -> tuple[str, ...]:
    """What to know where the corruption of a subject is that of the attention sink."""
    first = [one for one in asked if one.prompt.subject == (0, one.prompt.subject[1]) and one.prompt.subject[1]]
    sinks = first_token_sinks(model) if first else {}
    if not sinks:
        return ()
    return (
        f"in {len(first)} of {len(asked)} prompts the subject begins at position 0, where {model.name} has its "
        f"attention sink ({told(sinks)}): corrupting the subject corrupts the sink; load it with a token in front of "
        "every text (prepend='bos' or 'eos', --prepend), or look at these prompts apart",
    )


def buckets(asked: Sequence[Asked], size: int) -> list[list[int]]:
    """Indices of prompts grouped by their tokens and their answers' tokens, at most `size` in a group."""
    by_length: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, one in enumerate(asked):
        by_length[len(one.ids), len(one.answer)].append(index)
    return [group[i : i + size] for _, group in sorted(by_length.items()) for i in range(0, len(group), size)]
