"""ROME written out for GPT-2, one sequence at a time: no hooks, no batches, no library of ours.

Everything is what the formulas say and nothing else; it is slow, and right as far as it can be read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class Weights:
    """A GPT-2 state dict with its two sizes that shapes do not tell."""

    state: dict[str, Tensor]
    heads: int
    layers: int

    def __getitem__(self, name: str) -> Tensor:
        return self.state[f"transformer.{name}"]


@dataclass
class Run:
    """What one sequence gave: logits [pos vocab]; of the layer asked for key and value, and the residual after it."""

    logits: Tensor
    keys: Tensor
    values: Tensor
    residual: Tensor


def gpt2(w: Weights, ids: list[int], layer: int, position: int = 0, delta: Tensor | None = None) -> Run:
    """One forward; `delta` is added to the MLP's output of `layer` at `position`."""
    length = len(ids)
    x = w["wte.weight"][ids] + w["wpe.weight"][:length]
    mask = torch.full((length, length), -math.inf, dtype=x.dtype).triu(1)
    width = x.shape[1]
    found: tuple[Tensor, Tensor, Tensor] | None = None
    for n in range(w.layers):
        h = F.layer_norm(x, (width,), w[f"h.{n}.ln_1.weight"], w[f"h.{n}.ln_1.bias"])
        qkv = h @ w[f"h.{n}.attn.c_attn.weight"] + w[f"h.{n}.attn.c_attn.bias"]
        q, k, v = (part.view(length, w.heads, -1).transpose(0, 1) for part in qkv.split(width, dim=1))
        attention = (q @ k.transpose(1, 2) / math.sqrt(width // w.heads) + mask).softmax(-1)
        z = (attention @ v).transpose(0, 1).reshape(length, width)
        x = x + z @ w[f"h.{n}.attn.c_proj.weight"] + w[f"h.{n}.attn.c_proj.bias"]
        h = F.layer_norm(x, (width,), w[f"h.{n}.ln_2.weight"], w[f"h.{n}.ln_2.bias"])
        h = h @ w[f"h.{n}.mlp.c_fc.weight"] + w[f"h.{n}.mlp.c_fc.bias"]
        key = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        value = key @ w[f"h.{n}.mlp.c_proj.weight"] + w[f"h.{n}.mlp.c_proj.bias"]
        if n == layer:
            if delta is not None:
                value = torch.cat([value[:position], (value[position] + delta)[None], value[position + 1 :]])
            found = key, value, x + value
        x = x + value
    assert found is not None
    x = F.layer_norm(x, (width,), w["ln_f.weight"], w["ln_f.bias"])
    return Run(x @ w["wte.weight"].T, *found)


@dataclass
class Sentence:
    """Token ids of a sentence and the position of its subject's last token."""

    ids: list[int]
    subject: int


@dataclass
class OracleEdit:
    """ΔW = outer(u, v), and the loss of every evaluation."""

    u: Tensor
    v: Tensor
    losses: list[float]
    v_star: Tensor


def published_rome(
    w: Weights,
    contexts: list[Sentence],
    neutral: Sentence,
    target: list[int],
    layer: int,
    moment: Tensor,
    *,
    steps: int = 20,
    lr: float = 0.5,
    weight_decay: float = 0.5,
    kl_factor: float = 0.0625,
    clamp: float = 4.0,
    mean_key_everywhere: bool = False,
) -> OracleEdit:
    """The published implementation's conventions; `contexts[0]` is the bare prompt."""
    runs = [gpt2(w, c.ids, layer) for c in contexts]
    keys = torch.stack([run.keys[c.subject] for run, c in zip(runs, contexts, strict=True)])
    values = torch.stack([run.values[c.subject] for run, c in zip(runs, contexts, strict=True)])
    before = gpt2(w, neutral.ids, layer).logits[neutral.subject].log_softmax(-1)
    v0 = values[0]

    delta = torch.zeros_like(v0)
    first, second = torch.zeros_like(v0), torch.zeros_like(v0)
    losses = []
    for step in range(1, steps + 1):
        delta = delta.detach().requires_grad_(True)
        nll = torch.zeros((), dtype=v0.dtype)
        for c in contexts:
            logits = gpt2(w, c.ids + target[:-1], layer, c.subject, delta).logits.log_softmax(-1)
            for j, token in enumerate(target):
                nll = nll - logits[len(c.ids) - 1 + j, token] / len(target) / len(contexts)
        after = gpt2(w, neutral.ids, layer, neutral.subject, delta).logits[neutral.subject].log_softmax(-1)
        kl = kl_factor * (after.exp() * (after - before)).sum()
        decay = weight_decay * torch.norm(delta) / torch.norm(v0) ** 2
        loss = nll + kl + decay
        losses.append(loss.item())
        if losses[-1] < 0.05 or step == steps:
            break
        (gradient,) = torch.autograd.grad(loss, delta)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        with torch.no_grad():
            hat = (second / (1 - 0.999**step)).sqrt() + 1e-8
            delta = delta - lr * first / (1 - 0.9**step) / hat
            if delta.norm() > clamp * v0.norm():
                delta = delta * clamp * v0.norm() / delta.norm()
    delta = delta.detach()
    u = torch.linalg.inv(moment) @ keys.mean(0)
    u = u / u.norm()
    if mean_key_everywhere:
        v = (v0 + delta - values.mean(0)) / (keys.mean(0) @ u)
    else:
        v = (v0 + delta - v0) / (keys[0] @ u)
    return OracleEdit(u, v, losses, v0 + delta)


def constrained_least_squares(keys: Tensor, values: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """argmin over M of ‖M K − V‖² with M k* = v*, by the bordered normal equations; K and V hold columns."""
    width = keys.shape[0]
    bordered = torch.zeros(width + 1, width + 1, dtype=keys.dtype)
    bordered[:width, :width] = keys @ keys.T
    bordered[:width, width] = key
    bordered[width, :width] = key
    right = torch.cat([keys @ values.T, value[None]])
    return torch.linalg.solve(bordered, right)[:width].T
