"""Prompts, questions and facts put to a chat model: each in a user's turn, to be answered in the assistant's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from ..errors import UsageError
from .prompts import QUESTIONS, Fact, Prompt, Question
from .templates import Rendered, rendered

Said = TypeVar("Said", str, Prompt, Question, Fact)
"""What can stand in a turn."""


def in_chat(tokenizer: Any, said: Said) -> Said:
    """The same thing as a user says it, followed by the beginning of the assistant's turn.

    The places of subject and answer are kept; names in tables are those of the plain thing.

    Args:
        tokenizer: with a chat template.
        said: a text, a prompt, a question, or a fact with all its questions.

    Raises:
        UsageError: a tokenizer without a chat template, or something that is a chat already or none of these.
    """
    makers: dict[type, Callable[[Any, Any], Any]] = {str: _text, Prompt: _prompt, Question: _question, Fact: _fact}
    for kind, maker in makers.items():
        if isinstance(said, kind):
            made: Said = maker(tokenizer, said)
            return made
    raise UsageError(f"{said!r:.80} cannot be put to a chat model; give a text, a Prompt, a Question or a Fact")


def in_turns(tokenizer: Any, texts: Iterable[str]) -> Iterator[str]:
    """Running texts, each as a user's whole turn, with no reply begun."""
    for text in texts:
        found = _around(tokenizer, text, reply=False)
        yield found.before + text + found.after


def _around(tokenizer: Any, words: str, *, reply: bool = True) -> Rendered:
    return rendered(tokenizer, [{"role": "user", "content": words}], 0, reply=reply)


def _text(tokenizer: Any, text: str) -> str:
    found = _around(tokenizer, text)
    return found.before + text + found.after


def _prompt(tokenizer: Any, prompt: Prompt) -> Prompt:
    text, join, turn = _turned(tokenizer, prompt.template, prompt.turn)
    answer, foil = _bare(prompt.answer), _bare(prompt.foil)
    return replace(prompt, template=text, join=join, turn=turn, answer=answer, foil=foil)


def _question(tokenizer: Any, question: Question) -> Question:
    text, join, turn = _turned(tokenizer, question.text, question.turn)
    return replace(question, text=text, join=join, turn=turn, answer=_bare(question.answer))


def _turned(tokenizer: Any, words: str, turn: object) -> tuple[str, str | None, tuple[int, int]]:
    if turn is not None:
        raise UsageError(f"{words[-60:]!r} is a chat already; leave --chat (model.chat) out")
    found = _around(tokenizer, words)
    return found.before + words + found.after, found.join, (len(found.before), len(found.before) + len(words))


def _fact(tokenizer: Any, fact: Fact) -> Fact:
    asked: dict[str, Any] = {
        name: tuple(_question(tokenizer, one) for one in getattr(fact, name)) for name in QUESTIONS
    }
    return replace(
        fact,
        prompt=_prompt(tokenizer, fact.prompt),
        target_new=_bare(fact.target_new),
        same_subject=tuple(_prompt(tokenizer, one) for one in fact.same_subject),
        generation=tuple(_text(tokenizer, one) for one in fact.generation),
        portability=fact.portability.each(lambda one: _question(tokenizer, one)),
        **asked,
    )


def _bare(answer: str | None) -> str | None:
    """Without the space in front: what stands there in a chat is the template's business."""
    return None if answer is None else answer.removeprefix(" ")
