"""One solver for the editors that write values into a down-projection: many pairs at once, one cost, one slack.

Keys k₁..kₙ are the rows of K, what is missing at each of them the rows of R = V* − recall(K).  The change ΔW (keys as
rows) minimises

    tr(ΔWᵀ A ΔW)                                     what it costs:  A = λC + K_pᵀK_p
    + ρ⁻¹ ‖K ΔW − R‖²                                what it misses

and every editor of the family is a choice of cost and slack ρ:

    ρ = 0    K ΔW = R exactly (equality)              r-ROME (n = 1), EMMET (n > 1; it takes ρ = 0.1)
    ρ = 1    least squares (ridge)                    MEMIT
    ρ = 1    and A = α·I + K_pᵀK_p within the null    AlphaEdit
             space of C, keys projected onto it

Stationarity, A ΔW = ρ⁻¹ Kᵀ(R − K ΔW), gives by the push-through identity, with B = A⁻¹Kᵀ,

    ΔW = B (K B + ρ·I)⁻¹ R,

so that only A is ever solved against, never inverted, the change has the rank of the batch, and no equation grows with
the batch but one of n × n.  MEMIT's (λC + KᵀK)⁻¹KᵀR and AlphaEdit's published normal equations are the same numbers
(tests/oracles/editors_oracle.py solves them as they are printed).

Sources: Meng et al. 2023 (MEMIT, eq. 14); Gupta et al. 2024 (EMMET, eq. 12); Fang et al. 2025 (AlphaEdit, eq. 14).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ...errors import MechinterpError, UsageError
from ..edits.factors import Factors
from ..moments.moments import SecondMoment
from .null_space import NullSpace

_MOST_PARALLEL = 1 - 1e-9
"""Above this cosine under A⁻¹ two keys are one to double precision, and no change can tell them apart."""


@dataclass(frozen=True, eq=False)
class Cost:
    """A: what a change of one layer costs.

    Args:
        base: C, or the null space of C within which a change is free of cost but for its size.
        weight: λ of C, or α of the identity within the null space.
        past: keys of earlier edits.
    """

    base: SecondMoment | NullSpace
    weight: float = 1.0
    past: Float64[Tensor, "_key d_mlp"] | None = None

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise UsageError(f"the weight of what is to be preserved is {self.weight}; it must be above 0")

    def seen(self, keys: Float[Tensor, "key d_mlp"]) -> Float64[Tensor, "key d_mlp"]:
        """Keys as far as a change can answer them: projected onto the null space, where there is one.

        They go where C is, usually the CPU's memory, and so does all that follows: double precision is not everywhere.
        """
        if isinstance(self.base, NullSpace):
            return self.base.project(keys.detach().to(self.base.used))
        return keys.detach().to(self.base.matrix)

    def solve(self, keys: Float64[Tensor, "key d_mlp"]) -> Float64[Tensor, "key d_mlp"]:
        """A⁻¹k of each (seen) key; past keys enter by Woodbury's identity."""
        plain = self._plain(keys)
        if self.past is None:
            return plain
        past = self.seen(self.past)
        across = self._plain(past)
        inner = past @ across.T + torch.eye(len(past), dtype=past.dtype, device=past.device)
        return plain - torch.linalg.solve(inner, past @ plain.T).T @ across

    def _plain(self, keys: Float64[Tensor, "key d_mlp"]) -> Float64[Tensor, "key d_mlp"]:
        solved = keys if isinstance(self.base, NullSpace) else self.base.solve(keys)
        return solved / self.weight


@dataclass(frozen=True, eq=False)
class Solved:
    """Keys solved against a cost, once for all that is asked of them.

    Args:
        keys: as far as a change can answer them.
        solved: A⁻¹k of each.
        gram: K A⁻¹Kᵀ.
    """

    keys: Float64[Tensor, "key d_mlp"]
    solved: Float64[Tensor, "key d_mlp"]
    gram: Float64[Tensor, "key key"]

    @staticmethod
    def of(keys: Float[Tensor, "key d_mlp"], cost: Cost) -> Solved:
        """Keys under a cost."""
        exact = cost.seen(keys)
        solved = cost.solve(exact)
        gram = exact @ solved.T
        return Solved(exact, solved, (gram + gram.T) / 2)

    @property
    def cosines(self) -> Float64[Tensor, "key key"]:
        """How parallel the keys are, as the solver sees them."""
        return cosines(self.gram)

    def insert(
        self, residuals: Float[Tensor, "key d_model"], *, slack: float, names: tuple[str, ...] | None = None
    ) -> Factors:
        """The change that adds `residuals` at the keys at least cost (see `insert_all`)."""
        if not slack >= 0:
            raise UsageError(f"the slack is {slack}; give 0 (equality), 1 (least squares) or another number above 0")
        if slack == 0:
            _check_apart(self.gram, names)
        gram = self.gram.clone()
        gram.diagonal().add_(slack)
        return Factors(self.solved, torch.linalg.solve(gram, residuals.detach().to(gram)))


def insert_all(
    keys: Float[Tensor, "key d_mlp"],
    residuals: Float[Tensor, "key d_model"],
    cost: Cost,
    *,
    slack: float,
    names: tuple[str, ...] | None = None,
) -> Factors:
    """The change that adds `residuals` at `keys` at least cost.

    Args:
        keys: k of each pair.
        residuals: what the memory's answer lacks at each.
        cost: A.
        slack: ρ: 0 for equality, 1 for least squares.
        names: of the pairs, for messages.

    Raises:
        MechinterpError: with equality, two keys that are one to double precision, or a key outside the null space.
        UsageError: a negative slack.
    """
    return Solved.of(keys, cost).insert(residuals, slack=slack, names=names)


def cosines(gram: Float64[Tensor, "key key"]) -> Float64[Tensor, "key key"]:
    """How parallel keys are, of their products."""
    length = gram.diagonal().clamp_min(0).sqrt()
    return gram / (length[:, None] * length).clamp_min(torch.finfo(gram.dtype).tiny)


def _check_apart(gram: Float64[Tensor, "key key"], names: tuple[str, ...] | None) -> None:
    called = names or tuple(f"pair {i}" for i in range(len(gram)))
    empty = (gram.diagonal() <= 0).nonzero()
    if len(empty):
        raise MechinterpError(
            f"the key of {called[int(empty[0])]} has no component that a change may use, so nothing can be written "
            "at it; use another layer, or a null space of more directions"
        )
    apart = cosines(gram).abs().fill_diagonal_(0)
    worst = int(apart.argmax())
    i, j = divmod(worst, len(gram))
    if float(apart[i, j]) > _MOST_PARALLEL:
        raise MechinterpError(
            f"{called[i]} and {called[j]} have the same key, so no change can give them different values exactly; "
            "leave one out, edit them one after the other, or allow slack"
        )
