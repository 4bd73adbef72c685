"""Prompts with their answers as token ids, and which of them can share a forward."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from ...errors import UsageError
from ...facts.encoding import has_unknown
from ...facts.prompts import Prompt, Prompts, prompts_of
from ...facts.spans import TokenisedPrompt
from ...facts.words import check_answer
from ...given import is_several
from ...models.model import Model
from .sinks import first_token_sinks, told

Foils = str | Sequence[str | None] | None
"""The answer that the logit difference compares with: one for all prompts, one for each, or None for their own."""


@dataclass(eq=False)
class Asked:
    """A prompt with its answer, ready to run: `ids` are its tokens and, behind them, all answer tokens but the last.

    `foil` is the answer that it is compared with, None where that is chosen when it is run.
    """

    prompt: TokenisedPrompt
    answer: tuple[int, ...]
    foil: str | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        return self.prompt.ids + self.answer[:-1]


def ask(model: Model, prompts: Prompts, *, answer_from_model: bool = False, foil: Foils = None) -> list[Asked]:
    """Tokenise prompts; those without an answer (or all, `answer_from_model`) get the model's own next token.

    Args:
        model: the model.
        prompts: one or several.
        answer_from_model: whether all are scored by the model's own answer.
        foil: one for all prompts, or one for each; None: the prompts' own.

    Raises:
        UsageError: something that is no prompt and has none; other foils than prompts; see `Model.tokenise`.
    """
    asked = []
    given = prompts_of(prompts)
    for prompt, other in zip(given, _foils(foil, given, several=is_several(prompts)), strict=True):
        tokenised = model.tokenise(prompt)
        answer = tokenised.answer_ids
        if answer_from_model or not answer:
            answer = (model.next_token(tokenised.ids),)
        asked.append(Asked(tokenised, answer, other))
    return asked


def check_foil(foil: object) -> Foils:
    """A foil, or a list of them, one for each prompt; None stands for the prompt's own.

    Raises:
        UsageError: no text, an empty one, or one with blanks around it.
    """
    if not isinstance(foil, (str, bytes, Mapping, Set)) and is_several(foil):
        each = tuple(foil)
        for one in each:
            check_foil(one)
        return each
    if foil is None:
        return None
    check_answer(foil, "the foil", "give a word, or None for the prompt's own or its strongest competitor")
    return str(foil)


def _foils(foil: Foils, prompts: Sequence[Prompt], *, several: bool) -> list[str | None]:
    """The foil of each prompt."""
    checked = check_foil(foil)
    if checked is None or isinstance(checked, str):
        return [checked or prompt.foil for prompt in prompts]
    if not several or len(checked) != len(prompts):
        there = f"{len(prompts)}" if several else "one and no list"
        raise UsageError(
            f"the foil is a list of {len(checked)}, the prompts are {there}; give one foil for each prompt"
        )
    return [one or prompt.foil for one, prompt in zip(checked, prompts, strict=True)]


def warnings_of(model: Model, asked: Asked) -> tuple[str, ...]:
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
    scored += [] if asked.foil is None else [("foil", model.continuation(tokenised.prompt, asked.foil))]
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
