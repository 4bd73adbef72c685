"""What a model says now: the target, the subject's essence, text at large."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import UsageError
from ...facts.prompts import Prompt
from ...given import texts_of
from ...models.model import Model
from ...patching.plain.executor import HookWrite, forward
from ...patching.plain.metrics import log_softmax
from .padded import Batch

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
    batch = Batch.of(model, [prompt for prompt, _ in asked], [ids[:-1] for ids in words])
    keep = batch.keep_from(int(batch.end.min()))
    shift = batch.width - keep
    logits = forward(model, batch.ids, keep=keep, past=batch.given, prompts=batch.prompts).logits
    found = []
    for row, ids in enumerate(words):
        start = int(batch.end[row]) - shift
        log_probs = log_softmax(logits[row, start : start + len(ids)])
        wanted = torch.tensor(ids, device=logits.device)
        chosen = log_probs.gather(-1, wanted[:, None])[:, 0]
        found.append(
            Completion(
                prob=float(chosen.sum().exp()),
                log_probs=tuple(chosen.tolist()),
                top=bool((log_probs.argmax(-1) == wanted).all()),
            )
        )
    return tuple(found)


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
        ids = torch.tensor([model.encode(text)[: model.n_ctx]])
        if ids.shape[1] < 2:
            continue
        log_probs = log_softmax(model.logits(ids)[0, :-1])
        total -= float(log_probs.gather(-1, ids[0, 1:, None].to(log_probs.device)).sum())
        count += ids.shape[1] - 1
    if count == 0:
        raise UsageError("perplexity needs a text of at least two tokens; none was given")
    return float(torch.tensor(total / count, dtype=torch.float64).exp())
