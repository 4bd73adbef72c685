"""Which facts a model knows: those whose whole answer it says by itself."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from ...errors import UsageError
from ...facts.prompts import Fact, Facts, Question, facts_of
from ...models.model import Model
from ...public import public
from ...runs.progress import progress_bar
from .scoring import score_answers

_AT_ONCE = 256
"""Facts that are asked between two looks at whether that is enough."""


@public
def known(model: Model, facts: Facts, *, batch_size: int = 64, progress: bool = True) -> pd.DataFrame:
    """Ask a model facts, and say which it completes right.

    A fact is known where greedy decoding says the whole answer: every token of it is the most probable one behind the
    prompt and the answer's tokens before.

    Args:
        model: the model.
        facts: each with an answer.
        batch_size: rows per forward; changes memory and speed, never the numbers.
        progress: show a bar.

    Returns:
        One row per fact, in order: id, text, answer, known, prob (of the whole answer), said (the most probable tokens
        in the answer's places).

    Raises:
        UsageError: a fact without an answer, or one that cannot be asked.
    """
    asked = facts_of(facts)
    frames = list(_asked(model, asked, batch_size, progress=progress))
    return pd.concat(frames, ignore_index=True) if frames else _frame(model, [], pd.DataFrame())


@public
def some_known(
    model: Model, facts: Sequence[Fact], limit: int, *, seed: int = 0, batch_size: int = 64, progress: bool = True
) -> tuple[list[Fact], int]:
    """A seeded sample of known facts, found by asking in random order until there are enough.

    Args:
        model: the model.
        facts: each with an answer.
        limit: how many are wanted.
        seed: of the order.
        batch_size, progress: as of `known`.

    Returns:
        The known ones (fewer where there are no more), in the order in which they were asked, and how many were asked.
    """
    order = random.Random(seed).sample(list(facts), len(facts))
    found: list[Fact] = []
    asked = 0
    for frame in _asked(model, order, batch_size, progress=progress):
        here = order[asked : asked + len(frame)]
        found += [fact for fact, is_known in zip(here, frame["known"], strict=True) if is_known]
        asked += len(frame)
        if len(found) >= limit:
            break
    return found[:limit], asked


def _asked(model: Model, facts: Sequence[Fact], batch_size: int, *, progress: bool) -> Iterator[pd.DataFrame]:
    lacking = next((fact for fact in facts if fact.answer is None), None)
    if lacking is not None:
        raise UsageError(f"the fact {lacking.prompt.text!r} has no answer, so nobody can say whether it is known")
    with progress_bar("facts asked", len(facts), shown=progress) as advance:
        for start in range(0, len(facts), _AT_ONCE):
            some = facts[start : start + _AT_ONCE]
            scores = score_answers(model, [Question.of(fact.prompt) for fact in some], batch_size=batch_size)
            advance(len(some))
            yield _frame(model, some, scores)  # last: whoever has enough stops here


def _frame(model: Model, facts: Sequence[Fact], scores: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": [fact.id for fact in facts],
            "text": [fact.prompt.text for fact in facts],
            "answer": [fact.answer for fact in facts],
            "known": np.array([bool(one) for one in scores.get("correct", ())], dtype=bool),
            "prob": np.array(list(scores.get("joint_prob", ())), dtype=float),
            "said": [model.decode(list(tokens)).strip() for tokens in scores.get("top", ())],
        }
    )
