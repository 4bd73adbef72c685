"""Sequences of edits on disk: every step, the settings, and what the method remembers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import UsageError
from ...models.model import Model
from ...runs.hashing import short
from ...runs.tensors import read_tensors, write_tensors
from ..editors.grace_entries import Entries
from ..editors.supplies import Moments
from ..editors.tpatcher import PatchMemory
from ..editors.wise import WiseState
from ..edits.edit import Edit
from ..edits.saved import packed, unpacked
from ..gradients.signals import LifelongStatistics
from ..memory.past_keys import PastKeys
from ..moments.moments import SecondMoment

_KIND = "sequence of edits"
_MEMORIES = {one.__name__: one for one in (PastKeys, LifelongStatistics, Entries, PatchMemory, WiseState)}
"""What editors remember, by name: each gives its tensors and is made of them again."""


@dataclass(frozen=True, eq=False)
class SavedSequence:
    """All that a sequence is made of, but for the model and the second moments.

    Args:
        editor: name of the method.
        model: fingerprint of the unedited model.
        model_name: its name, for messages.
        model_dtype: its dtype, for messages.
        hparams: as plain values.
        moments: layer -> fingerprint of its second moment.
        options: the other settings, as JSON values.
        steps: the edits.
        past: what the method remembers of them.
    """

    editor: str
    model: str
    model_name: str
    model_dtype: str
    hparams: dict[str, Any]
    moments: dict[str, str]
    options: dict[str, Any]
    steps: tuple[Edit, ...]
    past: Any

    def write(self, path: str | Path) -> None:
        """Write all of it; see `EditSequence.save`."""
        memory = None if self.past is None else type(self.past).__name__
        if memory is not None and memory not in _MEMORIES:
            raise UsageError(
                f"what {self.editor} remembers of earlier edits ({memory}) cannot be written; save the edits "
                "(sequence.edit.save), and keep its memory (sequence.past) yourself"
            )
        tensors, parts = packed([part for step in self.steps for part in step.parts])
        remembered = {} if self.past is None else self.past.state()
        plain = ("editor", "model", "model_name", "model_dtype", "hparams", "moments", "options")
        header = {name: getattr(self, name) for name in plain}
        header |= {"steps": [len(step.parts) for step in self.steps], "parts": parts, "memory": memory}
        write_tensors(path, _KIND, {**_named("edit", tensors), **_named("memory", remembered)}, header)

    @staticmethod
    def read(path: str | Path) -> SavedSequence:
        """Read all of it; see `EditSequence.load`."""
        tensors, header = read_tensors(path, _KIND)
        parts, memory = unpacked(_unnamed("edit", tensors), header.pop("parts")), header.pop("memory")
        ends = list(accumulate(header.pop("steps")))
        steps = tuple(Edit(parts[start:end]) for start, end in zip([0, *ends], ends, strict=False))
        past = None if memory is None else _MEMORIES[memory].of_state(_unnamed("memory", tensors))
        return SavedSequence(steps=steps, past=past, **header)

    def figures(self) -> dict[str, Any]:
        """The hyper-parameters as their type has them: lists are tuples again."""
        return {name: _tuples(value) for name, value in self.hparams.items()}

    def check(self, path: str | Path, model: Model, moments: Moments | None) -> None:
        """Refuse to go on with another model or other second moments.

        Raises:
            UsageError: as it says.
        """
        if model.fingerprint() != self.model:
            raise UsageError(
                f"the sequence {str(path)!r} was begun on "
                f"{model.other_than(self.model_name, self.model, self.model_dtype)}; give the unedited model it was "
                "begun on"
            )
        given = fingerprints(moments)
        for layer, fingerprint in self.moments.items():
            if layer not in given:
                raise UsageError(f"the sequence {str(path)!r} needs the second moment of layer {layer}; pass moments=")
            if given[layer] != fingerprint:
                raise UsageError(
                    f"the sequence {str(path)!r} was begun with another second moment of layer {layer} (fingerprint "
                    f"{short(fingerprint)}, not {short(given[layer])}); give that one"
                )


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def fingerprints(moments: Moments | None) -> dict[str, str]:
    """Layer -> fingerprint of its second moment."""
    if moments is None:
        return {}
    by_layer = {moments.layer: moments} if isinstance(moments, SecondMoment) else moments
    return {str(layer): by_layer[layer].fingerprint() for layer in sorted(by_layer)}


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _unnamed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}/"): one for name, one in tensors.items() if name.startswith(f"{prefix}/")}
