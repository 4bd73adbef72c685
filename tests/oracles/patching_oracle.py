"""Activation patching as slowly and plainly as can be: one forward of one row at a time, through PyTorch's own hooks.

Written for GPT-2 of Hugging Face transformers alone, and with nothing from mechinterp, so that the two can be wrong
only independently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

COMPONENTS = ("embed", "resid_pre", "resid_mid", "resid", "attn", "mlp", "z", "q", "k", "v", "key", "value")


@dataclass(frozen=True, eq=False)
class Edit:
    """One vector written at one token of one layer: instead of what is there, or added to it; of one head if given."""

    component: str
    layer: int
    token: int
    value: Tensor
    add: bool = False
    head: int | None = None


@dataclass(eq=False)
class Outcome:
    """Logits [pos, vocab] of one row and the activations [pos, ...] of every component and layer, after the edits."""

    logits: Tensor
    activations: dict[tuple[str, int], Tensor]


def forward(network: Any, ids: Sequence[int], edits: Sequence[Edit] = ()) -> Outcome:
    """One row through the network, with the edits made in the order in which they are given."""
    heads = network.config.n_head
    width = network.config.n_embd
    found: dict[tuple[str, int], Tensor] = {}

    def visit(component: str, layer: int, value: Tensor) -> None:
        """Edit a view of an activation [1, pos, ...] in place, then note it."""
        for edit in edits:
            if (edit.component, edit.layer) == (component, layer):
                target = value[0, edit.token] if edit.head is None else value[0, edit.token, edit.head]
                target.copy_(target + edit.value if edit.add else edit.value)
        found[component, layer] = value[0].clone()

    def by_head(value: Tensor) -> Tensor:
        return value.view(1, -1, heads, width // heads)

    def after(component: str, layer: int) -> Any:
        def hook(module: object, inputs: object, output: Any) -> None:
            visit(component, layer, output[0] if isinstance(output, tuple) else output)

        return hook

    def before(component: str, layer: int, *, split: bool = False) -> Any:
        def hook(module: object, inputs: tuple[Tensor, ...]) -> None:
            visit(component, layer, by_head(inputs[0]) if split else inputs[0])

        return hook

    def queries_keys_values(layer: int) -> Any:
        def hook(module: object, inputs: object, output: Tensor) -> None:
            for name, part in zip("qkv", output.split(width, -1), strict=True):
                visit(name, layer, part.unflatten(-1, (heads, width // heads)))

        return hook

    body = network.transformer
    handles = [body.wte.register_forward_hook(after("embed", 0))]
    for layer, block in enumerate(body.h):
        # In GPT-2 the input of ln_2 is the very tensor that skips the MLP, so an edit in place reaches both.
        handles += [
            block.register_forward_pre_hook(before("resid_pre", layer)),
            block.attn.c_attn.register_forward_hook(queries_keys_values(layer)),
            block.attn.c_proj.register_forward_pre_hook(before("z", layer, split=True)),
            block.attn.register_forward_hook(after("attn", layer)),
            block.ln_2.register_forward_pre_hook(before("resid_mid", layer)),
            block.mlp.c_proj.register_forward_pre_hook(before("key", layer)),
            block.mlp.c_proj.register_forward_hook(after("value", layer)),
            block.mlp.register_forward_hook(after("mlp", layer)),
            block.register_forward_hook(after("resid", layer)),
        ]
    try:
        with torch.no_grad():
            logits = network(torch.tensor([list(ids)]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return Outcome(logits, found)


def copied(outcome: Outcome, component: str, layer: int, token: int, heads: Sequence[int] = ()) -> list[Edit]:
    """Edits that set one address to its value in another run."""
    value = outcome.activations[component, layer][token]
    if not heads:
        return [Edit(component, layer, token, value)]
    return [Edit(component, layer, token, value[head], head=head) for head in heads]


def window(centre: int, width: int, layers: int) -> list[int]:
    """The published window: from centre - width // 2, `width` layers, clipped at both ends."""
    start = centre - width // 2
    return [layer for layer in range(start, start + width) if 0 <= layer < layers]


def naive_scores(logits: Tensor, clean: Tensor, answer: Sequence[int], foil: int) -> dict[str, float]:
    """The metrics from logits [pos, vocab] of prompt and fed answer, token by token, in float64 NumPy.

    `foil` is compared with the answer's first token.
    """
    rows = logits.double().numpy()
    start = len(rows) - len(answer)
    probabilities = [np.exp(row) / np.exp(row).sum() for row in rows]
    p = np.exp(clean.double().numpy()[start])
    p = p / p.sum()
    prob, rank = 1.0, 0
    for step, token in enumerate(answer):
        prob *= probabilities[start + step][token]
        rank = max(rank, int((probabilities[start + step] > probabilities[start + step][token]).sum()))
    return {
        "prob": prob,
        "log_prob": float(np.log(prob)),
        "logit_diff": float(rows[start][answer[0]] - rows[start][foil]),
        "rank": rank,
        "kl": float((p * np.log(p / probabilities[start])).sum()),
    }
