"""The second moment of MLP keys: what the layer is used to, and so what an edit should leave alone.

C = (1/N) Σ k kᵀ, uncentred, over every token of a body of text; k is the input of the MLP down-projection
(Meng et al. 2022, §3.1 and App. E.5).  It is kept with what it was made from, and refuses to serve another
model.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ...errors import MechinterpError, UsageError
from ...models.model import Model
from ...patching.plain.sinks import TOWERING
from ...public import public
from ...runs.files import save_somewhere
from ...runs.hashing import TextHash, short, tensor_bytes
from ...runs.ranks import ranks
from ...runs.tensors import read_tensors, write_tensors
from ...runs.versions import versions
from .collection import Collecting, collected
from .spectrum import MAX_CONDITION, Repair, Solver, Spectral, cholesky_solver, repaired_solver, shrinkage_strength
from .sums import Sums
from .towering import sentence_on

KIND = "second moment"
_HEADER = (
    "layer", "tokens", "model", "model_name", "model_dtype", "documents", "texts", "fourth_moment", "complete",
    "versions", "towering", "bound", "shortened",
)  # fmt: skip
_DEFAULT_STRENGTH = {"ridge": 1e-2, "pseudo-inverse": 1e-8}
_ASYMMETRY = 1e-5
"""Of the largest entry: more than rounding leaves between the halves of a matrix of single precision."""
_ROWS = 1024
"""Rows that are compared to columns at once: a second moment can take gigabytes."""


@dataclass(frozen=True, eq=False)
class SecondMoment(Spectral):
    """C = E[k kᵀ] of one layer's keys, with its origin.

    A singular or nearly singular C (condition number above 1e12, e.g. ReLU units that never fired, or fewer
    tokens than units) is refused when it is solved, not repaired in silence: each repair puts the edit
    somewhere else, so the choice is part of the method and belongs to the user.  `repaired()` makes it.

    Args:
        layer: the layer whose keys these are.
        matrix: C, float64.
        tokens: how many keys it averages.
        model: fingerprint of the model they came from.
        model_name: its name, for messages.
        model_dtype: its dtype ("float32"), for messages.
        documents: how many texts.
        texts: fingerprint of the texts: the sum of their SHA-256, so that order and sharding do not change
            it.
        fourth_moment: mean of ‖k‖⁴, from which shrinkage takes its strength; None where unknown.
        complete: False when the collection was interrupted.
        repair: what stands in for C where it is singular; None: nothing does.
        versions: of the libraries it was made with.
        towering: keys longer than this multiple of the median were shortened to it (`towering.py`); None: all count as
            they are.
        bound: that norm.
        shortened: how many were.
    """

    layer: int
    matrix: Float64[Tensor, "d_mlp d_mlp"]
    tokens: int
    model: str
    model_name: str = ""
    model_dtype: str = ""
    documents: int = 0
    texts: str = ""
    fourth_moment: float | None = None
    complete: bool = True
    repair: Repair | None = None
    versions: dict[str, str] = field(default_factory=versions)
    towering: float | None = None
    bound: float | None = None
    shortened: int = 0

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or self.matrix.shape[0] != self.matrix.shape[1]:
            raise UsageError(f"a second moment is a square matrix, not one of shape {tuple(self.matrix.shape)}")
        if self.matrix.dtype != torch.float64:
            raise UsageError(f"a second moment is kept in float64, not in {self.matrix.dtype}; convert it: .double()")
        if self.tokens < 1:
            raise UsageError(f"the second moment of layer {self.layer} averages no token at all; give it some text")
        if not bool(torch.isfinite(self.matrix).all()):
            raise MechinterpError(f"the second moment of layer {self.layer} holds NaN or infinite values")
        if not _is_symmetric(self.matrix):
            raise UsageError(f"the matrix given for layer {self.layer} is not symmetric, so it is no second moment")
        _ = self._made_at

    @staticmethod
    @public
    def collect(
        model: Model,
        texts: Iterable[str],
        layer: int,
        *,
        max_tokens: int | None = None,
        batch_tokens: int = 4096,
        progress: bool = True,
        towering: float | None = TOWERING,
        save: str | Path | None = None,
    ) -> SecondMoment:
        """Collect one layer's second moment from texts; see `collect_moments` for several layers at once.

        Raises:
            NotSavedError: it could not be written to `save`; it is the error's `result`.
        """
        index = model.layout.check_layer(layer)
        asked = Collecting(max_tokens, batch_tokens, progress=progress, towering=towering)
        with ranks(model.device) as me:
            sums, complete = collected(model, texts, [index], asked, me)
            found = SecondMoment.of_sums(model, sums, complete=complete)[index]
        if save is not None:
            save_somewhere(save, found.save, found)
        return found

    @staticmethod
    def of_sums(model: Model, sums: Sums, *, complete: bool) -> dict[int, SecondMoment]:
        """The averages of a collection by layer; its sums are used up.

        Args:
            model: whose keys they are.
            sums: with at least one token.
            complete: False where the collection was interrupted.
        """
        fingerprint = model.acting_fingerprint()
        return {
            layer: SecondMoment(
                layer=layer,
                matrix=sums.average(layer),
                tokens=sums.tokens,
                model=fingerprint,
                model_name=model.name,
                model_dtype=model.dtype_name,
                documents=sums.documents,
                texts=sums.texts.hexdigest(),
                fourth_moment=float(sums.fourth[layer]) / sums.tokens,
                complete=complete,
                towering=sums.towering,
                bound=None if sums.towering is None else sums.bounds[layer],
                shortened=int(sums.shortened[layer]),
            )
            for layer in sums.products
        }

    @staticmethod
    @public
    def identity(model: Model, layer: int) -> SecondMoment:
        """C = I: no notion of what the layer is used to (an ablation; several public "ROME"s are this)."""
        index = model.layout.check_layer(layer)
        return SecondMoment.given(model, index, torch.eye(model.d_mlp, dtype=torch.float64))

    @staticmethod
    @public
    def given(
        model: Model,
        layer: int,
        matrix: Float[Tensor, "d_mlp d_mlp"] | Float[np.ndarray, "d_mlp d_mlp"],
        *,
        tokens: int | None = None,
    ) -> SecondMoment:
        """A second moment that was computed elsewhere.

        Args:
            model: whose keys it is of.
            layer: of which layer.
            matrix: C.
            tokens: how many keys it averages, where that is known.

        Raises:
            UsageError: not of the size of the model's keys, no real numbers, or not symmetric.
            MechinterpError: NaN or infinite values.
        """
        index = model.layout.check_layer(layer)
        try:
            exact = torch.as_tensor(matrix).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"the second moment given for layer {index} is no matrix of numbers: {error}") from error
        if tuple(exact.shape) != (model.d_mlp, model.d_mlp):
            raise UsageError(
                f"the keys of {model.name} have {model.d_mlp} entries, but the given matrix has the shape "
                f"{tuple(exact.shape)}"
            )
        if exact.is_complex() or exact.dtype == torch.bool:
            raise UsageError(f"a second moment is a matrix of real numbers, not of {exact.dtype}")
        exact = exact.double()
        symmetric = (exact + exact.T) / 2 if _is_symmetric(exact) else exact  # refused below, or NaN, which is, too
        return SecondMoment(
            index, symmetric, 1 if tokens is None else tokens, model.fingerprint(), model.name, model.dtype_name
        )

    def repaired(self, kind: str, strength: float | None = None) -> SecondMoment:
        """The same moment with a named stand-in for its empty directions; see `Repair` for the three kinds.

        Args:
            kind: "ridge", "pseudo-inverse" or "shrinkage".
            strength: default: 1e-2 for the ridge, 1e-8 for the pseudo-inverse, the Ledoit-Wolf estimate for
                shrinkage.

        Raises:
            UsageError: an unknown kind, a strength outside (0, 1], shrinkage without strength on a moment
                that does not know its fourth moment.
        """
        if strength is None and kind == "shrinkage":
            if self.fourth_moment is None:
                raise UsageError("this second moment was not collected here, so shrinkage needs a strength of its own")
            estimate = shrinkage_strength(self.matrix, self.fourth_moment, self.tokens)
            strength = max(estimate, torch.finfo(torch.float64).eps)
        return replace(self, repair=Repair(kind, _DEFAULT_STRENGTH.get(kind, 1.0) if strength is None else strength))

    @staticmethod
    def merge(parts: Iterable[SecondMoment]) -> SecondMoment:
        """One moment from several, collected from different texts (shards of one body, say).

        Raises:
            UsageError: none given, of different layers or models, with different keys shortened, two of the same
                texts, or one that was not collected from text.
        """
        return _merged(list(parts))

    @property
    def from_text(self) -> bool:
        """Collected from text; not one that was given, nor C = I."""
        return bool(self.texts)

    @property
    def sinks(self) -> str:
        """How many keys were shortened as those of attention sinks, in words; empty where none was."""
        return sentence_on(self.shortened, self.tokens, self.bound, self.towering)

    @property
    def is_identity(self) -> bool:
        """C = I, which stands for no text at all."""
        size = self.matrix.shape[0]
        return int(self.matrix.count_nonzero()) == size and bool((self.matrix.diagonal() == 1).all())

    @property
    def is_singular(self) -> bool:
        """Not to be solved as it is, and no repair was named."""
        return self.repair is None and self.condition > MAX_CONDITION

    @cached_property
    def _solver(self) -> Solver:
        if self.repair is not None:
            solver = repaired_solver(self.matrix, self.repair)
        else:
            solver = None if self.is_singular else cholesky_solver(self.matrix)
        if solver is None:
            size = self.matrix.shape[0]
            raise MechinterpError(
                f"the second moment of layer {self.layer} is singular to working precision: rank "
                f"{self.rank} of {size} ({self.dead_units} units never fire, {self.tokens:,} tokens were "
                "seen), so C⁻¹k means nothing; collect more text, or say what should stand in with "
                "moments.repaired('shrinkage' | 'pseudo-inverse' | 'ridge'), or with --repair on the command line"
            )
        return solver

    def solve(self, keys: Float[Tensor, "*n d_mlp"]) -> Float64[Tensor, "*n d_mlp"]:
        """C⁻¹k for one key or for several, in float64 and without ever forming C⁻¹.

        Raises:
            MechinterpError: C is singular to working precision (condition number above 1e12) and no repair
                was named.
            UsageError: keys of another width, or C was changed in place.
        """
        size = self.matrix.shape[0]
        if keys.shape[-1] != size:
            raise UsageError(f"keys of layer {self.layer} have {size} entries, not {keys.shape[-1]}")
        self._check_untouched()
        columns = keys.detach().to(self.matrix).reshape(-1, size).T
        return self._solver(columns).T.reshape(keys.shape)

    @public
    def check(self, model: Model, layer: int, *, force: bool = False) -> None:
        """Look whether it may serve an edit of this layer.

        A collection that was interrupted may, with a warning: it says less than was asked for.

        Raises:
            UsageError: of another layer, one that the model does not have, another size or (unless `force`) another
                model; or its matrix was changed in place.
        """
        if layer != self.layer:
            raise UsageError(f"this second moment is of layer {self.layer}, but layer {layer} is to be edited")
        self._check_model(model, force=force)
        self._check_untouched()
        if not self.complete:
            warnings.warn(
                f"the second moment of layer {self.layer} is incomplete: its collection was interrupted after "
                f"{self.tokens:,} tokens; ask for the same collection again to complete it",
                stacklevel=2,
            )

    def _check_model(self, model: Model, *, force: bool) -> None:
        if not force and self.model not in (model.fingerprint(), model.acting_fingerprint()):
            raise UsageError(
                "this second moment was collected from "
                f"{model.other_than(self.model_name, self.model, self.model_dtype)}; collect it again, or pass "
                "force=True if the two differ only by an edit"
            )
        if self.matrix.shape[0] != model.d_mlp:
            raise UsageError(f"this second moment has {self.matrix.shape[0]} units, {model.name} has {model.d_mlp}")
        if not 0 <= self.layer < model.n_layers:
            raise UsageError(
                f"this second moment is said to be of layer {self.layer}, but {model.name} has layers 0 to "
                f"{model.n_layers - 1}"
            )

    @cached_property
    def _made_at(self) -> int:
        """How often the matrix had been changed in place when this was made of it."""
        return _version(self.matrix)

    def _check_untouched(self) -> None:
        """What is derived from the matrix is computed once, and would no longer be its own."""
        if _version(self.matrix) != self._made_at:
            raise UsageError(
                f"the matrix of the second moment of layer {self.layer} was changed in place; make another one of the "
                "changed matrix: dataclasses.replace(moments, matrix=...)"
            )

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the matrix, its origin and its repair."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.layer} {self.model} {self.texts} {self.tokens} {self.repair}".encode())
        digest.update(tensor_bytes(self.matrix))
        return digest.hexdigest()

    @public
    def save(self, path: str | Path) -> None:
        """Write the matrix as safetensors in full precision, and in the header all that says where it came from.

        Raises:
            StorageError: it cannot be written; it is still in memory.
        """
        header = {name: getattr(self, name) for name in _HEADER}
        header["repair"] = asdict(self.repair) if self.repair else None
        write_tensors(path, KIND, {"matrix": self.matrix}, header)

    @staticmethod
    @public
    def load(path: str | Path, model: Model | None = None, *, force: bool = False) -> SecondMoment:
        """Read a saved moment.

        Args:
            path: the file.
            model: the model it is to serve; its fingerprint is compared at once.  None: compared when it is
                used.
            force: accept the moment of another model.

        Raises:
            UsageError: no such file, not a second moment, or of another model (both fingerprints are shown).
            DamagedError: the file does not hold what was written, or is cut short.
        """
        tensors, header = read_tensors(path, KIND)
        repair = Repair(**header["repair"]) if header["repair"] else None
        known = {name: header[name] for name in _HEADER if name in header}
        found = SecondMoment(matrix=tensors["matrix"], repair=repair, **known)
        if model is not None:
            found._check_model(model, force=force)
        return found

    def __repr__(self) -> str:
        repair = f", repaired by {self.repair.kind} {self.repair.strength:.2g}" if self.repair else ""
        partial = "" if self.complete else ", interrupted"
        return (
            f"SecondMoment(layer {self.layer} of {self.model_name or short(self.model)}, "
            f"{self.matrix.shape[0]} units, {self.tokens:,} tokens in {self.documents:,} "
            f"texts{repair}{partial}{self.sinks and f', {self.sinks}'})"
        )


def _is_symmetric(matrix: Float64[Tensor, "d d"]) -> bool:
    """Up to rounding; NaN is not."""
    if not matrix.numel():
        return True
    low, high = (float(end) for end in matrix.aminmax())
    allowed = _ASYMMETRY * max(-low, high)
    return all(
        bool(((matrix[start : start + _ROWS] - matrix[:, start : start + _ROWS].T).abs() <= allowed).all())
        for start in range(0, len(matrix), _ROWS)
    )


def _version(matrix: Float64[Tensor, "d d"]) -> int:
    """PyTorch's count of changes in place; it keeps none of a tensor made in inference mode."""
    return 0 if matrix.is_inference() else matrix._version


def _bounded_alike(one: float | None, other: float | None) -> bool:
    """Up to what another machine makes of the same median."""
    return one == other if one is None or other is None else math.isclose(one, other, rel_tol=1e-3)


def _longer(bound: float | None) -> str:
    return "of no length" if bound is None else f"longer than {bound:.4g}"


def _merged(parts: Sequence[SecondMoment]) -> SecondMoment:
    """One moment from several of the same layer and model, each from texts of its own; repairs are dropped."""
    if not parts:
        raise UsageError("there is no second moment to merge")
    first = parts[0]
    for part in parts:
        if (part.layer, part.model) != (first.layer, first.model):
            raise UsageError(
                f"second moments of layer {first.layer} of model {short(first.model)} and of layer "
                f"{part.layer} of model {short(part.model)} cannot be merged"
            )
        if not part.from_text:
            raise UsageError(f"{part} was not collected from text, so it has no weight next to others")
        if not _bounded_alike(part.bound, first.bound):
            raise UsageError(
                f"of two second moments of layer {part.layer} the one shortens keys {_longer(first.bound)} and the "
                f"other those {_longer(part.bound)}, so they are averages of different things; collect them with the "
                "same towering= (--towering)"
            )
    if len({part.texts for part in parts}) < len(parts):
        raise UsageError("two of these second moments are of the same texts, which would be counted twice; leave one")
    tokens = sum(part.tokens for part in parts)
    matrix = torch.zeros_like(first.matrix)
    texts = TextHash()
    for part in parts:
        matrix.add_(part.matrix, alpha=part.tokens / tokens)
        texts.merge(part.texts)
    fourths = [part.fourth_moment for part in parts]
    known = [f * part.tokens for f, part in zip(fourths, parts, strict=True) if f is not None]
    return replace(
        first,
        matrix=matrix,
        tokens=tokens,
        documents=sum(part.documents for part in parts),
        shortened=sum(part.shortened for part in parts),
        texts=texts.hexdigest(),
        fourth_moment=sum(known) / tokens if len(known) == len(parts) else None,
        complete=all(part.complete for part in parts),
        repair=None,
    )
