"""Metrics of running text: fluency and consistency of what an edited model writes, perplexity of what others wrote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pandas as pd

from ...editing.edits.row_edits import RowEdits
from ...errors import UsageError
from ...facts.prompts import Fact
from ...models.model import Model
from .answer_rows import AnswerRows
from .edit_metrics import AFTER, BEFORE
from .fluency import fluency
from .generation import Sampling, generate, generate_under_edits
from .references import References
from .row_scoring import score_under_edits
from .scoring import score_rows
from .under_edits import Applicable, Editor, Failed, carried_by_rows

Texts = list[list[str]]
"""Of each fact, its texts."""


@dataclass
class TextResult:
    """What one editor's texts gave.

    Args:
        values: (number of the fact, stage, metric, value, texts averaged).
        texts: (number of the fact, stage, prompt, text).
        absent: (metric, why) -> how many facts it is absent for.
    """

    values: list[tuple[int, str, str, float, int]] = field(default_factory=list)
    texts: list[tuple[int, str, str, str]] = field(default_factory=list)
    absent: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, other: TextResult) -> None:
        """That of more facts."""
        self.values += other.values
        self.texts += other.texts
        for key, count in other.absent.items():
            self.absent[key] = self.absent.get(key, 0) + count

    def missing(self, metric: str, why: str) -> None:
        """Count a fact that has no value of a metric."""
        self.absent[metric, why] = self.absent.get((metric, why), 0) + 1

    def long(self) -> pd.DataFrame:
        """The values as a long table."""
        return pd.DataFrame(self.values, columns=["fact", "stage", "metric", "value", "questions"])

    def notes(self, of: int) -> tuple[str, ...]:
        """What is absent, in sentences."""
        return tuple(f"{metric} is absent for {n} of {of} records: {why}" for (metric, why), n in self.absent.items())


@dataclass(frozen=True, eq=False)
class TextMetrics:
    """Which of GE, RS and perplexity to measure, and on what.

    Raises:
        UsageError: perplexity without texts to measure it on.
    """

    metrics: Sequence[str]
    references: References | None
    held_texts: tuple[str, ...]
    sampling: Sampling

    def __post_init__(self) -> None:
        if "perplexity" in self.metrics and not self.held_texts:
            raise UsageError("perplexity is measured on texts of your own; pass held_texts=[...]")

    def measure(
        self, model: Model, editors: Sequence[Editor], facts: Sequence[Fact], *, first: int
    ) -> list[TextResult]:
        """Before and after the edits of each editor; `first` is the number of the first fact.

        Of one edit of all facts, perplexity is one number: it stands with fact 0.
        """
        results = [TextResult() for _ in editors]
        if {"GE", "RS"} & set(self.metrics):
            prompts = [list(fact.generation) for fact in facts]
            unedited = _plain_texts(model, prompts, self.sampling)
            for editor, result in zip(editors, results, strict=True):
                edited = _edited_texts(model, editor, prompts, unedited, self.sampling)
                for i, fact in enumerate(facts):
                    self._judge(result, first + i, fact, {BEFORE: unedited[i], AFTER: edited[i]})
        if "perplexity" in self.metrics:
            rows = AnswerRows.of_texts(model, self.held_texts)
            for editor, result in zip(editors, results, strict=True):
                if isinstance(editor, Applicable) and first > 0:
                    continue
                before, after = _perplexities(model, editor, rows)
                for i, value in enumerate(after):
                    result.values += [
                        (first + i, stage, "perplexity", perplexity, len(self.held_texts))
                        for stage, perplexity in ((BEFORE, before), (AFTER, value))
                    ]
        return results

    def _judge(self, result: TextResult, number: int, fact: Fact, texts: dict[str, list[str]]) -> None:
        for metric in ("GE", "RS"):
            if metric in self.metrics:
                why = self._why_absent(metric, fact)
                if why:
                    result.missing(metric, why)
                    continue
                for stage, own in texts.items():
                    result.values.append((number, stage, metric, self._value(metric, fact, own), len(own)))
        for stage, own in texts.items():
            result.texts += [(number, stage, prompt, text) for prompt, text in zip(fact.generation, own, strict=True)]

    def _why_absent(self, metric: str, fact: Fact) -> str:
        if not fact.generation:
            return "they have no prompts to generate from"
        if metric == "RS" and self.references is None:
            return "no reference texts were given (references=...)"
        if metric == "RS" and self.references and not self.references.of(fact.relation, fact.target_new or ""):
            return "no reference text is about their relation and new object"
        return ""

    def _value(self, metric: str, fact: Fact, texts: list[str]) -> float:
        if metric == "GE":
            return fluency(texts)
        assert self.references is not None
        found = self.references.consistency(texts, fact.relation, fact.target_new or "")
        assert found is not None  # there are references, see _why_absent
        return found


def _plain_texts(model: Model, prompts: Texts, sampling: Sampling) -> Texts:
    """With the model as it stands; the random numbers of each fact's texts are its own, as under its edit."""
    groups = [i for i, own in enumerate(prompts) for _ in own]
    return _split(generate(model, _flat(prompts), sampling, groups=groups), prompts)


def _edited_texts(model: Model, editor: Editor, prompts: Texts, unedited: Texts, sampling: Sampling) -> Texts:
    if isinstance(editor, Applicable):
        with model.alone(), editor.on(model):
            return _plain_texts(model, prompts, sampling)
    found = list(unedited)  # stays so where there is no edit
    carried = {i: edit for i, edit in enumerate(editor) if carried_by_rows(edit)}
    if carried:
        own = [prompts[i] for i in carried]
        numbers = [number for number, of_fact in enumerate(own) for _ in of_fact]
        texts = generate_under_edits(model, _flat(own), numbers, RowEdits(list(carried.values())), sampling)
        for i, of_fact in zip(carried, _split(texts, own), strict=True):
            found[i] = of_fact
    for i, edit in enumerate(editor):
        if i not in carried and not isinstance(edit, Failed):
            with model.alone(), edit.on(model):
                found[i] = generate(model, prompts[i], sampling)
    return found


def _perplexities(model: Model, editor: Editor, rows: AnswerRows) -> tuple[float, list[float]]:
    """Of the unedited model, and under each edit (of one edit of all facts, one number)."""
    before = perplexity_of(score_rows(model, rows))
    if isinstance(editor, Applicable):
        with model.alone(), editor.on(model):
            return before, [perplexity_of(score_rows(model, rows))]
    found = [before] * len(editor)  # stays so where there is no edit
    carried = {i: edit for i, edit in enumerate(editor) if carried_by_rows(edit)}
    if carried:
        texts = len(rows.answers)
        asked = [(text, number) for number in range(len(carried)) for text in range(texts)]
        _, scores = score_under_edits(model, rows, RowEdits(list(carried.values())), asked)
        for number, i in enumerate(carried):
            found[i] = perplexity_of(scores.iloc[number * texts : (number + 1) * texts])
    for i, edit in enumerate(editor):
        if i not in carried and not isinstance(edit, Failed):
            with model.alone(), edit.on(model):
                found[i] = perplexity_of(score_rows(model, rows))
    return before, found


def perplexity_of(scores: pd.DataFrame) -> float:
    """exp of the mean negative log-probability per token, from the scores of whole texts."""
    return float(np.exp(-scores["joint_log_prob"].sum() / scores["tokens"].sum()))


def _flat(texts: Texts) -> list[str]:
    return [text for own in texts for text in own]


def _split(texts: Iterable[str], like: Texts) -> Texts:
    source = iter(texts)
    return [list(islice(source, len(own))) for own in like]
