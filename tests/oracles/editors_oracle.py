"""The editors of many facts, written out as papers and code print them: inverses, loops, one sequence at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .rome_oracle import Sentence, Weights, gpt2


def memit_solution(keys: Tensor, residuals: Tensor, moment: Tensor, weight: float) -> Tensor:
    """Δ = R K₁ᵀ (λC + K₁K₁ᵀ)⁻¹ with columns (Meng et al. 2023, eq. 14); here and below the result has keys as rows."""
    return (residuals.T @ keys @ torch.linalg.inv(weight * moment + keys.T @ keys)).T


def emmet_solution(keys: Tensor, residuals: Tensor, moment: Tensor, weight: float, slack: float) -> Tensor:
    """Δ = (V − WK)(Kᵀ C₀⁻¹ K + λ_D I)⁻¹ Kᵀ C₀⁻¹ (Gupta et al. 2024)."""
    inverse = torch.linalg.inv(weight * moment)
    inner = keys @ inverse @ keys.T + slack * torch.eye(len(keys), dtype=keys.dtype)
    return (residuals.T @ torch.linalg.inv(inner) @ keys @ inverse).T


def alphaedit_solution(keys: Tensor, residuals: Tensor, projection: Tensor, ridge: float, past: Tensor) -> Tensor:
    """(P(K₁K₁ᵀ + K_pK_pᵀ) + L2·I) Δᵀ = P K₁ Rᵀ, the published code's normal equations (Fang et al. 2025)."""
    left = projection @ (keys.T @ keys + past.T @ past) + ridge * torch.eye(len(projection), dtype=keys.dtype)
    return torch.linalg.solve(left, projection @ keys.T @ residuals)


@dataclass
class OracleFact:
    """A fact as token ids: its sentence in every context (the bare one first), a neutral sentence, the target."""

    contexts: list[Sentence]
    neutral: Sentence
    target: list[int]


def residual_target(
    w: Weights, fact: OracleFact, layer: int, *, steps: int, lr: float, weight_decay: float, kl_factor: float,
    clamp: float,
) -> Tensor:  # fmt: skip
    """z: the residual after `layer` that makes the model say the target; MEMIT's conventions, torch's own Adam."""
    bare = fact.contexts[0]
    start = gpt2(w, bare.ids, layer).residual[bare.subject]
    before = gpt2(w, fact.neutral.ids, layer).logits[fact.neutral.subject].log_softmax(-1)
    delta = torch.zeros_like(start, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=lr)
    for step in range(steps + 1):
        nll = torch.zeros((), dtype=start.dtype)
        for c in fact.contexts:
            logits = gpt2(w, c.ids + fact.target[:-1], layer, c.subject, delta).logits.log_softmax(-1)
            for j, token in enumerate(fact.target):
                nll = nll - logits[len(c.ids) - 1 + j, token] / len(fact.target) / len(fact.contexts)
        after = gpt2(w, fact.neutral.ids, layer, fact.neutral.subject, delta).logits[fact.neutral.subject]
        drift = (after.log_softmax(-1).exp() * (after.log_softmax(-1) - before)).sum()
        loss = nll + kl_factor * drift + weight_decay * delta.norm() / start.norm() ** 2
        if loss.item() < 0.05 or step == steps:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            if delta.norm() > clamp * start.norm():
                delta.copy_(delta * clamp * start.norm() / delta.norm())
    return start + delta.detach()


def published_memit(
    w: Weights, facts: list[OracleFact], targets: list[Tensor], layers: list[int], moments: dict[int, Tensor],
    weight: float,
) -> dict[int, Tensor]:  # fmt: skip
    """ΔW of each layer: ascending, everything read anew on the model as the layers before have left it."""
    edited = Weights(dict(w.state), w.heads, w.layers)
    deltas = {}
    for place, layer in enumerate(layers):
        keys, missing = [], []
        for fact, z in zip(facts, targets, strict=True):
            of_types = [gpt2(edited, c.ids, layer).keys[c.subject] for c in fact.contexts]
            keys.append((of_types[0] + torch.stack(of_types[1:]).mean(0)) / 2)
            bare = fact.contexts[0]
            missing.append((z - gpt2(edited, bare.ids, layers[-1]).residual[bare.subject]) / (len(layers) - place))
        deltas[layer] = memit_solution(torch.stack(keys), torch.stack(missing), moments[layer], weight)
        name = f"transformer.h.{layer}.mlp.c_proj.weight"
        edited.state[name] = edited.state[name] + deltas[layer]
    return deltas
