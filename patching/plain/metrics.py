"""Metrics of the final logits, all from one pass.

| metric | unit | direction |
|---|---|---|
| prob | probability of the whole answer | up: the answer is more likely |
| log_prob | nats, summed over the answer's tokens | up |
| logit_diff | logits, answer minus foil where they first differ | up |
| rank | 0 = the model's first choice; the worst over the answer's tokens | down |
| kl | nats, KL(clean run || this run) of the next-token distribution | down: closer to the clean run |

Report probability and logit difference together: probability saturates and misses negative contributors (Zhang & Nanda
2024), a logit difference says nothing about the size of either logit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...forwards.readout import Compared, read
from ...forwards.unembedding import Logits, whole

METRICS = ("prob", "log_prob", "logit_diff", "rank", "kl")


@dataclass(frozen=True, eq=False)
class Scores:
    """The metrics of some rows (draws, or cells times draws); `own` are the user's, by their names."""

    prob: Float[np.ndarray, " rows"]
    log_prob: Float[np.ndarray, " rows"]
    logit_diff: Float[np.ndarray, " rows"]
    rank: Float[np.ndarray, " rows"]
    kl: Float[np.ndarray, " rows"]
    own: Mapping[str, Float[np.ndarray, " rows"]] = field(default_factory=dict)

    def __getitem__(self, metric: str) -> Float[np.ndarray, " rows"]:
        found: np.ndarray = self.own[metric] if metric in self.own else getattr(self, metric)
        return found

    def part(self, start: int, stop: int) -> Scores:
        """Those of some of the rows."""
        own = {name: values[start:stop] for name, values in self.own.items()}
        rows = slice(start, stop)
        return Scores(self.prob[rows], self.log_prob[rows], self.logit_diff[rows], self.rank[rows], self.kl[rows], own)


@dataclass(frozen=True, eq=False)
class Question:
    """What the logits of one prompt are scored against.

    Args:
        answer: token ids of the answer.
        foil: token ids of the answer it is compared with.
        clean: the clean run's next-token log-probabilities at the last prompt token.
        own: metrics of the user's, of logits [rows, kept, vocab].
    """

    answer: tuple[int, ...]
    foil: tuple[int, ...]
    clean: Float[Tensor, " vocab"]
    own: Mapping[str, Callable[[Tensor], np.ndarray]] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """The first token at which answer and foil differ."""
        return _first_difference(self.answer, self.foil)


def score(logits: Logits, question: Question) -> Scores:
    """All metrics of each row.

    Args:
        logits: [rows, kept, vocab], or what they are made of: at the last prompt token and, for an answer of several
            tokens, at the answer tokens fed after it (teacher forcing); `kept` = number of answer tokens.
        question: answer, foil and clean distribution.
    """
    rows, kept = logits.shape[:2]
    answers = torch.tensor(question.answer, device=logits.device).repeat(rows)
    first = torch.arange(rows, device=logits.device) * kept
    step = question.step
    foils = torch.full((rows,), question.foil[step], device=logits.device)
    found = read(
        logits.flatten(0, 1),
        torch.cat([torch.arange(rows * kept, device=logits.device), first + step]),
        torch.cat([answers, foils]),
        ranked=answers,
        compared=Compared(first, question.clean),
    )
    log_prob = found.log_probs[: rows * kept].view(rows, kept).sum(1)
    logit_diff = found.logits[first + step] - found.logits[rows * kept :]

    def out(value: Tensor) -> np.ndarray:
        return value.detach().cpu().double().numpy()

    ranks = found.ranks.view(rows, kept).amax(1)
    own = {name: metric(whole(logits)) for name, metric in question.own.items()}
    return Scores(out(log_prob.exp()), out(log_prob), out(logit_diff), out(ranks), out(found.kl), own)


def _first_difference(answer: tuple[int, ...], foil: tuple[int, ...]) -> int:
    """The first token at which two answers differ."""
    return next((i for i, (a, b) in enumerate(zip(answer, foil, strict=False)) if a != b), 0)
