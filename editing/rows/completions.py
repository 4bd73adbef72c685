"""What a model says now: the target, the subject's essence, text at large."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import UsageError
from ...facts.prompts import Prompt
from ...forwards import unembedding
from ...forwards.readout import log_softmax
from ...forwards.scored_tokens import ScoredTokens
from ...given import texts_of
from ...models.model import Model
from ...patching.plain.executor import HookWrite, forward
from .padded import Batch
from .target_rows import TargetRows

NEUTRAL_TEMPLATES = ("{} is a", "{} is", "{} was", "{} and", "They spoke about {} because")
"""Sentences that ask nothing in particular about their subject: what follows them is its essence (Meng et al.
2022, §3.1, use the first)."""


@dataclass(frozen=True)
class Completion:
    """How a model completes a prompt with given words.

    Args:
        prob: P(all tokens of the words | prompt), teacher-forced.
        log_probs: of each token, in nats.
        top: whether each token is the most probable one.
    """

    prob: float
    log_probs: tuple[float, ...]
    top: bool


def completions(model: Model, asked: Sequence[tuple[Prompt, str]]) -> tuple[Completion, ...]:
    """How the model, as it is now, completes prompts with given words; all in one forward.

    Args:
        model: the model, with whatever edits are on.
        asked: (prompt, words) pairs.

    Raises:
        UsageError: words the vocabulary cannot spell.
    """
    if not asked:
        return ()
    words = [model.answer_ids(prompt, text) for prompt, text in asked]
    rows = TargetRows.of(model, [prompt for prompt, _ in asked], words)
    batch = rows.batch
    ends = forward(model, batch.ids, keep=rows.keep, past=batch.given, prompts=batch.prompts).ends
    found = rows.targets.read(ends, batch.width, top=True)
    lengths = [len(ids) for ids in words]
    right = found.top == torch.tensor([token for ids in words for token in ids], device=found.top.device)
    return tuple(
        Completion(prob=float(chosen.sum().exp()), log_probs=tuple(chosen.tolist()), top=bool(first.all()))
        for chosen, first in zip(found.log_probs.split(lengths), right.split(lengths), strict=True)
    )


def next_token_log_probs(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    layer: int | None = None,
    delta: Float[Tensor, " d_model"] | None = None,
) -> Float[Tensor, "prompt vocab"]:
    """Log-probabilities of the token after each prompt.

    Args:
        model: the model, with whatever edits are on.
        prompts: the sentences.
        layer: where `delta` is added, to the output of the down-projection.
        delta: what is added at the subject's last token; None: nothing.
    """
    batch = Batch.of(model, prompts)
    writes: tuple[HookWrite, ...] = ()
    if delta is not None:
        if layer is None:
            raise UsageError("a delta was given without the layer it is added at")
        writes = (batch.add_at_subject(model.layout.value_hook(layer), delta),)
    keep = batch.keep_from(int(batch.end.min()))
    logits = forward(model, batch.ids, writes, keep=keep, past=batch.given, prompts=batch.prompts).logits
    shift = batch.width - keep
    return log_softmax(logits[batch.rows, batch.end - shift])


def kl_divergence(
    edited: Float[Tensor, "prompt vocab"], original: Float[Tensor, "prompt vocab"]
) -> Float[Tensor, " prompt"]:
    """KL(edited || original) of log-probabilities, in nats."""
    return (edited.exp() * (edited - original)).sum(-1)


def perplexity(model: Model, texts: Iterable[str]) -> float:
    """exp of the mean negative log-probability per token (the first of each text is not predicted).

    Raises:
        UsageError: no text has two tokens, or one string in place of texts.
    """
    total, count = 0.0, 0
    for text in texts_of(texts, "texts"):
        ids = model.encode(text)[: model.n_ctx]
        if len(ids) < 2:
            continue
        whole = torch.tensor([ids], device=model.device)
        with model.alone():
            ends = unembedding.run(model, whole, **model.arguments(len(ids)))
        rows = ScoredTokens.after(whole.new_zeros(1), [ids[1:]])
        total -= float(rows.log_probs(ends, len(ids)).sum())
        count += len(ids) - 1
    if count == 0:
        raise UsageError("perplexity needs a text of at least two tokens; none was given")
    return float(torch.tensor(total / count, dtype=torch.float64).exp())
