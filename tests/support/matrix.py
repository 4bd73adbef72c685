"""The matrix of architectures: what the tests find of each kind of model, as the package ships it."""

from __future__ import annotations

import re
from functools import cache

from mechinterp import MechinterpError
from mechinterp.models.architectures import PRIMITIVES, YES, Family
from mechinterp.models.layout import COMPONENTS
from mechinterp.patching.exact.serves import serves

from .matrix_editing import editing_figures
from .matrix_patching import patching_cells
from .zoo import FAMILIES, hf_model, small_model


def reason(sentence: str, kind: str, architecture: str) -> str:
    """What a refusal says, without the name of the small model."""
    start = f"small-{kind} ({architecture}) "
    if sentence.startswith((f"{start}cannot serve", f"{start}has no")):
        return sentence.partition(": ")[2]
    plain = sentence.replace(start, "it ").replace(f"layer 1 of this {architecture}", "it")
    plain = plain.replace(f"small-{kind} ({architecture})", "it").partition("; it can be traced")[0]
    return re.sub(r" \(they differ by [^)]*\)| and misses them by .*", "", plain)  # figures that may vary


@cache
def family(kind: str) -> Family:
    """One row of the matrix."""
    try:
        model = small_model(kind)
    except MechinterpError as refusal:
        architecture = type(hf_model(kind)).__name__
        why = reason(str(refusal), kind, architecture)
        return Family(FAMILIES[kind], architecture, {c: dict.fromkeys(PRIMITIVES, why) for c in COMPONENTS}, why, why)
    cells = {
        component: {
            verb: reason(cell.refused, kind, model.architecture) if cell.refused else YES
            for verb in PRIMITIVES
            for cell in [patching_cells(kind)[component, verb]]
        }
        for component in COMPONENTS
    }
    plain = (serves(model) or YES).partition(": ")[0]
    editing = reason(editing_figures(kind).refused, kind, model.architecture) or YES
    return Family(FAMILIES[kind], model.architecture, cells, plain, editing)
