"""What a model holds at the subjects of many requests now, in every context."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.model import Model
from ...patching.plain.executor import forward
from ..edits.request import EditRequest
from .contexts import in_contexts
from .padded import Batch

KEY_RULES = ("bare", "mean", "half")
"""What stands for a subject, of its keys in several contexts: that of the bare prompt, the mean over all, or the mean
of the bare prompt's and the mean of the others (the published MEMIT code)."""

_ROWS = 256
"""Rows per forward."""


def read_at_subjects(
    model: Model, requests: Sequence[EditRequest], contexts: Sequence[str], hooks: Sequence[str]
) -> dict[str, Float[Tensor, "request context _width"]]:
    """Activations at each subject's last token, with whatever edits are on.

    Args:
        model: the model.
        requests: whose prompts are run.
        contexts: templates, the bare "{}" first.
        hooks: which activations.
    """
    prompts = [prompt for request in requests for prompt in in_contexts(model, request.prompt, contexts)]
    found: dict[str, list[Tensor]] = {hook: [] for hook in hooks}
    for start in range(0, len(prompts), _ROWS):
        batch = Batch.of(model, prompts[start : start + _ROWS])
        cache = forward(model, batch.ids, reads=hooks, keep=1, past=batch.given, prompts=batch.prompts).cache
        for hook in hooks:
            found[hook].append(batch.at_subject(cache[hook]))
    return {hook: torch.cat(parts).view(len(requests), len(contexts), -1) for hook, parts in found.items()}


def over_contexts(read: Float[Tensor, "request context width"], rule: str = "mean") -> Float[Tensor, "request width"]:
    """One vector per request, in float64.

    Args:
        read: in every context, the bare prompt first.
        rule: one of `KEY_RULES`.
    """
    exact = read.double()
    if rule == "bare":
        return exact[:, 0]
    if rule == "mean" or exact.shape[1] == 1:
        return exact.mean(1)
    return (exact[:, 0] + exact[:, 1:].mean(1)) / 2
