"""An edit is a value: what changes in which layer, and where that came from.

with edit.on(model): ...        # applied for the block, weights untouched
undo = edit.bake(model); ...; undo.undo()
both = first | second
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from ...errors import UsageError
from ...models.model import Model
from ...runs.hashing import short, tensor_hash
from .active import active_edits, added
from .factors import Factors
from .provenance import Provenance
from .report import BatchReport, RomeReport

if TYPE_CHECKING:
    from .bake import Undo


@dataclass(frozen=True, eq=False)
class Part:
    """One edit as it was made: its change of each layer and its origin."""

    factors: Mapping[int, Factors]
    provenance: Provenance

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over the change and the weights it is for: what it does, not what is known about it."""
        digest = hashlib.sha256(self.provenance.model.encode())
        for layer in sorted(self.factors):
            digest.update(f"{layer} {tensor_hash(self.factors[layer].u, self.factors[layer].v)}".encode())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of MLP down-projections that can be applied, undone, saved and composed.

    Args:
        parts: the edits it consists of, in the order in which they were joined; most edits have one.

    Raises:
        UsageError: no part, or parts made for different weights.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise UsageError("an edit without parts changes nothing; make one with rome()")
        first = self.parts[0].provenance
        for part in self.parts[1:]:
            other = part.provenance
            if other.model != first.model:
                raise UsageError(
                    f"an edit made for {first.model_name} (fingerprint {short(first.model)}) and one made "
                    f"for {other.model_name} (fingerprint {short(other.model)}) cannot be joined; make the "
                    "second one within `with first.on(model):` instead of after bake()"
                )

    @staticmethod
    def of(factors: Mapping[int, Factors], provenance: Provenance) -> Edit:
        """An edit of one part."""
        return Edit((Part(dict(factors), provenance),))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the changes of all parts."""
        return hashlib.sha256(" ".join(part.digest for part in self.parts).encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Edit) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers it changes."""
        return tuple(sorted({layer for part in self.parts for layer in part.factors}))

    def factors(self, layer: int) -> Factors:
        """The change of one layer, the parts side by side.

        Raises:
            UsageError: the edit does not touch this layer.
        """
        found = [part.factors[layer] for part in self.parts if layer in part.factors]
        if not found:
            raise UsageError(f"the edit changes layer {', '.join(map(str, self.layers))}, not layer {layer}")
        return Factors.joined(found)

    def delta(self, layer: int) -> Float[Tensor, "d_mlp d_model"]:
        """ΔW of one layer, dense, with keys as rows."""
        return self.factors(layer).dense

    @property
    def provenance(self) -> Provenance:
        """Where the edit came from.

        Raises:
            UsageError: it is composed of several; look at `parts`.
        """
        if len(self.parts) > 1:
            raise UsageError(f"this edit is composed of {len(self.parts)}; look at edit.parts for the origin of each")
        return self.parts[0].provenance

    @property
    def report(self) -> RomeReport | BatchReport:
        """What happened when it was made.

        Raises:
            UsageError: it is composed of several, or was made by hand and has no report.
        """
        report = self.provenance.report
        if report is None:
            raise UsageError(f"this edit was made by {self.provenance.method!r} and has no report")
        return report

    def noted(self, **figures: object) -> Edit:
        """The same edit with more among the hyper-parameters of its origin."""
        parts = (
            replace(part, provenance=replace(part.provenance, hparams={**part.provenance.hparams, **figures}))
            for part in self.parts
        )
        return Edit(tuple(parts))

    def __or__(self, other: Edit) -> Edit:
        """Both edits together; a part that is in both counts once.

        Raises:
            UsageError: they were made for different weights.
        """
        here = {part.digest for part in self.parts}
        return Edit(self.parts + tuple(part for part in other.parts if part.digest not in here))

    def check(self, model: Model, *, force: bool = False) -> None:
        """Refuse a model the edit was not made for.

        Raises:
            UsageError: other weights (both fingerprints are shown; `force` accepts them), edits missing that
                were on when this one was made (`force` accepts that too), a part that is on already, or other
                sizes.
        """
        active = set(active_edits(model))
        there = active | {part.digest for part in self.parts}
        found = "" if force else model.fingerprint()
        for part in self.parts:
            origin = part.provenance
            if not force and found != origin.model:
                raise UsageError(
                    f"the edit {self._names(part)} was made for {origin.model_name} (fingerprint "
                    f"{short(origin.model)}), but the model at hand is {model.name} (fingerprint "
                    f"{short(found)}); pass force=True to apply it all the same"
                )
            for layer, change in part.factors.items():
                shape = tuple(model.layout.down_projection(layer).shape)
                if shape != (change.u.shape[1], change.v.shape[1]):
                    raise UsageError(
                        f"the edit changes a matrix of shape {(change.u.shape[1], change.v.shape[1])}, but "
                        f"layer {layer} of {model.name} has one of shape {shape}; it belongs to "
                        f"{origin.model_name or 'another model'}"
                    )
            if part.digest in active:
                raise UsageError(f"the edit {self._names(part)} is on already; applying it twice would double it")
            if force:
                continue
            missing = set(origin.on_top_of) - there
            if missing:
                raise UsageError(
                    f"the edit {self._names(part)} was made while other edits were on "
                    f"({', '.join(short(digest) for digest in sorted(missing))}), which it presupposes; "
                    "apply them too (first | second), or pass force=True"
                )

    @staticmethod
    def _names(part: Part) -> str:
        requests = part.provenance.requests
        if not requests:
            return short(part.digest)
        more = f" and {len(requests) - 1} more" if len(requests) > 1 else ""
        return repr(f"{requests[0].prompt.text} -> {requests[0].target}") + more

    @contextmanager
    def on(self, model: Model, *, force: bool = False) -> Iterator[Model]:
        """Apply the edit for the length of a block; the weights stay as they are.

        Edits nest and add up.  They are taken off again when the block ends, by an exception too.

        Args:
            model: the model; the same one is yielded.
            force: apply it to other weights than it was made for.

        Raises:
            UsageError: see `check`.
        """
        self.check(model, force=force)
        with added(model, {part.digest: part.factors for part in self.parts}):
            yield model

    def bake(self, model: Model, *, force: bool = False) -> Undo:
        """Write the edit into the weights, in place.

        Returns:
            a handle whose `undo()` restores the exact bytes.

        Raises:
            UsageError: see `check`.
        """
        from .bake import bake

        return bake(self, model, force=force)

    def save(self, path: str | Path) -> None:
        """Write it as a safetensors file of a few kilobytes, its origin in the header.

        Raises:
            StorageError: it cannot be written; the edit is still in memory.
        """
        from .saved import save_edit

        save_edit(self, path)

    @staticmethod
    def load(path: str | Path) -> Edit:
        """Read a saved edit.

        Raises:
            UsageError: no such file, or not an edit.
            DamagedError: the file does not hold what was written, or is cut short.
        """
        from .saved import load_edit

        return load_edit(path)

    def to_hf(self, model: Model, folder: str | Path, *, overwrite: bool = False, force: bool = False) -> None:
        """Write the edited model as a Hugging Face folder that plain transformers loads (`export.to_hf`)."""
        from .export import to_hf

        to_hf(self, model, folder, overwrite=overwrite, force=force)

    def __repr__(self) -> str:
        inner: Sequence[str] = [f"{self._names(part)} by {part.provenance.method}" for part in self.parts[:3]]
        more = f" and {len(self.parts) - 3} more" if len(self.parts) > 3 else ""
        layers = ", ".join(map(str, self.layers))
        return f"Edit({'; '.join(inner)}{more}; layer {layers})"
