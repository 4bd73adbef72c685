"""Edits on disk: the factors as tensors, the origin as JSON in the header."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...errors import MechinterpError
from ...facts.prompts import Prompt
from ...runs.tensor_file import read_tensors, write_tensors
from .factors import Factors
from .provenance import Provenance
from .report import BatchReport, EssenceDrift, LayerChange, LossTerms, Outcome, RomeReport
from .request import EditRequest

if TYPE_CHECKING:
    from .edit import Edit

_KIND = "edit"


def save_edit(edit: Edit, path: str | Path) -> None:
    """Write an edit; its size is that of its factors plus a few kilobytes."""
    tensors: dict[str, Tensor] = {}
    parts: list[dict[str, Any]] = []
    for index, part in enumerate(edit.parts):
        for layer, change in part.factors.items():
            tensors[f"{index}.{layer}.u"] = change.u
            tensors[f"{index}.{layer}.v"] = change.v
        parts.append({"digest": part.digest, "provenance": asdict(part.provenance)})
    write_tensors(path, _KIND, tensors, {"parts": parts})


def load_edit(path: str | Path) -> Edit:
    """Read an edit, and compare its factors with the digest they were saved with."""
    from .edit import Edit, Part

    tensors, header = read_tensors(path, _KIND)
    parts = []
    try:
        for index, saved in enumerate(header["parts"]):
            names = [name.split(".") for name in tensors]
            layers = sorted({int(layer) for part, layer, _ in names if int(part) == index})
            factors = {layer: Factors(tensors[f"{index}.{layer}.u"], tensors[f"{index}.{layer}.v"]) for layer in layers}
            part = Part(factors, _provenance(saved["provenance"]))
            if part.digest != saved["digest"]:
                raise MechinterpError(f"{str(path)!r} is damaged: its factors are not those it was saved with")
            parts.append(part)
    except (KeyError, TypeError, ValueError) as error:
        raise MechinterpError(f"the header of {str(path)!r} is damaged ({error})") from error
    return Edit(tuple(parts))


def _provenance(saved: dict[str, Any]) -> Provenance:
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
