"""How probable a model finds given answers: teacher forcing, many questions at once, nothing padded.

Each pair (text, answer) is one row of token ids; rows of equal length make a batch, so no padding and no mask
stands between the model and its own numbers, and a batch of n is n single runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import MechinterpError, UsageError
from ..models import Model

COLUMNS = ["text", "answer", "tokens", "log_prob", "joint_log_prob", "prob", "joint_prob", "correct"]


def score(model: Model, pairs: Sequence[tuple[str, str]], *, batch_size: int = 64) -> pd.DataFrame:
    """Score answers as continuations of texts.

    Args:
        model: the model, edited or not.
        pairs: (text, answer); the answer gets its leading space where it needs one.
        batch_size: rows per forward; changes memory and speed, never the numbers.

    Returns:
        One row per pair, in order: text, answer, tokens (how many the answer has); log_prob, the mean per
        answer token (nats), and prob = exp(log_prob), the "probability" of CounterFact's metrics;
        joint_log_prob and joint_prob, of the whole answer; correct, whether every answer token is the most
        probable one.

    Raises:
        UsageError: nothing to score, or a pair too long for the model.
        MechinterpError: the model's log-probabilities are not finite.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size} scores nothing; give 1 or more")
    answers_after: dict[tuple[int, ...], list[int]] = defaultdict(list)
    rows = [_row(model, text, answer) for text, answer in pairs]
    for i, (ids, _) in enumerate(rows):
        answers_after[ids].append(i)  # two answers of one token each after one text share a row
    by_length: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for ids in answers_after:
        by_length[len(ids)].append(ids)
    log_probs: list[Tensor] = [torch.empty(0)] * len(rows)
    correct = [False] * len(rows)
    for same in by_length.values():
        # Long answers together: a batch unembeds as many positions as its longest answer asks for.
        longest = {ids: max(len(rows[i][1]) for i in answers_after[ids]) for ids in same}
        same.sort(key=longest.__getitem__)
        for start in range(0, len(same), batch_size):
            batch = same[start : start + batch_size]
            logits = model.logits(torch.tensor(batch), keep=longest[batch[-1]])
            for ids, row_logits in zip(batch, logits, strict=True):
                for i in answers_after[ids]:
                    log_probs[i], correct[i] = _answer_log_probs(row_logits, torch.tensor(rows[i][1]))
    for (text, answer), each in zip(pairs, log_probs, strict=True):
        if not bool(torch.isfinite(each).all()):
            raise MechinterpError(
                f"the model gives no finite probability to {answer!r} after {text!r}; its weights or an edit are broken"
            )
    frame = pd.DataFrame(list(pairs), columns=["text", "answer"], dtype=str)
    frame["tokens"] = [len(each) for each in log_probs]
    frame["log_prob"] = [float(each.mean()) for each in log_probs]
    frame["joint_log_prob"] = [float(each.sum()) for each in log_probs]
    frame["prob"] = [float(each.mean().exp()) for each in log_probs]
    frame["joint_prob"] = [float(each.sum().exp()) for each in log_probs]
    frame["correct"] = correct
    return frame[COLUMNS]


def _row(model: Model, text: str, answer: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that go in (the answer's last token predicts nothing) and the answer's ids."""
    answer_ids = model.answer_ids(text=text, answer=answer)
    ids = (*model.encode(text), *answer_ids[:-1])
    if len(ids) > model.n_ctx:
        raise UsageError(f"{text[:60]!r}... with {answer!r} has {len(ids)} tokens; {model.name} takes {model.n_ctx}")
    return ids, answer_ids


def _answer_log_probs(
    logits: Float[Tensor, "kept vocab"], answer: Int[Tensor, " tokens"]
) -> tuple[Float[Tensor, " tokens"], bool]:
    """Log-probability of each answer token (float64), and whether each is the argmax of its position."""
    predicting = logits[len(logits) - len(answer) :].double().cpu()
    log_probs = predicting.log_softmax(-1).gather(1, answer[:, None]).squeeze(1)
    return log_probs, bool((predicting.argmax(-1) == answer).all())
