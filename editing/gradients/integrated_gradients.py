"""Integrated gradients of an answer's probability over the units of each MLP (Dai et al. 2022).

Unit i of layer l, with activation w̄ᵢ at the token that predicts the answer, is credited with

    w̄ᵢ/m · Σ_{j=1..m} ∂P(y)/∂wᵢ at w = j/m · w̄        (Dai et al. 2022, eq. 4; the baseline is 0)

where only layer l is scaled.  Over the units of a layer this sums to P(w̄) − P(0), the better the larger m.

The public code for GPT models (`as_code`) takes for w̄ what the activation function acts on, for the points the m values
evenly from 0 to 1, both ends among them, and predicts every token of the answer after the prompt alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ...facts.prompts import Prompt
from ...forwards.readout import read
from ...models.door import plainly
from ...models.model import Model
from ...patching.plain.executor import HookWrite, forward
from ..rows.target_rows import TargetRows

_MAX_ROWS = 256
"""Rows per forward: each is one step of one layer."""


@plainly(grad=True)
def integrated_gradients(
    model: Model,
    prompt: Prompt,
    answer: Sequence[int],
    layers: Sequence[int],
    *,
    steps: int = 20,
    as_code: bool = False,
    max_rows: int = _MAX_ROWS,
) -> Float[Tensor, "layer d_mlp"]:
    """What each unit of each layer contributes to the probability of an answer.

    The activations are those of the down-projection's input; with a gated MLP, the product after the gate.

    Args:
        model: the model, with whatever edits are on.
        prompt: what is asked.
        answer: token ids; each is predicted after those before it, and what is credited is the mean over them.
        layers: which layers.
        steps: m.
        as_code: credit as the public code does.
        max_rows: rows per forward; changes memory and speed, not the result.

    Raises:
        UsageError: a prompt that is too long for the model.
    """
    rows = TargetRows.of(model, [prompt], [answer], forced=not as_code)
    hook_of = model.layout.before_activation_hook if as_code else model.layout.key_hook
    hooks = [hook_of(layer) for layer in layers]
    first, last = (0.0, 1.0) if as_code else (1 / steps, 1.0)
    points = torch.linspace(first, last, steps, dtype=torch.float64)
    places, tokens = rows.targets.at[0], rows.targets.tokens[0]
    cache = forward(model, rows.batch.ids, reads=hooks, keep=rows.keep).cache
    keys = torch.stack([cache[hook][0, places] for hook in hooks])  # [layer token d_mlp]
    shape = (len(hooks), len(places), steps)
    entries = torch.cartesian_prod(*(torch.arange(size, device=keys.device) for size in shape)).view(-1, 3)
    gradients = torch.zeros(keys.shape, dtype=keys.dtype, device=keys.device)
    shift = int(rows.batch.ids.shape[1]) - rows.keep
    for layer, token, step in (chunk.unbind(1) for chunk in entries.split(max_rows)):
        scaled = (keys[layer, token] * points.to(keys)[step][:, None]).requires_grad_()
        writes = []
        for number in layer.unique().tolist():
            here = (layer == number).nonzero()[:, 0]
            writes.append(HookWrite(hooks[number], here, places[token[here]], scaled[here]))
        ids = rows.batch.ids.expand(len(layer), -1)
        logits = forward(model, ids, writes, keep=rows.keep, grad=True).logits
        each = torch.arange(len(layer), device=logits.device)
        prob = read(logits[each, places[token] - shift], each, tokens[token]).log_probs.exp().sum()
        gradients.index_put_((layer, token), torch.autograd.grad(prob, scaled)[0], accumulate=True)
    return (keys * gradients / steps).mean(1)
