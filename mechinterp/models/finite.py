"""Logits that are no numbers stop a run, with a sentence on where they come from: a NaN has no rank."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import MechinterpError
from . import hook_checks
from .layout import RESID, Layout


def unfinite_rows(logits: Float[Tensor, "row pos vocab"]) -> list[int]:
    """Rows with a NaN or an infinity among their logits."""
    low, high = logits.detach().flatten(1).aminmax(dim=1)  # a NaN is both
    return torch.nonzero(~(low.isfinite() & high.isfinite()))[:, 0].tolist()


def unfinite_layer(layout: Layout, ids: Int[Tensor, "row pos"]) -> int | None:
    """The first layer whose residual stream is not finite in a plain forward; n_layers: the logits alone; None: none.

    Edits that are on take part in it.
    """
    found: list[int] = []

    def look(layer: int) -> Callable[[Tensor, object], None]:
        def act(value: Tensor, hook: object) -> None:
            if not bool(torch.isfinite(value).all()):
                found.append(layer)

        return act

    hooks = [(layout.hook(RESID, layer), look(layer)) for layer in range(layout.n_layers)]
    logits = hook_checks.run(layout, ids, hooks)
    return found[0] if found else layout.n_layers if unfinite_rows(logits) else None


def cause(layout: Layout, ids: Int[Tensor, "row pos"], dtype: torch.dtype, *, patched: bool) -> str:
    """Why the logits of some tokens are not finite, and what to do.

    Args:
        layout: of the model.
        ids: the tokens.
        dtype: the model's.
        patched: whether something was written into that forward.
    """
    broken = "its weights, an edit that is on or a hook is broken"
    try:
        layer = unfinite_layer(layout, ids)
    except MechinterpError:  # edits that are on expect other rows than these
        return broken
    short = str(dtype).removeprefix("torch.")
    wider = "" if dtype == torch.float64 else "; a wider dtype holds more (mi.load(..., dtype='float64'), --dtype)"
    if layer is None and patched:
        return f"what was written into its activations (noise, a source, a hook) is too large for {short}{wider}"
    if layer is None:
        return f"the same tokens alone give finite ones: rounding at the edge of {short}{wider}"
    where = "the logits themselves" if layer == layout.n_layers else f"the residual stream leaving layer {layer}"
    if dtype in (torch.float16, torch.bfloat16):
        return f"first not finite: {where}, which overflows {short}; load it with dtype='float32' (--dtype)"
    return f"first not finite: {where}; {broken}"
