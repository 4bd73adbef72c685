"""What is read of logits: the one place where the log-probability of given tokens is taken.

Of whole logits it is taken at once; of final states (`unembedding`) the logits are made a part of the vocabulary at a
time, and the normaliser, ranks and sums are carried along.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import MechinterpError
from .unembedding import FinalStates, Logits

_AT_ONCE = 512
"""Positions whose logits are made together."""


@dataclass(frozen=True, eq=False)
class Readout:
    """What was asked of the logits of some positions.

    Args:
        log_probs: of each token asked for, in nats.
        logits: the same tokens' logits.
        ranks: how many tokens are more probable than the ranked one of each position; empty if none was named.
        top: the most probable token of each position; empty unless asked for.
        top_log_probs: how probable it is.
        kl: KL(clean || these) where it was asked for, in nats.
    """

    log_probs: Float[Tensor, " asked"]
    logits: Float[Tensor, " asked"]
    ranks: Int[Tensor, " ranked"]
    top: Int[Tensor, " best"]
    top_log_probs: Float[Tensor, " best"]
    kl: Float[Tensor, " compared"]


@dataclass(frozen=True, eq=False)
class Compared:
    """Positions whose distribution is compared with a given one.

    Args:
        at: which.
        clean: log-probabilities of the given one.
    """

    at: Int[Tensor, " compared"]
    clean: Float[Tensor, " vocab"]


def log_softmax(logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
    """Log-probabilities in float32 at least: half precision cannot hold them."""
    return _wide(logits).log_softmax(-1)


def read(
    logits: Logits,
    at: Int[Tensor, " asked"],
    tokens: Int[Tensor, " asked"],
    *,
    ranked: Int[Tensor, " position"] | None = None,
    top: bool = False,
    compared: Compared | None = None,
) -> Readout:
    """Read what is wanted of the logits of some positions.

    Args:
        logits: [position, vocab], or the states that they are made of.
        at: a position for each token asked for.
        tokens: the tokens asked for.
        ranked: a token of each position whose rank is wanted.
        top: whether the most probable tokens are wanted.
        compared: positions that are compared with a given distribution.

    Raises:
        MechinterpError: final states whose logits are not finite.
    """
    if not isinstance(logits, FinalStates):
        return _of_whole(logits, at, tokens, ranked, top, compared)
    parts = []
    for start in range(0, max(1, len(logits)), _AT_ONCE):
        stop = start + _AT_ONCE
        inside = (at >= start) & (at < stop)
        if compared is None:
            some = None
        else:
            some = Compared(compared.at[(compared.at >= start) & (compared.at < stop)] - start, compared.clean)
        one = None if ranked is None else ranked[start:stop]
        parts.append((inside, _streamed(logits[start:stop], at[inside] - start, tokens[inside], one, top, some)))
    return _together(parts)


def _together(parts: list[tuple[Tensor, Readout]]) -> Readout:
    """The tokens asked for in their order, the positions one after another."""
    if len(parts) == 1:
        return parts[0][1]

    def asked(name: str) -> Tensor:
        out = getattr(parts[0][1], name).new_empty(len(parts[0][0]))
        for inside, part in parts:
            out[inside] = getattr(part, name)
        return out

    def positions(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for _, part in parts])

    return Readout(asked("log_probs"), asked("logits"), *map(positions, ("ranks", "top", "top_log_probs", "kl")))


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _of_whole(
    logits: Float[Tensor, "position vocab"],
    at: Tensor,
    tokens: Tensor,
    ranked: Tensor | None,
    top: bool,
    compared: Compared | None,
) -> Readout:
    log_probs = log_softmax(logits)
    nothing = log_probs.new_zeros(0)
    ranks = best = nothing.long()
    top_log_probs = kl = nothing
    if ranked is not None:
        ranks = (log_probs > log_probs.gather(-1, ranked[:, None])).sum(-1)
    if top:
        best = logits.argmax(-1)
        top_log_probs = log_probs.gather(-1, best[:, None])[:, 0]
    if compared is not None:
        clean = compared.clean.to(log_probs.device)
        kl = (clean.exp() * (clean - log_probs[compared.at])).sum(-1).clamp(min=0)
    return Readout(log_probs[at, tokens], _wide(logits[at, tokens]), ranks, best, top_log_probs, kl)


def _streamed(
    ends: FinalStates, at: Tensor, tokens: Tensor, ranked: Tensor | None, top: bool, compared: Compared | None
) -> Readout:
    unembedding, count, device = ends.unembedding, len(ends), ends.device
    made = dict[int, Tensor]()

    def part(start: int, stop: int) -> Tensor:
        return made.pop(start) if start in made else _wide(unembedding.logits(ends.states, start, stop))

    asked = torch.empty(len(tokens), dtype=_wide(ends.states[:0]).dtype, device=device)
    peak = torch.full((count,), -torch.inf, dtype=asked.dtype, device=device)
    total = torch.zeros(count, dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
    best, ranks = (
        torch.zeros(count, dtype=torch.long, device=device),
        torch.zeros(count, dtype=torch.long, device=device),
    )
    own = None
    if ranked is not None:  # their logits come first, for all others are compared with them
        own = asked.new_empty(count)
        for start, stop in unembedding.parts():
            here = (ranked >= start) & (ranked < stop)
            if bool(here.any()):
                made[start] = part(start, stop)
                own[here] = made[start][here, ranked[here] - start]
    if compared is not None:
        clean = compared.clean.to(device)
        everywhere = torch.equal(compared.at, torch.arange(count, device=device))
        cross, mass = total.new_zeros(len(compared.at)), total.new_zeros(())
    for start, stop in unembedding.parts():
        logits = part(start, stop)
        here = (tokens >= start) & (tokens < stop)
        if bool(here.any()):
            asked[here] = logits[at[here], tokens[here] - start]
        if own is not None:
            ranks += (logits > own[:, None]).view(torch.int8).sum(-1, dtype=torch.int32)
        if top:
            highest, where = logits.max(-1)
            best = torch.where(highest > peak, where + start, best)
        else:
            highest = logits.amax(-1)
        new = torch.maximum(peak, highest)
        logits.sub_(new[:, None])
        if compared is not None:  # below the peak, for products of large logits would round away what differs
            below = logits if everywhere else logits[compared.at]
            chances = clean[start:stop].exp()
            weight = chances.sum(dtype=total.dtype)
            cross += (chances * clean[start:stop]).sum(dtype=total.dtype) - below @ chances
            cross -= new[compared.at].to(total) * weight
            mass += weight
        total *= (peak - new).exp()
        total += logits.exp_().sum(-1)
        peak = new
    normaliser = peak + total.log()
    if not bool(normaliser.isfinite().all()):
        raise MechinterpError("the model gives logits that are no numbers; its weights or what was written are broken")
    empty = asked.new_zeros(0)
    return Readout(
        log_probs=(asked - normaliser[at]).to(asked.dtype),
        logits=asked,
        ranks=ranks if own is not None else ranks[:0],
        top=best if top else best[:0],
        top_log_probs=(peak - normaliser).to(asked.dtype) if top else empty,
        kl=(cross + normaliser[compared.at] * mass).to(asked.dtype).clamp(min=0) if compared is not None else empty,
    )
