"""Edits on disk: the factors as tensors, the origin as JSON in the header."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...facts.prompts import Prompt
from ...runs.tensors import read_tensors, write_tensors
from .factors import Factors
from .provenance import Provenance
from .report import BatchReport, EssenceDrift, LayerChange, LossTerms, Outcome, RomeReport
from .request import EditRequest

if TYPE_CHECKING:
    from .edit import Edit, Part

_KIND = "edit"


def save_edit(edit: Edit, path: str | Path) -> None:
    """Write an edit; its size is that of its factors plus a few kilobytes."""
    tensors, parts = packed(edit.parts)
    write_tensors(path, _KIND, tensors, {"parts": parts})


def load_edit(path: str | Path) -> Edit:
    """Read an edit."""
    from .edit import Edit

    tensors, header = read_tensors(path, _KIND)
    return Edit(unpacked(tensors, header["parts"]))


def packed(parts: Sequence[Part]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """What a file keeps of some parts: their factors as tensors, their origins as JSON."""
    tensors: dict[str, Tensor] = {}
    for index, part in enumerate(parts):
        for layer, change in part.factors.items():
            tensors[f"{index}.{layer}.u"] = change.u
            tensors[f"{index}.{layer}.v"] = change.v
    return tensors, [{"provenance": asdict(part.provenance)} for part in parts]


def unpacked(tensors: Mapping[str, Tensor], saved: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    """The parts again."""
    from .edit import Part

    sides: dict[int, dict[int, dict[str, Tensor]]] = defaultdict(lambda: defaultdict(dict))
    for name, tensor in tensors.items():
        index, layer, side = name.split(".")
        sides[int(index)][int(layer)][side] = tensor
    return tuple(
        Part(
            {layer: Factors(**found) for layer, found in sorted(sides[index].items())},
            _provenance(one["provenance"]),
        )
        for index, one in enumerate(saved)
    )


def _provenance(saved: Mapping[str, Any]) -> Provenance:
    plain = dict(saved)
    plain["requests"] = tuple(
        EditRequest(Prompt(**request["prompt"]), request["target"]) for request in plain["requests"]
    )
    plain["report"] = None if plain["report"] is None else _report(plain["report"])
    plain["contexts"] = tuple(plain["contexts"])
    plain["on_top_of"] = tuple(plain["on_top_of"])
    return Provenance(**plain)


def _report(saved: dict[str, Any]) -> RomeReport | BatchReport:
    if "outcomes" in saved:
        parts = {
            "outcomes": tuple(Outcome(**outcome) for outcome in saved["outcomes"]),
            "layers": tuple(LayerChange(**layer) for layer in saved["layers"]),
            "warnings": tuple(saved["warnings"]),
        }
        return BatchReport(**{**saved, **parts})
    losses = tuple(LossTerms(**terms) for terms in saved["losses"])
    essence = tuple(EssenceDrift(**drift) for drift in saved["essence"])
    return RomeReport(**{**saved, "losses": losses, "essence": essence})
