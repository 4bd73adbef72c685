"""Hyper-parameters that the editors of many facts at once share: the value's, and how values become weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..value.hparams import ValueHparams

CONTEXT_MEANS = ("types", "plain")
SPREADS = ("even", "root")


@dataclass(frozen=True)
class BatchHparams(ValueHparams):
    """How values of many facts are written: each value found as in `ValueHparams`, and

    Args:
        weight: what is to be preserved counts this much: λ of C (about how many tokens of text each new fact is held
            against), or α of the identity within AlphaEdit's null space.
        slack: ρ of the solver: 0 writes every value exactly, 1 is least squares (see `solve`).
        spread: how much of what is missing each of several layers takes: "even": what is left divided by the number of
            layers that are left; "root": divided by its square root (PMET).
        context_mean: how keys are averaged over contexts: "types": the bare prompt counts half, as the published MEMIT
            code has it; "plain": every context the same.
        context_starts: words that sampled contexts begin with, in turn; empty: they begin at BOS.
        parallel_above: two requests with different targets whose keys have a cosine above this, as the solver sees
            them, are named in a warning.
        max_disturbance: an edit that changes more than this share of a layer's output on ordinary text is refused as
            disabling.
        max_essence: so is one after which the mean KL(edited || original) after the neutral sentence about the subjects
            exceeds this many nats; None: it is not measured.

    Raises:
        UsageError: a value outside its range.
    """

    method: ClassVar[str] = "this editor of many facts"

    weight: float = 1000.0
    slack: float = 1.0
    spread: str = "even"
    context_mean: str = "types"
    context_starts: tuple[str, ...] = ()
    context_lengths: tuple[tuple[int, int], ...] = ((5, 10),)
    parallel_above: float = 0.9
    max_disturbance: float = 1.0
    max_essence: float | None = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of(context_mean=CONTEXT_MEANS, spread=SPREADS)
        self._above_zero("weight", "parallel_above", "max_disturbance", "max_essence")
        self._not_negative("slack")
