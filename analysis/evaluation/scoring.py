"""How probable a model finds given answers: teacher forcing, many questions at once, nothing padded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pandas as pd
import torch

from ...errors import UsageError
from ...facts.prompts import Fact, Prompt, Question, prompt_of
from ...forwards import unembedding
from ...models.asking import asking
from ...models.model import Model
from ...public import public
from .answer_rows import AnswerRows, Sheet

Pair = tuple[str | Question | Prompt | Fact, str] | Question | Prompt | Fact
"""A text and its answer."""


@public
def score_answers(model: Model, pairs: Iterable[Pair], *, batch_size: int = 64) -> pd.DataFrame:
    """Score answers as continuations of texts.

    Args:
        model: the model, edited or not.
        pairs: (text, answer), where a prompt may be the text; or questions and prompts with their answers.  An answer
            gets its leading space where it needs one.
        batch_size: rows per forward; changes memory and speed, never the numbers.

    Returns:
        One row per pair, in order: text, answer, tokens (how many the answer has); log_prob, the mean per
        answer token (nats), and prob = exp(log_prob), the "probability" of CounterFact's metrics;
        joint_log_prob and joint_prob, of the whole answer; correct, whether every answer token is the most
        probable one; accuracy, the share of answer tokens that are; top, the most probable token ids in their
        places; top_prob, the probability of the first of them; scored, the answer as it was scored behind the text,
        with the space in front of it; splits, whether the tokenizer splits text and answer at that border.

    Raises:
        UsageError: a pair too long for the model, or something that is none; batches of nothing.
        MechinterpError: the model's log-probabilities are not finite.
    """
    asked = [_question(pair) for pair in ([pairs] if isinstance(pairs, (Question, Prompt, Fact, str)) else pairs)]
    frame = score_rows(model, AnswerRows.of(model, asked), batch_size=batch_size)
    frame.insert(0, "text", pd.Series([one.text for one in asked], dtype=str))
    frame.insert(1, "answer", pd.Series([one.answer for one in asked], dtype=str))
    return frame


def _question(pair: object) -> Question:
    if isinstance(pair, Question):
        return pair
    if isinstance(pair, (Prompt, Fact)):
        return Question.of(prompt_of(pair))
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise UsageError(
            f"{pair!r:.80} is no pair of a text and an answer; give a list such as [('Rome is in', 'Italy')]"
        )
    text, answer = pair
    if isinstance(text, (Question, Prompt, Fact)):
        return replace(text if isinstance(text, Question) else Question.of(prompt_of(text)), answer=answer)
    return Question(text, answer)


def score_rows(model: Model, rows: AnswerRows, *, batch_size: int = 64) -> pd.DataFrame:
    """The scores of tokenised answers, as `score_answers` gives them, without the words."""
    sheet = Sheet(rows, range(len(rows.answers)))
    read = _answers_of(rows)
    for batch, keep in rows.batches(batch_size):
        ids = torch.tensor([rows.ids[row] for row in batch])
        with model.alone(), asking(model, rows.prompts(batch)):
            logits = unembedding.run(model, ids, **model.arguments(keep))[:, -keep:]
        sheet.enter(logits, [(answer, i) for i, row in enumerate(batch) for answer in read[row]])
    return sheet.frame()


def _answers_of(rows: AnswerRows) -> list[list[int]]:
    """The answers that are read from each row."""
    found: list[list[int]] = [[] for _ in rows.ids]
    for answer, row in enumerate(rows.row):
        found[row].append(answer)
    return found
