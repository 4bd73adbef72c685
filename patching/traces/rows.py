"""Rows of the long table: one cell's draws, with what they are draws of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..algebra.programs import ABLATE, RESTORE, SEVER, Program, nothing
from ..plain.asked import Asked
from ..plain.metrics import METRICS, Scores
from .labels import NO_PLACE, Label
from .table import COLUMNS

Columns = dict[str, Any]


def cell_columns(
    asked: Asked, foil: str, run: str, scores: Scores, program: Program = nothing, place: Label = NO_PLACE
) -> Columns:
    """One cell's draws as columns; what is the same for all of them is given once and repeated by `frame_of`."""
    prompt = asked.prompt.prompt
    return {
        "prompt": prompt.name,
        "relation": prompt.relation,
        "foil": foil,
        "run": run,
        "component": restored_names(program),
        "window": program.window or 1,
        "severed": severed_names(program),
        "position": place.position,
        "token": place.token,
        "role": place.role,
        "layer": place.layer,
        "head": place.head,
        **{metric: scores[metric] for metric in (*METRICS, *scores.own)},
    }


def restored_names(program: Program) -> str:
    """The components a program restores, or ablates, as the table calls them."""
    return _names(program, RESTORE, ABLATE)


def severed_names(program: Program) -> str:
    """The components a program severs, as the table calls them."""
    return _names(program, SEVER)


def _names(program: Program, *verbs: str) -> str:
    found = dict.fromkeys(write.site.component.name for write in program.ordered if write.verb in verbs)
    return "+".join(found) or "none"


def frame_of(parts: list[Columns]) -> pd.DataFrame:
    """One frame from the columns of many cells."""
    lengths = [len(part["prob"]) for part in parts]
    columns: Columns = {}
    for name in (*COLUMNS, *(name for name in parts[0] if name not in COLUMNS)):
        if isinstance(parts[0].get(name), np.ndarray):
            columns[name] = np.concatenate([part[name] for part in parts])
        elif name == "draw":
            columns[name] = np.concatenate([np.arange(length) for length in lengths])
        else:
            columns[name] = np.repeat([part[name] for part in parts], lengths)
    return pd.DataFrame(columns)
