"""MeLLo: a question over several hops, answered with edited facts from a memory (Zhong et al. 2023, figure 3).

The language model writes a subquestion and a tentative answer; the memory gives the nearest fact; the model says
whether the fact contradicts its answer, and goes on, until it says "Final answer:".  Every round stands in a transcript
that a person can read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from ...editing.edits.inputs import Recalled
from ...editing.edits.request import EditRequest
from ...editing.stores.embedding import Embed, embedder
from ...editing.stores.retrieval import Near
from ...errors import UsageError
from ...facts.prompts import Prompt
from ...models.asking import PromptEnds
from ...models.model import Model
from ...patching.plain.executor import forward
from ...public import public
from ...runs.files import reading

Write = Callable[[str], str]
"""Gives what the language model writes after a text, up to (and without) the mark of a retrieved fact."""
MARK = "Retrieved fact:"
FINAL, SUB = "Final answer: ", "Subquestion: "
ROUNDS = 4
"""Generations for one phrasing; a fact that is found after the last is read by nobody."""


@dataclass(frozen=True)
class HopQuestion:
    """A question over several facts.

    Args:
        phrasings: ways to ask it; one right answer is enough.
        answers: the answer after the edits, and its aliases.
        edits: what is edited.
    """

    phrasings: tuple[str, ...]
    answers: tuple[str, ...]
    edits: tuple[EditRequest, ...] = ()


@dataclass(frozen=True)
class Round:
    """What was written, and the fact that was found for its subquestion; None where there was none to look for."""

    written: str
    fact: str | None = None


@dataclass(frozen=True)
class Transcript:
    """How one phrasing went.

    Args:
        question: as it was asked.
        rounds: in order.
        answer: what came of it; None where the form was broken or no end was found.
    """

    question: str
    rounds: tuple[Round, ...]
    answer: str | None

    def __str__(self) -> str:
        lines = [f"Question: {self.question}"]
        for one in self.rounds:
            lines.append(one.written.strip("\n"))
            lines += [] if one.fact is None else [f"{MARK} {one.fact}."]
        return "\n".join([*lines, f"=> {'no answer' if self.answer is None else self.answer}"])


@public
def mello_answer(question: str, task: str, write: Write, memory: Recalled, embed: Embed) -> Transcript:
    """Answer one phrasing.

    Args:
        question: what is asked.
        task: worked examples of the form, in words.
        write: the language model.
        memory: edited facts, and who finds them.
        embed: what embeds subquestions.

    Raises:
        UsageError: a memory that holds nothing.
    """
    if not len(memory.store):
        raise UsageError("the memory of MeLLo holds no fact; make it with the editor mello from the edits")
    prompt, rounds = f"{task}\n\nQuestion: {question}", list[Round]()
    for _ in range(ROUNDS):
        written = write(prompt)
        lines = written.strip().split("\n")
        if lines[-1].startswith(FINAL):
            return Transcript(question, (*rounds, Round(written)), lines[-1].removeprefix(FINAL))
        if len(lines) < 2 or not lines[-2].startswith(SUB):
            return Transcript(question, (*rounds, Round(written)), None)
        found = memory.retriever.find(memory.store, lines[-2].removeprefix(SUB), embed)
        fact = None if found is None else memory.store.entries[found.entry].text
        rounds.append(Round(written, fact))
        prompt += written + ("" if fact is None else f"{MARK} {fact}.")
    return Transcript(question, tuple(rounds), None)


@public
def mello_answers(
    questions: Iterable[HopQuestion], task: str, write: Write, memory: Recalled, embed: Embed
) -> tuple[list[list[Transcript]], list[bool]]:
    """Answer questions, phrasing by phrasing until one is right.

    Returns:
        The transcripts of each question, and whether it was answered: exactly, without normalisation, as published.
    """
    transcripts, right = [], []
    for question in questions:
        tried: list[Transcript] = []
        for phrasing in question.phrasings:
            tried.append(mello_answer(phrasing, task, write, memory, embed))
            if tried[-1].answer in question.answers:
                break
        transcripts.append(tried)
        right.append(tried[-1].answer in question.answers)
    return transcripts, right


def memory_embedder(model: Model, memory: Recalled) -> Embed:
    """What embeds subquestions for a memory that an editor has made."""
    near = memory.retriever if isinstance(memory.retriever, Near) else Near()
    return embedder(model, near.encoder, near.layer)


@public
def writer(model: Model, *, most: int = 60) -> Write:
    """The model as one that writes: the most probable token each time, until the mark of a retrieved fact.

    Args:
        model: the model, with whatever edits are on.
        most: tokens at most.
    """

    def write(prompt: str) -> str:
        ids = model.fitting(prompt)
        end, store = PromptEnds(torch.tensor([len(ids) - 1])), DynamicCache()
        past = {"past_key_values": store, "use_cache": True}
        new: list[int] = []
        fed, prompts = torch.tensor([ids]), end
        while len(new) < most and len(ids) + len(new) < model.n_ctx:
            token = int(forward(model, fed, past=past, prompts=prompts).logits[0, -1].argmax())
            if token == model.tokenizer.eos_token_id:
                break
            new.append(token)
            if MARK in (said := model.decode(new)):
                return said.split(MARK)[0]
            fed, prompts = torch.tensor([[token]]), PromptEnds(end.ends, going_on=True)
        return model.decode(new)

    return write


@public
def read_hop_questions(path: str | Path) -> list[HopQuestion]:
    """Questions of a file in the shape of MQuAKE-CF: a list of objects with `questions`, `new_answer`,
    `new_answer_alias` and `requested_rewrite` (each with `prompt`, `subject` and `target_new`).

    Raises:
        UsageError: no such file, or something else in it; which record.
    """
    source = Path(path)
    if not source.is_file():
        raise UsageError(f"there is no file of questions {str(source)!r}; check the path")
    with reading(source):
        text = source.read_text(encoding="utf-8")
    try:
        records: list[dict[str, Any]] = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{str(source)!r} is no JSON ({error})") from error
    return [_record(source, number, record) for number, record in enumerate(records)]


def _record(source: Path, number: int, record: dict[str, Any]) -> HopQuestion:
    try:
        edits = tuple(
            EditRequest(Prompt(one["prompt"], one["subject"]), one["target_new"]["str"])
            for one in record["requested_rewrite"]
        )
        answers: Sequence[str] = (record["new_answer"], *record.get("new_answer_alias", ()))
        return HopQuestion(tuple(record["questions"]), tuple(answers), edits)
    except (KeyError, TypeError) as error:
        raise UsageError(
            f"record {number} of {str(source)!r} has no {error}; it needs questions, new_answer and requested_rewrite "
            "(prompt, subject, target_new with str)"
        ) from error
