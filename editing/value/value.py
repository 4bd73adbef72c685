"""The value v* that makes the model say a target, found by gradient descent; of many facts at once.

A vector δ is added to an activation of one layer (ROME: the down-projection's output) at the subject's last token, in
every context at once.  It minimises

    mean over contexts of −(1/|o|) Σ log P(oⱼ | context, prompt, o₁..oⱼ₋₁)        the target, teacher-forced
    + kl_factor · KL(edited || original) after a neutral sentence                 the subject stays what it is
    + weight decay of δ

(Meng et al. 2022, eq. 4).  v* = v₀ + δ, where v₀ is the bare prompt's own value.

Facts know nothing of each other: each has a δ, a course of Adam, a limit and a moment of stopping of its own, and
what comes out is what it gets alone.  Together they only fill the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import MechinterpError, UsageError
from ...models.door import plainly
from ...models.layout import VALUE
from ...models.model import Model
from ...runs.progress import progress_bar
from ..edits.report import LossTerms
from ..edits.request import EditRequest
from ..gradients.adam import Adam
from ..rows.contexts import BARE, check_contexts
from .hparams import ValueHparams
from .suffix import best_way
from .value_rows import ValueRows

MAX_TOKENS = 2048
"""Tokens per forward; more do not run faster on a CPU, whose caches they no longer fit."""

_MAX_LOGITS = 1 << 26
"""Logits per forward: a quarter of a gigabyte in float32, and its gradient as much again."""


@dataclass(frozen=True, eq=False)
class Value:
    """v* and how it was found.

    Args:
        v0: the bare prompt's own value.
        delta: what is added to it.
        keys: of the layer, in every context, the bare prompt first.
        losses: every evaluation, the unedited model's first.
        steps: optimiser steps taken.
        stopped_early: the loss fell below the limit before the steps ran out.
        clamped_steps: steps after which ‖δ‖ was cut back to its limit.
        request: what it makes the model say.
        layer: where.
        site: the component it is a value of.
    """

    v0: Float[Tensor, " d_model"]
    delta: Float[Tensor, " d_model"]
    keys: Float[Tensor, "context d_mlp"]
    losses: tuple[LossTerms, ...]
    steps: int
    stopped_early: bool
    clamped_steps: int
    request: EditRequest
    layer: int
    site: str

    def check(self, request: EditRequest, layer: int, site: str, contexts: Sequence[str]) -> None:
        """Refuse to serve another request, place or number of contexts.

        Raises:
            UsageError: it was found for something else.
        """
        own = (self.request, self.layer, self.site, len(self.keys))
        wanted = (request, layer, site, len(contexts))
        if own != wanted:
            names = ("request", "layer", "component", "number of contexts")
            differing = [name for name, one, other in zip(names, own, wanted, strict=True) if one != other]
            raise UsageError(
                f"the value given for {request.prompt.text!r} -> {request.target!r} was found for another "
                f"{' and '.join(differing)}; give each request the value that was found for it, here"
            )

    @property
    def v_star(self) -> Float[Tensor, " d_model"]:
        """The value to be inserted."""
        return self.v0 + self.delta


@plainly(grad=False)
def values_of(
    model: Model,
    requests: Sequence[EditRequest],
    layer: int,
    *,
    contexts: Sequence[str] = (BARE,),
    hparams: ValueHparams | None = None,
    sites: Sequence[str] = (VALUE,),
    max_tokens: int = MAX_TOKENS,
    progress: bool = True,
) -> list[Value]:
    """Optimise the value of each request at one layer, many requests in one batch.

    Args:
        model: the model, with whatever edits are on.
        requests: what it should say.
        layer: which layer.
        contexts: templates such as "By the way, {}", the bare "{}" first.
        hparams: of the optimisation; default: `ValueHparams()`.
        sites: components (`layout.VALUE`, `layout.MLP`, `layout.ATTN`, `layout.RESID`) of the layer that get a δ each,
            optimised together; the first one's is returned.
        max_tokens: tokens per forward; changes memory and speed, not the values.
        progress: show a bar over the evaluations of the loss.

    Returns:
        one value per request, in order.

    Raises:
        UsageError: no request, bad contexts, a prompt too long for the model, a subject or target it cannot spell.
        MechinterpError: a loss became NaN or infinite.
    """
    if not requests:
        raise UsageError("no request was given, so there is no value to optimise")
    chosen = ValueHparams() if hparams is None else hparams
    templates, index = check_contexts(contexts), model.layout.check_layer(layer)
    first, _ = ValueRows.batch_of(model, requests[:1], templates, chosen)
    hooks = tuple(model.layout.hook(site, index) for site in sites)
    way = best_way(model, first, index, hooks)
    found: dict[int, Value] = {}
    total = len(requests) * (chosen.steps + 1)
    with progress_bar("evaluations of the loss", total, shown=progress) as advance:
        for chunk in _chunks(model, requests, templates, chosen, max_tokens):
            asked = [requests[i] for i in chunk]
            rows = ValueRows.of(model, asked, index, templates, chosen, hooks, way)
            found |= zip(chunk, _optimise(rows, asked, sites[0], advance), strict=True)
    return [found[i] for i in range(len(requests))]


def _chunks(
    model: Model, requests: Sequence[EditRequest], contexts: Sequence[str], hparams: ValueHparams, max_tokens: int
) -> Iterator[list[int]]:
    """Requests that go together: as many as fit, those with as many tokens after the subject side by side."""
    neutral = len(model.encode(hparams.kl_template.replace("{}", "").rstrip())) + 1
    width = [max(neutral, _tail(model, request)) for request in requests]
    budget = min(max_tokens, _MAX_LOGITS // model.vocab_size)
    chunk: list[int] = []
    for i in sorted(range(len(requests)), key=width.__getitem__):
        if chunk and (len(chunk) + 1) * (len(contexts) + 1) * width[i] > budget:
            yield chunk
            chunk = []
        chunk.append(i)
    yield chunk


def _tail(model: Model, request: EditRequest) -> int:
    """Tokens from the subject's last one to the last that is fed."""
    prompt = model.tokenise(request.prompt)
    return len(prompt.ids) - prompt.subject[1] + len(model.answer_ids(request.prompt, request.target))


def _optimise(
    rows: ValueRows, requests: Sequence[EditRequest], site: str, advance: Callable[[int], None]
) -> list[Value]:
    """Minimise every request's loss by Adam from δ = 0; those that are done leave the batch."""
    hparams = rows.hparams
    rows, reading = rows.read()
    start = reading.values[:, 0]
    start = start if start.dtype == torch.float64 else start.float()
    scale = start.norm(dim=-1, keepdim=True)
    delta = torch.zeros_like(start)
    unit = scale / math.sqrt(start.shape[-1]) if hparams.lr_rule == "relative" else torch.ones_like(scale)
    adam = Adam(delta, hparams.lr * unit, hparams.weight_decay if hparams.weight_decay_rule == "adam" else 0.0)
    losses: list[list[LossTerms]] = [[] for _ in requests]
    clamped = [0] * len(requests)
    values: dict[int, Value] = {}
    here, alive = list(range(len(requests))), reading
    counts = torch.ones(len(requests), dtype=start.dtype, device=start.device)  # of each NLL, by `settled_kl`
    for steps in range(hparams.steps + 1):
        delta.requires_grad_(True)
        with plainly(grad=True):
            (nll, kl, decay), settled = rows.terms(delta, alive)
            total = counts * nll + kl + decay
        table = torch.stack([total, counts * nll, kl, decay], 1).detach().tolist()
        for i, figures in zip(here, table, strict=True):
            losses[i].append(_checked(LossTerms(*figures), requests[i], steps, hparams))
        done = (total.detach() < hparams.stop_loss) | (nll.detach() < hparams.stop_nll)
        if hparams.settled_kl is not None:
            done |= settled & (kl.detach() <= hparams.settled_kl)
            counts = torch.where(settled, 0.1, 1.0).to(counts)
        stopped = done.tolist()
        going = torch.tensor([not stop and steps < hparams.steps for stop in stopped], device=delta.device)
        gradient = torch.zeros_like(delta)
        if bool(going.any()):
            with plainly(grad=True):
                gradient = torch.autograd.grad(total[going].sum(), delta)[0]
        delta = delta.detach()
        for place, i in enumerate(here):
            if not going[place]:
                told = (tuple(losses[i]), steps, stopped[place], clamped[i])
                where = (requests[i], rows.layer, site)
                values[i] = Value(start[i, 0], delta[place, 0], reading.keys[i], *told, *where)
                advance(hparams.steps + 1 - steps)
        here = [i for i, on in zip(here, going.tolist(), strict=True) if on]
        if not here:
            break
        advance(len(here))
        if not bool(going.all()):
            rows, alive, counts = rows.of_facts(going), alive.of_facts(going), counts[going]
            adam.keep(going)
            delta, gradient = delta[going], gradient[going]
        delta = adam.step(delta, gradient)
        if hparams.clamp is not None:
            length, limit = delta.norm(dim=-1, keepdim=True), hparams.clamp * scale[here]
            delta = torch.where(length > limit, delta * (limit / length), delta)
            for i, over in zip(here, (length > limit)[:, 0, 0].tolist(), strict=True):
                clamped[i] += int(over)
    return [values[i] for i in range(len(requests))]


def _checked(terms: LossTerms, request: EditRequest, steps: int, hparams: ValueHparams) -> LossTerms:
    if not math.isfinite(terms.total):
        raise MechinterpError(
            f"the loss became {terms.total} after {steps} steps for {request.prompt.text!r} -> {request.target!r}; "
            f"lower lr (it is {hparams.lr})"
        )
    return terms
