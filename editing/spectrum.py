"""How well a second moment can be solved, and the named repairs for one that cannot.

A second moment of MLP keys is often singular: ReLU units that never fire leave empty rows, and fewer tokens
than units leave empty directions.  C⁻¹k is then a division by rounding noise, which no error would betray.
So the plain solution is refused beyond `MAX_CONDITION`, and whoever wants an answer names the one that is
meant: the repairs below differ in where they let an edit go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from ..errors import UsageError

MAX_CONDITION = 1e12
"""Beyond this ratio of the extreme eigenvalues float64 leaves fewer than four digits of C⁻¹k, and
single-precision keys have none to begin with: their rounding puts a floor of about 1e-14 under every
eigenvalue."""

REPAIRS = ("ridge", "pseudo-inverse", "shrinkage")

Solver = Callable[[Float64[Tensor, "d_mlp n"]], Float64[Tensor, "d_mlp n"]]


@dataclass(frozen=True)
class Repair:
    """What stands in for a singular second moment.

    - `ridge`: C + εI with ε = strength · tr(C)/d.  Directions that carried nothing become the *cheapest*
      ones: the edit goes into rare and dead units, where it disturbs little and, if those units stay silent
      elsewhere, generalises little.
    - `pseudo-inverse`: eigenvectors below strength · λ_max are dropped.  The edit stays in the space the
      model uses.
    - `shrinkage`: (1 − ρ)C + ρ·tr(C)/d·I over the units that ever fire, the others left out of the edit; ρ is
      the strength, by default Ledoit and Wolf's estimate from the sample itself (2004, "A well-conditioned
      estimator for large-dimensional covariance matrices"; here about zero instead of the mean, tokens taken
      as independent).

    Args:
        kind: one of the three.
        strength: ε, the eigenvalue limit or ρ as above, without unit.
    """

    kind: str
    strength: float

    def __post_init__(self) -> None:
        if self.kind not in REPAIRS:
            raise UsageError(f"{self.kind!r} is no repair of a second moment; choose one of {', '.join(REPAIRS)}")
        if not 0 < self.strength <= 1:
            raise UsageError(f"the strength of the repair {self.kind!r} is {self.strength:g}; give a number in (0, 1]")


def shrinkage_strength(matrix: Float64[Tensor, "d d"], fourth_moment: float, samples: int) -> float:
    """Ledoit and Wolf's ρ for an uncentred second moment; `fourth_moment` is the samples' mean of ‖k‖⁴."""
    size = matrix.shape[0]
    squares = float(matrix.square().sum())
    distance = squares - float(matrix.trace()) ** 2 / size  # ‖C − μI‖²
    noise = max(fourth_moment - squares, 0.0) / samples  # E‖C − true C‖²
    return min(1.0, noise / distance) if distance > 0 else 1.0


def effective_rank(eigenvalues: Float64[Tensor, " d"]) -> float:
    """exp of the entropy of the normalised eigenvalues (Roy and Vetterli 2007)."""
    shares = eigenvalues.clamp_min(0) / eigenvalues.clamp_min(0).sum()
    return float(torch.special.entr(shares).sum().exp())


def cholesky_solver(matrix: Float64[Tensor, "d d"]) -> Solver | None:
    """Solver by the Cholesky factor, None where the matrix is not positive definite."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        return None
    return lambda keys: torch.cholesky_solve(keys, factor)


def repaired_solver(matrix: Float64[Tensor, "d d"], repair: Repair) -> Solver | None:
    """Solver of the repaired matrix, None where even the repair leaves it indefinite."""
    size = matrix.shape[0]
    if repair.kind == "ridge":
        ridge = repair.strength * float(matrix.trace()) / size
        return cholesky_solver(matrix + ridge * torch.eye(size, dtype=matrix.dtype, device=matrix.device))
    if repair.kind == "pseudo-inverse":
        values, vectors = torch.linalg.eigh(matrix)
        kept = values > repair.strength * values[-1]
        basis, scale = vectors[:, kept], values[kept][:, None]
        return lambda keys: basis @ ((basis.T @ keys) / scale)
    live = matrix.diagonal() > 0
    inner = matrix[live][:, live]
    level = float(inner.trace()) / max(1, inner.shape[0])
    inner = (1 - repair.strength) * inner
    inner.diagonal().add_(repair.strength * level)
    solve = cholesky_solver(inner)
    if solve is None:
        return None

    def solve_live(keys: Float64[Tensor, "d n"]) -> Float64[Tensor, "d n"]:
        out = torch.zeros_like(keys)
        out[live] = solve(keys[live])
        return out

    return solve_live
