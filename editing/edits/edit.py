"""An edit is a value: what changes in which layer, and where that came from.

with edit.on(model): ...        # applied for the block, weights untouched
undo = edit.bake(model); ...; undo.undo()
both = first | second
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from ...errors import UsageError
from ...models.layout import DOWN
from ...models.model import Model
from ...public import public
from ...runs.hashing import short
from .active import active_edits, added, noted
from .bake import Undo, bake
from .change import Change
from .export import check_export, to_hf
from .factors import Factors
from .provenance import Part, Provenance
from .report import BatchReport, RomeReport
from .saved import load_parts, save_parts
from .weights import WeightChange


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of a model that can be applied, undone, saved and composed.

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
    def of(change: Change | Mapping[int, Factors], provenance: Provenance) -> Edit:
        """An edit of one part.

        Args:
            change: what it does; a mapping layer -> factors is a change of down-projections.
            provenance: its origin.
        """
        whole = change if isinstance(change, Change) else WeightChange.of_layers(change)
        return Edit((Part(whole, provenance),))

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
        return tuple(sorted({layer for part in self.parts for layer in part.change.layers}))

    @property
    def is_weights(self) -> bool:
        """Whether it is a change of weights alone: what can be baked, exported, forecast and carried by a row."""
        return all(isinstance(part.change, WeightChange) for part in self.parts)

    @property
    def weights(self) -> WeightChange:
        """The change of weights, the parts side by side.

        Raises:
            UsageError: some part is no change of weights.
        """
        found = []
        for part in self.parts:
            if not isinstance(part.change, WeightChange):
                raise UsageError(
                    f"the edit {part} by {part.provenance.method} acts on {part.change.acts_on}, not on weights, so it "
                    "cannot be baked, exported or forecast; apply it with edit.on(model)"
                )
            found.append(part.change)
        return found[0] if len(found) == 1 else WeightChange.joined(found)

    def factors(self, layer: int, matrix: str = DOWN) -> Factors:
        """The change of one matrix, the parts side by side.

        Raises:
            UsageError: the edit does not touch it, or is no change of weights.
        """
        found = self.weights.of(layer, matrix)
        if found is None:
            raise UsageError(
                f"the edit changes layer {', '.join(map(str, self.layers))}, not the {matrix}-projection of layer "
                f"{layer}"
            )
        return found

    def delta(self, layer: int, matrix: str = DOWN) -> Float[Tensor, "d_in d_out"]:
        """ΔW of one matrix, dense, with inputs as rows (of a down-projection: keys)."""
        return self.factors(layer, matrix).dense

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

    @public
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
                    f"the edit {part} was made for "
                    f"{model.other_than(origin.model_name, origin.model, origin.model_dtype)}; pass force=True to "
                    "apply it all the same"
                )
            part.change.check(model, origin.model_name)
            if part.digest in active:
                raise UsageError(f"the edit {part} is on already; applying it twice would double it")
            if force:
                continue
            missing = set(origin.on_top_of) - there
            if missing:
                raise UsageError(
                    f"the edit {part} was made while other edits were on "
                    f"({', '.join(short(digest) for digest in sorted(missing))}), which it presupposes; "
                    "apply them too (first | second), or pass force=True"
                )

    @public
    @contextmanager
    def on(self, model: Model, *, force: bool = False) -> Iterator[Model]:
        """Apply the edit for the length of a block; the weights stay as they are.

        Edits nest and add up.  They are taken off again when the block ends, by an exception too.  They act on the
        model, and so for all threads that run it meanwhile.

        Args:
            model: the model.
            force: apply it to other weights than it was made for.

        Yields:
            the model to be asked: the same one, unless the edit changes what goes in or who answers.

        Raises:
            UsageError: see `check`.
        """
        self.check(model, force=force)
        weights = {part.digest: part.change for part in self.parts if isinstance(part.change, WeightChange)}
        asked = model
        with ExitStack() as stack:
            stack.enter_context(added(model, {digest: change.factors for digest, change in weights.items()}))
            for part in self.parts:
                if part.digest not in weights:
                    stack.enter_context(noted(model, {part.digest: {}}))
                    asked = stack.enter_context(part.change.on(asked))
            yield asked

    @public
    def bake(self, model: Model, *, force: bool = False) -> Undo:
        """Write the edit into the weights, in place.

        Returns:
            a handle whose `undo()` restores the exact bytes.

        Raises:
            UsageError: see `check`; an edit that is no change of weights.
            MechinterpError: something holds the weights unchanged at the moment.
        """
        change = self.weights
        self.check(model, force=force)
        return bake(change, model)

    @public
    def save(self, path: str | Path) -> None:
        """Write it as a safetensors file of a few kilobytes, its origin in the header.

        Raises:
            StorageError: it cannot be written; the edit is still in memory.
        """
        save_parts(self.parts, path)

    @staticmethod
    @public
    def load(path: str | Path) -> Edit:
        """Read a saved edit.

        Raises:
            UsageError: no such file, or not an edit.
            DamagedError: the file does not hold what was written, or is cut short.
        """
        return Edit(load_parts(path))

    @public
    def to_hf(self, model: Model, folder: str | Path, *, overwrite: bool = False, force: bool = False) -> None:
        """Write the edited model as a Hugging Face folder that plain transformers loads, the edit beside the weights.

        The model in memory is left as it was; the folder is written aside and renamed, so that it is whole or not
        there.

        Args:
            model: the model it was made for.
            folder: where to.
            overwrite: replace a saved model that is there; files of yours beside it stay.
            force: accept another model than the edit was made for.

        Raises:
            UsageError: the folder is there and not empty (with `overwrite`: and holds something else than a saved
                model), has no parent folder, or the edit does not belong to the model or is no change of weights.
        """
        change = self.weights
        check_export(folder, overwrite=overwrite)
        self.check(model, force=force)
        to_hf(self.parts, change, model, Path(folder).resolve())

    def __repr__(self) -> str:
        inner: Sequence[str] = [f"{part} by {part.provenance.method}" for part in self.parts[:3]]
        more = f" and {len(self.parts) - 3} more" if len(self.parts) > 3 else ""
        layers = f"; layer {', '.join(map(str, self.layers))}" if self.layers else ""
        return f"Edit({'; '.join(inner)}{more}{layers})"
