"""Texts and answers as rows of token ids, and the sheet their scores are entered on.

Rows of equal length make a batch, so no padding and no mask stands between the model and its own numbers, and a batch
of n is n single runs.  Answers after one text whose inputs agree (two answers of one token each) share a row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from ...errors import MechinterpError, UsageError
from ...facts.prompts import Question
from ...forwards.readout import read
from ...forwards.unembedding import FinalStates, Logits
from ...given import texts_of, whole
from ...models.asking import PromptEnds
from ...models.model import Model

Ids = tuple[int, ...]

_MAX_KEPT = 1024
"""Positions with logits in one forward: with a vocabulary of 50,000 these are 200 MB."""

_AT_ONCE = 256
"""Positions whose log-probabilities are taken in float64 together."""


@dataclass(frozen=True, eq=False)
class AnswerRows:
    """What goes into the model, and what is read off.

    Args:
        names: (text, answer) of each answer, for messages.
        scored: each answer as it is scored behind its text, with the space in front of it.
        splits: whether the tokenizer splits text and answer at the border (`facts.answers.Continuation`).
        answers: token ids of each answer.
        row: the row each answer is read from; it ends where the last token of its longest answer is predicted.
        ids: token ids of each row.
        ends: where the text of each row ends.
        asked: the question of each answer; none of whole texts.
    """

    names: list[tuple[str, str]]
    scored: list[str]
    splits: list[bool]
    answers: list[Ids]
    row: list[int]
    ids: list[Ids]
    ends: list[int]
    asked: list[Question]

    @staticmethod
    def of(model: Model, asked: Iterable[Question]) -> AnswerRows:
        """Answers as continuations of texts; an answer gets its leading space where it needs one.

        Raises:
            UsageError: a question without an answer, or too long for the model with it, or an answer the vocabulary
                cannot spell.
        """
        questions, names, found, scored = [], [], [], []
        prefixes: dict[str, Ids] = {}
        for one in asked:
            text, answer = model.framed(one).text, one.answer
            if answer is None:
                raise UsageError(f"{text[-60:]!r} has no answer to be scored; give one")
            if text not in prefixes:
                prefixes[text] = tuple(model.encode(text))
            behind = model.continuation(one, answer)
            ids = prefixes[text] + behind.ids[:-1]  # the answer's last token predicts nothing
            if len(ids) > model.n_ctx:
                raise UsageError(
                    f"{text[:60]!r}... with {answer!r} has {len(ids)} tokens; {model.name} takes {model.n_ctx}"
                )
            questions.append(one)
            names.append((text, answer))
            found.append((ids, len(prefixes[text]) - 1, behind.ids))
            scored.append(behind)
        texts, splits = [one.text for one in scored], [one.splits for one in scored]
        return AnswerRows._of(names, texts, splits, found, questions)

    @staticmethod
    def of_texts(model: Model, texts: Iterable[str]) -> AnswerRows:
        """Whole texts as answers to their own first tokens, cut at the model's context; for perplexity.

        Raises:
            UsageError: no text has two tokens, or one string in place of texts.
        """
        names, found = [], []
        for text in texts_of(texts, "texts"):
            ids = tuple(model.encode(text)[: model.n_ctx])
            if len(ids) > 1:
                names.append(("", text))
                found.append((ids[:-1], len(ids) - 2, ids[1:]))
        if not found:
            raise UsageError("perplexity needs a text of at least two tokens; none was given")
        return AnswerRows._of(names, [text for _, text in names], [True] * len(names), found, [])

    def of_model(self, model: Model, answers: Sequence[int] | None = None) -> AnswerRows:
        """The same answers, or some of them by number, as this model is asked: an edit of the input adds tokens."""
        return AnswerRows.of(model, self.asked if answers is None else [self.asked[answer] for answer in answers])

    @staticmethod
    def _of(
        names: list[tuple[str, str]],
        scored: list[str],
        splits: list[bool],
        found: list[tuple[Ids, int, Ids]],
        asked: list[Question],
    ) -> AnswerRows:
        place: dict[tuple[Ids, int], int] = {}
        row = [place.setdefault((ids, end), len(place)) for ids, end, _ in found]
        answers, ids, ends = [answer for _, _, answer in found], [ids for ids, _ in place], [end for _, end in place]
        return AnswerRows(names, scored, splits, answers, row, ids, ends, asked)

    def prompts(self, rows: Sequence[int]) -> PromptEnds:
        """Where the texts of some rows end."""
        return PromptEnds(torch.tensor([self.ends[row] for row in rows]))

    def batches(self, size: int) -> Iterator[tuple[list[int], int]]:
        """Rows of one length that make a forward, with the number of last positions that are read.

        Raises:
            UsageError: batches of less than one row.
        """
        size = whole(size, "batch_size")
        if size < 1:
            raise UsageError(f"batch_size={size} scores nothing; give 1 or more")
        longest = [0] * len(self.ids)
        for row, answer in zip(self.row, self.answers, strict=True):
            longest[row] = max(longest[row], len(answer))
        by_length: dict[int, list[int]] = defaultdict(list)
        for row, ids in enumerate(self.ids):
            by_length[len(ids)].append(row)
        for same in by_length.values():
            same.sort(key=longest.__getitem__)  # long answers together: a batch keeps as many positions as its longest
            start = 0
            while start < len(same):
                keep = longest[same[min(start + size, len(same)) - 1]]
                batch = same[start : start + min(size, max(1, _MAX_KEPT // keep))]
                yield batch, longest[batch[-1]]
                start += len(batch)


class Sheet:
    """Log-probability and most probable token of every token of many answers.

    Args:
        rows: the answers.
        entries: the answer of each entry; an answer may be entered several times (under several edits).
    """

    def __init__(self, rows: AnswerRows, entries: Sequence[int]) -> None:
        self._rows, self._entries = rows, entries
        self.tokens = np.array([len(rows.answers[answer]) for answer in entries], dtype=np.int64)
        self._start = np.concatenate([[0], np.cumsum(self.tokens)]).astype(np.int64)
        self._ids = np.array([token for answer in entries for token in rows.answers[answer]], dtype=np.int64)
        self.log_probs = np.full(len(self._ids), np.nan)
        self.top = np.full(len(self._ids), -1, dtype=np.int64)
        self.top_log_probs = np.full(len(self._ids), np.nan)

    def enter(self, logits: Logits, pairs: Sequence[tuple[int, int]]) -> None:
        """Enter what a forward gave.

        Args:
            logits: of the last positions of each row, [row, kept, vocab], or what they are made of.
            pairs: (entry, row of this forward it is read from).
        """
        kept = logits.shape[1]
        where = np.concatenate([np.arange(self._start[entry], self._start[entry + 1]) for entry, _ in pairs])
        cells = np.concatenate(
            [row * kept + np.arange(kept - self.tokens[entry], kept) for entry, row in pairs]
        )  # answers of one row share positions: each is turned into log-probabilities once
        distinct, place = np.unique(cells, return_inverse=True)
        flat = logits.flatten(0, 1)
        for start in range(0, len(distinct), _AT_ONCE):
            chosen = np.flatnonzero((place >= start) & (place < start + _AT_ONCE))
            at = torch.from_numpy(distinct[start : start + _AT_ONCE]).to(flat.device)
            picked = flat[at]
            found = read(
                picked if isinstance(picked, FinalStates) else picked.double().cpu(),
                torch.from_numpy(place[chosen] - start),
                torch.from_numpy(self._ids[where[chosen]]),
                top=True,
            )
            self.log_probs[where[chosen]] = found.log_probs.double().cpu().numpy()
            self.top[where[chosen]] = found.top.cpu().numpy()[place[chosen] - start]
            self.top_log_probs[where[chosen]] = found.top_log_probs.double().cpu().numpy()[place[chosen] - start]

    def frame(self) -> pd.DataFrame:
        """One row per entry: tokens, log_prob, joint_log_prob, prob, joint_prob, correct, accuracy, top, top_prob,
        scored, splits.

        Raises:
            MechinterpError: a log-probability that is not finite.
        """
        broken = np.flatnonzero(~np.isfinite(self.log_probs))
        if len(broken):
            text, answer = self._rows.names[self._entries[int(np.searchsorted(self._start, broken[0], "right")) - 1]]
            raise MechinterpError(
                f"the model gives no finite probability to {answer!r} after {text!r}; its weights or an edit are broken"
            )
        joint = self._sums(self.log_probs)
        accuracy = self._sums(self.top == self._ids) / self.tokens
        mean = joint / self.tokens
        return pd.DataFrame(
            {
                "tokens": self.tokens,
                "log_prob": mean,
                "joint_log_prob": joint,
                "prob": np.exp(mean),
                "joint_prob": np.exp(joint),
                "correct": accuracy == 1,
                "accuracy": accuracy,
                "top": [tuple(part.tolist()) for part in np.split(self.top, self._start[1:-1])] if len(mean) else [],
                "top_prob": np.exp(self.top_log_probs[self._start[:-1]]),
                "scored": [self._rows.scored[answer] for answer in self._entries],
                "splits": [self._rows.splits[answer] for answer in self._entries],
            }
        )

    def _sums(self, values: np.ndarray) -> np.ndarray:
        """Sums over the tokens of each entry."""
        return np.add.reduceat(values.astype(float), self._start[:-1]) if len(values) else np.zeros(0)
