"""Edits on disk: the factors as tensors, the origin as JSON in the header."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ...facts.prompts import Prompt
from ...runs.tensors import read_tensors, write_tensors
from .adapters import Gated, Units
from .change import Change
from .codebook import Codebook
from .inputs import Demonstrations, Recalled
from .provenance import Part, Provenance
from .report import BatchReport, EssenceDrift, LayerChange, LossTerms, Outcome, RomeReport
from .request import EditRequest
from .routed import Routed
from .side_memories import SideMemories
from .weights import WeightChange

_KIND = "edit"
_KINDS = (WeightChange, Units, Codebook, Gated, Demonstrations, Recalled, Routed, SideMemories)
_CHANGES: dict[str, type[Change]] = {change.kind: change for change in _KINDS}
"""Every kind of change, by its name in files."""


def save_parts(parts: Sequence[Part], path: str | Path) -> None:
    """Write the parts of an edit; the size is that of what they hold plus a few kilobytes."""
    tensors, headers = packed(parts)
    write_tensors(path, _KIND, tensors, {"parts": headers})


def load_parts(path: str | Path) -> tuple[Part, ...]:
    """Read the parts of an edit."""
    tensors, header = read_tensors(path, _KIND)
    return unpacked(tensors, header["parts"])


def packed(parts: Sequence[Part]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """What a file keeps of some parts: what their changes hold as tensors, all else as JSON."""
    tensors: dict[str, Tensor] = {}
    headers: list[dict[str, Any]] = []
    for index, part in enumerate(parts):
        tensors |= {f"{index} {name}": tensor for name, tensor in part.change.tensors.items()}
        own = {"kind": part.change.kind, "header": part.change.header}
        headers.append({"change": own, "provenance": asdict(part.provenance)})
    return tensors, headers


def unpacked(tensors: Mapping[str, Tensor], saved: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    """The parts again."""
    own: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        index, _, rest = name.partition(" ")
        own[int(index)][rest] = tensor
    return tuple(
        Part(_CHANGES[one["change"]["kind"]].read(own[index], one["change"]["header"]), _provenance(one["provenance"]))
        for index, one in enumerate(saved)
    )


def _provenance(saved: Mapping[str, Any]) -> Provenance:
    plain = dict(saved)
    plain["requests"] = tuple(
        EditRequest(_prompt(request["prompt"]), request["target"]) for request in plain["requests"]
    )
    plain["report"] = None if plain["report"] is None else _report(plain["report"])
    plain["contexts"] = tuple(plain["contexts"])
    plain["on_top_of"] = tuple(plain["on_top_of"])
    return Provenance(**plain)


def _prompt(saved: dict[str, Any]) -> Prompt:
    turn = saved.get("turn")
    return Prompt(**{**saved, "turn": None if turn is None else tuple(turn)})


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
    return RomeReport(**{**saved, "losses": losses, "essence": essence, "warnings": tuple(saved.get("warnings", ()))})
