"""Fine-tuning, integrated gradients and UltraEdit written out for GPT-2: one sequence, one token, one step at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .rome_oracle import Weights, gpt2


@dataclass
class Asked:
    """Token ids of a prompt and of what should follow."""

    prompt: list[int]
    target: list[int]


def nll(w: Weights, asked: Asked, *, last: bool = False) -> Tensor:
    """Mean over the target's tokens; `last`: all of them scored after the prompt's last token."""
    total = torch.zeros((), dtype=torch.float64)
    for j, token in enumerate(asked.target):
        ids = asked.prompt if last else asked.prompt + asked.target[:j]
        total = total - gpt2(w, ids, 0).logits[-1].log_softmax(-1)[token]
    return total / len(asked.target)


@dataclass
class Tuned:
    """ΔW of each layer, the loss before each step and after the last."""

    deltas: dict[int, Tensor]
    losses: list[float]


def fine_tuned(
    w: Weights,
    asked: Sequence[Asked],
    layers: Sequence[int],
    *,
    lr: float,
    steps: int,
    stop: float,
    epsilon: float | None = None,
    last: bool = False,
) -> Tuned:
    """The weights themselves, trained by PyTorch's Adam and clamped after each step."""
    names = {layer: f"transformer.h.{layer}.mlp.c_proj.weight" for layer in layers}
    before = {layer: w.state[name].clone() for layer, name in names.items()}
    trained = {layer: weight.clone().requires_grad_() for layer, weight in before.items()}
    own = Weights(w.state | {names[layer]: weight for layer, weight in trained.items()}, w.heads, w.layers)
    optimiser = torch.optim.Adam(list(trained.values()), lr=lr)
    losses = []
    for step in range(steps + 1):
        optimiser.zero_grad()
        loss = torch.stack([nll(own, each, last=last) for each in asked]).mean()
        losses.append(float(loss.detach()))
        if losses[-1] < stop or step == steps:
            break
        loss.backward()
        optimiser.step()
        if epsilon is not None:
            with torch.no_grad():
                for layer, weight in trained.items():
                    weight.copy_(weight.clamp(before[layer] - epsilon, before[layer] + epsilon))
    return Tuned({layer: (weight - before[layer]).detach() for layer, weight in trained.items()}, losses)


def probability(w: Weights, ids: list[int], token: int, layer: int, key: Tensor) -> Tensor:
    """Of the next token, with the key of one layer at the last token put in place of its own."""
    own = gpt2(w, ids, layer).keys[-1]
    change = (key - own) @ w[f"h.{layer}.mlp.c_proj.weight"]
    return gpt2(w, ids, layer, len(ids) - 1, change).logits[-1].softmax(-1)[token]


def attributions(w: Weights, asked: Asked, layer: int, steps: int) -> Tensor:
    """Integrated gradients of one layer's units, the mean over the target's tokens."""
    credit = torch.zeros_like(gpt2(w, asked.prompt, layer).keys[-1])
    for j, token in enumerate(asked.target):
        ids = asked.prompt + asked.target[:j]
        own = gpt2(w, ids, layer).keys[-1]
        for step in range(1, steps + 1):
            key = (own * step / steps).requires_grad_()
            (gradient,) = torch.autograd.grad(probability(w, ids, token, layer, key), key)
            credit = credit + own * gradient / steps / len(asked.target)
    return credit


def ultra_signals(w: Weights, asked: Asked, layer: int) -> tuple[Tensor, Tensor]:
    """Key and gradient at each token that predicts one of the target, of the summed NLL of the target."""
    keys, gradients = [], []
    ids, start = asked.prompt + asked.target[:-1], len(asked.prompt) - 1
    for position in range(start, len(ids)):
        zero = torch.zeros(w["wte.weight"].shape[1], dtype=torch.float64, requires_grad=True)
        run = gpt2(w, ids, layer, position, zero)
        log_probs = run.logits.log_softmax(-1)
        loss = -sum((log_probs[start + j, token] for j, token in enumerate(asked.target)), torch.zeros(()))
        gradients.append(torch.autograd.grad(loss, zero)[0])
        keys.append(run.keys[position].detach())
    return torch.stack(keys), torch.stack(gradients)


def ultra_delta(keys: Tensor, gradients: Tensor, seen: Tensor, lr: float, ridge: float = 1.0) -> Tensor:
    """ΔW = (HᵀH + I)⁻¹HᵀV as printed, normalised by the mean and the spread of everything seen."""
    both = (torch.cat([keys, gradients], 1) - seen.mean(0)) / (seen.std(0) + torch.finfo(torch.float32).eps)
    h, g = both[:, : keys.shape[1]], both[:, keys.shape[1] :]
    values = torch.stack([-lr * math.fsum((x**2).tolist()) * y for x, y in zip(h, g, strict=True)])
    return torch.linalg.inv(keys.T @ keys + ridge * torch.eye(keys.shape[1], dtype=keys.dtype)) @ keys.T @ values
